"""Made-up results in the real tables: what the tests of the report read instead of hours of training."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from harness.spec import (
    NUMERICS_VERSION,
    AttackRequest,
    DatasetSpec,
    EvaluationSpec,
    NetworkSpec,
    Source,
    TrainedSpec,
    TrainingSpec,
    TrialSpec,
)
from harness.store.store import Store
from harness.store.tables import TABLES, categories

CLOTHES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip
HARDNESS = {"clean": -1.5, "fgsm": 0.0, "pgd20": 0.7, "cw20": 0.8, "aa_short": 1.0}  # added to the difficulty
PLACE = {"natural": 2.0, "at": 0.0, "trades": -0.1, "ard": -0.15, "rslad": -0.2, "absld": -0.15}  # of a variant
FAIRNESS = {"absld": 0.55, "absld_reweight": 0.45, "rslad": 0.9}  # how far the classes lie apart
TEMPERED = ("absld", "absld_reweight")


@dataclass
class Frames:
    """The tables of a store, in memory; it answers like one."""

    tables: dict[str, pd.DataFrame]
    problems: list[str] = field(default_factory=list)

    def trials(self, columns: Sequence[str] | None = None) -> pd.DataFrame:
        return self.read("trials", columns=columns).sort_values("trial_id", ignore_index=True)

    def read(
        self, table: str, trial_ids: Collection[str] | None = None, columns: Sequence[str] | None = None
    ) -> pd.DataFrame:
        frame = self.tables[table]
        if trial_ids is not None:
            frame = frame[frame["trial_id"].isin(set(trial_ids))]
        return frame if columns is None else frame[list(dict.fromkeys(["trial_id", *columns]))]


def trial_spec(variant: str, seed: int, *, role: str = "student", attacks: Sequence[str] = tuple(HARDNESS),
               checkpoints: Sequence[str] = ("best_validation", "last"), images: int | None = None, epochs: int = 20,
               dataset: str = "fashion_mnist", student: str = "cnn", width: int = 16, eps: float = 0.1,
               settings: Mapping[str, Any] | None = None, peeked: bool = True) -> TrialSpec:  # fmt: skip
    """A spec as the planner makes it."""
    method = variant if variant in {*PLACE, *FAIRNESS} else "absld"
    teachers = {} if method in ("natural", "at", "trades") else {
        "teacher": Source(network=NetworkSpec(name="cnn", params={"width": 32}), trial="t" * 16, training="a" * 16)
    }  # fmt: skip
    requests = [AttackRequest(name=name, images=images, checkpoints=tuple(checkpoints)) for name in attacks]
    return TrainedSpec(
        role=role, variant=variant, dataset=DatasetSpec(name=dataset, train_images=12000),
        student=NetworkSpec(name=student, params={"width": width}), teachers=teachers,
        method={"name": method, "settings": dict(settings or {}), "labels": {"name": "class_temperature"},
                "weights": {"name": "none"}, "margins": {"name": "none"}},
        training=TrainingSpec(epochs=epochs, record_test_curve=peeked),
        evaluation=EvaluationSpec(attacks=tuple(requests)), eps=eps, seed=seed,
    )  # fmt: skip


def teacher_spec(**options: Any) -> TrialSpec:
    """That of the teacher that students of a store learnt from."""
    return trial_spec("teacher", 0, role="teacher", peeked=False, width=32, **options)


def identity(spec: TrialSpec) -> dict[str, Any]:
    """The columns of `trials` that follow from the spec."""
    assert spec.method
    assert spec.training
    return {
        "trial_id": spec.trial_id, "training_id": spec.training_id, "role": spec.role, "dataset": spec.dataset.label,
        "student": spec.student.label, "teacher": ", ".join(s.label for s in spec.teachers.values()) or None,
        "method": spec.method["name"], "variant": spec.variant, "label_policy": "class_temperature",
        "weight_policy": "none", "margin_policy": "none", "norm": spec.norm, "eps": spec.eps, "seed": spec.seed,
        "teacher_seed": teacher_seed(spec),
        "split_seed": spec.split_seed, "train_images": spec.dataset.train_images, "epochs": spec.training.epochs,
        "precision": spec.precision, "spec": spec.model_dump_json(), "numerics_version": NUMERICS_VERSION,
    }  # fmt: skip


def teacher_seed(spec: TrialSpec) -> int | None:
    """The seed of its teacher's training; None without a teacher."""
    return spec.teachers["teacher"].seed if "teacher" in spec.teachers else None


