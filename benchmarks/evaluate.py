"""PGD-20 of the evaluation, float32, any-iterate rule: the plain network against the folded one. On a network trained
for a moment, so that
some images survive and some do not."""

from __future__ import annotations

from typing import Any

import torch

import methods
from benchmarks.measure import in_turn
from harness.data.sources import load
from harness.engine import evaluation_forward, frozen
from harness.evaluate import evaluate_attack
from harness.models.build import build
from harness.spec import TrainingSpec
from harness.train import EpochBatches, Trainer

IMAGES, EPS = 450, 0.05


def measure(rounds: int) -> list[dict[str, Any]]:
    """One row: seconds, ratio, and how far the two forms' verdicts agree."""
    train, test = load("digits", "train"), load("digits", "test")
    torch.manual_seed(0)
    student = build("cnn", {"width": 32}, in_channels=1, num_classes=10)
    trainer = Trainer(
        student, methods.build(methods.resolve("at", 10), 10), {}, TrainingSpec(epochs=4, attack_steps=5), eps=EPS
    )
    for epoch in range(4):
        batches = EpochBatches(
            train.images, train.labels, 64, padding=1, flip=False, coordinates=("benchmark",), epoch=epoch
        )
        trainer.train_epoch(batches, batches.noise)
    student.eval()
    forwards = {engine: evaluation_forward(student, engine) for engine in ("plain", "fast")}

    def outcome(engine: str, seed: int = 0) -> Any:
        with frozen(student) if engine == "fast" else torch.enable_grad():
            return evaluate_attack(
                forwards[engine],
                test.images[:IMAGES],
                test.labels[:IMAGES],
                {"name": "pgd20"},
                eps=EPS,
                seed=seed,
                chunk_size=IMAGES,
                batch_size=150,
                num_classes=10,
            )

    pair = in_turn(lambda: outcome("plain"), lambda: outcome("fast"), rounds)
    plain, fast, other = outcome("plain"), outcome("fast"), outcome("plain", seed=1)
    return [
        {
            "model": "cnn",
            "attack": "pgd20",
            "images": IMAGES,
            "robust": float(plain["robust"].mean()),
            "plain_s": pair.plain_s,
            "fast_s": pair.fast_s,
            "ratio": pair.ratio,
            "ratio_range": [pair.ratios[0], pair.ratios[-1]],
            "verdicts_differ": float((plain["robust"] != fast["robust"]).mean()),
            "verdicts_differ_other_seed": float((plain["robust"] != other["robust"]).mean()),
        }
    ]
