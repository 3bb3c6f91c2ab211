"""Speed on the device: training steps against its own peak and against the papers' form, and whole evaluations."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from benchmarks import train_step
from benchmarks.gpu.attacks import TINY_EFFORT, attacked
from benchmarks.gpu.check import Setting, Threshold, Work
from benchmarks.measure import seconds
from harness.attacks.autoattack import STANDARD
from harness.attacks.conditions import Conditions
from harness.attacks.pgd import predict
from harness.calibration import NO_RADIUS
from harness.engine.forwards import evaluation_forward
from harness.models.build import build

ROUNDS, BATCH, SIDE = 3, 128, 32
IMAGES, BATCHED = 1000, 500


def speed(setting: Setting) -> list[Work]:
    """Steps of adversarial training and distillation, then evaluations of images that never break."""
    share, ratio = setting.speed(">=", 0.45), setting.speed(">=", 8.0)
    small: dict[str, int] = {"width": 4} if setting.tiny else {"width": 64}
    wide = {"depth": 10, "widen": 1} if setting.tiny else {"depth": 34, "widen": 10}
    cnn = {"width": 4} if setting.tiny else {"width": 32}
    return [
        _step(setting, "resnet18", small, "at", share=share),
        _step(setting, "resnet18", small, "absld", ratio=ratio),
        _step(setting, "mobilenet_v2", {}, "at", ratio=ratio),
        _step(setting, "wrn", wide, "at", ratio=ratio),
        _evaluation(setting, "cnn", cnn, "pgd20", setting.speed("<=", 0.25)),
        _evaluation(setting, "cnn", cnn, "aa_standard", setting.speed("<=", 25.0)),
        _evaluation(setting, "resnet18", small, "pgd20", None),
    ]


def _step(
    setting: Setting,
    model: str,
    params: dict[str, int],
    method: str,
    *,
    share: Threshold | None = None,
    ratio: Threshold | None = None,
) -> Work:
    """A step on 128 images of CIFAR-10's size, fast bfloat16 against plain float32; a teacher is like its student."""
    name = f"{method}, {model}, step in bfloat16"
    lines = {
        f"{name}, ms": None,
        f"{name}: share of the measured peak": share,
        f"{name}: times as fast as plain float32": ratio,
    }

    def measure() -> dict[str, Any]:
        batch, side = (8, 16) if setting.tiny else (BATCH, SIDE)
        shape = (3, side, side)
        row = train_step.row(model, params, shape, batch, params, method, "bfloat16", setting.device, ROUNDS)
        return dict(zip(lines, (1000 * row["fast_s"], row["share_of_peak"], row["ratio"]), strict=True))

    return Work(lines, measure)


def _evaluation(setting: Setting, model: str, params: dict[str, int], attack: str, limit: Threshold | None) -> Work:
    """An attack in float32 on 1,000 images that keep their class: all of them are attacked to the end."""
    images = 8 if setting.tiny else IMAGES
    line = f"{attack}, {model}, {images:,} images that never break, s"

    def measure() -> dict[str, float]:
        torch.manual_seed(0)
        channels, side = (1, 28) if model == "cnn" else (3, SIDE)
        network = build(model, params, in_channels=channels, num_classes=10).to(setting.device)
        forward = evaluation_forward(network.eval().requires_grad_(False), "fast")
        x = torch.rand(images, channels, side, side).to(setting.device)
        labels = predict(forward, x, BATCHED)
        conditions = Conditions({"name": attack}, NO_RADIUS, 0, BATCHED, 10)
        work = partial(attacked, forward, x, labels, conditions)
        work(TINY_EFFORT)
        return {line: seconds(lambda: work(TINY_EFFORT if setting.tiny else STANDARD), setting.device)}

    return Work({line: limit}, measure)
