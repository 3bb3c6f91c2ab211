"""The student trusts its teacher as far as the teacher is right on the student's adversarial point. For the rest it
trusts its own clean answer.

    a         p_t(y | x')^0.1, and 1 before epoch 60 of 200 (iad_ii: 40);   x' maximises CE
    iad       KL(p_t(x) || p_s(x')) + (1 - a) KL(p_s(x) || p_s(x'))
    iad_ii    1/2 [a KL(p_t(x') || p_s(x')) + (1 - a) KL(p_s(x) || p_s(x'))]
              + 1/4 KL(p_nat(x') || p_s(x')) + 1/4 CE(s(x'), y)

The student's own target is not detached, and in iad the teacher's term is not weighted by a, as in the released code
(the paper weights both); the KL is a class sum as there. Released code: as ARD for attack and decay, and a second
forward of x' that nothing uses (never here).

```yaml
{method: iad, attack_mode: train, clamp_start: false}   # with training: {decay_rule: restart}
```
```bibtex
@inproceedings{zhu2022reliable,
  title     = {Reliable Adversarial Distillation with Unreliable Teachers},
  author    = {Zhu, Jianing and Yao, Jiangchao and Han, Bo and Zhang, Jingfeng and Liu, Tongliang and Niu, Gang and
               Zhou, Jingren and Xu, Jianliang and Yang, Hongxia},
  booktitle = {International Conference on Learning Representations},
  year      = {2022},
  note      = {arXiv:2106.04928}
}
```
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from methods.ard import ARD, ArdSettings
from methods.base import (
    ADVERSARIAL,
    CLEAN,
    NATURAL_TEACHER,
    TEACHER,
    Adversary,
    DistillationSettings,
    Method,
    Step,
    View,
    cross_entropy_adversary,
)
from methods.lazy import torch
from methods.losses import KD_REDUCTIONS, cross_entropy, kl
from methods.registry import register
from methods.settings import setting


@dataclass(frozen=True)
class IntrospectionSettings(DistillationSettings):
    kd_reduction: str = setting(
        "class_sum", "scale of a class-summed KL; class_sum as in the code", choices=KD_REDUCTIONS
    )
    trust_exponent: float = setting(0.1, "beta of the trust p_t(y|x')^beta", low=0)
    start_epoch: float = setting(0.3, "completed epochs of full trust in the teacher, 60 of 200", low=0, epoch=True)


@dataclass(frozen=True)
class IadSettings(IntrospectionSettings, ArdSettings):
    """ARD's share alpha beside the trust."""


@dataclass(frozen=True)
class IadTwoSettings(IntrospectionSettings):
    start_epoch: float = setting(
        0.2, "completed epochs of full trust in the teacher, of iad_ii: 40 of 200", low=0, epoch=True
    )
    share_robust: float = setting(0.5, "alpha1, share of the robust teacher and the student itself", low=0, high=1)
    share_natural: float = setting(0.25, "alpha2, share of the natural teacher; the rest is CE on x'", low=0, high=1)


def introspection(step: Step) -> torch.Tensor:
    """KL(s(x) || s(x')), (B,)."""
    return kl(step.student[CLEAN], step.student[ADVERSARIAL])


def trust(step: Step, settings: IntrospectionSettings) -> torch.Tensor:
    """The teacher's probability of the label on x', to the power beta, (B,); 1 before `start_epoch`."""
    if step.epoch < settings.start_epoch:
        return torch.ones_like(step.labels, dtype=torch.float32)
    probability = step.teacher[TEACHER, ADVERSARIAL].softmax(1).gather(1, step.labels[:, None])[:, 0]
    return probability**settings.trust_exponent


@register("iad")
class IAD(ARD):
    """IAD-I: ARD whose student is its own teacher where the teacher is not trusted."""

    Settings = IadSettings
    reference = "Zhu et al., ICLR 2022"
    labels = "teacher"
    teacher_labels = True
    asks: Mapping[str, tuple[str, str]] = {ADVERSARIAL: (TEACHER, CLEAN), "trust": (TEACHER, ADVERSARIAL)}

    def terms(self, step: Step) -> tuple[torch.Tensor, torch.Tensor]:
        taught, labelled = super().terms(step)
        return taught + (1 - trust(step, self.settings)) * (self.kd_scale * introspection(step)), labelled


@register("iad_ii")
class IADTwo(Method):
    """IAD-II: a natural teacher and the label beside the two, all on x'."""

    Settings = IadTwoSettings
    reference = "Zhu et al., ICLR 2022"
    labels = "teacher"
    teacher_labels = True
    asks: Mapping[str, tuple[str, str]] = {
        ADVERSARIAL: (TEACHER, ADVERSARIAL),
        "natural": (NATURAL_TEACHER, ADVERSARIAL),
    }
    forwards = (ADVERSARIAL, CLEAN)

    def adversary(self, view: View) -> Adversary:
        return cross_entropy_adversary(view)

    def terms(self, step: Step) -> tuple[torch.Tensor, float]:
        robust, natural = self.settings.share_robust, self.settings.share_natural
        adversarial, trusted = step.student[ADVERSARIAL], trust(step, self.settings)
        blended = trusted * self.taught(ADVERSARIAL, step) + (1 - trusted) * (self.kd_scale * introspection(step))
        standard = self.kd_scale * kl(step.teacher[NATURAL_TEACHER, ADVERSARIAL], adversarial)
        labelled = cross_entropy(adversarial, step.labels)
        return (1 - robust - natural) * labelled + robust * blended + natural * standard, 0.0
