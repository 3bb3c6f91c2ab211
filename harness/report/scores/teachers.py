"""Teachers that differ in their seed only: how far the students of one lie from those of another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from harness.report.results import Results
from harness.report.rows import CELL, SETTING
from harness.report.scores.counts import BY_TRIAL, class_counts
from harness.report.scores.seeds import listed
from harness.statistics.registry import scored

SPREAD = [*CELL, "metric", "teacher_spread", "spread_seeds"]


def teacher_spread(results: Results, more: Sequence[str] = ()) -> pd.DataFrame:
    """A line per row, checkpoint, attack and metric of rows with several teachers: the largest minus the smallest of
    the teachers' means, over the seeds that were trained from all of them, which are `spread_seeds`.

    Networks count here whether or not averages have them. A row without a common seed has no line.
    """
    taught = results.taught.astype({"trial_id": str})
    columns = ["checkpoint", "attack", "class_index", "n", "correct"]
    frame = results.store.read("class_accuracy", list(taught["trial_id"]), columns).astype({"trial_id": str})
    frame = frame.merge(taught, on="trial_id")
    undefined: Any = frame["correct"].isna().groupby([frame[name] for name in CELL], observed=True).transform("any")
    counts = class_counts(frame[~undefined], BY_TRIAL)
    if counts.keys.empty:
        return pd.DataFrame(columns=SPREAD)
    numbers = {metric.name: metric.values(counts.accuracy, counts.images) for metric in scored(more)}
    names, values = list(numbers), counts.keys.assign(**numbers)
    teachers = values["row"].map(taught.groupby("row")["teacher_seed"].nunique())
    shared = values.groupby([*CELL, "seed"], observed=True)["teacher_seed"].transform("nunique") == teachers
    means = values[shared].groupby([*CELL, "teacher_seed"], sort=False, observed=True)[names].mean()
    groups = means.groupby(level=CELL, sort=False, observed=True)
    spread = (groups.max() - groups.min()).melt(var_name="metric", value_name="teacher_spread", ignore_index=False)
    seeds = values[shared].groupby(CELL, sort=False, observed=True)["seed"].agg(listed).rename("spread_seeds")
    return spread.reset_index().merge(seeds.reset_index(), on=CELL)[SPREAD]


def teacher_counts(results: Results) -> dict[tuple, int]:
    """By setting how many teachers its finished students have: by their weights, by name where these are not known."""
    students = results.done[(results.done["role"] == "student") & results.done["teacher"].notna()]
    found: dict[tuple, int] = {}
    for setting, part in students.groupby(SETTING, sort=False, dropna=False):
        known = part["teacher_sha256"].notna()
        unknown = set(part.loc[~known, "teacher"]) - set(part.loc[known, "teacher"])
        found[setting] = part["teacher_sha256"].nunique() + len(unknown)
    return found


def unlike_teachers(students: pd.DataFrame) -> bool:
    """Whether a difference between rows of one table may be their teachers': not all were trained from the same."""
    known = students.dropna(subset="teacher_sha256")
    hashes = known.groupby("teacher_seed", dropna=False)["teacher_sha256"].nunique()
    of_rows = {tuple(sorted(set(seeds.dropna()))) for _, seeds in known.groupby("row")["teacher_seed"]}
    return bool((hashes > 1).any()) or len(of_rows) > 1
