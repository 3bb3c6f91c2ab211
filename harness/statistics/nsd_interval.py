"""What the observed NSD of a finite test set says about the true one, by inverting a test.

With true class accuracies p and sampling errors e, "the NSD of p + e is at most x" reads
Q = var(p + e) - x^2 mean(p + e)^2 <= 0: a quadratic form in e. Its first three cumulants give its distribution as a
gamma distribution (Pearson type III), which is exact where it matters most: when classes tie, Q is a chi-square.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

from harness.statistics.metrics import Floats, average, nsd
from harness.statistics.pairing import Paired

_DOUBLINGS, _HALVINGS = 12, 30  # NSD is at most sqrt(C - 1), below 2^12; found to 9 digits


def most_nsd(accuracy: Floats) -> Floats:
    """The largest NSD (...) that the classes which are there (..., C) can have: one all right, all others all wrong."""
    return np.sqrt(np.maximum((~np.isnan(accuracy)).sum(axis=-1) - 1.0, 0.0))


def true_nsd_quantiles(accuracy: Floats, n: Floats, quantiles: Sequence[float]) -> list[Floats]:
    """For each q the true NSD (...) under which the NSD of a test set is at most the observed one with probability q.

    accuracy (..., C) observed, NaN for an absent class; n (..., C) samples. 0 where even a true NSD of 0 gives less
    than q, and no more than it can be; NaN where the observed NSD is undefined.
    """
    model = _Model.of(accuracy, n)
    shape = (len(quantiles), *accuracy.shape[:-1])
    wanted = np.reshape(quantiles, (-1, *[1] * (accuracy.ndim - 1)))
    low, high = np.zeros(shape), np.ones(shape)
    with np.errstate(divide="ignore", invalid="ignore"):
        for _ in range(_DOUBLINGS):
            beyond = model.share_below(high) > wanted
            if not beyond.any():
                break
            high = np.where(beyond, 2 * high, high)
        tied = model.share_below(low) <= wanted
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            below = model.share_below(middle) > wanted
            low, high = np.where(below, middle, low), np.where(below, high, middle)
    found = np.minimum(np.where(tied, 0.0, (low + high) / 2), most_nsd(accuracy))
    return list(np.where(np.isnan(model.observed), np.nan, found))


def noise_nsd(accuracy: Floats, n: Floats) -> Floats:
    """The NSD (...) that sampling noise alone would show, were all classes equal; arguments as above."""
    edge = 0.5 / (np.maximum(n, 1.0) + 1)
    p = np.clip(accuracy, edge, 1 - edge)
    with np.errstate(divide="ignore", invalid="ignore"):
        classes = (~np.isnan(accuracy)).sum(axis=-1)
        spread = np.sqrt(np.nansum(p * (1 - p) / n, axis=-1) * (1 - 1 / classes) / classes)
        found = np.minimum(spread / average(accuracy), most_nsd(accuracy))
        return np.where(average(accuracy) > 0, found, np.nan)


def nsd_gradient(accuracy: Floats) -> Floats:
    """How NSD = deviation / mean moves with each class accuracy (..., C); 0 where it is 0, undefined or absent."""
    mean = average(accuracy)[..., None]
    deviation = nsd(accuracy)[..., None] * mean
    count = (~np.isnan(accuracy)).sum(axis=-1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        gradient = ((accuracy - mean) / (deviation * mean) - deviation / mean**2) / count
    return np.where(np.isfinite(gradient), gradient, 0.0)


def nsd_difference_bounds(paired: Paired, level: float = 0.95) -> tuple[float, float]:
    """Bounds of the mean over seeds of first minus second variant's true NSD, over test images; NaN where undefined.

    The variances are recovered from each network's own interval (Zou, Huang and Zhang 2009): its distance from the
    median-unbiased estimate to the bound stands for z standard errors on that side. So the bounds keep the shape of
    the single intervals where classes are nearly even, and there is no other bias. The networks' errors go together as
    their gradients say; where one is as even as noise alone would leave it, gradients say nothing, estimates pile up at
    0, and the networks of its variant are taken to err as one.
    """
    tail = (1 - level) / 2
    accuracy, n = paired.accuracy, np.broadcast_to(paired.n, paired.right.shape)
    estimate, low, high = true_nsd_quantiles(accuracy, n, [0.5, 1 - tail, tail])
    high = np.where(high > 0, high, noise_nsd(accuracy, n))
    even = low <= 0
    as_one = (even[:, None] | even) & (paired.signs[:, None] == paired.signs)
    together = np.where(as_one, 1.0, _correlation(paired))
    low_end, high_end = recovered_bounds(estimate, low, high, paired.signs, together)
    most = float(most_nsd(accuracy[0]))
    return max(-most, float(low_end)), min(most, float(high_end))


def recovered_bounds(
    estimate: Floats, low: Floats, high: Floats, signs: Floats, together: Floats
) -> tuple[Floats, Floats]:
    """Bounds (...) of the sum of true NSDs times `signs` (K,), from the estimates (..., K), their bounds, and the
    correlations `together` (K, K) of their errors.
    """
    ends = []
    for direction in (-1, 1):
        upwards = direction * signs > 0
        floor = ~upwards & (low <= 0)  # no error brings a true NSD below 0: this end is certain, and adds nothing
        reach = np.where(floor, 0.0, signs * np.where(upwards, high - estimate, estimate - low))
        square = np.einsum("...k,kl,...l->...", reach, together, reach)
        ends.append(np.where(floor, 0.0, estimate) @ signs + direction * np.sqrt(np.maximum(square, 0.0)))
    return ends[0], ends[1]


def _correlation(paired: Paired) -> Floats:
    """(2S, 2S) of the networks' observed NSD over test images, to first order."""
    accuracy, covariance = paired.moments(1.0)
    gradient = nsd_gradient(np.where(paired.there, accuracy, np.nan))
    together = np.einsum("kc,ckl,lc->kl", gradient, covariance, gradient)
    size = np.sqrt(np.diag(together))
    with np.errstate(divide="ignore", invalid="ignore"):
        found = together / np.outer(size, size)
    return np.where(np.isfinite(found), found, np.eye(len(found)))


