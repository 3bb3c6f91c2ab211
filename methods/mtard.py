"""A robust teacher answers on adversarial images, a natural one on clean images. In every step the two are balanced so
that both are learnt at the same relative speed.

    W_adv KL(p_t(x') || p_s(x')) + W_nat KL(p_nat(x) || p_s(x)),   x' maximises CE from x + 0.001 N(0, 1)
    q = a term's mean loss over its value in the very first step
    W_nat <- W_nat - r (W_nat - q_nat / (q_nat + q_adv)),   W_adv = 1 - W_nat,   1/2 at first
    r         0.025, cut with the learning rate

Released code: `target_log_eps: 1.0e-5`; files chosen on the test set (never here).

```bibtex
@inproceedings{zhao2022enhanced,
  title     = {Enhanced Accuracy and Robustness via Multi-Teacher Adversarial Distillation},
  author    = {Zhao, Shiji and Yu, Jie and Sun, Zhenlong and Zhang, Bo and Wei, Xingxing},
  booktitle = {European Conference on Computer Vision},
  year      = {2022}
}
```
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from methods.base import (
    ADVERSARIAL,
    CLEAN,
    NATURAL_TEACHER,
    TEACHER,
    Adversary,
    DistillationSettings,
    EpochEnd,
    Method,
    Step,
    View,
    cross_entropy_adversary,
)
from methods.lazy import torch
from methods.registry import register
from methods.settings import setting

START = 0.5


@dataclass(frozen=True)
class MtardSettings(DistillationSettings):
    balance_rate: float = setting(
        0.025, "how fast the two teachers are balanced; decays with the learning rate", low=0, high=1
    )
    balance_power: float = setting(1.0, "exponent of a term's relative loss", low=0)
    crossed_teacher: bool = setting(
        False, "released Fair-MTARD: the clean term is taught by the robust teacher's answer on x'"
    )


@register("mtard")
class MTARD(Method):
    """A robust teacher for x' and a natural one for x, balanced in every step by their unweighted losses."""

    Settings = MtardSettings
    reference = "Zhao et al., ECCV 2022"
    labels = "teacher"
    teacher_labels = True
    asks: Mapping[str, tuple[str, str]] = {ADVERSARIAL: (TEACHER, ADVERSARIAL), CLEAN: (NATURAL_TEACHER, CLEAN)}
    forwards = (ADVERSARIAL, CLEAN)

    def setup(self) -> None:
        if self.settings.crossed_teacher:
            self.asks = dict.fromkeys((ADVERSARIAL, CLEAN), (TEACHER, ADVERSARIAL))
        self.state["weight_natural"] = torch.tensor(START, dtype=torch.float64)
        self.state["rate_factor"] = torch.tensor(1.0, dtype=torch.float64)
        self.state["first_losses"] = torch.full((2,), torch.nan, dtype=torch.float64)

    @classmethod
    def coefficients(cls, settings: MtardSettings) -> tuple[float, float]:
        return START, START

    def adversary(self, view: View) -> Adversary:
        return cross_entropy_adversary(view, start="normal")

    def divergences(self, step: Step) -> tuple[torch.Tensor, torch.Tensor]:
        """The distance from the robust and from the natural teacher, (B,) each, before they are balanced."""
        return self.taught(ADVERSARIAL, step), self.taught(CLEAN, step)

    def observe(self, step: Step) -> None:
        with torch.no_grad():
            losses = torch.stack([term.mean() for term in self.divergences(step)]).double()
        first = self.state["first_losses"]
        self.state["first_losses"] = first = torch.where(first.isnan(), losses, first)
        relative = (losses / first) ** self.settings.balance_power
        # 0/0: both terms are learnt, nothing is out of balance
        share = (relative[1] / relative.sum()).nan_to_num(START)
        weight, rate = self.state["weight_natural"], self.settings.balance_rate * self.state["rate_factor"]
        self.state["weight_natural"] = weight - rate * (weight - share)

    def end_epoch(self, end: EpochEnd) -> None:
        self.state["rate_factor"] = torch.full_like(self.state["rate_factor"], end.lr_factor)

    def terms(self, step: Step) -> tuple[torch.Tensor, torch.Tensor]:
        adversarial, clean = self.divergences(step)
        natural = self.state["weight_natural"].float()
        return (1 - natural) / START * adversarial, natural / START * clean

    def quantities(self) -> dict[str, torch.Tensor]:
        """Nothing per class: the balance is one number."""
        return {}
