"""The driver's side of a search: keeps the journal, stores what was stopped, and heeds signals. Free of Ray."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from harness.running.failures import disk_full, folder_gone, stopping
from harness.running.scalars import Scalars
from harness.running.stopping import GRACE_S, RunControl, StopRequest
from harness.store.provenance import command
from harness.store.work import WorkingFolder
from harness.tuning.halving import survivors
from harness.tuning.journal import SETTLED, Entry, Journal, Report, Status, line, setting_of
from harness.tuning.plan import TuningPlan, proposed
from harness.tuning.setting import commit_unfinished

Say = Callable[[str], None]


@dataclass
class _Live:
    """A setting that runs. known: it is replayed for the scheduler and the searcher; what was decided stands."""

    entry: Entry
    known: bool
    report: Report = field(default_factory=lambda: Report())


class Listener:
    """What Ray Tune tells of a search, and what the search does about it."""

    def __init__(
        self, tuning: TuningPlan, journal: Journal, lost: Callable[[], bool], say: Say, scalars: Scalars | None
    ) -> None:
        self.tuning, self.journal = tuning, journal
        self.until = tuning.epochs  # where the settings that run now end
        self.stop_reason: str | None = None
        self._lost, self._say, self._scalars = lost, say, scalars
        self._live: dict[str, _Live] = {}  # by Ray's id
        self._awaited: set[str] = set()
        self._end_at = float("inf")

    def heed(self, request: StopRequest, control: RunControl, trouble: Callable[[], str | None] = lambda: None) -> None:
        """From now on: where signals arrive, how workers are told, and who says why no setting can go on."""
        self._request, self.control, self._trouble = request, control, trouble

    def save(self) -> None:
        """The journal as it stands."""
        self._guarded(self.journal.save)

    def _is_gone(self) -> bool:
        """Whether the results folder was moved or deleted. Ray makes it anew at once for files of its own, but not the
        journal."""
        return not self.journal.path.exists()

    def _guarded(self, write: Callable[[], object]) -> None:
        with stopping(self._begin_stop, self.tuning.store.root):
            if not self._is_gone():
                write()

    def _settle(self, entry: Entry, status: Status, reason: str | None) -> None:
        self._guarded(lambda: self.journal.settle(entry, status, reason))

    def started(self, name: str, config: dict[str, Any]) -> None:
        entry = self.journal.entry(proposed(config, self.tuning.searched))
        self._live.setdefault(name, _Live(entry, known=entry["status"] in SETTLED))
        self.save()

    def reported(self, name: str, report: Report) -> None:
        live = self._live[name]
        if "interrupted" in report:
            return
        live.report = report
        told = len(live.entry["curve"])  # a setting that goes on tells its first epochs again
        self.journal.note(live.entry, report)
        self.save()
        if report.get("kind") == "disk":
            self._begin_stop(disk_full(str(report["failed"])))
        if self._scalars is not None and "failed" not in report and report["epoch"] > told:
            self._write_scalars(self._scalars, live.entry, report)

    def ended(self, name: str, crash: str | None = None) -> None:
        """A setting is over: at its end, by the scheduler's decision, by an error, or because the search is."""
        live = self._live.pop(name, None)
        self._awaited.discard(name)
        if live is None:
            return
        entry, report = live.entry, live.report
        if live.known:
            return
        if crash is not None and self.stop_reason is None:
            self._store(entry, "failed", error=crash)
            self._settle(entry, "failed", crash.splitlines()[0])
        elif "failed" in report and report["kind"] != "disk":
            self._settle(entry, "failed", report["failed"])
        elif entry["epochs"] == self.tuning.epochs:
            self._settle(entry, "done", None)
        elif entry["epochs"] == self.until and self.stop_reason is None:  # the cut decides, once all are there
            return
        elif self.stop_reason is not None or not report:
            self._store(entry, "interrupted")
            return
        else:
            self._stop(entry)
        self._tell(entry)

    def unfit(self, name: str, error: str) -> None:
        """A setting met nothing but processes that could not run it: it stays open, and the search ends, as no cut is
        made before all are there."""
        self._begin_stop(f"{error}; mend it and run again")
        self.ended(name)

    def cut(self, rung: int) -> None:
        """Stop the settings that do not go on from a rung, method by method. The same scores, the same cut: taking it
        again after an interruption changes nothing."""
        for name, count in self.tuning.tries.items():
            entries = {setting_of(entry).key: entry for entry in self.journal.first({name: count})}
            curves = {key: entry["curve"] for key, entry in entries.items() if entry["status"] != "failed"}
            kept = survivors(curves, rung, self.tuning.options.direction)
            for key, entry in entries.items():
                if key not in kept and entry["status"] == "open":
                    self._stop(entry)
                    self._tell(entry)

    def should_end(self) -> bool:
        """Whether Ray Tune shall return now. Asked several times a second. KeyboardInterrupt where Ray itself is lost:
        it passes Ray Tune's own clean-up, which would wait for ever."""
        if self._request.signal_name is not None:
            self._begin_stop(self._request.signal_name)
        if self._is_gone():
            self._begin_stop(folder_gone(self.tuning.store.root))
        if self._lost():
            self._begin_stop("another driver has taken the store over")
        if trouble := self._trouble():
            self._begin_stop(trouble)
            time.sleep(GRACE_S)  # the workers read it in a file; that they have saved their states nobody can tell
            raise KeyboardInterrupt
        return self.stop_reason is not None and (not self._awaited or time.monotonic() > self._end_at)

    def _begin_stop(self, reason: str) -> None:
        if self.stop_reason is None:
            self.stop_reason = reason
            self._awaited, self._end_at = set(self._live), time.monotonic() + GRACE_S
            self.control.stop()

    def _stop(self, entry: Entry) -> None:
        reason = f"{self.tuning.options.scheduler} after epoch {entry['epochs']}"
        self._store(entry, "stopped", reason=reason)
        self._settle(entry, "stopped", reason)

    def _store(self, entry: Entry, status: str, **columns: str) -> None:
        store = self.tuning.store
        for spec in self.tuning.specs(setting_of(entry)):
            begun = WorkingFolder(store.root, spec.training_id).path.exists()
            if not store.has(spec.trial_id) and (begun or status == "failed"):
                row = {"tuning_id": self.tuning.tuning_id, "command": command(), **columns}
                self._guarded(partial(commit_unfinished, store, spec, status, **row))

    def _tell(self, entry: Entry) -> None:
        place = sum(other["status"] in SETTLED for other in self.journal.entries)
        count, metric = sum(self.tuning.tries.values()), self.tuning.options.metric
        self._say(line(entry, place, count, metric, self.tuning.epochs))

    def _write_scalars(self, scalars: Scalars, entry: Entry, report: Report) -> None:
        """A run per setting."""
        name = f"{self.tuning.tuning_id}-{self.journal.entries.index(entry):03d}"
        values = {**report, **report.get("metrics", {}), **report.get("by_seed", {})}
        scalars.add(name, report["epoch"], values, str(setting_of(entry)))
