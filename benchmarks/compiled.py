"""`torch.compile` against the fast form's own parts in bfloat16, compile time counted: whether it would pay.

The parts are the gradient that an attack takes in each of its steps (compiled: the folded network before its layers
are fused) and the update's two forwards and backwards.
"""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.measure import in_turn, seconds
from benchmarks.train_step import CASES
from harness.engine.forwards import FoldedTwin, training_forward
from harness.models.build import build

DTYPE = torch.bfloat16


def measure(rounds: int) -> list[dict[str, Any]]:
    """A row per network and part; none without a C++ compiler."""
    if not any(map(shutil.which, ("c++", "g++", "clang++"))):
        return []
    return [
        {"model": model, "part": part, "batch": batch, **_columns(*forms, rounds)}
        for model, params, shape, batch, _ in CASES
        for part, forms in parts(model, params, shape, batch).items()
    ]


def _columns(ours: Callable[[], object], compiled: Callable[[], object], rounds: int) -> dict[str, Any]:
    """Both forms in turn, after the compilation. calls_to_pay: until the time it took is back."""
    from torch._inductor.utils import fresh_cache

    with fresh_cache():
        compile_s = seconds(compiled)
        pair = in_turn(ours, compiled, rounds)
    gained = pair.plain_s - pair.fast_s
    return {
        "ours_s": pair.plain_s,
        "compiled_s": pair.fast_s,
        "ratio": pair.ratio,
        "ratio_range": [pair.ratios[0], pair.ratios[-1]],
        "compile_s": compile_s,
        "calls_to_pay": round(compile_s / gained) if gained > 0 else None,
    }


def parts(
    model: str, params: dict[str, int], shape: tuple[int, int, int], batch: int
) -> dict[str, tuple[Callable[[], object], Callable[[], object]]]:
    """Each part in our form and compiled; a call gives the gradient that it computes."""
    torch.manual_seed(0)
    network = build(model, params, in_channels=shape[0], num_classes=10).to(memory_format=torch.channels_last)
    images, labels = torch.rand(batch, *shape), torch.randint(0, 10, (batch,))
    twin = FoldedTwin(network, DTYPE)
    folded, trained = torch.compile(twin.twin, dynamic=False), copy.deepcopy(network).train()

    def compiled_twin(x: Tensor) -> Tensor:
        return folded(x.to(dtype=DTYPE, memory_format=torch.channels_last)).float()

    network.train()
    updated, compiled_update = training_forward(network, "fast"), torch.compile(trained, dynamic=False)
    return {
        "attack gradient": (lambda: _gradient(twin, images, labels), lambda: _gradient(compiled_twin, images, labels)),
        "update": (
            lambda: _update(network, updated, images, labels),
            lambda: _update(trained, compiled_update, images, labels),
        ),
    }


def _gradient(forward: Callable[[Tensor], Tensor], images: Tensor, labels: Tensor) -> Tensor:
    point = images.clone().requires_grad_()
    return torch.autograd.grad(F.cross_entropy(forward(point), labels), point)[0]


def _update(network: nn.Module, forward: Callable[[Tensor], Tensor], images: Tensor, labels: Tensor) -> Tensor:
    network.zero_grad(set_to_none=True)
    with torch.autocast("cpu", dtype=DTYPE):
        logits = [forward(images).float() for _ in range(2)]
    (F.cross_entropy(logits[0], labels) + F.cross_entropy(logits[1], labels)).backward()
    return torch.cat([parameter.grad.flatten() for parameter in network.parameters() if parameter.grad is not None])
