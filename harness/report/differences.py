"""Two variants against each other, and every variant against a baseline: which differences stand, which are noise."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from harness import metrics
from harness.report.counts import ClassCounts
from harness.report.intervals import seed_intervals
from harness.report.results import SETTING, Results
from harness.statistics import FEWEST_SEEDS, SAMPLES, SEEDS

CELL = ["row", "checkpoint", "attack"]
COLUMNS = [*CELL, "metric", "difference", "difference_low", "difference_high", "stands", "source"]
COMPARED = {
    "average": metrics.average,
    "worst": metrics.worst,
    "worst_10_percent": metrics.worst_10_percent,
    "nsd": metrics.nsd,
}
MOST_PAIRED = 60  # trials whose outcomes are read without being asked
Z = float(stats.norm.ppf(0.975))


def pick_baselines(rows: pd.DataFrame, name: str | None = None) -> dict[tuple, str]:
    """By setting the variant that others are compared with: `name`, else the row of method `at`, if there is one."""
    found = {}
    for setting, part in rows[rows["role"] == "student"].groupby(SETTING, sort=False, dropna=False):
        chosen = part["variant"] == name if name is not None else part["method"] == "at"
        if chosen.any() and len(part) > 1:
            found[setting] = str(part.loc[chosen, "variant"].iloc[0])
    return found


def differences(
    results: Results, counts: ClassCounts, baselines: dict[tuple, str], *, paired: bool | None = None
) -> pd.DataFrame:
    """A line per row, checkpoint, attack and metric: row minus baseline, mean over the seeds both have.

    difference_low, difference_high: 95 %, over seeds (Student's t on the differences by seed) from three seeds on, else
    over test samples (average and NSD; paired by sample where `outcomes` are read, else as if independent, which is
    wider). stands: whether that interval excludes zero; null without one. source: what the interval is over.
    """
    rows = results.rows
    students = rows[rows["role"] == "student"]
    base = {}
    for setting, part in students.groupby(SETTING, sort=False, dropna=False):
        if setting in baselines:
            first = part.index[part["variant"] == baselines[setting]][0]
            base |= {row: first for row in part.index if row != first}
    pairs = paired_lines(counts, base)
    if not len(pairs[0].keys):
        return pd.DataFrame(columns=COLUMNS)
    ids = set(pairs[0].keys["trial_id"]) | set(pairs[1].keys["trial_id"])
    wanted = len(ids) <= MOST_PAIRED if paired is None else paired
    return metric_differences(*pairs, Outcomes(results, ids).both(*pairs) if wanted else None)


def paired_lines(counts: ClassCounts, base: dict[int, int]) -> tuple[ClassCounts, ClassCounts]:
    """The lines of the rows in `base`, and in the same order those of their counterpart with the same seed and attack."""
    keys = counts.keys
    names = ["row", "seed", "checkpoint", "attack"]
    counterpart = keys["row"].map(base)
    index = pd.MultiIndex.from_frame(keys[names].astype(object))
    place = pd.Series(np.arange(len(keys)), index)
    wanted = pd.MultiIndex.from_frame(keys.assign(row=counterpart)[names].astype(object))
    found = place[~index.duplicated()].reindex(wanted).to_numpy(dtype=float)
    mine = np.flatnonzero(counterpart.notna().to_numpy() & np.isfinite(found))
    return counts.where(mine), counts.where(found[mine].astype(int))


def metric_differences(mine: ClassCounts, theirs: ClassCounts, both: np.ndarray | None) -> pd.DataFrame:
    """`differences` of lines that belong together; both: per line and class, the images that both got right."""
    values = {name: of(mine.accuracy) - of(theirs.accuracy) for name, of in COMPARED.items()}
    found = seed_intervals(mine.keys, pd.DataFrame(values), by=CELL)
    found = found.merge(_metrics_over_samples(mine, theirs, both), on=[*CELL, "metric"], how="left")
    seeds = found["seeds"] >= FEWEST_SEEDS
    low, high = (found[f"seed_{end}"].where(seeds, found[f"sample_{end}"]) for end in ("low", "high"))
    source = np.where(seeds, SEEDS, _pairing(both))
    found = found.assign(difference=found["value"], difference_low=low, difference_high=high, source=source)
    found["stands"] = ((low > 0) | (high < 0)).astype(object).where(low.notna(), None)
    found.loc[low.isna(), "source"] = None
    return found[COLUMNS]


def class_differences(mine: ClassCounts, theirs: ClassCounts, both: np.ndarray | None) -> pd.DataFrame:
    """A line per row, checkpoint and attack with arrays (C,): difference, half (of the 95 % interval), p (Holm's).

    Over seeds from three seeds on, else over test samples. p: of a true difference of zero, corrected for having
    looked at every class. source: what they are over.
    """
    variance = sum(np.nan_to_num(part) for part in _variances(mine, theirs, both))
    change = mine.accuracy - theirs.accuracy
    lines = []
    for key, part in mine.keys.groupby(CELL, sort=False, observed=True):
        members = part.index.to_numpy()
        count = len(members)
        over_seeds = count >= FEWEST_SEEDS
        mean = change[members].mean(axis=0)
        spread = change[members].std(axis=0, ddof=1) / np.sqrt(count) if over_seeds else None
        error = np.sqrt(np.maximum(variance[members].mean(axis=0), 0)) if spread is None else spread
        freedom = count - 1 if over_seeds else np.inf
        with np.errstate(divide="ignore", invalid="ignore"):
            p = 2 * stats.t.sf(np.abs(mean) / error, freedom)
        p = np.where((error == 0) & (mean == 0), 1.0, p)
        half = stats.t.ppf(0.975, freedom) * error
        source = SEEDS if over_seeds else _pairing(both)
        lines.append([*key, mean, half, holm(p), source])
    return pd.DataFrame(lines, columns=[*CELL, "difference", "half", "p", "source"])


def holm(p: np.ndarray) -> np.ndarray:
    """Holm's correction of (C,) p-values: valid for all of them together, whatever their dependence. NaN stays."""
    corrected = np.full(len(p), np.nan)
    known = np.flatnonzero(~np.isnan(p))
    order = known[np.argsort(p[known], kind="stable")]
    steps = np.arange(len(order), 0, -1) * p[order]
    corrected[order] = np.minimum(np.maximum.accumulate(steps), 1.0) if len(order) else steps
    return corrected


class Outcomes:
    """Which test images each network got right, by trial, checkpoint and attack; read once, asked for many pairs."""

    def __init__(self, results: Results, trial_ids: Collection[str]) -> None:
        frame = results.outcomes(trial_ids)
        frame = frame.sort_values("sample_index", kind="stable")
        groups: Any = frame.groupby(["trial_id", "checkpoint", "attack"], observed=True)
        columns = ["sample_index", "label", "robust"]
        self.flags = {key: tuple(part[name].to_numpy() for name in columns) for key, part in groups}

    def both(self, mine: ClassCounts, theirs: ClassCounts) -> np.ndarray | None:
        """Per line and class, the images that both networks get right; None where any line lacks its outcomes."""
        lines, classes = mine.images.shape
        found = np.zeros((lines, classes))
        for line, (one, other) in enumerate(zip(_keys(mine), _keys(theirs), strict=True)):
            if one not in self.flags or other not in self.flags:
                return None
            (index, label, robust), (index_too, _, robust_too) = self.flags[one], self.flags[other]
            if not np.array_equal(index, index_too) or len(index) != mine.images[line].sum():
                return None
            right = robust.astype(bool) & robust_too.astype(bool)
            found[line] = np.bincount(label[right].astype(int), minlength=classes)
        return found


def _keys(counts: ClassCounts) -> Sequence[Any]:
    return list(pd.MultiIndex.from_frame(counts.keys[["trial_id", "checkpoint", "attack"]].astype(object)))


def _pairing(both: np.ndarray | None) -> str:
    return f"{SAMPLES}, unpaired" if both is None else f"{SAMPLES}, paired"


def _variances(mine: ClassCounts, theirs: ClassCounts, both: np.ndarray | None) -> list[np.ndarray]:
    """Of the class accuracies over test samples: mine, theirs, and -2 x what they share; they sum to the difference's."""
    first, second = mine.accuracy, theirs.accuracy
    with np.errstate(divide="ignore", invalid="ignore"):
        own = [p * (1 - p) / (n - 1) for p, n in ((first, mine.images), (second, theirs.images))]
        shared = np.zeros_like(first) if both is None else (both / mine.images - first * second) / (mine.images - 1)
    return [*own, -2 * shared]


def _metrics_over_samples(mine: ClassCounts, theirs: ClassCounts, both: np.ndarray | None) -> pd.DataFrame:
    """Per cell: 95 % bounds of the mean difference in average and NSD over test samples, by first-order propagation.

    The variance of a mean over seeds on the same images is at most the mean of their variances.
    """
    first, second = mine.accuracy, theirs.accuracy
    variance_mine, variance_theirs, shared = _variances(mine, theirs, both)
    parts = []
    for name, gradient in (("average", _average_gradient), ("nsd", _nsd_gradient)):
        g, h = gradient(first), gradient(second)
        variance = np.nansum(g**2 * variance_mine + h**2 * variance_theirs + g * h * shared, axis=1)
        change = COMPARED[name](first) - COMPARED[name](second)
        groups = mine.keys[CELL].assign(change=change, variance=variance).groupby(CELL, sort=False, observed=True)
        means = groups[["change", "variance"]].mean().reset_index()
        half = Z * np.sqrt(np.maximum(means["variance"], 0))
        bounds = {"sample_low": means["change"] - half, "sample_high": means["change"] + half}
        parts.append(means[CELL].assign(metric=name, **bounds))
    return pd.concat(parts, ignore_index=True)


def _average_gradient(accuracy: np.ndarray) -> np.ndarray:
    """How the average moves with each class accuracy."""
    return np.broadcast_to(1 / (~np.isnan(accuracy)).sum(axis=1, keepdims=True), accuracy.shape)


def _nsd_gradient(accuracy: np.ndarray) -> np.ndarray:
    """How NSD = deviation / mean moves with each class accuracy; NaN where it is 0 or undefined."""
    mean = metrics.average(accuracy)[:, None]
    deviation = metrics.nsd(accuracy)[:, None] * mean
    count = (~np.isnan(accuracy)).sum(axis=1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        return ((accuracy - mean) / (deviation * mean) - deviation / mean**2) / count
