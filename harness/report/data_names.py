"""What reports call the data sets of trials: one name for one content, and never one for two."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

import pandas as pd

from harness.data.registry import OWN


class _Content(NamedTuple):
    """What decides the images of a data set. split_seed: of data whose test images it may draw; None of
    other data."""

    name: str
    sha256: str | None
    resize: int | None
    label_column: str | None
    split_seed: int | None


def dataset_names(trials: pd.DataFrame, called: Mapping[str, str]) -> pd.Series:
    """The name of each trial's data set, one for one content: as `called`, else as the trial that finished last has it.

    Contents of one name are told apart by how their hashes begin, their sizes and the seeds that draw their test
    images, results of older numerics versions by these.
    """
    contents = [
        _content(read_spec(text), str(name)) for text, name in zip(trials["spec"], trials["dataset"], strict=True)
    ]
    facts = pd.DataFrame({
        "asked": trials["trial_id"].isin(list(called)).to_numpy(),
        "finished": trials["finished"].astype(str).to_numpy(),
        "name": [called.get(key, own) for key, own in zip(trials["trial_id"], trials["dataset"], strict=True)],
    })  # fmt: skip
    facts["place"] = range(len(facts))
    ordered = facts.sort_values(["asked", "finished"], kind="stable")
    names = {contents[place]: name for place, name in zip(ordered["place"], ordered["name"], strict=True)}
    same: dict[str, list[_Content]] = {}
    for content, name in names.items():
        same.setdefault(name, []).append(content)
    for name, several in same.items():
        if len(several) > 1:
            names |= {content: f"{name} ({_mark(content, name, several)})" for content in several}
    return pd.Series([names[content] for content in contents], trials.index, dtype=object) + _version_marks(
        trials["numerics_version"]
    )


def read_spec(text: Any) -> dict[str, Any]:
    """The specification in the `spec` column; empty where there is none."""
    try:
        spec = json.loads(text)
    except (TypeError, ValueError):
        return {}
    return spec if isinstance(spec, dict) else {}


def _version_marks(versions: pd.Series) -> pd.Series:
    """What sets rows of older numerics versions apart from the newest one's, under headings of their own."""
    newest = versions.max()
    return versions.map(lambda version: f" (numerics version {version:g})" if version < newest else "")


def _content(spec: Mapping[str, Any], name: str) -> _Content:
    dataset = spec.get("dataset") or {}
    own = OWN.get(str(dataset.get("name")))
    split_seed = spec.get("split_seed", 0) if own and own.may_draw_test else None
    return _Content(
        dataset.get("name") or name,
        dataset.get("sha256"),
        dataset.get("resize"),
        dataset.get("label_column"),
        split_seed,
    )


def _mark(content: _Content, name: str, same: list[_Content]) -> str:
    """What tells a content from others of its name."""
    beginning = (content.sha256 or content.name)[:8]
    marks = [beginning] * (beginning not in name) + [f"{content.resize} pixels"] * bool(content.resize)
    marks += [str(content.label_column)] * bool(content.label_column)
    if len({other.split_seed for other in same}) > 1:
        marks.append(f"split seed {content.split_seed}")
    return ", ".join(marks) or content.name
