"""A suite of thousands of trials and a store that holds all of them, made in seconds: the plan is a real one, the
numbers are drawn."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import yaml

from harness.api import Planned, plan_suite
from harness.store.compaction import publish
from harness.store.provenance import trial_columns
from harness.store.store import Store
from harness.store.tables import TABLES, reading_schema, trial_row

ATTACKS = ("clean", "fgsm", "pgd20", "cw20", "aa_short", "aa_standard")
CHECKPOINTS = ("best_validation", "last")
IMAGES = 1000  # a class
EPOCHS = 5
QUANTITIES = ("val_robust", "val_clean", "temperature_adversarial", "temperature_clean")


def suite_file(folder: Path, trials: int, seeds: int) -> Path:
    """A suite of `trials` trials: variants that differ in a setting, times `seeds` seeds (fewer in the last place)."""
    variants = math.ceil(trials / seeds)
    suite = {
        "name": f"many_{trials}",
        "dataset": "digits",
        "student": {"name": "cnn", "width": 8},
        "eps": 0.1,
        "training": {"epochs": EPOCHS},
        "methods": [
            {"method": "trades", "beta": 1 + index / variants, "variant": f"trades-{index:05d}"}
            for index in range(variants)
        ],
        "seeds": list(range(seeds)),
        "evaluation": {"attacks": list(ATTACKS)},
    }
    path = folder / f"many-{trials}.yaml"
    path.write_text(yaml.safe_dump(suite, default_flow_style=None))
    return path


@dataclass(frozen=True)
class DrawnTables:
    """Tables in memory that answer like a store when asked for the rows of trials."""

    root: Path
    tables: dict[str, pa.Table]

    def arrow(self, table: str, trial_ids: Collection[str], columns: Sequence[str] | None = None) -> pa.Table:
        """The rows of `trial_ids`; all columns."""
        found = self.tables[table]
        return found.filter(pc.is_in(found["trial_id"].cast(pa.string()), pa.array(list(trial_ids))))


def many_trials(suite: Path, root: Path, classes: int, *, compacted: bool = True) -> Store:
    """The store at `root` with every trial of the suite done, as a compacted run leaves it, or a file for each trial
    and table."""
    planned = plan_suite(str(suite), results=root)
    store = planned.store.prepare()
    drawn = DrawnTables(root / "drawn", _tables(planned, classes))
    rows = {
        "class_accuracy": len(CHECKPOINTS) * len(ATTACKS) * classes,
        "epochs": EPOCHS,
        "class_state": EPOCHS * classes * len(QUANTITIES),
    }
    if compacted:
        publish(store, dict.fromkeys(planned.trial_ids, (drawn, {"tables": rows})))  # type: ignore[arg-type]
        return store
    for spec in planned.specs:
        frames = {name: drawn.arrow(name, [spec.trial_id]).to_pandas() for name in rows}
        store.commit(_trial(spec), {name: frame.drop(columns="trial_id") for name, frame in frames.items()})
    return store


def _trial(spec: Any) -> dict[str, Any]:
    costs = {"train_s": 600.0, "eval_s": 60.0, "peak_memory_mb": 500.0, "started": 1.7e9, "finished": 1.7e9 + 660}
    return {**trial_columns(spec), "status": "done", "attempts": 1, "train_images": 1000, "device": "drawn", **costs}


def _tables(planned: Planned, classes: int) -> dict[str, pa.Table]:
    random = np.random.default_rng(3)
    trials = pa.concat_tables([trial_row(_trial(spec)) for spec in planned.specs])
    return {
        "trials": trials,
        "class_accuracy": _class_accuracy(trials.to_pandas(), classes, random),
        "epochs": _epochs(planned.trial_ids, random),
        "class_state": _class_state(planned.trial_ids, classes, random),
    }


def _class_accuracy(trials: pd.DataFrame, classes: int, random: np.random.Generator) -> pa.Table:
    """Trial x checkpoint x attack x class: binomial draws around an accuracy that rises with the class."""
    shape = (len(trials), len(CHECKPOINTS), len(ATTACKS), classes)
    trial, checkpoint, attack, index = np.indices(shape, dtype=np.int32).reshape(4, -1)
    correct = random.binomial(IMAGES, np.broadcast_to(np.linspace(0.3, 0.9, classes), shape)).ravel()
    numbers = {
        "class_index": index,
        "n": np.full(len(index), IMAGES, np.int32),
        "correct": correct.astype(np.int32),
        "accuracy": correct / IMAGES,
        "seed": trials["seed"].to_numpy()[trial],
        "eps": trials["eps"].to_numpy()[trial],
    }
    texts = {
        "checkpoint": _coded(checkpoint, CHECKPOINTS),
        "attack": _coded(attack, ATTACKS),
        "class_name": _coded(index, [f"class {number}" for number in range(classes)]),
    }
    for name in ("trial_id", "dataset", "student", "teacher", "method", "variant", "role"):
        codes, values = pd.factorize(trials[name])
        texts[name] = _coded(codes.astype(np.int32)[trial], list(values))
    return _in_order("class_accuracy", {**numbers, **texts})


def _epochs(ids: Sequence[str], random: np.random.Generator) -> pa.Table:
    count = len(ids) * EPOCHS
    score = random.uniform(0.3, 0.5, count)
    numbers = {name: score for name in TABLES["epochs"].names if name not in ("trial_id", "epoch")}
    epoch = np.tile(np.arange(1, EPOCHS + 1, dtype=np.int32), len(ids))
    trial = _coded(np.repeat(np.arange(len(ids), dtype=np.int32), EPOCHS), ids)
    return _in_order("epochs", {"trial_id": trial, "epoch": epoch, **numbers})


def _class_state(ids: Sequence[str], classes: int, random: np.random.Generator) -> pa.Table:
    shape = (len(ids), EPOCHS, len(QUANTITIES), classes)
    trial, epoch, quantity, index = np.indices(shape, dtype=np.int32).reshape(4, -1)
    columns = {"trial_id": _coded(trial, ids), "epoch": epoch + 1, "class_index": index}
    values = {"quantity": _coded(quantity, QUANTITIES), "value": random.uniform(0.2, 0.6, len(trial))}
    return _in_order("class_state", columns | values)


def _coded(codes: np.ndarray, values: Sequence[Any]) -> pa.Array:
    codes = pa.array(codes, mask=codes < 0) if len(codes) else pa.array(codes)
    return pa.DictionaryArray.from_arrays(codes, pa.array(list(values), pa.string()))


def _in_order(table: str, columns: dict[str, Any]) -> pa.Table:
    schema = reading_schema(table, TABLES[table].names)
    return pa.table([pa.array(columns[name]).cast(schema.field(name).type) for name in schema.names], schema=schema)
