"""Evaluation as the papers' scripts do it: batch norm in the graph, default layout, float32, every image until the last
step. The rule is ours, so that verdicts can be compared: robust means right on every iterate.

Kinder than the scripts in one point: they call `backward`, which computes the gradients of the parameters too.
"""

from __future__ import annotations

from pkgutil import resolve_name

import torch
from pyautoattack import AutoAttack
from torch import Tensor, nn

from harness.attacks.autoattack import Effort
from harness.attacks.pgd import seeded_noise
from harness.attacks.registry import AscentSettings

BATCH = 128  # of the scripts; about the fastest for this form on a CPU


def pgd(network: nn.Module, x: Tensor, labels: Tensor, settings: AscentSettings, *, eps: float, seed: int) -> Tensor:
    """Which images (N, C, H, W) in [0, 1] the network classifies right on every iterate of PGD or CW, (N,), from
    the starts of the evaluation's first chunk."""
    noise = seeded_noise(x, settings, seed, 0)(0)
    parts = zip(x.split(BATCH), labels.split(BATCH), noise.split(BATCH), strict=True)
    return torch.cat([_batch(network, *part, settings, eps) for part in parts])


def _batch(
    network: nn.Module, x: Tensor, labels: Tensor, noise: Tensor, settings: AscentSettings, eps: float
) -> Tensor:
    objective = resolve_name(settings.objective)(labels)
    with torch.no_grad():
        robust = network(x).argmax(1) == labels
    point = torch.clamp(x + eps * noise, 0, 1)
    for _ in range(settings.steps):
        point.requires_grad_()
        logits = network(point)
        gradient = torch.autograd.grad(objective(logits, point).sum(), point)[0]
        robust &= logits.argmax(1) == labels
        point = point.detach() + settings.step(eps) * gradient.sign()
        point = torch.clamp(torch.min(torch.max(point, x - eps), x + eps), 0, 1)
    with torch.no_grad():
        return robust & (network(point).argmax(1) == labels)


def autoattack(
    network: nn.Module, x: Tensor, labels: Tensor, stage: str, *, eps: float, seed: int, batch_size: int, effort: Effort
) -> Tensor:
    """The predictions (N,) after one stage of the standard AutoAttack, by a direct call of `pyautoattack`."""
    attack = AutoAttack(network, eps=eps, norm="Linf", seed=seed, version="standard")
    attack.attacks_to_run = [stage]
    with torch.no_grad():
        effort.narrow(attack, network(x[:1]).shape[1])
    with torch.random.fork_rng(devices=[]):
        return attack.run_standard_evaluation(x, labels, batch_size=batch_size)[1]
