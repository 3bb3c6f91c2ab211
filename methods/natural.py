"""The student learns the labels on clean images, without an attack. It is the reference for clean accuracy and a
natural teacher.

    CE(s(x), y)
"""

from __future__ import annotations

from typing import Any

from methods.base import CLEAN, Method, NoSettings, Step
from methods.lazy import torch
from methods.registry import register


@register("natural")
class Natural(Method):
    """Standard training, without an attack."""

    Settings = NoSettings
    forwards = (CLEAN,)
    attacks = False

    @classmethod
    def coefficients(cls, settings: Any) -> tuple[float, float]:
        return 0.0, 1.0

    def terms(self, step: Step) -> tuple[torch.Tensor | float, torch.Tensor | float]:
        return 0.0, self.taught(CLEAN, step)
