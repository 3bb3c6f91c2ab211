"""Hard classes that resemble easy ones get a larger weight and are attacked harder, at the expense of the easy ones.
The weights come once, from the class similarities at the end of a warm-up.

    S[i, j]   mean probability of class j over adversarial images of class i, in the last warm-up epoch (70 of 110)
    w_i = 1 + lambda sum_{j != i} (+ S[i, j] S[j, j] if S[i, i] < S[j, j];  - S[j, i] S[i, i] if S[i, i] > S[j, j])
    w_y CE(s(x), y) + beta KL(p_s(x) || p_s(x')),   radius w_y eps, step w_y step;   lambda 1 (CIFAR-100: 1.5), beta 6

The KL is not weighted. The PGD form of the paper has no clean term: its weighted mean of CE(s(x'), y) is `{method:
at, weights: dafa, margins: dafa}` (the released one starts at x + 0.001 N(0, 1)). Released code: a tie S[i, i] = S[j,
j] takes from both (never here); its PGD form makes a second, unscaled step and projection in every iteration, which
doubles the step and undoes radii above eps.

```yaml
{method: at, weights: dafa, margins: {name: dafa, double_step: true}}
```
```bibtex
@inproceedings{lee2024dafa,
  title     = {{DAFA}: Distance-Aware Fair Adversarial Training},
  author    = {Lee, Hyungyu and Lee, Saehyung and Jang, Hyemi and Park, Junsung and Bae, Ho and Yoon, Sungroh},
  booktitle = {International Conference on Learning Representations},
  year      = {2024},
  note      = {arXiv:2401.12532}
}
```
"""

from __future__ import annotations

from typing import Any, ClassVar

from methods.base import ADVERSARIAL, CLEAN
from methods.registry import register
from methods.trades import TRADES


@register("dafa")
class DAFA(TRADES):
    """TRADES with weights and margins from the similarity of the classes."""

    reference = "Lee et al., ICLR 2024"
    weights: ClassVar[str | dict[str, Any]] = "dafa"
    margins: ClassVar[str | dict[str, Any]] = "dafa"
    forwards = (ADVERSARIAL, CLEAN)
    recomputes_target = False
