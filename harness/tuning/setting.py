"""One setting of a search: its seeds trained side by side, an epoch each in turn, and reported as one. Free of Ray.

Epochs that an earlier attempt left behind are reported again at once, from the store or the working folder, before any
are computed: so a scheduler that has forgotten everything sees the same curve, and nothing is trained twice.
"""

from __future__ import annotations

import fcntl
import math
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pickle import UnpicklingError
from typing import Any, Literal

import numpy as np
import pandas as pd

from harness.engine.process import torch_threads
from harness.errors import MACHINE_FAULTS
from harness.report.tuning import with_metric
from harness.running.worker import Workplace, fault, load_plugins
from harness.spec import TrialSpec
from harness.store.provenance import training_columns, trial_columns
from harness.store.store import Store
from harness.store.work import WorkingFolder
from harness.training.state import read_training_state
from harness.trial import check_code, run_trial
from harness.tuning.journal import Entry, Report
from harness.tuning.method import SearchedMethod, validation_counts
from harness.tuning.options import COLUMNS
from harness.tuning.space import Setting

Row = Mapping[str, Any]
NOTHING: Mapping[str, Any] = {"epochs": [], "class_state": []}
# What a searcher is told of a setting that failed or whose metric is undefined: worse than any real one, and finite.
WORST = {"max": -1e9, "min": 1e9}


@dataclass(frozen=True)
class SettingJob:
    """All that a worker needs to know to run any setting of a search.

    until: the epoch at which a setting ends, its last or one after which settings are cut. settled: the journal's
    entries of what earlier drivers of this search have decided, by the setting's key.
    """

    workplace: Workplace
    searched: Mapping[str, SearchedMethod]
    until: int
    metric: str
    mode: Literal["max", "min"]
    tuning_id: str
    settled: Mapping[str, Entry] = field(default_factory=dict)

    @property
    def columns(self) -> dict[str, str]:
        """What the `trials` table has of the search itself."""
        return {"tuning_id": self.tuning_id, "command": self.workplace.command}


def setting_reports(
    job: SettingJob, setting: Setting, should_stop: Callable[[], bool] | None = None
) -> Iterator[Report]:
    """A report per epoch until the job's; the last epoch's once everything is stored. Ends early where told to stop.

    A seed that raises is stored as failed and reported; what is the machine's fault is raised, and nothing is stored.
    """
    root = job.workplace.store_root
    load_plugins(job.workplace.plugins)
    stop = should_stop or job.workplace.stop_signal
    settled = job.settled.get(setting.key)
    if settled and settled["status"] == "failed":
        yield {"epoch": 0, "objective": WORST[job.mode], "failed": settled["reason"], "kind": "method", "reused": 0}
        return
    method = job.searched[setting.method]
    check_code(method.bases[0])  # the setting's own trials get the code of this process
    last = settled["epochs"] if settled and settled["status"] == "stopped" else job.until
    specs = method.specs(setting.values)
    folder = WorkingFolder(root, specs[0].training_id)
    with torch_threads(specs[0].threads), _alone(folder):
        seeds, epoch, reused = [_Seed(job, spec, stop) for spec in specs], 0, 0
        try:
            for seed in seeds:
                seed.look()
                reused += min(len(seed.rows), last)
            for epoch in range(1, last + 1):
                for seed in seeds:
                    if not seed.reach(epoch) or (epoch == method.epochs and not seed.finish()):
                        return
                yield {"epoch": epoch, "reused": reused, **summary(job, seeds, epoch)}
        except Exception as error:
            if not root.is_dir():
                return  # moved or deleted: the driver says so
            if fault(error, specs[0]) in MACHINE_FAULTS:
                raise  # nothing is known of the setting: another process may do
            yield {"epoch": epoch, "reused": reused, "objective": WORST[job.mode], **_failure(job, seeds, seed, error)}


def summary(job: SettingJob, seeds: Sequence[_Seed], epoch: int) -> Report:
    """What a search is told after an epoch: each metric at the checkpoint that would be kept, mean over seeds."""
    kept = [kept_row(seed.rows[:epoch]) for seed in seeds]
    means = {name: float(np.mean([row[name] for row in kept])) for name in COLUMNS}
    values = [seed.value(job.metric, row) for seed, row in zip(seeds, kept, strict=True)]
    means[job.metric] = float(np.mean(values))
    by_seed = {f"seed_{seed.spec.seed}": value for seed, value in zip(seeds, values, strict=True)}
    mean = means[job.metric]
    return {"metrics": means, "by_seed": by_seed, "objective": mean if math.isfinite(mean) else WORST[job.mode]}


def kept_row(rows: Sequence[Row]) -> Row:
    """The epoch whose weights training would keep so far: the best selection score, the later one of equals."""
    best = rows[0]
    for row in rows[1:]:
        if not row["selection_score"] < best["selection_score"]:
            best = row
    return best


