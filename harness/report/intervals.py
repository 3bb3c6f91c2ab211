"""The metrics of a report and their intervals for many cells at once; the formulas are `harness.metrics` and
`harness.statistics`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from harness import metrics, statistics
from harness.report.counts import ClassCounts

MOST_NSD_COUNTS = 50_000  # class counts; beyond (thousands of rows) intervals of NSD over samples would take seconds


@dataclass(frozen=True)
class Metric:
    """A column under an attack. up: whether larger is better. percent: a share of images, shown in percent."""

    name: str
    title: str
    of: Callable[[np.ndarray], np.ndarray] | None
    up: bool = True
    percent: bool = True


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("average", "Avg.", metrics.average),
        Metric("worst", "Worst", metrics.worst),
        Metric("worst_10_percent", "Worst 10%", metrics.worst_10_percent),
        Metric("nsd", "NSD", metrics.nsd, up=False, percent=False),
        Metric("nsd_sample", "NSD (sample)", lambda accuracy: metrics.nsd(accuracy, sample=True), False, False),
        Metric("gap", "Gap", metrics.gap, up=False),
        Metric("validation_worst", "Val.-worst", None),
    )
}


def seed_intervals(keys: pd.DataFrame, values: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """A line per group of `by` and metric (column of `values`): mean over seeds, `seeds`, seed_low, seed_high.

    Student's t at 95 %, as `statistics.seed_interval`; null below three seeds.
    """
    groups = values.groupby([keys[name] for name in by], sort=False, observed=True)
    mean, count = groups.mean(), groups.count()
    factor = stats.t.ppf(0.975, np.maximum(count - 1, 1)) / np.sqrt(np.maximum(count, 1))
    half = (groups.std() * factor).where(count >= statistics.FEWEST_SEEDS)
    tables = {"value": mean, "seeds": count, "seed_low": mean - half, "seed_high": mean + half}
    long = {name: table.rename_axis(columns="metric").stack(future_stack=True) for name, table in tables.items()}
    return pd.DataFrame(long).reset_index()


def sample_intervals(means: ClassCounts, validation_worst: tuple[np.ndarray, np.ndarray] | None = None) -> pd.DataFrame:
    """A line per key of `means` and metric: sample_low and sample_high, 95 % over test samples.

    means: counts of the seeds' mean on the test images (`mean_counts`). validation_worst: (correct, images) of the
    class that validation found worst, a number for each line.
    """
    correct, images = np.nan_to_num(means.correct), means.images
    found = {"average": _bounds(statistics.average_interval, correct, images), "worst": _worst_bounds(correct, images)}
    if correct.size <= MOST_NSD_COUNTS:
        found["nsd"] = _bounds(statistics.nsd_interval, correct, images)
    if validation_worst is not None:
        found["validation_worst"] = class_intervals(*validation_worst)
    parts = [
        means.keys.assign(metric=name, sample_low=low, sample_high=high) for name, (low, high) in found.items()
    ]  # fmt: skip
    return pd.concat(parts, ignore_index=True)


def class_intervals(correct: np.ndarray, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """95 % bounds of accuracies over test samples, each class by itself, of the arrays' shape."""
    return _bounds(statistics.class_interval, np.nan_to_num(correct), images)


def _bounds(
    interval: Callable[..., statistics.Interval], correct: np.ndarray, images: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    if correct.size == 0:
        return np.full(len(correct), np.nan), np.full(len(correct), np.nan)
    found = interval(np.minimum(correct, images), images)
    return found.low, found.high


def _worst_bounds(correct: np.ndarray, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Simultaneous bounds of the worst class; lines are taken together that have as many classes."""
    low, high = np.full(len(correct), np.nan), np.full(len(correct), np.nan)
    present = (images > 0).sum(axis=1)
    for count in np.unique(present[present > 0]):
        lines = present == count
        low[lines], high[lines] = _bounds(statistics.worst_interval, correct[lines], images[lines])
    return low, high
