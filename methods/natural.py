"""Standard training, without an attack: the reference for clean accuracy, and a natural teacher."""

from __future__ import annotations

from types import SimpleNamespace

from methods.base import CLEAN, TEACHER, Method, NoSettings, Step
from methods.lazy import torch
from methods.registry import register


@register("natural")
class Natural(Method):
    """CE(s(x), y)."""

    Settings = NoSettings
    forwards = (CLEAN,)
    attacks = False

    @classmethod
    def coefficients(cls, settings: SimpleNamespace) -> tuple[float, float]:
        return 0.0, 1.0

    def terms(self, step: Step) -> tuple[torch.Tensor | float, torch.Tensor | float]:
        teacher = step.teacher.get(f"{TEACHER}:{CLEAN}")
        return 0.0, self.label_policy.divergence(CLEAN, step.student[CLEAN], teacher, step.labels, self.kd_scale)
