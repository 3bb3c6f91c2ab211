"""The loop that carries a plan to its end: starts what is ready, follows the trials' events, and decides about errors.

It knows nothing of Ray: a launcher (`harness.running.launchers`) runs the trials, in this process or on a cluster, and
reports what happens as events.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from harness.errors import MACHINE_FAULTS, Kind
from harness.events import Error, OnEvent, TaskEvent
from harness.running.failures import MAX_BARREN_ATTEMPTS, decide, disk_full, folder_gone, stopping
from harness.running.helpers import Helpers
from harness.running.launchers import Launcher
from harness.running.stopping import GRACE_S, StopRequest
from harness.running.trial_queue import TrialQueue
from harness.spec import Resources, TrialSpec
from harness.store.provenance import command, trial_columns
from harness.store.store import Store

_POLL_S = 0.25
_PAUSE_S = 0.05
_STARVED_AFTER_S = 30.0


@dataclass
class Attempt:
    """What the driver knows of one attempt at a trial."""

    spec: TrialSpec
    resources: Resources
    launched: float | None = None  # on the monotonic clock
    started: float | None = None  # seconds since 1970
    done: bool = False
    error: Error | None = None
    lost: str | None = None
    timed_out: bool = False


@dataclass
class Driver:
    """One run over a queue of trials. `stop_reason` tells why it ended early, if it did."""

    queue: TrialQueue
    launcher: Launcher
    store: Store
    on_event: OnEvent
    stop_request: StopRequest
    lost_store: Callable[[], bool] = lambda: False
    workers: int | None = None
    trial_timeout_s: float | None = None
    stop_reason: str | None = None
    _attempts: dict[str, Attempt] = field(default_factory=dict)
    _starts: dict[str, int] = field(default_factory=dict)
    _whole_gpu: set[str] = field(default_factory=set)
    _progress: dict[str, set[tuple[object, ...]]] = field(default_factory=dict)
    _kill_at: float | None = None
    _submit_at: float = 0.0  # looking through thousands of trials at every event would be all that the driver does
    _idle_since: float | None = None

    def __post_init__(self) -> None:
        self.helpers = Helpers(self.launcher, self.on_event)

    def run(self) -> None:
        """Returns when every trial is settled, or when the run was stopped and no trial is left running."""
        try:
            while self.queue.is_open:
                self._heed_stop()
                if time.monotonic() >= self._submit_at:
                    self._submit()
                self._follow()
                self._enforce_time_limit()
            self._see_helpers_off()
        except KeyboardInterrupt:  # the second signal
            self.stop_reason = self.stop_reason or self.stop_request.signal_name or "SIGINT"
            self.queue.abandon()
            self._kill_all()
            for name in list(self.queue.live):  # one that the signal caught between two states
                self.queue.interrupt(name)

    # Starting

    def _submit(self) -> None:
        now = time.monotonic()
        self._submit_at = now + _POLL_S
        refused: list[Resources] = []  # few kinds of requests in thousands of trials: each is asked about once
        for spec in self.queue.ready(now):
            resources = self._resources(spec)
            if resources in refused:
                continue
            if self._places() < 1 or not self.launcher.has_room(resources):
                refused.append(resources)  # smaller ones behind it may still fit
                continue
            self.queue.start(spec.trial_id)
            self._attempts[spec.trial_id] = Attempt(spec, resources)
            self.launcher.start(spec, resources)
        if refused:
            self.helpers.dismiss_all()  # trials go first
        elif self.stop_reason is None:
            self.helpers.launch(self._places())
        self._complain_if_starved(bool(refused), now)

    def _places(self) -> float:
        """How many more tasks `workers` allows."""
        return float("inf") if self.workers is None else self.workers - len(self._attempts) - len(self.helpers)

    def _resources(self, spec: TrialSpec) -> Resources:
        if spec.trial_id in self._whole_gpu:
            return spec.resources.model_copy(update={"gpu": 1.0})
        return spec.resources

    def _complain_if_starved(self, short: bool, now: float) -> None:
        """A node that was there at the start may be gone for good: say so rather than wait in silence."""
        if not short or self._attempts:
            self._idle_since = None
        elif self._idle_since is None:
            self._idle_since = now
        elif now - self._idle_since > _STARVED_AFTER_S:
            self._idle_since = now
            self.on_event({"event": "starved", "waiting": len(self.queue.waiting)})

    # Following

    def _follow(self) -> None:
        if not self._attempts and not self.helpers:
            time.sleep(_PAUSE_S)  # every trial that is left pauses, or waits for a node
            return
        for event in self.launcher.poll(_POLL_S):
            attempt = self._attempts.get(event["trial_id"])
            if attempt is not None:
                self._note(attempt, event)
            elif self.helpers.note(event):
                self._submit_at = 0.0  # there is room

    def _see_helpers_off(self) -> None:
        """Waits until those are gone whose trial was the last: nobody writes to the store once the run is over."""
        end = time.monotonic() + GRACE_S
        while self.helpers and time.monotonic() < end:
            self._follow()

    def _note(self, attempt: Attempt, event: TaskEvent) -> None:
        name = attempt.spec.trial_id
        match event["event"]:
            case "launch":
                attempt.launched, attempt.started = time.monotonic(), time.time()
                self._count_start(name)
            case "epoch":
                self._note_progress(name, (event["epoch"],))
            case "evaluation":
                self.helpers.expect(attempt.spec, attempt.resources, event["left"])
            case "attack":
                self._note_progress(name, (event["checkpoint"], event["attack"], event["chunk"]))
                self.helpers.expect(attempt.spec, attempt.resources, event["left"])
            case "done":
                attempt.done = True
            case "error":
                attempt.error = event
            case "lost":
                attempt.lost = event["error"]
        if event["event"] in ("end", "lost"):
            self._settle(self._attempts.pop(name))
            self._submit_at = 0.0
        else:
            self.on_event(event)

    def _note_progress(self, name: str, step: tuple[object, ...]) -> None:
        """Progress clears the count of fruitless attempts; a step that was already reported once is none."""
        seen = self._progress.setdefault(name, set())
        if step not in seen:
            seen.add(step)
            self._guarded(lambda: self.store.reset_attempts(name))

    def _count_start(self, name: str) -> None:
        self._starts[name] = self._starts.get(name, 0) + 1
        self._guarded(lambda: self.store.record_attempt(name))

    # Settling

    def _settle(self, attempt: Attempt) -> None:
        name = attempt.spec.trial_id
        self.helpers.dismiss(name)
        if not attempt.done and attempt.lost is not None and self.store.has(name):
            attempt.done = True  # it died between storing its rows and saying so
            self.on_event({"event": "done", "trial_id": name})
        if attempt.done:
            self.queue.finish(name)
            self._guarded(lambda: self.store.reset_attempts(name))
        elif not self.store.root.is_dir():
            self._interrupt(attempt)
        elif attempt.error is not None and not attempt.timed_out:
            self._judge(attempt, attempt.error["kind"], attempt.error["error"], attempt.error["traceback"])
        elif self.stop_reason is not None:
            self._interrupt(attempt)
        elif self._is_overdue(attempt):
            self._fail(attempt, "timeout", f"stopped after {self.trial_timeout_s:g} s, the time limit per trial", None)
        else:
            self._judge(attempt, "infrastructure", attempt.lost or "the trial ended without a result", None)

    def _judge(self, attempt: Attempt, kind: Kind, error: str, trace: str | None) -> None:
        name = attempt.spec.trial_id
        if kind in MACHINE_FAULTS and attempt.launched is None:
            self._count_start(name)  # died before its first sign of life
        whole = name in self._whole_gpu
        decision = decide(kind, barren=self.store.attempts(name), gpu=attempt.resources.gpu, had_whole_gpu=whole)
        if decision.action == "fail":
            if kind in MACHINE_FAULTS:
                error = f"{MAX_BARREN_ATTEMPTS} attempts in a row ended before an epoch was finished; the last: {error}"
            self._fail(attempt, kind, error, trace)
        elif decision.action == "stop" or self.stop_reason is not None:
            self._interrupt(attempt)
            if decision.action == "stop":
                self._begin_stop(disk_full(error))
        else:
            if decision.action == "retry_whole_gpu":
                self._whole_gpu.add(name)
            self.queue.postpone(name, time.monotonic() + decision.pause_s)
            self.on_event(
                {"event": "retry", "trial_id": name, "error": error, "kind": kind, "pause_s": decision.pause_s}
            )

    def _fail(self, attempt: Attempt, kind: Kind, error: str, trace: str | None) -> None:
        name = attempt.spec.trial_id
        self._store_row(attempt, "failed", error + (f"\n\n{trace}" if trace else ""))
        blocked = self.queue.fail(name, error)
        self.on_event({"event": "failed", "trial_id": name, "error": error})
        for other in blocked:
            self.on_event({"event": "blocked", "trial_id": other, "error": self.queue.blocked[other]})

    def _interrupt(self, attempt: Attempt) -> None:
        name = attempt.spec.trial_id
        self.queue.interrupt(name)
        if attempt.launched is not None:
            self._store_row(attempt, "interrupted", None)
            self._guarded(lambda: self.store.reset_attempts(name))  # the user's doing, not the trial's
        self.on_event({"event": "interrupted", "trial_id": name})

    def _store_row(self, attempt: Attempt, status: str, error: str | None) -> None:
        spec = attempt.spec
        row = {
            **trial_columns(spec),
            "train_images": spec.dataset.train_images,
            "attempts": max(self._starts.get(spec.trial_id, 0), self.store.attempts(spec.trial_id)),
            "status": status,
            "error": error,
            "command": command(),
            "started": attempt.started,
            "finished": time.time(),
        }
        self._guarded(lambda: self.store.commit(row))

    def _guarded(self, write: Callable[[], object]) -> None:
        with stopping(self._begin_stop, self.store.root):
            write()

    # Stopping

    def _heed_stop(self) -> None:
        if self.stop_request.signal_name is not None:
            self._begin_stop(self.stop_request.signal_name)
        if not self.store.root.is_dir():
            self._begin_stop(folder_gone(self.store.root))
        elif self.lost_store():
            self._begin_stop("another driver has taken the store over")
        elif trouble := self.launcher.trouble():
            self._begin_stop(trouble)
        if self._kill_at is not None and time.monotonic() > self._kill_at:
            self._kill_all()

    def _begin_stop(self, reason: str) -> None:
        if self.stop_reason is not None:
            return
        self.stop_reason = reason
        self._kill_at = time.monotonic() + GRACE_S
        self.queue.abandon()
        self.on_event({"event": "stopping", "reason": reason, "live": len(self._attempts), "grace_s": GRACE_S})
        self.launcher.stop()
        self.helpers.dismiss_all()
        for name, attempt in self._attempts.items():
            if attempt.launched is None:
                self.launcher.kill(name)

    def _kill_all(self) -> None:
        self.helpers.dismiss_all()
        for name in self._attempts:
            self.launcher.kill(name)
        for attempt in self._attempts.values():
            if attempt.done:
                self.queue.finish(attempt.spec.trial_id)
            else:
                self._interrupt(attempt)
        self._attempts.clear()

    def _is_overdue(self, attempt: Attempt) -> bool:
        if self.trial_timeout_s is None or attempt.launched is None:
            return False
        return time.monotonic() - attempt.launched > self.trial_timeout_s

    def _enforce_time_limit(self) -> None:
        for name, attempt in self._attempts.items():
            if not attempt.timed_out and self._is_overdue(attempt):
                attempt.timed_out = True
                self.launcher.kill(name)
