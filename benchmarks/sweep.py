"""A suite on all cores, by Ray with one thread a trial, against the same suite one trial after the other with one
thread; and what scheduler and store cost, by trials that only sleep."""

from __future__ import annotations

import os
import tempfile
import time
from collections import defaultdict
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any, cast

import yaml

from benchmarks.measure import Pair, run_python
from benchmarks.sleeping import Start
from harness.api import plan_suite
from harness.events import Event
from harness.running.run import Options, run
from harness.store.store import Store

TRIALS_A_CORE = 4
EPOCHS = 25
SLEEP_S = 2.0
NOTED_TRIAL_S = 60.0  # a trial's length in the target; the overhead is measured on shorter ones


def measure(
    rounds: int, *, epochs: int = EPOCHS, sleep_s: float = SLEEP_S, cores: int | None = None
) -> list[dict[str, Any]]:
    """Two rows: the suite, serially and on Ray, Ray's start included; the overhead of scheduler and store."""
    cores = cores or os.cpu_count() or 1
    return [_suite_row(max(1, rounds - 1), epochs, cores), overhead_row(sleep_s, cores)]


def _suite_row(rounds: int, epochs: int, cores: int) -> dict[str, Any]:
    trials = TRIALS_A_CORE * cores
    with tempfile.TemporaryDirectory() as folder:
        suite = _write_suite(Path(folder), trials, epochs)
        pair, memory = Pair([], []), [0.0, 0.0]
        for number in range(rounds):
            for form, (times, flags) in enumerate(((pair.plain, ["--serial"]), (pair.fast, ["--workers", str(cores)]))):
                store = Path(folder) / f"{number}-{form}"
                times.append(_run_suite(suite, store, flags))
                memory[form] = max(memory[form], Store(store).trials(["peak_memory_mb"])["peak_memory_mb"].max())
    return {
        "what": f"{trials} trials on {cores} cores",
        **pair.columns,
        "plain_trials_per_hour": trials * 3600 / pair.plain_s,
        "fast_trials_per_hour": trials * 3600 / pair.fast_s,
        "plain_mb": memory[0],  # of one process: serially the only one, on Ray the largest worker
        "fast_mb": memory[1],
    }


def _write_suite(folder: Path, trials: int, epochs: int) -> Path:
    """Trials of one length, so that all cores are busy to the end."""
    suite = {
        "name": "sweep",
        "dataset": "digits",
        "student": {"name": "cnn", "width": 16},
        "eps": 0.1,
        "training": {"epochs": epochs, "batch_size": 32, "lr": 0.1},
        "methods": ["at"],
        "seeds": list(range(trials)),
        "evaluation": {"attacks": ["clean", "pgd20"]},
    }
    path = folder / "sweep.yaml"
    path.write_text(yaml.safe_dump(suite))
    return path


def _run_suite(suite: Path, store: Path, flags: list[str]) -> float:
    """Wall seconds of a run in a process of its own, from its start to the last row; without a report."""
    code = (
        "import sys; from pathlib import Path; from harness.api import run_suite;"
        "from harness.running.run import Options;"
        "serial = sys.argv[3] == '--serial';"
        "outcome = run_suite(sys.argv[1], results=Path(sys.argv[2]),"
        " options=Options(serial=serial, workers=None if serial else int(sys.argv[4])));"
        "sys.exit(outcome.exit_code)"
    )
    one = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    return run_python(code, [str(suite), str(store), *flags], one)[0]


# Overhead


@dataclass
class Clock:
    """The times of a run's events, by worker process."""

    began: float = field(default_factory=time.perf_counter)
    launches: dict[int, list[float]] = field(default_factory=lambda: defaultdict(list))
    imports: list[float] = field(default_factory=list)

    def __call__(self, event: Event) -> None:
        if event["event"] == "launch":
            self.launches[event["pid"]].append(time.perf_counter())
        elif event["event"] == "start":
            self.imports.append(cast(Start, event)["torch_import_s"])

    def gaps(self) -> list[float]:
        """Seconds from one launch to the next in the same worker, without each worker's first trial: it is cold."""
        return [later - earlier for times in self.launches.values() for earlier, later in pairwise(times[1:])]


def overhead_row(sleep_s: float, cores: int, trials_a_core: int = 8) -> dict[str, Any]:
    """Scheduler and store, by trials that sleep: seconds a trial with everything warm; and the share of the wall time
    of as many 60-second trials. What is added does not depend on a trial's length, so short ones will do."""
    with tempfile.TemporaryDirectory() as folder:
        suite = _write_suite(Path(folder), cores * trials_a_core, 1)
        planned = plan_suite(str(suite), results=Path(folder) / "store")
        specs = [
            spec.model_copy(update={"method": {**(spec.method or {}), "settings": {"sleep_s": sleep_s}}})
            for spec in planned.specs
        ]
        clock, options = Clock(), Options(workers=cores, run_trial="benchmarks.sleeping:run_trial")
        outcome = run(specs, planned.store, options=options, on_event=clock)
        wall = time.perf_counter() - clock.began
    assert len(outcome.done) == len(specs), outcome
    waves = len(specs) / cores
    added = wall - waves * sleep_s
    return {
        "what": f"{len(specs)} trials that sleep {sleep_s:g} s on {cores} cores",
        "wall_s": wall,
        "start_s": min(min(times) for times in clock.launches.values()) - clock.began,
        "overhead_s_per_trial": median(clock.gaps()) - sleep_s,
        "share_of_60_s_trials": added / (waves * NOTED_TRIAL_S + added),
        "workers": len(clock.launches),
        "torch_imports": sum(seconds > 0 for seconds in clock.imports),
        "torch_import_s": max(clock.imports),
    }
