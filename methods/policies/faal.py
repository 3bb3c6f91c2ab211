"""FAAL's weights: the worst class distribution near the uniform one, in every batch. Zhang et al., CVPR 2024, arXiv
2402.17729."""

from __future__ import annotations

from dataclasses import dataclass

from methods.base import ADVERSARIAL, Step, WeightPolicy
from methods.lazy import torch
from methods.registry import register
from methods.settings import setting
from methods.statistics import ClassSums

ABSENT = -1.0  # the margin that the released code gives to a class without samples in the batch
POINTS, ROUNDS = 256, 6


@dataclass(frozen=True)
class FaalSettings:
    kl_radius: float = setting(0.5, "largest KL(uniform || p)", low=1e-6)
    per_class: bool = setting(False, "weigh each class's margin once, not once per sample as the released code does")


@register("faal")
class FAAL(WeightPolicy):
    """C p_y on both terms, with p = argmax sum_c p_c a_c subject to sum p = 1 and KL(uniform || p) <= 0.5; a_c = n_c
    m_c and m_c the mean over the class's n_c samples of the batch of (largest other probability - probability of the
    label), of train-mode logits on x'.

    The papers solve a cone programme; Lagrange gives p_c proportional to 1 / (nu - a_c), nu > max a. A
    batch is weighed by its own margins, so that there is no state.
    """

    Settings = FaalSettings
    needs_attack = True

    def weights(self, step: Step, coef_adv: float, coef_clean: float) -> tuple[torch.Tensor, torch.Tensor]:
        margins = self.class_margins(step.student[ADVERSARIAL], step.labels)
        weight = (self.num_classes * self.distribution(margins, step.labels)).float()[step.labels]
        return weight, weight

    def class_margins(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """m_c (C,) float64, in [-1, 1]: positive where the class is misclassified on average; -1 for an absent one."""
        probability = logits.softmax(1)
        own = probability.gather(1, labels[:, None])[:, 0]
        other = probability.scatter(1, labels[:, None], -1.0).amax(1)
        margins = ClassSums(self.num_classes, device=labels.device)
        margins.add(other - own, labels)
        return margins.mean().nan_to_num(ABSENT)

    def distribution(self, margins: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """p (C,) for class margins (C,) and the labels (B,) of the batch."""
        if self.settings.per_class:
            return worst_distribution(margins, self.settings.kl_radius)
        count = torch.nn.functional.one_hot(labels, self.num_classes).sum(0)  # `bincount` waits for a GPU
        return worst_distribution(margins * count, self.settings.kl_radius)


def worst_distribution(gain: torch.Tensor, radius: float) -> torch.Tensor:
    """argmax of p . gain over distributions p with KL(uniform || p) <= radius; gain and p (C,) float64.

    KL falls as nu - max(gain) grows: a search for the root on a logarithmic scale, 256 points at a time. Equal gains
    give the uniform p.
    """
    below = gain.max() - gain  # (C,), 0 for the best class
    spread = below.max().clamp(min=torch.finfo(gain.dtype).tiny)
    low, high = torch.full_like(spread, -60.0), torch.full_like(spread, 60.0)
    for _ in range(ROUNDS):
        grid = low + (high - low) * torch.linspace(0, 1, POINTS, dtype=gain.dtype, device=gain.device)
        p = _distributions(below / spread, grid)
        outside = (-(p * len(gain)).log().mean(1) > radius).sum()  # the KL falls along the grid
        low, high = grid[torch.stack([outside - 1, outside]).clamp(0, POINTS - 1)]
    return _distributions(below / spread, high[None])[0]


def _distributions(below: torch.Tensor, log_offset: torch.Tensor) -> torch.Tensor:
    """p_c proportional to 1 / (offset + below_c), for each offset: (points, C)."""
    inverse = 1 / (log_offset.exp()[:, None] + below)
    return inverse / inverse.sum(1, keepdim=True)
