"""The metrics of a report and their intervals for many cells at once; the formulas are `harness.statistics.metrics` and
`harness.statistics.intervals`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from scipy import special

from harness.report.scores.counts import ClassCounts
from harness.statistics import intervals
from harness.statistics.registry import METRICS

MOST_NSD_COUNTS = 50_000  # class counts; beyond (thousands of rows) intervals of NSD over samples would take seconds


def seed_intervals(
    keys: pd.DataFrame, values: pd.DataFrame, by: Sequence[str], within: Mapping[str, tuple[float, float]] | None = None
) -> pd.DataFrame:
    """A line per group of `by` and metric (column of `values`): mean over seeds, null where one has no value, `seeds`
    that have one, seed_low, seed_high.

    keys: also `seed` and `teacher_seed`. The value of a seed is the mean over its teachers. Student's t at 95 %, as
    `statistics.seed_interval`; null below three seeds. From three teachers on the bounds are over seeds and teachers,
    as `statistics.crossed_interval`. within: where values of a metric can lie, by default 0 to 1, NSD from 0 on; the
    bounds stay there.
    """
    limits = within or {name: metric.within for name, metric in METRICS.items()}
    lowest, highest = ([limits[str(name)][end] for name in values] for end in (0, 1))
    seeds, means = over_teachers(keys, values, by)
    groups = means.groupby([seeds[name] for name in by], sort=False, observed=True)
    count = groups.count()
    mean = groups.mean().where(count.eq(groups.size(), axis=0))  # of a seed without a value it is no mean of the others
    factor = special.stdtrit(np.maximum(count - 1, 1), 0.975) / np.sqrt(np.maximum(count, 1))
    half = (groups.std() * factor).where((count >= intervals.FEWEST_SEEDS) & mean.notna())
    for group, crossed in _crossed_halves(keys, values, by).items():
        half.loc[group] = crossed
    low, high = (mean - half).clip(lower=lowest, axis=1), (mean + half).clip(upper=highest, axis=1)
    tables = {"value": mean, "seeds": count, "seed_low": low, "seed_high": high}
    long = {name: table.rename_axis(columns="metric").stack(future_stack=True) for name, table in tables.items()}
    return pd.DataFrame(long).reset_index()


def over_teachers(keys: pd.DataFrame, values: pd.DataFrame, by: Sequence[str]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """A line per group of `by` and seed: its keys, and the mean over the teachers that the seed was trained from; NaN
    where one of them has no value."""
    names = [*by, "seed"]
    if not keys.duplicated(names).any():
        return keys, values
    groups = values.groupby([keys[name] for name in names], sort=False, observed=True)
    means = groups.mean().where(groups.count().eq(groups.size(), axis=0))
    return means.index.to_frame(index=False), means.reset_index(drop=True)


def _crossed_halves(keys: pd.DataFrame, values: pd.DataFrame, by: Sequence[str]) -> dict[tuple, np.ndarray]:
    """Half the width of `statistics.crossed_interval` of each metric, by group of `by` with three teachers or more; NaN
    where not every seed was trained from every teacher."""
    groups = keys.groupby(list(by), sort=False, observed=True)
    several = keys[groups["teacher_seed"].transform("nunique") >= intervals.FEWEST_TEACHERS]
    found: dict[tuple, np.ndarray] = {}
    parts: Any = several.groupby(list(by), sort=False, observed=True).groups
    for key, lines in parts.items():
        networks = pd.MultiIndex.from_frame(keys.loc[lines, ["seed", "teacher_seed"]])
        seeds, teachers = (networks.unique(level) for level in (0, 1))
        table = values.loc[lines].set_axis(networks).reindex(pd.MultiIndex.from_product([seeds, teachers]))
        interval = intervals.crossed_interval(table.to_numpy().reshape(len(seeds), len(teachers), -1))
        found[key] = interval.high - interval.estimate
    return found


def sample_intervals(
    counts: ClassCounts, by: Sequence[str], others: Mapping[str, tuple[np.ndarray, np.ndarray]] | None = None
) -> pd.DataFrame:
    """A line per group of `by` and metric: sample_low and sample_high, 95 % over test samples.

    counts: a line per network. Bounds of a group are the means of its networks' bounds: they saw the same images, so
    that their errors do not average out. others: by metric (correct, images), a number for each line, of metrics that
    are one share of images.
    """
    correct, images = np.nan_to_num(counts.correct), counts.images
    found = {"average": _bounds(intervals.average_interval, correct, images), "worst": worst_bounds(correct, images)}
    if correct.size <= MOST_NSD_COUNTS:
        found["nsd"] = _bounds(intervals.nsd_interval, correct, images)
    found |= {name: class_intervals(*counted) for name, counted in (others or {}).items()}
    return mean_bounds(counts.keys, found, by)


def mean_bounds(
    keys: pd.DataFrame, bounds: Mapping[str, tuple[np.ndarray, np.ndarray]], by: Sequence[str]
) -> pd.DataFrame:
    """A line per group of `by` and metric: the means of its lines' (low, high), sample_low and sample_high."""
    parts = []
    for name, (low, high) in bounds.items():
        frame = keys[list(by)].assign(sample_low=low, sample_high=high)
        groups = frame.groupby(list(by), sort=False, observed=True)
        means: Any = groups.mean().where(groups.count().eq(groups.size(), axis=0))
        parts.append(means.reset_index().assign(metric=name))
    return pd.concat(parts, ignore_index=True)


def nsd_quantiles(counts: ClassCounts) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each line the median-unbiased estimate of its true NSD and the 95 % bounds, over test samples."""
    found = intervals.nsd_interval(np.nan_to_num(counts.correct), counts.images)
    return found.estimate, found.low, found.high


def class_intervals(correct: np.ndarray, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """95 % bounds of accuracies over test samples, each class by itself, of the arrays' shape."""
    return _bounds(intervals.class_interval, np.nan_to_num(correct), images)


def _bounds(
    interval: Callable[..., intervals.Interval], correct: np.ndarray, images: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    if correct.size == 0:
        return np.full(len(correct), np.nan), np.full(len(correct), np.nan)
    found = interval(np.minimum(correct, images), images)
    return found.low, found.high


def worst_bounds(correct: np.ndarray, images: np.ndarray, level: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
    """Bounds of the worst class of each line (G, C): `statistics.worst_interval` over the classes that are there."""
    low, high = np.full(len(correct), np.nan), np.full(len(correct), np.nan)
    present = (images > 0).sum(axis=1)
    for count in np.unique(present[present > 0]):
        lines = present == count
        worst = partial(intervals.worst_interval, level=level)
        low[lines], high[lines] = _bounds(worst, correct[lines], images[lines])
    return low, high
