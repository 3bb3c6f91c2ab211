"""Class-wise accuracy and what is computed from it: average, worst class, NSD. Pure functions on arrays in [0, 1].

Arrays are (..., C): the last axis is the class, any leading axes (resamples, epochs, variants) are kept. A class
without
samples is NaN and counts nowhere. What is undefined is NaN, which the store writes as null; nothing is ever infinite.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

MANY_CLASSES = 100  # from here on the single worst class says little: papers take the mean of the worst tenth


def class_counts(labels: ArrayLike, robust: ArrayLike, num_classes: int) -> tuple[Integers, Integers]:
    """(n, correct) by class, each of shape (C,): samples of the class, and those of them that are `robust`.

    labels: (N,) integers in 0..C-1. robust: (N,) booleans. Raises ValueError for a label outside.
    """
    labels, robust = np.asarray(labels, dtype=np.int64), np.asarray(robust, dtype=bool)
    if labels.shape != robust.shape:
        raise ValueError(f"{labels.shape} labels but {robust.shape} outcomes")
    if labels.size and not (labels.min() >= 0 and labels.max() < num_classes):
        raise ValueError(f"labels must be in 0..{num_classes - 1}, found {labels.min()}..{labels.max()}")
    return np.bincount(labels, minlength=num_classes), np.bincount(labels[robust], minlength=num_classes)


def rates(correct: ArrayLike, n: ArrayLike) -> Floats:
    """correct / n, NaN where n is 0."""
    correct, n = np.broadcast_arrays(np.asarray(correct, dtype=float), np.asarray(n, dtype=float))
    return np.divide(correct, n, out=np.full(n.shape, np.nan), where=n > 0)


def class_accuracy(labels: ArrayLike, robust: ArrayLike, num_classes: int) -> Floats:
    """Accuracy by class, shape (C,), over the true number of samples of each class; NaN for an absent class."""
    n, correct = class_counts(labels, robust, num_classes)
    return rates(correct, n)


def average(accuracy: ArrayLike) -> Floats:
    """Mean over the classes that are there (equal weight each, whatever their size)."""
    accuracy = np.asarray(accuracy, dtype=float)
    return _over_present(accuracy, np.where(np.isnan(accuracy), 0.0, accuracy).sum(axis=-1), _present(accuracy))


def worst(accuracy: ArrayLike) -> Floats:
    """The smallest class accuracy."""
    accuracy = np.asarray(accuracy, dtype=float)
    return _nan_if_empty(accuracy, np.where(np.isnan(accuracy), np.inf, accuracy).min(axis=-1))


def worst_class(accuracy: ArrayLike) -> Integers:
    """Index of the class with the smallest accuracy, the first of several; -1 when there is no class."""
    accuracy = np.asarray(accuracy, dtype=float)
    index = np.where(np.isnan(accuracy), np.inf, accuracy).argmin(axis=-1)
    return np.where(_present(accuracy) > 0, index, -1)


def worst_10_percent(accuracy: ArrayLike) -> Floats:
    """Mean over the worst tenth of the classes that are there, rounded up to at least one class."""
    accuracy = np.asarray(accuracy, dtype=float)
    return _worst_mean(accuracy, np.maximum(1, (_present(accuracy) + 9) // 10))


def worst_k(accuracy: ArrayLike, k: int) -> Floats:
    """Mean over the k worst of the classes that are there, over all of them where they are fewer."""
    accuracy = np.asarray(accuracy, dtype=float)
    return _worst_mean(accuracy, np.minimum(k, _present(accuracy)))


def _worst_mean(accuracy: Floats, share: Integers) -> Floats:
    """Mean over so many of the worst classes."""
    ordered = np.sort(accuracy, axis=-1)  # NaN sorts to the end
    chosen = np.arange(ordered.shape[-1]) < share[..., None]
    return _over_present(ordered, np.where(chosen & ~np.isnan(ordered), ordered, 0.0).sum(axis=-1), share)


def gap(accuracy: ArrayLike) -> Floats:
    """Best minus worst class accuracy."""
    accuracy = np.asarray(accuracy, dtype=float)
    best = np.where(np.isnan(accuracy), -np.inf, accuracy).max(axis=-1)
    return _nan_if_empty(accuracy, best) - worst(accuracy)


def nsd(accuracy: ArrayLike, *, sample: bool = False) -> Floats:
    """Normalised standard deviation: deviation over classes divided by their mean; lower is fairer.

    Population form (divide by C) by default, `sample` form (C - 1) beside it: papers do not say which they use. NaN
    when the mean is 0, and in the sample form when there is only one class.
    """
    accuracy = np.asarray(accuracy, dtype=float)
    mean, present = average(accuracy), _present(accuracy)
    squares = np.where(np.isnan(accuracy), 0.0, (accuracy - mean[..., None]) ** 2).sum(axis=-1)
    freedom = present - 1 if sample else present
    return rates(np.sqrt(rates(squares, np.maximum(freedom, 0))), mean)


def gini(accuracy: ArrayLike) -> Floats:
    """Gini coefficient: the mean absolute difference of two classes, each with itself included, over twice the mean of
    all. 0 where all are equal, 1 - 1/C where one class has everything; lower is fairer. NaN when the mean is 0."""
    accuracy = np.asarray(accuracy, dtype=float)
    ordered, present = np.sort(accuracy, axis=-1), _present(accuracy)  # NaN sorts to the end
    place = 2 * np.arange(1, ordered.shape[-1] + 1) - present[..., None] - 1
    total = np.where(np.isnan(ordered), 0.0, place * ordered).sum(axis=-1)
    return rates(total, present.astype(float) ** 2 * np.nan_to_num(average(accuracy)))


def harmonic(accuracy: ArrayLike) -> Floats:
    """Harmonic mean of average and worst class: 2 a w / (a + w), nearer to the smaller; 0 where a class has nothing."""
    accuracy = np.asarray(accuracy, dtype=float)
    mean, low = average(accuracy), worst(accuracy)
    return _nan_if_empty(accuracy, np.nan_to_num(rates(2 * mean * low, mean + low)))


def selection_score(accuracy: ArrayLike) -> Floats:
    """(average + worst) / 2; from 100 classes up with the mean of the worst tenth in place of the worst."""
    accuracy = np.asarray(accuracy, dtype=float)
    low = worst_10_percent(accuracy) if accuracy.shape[-1] >= MANY_CLASSES else worst(accuracy)
    return (average(accuracy) + low) / 2


def summary(accuracy: ArrayLike) -> dict[str, float]:
    """What training keeps of one vector of class accuracies (C,), by name; NaN where undefined."""
    accuracy = np.asarray(accuracy, dtype=float)
    return {
        "average": float(average(accuracy)),
        "worst": float(worst(accuracy)),
        "worst_class": int(worst_class(accuracy)),
        "worst_10_percent": float(worst_10_percent(accuracy)),
        "nsd_population": float(nsd(accuracy)),
        "nsd_sample": float(nsd(accuracy, sample=True)),
        "gap": float(gap(accuracy)),
        "selection_score": float(selection_score(accuracy)),
    }


def _present(accuracy: Floats) -> Integers:
    return (~np.isnan(accuracy)).sum(axis=-1)


def _over_present(accuracy: Floats, total: Floats, count: Integers) -> Floats:
    return _nan_if_empty(accuracy, rates(total, count))


def _nan_if_empty(accuracy: Floats, value: Floats) -> Floats:
    return np.where(_present(accuracy) > 0, value, np.nan)
