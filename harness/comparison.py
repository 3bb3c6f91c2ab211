"""Two variants on the same test images: what differs, and whether the difference stands.

Both networks see the same images, so differences are taken image by image within a seed, and then over seeds. The two
kinds of interval answer two questions: would other test images say so too, and would other trainings?
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from harness.metrics import Floats, average, class_counts, nsd, rates
from harness.statistics import FEWEST_SEEDS, RESAMPLES, SAMPLES, SEEDS, Generator, Interval, seed_interval


@dataclass(frozen=True)
class Difference:
    """First minus second variant, over both sources. `seeds` has NaN bounds below three seeds."""

    samples: Interval
    seeds: Interval

    @property
    def stands(self) -> NDArray[np.bool_]:
        """Whether every interval that is defined excludes zero: a difference that is not within the noise."""
        undefined = np.isnan(self.seeds.low)
        return self.samples.excludes_zero & (self.seeds.excludes_zero | undefined)


@dataclass(frozen=True)
class Comparison:
    """Differences in average (), in each class (C,) and in NSD (population form, ()), with p-values by class (C,).

    `p_holm` are corrected for the number of classes; `p_source` says over what they were taken.
    """

    average: Difference
    classes: Difference
    nsd: Difference
    p_values: Floats
    p_holm: Floats
    p_source: str


def compare(
    labels: ArrayLike,
    first: ArrayLike,
    second: ArrayLike,
    num_classes: int,
    generator: Generator,
    level: float = 0.95,
    resamples: int = RESAMPLES,
) -> Comparison:
    """First minus second variant. labels: (N,); first, second: (S, N) or (N,) booleans, robust or not, by seed.

    Row s of both must come from the same seed. Raises ValueError for shapes that do not pair.
    """
    labels, first, second = np.asarray(labels), np.atleast_2d(first).astype(bool), np.atleast_2d(second).astype(bool)
    if not first.shape == second.shape == (len(first), len(labels)):
        raise ValueError(f"outcomes of shape {first.shape} and {second.shape} do not pair on {len(labels)} images")
    one, other = (_accuracies(labels, robust, num_classes) for robust in (first, second))
    classes, mean = _mean_differences(labels, first, second, num_classes, level)
    spread = _nsd_difference(labels, first, second, num_classes, np.random.default_rng(generator), level, resamples)
    p_values, p_source = class_p_values(labels, first, second, num_classes)
    return Comparison(
        average=Difference(mean, seed_interval(average(one) - average(other), level)),
        classes=Difference(classes, seed_interval(one - other, level)),
        nsd=Difference(spread, seed_interval(nsd(one) - nsd(other), level)),
        p_values=p_values,
        p_holm=holm(p_values),
        p_source=p_source,
    )


def class_p_values(labels: ArrayLike, first: ArrayLike, second: ArrayLike, num_classes: int) -> tuple[Floats, str]:
    """Two-sided p-values (C,) of no difference in a class, and their source; arguments as in `compare`.

    From three seeds on a paired t-test over seeds. Below, the exact sign test over the images on which the variants
    differ (with one seed this is McNemar's exact test); it speaks of these trained networks only.
    """
    labels, first, second = np.asarray(labels), np.atleast_2d(first).astype(bool), np.atleast_2d(second).astype(bool)
    if len(first) >= FEWEST_SEEDS:
        change = _accuracies(labels, first, num_classes) - _accuracies(labels, second, num_classes)
        error = change.std(axis=0, ddof=1) / np.sqrt(len(change))
        ratio = np.divide(np.abs(change.mean(axis=0)), error, out=np.full(num_classes, np.inf), where=error > 0)
        p_values = 2 * special.stdtr(len(change) - 1, -ratio)
        return np.where(error > 0, p_values, np.where(change.mean(axis=0) == 0, 1.0, p_values)), SEEDS
    change = first.sum(axis=0, dtype=int) - second.sum(axis=0, dtype=int)
    better, worse = (np.bincount(labels[side], minlength=num_classes) for side in (change > 0, change < 0))
    fewer = np.minimum(better, worse)
    p_values = np.minimum(1.0, 2 * special.bdtr(fewer, better + worse, 0.5))
    return np.where(np.bincount(labels, minlength=num_classes) > 0, p_values, np.nan), SAMPLES


def holm(p_values: ArrayLike) -> Floats:
    """Holm's step-down correction (C,): rejecting those below alpha keeps the chance of any false one below alpha."""
    p_values = np.asarray(p_values, dtype=float)
    order = np.argsort(p_values)  # NaN last
    count = int((~np.isnan(p_values)).sum())
    steps = p_values[order] * np.maximum(count - np.arange(len(order)), 1)
    corrected = np.empty_like(p_values)
    corrected[order] = np.minimum(np.fmax.accumulate(steps), 1.0)
    return np.where(np.isnan(p_values), np.nan, corrected)


def _accuracies(labels: np.ndarray, robust: np.ndarray, num_classes: int) -> Floats:
    """Class accuracies by seed, (S, C)."""
    return np.array([rates(correct, n) for n, correct in (class_counts(labels, row, num_classes) for row in robust)])


def _mean_differences(
    labels: np.ndarray, first: np.ndarray, second: np.ndarray, num_classes: int, level: float
) -> tuple[Interval, Interval]:
    """By class (C,) and on average (), over test samples; each image counts with its mean difference over seeds.

    As Agresti and Min for paired proportions, one half of an image better and one half worse is added (to each class;
    for the average, to all classes together), so that no interval is empty when the variants never differ.
    """
    change = first.mean(axis=0) - second.mean(axis=0)
    n, total = np.bincount(labels, minlength=num_classes), np.bincount(labels, change, num_classes)
    squares = np.bincount(labels, change**2, num_classes)
    present, z = max(1, int((n > 0).sum())), special.ndtri((1 + level) / 2)
    middle = total / (n + 2)
    error = np.sqrt(((squares + 1) / (n + 2) - middle**2) / (n + 2))
    there = n > 0
    low, high = (np.where(there, np.clip(middle + side * z * error, -1, 1), np.nan) for side in (-1, 1))
    by_class = Interval(rates(total, n), low, high, SAMPLES, len(labels), level)
    share = 1 / present
    variance = ((squares + share) / (n + 2 * share) - rates(total, n) ** 2) / np.maximum(n - 1, 1)
    mean, half = average(by_class.estimate), z * np.sqrt(np.nansum(np.where(there, variance, 0.0))) / present
    return by_class, Interval(mean, mean - half, mean + half, SAMPLES, len(labels), level)


def _nsd_difference(
    labels: np.ndarray,
    first: np.ndarray,
    second: np.ndarray,
    num_classes: int,
    generator: np.random.Generator,
    level: float,
    resamples: int,
) -> Interval:
    """Difference in NSD (mean over seeds), over test samples: basic bootstrap, which takes its bias off twice over.

    Images are redrawn within their class together with what all networks said of them. The bounds mirror the
    bootstrap's about the observed difference: the noise that raised the observed NSDs raises the redrawn ones again.
    """
    robust = np.concatenate([first, second]).T  # (N, 2 S)
    sides = np.repeat([1.0, -1.0], len(first)) / len(first)

    def difference(accuracy: Floats) -> Floats:
        return (nsd(np.moveaxis(accuracy, -1, -2)) * sides).sum(axis=-1)

    drawn = _redrawn(labels, robust, num_classes, resamples, generator)
    observed = difference(_accuracies(labels, robust.T, num_classes).T)
    tail = 100 * (1 - level) / 2
    top, bottom = np.nanpercentile(difference(drawn), [100 - tail, tail]) if np.isfinite(observed) else (np.nan, np.nan)
    return Interval(observed, 2 * observed - top, 2 * observed - bottom, SAMPLES, len(labels), level)


def _redrawn(
    labels: np.ndarray, robust: np.ndarray, num_classes: int, resamples: int, generator: np.random.Generator
) -> Floats:
    """Class accuracies of redrawn test sets, (R, C, K), of K networks at once; robust: (N, K).

    Images with the same pattern of outcomes are interchangeable: one multinomial draw per class replaces N draws.
    """
    drawn = np.full((resamples, num_classes, robust.shape[1]), np.nan)
    for index in range(num_classes):
        patterns, counts = np.unique(robust[labels == index], axis=0, return_counts=True)
        if n := int(counts.sum()):
            drawn[:, index] = generator.multinomial(n, counts / n, size=resamples) @ patterns.astype(float) / n
    return drawn
