"""Paired timing and the machine's own peak."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Pair:
    """Two forms of one piece of work, timed in turn: seconds of each pair."""

    plain: list[float]
    fast: list[float]

    @property
    def plain_s(self) -> float:
        return statistics.median(self.plain)

    @property
    def fast_s(self) -> float:
        return statistics.median(self.fast)

    @property
    def ratios(self) -> list[float]:
        """plain over fast, pair by pair, sorted."""
        return sorted(plain / fast for plain, fast in zip(self.plain, self.fast, strict=True))

    @property
    def ratio(self) -> float:
        return statistics.median(self.ratios)


def in_turn(plain: Callable[[], object], fast: Callable[[], object], rounds: int, warm_up: int = 1) -> Pair:
    """Time the two forms alternately, after a warm-up of both."""
    for _ in range(warm_up):
        plain()
        fast()
    pair = Pair([], [])
    for _ in range(rounds):
        pair.plain.append(_seconds(plain))
        pair.fast.append(_seconds(fast))
    return pair


def peak_flops(dtype: torch.dtype, size: int = 2048, rounds: int = 5) -> float:
    """Floating-point operations per second of this machine's best matrix product in one precision, with torch's
    current threads."""
    left, right = torch.randn(size, size).to(dtype), torch.randn(size, size).to(dtype)
    left @ right
    return 2 * size**3 / min(_seconds(lambda: left @ right) for _ in range(rounds))


def forward_flops(model: torch.nn.Module, image: torch.Tensor) -> float:
    """Floating-point operations of one image's forward: two per multiply-add of convolutions and linear layers."""
    total = 0.0

    def count(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        nonlocal total
        if isinstance(module, torch.nn.Conv2d):
            kernel = module.kernel_size[0] * module.kernel_size[1] * module.in_channels // module.groups
            total += 2.0 * kernel * output[0].numel()
        elif isinstance(module, torch.nn.Linear):
            total += 2.0 * module.in_features * module.out_features

    hooks = [module.register_forward_hook(count) for module in model.modules()]
    with torch.no_grad():
        model.eval()(image[None])
    for hook in hooks:
        hook.remove()
    return total


def _seconds(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun
