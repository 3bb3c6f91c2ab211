"""WAT, worst-class adversarial training: Li, Liu, AAAI 2023, arXiv 2302.04025; reference sheet 4.4."""

from __future__ import annotations

from methods.base import ADVERSARIAL, CLEAN
from methods.registry import register
from methods.trades import TRADES


@register("wat")
class WAT(TRADES):
    """(w_y + w_average) [CE(s(x), y) + 6 KL(s(x) || s(x'))]: no-regret weights of one expert per class and one for
    the average, from held-out training data (`methods.policies.wat`)."""

    reference = "Li and Liu, AAAI 2023"
    weights = "wat"
    forwards = (CLEAN, ADVERSARIAL)
