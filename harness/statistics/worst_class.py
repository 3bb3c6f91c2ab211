"""Bounds of the difference between two variants' worst classes that use the pairing and hold where classes tie.

Which class is worst is not known, but any true answer is one of a few candidates (Gupta's subset selection). With a
the first network's worst class, the difference of the worst classes is at least p(a) - q(c) for every class c of the
second: its minimum is no larger than q(c). So the smallest lower bound of p(a) - q(c) over the candidates a is a lower
bound, whatever the truth, and needs no correction for the number of candidates, of which one alone is the worst.
Only the choice of c, by the same images, needs one. The upper bound is the same with the two exchanged. These are
intersection bounds (Chernozhukov, Lee and Rosen, Econometrica 2013).
"""

from __future__ import annotations

import numpy as np
from scipy import special

from harness.statistics.metrics import Floats
from harness.statistics.pairing import Paired

SELECTION = 0.1  # share of the error that pays for the candidates


def worst_difference_bounds(paired: Paired, level: float = 0.95) -> tuple[float, float]:
    """Bounds over test images of the mean over seeds of first minus second variant's worst class accuracy."""
    tail = (1 - level) / 2
    return max(-1.0, _lower(paired, tail)), min(1.0, -_lower(paired.turned(), tail))


def may_be_worst(accuracy: Floats, variance: Floats, error: float) -> np.ndarray:
    """(S, C) booleans: a set of classes for each network that has its truly worst one but for `error`, over all S.

    accuracy, variance: (S, C), of independent classes. A class is out when one other is below it beyond chance.
    """
    seeds, classes = accuracy.shape
    z = special.ndtri(1 - error / max(1, seeds * (classes - 1)))
    distance = accuracy[:, :, None] - accuracy[:, None, :]
    return np.all(distance <= z * np.sqrt(variance[:, :, None] + variance[:, None, :]), axis=2)


def _lower(paired: Paired, error: float) -> float:
    there, seeds = paired.there, paired.seeds
    first, second = slice(0, seeds), slice(seeds, 2 * seeds)
    accuracy, covariance = paired.accuracy[:, there], paired.moments(1.0)[1][there]
    own = covariance[:, first, first]
    candidates = may_be_worst(accuracy[first], np.einsum("css->sc", own), SELECTION * error)
    others = accuracy[second].mean(axis=0)
    rivals = may_be_worst(others[None], covariance[:, second, second].mean(axis=(1, 2))[None], SELECTION * error)
    chosen = int(others.argmin())
    z = special.ndtri(1 - (1 - SELECTION) * error / rivals.sum())
    change = np.where(candidates, accuracy[first] - accuracy[second, chosen][:, None], np.inf)
    weight = np.maximum(_weights(own, covariance[chosen], candidates, chosen), 1e-12)
    # sqrt(V) <= V / (2 u) + u / 2 for every u > 0: with V a sum over seeds, each seed's candidates part.
    likely = np.take_along_axis(weight, change.argmin(axis=1)[:, None], axis=1).sum()
    sizes = np.sqrt(likely) / seeds * np.geomspace(0.5, 2, 9)
    lower = [np.min(change - z * weight / (2 * u * seeds), axis=1).mean() - z * u / 2 for u in sizes]
    return float(max(lower))


def _weights(own: Floats, chosen_covariance: Floats, candidates: np.ndarray, chosen: int) -> Floats:
    """(S, C) weights whose sum over seeds, divided by S^2, is at least the variance of the mean difference, whichever
    candidate is each seed's worst class.

    own: (C, S, S) covariances of the first variant's networks by class. chosen_covariance: (2S, 2S), of all networks
    in the class `chosen`, which is the second variant's.
    """
    seeds, classes = candidates.shape
    rival, across = chosen_covariance[seeds:, seeds:], chosen_covariance[:seeds, seeds:]
    is_chosen = np.arange(classes) == chosen
    # (S, C, S, C): of seed s with worst class a, and seed t with worst class b
    table = np.zeros((seeds, classes, seeds, classes)) + rival[:, None, :, None]
    table -= is_chosen[:, None, None] * across[:, None, :, None]
    table -= is_chosen * across.T[:, None, :, None]
    each = np.arange(classes)
    table[:, each, :, each] += own
    same = np.arange(seeds)
    other_class = each[:, None] != each
    table[same, :, same, :] = np.where(other_class, -np.inf, table[same, :, same, :])
    return np.where(candidates, table, -np.inf).max(axis=3).sum(axis=2)
