"""A whole training step, attack of ten steps and update: `engine: plain` as the papers' scripts do it, against the
fast form.

The share of the peak counts the work of the plain form (what the method asks for), at the machine's matrix-product
peak in the fast form's precision.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch

import methods
from benchmarks.measure import forward_flops, in_turn, peak_flops, peak_memory_mb
from harness.engine.forwards import DTYPES
from harness.engine.process import tuned_convolutions
from harness.models.build import build
from harness.spec import TrainingSpec
from harness.store.provenance import device_name, processor_precision
from harness.training.trainer import Trainer

# model, parameters, image shape, batch, teacher parameters: the two networks of the targets
CASES: tuple[tuple[str, dict[str, int], tuple[int, int, int], int, dict[str, int]], ...] = (
    ("cnn", {"width": 32}, (1, 28, 28), 128, {"width": 16}),
    ("resnet18", {"width": 64}, (3, 32, 32), 64, {"width": 16}),
)
METHODS = ("absld",)
STEPS = 10
OLDER = "AVX2"  # the instructions of a processor without bfloat16 units
Rows = list[dict[str, Any]]


def measure(rounds: int) -> list[dict[str, Any]]:
    """One row per network, method and precision of the fast form, on the GPU where there is one; on a processor with
    bfloat16 units also float32 rows for one without, in a process that may not use them."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    found = rows(rounds, ("float32", "bfloat16"), device)
    if device.type == "cpu" and processor_precision() == "bfloat16":
        found += _rows_without_units(rounds)
    return found


def rows(rounds: int, precisions: Sequence[str], device: torch.device, instructions: str = "all") -> Rows:
    """instructions: what to say of the processor."""
    return [
        row(*case, method, precision, device, rounds) | {"instructions": instructions}
        for case in CASES
        for method in METHODS
        for precision in precisions
    ]


def _rows_without_units(rounds: int) -> Rows:
    code = (
        "import json, sys, torch;"
        "from benchmarks import train_step; from harness.engine.process import keep_freed_memory;"
        "torch.set_num_threads(int(sys.argv[1])); keep_freed_memory(); train_step.CASES = json.loads(sys.argv[2]);"
        "found = train_step.rows(int(sys.argv[3]), ['float32'], torch.device('cpu'), sys.argv[4]);"
        "print(json.dumps(found))"
    )
    given = [str(torch.get_num_threads()), json.dumps(CASES), str(rounds), OLDER]
    limits = {"ONEDNN_MAX_CPU_ISA": OLDER, "MKL_ENABLE_INSTRUCTIONS": OLDER, "ATEN_CPU_CAPABILITY": OLDER.lower()}
    done = subprocess.run(
        [sys.executable, "-c", code, *given], env=os.environ | limits, capture_output=True, check=True
    )
    return json.loads(done.stdout)


def row(
    model: str,
    params: dict[str, int],
    shape: tuple[int, int, int],
    batch: int,
    teacher: dict[str, int],
    method: str,
    precision: str,
    device: torch.device,
    rounds: int,
) -> dict[str, Any]:
    """One network's step of one method, `engine: plain` in float32 against the fast form in `precision`."""
    torch.manual_seed(0)
    images, labels = torch.rand(batch, *shape).to(device), torch.randint(0, 10, (batch,)).to(device)
    noise = torch.randn(images.shape).to(device)

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
            device=device,
        )
        built.begin_epoch()
        return built

    plain, fast = trainer("plain", "float32"), trainer("fast", precision)
    plain_step, fast_step = (partial(form.step, images, labels, lambda kind, x: noise) for form in (plain, fast))
    with tuned_convolutions():  # as in training
        pair = in_turn(plain_step, fast_step, rounds, warm_up=3, device=device)  # a GPU records the second
        memory = [peak_memory_mb(step, device) for step in (plain_step, fast_step)]
    forward = batch * forward_flops(build(model, params, in_channels=shape[0], num_classes=10), images[0].cpu())
    # the attack's backward to the images costs a forward again; each of the update's forwards has a backward of two
    work = forward * (2 * STEPS + 3 * len(fast.method.forwards))
    return {
        "model": model,
        "precision": precision,
        "method": method,
        "batch": batch,
        "device": device_name(device),
        **pair.columns,
        "plain_mb": memory[0],
        "fast_mb": memory[1],
        "share_of_peak": work / pair.fast_s / peak_flops(DTYPES[precision], device),
        "engine": fast.attacked.description,
    }
