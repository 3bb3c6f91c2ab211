"""Every variant against a baseline: which differences stand, which are inside the noise."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

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
Z = 1.959964


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

    difference_low, difference_high: 95 %, over seeds (Student's t on the differences by seed) from three seeds on,
    else over test samples (average and NSD; paired by sample where `outcomes` are read, else as if independent, which
    is wider). stands: whether that interval excludes zero; null without one. source: seeds, or test samples with how
    they were paired.
    """
    pairs = _pairs(results, counts, baselines)
    if pairs is None:
        return pd.DataFrame(columns=COLUMNS)
    mine, theirs = pairs
    values = {name: of(mine.accuracy) - of(theirs.accuracy) for name, of in COMPARED.items()}
    over_seeds = seed_intervals(mine.keys, pd.DataFrame(values), by=CELL)
    ids = set(mine.keys["trial_id"]) | set(theirs.keys["trial_id"])
    both = _both(results, mine, theirs, ids) if (len(ids) <= MOST_PAIRED if paired is None else paired) else None
    over_samples = _over_samples(mine, theirs, both)
    found = over_seeds.merge(over_samples, on=[*CELL, "metric"], how="left")
    seeds = found["seeds"] >= FEWEST_SEEDS
    low, high = (found[f"seed_{end}"].where(seeds, found[f"sample_{end}"]) for end in ("low", "high"))
    source = np.where(seeds, SEEDS, found["paired"].map({True: f"{SAMPLES}, paired", False: f"{SAMPLES}, unpaired"}))
    found = found.assign(difference=found["value"], difference_low=low, difference_high=high, source=source)
    found["stands"] = ((low > 0) | (high < 0)).astype(object).where(low.notna(), None)
    found.loc[low.isna(), "source"] = None
    return found[COLUMNS]


def _pairs(
    results: Results, counts: ClassCounts, baselines: dict[tuple, str]
) -> tuple[ClassCounts, ClassCounts] | None:
    """Lines of `counts` and, in the same order, those of the baseline with the same seed, checkpoint and attack."""
    rows = results.rows
    base_row = {
        row: base.index[0]
        for setting, part in rows.groupby(SETTING, sort=False, dropna=False)
        if setting in baselines
        for base in [part[(part["variant"] == baselines[setting]) & (part["role"] == "student")]]
        for row in part.index[part["role"] == "student"]
        if row != base.index[0]
    }
    keys = counts.keys
    of_base = keys["row"].map(base_row)
    place = pd.Series(
        np.arange(len(keys)), pd.MultiIndex.from_frame(keys[["row", "seed", "checkpoint", "attack"]].astype(object))
    )
    wanted = pd.MultiIndex.from_frame(keys.assign(row=of_base)[["row", "seed", "checkpoint", "attack"]].astype(object))
    found = place[~place.index.duplicated()].reindex(wanted).to_numpy()
    mine = np.flatnonzero(of_base.notna().to_numpy() & np.isfinite(found))
    return (counts.where(mine), counts.where(found[mine].astype(int))) if len(mine) else None


def _over_samples(mine: ClassCounts, theirs: ClassCounts, both: np.ndarray | None) -> pd.DataFrame:
    """Per cell: 95 % bounds of the mean difference in average and NSD over test samples, by first-order propagation.

    The variance of a mean over seeds on the same images is at most the mean of their variances.
    """
    first, second = mine.accuracy, theirs.accuracy
    with np.errstate(divide="ignore", invalid="ignore"):
        variances = [p * (1 - p) / (n - 1) for p, n in ((first, mine.images), (second, theirs.images))]
        shared = 0.0 if both is None else (both / mine.images - first * second) / (mine.images - 1)
    parts = []
    for name, gradient in (("average", _average_gradient), ("nsd", _nsd_gradient)):
        g, h = gradient(first), gradient(second)
        variance = np.nansum(g**2 * variances[0] + h**2 * variances[1] - 2 * g * h * shared, axis=1)
        change = COMPARED[name](first) - COMPARED[name](second)
        groups = mine.keys[CELL].assign(change=change, variance=variance).groupby(CELL, sort=False, observed=True)
        means = groups[["change", "variance"]].mean().reset_index()
        half = Z * np.sqrt(np.maximum(means["variance"], 0))
        parts.append(
            means[CELL].assign(metric=name, sample_low=means["change"] - half, sample_high=means["change"] + half)
        )
    return pd.concat(parts, ignore_index=True).assign(paired=both is not None)


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


def _both(results: Results, mine: ClassCounts, theirs: ClassCounts, ids: set[str]) -> np.ndarray | None:
    """Per line and class, the images that both networks get right; None where outcomes are missing for any line."""
    outcomes = results.outcomes(ids)
    if outcomes.empty:
        return None
    by = ["trial_id", "checkpoint", "attack"]
    parts: Any = outcomes.groupby(by, observed=True)
    robust = {key: part.set_index("sample_index") for key, part in parts}
    lines, classes = mine.images.shape
    found = np.zeros((lines, classes))
    ours, base = (pd.MultiIndex.from_frame(side.keys[by].astype(object)) for side in (mine, theirs))
    for line, (one, other) in enumerate(zip(ours, base, strict=True)):
        if one not in robust or other not in robust:
            return None
        joined = robust[one].join(robust[other]["robust"].rename("robust_base"), how="inner")
        if len(joined) != mine.images[line].sum():
            return None
        right = joined["robust"].to_numpy(dtype=bool) & joined["robust_base"].to_numpy(dtype=bool)
        found[line] = np.bincount(joined["label"].to_numpy(dtype=int)[right], minlength=classes)
    return found
