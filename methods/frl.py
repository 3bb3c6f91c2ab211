"""TRADES, fine-tuned from a robust network, is told which classes have too much clean or boundary error on held-out
data. Multipliers raise their weight, and in the second form their radius.

    E_c, B_c  clean error, and robust minus clean error, of class c held out, under PGD-20; E, B over all samples
    before each epoch:  l0 <- limited(l0 + 0.05 (E_c - E - tau)),   l1 <- limited(l1 + 0.1 (B_c - B - tau))
    tau       0.1; 0.07 for frl_remargin
    limited   clamp at 0, scale down where the sum is above 0.5;   w_c = 1/C + l_c - mean(l)
    loss      sum(w0_y CE(s(x), y)) / sum(w0_y) + 1.5 sum(w1_y KL(p_s(x) || p_s(x'))) / sum(w1_y)
    remargin  l2 <- l2 + 0.2 (B_c - B - 0.07),   radius clamp(exp(2 l2), 0.98, 3) eps, step in proportion

Released code: the remargin script takes a quarter of the *batch's largest* radius as the step of all samples, the
reweight script (whose margins never move) a fixed one. Its rate halves every 40 epochs, of which it runs 40: left
out.

```yaml
{method: frl_remargin, margins: {margin_step: batch}}
```
```bibtex
@inproceedings{xu2021robust,
  title     = {To be Robust or to be Fair: Towards Fairness in Adversarial Training},
  author    = {Xu, Han and Liu, Xiaorui and Li, Yaxin and Jain, Anil K. and Tang, Jiliang},
  booktitle = {International Conference on Machine Learning},
  year      = {2021},
  note      = {arXiv:2010.06121}
}
```
"""

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
    """TRADES whose class weights follow held-out errors."""

    Settings = FrlSettings
    reference = "Xu et al., ICML 2021"
    weights: ClassVar[str | dict[str, Any]] = "frl"
    needs_init = True


@register("frl_remargin")
class FRLRemargin(FRLReweight):
    """The same with smaller tolerances, and a radius per class that follows its boundary error."""

    weights: ClassVar[str | dict[str, Any]] = {"name": "frl", "tolerance_clean": 0.07, "tolerance_boundary": 0.07}
    margins = "frl"
