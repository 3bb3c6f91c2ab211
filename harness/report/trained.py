"""What the rows of a table were trained with, and by name those that were trained otherwise. Plain text."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import PurePath
from typing import Any

import pandas as pd

from harness.data.registry import DATASETS
from harness.report.data_names import read_spec
from harness.report.scores.leaderboard import Leaderboard
from harness.spec import AugmentSpec, canonical

MOST_NAMED = 8  # rows that a caption lists by name


def as_told(spec: Mapping[str, Any]) -> dict[str, Any]:
    """A stored specification for people: without what is null, of the user's own data the name and not the folders of
    the machine that read it, and of a given network without checkpoints, of which it has one."""
    told = _without_nulls(spec)
    if path := told.get("dataset", {}).get("path"):
        told["dataset"]["path"] = PurePath(path).name
    if spec.get("training") is None:
        told.pop("keep", None)
        told.get("init", {}).pop("checkpoint", None)
        for attack in told.get("evaluation", {}).get("attacks", []):
            attack.pop("checkpoints", None)
    return told


def _without_nulls(values: Any) -> Any:
    if isinstance(values, Mapping):
        return {key: _without_nulls(value) for key, value in values.items() if value is not None}
    return [_without_nulls(value) for value in values] if isinstance(values, list) else values


def trained(board: Leaderboard) -> list[str]:
    """A sentence on each thing that a caption always says, and on each other key of a specification in which rows
    differ: computed from the specifications, so that no key can be forgotten."""
    specs = _specs(board)
    always = [by_row(board, {row: of(spec) for row, spec in specs.items()}, what) for what, of in _ALWAYS.items()]
    keys = {row: _others(spec) for row, spec in specs.items()}
    names = sorted({name for own in keys.values() for name in own})
    values = {name: {row: own.get(name, "none") for row, own in keys.items()} for name in names}
    unlike = {name: texts for name, texts in values.items() if len(set(texts.values())) > 1}
    return [text for text in always if text] + [by_row(board, texts, f"{name}:") for name, texts in unlike.items()]


def by_row(board: Leaderboard, values: Mapping[int, str], what: str) -> str:
    """A sentence with the value that most rows share and, by name, the rows with others; empty without rows."""
    counts = pd.Series(values, dtype=object).value_counts()
    if counts.empty:
        return ""
    usual = str(counts.index[0])
    others: dict[str, list[str]] = {}
    for row, value in values.items():
        if value != usual:
            others.setdefault(value, []).append(str(board.rows.loc[row, "variant"]))
    listed = [f"{_names(names)} {value}" for value, names in others.items()]
    return f"{what} {usual}" + (f", but {'; '.join(listed)}" if listed else "") + "."


def _names(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) <= MOST_NAMED else f"{', '.join(names[:3])} and {len(names) - 3} more"


def _specs(board: Leaderboard) -> dict[int, dict[str, Any]]:
    """By row of a trained student, the specification of one of its trials: seeds of a row differ in attacks only."""
    roles = board.rows["role"]
    specs = {row: read_spec(text) for row, text in board.specs.items() if roles[row] == "student"}
    return {row: spec for row, spec in specs.items() if spec.get("training")}


def _budget(spec: Mapping[str, Any]) -> str:
    images = (spec.get("dataset") or {}).get("train_images")
    return f"{spec['training']['epochs']} epochs on {f'a subset of {images:,}' if images else 'all training'} images"


_ALWAYS: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "Trained for": _budget,
    "Attack in training:": lambda spec: f"{spec['training'].get('attack_steps', 10)} steps",
    "Arithmetic of training:": lambda spec: f"{spec.get('precision', 'float32')}, {spec.get('engine', 'fast')} engine",
}

# What the heading, the columns, `_ALWAYS`, the sentences on seeds, teachers and attacks, or a row's own name say; and
# `record_test_curve`, which changes no number.
_SAID = {
    "role", "eps", "norm", "seed", "method", "code", "teachers", "init", "precision", "engine",
    "dataset.name", "dataset.sha256", "dataset.resize", "dataset.label_column", "dataset.train_images",
    "student.name", "student.params", "training.epochs", "training.attack_steps", "training.record_test_curve",
    "evaluation.attacks",
}  # fmt: skip


def _others(spec: Mapping[str, Any]) -> dict[str, str]:
    """Everything else that decides the numbers, by name as text; what is absent or null is left out."""
    parts = {
        f"{part}.{key}": value
        for part, values in canonical(spec).items()
        for key, value in (values.items() if part in ("dataset", "student", "training", "evaluation") else ())
    }
    whole = {key: value for key, value in canonical(spec).items() if not isinstance(value, dict)}
    found = {name: value for name, value in (whole | parts).items() if name not in _SAID and value is not None}
    if (augment := _augment(spec)) is not None:
        found["dataset.augment"] = augment
    return {name: _text(value) for name, value in found.items()}


def _augment(spec: Mapping[str, Any]) -> dict[str, Any] | None:
    """The augmentation, that of the data set where none is asked for."""
    dataset = spec.get("dataset") or {}
    facts = DATASETS.get(str(dataset.get("name")))
    own = AugmentSpec(crop=facts.crop_padding, flip=facts.flip).model_dump() if facts else None
    return dataset.get("augment") or own


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"({', '.join(f'{key} {_text(item)}' for key, item in value.items())})"
    if isinstance(value, list):
        return f"[{', '.join(map(_text, value))}]"
    return value if isinstance(value, str) else json.dumps(value)
