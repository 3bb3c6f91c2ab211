"""Class-wise statistics of a student on held-out training data: for selection, for the methods that learn from them,
for the curves."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from harness.attacks.ascent import Forward, Steps, Toward, ascend, normal_start
from harness.attacks.pgd import attack_from, draw_noise, predict, start_point
from harness.attacks.registry import AscentSettings
from harness.data.augment import to_float
from methods.base import HeldOut, toward_target
from methods.losses import cross_entropy, kl
from methods.statistics import ClassSums

BATCH = 500
FEWEST_TO_CHOOSE = 20  # held-out images of a class below which selection is a matter of chance, says a note


def few_held_out(labels: Tensor, class_names: Sequence[str]) -> str | None:
    """A warning where checkpoints are chosen on few held-out images of a class; labels: (N,) of those images."""
    counts = torch.bincount(labels, minlength=len(class_names))
    few = counts < FEWEST_TO_CHOOSE
    if not few.any():
        return None
    least = int(counts.argmin())
    return (
        f"checkpoints are chosen on fewer than {FEWEST_TO_CHOOSE} held-out images in {int(few.sum())} of "
        f"{len(class_names)} classes (class {class_names[least]} has {int(counts[least])})"
    )


def class_rates(correct: Tensor, labels: Tensor, num_classes: int) -> np.ndarray:
    """The mean of `correct` per class (C,), NaN for a class without a sample."""
    sums = ClassSums(num_classes, device=labels.device)
    sums.add(correct, labels)
    return sums.mean().cpu().numpy()


def correct_under_pgd(
    forward: Forward,
    images: Tensor,
    labels: Tensor,
    *,
    eps: float,
    steps: int,
    generator: torch.Generator,
    batch_size: int = BATCH,
) -> tuple[Tensor, Tensor]:
    """Which images (N, uint8) are classified right, clean and on the last iterate of a cross-entropy PGD of `steps`
    steps of eps/4. batch_size: what passes through the network together, `BATCH` at most."""
    settings = AscentSettings(steps=steps, every_iterate=False)
    clean, robust = [], []
    for part, y in zip(images.split(BATCH), labels.split(BATCH), strict=True):
        x = to_float(part)
        start = start_point(x, draw_noise(x, settings, generator), settings, eps)
        clean.append(predict(forward, x, batch_size) == y)
        for few, true, begun in zip(*(each.split(batch_size) for each in (x, y, start)), strict=True):
            robust.append(attack_from(forward, few, true, begun, settings, eps) == true)
    return torch.cat(clean), torch.cat(robust)


def held_out_statistics(
    forward: Forward,
    images: Tensor,
    labels: Tensor,
    num_classes: int,
    *,
    eps: float,
    wanted: frozenset[str],
    generator: torch.Generator,
    batch_size: int = BATCH,
) -> HeldOut:
    """What FRL, WAT and FAWA learn from. `wanted`: "pgd" for the errors (PGD-20), "trades" for the losses; what was
    not asked for is NaN. batch_size: as in `correct_under_pgd`."""
    unknown = torch.full((num_classes,), torch.nan, dtype=torch.float64)
    clean_error = robust_error = clean_loss = boundary_loss = unknown
    if "pgd" in wanted:
        clean, robust = correct_under_pgd(
            forward, images, labels, eps=eps, steps=20, generator=generator, batch_size=batch_size
        )
        clean_error = torch.from_numpy(class_rates(~clean, labels, num_classes))
        robust_error = torch.from_numpy(class_rates(~robust, labels, num_classes))
    if "trades" in wanted:
        losses = _trades_losses(forward, images, labels, eps, generator, batch_size)
        clean_loss, boundary_loss = (torch.from_numpy(class_rates(loss, labels, num_classes)) for loss in losses)
    count = torch.bincount(labels.cpu(), minlength=num_classes).double()
    return HeldOut(clean_error, robust_error, clean_loss, boundary_loss, count)


def _trades_losses(
    forward: Forward, images: Tensor, labels: Tensor, eps: float, generator: torch.Generator, batch_size: int
) -> tuple[Tensor, Tensor]:
    natural, boundary = [], []
    for part, y in zip(images.split(BATCH), labels.split(BATCH), strict=True):
        noise = torch.randn(part.shape, generator=generator, device=generator.device)
        noise = noise.to(part.device, non_blocking=True)
        for x, true, drawn in zip(*(each.split(batch_size) for each in (to_float(part), y, noise)), strict=True):
            with torch.no_grad():
                clean = forward(x)
            objective, steps = Toward(toward_target, clean.softmax(1)), Steps(eps, eps / 4, 10)
            point = ascend(forward, x, objective, steps, start=normal_start(x, drawn)).point
            with torch.no_grad():
                natural.append(cross_entropy(clean, true))
                boundary.append(kl(clean, forward(point)))
    return torch.cat(natural), torch.cat(boundary)
