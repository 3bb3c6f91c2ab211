"""Trials that sleep and then store what a real one would: all the time beyond the sleep is the scheduler's and the
store's."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from harness import events
from harness.spec import TrialSpec
from harness.store.provenance import trial_columns
from harness.store.store import Store

EPOCHS, CLASSES, IMAGES = 5, 10, 1000
ATTACKS = ("clean", "fgsm", "pgd20", "cw20", "aa_short")


class Start(events.Start):
    """With the seconds that torch took to import in this worker: none, where it was there already."""

    torch_import_s: float


def run_trial(spec: TrialSpec, store_root: Path, **options: Any) -> Iterator[dict[str, Any]]:
    """Sleep for the seconds that the method's settings say, an epoch event at a time; commit a trial's usual
    rows."""
    assert spec.method is not None
    fresh, begun = "torch" not in sys.modules, time.perf_counter()
    import torch  # noqa: F401

    imported = time.perf_counter() - begun if fresh else 0.0
    yield {"event": "start", "trial_id": spec.trial_id, "torch_import_s": imported, "device": "none"}
    for epoch in range(EPOCHS):
        time.sleep(spec.method["settings"]["sleep_s"] / EPOCHS)
        yield {"event": "epoch", "trial_id": spec.trial_id, "epoch": epoch + 1, "epochs": EPOCHS}
    trial = {**trial_columns(spec), "status": "done", "attempts": 1, "device": "none", "finished": time.time()}
    Store(store_root).commit(trial, _tables())
    yield {"event": "done", "trial_id": spec.trial_id}


def _tables() -> dict[str, pd.DataFrame]:
    keys = pd.MultiIndex.from_product([["best_validation", "last"], ATTACKS, range(IMAGES)])
    outcomes = keys.to_frame(index=False, name=["checkpoint", "attack", "sample_index"])
    outcomes["label"] = outcomes["sample_index"] % CLASSES
    outcomes = outcomes.assign(prediction=outcomes["label"], robust=True)
    groups = outcomes.groupby(["checkpoint", "attack", "label"], sort=False)["robust"]
    classes = groups.agg(n="size", correct="sum").reset_index().rename(columns={"label": "class_index"})
    epochs = pd.DataFrame({"epoch": range(1, EPOCHS + 1), "loss": 1.0, "selection_score": 0.5, "seconds": 1.0})
    return {
        "class_accuracy": classes.assign(class_name="a class", accuracy=1.0),
        "outcomes": outcomes,
        "epochs": epochs,
    }
