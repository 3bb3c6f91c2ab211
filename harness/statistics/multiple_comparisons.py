"""Many comparisons at once: which differences between methods stand over training seeds.

Values have the axes (..., seed, variant, column). Seeds are blocks: what a seed does to every variant drops out of the
differences. No variant is taken to be as steady as another; see `docs/statistics.md` for what that costs and brings.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from harness.statistics.comparison import holm
from harness.statistics.intervals import FEWEST_SEEDS
from harness.statistics.metrics import Floats

ERROR = 0.05  # the chance of any false mark in a family of equal variants that the correction aims at
ALIKE = 1e-12  # an error, or a spread, below which no seed differs from another


@dataclass(frozen=True)
class Family:
    """First minus second variant of P pairs in M columns, (..., P, M): mean over seeds, its standard error with `df`
    degrees of freedom, and its p-value after Holm's correction over all `comparisons`.

    p is NaN for a cell that is not compared, that has no value, and where no seed differs from another; but the first,
    these count in the correction, as 1.
    """

    difference: Floats
    error: Floats
    df: Floats
    p: Floats
    comparisons: int

    @property
    def stands(self) -> np.ndarray:
        return self.p < ERROR


def compare_family(
    values: ArrayLike, pairs: Sequence[tuple[int, int]], compared: np.ndarray | None = None, unavailable: int = 0
) -> Family:
    """values: (..., S, V, M), of variants that occur in `pairs` (places of first and second); NaN where a column is
    undefined for a variant, which then has no part in it. compared: (P, M) booleans, by default all. unavailable:
    further comparisons of the family that could not be made, which count with p = 1. ValueError below three seeds.

    The standard error is the largest of three: from the residuals of all variants (randomised blocks), from the pairs
    on average (where their common baseline is the restless one), and from the pair alone (where the variant is). Its
    degrees of freedom are those of the estimates that it comes from, see `_freedom`.
    """
    values = np.asarray(values, dtype=float)
    seeds, columns = values.shape[-3], values.shape[-1]
    if seeds < FEWEST_SEEDS:
        raise ValueError(f"a family needs {FEWEST_SEEDS} seeds, found {seeds}")
    first, second = np.array(pairs).T
    compared = np.ones((len(pairs), columns), dtype=bool) if compared is None else compared
    there = ~np.isnan(values).any(axis=-3)  # (..., V, M)
    known = there[..., first, :] & there[..., second, :] & compared
    change = values[..., first, :] - values[..., second, :]
    pair = np.where(known, change.var(axis=-3, ddof=1), 0.0)
    pooled = 2 * _residual_squares(values, there) / _residual_freedom(seeds, there)
    average = pair.sum(axis=-2) / np.maximum(known.sum(axis=-2), 1)
    largest = np.maximum(pair, np.maximum(pooled, average)[..., None, :])
    difference, error = change.mean(axis=-3), np.sqrt(largest / seeds)
    known &= error > ALIKE
    # turned so that what the most frequent variant does has the same sign in all of its pairs
    common = np.bincount(np.concatenate([first, second])).argmax()
    turned = np.where((first == common)[:, None], -1, 1) * (change - difference[..., None, :, :])
    df = _freedom(turned, known, largest, _residual_freedom(seeds, there))
    ratio = np.divide(difference, error, out=np.full(error.shape, np.nan), where=known)
    p = 2 * special.stdtr(df, -np.abs(ratio))
    flat = np.where(compared & np.isnan(p), 1.0, p).reshape(*p.shape[:-2], -1)
    whole = np.concatenate([flat, np.ones((*flat.shape[:-1], unavailable))], axis=-1)
    corrected = holm(whole)[..., : flat.shape[-1]].reshape(p.shape)
    return Family(difference, error, df, np.where(np.isnan(p), np.nan, corrected), int(compared.sum()) + unavailable)


def residual_spread(values: ArrayLike) -> Floats:
    """Standard deviation over seeds (..., M) of one variant within blocks, as all have it; values: (..., S, V, M)."""
    values = np.asarray(values, dtype=float)
    there = ~np.isnan(values).any(axis=-3)
    freedom = (values.shape[-3] - 1) * (there.sum(axis=-2) - 1)
    squares = _residual_squares(values, there)
    return np.sqrt(np.divide(squares, freedom, out=np.full(squares.shape, np.nan), where=freedom > 0))


def _residual_squares(values: Floats, there: np.ndarray) -> Floats:
    """(..., M): the sum of squares that seeds and variants leave, over the variants that are `there`."""
    known = there[..., None, :, :]
    rest = np.where(known, values - values.mean(axis=-3, keepdims=True), 0.0)
    rest -= rest.sum(axis=-2, keepdims=True) / np.maximum(known.sum(axis=-2, keepdims=True), 1)
    return np.where(known, rest**2, 0.0).sum(axis=(-3, -2))


def _residual_freedom(seeds: int, there: np.ndarray) -> Floats:
    """(..., M): the degrees of freedom of the residuals, those of two variants at least."""
    return (seeds - 1.0) * np.maximum(there.sum(axis=-2) - 1, 1)


def _freedom(change: Floats, known: np.ndarray, largest: Floats, residuals: Floats) -> Floats:
    """Degrees of freedom (..., P, M) of the variances `largest`, of centred changes (..., S, P, M), by Satterthwaite.

    The average over pairs is the sum of the variance of their mean, which has S - 1, and of what they differ by, which
    has (S - 1)(P - 1); it and the residuals share the harmonic mean of theirs. What a variance exceeds the average of
    the other pairs by is known from its own pair alone, S - 1: all of it with a single pair.
    """
    own = change.shape[-3] - 1.0
    change = np.where(known[..., None, :, :], change, 0.0)
    pairs = np.maximum(known.sum(axis=-2), 1)
    pair = (change**2).sum(axis=-3) / own
    average = pair.sum(axis=-2) / pairs
    together = ((change.sum(axis=-2) / pairs[..., None, :]) ** 2).sum(axis=-2) / own
    apart = average - together
    inverse = _share(together, average) ** 2 / own + _share(apart, average) ** 2 / (own * np.maximum(pairs - 1, 1))
    usual = (1 / residuals + inverse) / 2
    others = (pair.sum(axis=-2, keepdims=True) - pair) / np.maximum(pairs - 1, 1)[..., None, :]
    share = np.minimum(_share(others, largest), 1.0)
    return 1 / (share**2 * usual[..., None, :] + (1 - share) ** 2 / own)


def _share(part: Floats, whole: Floats) -> Floats:
    return np.divide(part, whole, out=np.zeros(whole.shape), where=whole > 0)


def detectable(spread: ArrayLike, seeds: int, others: int, columns: int, power: float = 0.8) -> Floats:
    """The true difference from the baseline that `compare_family` finds with a chance of at least about `power`, were
    all variants equally steady.

    spread: standard deviation over seeds of one variant within blocks. The family counts `others` x `columns`
    comparisons, of which this one must pass first. Half of the misses are left to where the residuals' error is not
    the largest of the three; with a single pair they are one, and the power is exact.
    """
    missed = (1 - power) / (2 if others > 1 else 1)
    df = _expected_freedom(seeds, others)
    critical = special.stdtrit(df, 1 - ERROR / (2 * others * columns))
    return np.asarray(spread, dtype=float) * special.nctdtrinc(df, missed, critical) * np.sqrt(2 / seeds)


def _expected_freedom(seeds: int, others: int) -> float:
    """What `_freedom` finds in `others` pairs of equally steady variants with one baseline, to first order: their
    harmonic mean, with the squares of variances that are estimated too high by 2 of their degrees of freedom."""
    own, rest = seeds - 1, others - 1
    if rest == 0:
        return own
    together = ((1 + 1 / others) / 2) ** 2 * (1 + 2 / own) / own
    apart = (rest / others / 2) ** 2 * (1 + 2 / (own * rest)) / (own * rest)
    return 2 / (1 / (own * others) + together + apart)
