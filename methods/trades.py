"""The clean image is classified by its label, the adversarial one like the clean one. The clean output is the target
and gets a gradient too.

    CE(s(x), y) + beta KL(p_s(x) || p_s(x')),   x' maximises the KL from x + 0.001 N(0, 1);   beta 6

Released code: radius 0.031 and step 0.007 (the suite's `eps`, `training.step_size`); a third forward of x for the KL
target, which batch norm sees and which we keep.

```bibtex
@inproceedings{zhang2019theoretically,
  title     = {Theoretically Principled Trade-off between Robustness and Accuracy},
  author    = {Zhang, Hongyang and Yu, Yaodong and Jiao, Jiantao and Xing, Eric P. and El Ghaoui, Laurent and
               Jordan, Michael I.},
  booktitle = {International Conference on Machine Learning},
  year      = {2019},
  note      = {arXiv:1901.08573}
}
```
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from methods.base import ADVERSARIAL, CLEAN, CLEAN_AGAIN, Adversary, AttackSettings, Method, Step, View, toward_target
from methods.lazy import torch
from methods.losses import cross_entropy, kl
from methods.registry import register
from methods.settings import setting


@dataclass(frozen=True)
class TradesSettings(AttackSettings):
    beta: float = setting(6.0, "factor of the robust term", low=0)


@register("trades")
class TRADES(Method):
    """The clean student is the target of the adversarial one."""

    Settings = TradesSettings
    reference = "Zhang et al., ICML 2019"
    # The released code passes x a third time, for the KL target: batch norm sees it.
    forwards: tuple[str, ...] = (CLEAN, ADVERSARIAL, CLEAN_AGAIN)
    fixed_labels = True
    recomputes_target: ClassVar[bool] = True

    @classmethod
    def coefficients(cls, settings: TradesSettings) -> tuple[float, float]:
        return settings.beta, 1.0

    def adversary(self, view: View) -> Adversary:
        def target() -> torch.Tensor:
            return view.student_clean().softmax(1)

        return Adversary(toward_target, "normal", target, self.recomputes_target)

    def terms(self, step: Step) -> tuple[torch.Tensor, torch.Tensor]:
        clean = step.student[CLEAN]
        target = step.student.get(CLEAN_AGAIN, clean)
        return kl(target, step.student[ADVERSARIAL]), cross_entropy(clean, step.labels)
