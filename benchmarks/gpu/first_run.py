"""A small study on the given images: a teacher and three methods, one interrupted, and the table that comes of it."""

from __future__ import annotations

import signal
import tempfile
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks.gpu.check import NotRun, Setting, Threshold, Work
from benchmarks.gpu.suites import planned
from harness.data.registry import own_name
from harness.report.results import read_results
from harness.report.scores.leaderboard import leaderboard
from harness.report.write import Form, write_report
from harness.running.run import Options, run
from harness.store.store import Store
from harness.suites.blocks import own_data

METHODS, EPOCHS = ("at", "rslad", "absld"), 10
INTERRUPTED, AFTER = "rslad", 3  # epochs
LAST = 3  # epochs, in which a curve is on its plateau
FULL: dict[str, Any] = {
    "student": "resnet18",
    "teacher": {"model": "resnet18", "method": "at"},
    "precision": "bfloat16",
    "training": {"epochs": EPOCHS, "batch_size": 128, "lr": 0.1, "milestones": [0.5, 0.7]},
    "evaluation": {"attacks": ["clean", {"name": "pgd20", "images": 1000}]},
}
TINY: dict[str, Any] = {
    "dataset": {"name": "digits", "train_images": 300, "test_images": 60},
    "student": {"name": "resnet18", "width": 4},
    "teacher": {"model": {"name": "resnet18", "width": 4}, "method": "at"},
    "training": {
        "epochs": EPOCHS, "batch_size": 50, "lr": 0.1, "milestones": [0.5, 0.7], "attack_steps": 2,
        "validation_steps": 2,
    },
    "evaluation": {"attacks": ["clean", "pgd20"]},
}  # fmt: skip


def first_run(setting: Setting) -> list[Work]:
    """One work: four trainings of ten epochs."""
    trials = 1 + len(METHODS)
    lines = {
        "trials that are done": Threshold("==", trials),
        "first epoch of the interrupted one when it goes on": Threshold("==", AFTER + 1),
        "epochs in the store": Threshold("==", trials * EPOCHS),
        "plateau: part of the loss's fall that is in the last three epochs": Threshold("<=", 0.15),
        "least robust accuracy on held-out images, times chance": Threshold(">=", 2.0),
        "methods with PGD-20 in the table": Threshold("==", len(METHODS)),
    }

    def measure() -> dict[str, Any]:
        with tempfile.TemporaryDirectory() as folder:
            store = Store(Path(folder))
            went_on = _run_twice(setting, store)
            curves = store.read("epochs", columns=["epoch", "loss", "val_robust_avg"])
            done = int((store.trials(["status"])["status"] == "done").sum())
            classes = store.read("class_accuracy", columns=["class_index"])["class_index"].nunique()
            rows = _table(store, setting.folder)
        found = (done, went_on, len(curves), falling(curves), least_robust(curves) * classes, rows)
        return dict(zip(lines, found, strict=True))

    return [Work(lines, measure)]


def _run_twice(setting: Setting, store: Store) -> int:
    """The whole study, with an interruption as by Ctrl-C; the epoch with which the interrupted training goes on."""
    suite, root = _given(setting)
    specs = planned(setting, 1, methods=list(METHODS), **suite)
    (victim,) = (spec.trial_id for spec in specs if spec.variant == INTERRUPTED)
    epochs: list[int] = []

    def watch(event: Any) -> None:
        if event["event"] == "epoch" and event["trial_id"] == victim:
            epochs.append(event["epoch"])
            if len(epochs) == AFTER:
                signal.raise_signal(signal.SIGINT)

    options = Options(serial=True, data_root=root)
    run(specs, store, options=options, on_event=watch)
    before = len(epochs)
    run(specs, store, options=options, on_event=watch)
    return epochs[before]


def _given(setting: Setting) -> tuple[dict[str, Any], Path | None]:
    """The suite's keys, and the data directory if the images are CIFAR-10's own files."""
    if setting.data is None:
        if setting.tiny:
            return TINY, None
        raise NotRun("needs --data DIR")
    if (setting.data / "cifar-10-batches-py").is_dir():
        return {**FULL, "dataset": {"name": "cifar10", "train_images": 20_000}}, setting.data
    entry = {"name": own_name(str(setting.data)), "path": str(setting.data.absolute())}
    return {**FULL, "dataset": own_data(entry, Path())}, None


def falling(curves: pd.DataFrame) -> float:
    """Of all trainings the largest part of the fall of the loss that is in the last epochs; NaN where one did not
    fall."""
    parts = []
    for _, curve in curves.sort_values("epoch").groupby("trial_id", observed=True):
        loss = curve["loss"].to_numpy()
        fall = loss[0] - loss[-1]
        parts.append(abs(loss[-LAST] - loss[-1]) / fall if fall > 0 else float("nan"))
    return float(pd.Series(parts).max(skipna=False))


def least_robust(curves: pd.DataFrame) -> float:
    """Of all trainings the least robust accuracy of a best epoch, in [0, 1]."""
    return float(curves.groupby("trial_id", observed=True)["val_robust_avg"].max().min())


def _table(store: Store, folder: Path) -> int:
    """Write the leaderboard beside the acceptance; how many methods it has PGD-20 of."""
    results = read_results(store)
    write_report(results, folder, Form(figures=[]))
    scores = leaderboard(results).scores
    known = scores.loc[(scores["attack"] == "pgd20") & scores["value"].notna(), "row"].unique()
    return int((results.rows.loc[known, "role"] == "student").sum())