def trial_tables(spec: TrialSpec, *, classes: Sequence[str] = CLOTHES, per_class: int = 200,
                 absent: Sequence[str] = ()) -> tuple[dict[str, Any], dict[str, pd.DataFrame]]:  # fmt: skip
    """The row of a finished trial, and its tables. Images are as hard for one variant as for the next: pairs matter."""
    assert spec.training is not None
    shared = np.random.default_rng(7)
    count = len(classes)
    difficulty = np.sort(shared.normal(0, 1.1, count))[shared.permutation(count)]
    images = shared.normal(0, 1, (count, per_class))
    taught = [] if teacher_seed(spec) is None else [teacher_seed(spec)]
    own = np.random.default_rng([abs(hash_of(spec.variant)), spec.seed, *taught])
    fairness = FAIRNESS.get(spec.variant, 1.1)
    logit = PLACE.get(spec.variant, -0.1) + fairness * difficulty - 1.0 + own.normal(0, 0.12, count)
    truth = logit[:, None] + images + own.normal(0, 0.6, images.shape)
    rows = [
        outcome_rows(checkpoint, attack, truth + HARDNESS.get(attack, 0.9) + (0.06 if checkpoint == "last" else 0), own)
        for attack in [request.name for request in spec.evaluation.attacks]
        for checkpoint in ("best_validation", "last")
    ]
    outcomes = pd.concat(rows, ignore_index=True)
    counts = outcomes.groupby(["checkpoint", "attack", "label"], sort=False)["robust"].agg(n="size", correct="sum")
    counts = counts.reset_index().rename(columns={"label": "class_index"})
    counts["class_name"] = np.array(classes, dtype=object)[counts["class_index"]]
    counts["accuracy"] = counts["correct"] / counts["n"]
    epochs, state = histories(spec, -logit, own)
    trial = identity(spec) | {
        "status": "done", "attempts": 1, "device": "cpu", "git_commit": "0" * 40, "code_fingerprint": "f" * 16,
        "versions": {"python": "3.11", "torch": "2.9.0"}, "train_s": 600.0 + own.uniform(0, 60), "eval_s": 200.0,
        "peak_memory_mb": 900.0, "started": 1.7e9, "finished": 1.7e9 + 800,
    }  # fmt: skip
    tables = {"class_accuracy": counts, "outcomes": outcomes, "epochs": epochs, "class_state": state}
    tables["notes"] = pd.DataFrame({"source": ["engine"], "text": ["fast"]})
    return trial, {name: frame for name, frame in tables.items() if name not in absent}


def outcome_rows(checkpoint: str, attack: str, hardness: np.ndarray, random: np.random.Generator) -> pd.DataFrame:
    """Of a (C, images) array: an image is robust where its hardness is below zero; wrong ones go to a neighbour."""
    count, per_class = hardness.shape
    label = np.repeat(np.arange(count), per_class)
    robust = (hardness < 0).ravel()
    wrong = (label + random.choice([1, 2, 3], label.size, p=[0.6, 0.3, 0.1])) % count
    columns = {"sample_index": np.arange(label.size), "label": label, "prediction": np.where(robust, label, wrong)}
    return pd.DataFrame({"checkpoint": checkpoint, "attack": attack, **columns, "robust": robust})


def histories(spec: TrialSpec, ease: np.ndarray, own: np.random.Generator) -> tuple[pd.DataFrame, pd.DataFrame]:
    """`epochs` and `class_state`: accuracy rises, then overfits; temperatures and weights drift apart by class."""
    assert spec.training is not None
    epochs, count = spec.training.epochs, len(ease)
    epoch = np.arange(1, epochs + 1)
    shape = (1 - np.exp(-epoch / 5) - 0.004 * np.maximum(epoch - 14, 0))[:, None]
    robust = np.clip(shape / (1 + np.exp(-(ease - 0.7))) + own.normal(0, 0.01, (epochs, count)), 0, 1)
    clean = np.clip(shape / (1 + np.exp(-(ease + 1.5))) + own.normal(0, 0.01, (epochs, count)), 0, 1)
    quantities = {"val_robust": robust, "val_clean": clean}
    if spec.training.record_test_curve:
        quantities["peeked_test_robust"] = np.clip(robust + own.normal(0, 0.01, (epochs, count)), 0, 1)
    if spec.method and spec.method["name"] in TEMPERED:
        slope = 0.6 * np.tanh(epoch / 8)[:, None] * (ease - ease.mean()) / np.ptp(ease)
        quantities |= {"temperature_adversarial": 1 + slope, "temperature_clean": 1 + 0.8 * slope}
        quantities |= {"weight": 1 - slope} if spec.method["name"] == "absld_reweight" else {}
    table = {
        "epoch": epoch, "lr": np.where(epoch > 12, 0.01, 0.1), "loss": 2 * np.exp(-epoch / 8) + 0.3,
        "val_clean_avg": clean.mean(1), "val_clean_worst": clean.min(1), "val_robust_avg": robust.mean(1),
        "val_robust_worst": robust.min(1), "val_robust_nsd": robust.std(1) / robust.mean(1),
        "selection_score": (robust.mean(1) + robust.min(1)) / 2, "seconds": np.full(epochs, 30.0),
    }  # fmt: skip
    state = {
        "epoch": np.tile(np.repeat(epoch, count), len(quantities)),
        "class_index": np.tile(np.arange(count), epochs * len(quantities)),
        "quantity": np.repeat(list(quantities), epochs * count),
        "value": np.concatenate([values.ravel() for values in quantities.values()]),
    }
    return pd.DataFrame(table), pd.DataFrame(state)


