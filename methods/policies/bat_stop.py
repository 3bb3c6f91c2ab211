"""BAT's two points on either side of the decision boundary: Sun et al., AAAI 2023, arXiv 2209.07534."""

from __future__ import annotations

from dataclasses import dataclass

from methods.base import ADVERSARIAL, CLEAN, MarginPolicy, Step
from methods.lazy import torch
from methods.losses import kl_to_uniform
from methods.registry import register
from methods.settings import setting


@dataclass(frozen=True)
class BatStopSettings:
    uniform_coef: float = setting(
        0.1, "factor of the two terms KL(s || uniform); 1 in BAT, 0.1 beside a tenth-sum KL", low=0
    )


@register("bat_stop")
class BatStop(MarginPolicy):
    """The attack is watched instead of shortened: the clean term is taken at the last iterate still classified right,
    the adversarial one at the first wrong iterate and one step more, and both answers are drawn to the uniform
    distribution."""

    Settings = BatStopSettings
    stop_points = True

    def penalty(self, step: Step) -> torch.Tensor:
        return self.settings.uniform_coef * (
            kl_to_uniform(step.student[CLEAN]) + kl_to_uniform(step.student[ADVERSARIAL])
        )
