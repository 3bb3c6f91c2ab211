"""TRADES: Zhang, Yu, Jiao, Xing, El Ghaoui, Jordan, ICML 2019, arXiv 1901.08573; reference sheet 2.2."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import ClassVar

from methods.base import ADVERSARIAL, CLEAN, CLEAN_AGAIN, Adversary, AttackSettings, Method, Step, View, toward_target
from methods.lazy import torch
from methods.losses import cross_entropy, kl
from methods.registry import register
from methods.settings import setting


@dataclass(frozen=True)
class TradesSettings(AttackSettings):
    beta: float = setting(6.0, "factor of the robust term", low=0)


@register("trades")
class TRADES(Method):
    """CE(s(x), y) + beta KL(s(x) || s(x')): the clean student is the target and gets a gradient too. x' maximises the
    same KL."""

    Settings = TradesSettings
    reference = "Zhang et al., ICML 2019"
    # The released code passes x a third time, for the KL target: batch norm sees it.
    forwards: ClassVar[tuple[str, ...]] = (CLEAN, ADVERSARIAL, CLEAN_AGAIN)
    fixed_labels = True
    recomputes_target: ClassVar[bool] = True

    @classmethod
    def coefficients(cls, settings: SimpleNamespace) -> tuple[float, float]:
        return settings.beta, 1.0

    def adversary(self, view: View) -> Adversary:
        def target() -> torch.Tensor:
            return view.student_clean().softmax(1)

        return Adversary(toward_target, "normal", target, self.recomputes_target)

    def terms(self, step: Step) -> tuple[torch.Tensor, torch.Tensor]:
        clean = step.student[CLEAN]
        target = step.student.get(CLEAN_AGAIN, clean)
        return kl(target, step.student[ADVERSARIAL]), cross_entropy(clean, step.labels)