@dataclass(frozen=True)
class _Model:
    """True accuracies around the observed ones, their deviations scaled; binomial errors. Arrays (..., C) or (...)."""

    observed: Floats
    mean: Floats
    classes: Floats
    n: Floats
    there: Floats  # 1 or 0 for an absent class
    rate: Floats  # observed, half a sample away from 0 and 1, so that such a class has some noise too
    deviation: Floats  # of the observed rates from their mean
    size: Floats  # root mean square of the observed deviations
    square: Floats  # the deviations' squares with their noise taken off
    spread: Floats  # root mean of `square`: the scale at which the observed rates are the true ones

    @classmethod
    def of(cls, accuracy: Floats, n: Floats) -> _Model:
        there = (~np.isnan(accuracy)).astype(float)
        mean, classes = average(accuracy), there.sum(axis=-1)
        n, known = np.maximum(n, 1.0), np.where(there > 0, accuracy, 0.5)
        rate = (known * n + 0.5) / (n + 1)
        with np.errstate(divide="ignore", invalid="ignore"):
            shape = _shape((known - mean[..., None]) * there, known * (1 - known) / n * there, there)
        return cls(nsd(accuracy), mean, classes, n, there, rate, *shape)

    def share_below(self, true_nsd: Floats) -> Floats:
        """P(Q <= 0): the share of test sets whose NSD is at most the observed one, were `true_nsd` the true one."""
        deviation_size = (true_nsd * self.mean)[..., None]
        edge = 0.5 / (self.n + 1)
        p = np.clip(self.rate + (deviation_size / self.spread - 1) * self.deviation, edge, 1 - edge)
        deviation = deviation_size / self.size * self.deviation
        square = (deviation_size / self.spread) ** 2 * self.square
        v = p * (1 - p) * self.there / self.n
        skew, kurtosis = v * (1 - 2 * p) / self.n, v * (1 - 6 * p * (1 - p)) / self.n**2
        # Q = constant + b'e + e'Me with M = a I - g 11'; b2 is the square of b
        a, g = 1 / self.classes, (1 + self.observed**2) / self.classes**2
        pull, weight = (self.observed**2 * self.mean)[..., None], 2 * a[..., None] * self.there
        b = weight * (deviation - pull)
        b2 = weight**2 * (square - 2 * pull * deviation + pull**2)
        s1, s2, s3 = _sum(v), _sum(v**2), _sum(v**3)
        first = self.mean**2 * (true_nsd**2 - self.observed**2) + (a - g) * s1
        second = 2 * (a**2 * s2 - 2 * a * g * s2 + g**2 * s1**2) + np.maximum(_sum(b2 * v), 0.0)
        second += 2 * (a - g) * _sum(b * skew) + (a - g) ** 2 * _sum(kurtosis)
        third = 8 * (a**3 * s3 - 3 * a**2 * g * s3 + 3 * a * g**2 * s1 * s2 - g**3 * s1**3)
        third += 6 * (a * _sum(v**2 * b2) - g * _sum(v * b) ** 2) + _sum(b**3 * skew)
        return _gamma_below_zero(first, second, third)


def _shape(deviation: Floats, noise: Floats, there: Floats) -> tuple[Floats, Floats, Floats, Floats]:
    """Deviations (alternating where all classes are observed equal) and the `size`, `square`, `spread` they have.

    Squares of observed deviations are too large by the noise of each class: many quiet classes beside one that stands
    out would pass for real spread, and the interval would be too wide. So their noise is taken off, as James and Stein
    do only as far as there are more than three classes, and at most four fifths of all, for classes that tie.
    """
    count = there.sum(axis=-1, keepdims=True)
    alternating = np.where(np.arange(there.shape[-1]) % 2, 1e-9, -1e-9) * there
    deviation = np.where((deviation**2).sum(axis=-1, keepdims=True) > 1e-18, deviation, alternating)
    total = (deviation**2).sum(axis=-1, keepdims=True)
    share = np.minimum(1.0, 0.8 * total / np.maximum(noise.sum(axis=-1, keepdims=True), 1e-300))
    square = deviation**2 - share * np.maximum(count - 3, 0) / np.maximum(count - 1, 1) * noise
    return deviation, np.sqrt(total / count), square, np.sqrt(square.sum(axis=-1, keepdims=True) / count)


def _sum(values: Floats) -> Floats:
    return values.sum(axis=-1)


def _gamma_below_zero(first: Floats, second: Floats, third: Floats) -> Floats:
    """P(Q <= 0) of the shifted gamma distribution with these cumulants; normal where it has no skewness."""
    x, skew = -first / np.sqrt(second), third / second**1.5
    shape = 4 / np.maximum(skew**2, 1e-12)
    at = np.maximum(shape + np.where(skew >= 0, x, -x) * np.sqrt(shape), 0.0)
    below = special.gammainc(shape, at)
    return np.where(np.abs(skew) < 1e-5, special.ndtr(x), np.where(skew >= 0, below, 1 - below))
