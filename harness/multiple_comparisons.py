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

from harness.comparison import holm
from harness.metrics import Floats
from harness.statistics import FEWEST_SEEDS

ERROR = 0.05  # the chance of any false mark in a family of equal variants that the correction aims at


@dataclass(frozen=True)
class Family:
    """First minus second variant of P pairs in M columns, (..., P, M): mean over seeds, its standard error with `df`
    degrees of freedom, and its p-value after Holm's correction over all `comparisons`.

    p is NaN for a cell that is not compared and where no seed differs from another.
    """

    difference: Floats
    error: Floats
    df: float
    p: Floats
    comparisons: int

    @property
    def stands(self) -> np.ndarray:
        return self.p < ERROR


def compare_family(values: ArrayLike, pairs: Sequence[tuple[int, int]], compared: np.ndarray | None = None) -> Family:
    """values: (..., S, V, M), of variants that occur in `pairs` (places of first and second). compared: (P, M)
    booleans, by default all. ValueError below three seeds.

    The standard error is the largest of three: from the residuals of all variants (randomised blocks), from the pairs
    on average (where their common baseline is the restless one), and from the pair alone (where the variant is).
    """
    values = np.asarray(values, dtype=float)
    seeds, variants, columns = values.shape[-3:]
    if seeds < FEWEST_SEEDS:
        raise ValueError(f"a family needs {FEWEST_SEEDS} seeds, found {seeds}")
    first, second = np.array(pairs).T
    compared = np.ones((len(pairs), columns), dtype=bool) if compared is None else compared
    change = values[..., first, :] - values[..., second, :]
    pair = change.var(axis=-3, ddof=1)
    rest = values - values.mean(axis=-3, keepdims=True)
    rest = rest - rest.mean(axis=-2, keepdims=True)
    pooled = 2 * (rest**2).sum(axis=(-3, -2)) / ((seeds - 1) * (variants - 1))
    variance = np.maximum(pair, np.maximum(pooled, pair.mean(axis=-2))[..., None, :])
    difference, error, df = change.mean(axis=-3), np.sqrt(variance / seeds), _freedom(seeds, variants, len(pairs))
    known = (error > 1e-12) & compared
    p = 2 * special.stdtr(df, -np.abs(np.divide(difference, error, out=np.full(error.shape, np.nan), where=known)))
    corrected = holm(p.reshape(*p.shape[:-2], -1)).reshape(p.shape)
    return Family(difference, error, df, corrected, int(compared.sum()))


def detectable(spread: ArrayLike, seeds: int, others: int, columns: int, power: float = 0.8) -> Floats:
    """The true difference from the baseline that `compare_family` finds with a chance of about `power`, were all
    variants equally steady.

    spread: standard deviation over seeds of one variant within blocks. The family counts `others` x `columns`
    comparisons, of which this one must pass first. Half of the misses are left to where the residuals' error is not
    the largest of the three; with a single pair they are one, and the power is exact.
    """
    missed = (1 - power) / (2 if others > 1 else 1)
    df = _freedom(seeds, others + 1, others)
    critical = special.stdtrit(df, 1 - ERROR / (2 * others * columns))
    return np.asarray(spread, dtype=float) * special.nctdtrinc(df, missed, critical) * np.sqrt(2 / seeds)


def _freedom(seeds: int, variants: int, pairs: int) -> float:
    """Degrees of freedom of the standard errors of `compare_family`; with a single pair S - 1, exactly.

    The harmonic mean of (S - 1)(V - 1), which the residuals have, and of (S - 1) 4P / (P + 3), which the average over P
    pairs with one baseline has by Satterthwaite.
    """
    return (seeds - 1) * 2 / (1 / (variants - 1) + (pairs + 3) / (4 * pairs))
