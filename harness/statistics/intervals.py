"""Error bars that say what they mean. Pure functions on arrays; formulas, sources and measured coverage are in
`docs/statistics.md`.

Two things vary, and an interval is about one of them. *Test samples*: the same networks on another test set of this
size. *Seeds*: another training with another seed, on the same test set. Accuracies are in [0, 1]; counts `correct` and
`n` have the class as their last axis. A class without samples is NaN.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from harness.statistics.metrics import Floats, average, rates, worst
from harness.statistics.nsd_interval import noise_nsd, true_nsd_quantiles

SAMPLES, SEEDS, SEEDS_AND_TEACHERS = "test samples", "seeds", "seeds and teachers"
FEWEST_SEEDS = FEWEST_TEACHERS = 3  # a spread of two numbers is no basis for an interval


@dataclass(frozen=True)
class Interval:
    """An estimate with its bounds at `level`, and over what it varies: `n` test samples or seeds. NaN: undefined."""

    estimate: Floats
    low: Floats
    high: Floats
    source: str
    n: int
    level: float = 0.95

    @property
    def excludes_zero(self) -> NDArray[np.bool_]:
        """Whether both bounds lie on one side of zero (False where undefined)."""
        return (self.low > 0) | (self.high < 0)


def class_interval(correct: ArrayLike, n: ArrayLike, level: float = 0.95) -> Interval:
    """Class accuracies (..., C) with Jeffreys intervals, over test samples, each class by itself.

    Its coverage is near `level` on both sides, where the exact interval (`exact_bounds`) covers more than it claims.
    """
    return _beta_interval(correct, n, level, 0.5, 0.5)


def exact_bounds(correct: ArrayLike, n: ArrayLike, level: float = 0.95) -> Interval:
    """Class accuracies (..., C) with Clopper-Pearson intervals: cover at least `level`, whatever the truth."""
    return _beta_interval(correct, n, level, 0.0, 1.0)


def _beta_interval(correct: ArrayLike, n: ArrayLike, level: float, near: float, far: float) -> Interval:
    """Quantiles of a beta: each bound with `near` more images on the side that it comes from, `far` on the other.
    Computed once for equal counts: these quantiles are slow, and counts repeat."""
    correct, n = _counts(correct, n)
    pairs, place = np.unique((correct + 1j * n).ravel(), return_inverse=True)
    right, images = pairs.real, pairs.imag
    wrong, tail = images - right, (1 - level) / 2
    none, every = right == 0, wrong == 0
    low = special.betaincinv(np.where(none, 1.0, right + near), wrong + far, tail)
    high = special.betaincinv(right + far, np.where(every, 1.0, wrong + near), 1 - tail)
    low = np.where(images > 0, np.where(none, 0.0, low), np.nan)[place].reshape(correct.shape)
    high = np.where(images > 0, np.where(every, 1.0, high), np.nan)[place].reshape(correct.shape)
    return _over_samples(rates(correct, n), low, high, n, level)


def simultaneous_bounds(correct: ArrayLike, n: ArrayLike, level: float = 0.95) -> Interval:
    """Class accuracies (..., C) with bounds that hold for all classes at once: exact ones, Sidak-corrected.

    Classes have separate test samples, so they are independent and Sidak's correction is exact.
    """
    correct, n = _counts(correct, n)
    classes = np.maximum(1, (n > 0).sum(axis=-1))
    if np.unique(classes).size > 1:
        raise ValueError("the same classes must be present everywhere")
    found = exact_bounds(correct, n, level ** (1 / float(classes.flat[0])))
    return Interval(found.estimate, found.low, found.high, SAMPLES, found.n, level)


def worst_interval(correct: ArrayLike, n: ArrayLike, level: float = 0.95) -> Interval:
    """The smallest class accuracy (...) with [smallest lower, smallest upper] of the simultaneous bounds.

    The estimate is biased low: the smallest of noisy numbers is smaller than the smallest of the true ones. The bounds
    are valid all the same, also when classes tie, where the bootstrap of a minimum is not.
    """
    bounds = simultaneous_bounds(correct, n, level)
    return Interval(worst(bounds.estimate), worst(bounds.low), worst(bounds.high), SAMPLES, bounds.n, level)


def average_interval(correct: ArrayLike, n: ArrayLike, level: float = 0.95) -> Interval:
    """The average over classes (...), over test samples drawn class by class.

    Wilson's interval with the effective number of samples: as many as a plain proportion of this size would need to
    have the variance of the stratified average. Never empty, never outside [0, 1].
    """
    correct, n = _counts(correct, n)
    accuracy, present = rates(correct, n), (n > 0).sum(axis=-1)
    mean, total = average(accuracy), n.sum(axis=-1)
    variance = np.nansum(rates(accuracy * (1 - accuracy), n - 1), axis=-1) / np.maximum(present, 1) ** 2
    with np.errstate(divide="ignore", invalid="ignore"):
        effective = np.where(variance > 0, mean * (1 - mean) / variance, total)
    low, high = _wilson(mean, effective, level)
    return _over_samples(mean, low, high, n, level)


def nsd_interval(correct: ArrayLike, n: ArrayLike, level: float = 0.95) -> Interval:
    """NSD (population form) of the true class accuracies (..., C), over test samples.

    Sampling noise spreads the classes, so the NSD of the observed accuracies (`metrics.nsd`) is biased high, and the
    plain bootstrap doubles that. Here the observed deviations from the mean are scaled by a factor. The bounds are the
    scalings under which an NSD as high, or as low, as the observed one would be a rare event; the estimate is the
    scaling under which it is the median, and so lies below the observed one. Zero is a possible lower bound. Where
    classes are observed more equal than equal ones would be, the upper bound is what noise alone amounts to.
    """
    correct, n = _counts(correct, n)
    accuracy = rates(correct, n)
    estimate, low, high = true_nsd_quantiles(accuracy, n, [0.5, (1 + level) / 2, (1 - level) / 2])
    return _over_samples(estimate, low, np.where(high > 0, high, noise_nsd(accuracy, n)), n, level)


def seed_interval(values: ArrayLike, level: float = 0.95, lowest: float = -np.inf, highest: float = np.inf) -> Interval:
    """Mean over seeds (axis 0) with Student's t interval; bounds are NaN below three seeds.

    lowest, highest: where the values can lie; the bounds stay within.
    """
    values = np.asarray(values, dtype=float)
    mean, half = values.mean(axis=0), _half(values, level)
    low, high = np.clip(mean - half, lowest, highest), np.clip(mean + half, lowest, highest)
    return Interval(mean, low, high, SEEDS, len(values), level)


def crossed_interval(
    values: ArrayLike, level: float = 0.95, lowest: float = -np.inf, highest: float = np.inf
) -> Interval:
    """Mean over seeds and teachers (axes 0 and 1) of networks from every seed and every teacher, with an interval for
    other seeds and other teachers; bounds are NaN below three of either.

    Both are random effects: the variance of the mean is (MS_seeds + MS_teachers - MS_rest) / (S T) in mean squares of
    the two-way layout. The rest is not taken off, and each of the other two has the t of its own degrees of freedom
    (Banerjee): at least 95 % are covered whatever varies.
    """
    values = np.asarray(values, dtype=float)
    mean = values.mean(axis=(0, 1))
    half = np.hypot(*(_half(values.mean(axis=other), level) for other in (1, 0)))
    low, high = np.clip(mean - half, lowest, highest), np.clip(mean + half, lowest, highest)
    return Interval(mean, low, high, SEEDS_AND_TEACHERS, len(values), level)


def _half(values: Floats, level: float) -> Floats:
    """Half the width of Student's t interval of the mean over axis 0; NaN below three values."""
    count = len(values)
    if count < FEWEST_SEEDS:
        return np.full(values.shape[1:], np.nan)
    return special.stdtrit(count - 1, (1 + level) / 2) * values.std(axis=0, ddof=1) / np.sqrt(count)


def _over_samples(estimate: Floats, low: Floats, high: Floats, n: Floats, level: float) -> Interval:
    return Interval(estimate, low, high, SAMPLES, int(np.sum(n[(0,) * (n.ndim - 1)])), level)


def _wilson(rate: Floats, n: Floats, level: float) -> tuple[Floats, Floats]:
    z = special.ndtri((1 + level) / 2)
    with np.errstate(divide="ignore", invalid="ignore"):
        centre = (rate + z**2 / (2 * n)) / (1 + z**2 / n)
        half = z / (1 + z**2 / n) * np.sqrt(rate * (1 - rate) / n + z**2 / (4 * n**2))
    return np.maximum(centre - half, 0.0), np.minimum(centre + half, 1.0)


def _counts(correct: ArrayLike, n: ArrayLike) -> tuple[Floats, Floats]:
    correct, n = np.broadcast_arrays(np.asarray(correct, dtype=float), np.asarray(n, dtype=float))
    if np.any(correct < 0) or np.any(correct > n):
        raise ValueError("correct must be in 0..n")
    return correct, n
