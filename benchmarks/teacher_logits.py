"""Training steps of six distillation methods with one seed: each asking its teacher, against sharing the teacher's
logits (`harness.training.teacher_logits`). The teacher is made as wide as it takes to cost a quarter of a student's
step, the ratio of WRN-34-10 to ResNet-18."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import nn

import methods
from benchmarks.measure import in_turn, seconds
from harness.engine.forwards import evaluation_forward
from harness.models.build import build
from harness.spec import AugmentSpec, TrainingSpec
from harness.training.teacher_logits import SharedLogits
from harness.training.trainer import EpochBatches, Trainer

METHODS = ("ard", "rslad", "absld", "absld_reweight", "fair_ard", "fair_rslad")
SHARE, BATCH, STEPS, EPS = 0.25, 64, 6, 0.1


def measure(rounds: int, steps: int = STEPS) -> list[dict[str, Any]]:
    """One row per precision; saved: the share of the sweep's time."""
    return [_row(precision, rounds, steps) for precision in ("float32", "bfloat16")]


def _row(precision: str, rounds: int, steps: int) -> dict[str, Any]:
    torch.manual_seed(0)
    images = torch.randint(0, 256, (steps * BATCH, 1, 28, 28), dtype=torch.uint8)
    labels = torch.randint(0, 10, (len(images),))
    teacher, share = _teacher(precision, images, labels)
    with tempfile.TemporaryDirectory() as folder:
        runs = iter(range(2 + 2 * rounds))

        def shared() -> None:
            fresh = Path(folder, str(next(runs)))
            fresh.mkdir()  # as the driver does where several trials share
            for method in METHODS:
                logits = SharedLogits(fresh, {"teacher": precision}, BATCH, 10)
                _train(method, teacher, precision, images, labels, logits)
                logits.close()

        def asked() -> None:
            for method in METHODS:
                _train(method, teacher, precision, images, labels, None)

        pair = in_turn(asked, shared, rounds)
        size = sum(file.stat().st_size for file in Path(folder, "0").iterdir())
    return {
        "methods": len(METHODS),
        "precision": precision,
        "teacher_of_step": share,
        **pair.columns,
        "saved": 1 - 1 / pair.ratio,
        "bytes_per_image": size / len(images),
    }


def _teacher(precision: str, images: torch.Tensor, labels: torch.Tensor) -> tuple[nn.Module, float]:
    """The network whose forward is nearest to the wanted share of a student's step without its teacher."""
    batch = images[:BATCH].float() / 255
    trifle = build("cnn", {"width": 1}, in_channels=1, num_classes=10).eval().requires_grad_(False)
    step = min(seconds(lambda: _train("rslad", trifle, precision, images, labels, None)) for _ in range(3))
    step /= len(images) / BATCH
    found = []
    for width in range(32, 257, 16):
        network = build("cnn", {"width": width}, in_channels=1, num_classes=10).eval().requires_grad_(False)
        forward = evaluation_forward(network, "fast", precision)
        with torch.no_grad():
            forward(batch)
            cost = min(seconds(lambda forward=forward: forward(batch)) for _ in range(3))  # type: ignore[misc]
        found.append((abs(cost / step - SHARE), network, cost / step))
        if cost > SHARE * step:
            break
    _, network, share = min(found, key=lambda entry: entry[0])
    return network, share


def _train(
    method: str,
    teacher: nn.Module | None,
    precision: str,
    images: torch.Tensor,
    labels: torch.Tensor,
    shared: SharedLogits | None,
) -> None:
    """The steps of one epoch with the same batches whatever the method."""
    torch.manual_seed(1)
    trainer = Trainer(
        build("cnn", {"width": 16}, in_channels=1, num_classes=10),
        methods.build(methods.resolve(method, 10), 10),
        {"teacher": teacher} if teacher is not None else {},
        TrainingSpec(epochs=10, batch_size=BATCH),
        eps=EPS,
        precision=precision,
    )
    batches = EpochBatches(images, labels, BATCH, augment=AugmentSpec(), coordinates=("benchmark",), epoch=0)
    if shared is not None:
        trainer.recall = lambda name, labels, compute: shared.answer(name, batches.done - 1, labels, compute)
    trainer.begin_epoch()
    for _ in trainer.train_steps(batches, batches.noise):
        pass