def hash_of(text: str) -> int:
    """A number that does not change from one process to the next, as `hash` does."""
    return int.from_bytes(text.encode()[:8].ljust(8, b"\0"), "big") + len(text)


def failed_row(spec: TrialSpec, error: str = "RuntimeError: loss is nan at step 12") -> dict[str, Any]:
    """The row of a trial that failed."""
    return identity(spec) | {"status": "failed", "error": error, "attempts": 2, "finished": 1.7e9}


def fill_store(root: Path, specs: Sequence[TrialSpec], **options: Any) -> Store:
    """A store on disk with a finished trial for each spec."""
    store = Store(root)
    for spec in specs:
        store.commit(*trial_tables(spec, **options))
    return store


def frames_of(specs: Sequence[TrialSpec], **options: Any) -> Frames:
    """The same in memory, quicker."""
    parts: dict[str, list[pd.DataFrame]] = {name: [] for name in TABLES}
    for spec in specs:
        trial, tables = trial_tables(spec, **options)
        plain = {key: json.dumps(value) if isinstance(value, dict) else value for key, value in trial.items()}
        parts["trials"].append(pd.DataFrame([plain], dtype=object))
        for name, frame in tables.items():
            missing = {key: trial.get(key) for key in TABLES[name].names if key not in frame}
            parts[name].append(frame.assign(**missing))
    return Frames({name: _in_schema(name, frames) for name, frames in parts.items()})


def _in_schema(table: str, frames: list[pd.DataFrame]) -> pd.DataFrame:
    joined = pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=TABLES[table].names)
    joined = joined.reindex(columns=TABLES[table].names)
    numbers = {field.name: "float64" for field in TABLES[table] if str(field.type) == "double"}
    joined = joined.astype(numbers)
    return joined.astype(dict.fromkeys(categories(table), "category"))


def big_frames(trials: int, classes: int, *, variants: int, attacks: Sequence[str] = (*HARDNESS, "aa_standard"),
               per_class: int = 1000) -> Frames:  # fmt: skip
    """`trials` x 2 checkpoints x `attacks` x `classes` rows, made at once; nothing in the other tables."""
    random = np.random.default_rng(3)
    specs = [trial_spec(f"variant-{index:04d}", 0, settings={"alpha": index}) for index in range(variants)]
    ids = [f"{index:016x}" for index in range(trials)]
    rows = [identity(spec) for spec in specs]
    table = pd.DataFrame([rows[index % variants] for index in range(trials)], dtype=object)
    table = table.assign(trial_id=ids, training_id=ids, seed=np.arange(trials) // variants, status="done",
                         train_s=600.0, eval_s=60.0, peak_memory_mb=500.0)  # fmt: skip
    shape = (trials, 2, len(attacks), classes)
    size = int(np.prod(shape))
    correct = random.binomial(per_class, np.broadcast_to(np.linspace(0.3, 0.9, classes), shape)).ravel()
    index = np.indices(shape, dtype=np.int32).reshape(4, size)
    names = [f"class {number}" for number in range(classes)]
    frame = pd.DataFrame({
        "trial_id": pd.Categorical.from_codes(index[0], ids),
        "checkpoint": pd.Categorical.from_codes(index[1], ["best_validation", "last"]),
        "attack": pd.Categorical.from_codes(index[2], list(attacks)),
        "class_index": index[3], "class_name": pd.Categorical.from_codes(index[3], names),
        "n": np.int32(per_class), "correct": correct.astype(np.int32), "accuracy": correct / per_class,
    })  # fmt: skip
    empty = {name: _in_schema(name, []) for name in TABLES}
    return Frames(empty | {"trials": _in_schema("trials", [table]), "class_accuracy": frame})