class _Seed:
    """One trial of the setting: the epochs it has, and the generator that makes more."""

    def __init__(self, job: SettingJob, spec: TrialSpec, should_stop: Callable[[], bool]) -> None:
        self.spec = spec
        self.done = False
        self.rows: list[Row] = []
        self._classes: dict[int, pd.DataFrame] = {}  # by the epoch that was last asked for
        self._store_root = job.workplace.store_root
        self._events = run_trial(
            spec, self._store_root, **job.workplace.data, should_stop=should_stop, columns=job.columns
        )

    def look(self) -> None:
        """What is there already."""
        store, folder = Store(self._store_root, begun=True), WorkingFolder(self._store_root, self.spec.training_id)
        self.done = store.has(self.spec.trial_id)
        self.rows = stored_rows(store, self.spec.trial_id) if self.done else list(history(folder)["epochs"])

    def reach(self, epoch: int) -> bool:
        """Train until that many epochs are there; False if told to stop before."""
        while len(self.rows) < epoch:
            event = next(self._events)
            if event["event"] == "epoch":
                self.rows.append(event)
            elif event["event"] == "interrupted":
                return False
        return True

    def value(self, metric: str, row: Row) -> float:
        """The metric at an epoch of its own, given that epoch's row."""
        if metric in row:
            return float(row[metric])
        epochs = pd.DataFrame([{"trial_id": self.spec.trial_id, "epoch": row["epoch"]}])
        if row["epoch"] not in self._classes:
            self._classes = {row["epoch"]: self._class_state()}
        measured = with_metric(epochs, self._classes[row["epoch"]], metric, validation_counts(self.spec))
        return float(measured[metric].iloc[0])

    def _class_state(self) -> pd.DataFrame:
        """Its rows of `class_state` so far."""
        if self.done:
            return Store(self._store_root, begun=True).read("class_state", [self.spec.trial_id])
        folder = WorkingFolder(self._store_root, self.spec.training_id)
        return pd.DataFrame(history(folder)["class_state"]).assign(trial_id=self.spec.trial_id)

    def finish(self) -> bool:
        """Store the trial as done; False if told to stop before."""
        if not self.done:
            self.done = "done" in [event["event"] for event in self._events]
        return self.done


def stored_rows(store: Store, trial_id: str) -> list[Row]:
    """The epochs that the store holds of a trial, in order."""
    frame = store.read("epochs", [trial_id]).sort_values("epoch")
    return [{str(key): value for key, value in row.items()} for row in frame.to_dict("records")]


def history(folder: WorkingFolder) -> Mapping[str, Any]:
    """The rows of `epochs` and `class_state` that a training has left in its folder, finished or not."""
    finished = folder.history()
    if finished is not None:
        return finished
    with suppress(FileNotFoundError, ValueError):  # none, or a damaged one
        state = read_training_state(folder.state)
        known = {
            name: state[name]
            for name in ("origins", "teacher_sha256", "init_sha256", "peak_memory_mb", "peak_reserved_mb")
            if name in state
        }
        return {**state["history"], **known, "train_s": state["seconds"], "train_cpu_s": state.get("cpu_seconds")}
    return NOTHING


def commit_unfinished(
    store: Store,
    spec: TrialSpec,
    status: str,
    *,
    tuning_id: str,
    command: str,
    reason: str | None = None,
    error: str | None = None,
) -> None:
    """Store a trial that did not reach its end (`stopped`, `failed`) with the epochs it has; its state stays, so that
    it can be gone on with. A done trial is left as it is."""
    try:
        found = history(WorkingFolder(store.root, spec.training_id))
    except (RuntimeError, ValueError, KeyError, EOFError, UnpicklingError):  # a damaged state may be what made it fail
        found = NOTHING
    row = {
        **trial_columns(spec),
        "train_images": spec.dataset.train_images,
        "attempts": 1,
        "status": status,
        "stop_reason": reason,
        "error": error,
        "tuning_id": tuning_id,
        "command": command,
        **training_columns(found),
        "finished": time.time(),
    }
    store.commit(row, {name: pd.DataFrame(found[name]) for name in ("epochs", "class_state")})


def _failure(job: SettingJob, seeds: Sequence[_Seed], failed: _Seed, error: Exception) -> Report:
    """Store the failed seed with its traceback and the others as stopped; a full disk is not their failure."""
    kind, text = fault(error, failed.spec), " ".join(f"{type(error).__name__}: {error}".split())
    reason = f"seed {failed.spec.seed}: {text}"
    if kind != "disk":
        store = Store(job.workplace.store_root, begun=True)
        trace = f"{text}\n\n{traceback.format_exc()}"
        commit_unfinished(store, failed.spec, "failed", error=trace, **job.columns)
        for seed in seeds:
            if seed is not failed and not seed.done:
                commit_unfinished(store, seed.spec, "stopped", reason=f"{reason} (failed)"[:300], **job.columns)
    return {"failed": reason, "kind": kind}


@contextmanager
def _alone(folder: WorkingFolder) -> Iterator[None]:
    """One worker at a time on a setting that a searcher proposes twice. The lock is the kernel's: it falls with its
    process."""
    with open(folder.make().lock, "a") as file:
        with suppress(OSError):  # a file system without locks
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
