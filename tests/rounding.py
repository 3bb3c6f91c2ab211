"""How far rounding alone may take a result from the exact one, on any processor: what the numeric tests allow."""

from __future__ import annotations

import torch
from torch import Tensor


def relative_error(found: Tensor, exact: Tensor) -> float:
    """The norm of the difference over the norm of the exact values (any shape, float64)."""
    assert found.shape == exact.shape
    return float((found.detach().double() - exact.detach()).norm() / exact.detach().norm())


def of_sums(terms: int, dtype: torch.dtype) -> float:
    """The relative error to expect of many sums of `terms` random products with mean 0, summed in float32 in the worst
    order, one after the other, and stored in `dtype`.

    One rounding of x is off by at most eps |x| / 2, uniformly, so by eps |x| / sqrt(12) in the mean square. The k-th
    partial sum is sqrt(k / terms) of the result in size; the squares of all their errors add up to terms / 2 of those
    of one.
    """
    stored, summed = torch.finfo(dtype).eps, torch.finfo(torch.float32).eps
    return ((stored**2 + summed**2 * terms / 2) / 12) ** 0.5
