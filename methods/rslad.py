"""RSLAD: Zi, Zhao, Ma, Jiang, ICCV 2021, arXiv 2108.07969; reference sheet 2.4."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace

from methods.base import ADVERSARIAL, CLEAN, DistillationSettings, Method
from methods.registry import register
from methods.settings import setting


@dataclass(frozen=True)
class RsladSettings(DistillationSettings):
    coef_adv: float = setting(5 / 6, "share of the adversarial term; the clean term has the rest", low=0, high=1)


@register("rslad")
class RSLAD(Method):
    """5/6 KL(L.adv || s(x')) + 1/6 KL(L.nat || s(x)) with a label policy L, here the teacher's softmax on clean
    images; x' maximises KL(L.adv || s(x')). Hard labels never enter."""

    Settings = RsladSettings
    reference = "Zi et al., ICCV 2021"
    labels = "teacher"
    forwards = (ADVERSARIAL, CLEAN)

    @classmethod
    def coefficients(cls, settings: SimpleNamespace) -> tuple[float, float]:
        return settings.coef_adv, 1 - settings.coef_adv
