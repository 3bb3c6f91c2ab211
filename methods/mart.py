"""MART, misclassification-aware adversarial training: Wang, Zou, Yi, Bailey, Ma, Gu, ICLR 2020.

The reference sheet has no entry: recalled from the literature, and checked by no golden number.
"""

from __future__ import annotations

from dataclasses import dataclass

from methods.base import ADVERSARIAL, CLEAN, Adversary, AttackSettings, Method, Step, View, cross_entropy_adversary
from methods.lazy import torch
from methods.losses import cross_entropy, kl
from methods.registry import register
from methods.settings import setting


@dataclass(frozen=True)
class MartSettings(AttackSettings):
    beta: float = setting(
        6.0, "factor of the KL term; 6 in the released loss function, 5 in the released script", low=0
    )


@register("mart")
class MART(Method):
    """BCE(s(x'), y) + beta KL(s(x) || s(x')) (1 - p_y(x)), BCE = -log p_y(x') - log(1 - max_{k != y} p_k(x')).

    x' maximises CE from the normal start. Samples that are wrong when clean are regularised more. No term stands
    apart from x', so that a weight multiplies the whole loss of a sample. 1.0001 and 1e-12 keep the logarithm finite,
    as in the released code.
    """

    Settings = MartSettings
    reference = "Wang et al., ICLR 2020"
    forwards = (CLEAN, ADVERSARIAL)
    fixed_labels = True

    def adversary(self, view: View) -> Adversary:
        return cross_entropy_adversary(view, start="normal")

    def terms(self, step: Step) -> tuple[torch.Tensor, torch.Tensor | float]:
        clean, adversarial = step.student[CLEAN], step.student[ADVERSARIAL]
        other = adversarial.softmax(1).scatter(1, step.labels[:, None], 0.0).amax(1)
        boosted = cross_entropy(adversarial, step.labels) - (1.0001 - other + 1e-12).log()
        doubt = 1.0000001 - clean.softmax(1).gather(1, step.labels[:, None])[:, 0]
        return boosted + self.settings.beta * doubt * kl(clean, adversarial), 0.0
