"""CFA's class-wise margins (CCM) and class-wise regularisation (CCR): Wei et al., CVPR 2023, arXiv 2303.14460.

Both follow a_c, the class's robust accuracy over the last epoch's training batches: train-mode logits on the training
attack. The released code counts a_c as correct_c C / N, which is wrong for unequal classes; here it is divided by the
class count.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from methods.base import ADVERSARIAL, EpochEnd, MarginPolicy, Part, Step, WeightPolicy
from methods.lazy import torch
from methods.registry import register
from methods.settings import setting
from methods.statistics import ClassSums


class _FollowsRobustAccuracy(Part):
    """A factor of base + a_c per class, 1 until `start_epoch`; an absent class keeps its own."""

    factor: ClassVar[str]  # its name in the class state
    base: float

    def setup(self) -> None:
        self.state[self.factor] = self.class_vector(1.0)
        self.state["train_robust_accuracy"] = self.class_vector(torch.nan)
        self.sums["correct"] = ClassSums(self.num_classes)

    def observe(self, step: Step) -> None:
        self.sums["correct"].add(step.student[ADVERSARIAL].argmax(1) == step.labels, step.labels)

    def end_epoch(self, end: EpochEnd) -> None:
        accuracy = self.sums["correct"].mean().float()
        self.state["train_robust_accuracy"] = accuracy
        if self.started(end):
            factor = self.state[self.factor].to(accuracy.device)
            self.state[self.factor] = torch.where(accuracy.isnan(), factor, self.base + accuracy)


@dataclass(frozen=True)
class CcmSettings:
    margin_base: float = setting(
        0.5, "lambda1: the radius is (margin_base + a_c) eps; 0.5 for AT, 0.3 for TRADES", low=0
    )
    start_epoch: float = setting(
        0.05, "completed epochs before the margins may change; 10 of 200 in the code", low=0, epoch=True
    )


@register("ccm")
class CCM(_FollowsRobustAccuracy, MarginPolicy):
    """eps_c = (margin_base + a_c) eps, a_c the class's robust accuracy in training over the last epoch: a class that
    resists is attacked harder. The step size stays."""

    Settings = CcmSettings
    factor = "eps_factor"

    def setup(self) -> None:
        super().setup()
        self.base = self.settings.margin_base

    def radius(
        self, labels: torch.Tensor, eps: float, step_size: float
    ) -> tuple[torch.Tensor | float, torch.Tensor | float]:
        return self.state[self.factor][labels] * eps, step_size


@dataclass(frozen=True)
class CcrSettings:
    beta_base: float = setting(0.5, "lambda2: beta_c = (beta_base + a_c) beta", low=0)
    start_epoch: float = setting(
        0.05, "completed epochs before the weights may change; 10 of 200 in the code", low=0, epoch=True
    )


@register("ccr")
class CCR(_FollowsRobustAccuracy, WeightPolicy):
    """beta_c / (1 + beta_c) of the adversarial and 1 / (1 + beta_c) of the clean term, beta_c = (beta_base + a_c)
    beta, a_c as in ccm and beta the method's own ratio of the two. The coefficients of a sample add up to 1 whatever
    the method's did."""

    Settings = CcrSettings
    needs_attack = True
    needs_clean_term = True
    factor = "beta_factor"

    def setup(self) -> None:
        super().setup()
        self.base = self.settings.beta_base

    def weights(self, step: Step, coef_adv: float, coef_clean: float) -> tuple[torch.Tensor, torch.Tensor]:
        beta = self.state[self.factor][step.labels] * (coef_adv / coef_clean)
        return beta / (1 + beta) / coef_adv, 1 / (1 + beta) / coef_clean
