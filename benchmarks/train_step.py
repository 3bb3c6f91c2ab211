"""A whole training step, attack of ten steps and update: `engine: plain` as the papers' scripts do it, against the
fast form.

The share of the peak counts the work of the plain form (what the method asks for), at the machine's matrix-product
peak in the fast form's precision.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

import methods
from benchmarks.measure import forward_flops, in_turn, peak_flops, peak_memory_mb
from harness.engine import DTYPES
from harness.models.build import build
from harness.spec import TrainingSpec
from harness.train import Trainer

# model, parameters, image shape, batch, teacher parameters: the two networks of the targets
CASES: tuple[tuple[str, dict[str, int], tuple[int, int, int], int, dict[str, int]], ...] = (
    ("cnn", {"width": 32}, (1, 28, 28), 128, {"width": 16}),
    ("resnet18", {"width": 64}, (3, 32, 32), 64, {"width": 16}),
)
METHODS = ("absld",)
STEPS = 10


def measure(rounds: int) -> list[dict[str, Any]]:
    """One row per network, method and precision of the fast form."""
    rows = []
    for model, params, shape, batch, teacher in CASES:
        for method in METHODS:
            for precision in ("float32", "bfloat16"):
                rows.append(_row(model, params, shape, batch, teacher, method, precision, rounds))
    return rows


def _row(
    model: str,
    params: dict[str, int],
    shape: tuple[int, int, int],
    batch: int,
    teacher: dict[str, int],
    method: str,
    precision: str,
    rounds: int,
) -> dict[str, Any]:
    torch.manual_seed(0)
    images, labels = torch.rand(batch, *shape), torch.randint(0, 10, (batch,))
    noise = torch.randn(images.shape)

    def trainer(engine: str, precision: str) -> Trainer:
        torch.manual_seed(1)
        networks = [build(model, wanted, in_channels=shape[0], num_classes=10) for wanted in (params, teacher)]
        resolved = methods.resolve(method, 10)
        built = Trainer(
            networks[0],
            methods.build(resolved, 10),
            {"teacher": networks[1]} if methods.teachers_of(resolved) else {},
            TrainingSpec(epochs=10, batch_size=batch, attack_steps=STEPS),
            eps=8 / 255,
            engine=engine,
            precision=precision,
        )
        built.begin_epoch()
        return built

    plain, fast = trainer("plain", "float32"), trainer("fast", precision)
    plain_step, fast_step = (partial(form.step, images, labels, lambda kind, x: noise) for form in (plain, fast))
    plain_mb, fast_mb = peak_memory_mb(plain_step), peak_memory_mb(fast_step)
    pair = in_turn(plain_step, fast_step, rounds)
    forward = batch * forward_flops(build(model, params, in_channels=shape[0], num_classes=10), images[0])
    # the attack's backward to the images costs a forward again; each of the update's two forwards has a backward of two
    work = forward * (2 * STEPS + 2 * 3)
    return {
        "model": model,
        "precision": precision,
        "method": method,
        "batch": batch,
        **pair.columns,
        "plain_mb": plain_mb,
        "fast_mb": fast_mb,
        "share_of_peak": work / pair.fast_s / peak_flops(DTYPES[precision]),
        "engine": fast.attacked.description,
    }
