"""What a calibration expects of a trial, and what the trial takes: training and evaluation, in this process."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from benchmarks.measure import seconds
from harness.api import plan_suite
from harness.calibration import Calibration
from harness.engine.process import torch_threads
from harness.spec import TrialSpec
from harness.store.store import Store
from harness.trial import run_trial

VARIANTS = ("at", "rslad", "absld")


def measure(rounds: int, epochs: int | None = None) -> list[dict[str, Any]]:
    """One row per method and their sum; a single run of each, whatever `rounds`. epochs: the suite's by default."""
    overrides = ["student.width=16", *([f"training.epochs={epochs}"] if epochs else [])]
    specs = {spec.variant: spec for spec in plan_suite("quickstart", overrides=overrides).specs}
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder)).prepare()
        _run(next(spec for spec in specs.values() if spec.role == "teacher"), store)
        calibration = Calibration(store)  # reads what is stored now: the teacher alone
        expected = {}
        for variant in VARIANTS:
            with torch_threads(specs[variant].threads):
                expected[variant] = calibration.estimate(specs[variant]).total_s
        rows = [_row(specs[variant], store, expected[variant]) for variant in VARIANTS]
    total = {name: sum(row[name] for row in rows) for name in ("expected_s", "taken_s")}
    error = total["expected_s"] / total["taken_s"] - 1
    return [*rows, {"method": "total", "threads": rows[0]["threads"], **total, "error": error}]


def _row(spec: TrialSpec, store: Store, expected: float) -> dict[str, Any]:
    taken = seconds(lambda: _run(spec, store))
    return {
        "method": spec.variant,
        "threads": spec.threads,
        "expected_s": expected,
        "taken_s": taken,
        "error": expected / taken - 1,
    }


def _run(spec: TrialSpec, store: Store) -> None:
    with torch_threads(spec.threads):
        for _ in run_trial(spec, store.root):
            pass
