"""Spare room goes to evaluations under way: helpers are tasks that compute pieces of a trial's evaluation beside it.

The trial needs nothing of them (`harness.evaluation.evaluate`), so whatever happens to one is no event of the trial,
and one can be ended at any time.
"""

from __future__ import annotations

import itertools
import time
from dataclasses import dataclass, field

from harness.events import OnEvent, TaskEvent
from harness.running.launchers import Launcher
from harness.spec import Resources, TrialSpec

HELP_AFTER_S = 10.0  # a helper takes seconds to start; a short evaluation is over by then
MAX_FAILURES = 3  # of one trial's helpers; then it goes on alone


@dataclass
class Team:
    """A trial in its evaluation and its helpers. left: pieces that nobody has claimed. since: on the monotonic
    clock."""

    spec: TrialSpec
    resources: Resources
    left: int
    since: float
    members: set[str] = field(default_factory=set)
    failures: int = 0


class Helpers:
    """The helpers of all trials of a run. on_event is told of what happens to them."""

    def __init__(self, launcher: Launcher, on_event: OnEvent) -> None:
        self._launcher, self._on_event = launcher, on_event
        self._teams: dict[str, Team] = {}
        self._live: dict[str, Team] = {}
        self._numbers = itertools.count(1)

    def __len__(self) -> int:
        """How many are live, those included that were dismissed and have not ended yet."""
        return len(self._live)

    def expect(self, spec: TrialSpec, resources: Resources, left: int) -> None:
        """A trial said how many pieces of its evaluation nobody has claimed."""
        team = self._teams.setdefault(spec.trial_id, Team(spec, resources, left, time.monotonic()))
        team.left = left

    def note(self, event: TaskEvent) -> bool:
        """Takes an event of a helper; whether that was its last. Events of others are passed over."""
        name, kind = event["trial_id"], event["event"]
        team = self._live.get(name)
        if team is None:
            return False
        self._on_event({"event": "helper", "trial_id": team.spec.trial_id, "helper": name, "what": kind})
        if event["event"] == "helped":
            team.left = event["left"]
        elif name in team.members and kind in ("error", "lost"):
            team.failures += 1
            team.members.remove(name)
        elif name in team.members and kind == "end":
            team.left = 0  # there was nothing more to claim
            team.members.remove(name)
        if kind in ("end", "lost"):
            del self._live[name]
            return True
        return False

    def launch(self, most: float) -> None:
        """Starts helpers where there is room and work for them, `most` at most."""
        for team in self._teams.values():
            while most >= 1 and self._wanted(team) and self._launcher.has_room(team.resources):
                name = f"{team.spec.trial_id}+{next(self._numbers)}"
                self._launcher.start(team.spec, team.resources, name)
                team.members.add(name)
                self._live[name] = team
                most -= 1

    def dismiss(self, trial_id: str) -> None:
        """Ends the helpers of a trial: its attempt is over."""
        team = self._teams.pop(trial_id, None)
        if team is not None:
            self._end(team)

    def dismiss_all(self) -> None:
        """Ends every helper; trials that are still in their evaluation may get new ones."""
        for team in self._teams.values():
            self._end(team)

    def _end(self, team: Team) -> None:
        for name in team.members:
            self._launcher.kill(name)
        team.members.clear()

    @staticmethod
    def _wanted(team: Team) -> bool:
        ripe = time.monotonic() - team.since >= HELP_AFTER_S
        return ripe and len(team.members) < team.left and team.failures < MAX_FAILURES
