"""In which order the rows of a table stand, by one number, and their ranks: 1 + the number of rows that stand above."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from harness.errors import InputError, unknown
from harness.report.results import Results
from harness.report.rows import CELL, in_setting, settings_of
from harness.report.scores.counts import ClassCounts
from harness.report.scores.differences import COMPARED, differences_of, paired_lines, stands
from harness.report.scores.families import same_teachers, strongest
from harness.report.scores.intervals import over_teachers
from harness.report.scores.seeds import usual
from harness.spec import CHECKPOINTS
from harness.statistics import metrics
from harness.statistics.intervals import FEWEST_SEEDS
from harness.statistics.multiple_comparisons import ERROR, compare_family
from harness.statistics.registry import SCORE, Metric, metric_info

PLACES = ("student", "evaluation", "teacher")  # students are ranked; given networks and teachers stand apart


@dataclass(frozen=True)
class Column:
    """What rows are ranked by, and, but `as_listed`, ordered. attack: None for the strongest that all rows of a table
    have on all their seeds."""

    metric: Metric = SCORE
    attack: str | None = None
    as_listed: bool = False
    over_samples: bool = True

    @classmethod
    def of(cls, text: str | None, attacks: Sequence[str], as_listed: bool = False) -> Column:
        """From METRIC or ATTACK:METRIC, such as `worst` or `pgd20:nsd`. InputError for what is not there."""
        attack, _, name = (text or SCORE.name).rpartition(":")
        try:
            metric = metric_info(name)
        except InputError as error:
            raise InputError(f"--rank {text}: {error}") from error
        if not metric.of_classes:
            raise InputError(f"--rank {text}: {metric.title} does not follow from the classes of one network alone")
        if attack and attack not in attacks:
            raise unknown("attack of --rank", attack, attacks)
        return cls(metric, attack or None, as_listed)


@dataclass(frozen=True)
class Ranking:
    """The rows of a table in their order: students by a metric under an attack, then given networks by the same, then
    teachers.

    values: by row, mean over seeds. ranks: by row, 1 + the number of rows above it by a difference that stands; equal
    ranks are not told apart. seeds: that ranks are over. comparisons: that were corrected together. unranked: why no
    row has a rank. as_listed: rows are in the order of the report, whatever their ranks. over_samples: whether
    intervals over test samples had a say; there are none of some columns.
    """

    order: list[int]
    metric: Metric = SCORE
    attack: str = ""
    values: dict[int, float] = field(default_factory=dict)
    ranks: dict[int, int] = field(default_factory=dict)
    seeds: tuple[int, ...] = ()
    comparisons: int = 0
    unranked: str = ""
    as_listed: bool = False
    over_samples: bool = True


def rankings(
    results: Results, parts: Sequence[ClassCounts], column: Column, paired: bool | None = None
) -> dict[tuple, Ranking]:
    """By setting and checkpoint. parts: the counts of each data set; paired: see `differences`."""
    found = {}
    for setting in settings_of(results.rows):
        rows = in_setting(results.rows, setting)
        counts = next((part for part in parts if part.keys["row"].isin(rows.index).any()), None)
        for checkpoint in CHECKPOINTS:
            table = None if counts is None else _of_table(counts, rows, checkpoint)
            found[setting, checkpoint] = _ranking(results, rows, table, column, paired)
    return found


def _of_table(counts: ClassCounts, rows: pd.DataFrame, checkpoint: str) -> ClassCounts:
    shown = counts.keys["checkpoint"].isin([checkpoint, "given"])
    return counts.where((counts.keys["row"].isin(rows.index) & shown).to_numpy())


def _ranking(
    results: Results, rows: pd.DataFrame, counts: ClassCounts | None, column: Column, paired: bool | None
) -> Ranking:
    numbers = _NOTHING if counts is None else _numbers(counts, rows, column.metric)
    ranked = next((role for role in PLACES if (rows["role"] == role).any()), PLACES[0])
    attack = column.attack or _strongest_of_all(numbers[numbers["role"] == ranked])
    numbers = numbers[numbers["attack"] == attack]
    means: Any = numbers.groupby("row")["value"].mean()
    values: dict[int, float] = means.to_dict()
    students = numbers[numbers["role"] == "student"]
    members, seeds = _over_the_same_seeds(students)
    unranked = _why_unranked(rows, students, members, seeds, column.metric)
    ranks: dict[int, int] = {}
    comparisons, over_samples = 0, True
    if counts is not None and not unranked:
        comparisons = math.comb(len(members), 2)
        under = counts.where((counts.keys["attack"] == attack).to_numpy())
        by_seed = students.set_index(["seed", "row"])["value"]
        ranks, over_samples = _ranks(results, under, by_seed, members, column.metric, paired)

    def place(row: int) -> tuple:
        if column.as_listed:
            return PLACES.index(rows.loc[row, "role"]), row
        value = round(values.get(row, np.nan), 9)
        better = -value if column.metric.up else value
        return PLACES.index(rows.loc[row, "role"]), ranks.get(row, len(rows) + 1), np.isnan(value), better, row

    order = sorted(rows.index, key=place)
    return Ranking(order, column.metric, attack, values, ranks, seeds if ranks else (), comparisons, unranked,
                   column.as_listed, over_samples)  # fmt: skip


_NOTHING = pd.DataFrame(columns=["row", "seed", "attack", "role", "value", "average", "teachers"])


def _numbers(counts: ClassCounts, rows: pd.DataFrame, metric: Metric) -> pd.DataFrame:
    """A line per row, seed and attack: the value to rank by and the average, means over teachers; none of a row and
    attack where a seed has no value."""
    columns = {"value": metric.values(counts.accuracy, counts.images), "average": metrics.average(counts.accuracy)}
    keys, values = over_teachers(counts.keys, pd.DataFrame(columns), CELL)
    frame = keys[["row", "seed", "attack"]].astype({"attack": str}).join(values)
    whole = frame["value"].notna().groupby([frame["row"], frame["attack"]]).transform("all")
    return frame[whole].join(rows[["role", "teachers"]], on="row")


def _strongest_of_all(numbers: pd.DataFrame) -> str:
    """The strongest attack that all rows with results have, on all their seeds where there is one; where they have none
    in common, of any."""
    seeds: Any = numbers.groupby(["attack", "row"])["seed"].nunique().unstack("row")
    common, whole = seeds.notna().all(axis=1), (seeds == seeds.max()).all(axis=1)
    kept = seeds.index[whole if whole.any() else common]
    return strongest(numbers[numbers["attack"].isin(kept)] if len(kept) else numbers)


def _over_the_same_seeds(students: pd.DataFrame) -> tuple[list[int], tuple[int, ...]]:
    """The rows over the seeds that most rows are over (`usual`), and these seeds."""
    groups: Any = students.groupby("row")["seed"]
    lists = {int(row): tuple(sorted(int(seed) for seed in seeds)) for row, seeds in groups}
    common = usual(lists.values(), len) if lists else ()
    return [row for row, seeds in lists.items() if seeds == common], common


def _why_unranked(
    rows: pd.DataFrame, students: pd.DataFrame, members: Sequence[int], seeds: Sequence[int], metric: Metric
) -> str:
    if not (rows["role"] == "student").any():
        return "given networks are of one training each"
    if len(seeds) < FEWEST_SEEDS or len(members) < 2:
        return f"no two rows share {FEWEST_SEEDS} seeds"
    if metric.name not in COMPARED:
        return f"differences of {metric.title} have no interval over test samples"
    return "" if same_teachers(students, list(members)) else "the rows learned from different teachers"


def _ranks(
    results: Results,
    counts: ClassCounts,
    values: pd.Series,
    members: Sequence[int],
    metric: Metric,
    paired: bool | None,
) -> tuple[dict[int, int], bool]:
    """By row 1 + the number of rows above it, and whether intervals over test samples had a say: every pair is compared
    over seeds, all pairs are corrected together, and what is apart there is compared over test samples too. values: by
    seed and row."""
    pairs = list(itertools.combinations(range(len(members)), 2))
    p = compare_family(values.unstack()[list(members)].to_numpy()[:, :, None], pairs).p[:, 0]
    apart = [
        (place, members[first], members[second]) for place, (first, second) in enumerate(pairs) if p[place] < ERROR
    ]
    mine, theirs = paired_lines(counts, apart)
    ranks = dict.fromkeys(members, 1)
    if mine.keys.empty:
        return ranks, True
    found = differences_of(results, mine, theirs, paired)
    found = found[found["metric"] == metric.name]
    found = found.assign(p=p[found["row"].to_numpy(dtype=int)])
    for place, change in found.loc[stands(found).astype(bool), ["row", "difference"]].itertuples(index=False):
        first, second = (members[end] for end in pairs[int(place)])
        ranks[second if (change > 0) == metric.up else first] += 1
    return ranks, bool(found["difference_sample_low"].notna().all())
