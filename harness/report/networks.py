"""Which trained networks the rows of a report are over: the seeds of their teachers, and those that other rows lack."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from harness.report.data_names import read_spec
from harness.report.rows import SETTING, setup_of
from harness.report.scores.seeds import Network, common_networks


def stand_in_teachers(trials: pd.DataFrame) -> dict[str, tuple[str, int]]:
    """By the training id of each teacher its seed, and the training that stands for all that differ from it in their
    seed only: that of the smallest seed."""
    teachers = trials[trials["role"] == "teacher"].sort_values("seed")
    first: dict[tuple[str, int], str] = {}
    found = {}
    for training, seed, version, text in teachers[["training_id", "seed", "numerics_version", "spec"]].to_numpy():
        setup = {key: value for key, value in json.loads(setup_of(text)[0]).items() if key != "evaluation"}
        same = json.dumps(setup, sort_keys=True), version
        found[str(training)] = first.setdefault(same, str(training)), int(seed)
    return found


def teacher_seeds(trials: pd.DataFrame, stand_ins: Mapping[str, tuple[str, int]]) -> pd.Series:
    """The seed of each trial's teacher, NaN where it has none or it is not known."""

    def known(text: Any) -> float:
        teacher = (read_spec(text).get("teachers") or {}).get("teacher") or {}
        return stand_ins[teacher["training"]][1] if teacher.get("training") in stand_ins else np.nan

    seeds = trials["teacher_seed"].astype(float)
    return seeds.fillna(trials.loc[seeds.isna(), "spec"].map(known).astype(float))


def extra_networks(students: pd.DataFrame) -> pd.DataFrame:
    """The finished students of seeds or teachers that other rows of their table lack: averages over unlike ones cannot
    be compared.
    """
    extra = pd.Series(False, students.index)
    for _, part in students.groupby(SETTING, sort=False, dropna=False):
        teachers = [None if np.isnan(teacher) else int(teacher) for teacher in part["teacher_seed"]]
        lines = list(zip(part["row"], zip(part["seed"], teachers, strict=True), strict=True))
        networks: dict[Any, set[Network]] = {row: set() for row, _ in lines}
        for row, network in lines:
            networks[row].add(network)
        kept = common_networks(networks)
        extra[part.index] = np.array([network not in kept[row] for row, network in lines])
    return students[extra]


def with_teachers(rows: pd.DataFrame, kept: pd.DataFrame, extra: pd.DataFrame) -> pd.DataFrame:
    """The rows with the teachers of their networks: labels and seeds of those in the averages, seeds of others."""
    done, others = (
        part[(part["status"] == "done") & (part["role"] == "student")].dropna(subset=["teacher_seed", "teacher"])
        for part in (kept, extra)
    )
    averaged = set(zip(done["row"], done["teacher_seed"], strict=True))
    pairs = zip(others["row"], others["teacher_seed"], strict=True)
    aside = np.array([pair not in averaged for pair in pairs], dtype=bool)

    def by_row(part: pd.DataFrame, name: str) -> pd.Series:
        names: Any = part.sort_values("teacher_seed", kind="stable").groupby("row")[name]
        texts = names.agg(lambda own: ", ".join(str(each) for each in dict.fromkeys(own)))
        return texts.astype(object).reindex(rows.index)

    whole = [part.astype({"teacher_seed": int}) for part in (done, others[aside])]
    return rows.assign(
        teacher=by_row(done, "teacher").fillna(rows["teacher"].astype(object)),
        teachers=by_row(whole[0], "teacher_seed").fillna(""),
        teachers_aside=by_row(whole[1], "teacher_seed").fillna(""),
    )
