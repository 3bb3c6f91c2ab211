"""ARD: Goldblum, Fowl, Feizi, Goldstein, AAAI 2020, arXiv 1905.09747; reference sheet 2.3."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace

from methods.base import (
    ADVERSARIAL,
    CLEAN,
    TEACHER,
    Adversary,
    DistillationSettings,
    Method,
    Step,
    View,
    cross_entropy_adversary,
)
from methods.lazy import torch
from methods.losses import cross_entropy
from methods.registry import register
from methods.settings import setting


@dataclass(frozen=True)
class ArdSettings(DistillationSettings):
    alpha: float = setting(1.0, "share of the distillation term; the rest is CE on clean images", low=0, high=1)


@register("ard")
class ARD(Method):
    """alpha T^2 KL(sm(t(x)/T) || sm(s(x')/T)) + (1 - alpha) CE(s(x), y), attacked by cross-entropy.

    The released code averages the KL over classes too (`kd_reduction: class_mean`), attacks in train mode
    (`attack_mode: train`) and restarts its decay from the base rate (`training.decay: restart`).
    """

    Settings = ArdSettings
    reference = "Goldblum et al., AAAI 2020"
    labels = "tempered"
    forwards = (ADVERSARIAL, CLEAN)

    @classmethod
    def coefficients(cls, settings: SimpleNamespace) -> tuple[float, float]:
        return settings.alpha, 1 - settings.alpha

    def adversary(self, view: View) -> Adversary:
        return cross_entropy_adversary(view)

    def terms(self, step: Step) -> tuple[torch.Tensor, torch.Tensor]:
        teacher = step.teacher.get(f"{TEACHER}:{CLEAN}")
        distilled = self.label_policy.divergence(
            ADVERSARIAL, step.student[ADVERSARIAL], teacher, step.labels, self.kd_scale
        )
        return distilled, cross_entropy(step.student[CLEAN], step.labels)
