"""How a driver has trials run: what it asks of a launcher, and the launcher of this process. Launchers report
everything as events; the last of an attempt is `end` or `lost`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Protocol

from harness.engine.gpu import lost_context
from harness.events import TaskEvent
from harness.running.stopping import StopRequest
from harness.running.worker import Job, raised, trial_events
from harness.spec import Resources, TrialSpec


class Launcher(Protocol):
    """Runs trials and reports their events."""

    def has_room(self, resources: Resources) -> bool:
        """Whether the cluster as a whole has that much left."""

    def trouble(self) -> str | None:
        """Why no trial can go on, if that is so."""

    def start(self, spec: TrialSpec, resources: Resources, helper: str = "") -> None:
        """Runs one more trial, or a helper of that name for it, whose events have its name for a trial id."""

    def poll(self, timeout: float) -> Iterator[TaskEvent]:
        """The events that came in; waits up to `timeout` seconds for the first."""

    def stop(self) -> None:
        """Asks all trials to save their state and to return."""

    def kill(self, name: str) -> None:
        """Ends a trial's or a helper's process now; its `lost` event follows."""


class SerialLauncher:
    """Runs one trial at a time in this process, with the same events. Past its time limit it stops at its next step."""

    def __init__(
        self, make_job: Callable[[TrialSpec], Job], stop_request: StopRequest, trial_timeout_s: float | None
    ) -> None:
        self._make_job = make_job
        self._stop_request = stop_request
        self._trial_timeout_s = trial_timeout_s
        self._stopping = False
        self._current: tuple[str, Iterator[TaskEvent]] | None = None
        self._deadline = float("inf")
        self._trouble: str | None = None

    def has_room(self, resources: Resources) -> bool:
        return self._current is None

    def trouble(self) -> str | None:
        return self._trouble

    def start(self, spec: TrialSpec, resources: Resources, helper: str = "") -> None:
        assert not helper, "there is never room for one"
        self._deadline = time.monotonic() + (self._trial_timeout_s or float("inf"))
        job = self._make_job(spec.model_copy(update={"resources": resources}))
        self._current = (spec.trial_id, trial_events(job, self._should_stop, "here"))

    def poll(self, timeout: float) -> Iterator[TaskEvent]:
        assert self._current is not None
        name, events = self._current
        try:
            event = next(events, None)
        except SystemExit as error:
            event = raised(name, "method", f"SystemExit: {error}")
        if event is None:
            self._current = None
            event = {"event": "end", "trial_id": name}
        if event["event"] == "error" and (lost := lost_context()):
            self._trouble = f"this process can no longer use its GPU: {lost}"
        yield event

    def stop(self) -> None:
        self._stopping = True

    def kill(self, name: str) -> None:
        """Ends the trial at its next step: this process cannot kill itself."""
        self._deadline = 0.0

    def _should_stop(self) -> bool:
        return self._stopping or self._stop_request.signal_name is not None or time.monotonic() > self._deadline
