"""Adversarial training (PGD-AT): Madry, Makelov, Schmidt, Tsipras, Vladu, ICLR 2018, arXiv 1706.06083; reference
sheet 2.1."""

from __future__ import annotations

from methods.base import ADVERSARIAL, Method
from methods.registry import register


@register("at")
class AT(Method):
    """CE(s(x'), y), where x' maximises the same cross-entropy from a uniform start. The released code attacks in
    train mode: `attack_mode: train`."""

    reference = "Madry et al., ICLR 2018"
    forwards = (ADVERSARIAL,)
