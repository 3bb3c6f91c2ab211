"""Attacks on the device: whether they break the images that they break on the processor."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial

import torch
from torch import Tensor

from benchmarks.gpu.check import Setting, Threshold, Work
from benchmarks.robust import DIGITS, Recipe, Robust, robust_student
from harness.attacks.ascent import Forward
from harness.attacks.autoattack import Effort, attack_stage
from harness.attacks.conditions import Conditions
from harness.attacks.pgd import attack_chunk, predict, seeded_noise
from harness.attacks.registry import ATTACKS, AUTOATTACK_STAGES, ascent_settings, attack_info
from harness.data.augment import to_float
from harness.data.sources import load
from harness.data.splits import stratified_subset
from harness.engine.forwards import evaluation_forward

IMAGES, BATCH = 500, 250
TINY = Recipe("digits", width=8, eps=0.02, epochs=4, train_images=600, images=40)
# a beginning of AutoAttack's stages: the processor, too, has to get to the end of it
EFFORT, TINY_EFFORT = Effort(iterations=20, targets=3, queries=300), Effort(iterations=3, targets=1, queries=10)


def verdicts(setting: Setting) -> list[Work]:
    """Every attack on a robust network, here and on the processor."""
    student = cache(partial(_subject, setting))
    return [_verdicts(setting, student, attack.with_steps().name) for attack in ATTACKS.values()]


def _verdicts(setting: Setting, student: Callable[[], Robust], name: str) -> Work:
    lines = {
        f"{name}: share of images judged otherwise than by the processor": Threshold("<=", 0.01),
        f"{name}: robust accuracy": None,
    }
    effort = TINY_EFFORT if setting.tiny else EFFORT

    def measure() -> dict[str, float]:
        right, found = (_survivors(student(), name, each, effort) for each in (torch.device("cpu"), setting.device))
        shares = (each.double().mean() for each in (right != found, found))
        return dict(zip(lines, map(float, shares), strict=True))

    return Work(lines, measure)


def _subject(setting: Setting) -> Robust:
    """A student trained robustly on digits, and images that it has not seen, of the training set too."""
    if setting.tiny:
        return robust_student(TINY)
    robust, train = robust_student(DIGITS), load("digits", "train")
    unseen = torch.ones(len(train.labels), dtype=torch.bool)
    unseen[stratified_subset(train.labels, DIGITS.train_images, 0)] = False
    images, labels = (torch.cat(pair)[:IMAGES] for pair in (
        (robust.images, train.images[unseen]), (robust.labels, train.labels[unseen])
    ))  # fmt: skip
    return Robust(robust.student, images, labels, robust.recipe)


def _survivors(robust: Robust, name: str, device: torch.device, effort: Effort) -> Tensor:
    """Which images are still right after the attack, (N,) on the CPU."""
    x, labels = to_float(robust.images.to(device)), robust.labels.to(device)
    forward = evaluation_forward(robust.student.to(device).requires_grad_(False), "fast")
    conditions = Conditions({"name": name}, robust.recipe.eps, 0, BATCH, robust.num_classes)
    return (attacked(forward, x, labels, conditions, effort) == labels).cpu()


def attacked(forward: Forward, x: Tensor, labels: Tensor, conditions: Conditions, effort: Effort) -> Tensor:
    """The predictions (N,) after all stages of an attack, AutoAttack's as far as the effort goes."""
    prediction = predict(forward, x, conditions.batch_size)
    for stage in conditions.stages:
        if stage in AUTOATTACK_STAGES:
            prediction, _ = attack_stage(stage, forward, x, labels, prediction, conditions, effort)
        elif attack_info(stage).ascent:
            settings = ascent_settings(conditions.attack)
            prediction = attack_chunk(
                forward, x, labels, prediction, settings, eps=conditions.eps,
                noise=seeded_noise(x, settings, conditions.seed), batch_size=conditions.batch_size,
            )  # fmt: skip
    return prediction
