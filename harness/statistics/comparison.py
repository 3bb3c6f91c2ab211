"""Two variants on the same test images: what differs, and whether the difference stands.

Both networks see the same images, so differences are taken image by image within a seed, and then over seeds. The two
kinds of interval answer two questions: would other test images say so too, and would other trainings?
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from harness.statistics.intervals import FEWEST_SEEDS, SAMPLES, SEEDS, Interval, seed_interval
from harness.statistics.metrics import Floats, average, class_counts, nsd, rates, worst
from harness.statistics.nsd_interval import most_nsd, nsd_difference_bounds
from harness.statistics.pairing import Paired
from harness.statistics.worst_class import worst_difference_bounds


@dataclass(frozen=True)
class Difference:
    """First minus second variant, over both sources. `seeds` has NaN bounds below three seeds."""

    samples: Interval
    seeds: Interval


@dataclass(frozen=True)
class Comparison:
    """Differences in average, in worst class and in NSD (population form), each (), and in each class (C,), with
    p-values by class (C,).

    `p_holm` are corrected for the number of classes; `p_source` says over what they were taken.
    """

    average: Difference
    worst: Difference
    nsd: Difference
    classes: Difference
    p_values: Floats
    p_holm: Floats
    p_source: str


def compare(
    labels: ArrayLike,
    first: ArrayLike,
    second: ArrayLike,
    num_classes: int,
    level: float = 0.95,
    seeds: ArrayLike | None = None,
) -> Comparison:
    """First minus second variant. labels: (N,); first, second: (S, N) or (N,) booleans, robust or not, by seed.

    Row s of both must come from the same seed, and teacher. seeds: (S,) the seed of each row, by default one each; what
    is said over seeds is said of the means over rows of one seed. Raises ValueError for shapes that do not pair.
    """
    paired = Paired.of(labels, first, second, num_classes)
    accuracy, images = paired.accuracy, int(paired.n.sum())
    change = {name: of(accuracy) for name, of in {"average": average, "worst": worst, "nsd": nsd}.items()}
    bounds = {
        "average": average_difference_bounds(paired, level),
        "worst": worst_difference_bounds(paired, level),
        "nsd": nsd_difference_bounds(paired, level),
    }
    most = float(most_nsd(accuracy[0]))
    within = WITHIN | {"nsd": (-most, most)}
    found = {}
    for name, values in change.items():
        by_seed = seed_means(values[: paired.seeds] - values[paired.seeds :], seeds)
        low, high = (np.asarray(end) for end in bounds[name])
        samples = Interval(by_seed.mean(axis=0), low, high, SAMPLES, images, level)
        found[name] = Difference(samples, seed_interval(by_seed, level, *within[name]))
    p_values, p_source = class_p_values(labels, first, second, num_classes, seeds)
    change_by_class = seed_means(accuracy[: paired.seeds] - accuracy[paired.seeds :], seeds)
    return Comparison(
        **found,
        classes=Difference(
            _class_interval(paired, level),
            seed_interval(change_by_class, level, *WITHIN["average"]),
        ),
        p_values=p_values,
        p_holm=holm(p_values),
        p_source=p_source,
    )


def seed_means(values: Floats, seeds: ArrayLike | None = None) -> Floats:
    """Of values (S, ...) the mean over those of one seed, in the order of seeds. seeds: (S,), by default one each."""
    if seeds is None or len(np.unique(seeds)) == len(values):
        return values
    _, place = np.unique(seeds, return_inverse=True)
    return np.stack([values[place == seed].mean(axis=0) for seed in range(place.max() + 1)])


WITHIN = {  # where differences can lie; of NSD, `most_nsd` of the classes that are there
    "average": (-1.0, 1.0), "worst": (-1.0, 1.0), "nsd": (-np.inf, np.inf)
}  # fmt: skip


def average_difference_bounds(paired: Paired, level: float = 0.95) -> tuple[float, float]:
    """Bounds of the mean over seeds of the difference in average, over test images drawn class by class.

    As Agresti and Min for paired proportions, with one half of an image better and one half worse in all classes
    together, so that no interval is empty when the variants never differ.
    """
    there, signs = paired.there, paired.signs
    present = int(there.sum())
    if not present:
        return np.nan, np.nan
    accuracy, covariance = paired.moments(1 / present)
    middle = (signs @ accuracy)[there].mean()
    half = special.ndtri((1 + level) / 2) * np.sqrt((signs @ covariance @ signs)[there].sum()) / present
    return max(-1.0, middle - half), min(1.0, middle + half)


def class_p_values(
    labels: ArrayLike, first: ArrayLike, second: ArrayLike, num_classes: int, seeds: ArrayLike | None = None
) -> tuple[Floats, str]:
    """Two-sided p-values (C,) of no difference in a class, and their source; arguments as in `compare`.

    From three seeds on a paired t-test over seeds. Counts are whole images, so a spread is not known finer than their
    rounding, and seeds that agree to the image are no proof. Below three seeds the exact sign test over the images on
    which the variants differ (with one seed McNemar's exact test); it speaks of these trained networks only.
    """
    labels, first, second = np.asarray(labels), np.atleast_2d(first).astype(bool), np.atleast_2d(second).astype(bool)
    n = np.bincount(labels, minlength=num_classes)
    if len(first if seeds is None else np.unique(seeds)) >= FEWEST_SEEDS:
        change = _accuracies(labels, first, num_classes) - _accuracies(labels, second, num_classes)
        return seed_p_values(seed_means(change, seeds), n), SEEDS
    gain = first.sum(axis=0, dtype=int) - second.sum(axis=0, dtype=int)
    better, worse = (np.bincount(labels[side], minlength=num_classes) for side in (gain > 0, gain < 0))
    p_values = np.minimum(1.0, 2 * special.bdtr(np.minimum(better, worse), better + worse, 0.5))
    return np.where(n > 0, p_values, np.nan), SAMPLES


def seed_p_values(change: Floats, images: ArrayLike) -> Floats:
    """Two-sided p-values (C,) of paired t-tests over seeds; change: (S, C) of accuracies over `images` (C,) images.

    The variance is at least that of rounding two accuracies to whole images, 1 / (6 n^2) (Sheppard).
    """
    seeds = len(change)
    with np.errstate(divide="ignore"):
        variance = np.maximum(change.var(axis=0, ddof=1), 1 / (6 * np.square(np.asarray(images, dtype=float))))
    return 2 * special.stdtr(seeds - 1, -np.abs(change.mean(axis=0)) / np.sqrt(variance / seeds))


def holm(p_values: ArrayLike) -> Floats:
    """Holm's step-down correction over the last axis: rejecting those below alpha keeps the chance of any false one
    below alpha, whatever the dependence. NaN count for nothing.
    """
    p_values = np.asarray(p_values, dtype=float)
    order = np.argsort(p_values, axis=-1)  # NaN last
    count = (~np.isnan(p_values)).sum(axis=-1, keepdims=True)
    steps = np.take_along_axis(p_values, order, -1) * np.maximum(count - np.arange(p_values.shape[-1]), 1)
    corrected = np.empty_like(p_values)
    np.put_along_axis(corrected, order, np.minimum(np.fmax.accumulate(steps, axis=-1), 1.0), -1)
    return np.where(np.isnan(p_values), np.nan, corrected)


def _accuracies(labels: np.ndarray, robust: np.ndarray, num_classes: int) -> Floats:
    """Class accuracies by seed, (S, C)."""
    return np.array([rates(correct, n) for n, correct in (class_counts(labels, row, num_classes) for row in robust)])


def _class_interval(paired: Paired, level: float) -> Interval:
    """Agresti and Min's, of the difference in each class (C,), each class by itself."""
    accuracy, covariance = paired.moments(1.0)
    signs = paired.signs
    middle, error = signs @ accuracy, np.sqrt(signs @ covariance @ signs)
    z = special.ndtri((1 + level) / 2)
    low, high = (np.where(paired.there, np.clip(middle + side * z * error, -1, 1), np.nan) for side in (-1, 1))
    return Interval(signs @ paired.accuracy, low, high, SAMPLES, int(paired.n.sum()), level)
