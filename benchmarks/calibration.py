"""What a calibration expects of a trial, and what the trial takes: training and evaluation, in this process."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from benchmarks.measure import seconds
from harness.calibration import Calibration
from harness.run import plan_suite
from harness.spec import TrialSpec
from harness.store import Store
from harness.trial import run_trial
from harness.worker import torch_threads

VARIANTS = ("at", "rslad", "absld")


def measure(rounds: int, epochs: int = 4) -> list[dict[str, Any]]:
    """One row per method; a single run of each, whatever `rounds`."""
    overrides = [f"training.epochs={epochs}", "student.width=16"]
    specs = {spec.variant: spec for spec in plan_suite("quickstart", overrides=overrides).specs}
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder)).prepare()
        _run(next(spec for spec in specs.values() if spec.role == "teacher"), store)
        calibration = Calibration(store)  # reads what is stored now: the teacher alone
        expected = {}
        for variant in VARIANTS:
            with torch_threads(specs[variant].threads):
                expected[variant] = calibration.estimate(specs[variant]).total_s
        return [_row(specs[variant], store, expected[variant]) for variant in VARIANTS]


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
