"""MTARD, multi-teacher adversarial robustness distillation: Zhao, Yu, Sun, Zhang, Wei, ECCV 2022; reference sheet
3.4."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from methods.base import (
    ADVERSARIAL,
    CLEAN,
    NATURAL_TEACHER,
    TEACHER,
    Adversary,
    DistillationSettings,
    EpochEnd,
    LabelPolicy,
    MarginPolicy,
    Method,
    Step,
    View,
    WeightPolicy,
    cross_entropy_adversary,
)
from methods.lazy import torch
from methods.registry import register
from methods.settings import setting

START = 0.5


@dataclass(frozen=True)
class MtardSettings(DistillationSettings):
    balance_rate: float = setting(
        0.025, "how fast the two teachers are balanced; decays with the learning rate", low=0, high=1
    )
    balance_power: float = setting(1.0, "exponent of a term's relative loss", low=0)
    crossed_teacher: bool = setting(
        False, "released Fair-MTARD: the clean term is taught by the robust teacher's answer on x'"
    )


@register("mtard")
class MTARD(Method):
    """W_adv KL(t(x') || s(x')) + W_nat KL(t_nat(x) || s(x)): a robust teacher for x', a natural one for x; x'
    maximises CE from the normal start.

    In every step, with q = a term's mean loss over its value in the first step: W_nat <- W_nat - r (W_nat - q_nat /
    (q_nat + q_adv)), W_adv = 1 - W_nat, both 1/2 at first. The q are those of the unweighted losses (sheet 5.2).
    """

    Settings = MtardSettings
    reference = "Zhao et al., ECCV 2022"
    labels = "teacher"
    teacher_labels = True
    teachers = (TEACHER, NATURAL_TEACHER)
    forwards = (ADVERSARIAL, CLEAN)

    def __init__(
        self,
        settings: Mapping[str, Any],
        labels: LabelPolicy,
        weights: WeightPolicy,
        margins: MarginPolicy,
        num_classes: int,
    ) -> None:
        super().__init__(settings, labels, weights, margins, num_classes)
        self.state["weight_natural"] = torch.tensor(START, dtype=torch.float64)
        self.state["rate_factor"] = torch.tensor(1.0, dtype=torch.float64)
        self.state["first_losses"] = torch.full((2,), torch.nan, dtype=torch.float64)

    @classmethod
    def coefficients(cls, settings: SimpleNamespace) -> tuple[float, float]:
        return START, START

    @property
    def teacher_forwards(self) -> tuple[tuple[str, str], ...]:
        return (TEACHER, ADVERSARIAL), (TEACHER, ADVERSARIAL) if self.settings.crossed_teacher else (
            NATURAL_TEACHER,
            CLEAN,
        )

    def adversary(self, view: View) -> Adversary:
        return cross_entropy_adversary(view, start="normal")

    def divergences(self, step: Step) -> tuple[torch.Tensor, torch.Tensor]:
        """KL to the robust and to the natural teacher, (B,) each, before they are balanced."""
        (robust, robust_point), (natural, natural_point) = self.teacher_forwards
        terms = (
            (ADVERSARIAL, step.teacher[f"{robust}:{robust_point}"]),
            (CLEAN, step.teacher[f"{natural}:{natural_point}"]),
        )
        adversarial, clean = (
            self.label_policy.divergence(name, step.student[name], teacher, step.labels, self.kd_scale)
            for name, teacher in terms
        )
        return adversarial, clean

    def observe(self, step: Step) -> None:
        with torch.no_grad():
            losses = torch.stack([term.mean() for term in self.divergences(step)]).double()
        first = self.state["first_losses"]
        self.state["first_losses"] = first = torch.where(first.isnan(), losses, first)
        relative = (losses / first) ** self.settings.balance_power
        share = (relative[1] / relative.sum()).nan_to_num(
            START
        )  # 0/0: both terms are learnt, nothing is out of balance
        weight, rate = self.state["weight_natural"], self.settings.balance_rate * self.state["rate_factor"]
        self.state["weight_natural"] = weight - rate * (weight - share)

    def end_epoch(self, end: EpochEnd) -> None:
        self.state["rate_factor"] = torch.full_like(self.state["rate_factor"], end.lr_factor)

    def terms(self, step: Step) -> tuple[torch.Tensor, torch.Tensor]:
        adversarial, clean = self.divergences(step)
        natural = self.state["weight_natural"].float()
        return (1 - natural) / START * adversarial, natural / START * clean

    def quantities(self) -> dict[str, torch.Tensor]:
        """Nothing per class: the balance is one number."""
        return {}
