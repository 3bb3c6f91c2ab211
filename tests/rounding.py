"""How far rounding alone may take a result from the exact one, on any processor: what the numeric tests allow."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode


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


def images_off_the_kinks(network: nn.Module, shape: tuple[int, ...]) -> Tensor:
    """Random images (float32, `shape`) on which no ReLU of the network, in evaluation mode, sees a value so near to 0
    that float32's rounding decides its sign: each is 1e-5 of its layer's root mean square away. At such a kink a
    gradient is one or another, however exact the sums are."""
    exact = copy.deepcopy(network).double().eval()
    for seed in range(1000):
        images = torch.rand(shape, generator=torch.Generator().manual_seed(seed))
        with torch.no_grad(), _NearestToKink() as found:
            exact(images.double())
        if found.distance > 1e-5:
            return images
    raise AssertionError("every image has a value at a kink: the network is too large")


class _NearestToKink(TorchFunctionMode):
    """Inside, `distance` is the least |x| of all that a ReLU was given, over the root mean square of its layer."""

    distance = float("inf")

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if function in (F.relu, torch.relu, Tensor.relu):
            x = args[0]
            self.distance = min(self.distance, float(x.abs().min() / x.square().mean().sqrt()))
        return function(*args, **(kwargs or {}))
