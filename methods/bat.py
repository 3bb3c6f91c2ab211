"""The student trains on two points on either side of its decision boundary. Both answers are drawn towards the uniform
distribution.

    CE(s(x_lc), y) + 6 KL(p_s(x) || p_s(x_fa)) + KL(p_s(x_lc) || U) + KL(p_s(x_fa) || U)
    x_lc      last attack iterate still classified right (the start, where that is wrong already)
    x_fa      one step beyond the first wrong iterate (the last iterate, where none is wrong);   TRADES attack

As the margin policy `bat_stop` beside other labels, the two uniform terms are scaled by 0.1, like a tenth-sum KL.
Released code: images of 3x32x32 only, and returned in another order.

```bibtex
@inproceedings{sun2023improving,
  title     = {Improving Robust Fairness via Balance Adversarial Training},
  author    = {Sun, Chunyu and Xu, Chenye and Yao, Chengyuan and Liang, Siyuan and Wu, Yichao and Liang, Ding and
               Liu, Xianglong and Liu, Aishan},
  booktitle = {AAAI Conference on Artificial Intelligence},
  year      = {2023},
  note      = {arXiv:2209.07534}
}
```
"""

from __future__ import annotations

from typing import Any, ClassVar

from methods.registry import register
from methods.trades import TRADES


@register("bat")
class BAT(TRADES):
    """TRADES on the two points on either side of the decision boundary."""

    reference = "Sun et al., AAAI 2023"
    margins: ClassVar[dict[str, Any]] = {"name": "bat_stop", "uniform_coef": 1.0}
