"""FRL, fair robust learning: Xu, Liu, Li, Jain, Tang, ICML 2021, arXiv 2010.06121; reference sheet 4.2. TRADES with
beta 1.5, fine-tuned from a robust network, whose class weights (and margins) follow the class-wise errors on held-out
training data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from methods.registry import register
from methods.settings import setting
from methods.trades import TRADES, TradesSettings


@dataclass(frozen=True)
class FrlSettings(TradesSettings):
    beta: float = setting(1.5, "factor of the robust term", low=0)


@register("frl_reweight")
class FRLReweight(TRADES):
    """sum(w0_y CE(s(x), y)) / sum(w0_y) + 1.5 sum(w1_y KL(s(x) || s(x'))) / sum(w1_y) over the batch; w0, w1 in
    `methods.policies.frl`."""

    Settings = FrlSettings
    reference = "Xu et al., ICML 2021"
    weights: ClassVar[str | dict[str, Any]] = "frl"
    needs_init = True


@register("frl_remargin")
class FRLRemargin(FRLReweight):
    """The same with tolerances of 0.07 instead of 0.1, and a radius per class that grows while its boundary error is
    too high."""

    weights: ClassVar[str | dict[str, Any]] = {"name": "frl", "tolerance_clean": 0.07, "tolerance_boundary": 0.07}
    margins = "frl"
