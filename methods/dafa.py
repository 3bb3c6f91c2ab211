"""DAFA, distance-aware fair adversarial training: Lee, Lee, Jang, Park, Bae, Yoon, ICLR 2024, arXiv 2401.12532;
reference sheet 4.3."""

from __future__ import annotations

from methods.base import ADVERSARIAL, CLEAN
from methods.registry import register
from methods.trades import TRADES


@register("dafa")
class DAFA(TRADES):
    """w_y CE(s(x), y) + beta KL(s(x) || s(x')) with radius w_y eps and step w_y step; w from the similarity of the
    classes, once, after warm-up (`methods.policies.dafa`). The KL is not weighted. The paper's PGD form is `{method:
    at, weights: dafa, margins: dafa}`."""

    reference = "Lee et al., ICLR 2024"
    weights = "dafa"
    margins = "dafa"
    forwards = (ADVERSARIAL, CLEAN)
    recomputes_target = False
