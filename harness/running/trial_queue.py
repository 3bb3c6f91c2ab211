"""What is left to do: plan against the store, order, and the gate between teachers and students. Free of Ray."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping, Sequence

from harness.spec import TrialSpec


class TrialQueue:
    """The trials of a run, by what can still happen to them.

    A trial is skipped (the store has it), waiting (for its teachers, for a pause to end, or for another trial that
    trains the very same network), live, or settled: done, failed, blocked by a failed teacher, or interrupted.
    """

    def __init__(
        self, specs: Sequence[TrialSpec], statuses: Mapping[str, str], failures: Mapping[str, str] | None = None
    ) -> None:
        """specs: the plan. statuses: what the store holds, by trial id. failures: what not to try again, and why."""
        self.specs = {spec.trial_id: spec for spec in specs}
        self.skipped = [name for name in self.specs if statuses.get(name) == "done"]
        self.done: list[str] = []
        self.failed: dict[str, str] = {}
        self.blocked: dict[str, str] = {}
        self.interrupted: list[str] = []
        self.live: set[str] = set()
        self._needs = {spec.trial_id: frozenset(spec.depends_on) for spec in specs}
        self._available = {name for name, status in statuses.items() if status == "done"}
        self._not_before: dict[str, float] = {}
        self.failed.update({name: reason for name, reason in (failures or {}).items() if name in self.specs})
        settled = {*self.skipped, *self.failed}
        self.waiting = sorted((name for name in self.specs if name not in settled), key=self._priority)
        self._block()

    def ready(self, now: float) -> Iterator[TrialSpec]:
        """Trials that can start at `now` (the clock of `postpone`), most urgent first."""
        training = {self.specs[name].training_id for name in self.live}
        for name in list(self.waiting):
            spec = self.specs[name]
            if (
                self._available >= self._needs[name]
                and self._not_before.get(name, now) <= now
                and spec.training_id not in training  # one working folder, one trial at a time
            ):
                training.add(spec.training_id)
                yield spec

    @property
    def is_open(self) -> bool:
        """Whether anything is live or can still become so."""
        return bool(self.live or self.waiting)

    def start(self, name: str) -> None:
        self.waiting.remove(name)
        self.live.add(name)

    def finish(self, name: str) -> None:
        self.live.discard(name)
        self.done.append(name)
        self._available.add(name)

    def fail(self, name: str, reason: str) -> list[str]:
        """Settles a trial as failed; returns the trials that are blocked by it."""
        self.live.discard(name)
        self.failed[name] = reason
        return self._block()

    def postpone(self, name: str, until: float) -> None:
        """Puts a live trial back, not to start before `until`."""
        self.live.discard(name)
        self._not_before[name] = until
        self.waiting = list(heapq.merge([name], self.waiting, key=self._priority))

    def interrupt(self, name: str) -> None:
        self.live.discard(name)
        self.interrupted.append(name)

    def abandon(self) -> None:
        """Gives up the waiting trials: the run stops before they could start."""
        self.interrupted += self.waiting
        self.waiting = []

    def _priority(self, name: str) -> tuple[bool, float, float]:
        """Teachers first, for their students wait; then the longest, so that no long one is left over at the end."""
        spec = self.specs[name]
        return (spec.role != "teacher", -spec.cost_hint, -spec.resources.gpu)

    def _block(self) -> list[str]:
        """Moves waiting trials that can never start to `blocked`, to the end of every chain; returns them."""
        found: list[str] = []
        while True:
            hopeless = {name: reason for name in self.waiting if (reason := self._obstacle(name))}
            if not hopeless:
                return found
            self.waiting = [name for name in self.waiting if name not in hopeless]
            self.blocked.update(hopeless)
            found.extend(hopeless)

    def _obstacle(self, name: str) -> str | None:
        for source in self._needs[name]:
            if source in self.failed:
                return f"its teacher {source} failed"
            if source in self.blocked:
                return f"its teacher {source} is blocked"
            if source not in self.specs and source not in self._available:
                return f"its teacher {source} is neither in this suite nor in the store"
        return None
