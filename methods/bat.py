"""BAT, balance adversarial training: Sun, Xu, Yao, Liang, Wu, Liang, Liu, Liu, AAAI 2023, arXiv 2209.07534; reference
sheet 4.6."""

from __future__ import annotations

from typing import Any, ClassVar

from methods.registry import register
from methods.trades import TRADES


@register("bat")
class BAT(TRADES):
    """CE(s(x_lc), y) + 6 KL(s(x) || s(x_fa)) + KL(s(x_lc) || U) + KL(s(x_fa) || U), with x_lc the last attack iterate
    still classified right, x_fa the first wrong one and one step more, U the uniform distribution
    (`methods.policies.bat_stop`)."""

    reference = "Sun et al., AAAI 2023"
    margins: ClassVar[dict[str, Any]] = {"name": "bat_stop", "uniform_coef": 1.0}
