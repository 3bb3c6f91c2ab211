"""Many comparisons at once: which differences between methods stand over training seeds.

Values have the axes (..., seed, variant, column). Seeds are blocks: what a seed does to every variant drops out of the
differences. No variant is taken to be as steady as another; see `docs/statistics.md` for what that costs and brings.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from harness.comparison import holm
from harness.metrics import Floats
from harness.statistics import FEWEST_SEEDS

ERROR = 0.05  # the chance of any false mark in a family of equal variants that the correction aims at


@dataclass(frozen=True)
class Family:
    """First minus second variant of P pairs in M columns, (..., P, M): mean over seeds, its standard error with `df`
    (..., M) degrees of freedom, and its p-value after Holm's correction over all `comparisons`.

    p is NaN for a cell that is not compared, that has no value, and where no seed differs from another.
    """

    difference: Floats
    error: Floats
    df: Floats
    p: Floats
    comparisons: int

    @property
    def stands(self) -> np.ndarray:
        return self.p < ERROR


def compare_family(values: ArrayLike, pairs: Sequence[tuple[int, int]], compared: np.ndarray | None = None) -> Family:
    """values: (..., S, V, M), of variants that occur in `pairs` (places of first and second); NaN where a column is
    undefined for a variant, which then has no part in it. compared: (P, M) booleans, by default all. ValueError below
    three seeds.

    The standard error is the largest of three: from the residuals of all variants (randomised blocks), from the pairs
    on average (where their common baseline is the restless one), and from the pair alone (where the variant is).
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
    variants, counted = (np.maximum(part.sum(axis=-2), least) for part, least in ((there, 2), (known, 1)))
    pooled = 2 * _residual_squares(values, there) / ((seeds - 1) * (variants - 1))
    largest = np.maximum(pair, np.maximum(pooled, pair.sum(axis=-2) / counted)[..., None, :])
    difference, error = change.mean(axis=-3), np.sqrt(largest / seeds)
    df = _freedom(seeds, variants, counted)
    known &= error > 1e-12
    ratio = np.divide(difference, error, out=np.full(error.shape, np.nan), where=known)
    p = 2 * special.stdtr(df[..., None, :], -np.abs(ratio))
    corrected = holm(p.reshape(*p.shape[:-2], -1)).reshape(p.shape)
    return Family(difference, error, df, corrected, int(compared.sum()))


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


def detectable(spread: ArrayLike, seeds: int, others: int, columns: int, power: float = 0.8) -> Floats:
    """The true difference from the baseline that `compare_family` finds with a chance of about `power`, were all
    variants equally steady.

    spread: standard deviation over seeds of one variant within blocks. The family counts `others` x `columns`
    comparisons, of which this one must pass first. Half of the misses are left to where the residuals' error is not
    the largest of the three; with a single pair they are one, and the power is exact.
    """
    missed = (1 - power) / (2 if others > 1 else 1)
    df = _freedom(seeds, np.array(others + 1), np.array(others))
    critical = special.stdtrit(df, 1 - ERROR / (2 * others * columns))
    return np.asarray(spread, dtype=float) * special.nctdtrinc(df, missed, critical) * np.sqrt(2 / seeds)


def _freedom(seeds: int, variants: NDArray[np.int64], pairs: NDArray[np.int64]) -> Floats:
    """Degrees of freedom of the standard errors of `compare_family`; with a single pair S - 1, exactly.

    The harmonic mean of (S - 1)(V - 1), which the residuals have, and of (S - 1) 4P / (P + 3), which the average over P
    pairs with one baseline has by Satterthwaite.
    """
    return (seeds - 1) * 2 / (1 / (variants - 1) + (pairs + 3) / (4 * pairs))
