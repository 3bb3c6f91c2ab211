"""IAD, introspective adversarial distillation: Zhu, Yao, Han, Zhang, Liu, Niu, Zhou, Xu, Yang, ICLR 2022, arXiv
2106.04928; reference sheet 3.2. The student trusts its teacher as far as the teacher is right on the student's
adversarial point, and itself for the rest."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import ClassVar

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
class IadSettings(DistillationSettings):
    kd_reduction: str = setting(
        "class_sum", "scale of a class-summed KL; class_sum as in the code", choices=KD_REDUCTIONS
    )
    alpha: float = setting(1.0, "share of the distillation terms; the rest is CE on clean images", low=0, high=1)
    trust_exponent: float = setting(0.1, "beta of the trust p_t(y|x')^beta", low=0)
    start_epoch: float = setting(0.3, "completed epochs of full trust in the teacher, 60 of 200", low=0, epoch=True)


@register("iad")
class IAD(Method):
    """IAD-I: alpha [KL(t(x) || s(x')) + (1 - a) KL(s(x) || s(x'))] + (1 - alpha) CE(s(x), y), a = p_t(y|x')^0.1, and
    a = 1 at first.

    The student's own target s(x) is not detached and the teacher's term is not weighted by a, as in the released code
    (the paper weights both). x' maximises CE from a uniform start. Temperature 1; another one is `labels: tempered`.
    """

    Settings: ClassVar[type] = IadSettings
    reference = "Zhu et al., ICLR 2022"
    labels = "teacher"
    teacher_labels = True
    teachers: ClassVar[tuple[str, ...]] = (TEACHER,)
    forwards = (ADVERSARIAL, CLEAN)
    taught_on: ClassVar[str] = CLEAN  # where the teacher's label is read

    @classmethod
    def coefficients(cls, settings: SimpleNamespace) -> tuple[float, float]:
        return settings.alpha, 1 - settings.alpha

    @property
    def teacher_forwards(self) -> tuple[tuple[str, str], ...]:
        return (TEACHER, CLEAN), (TEACHER, ADVERSARIAL)

    def adversary(self, view: View) -> Adversary:
        return cross_entropy_adversary(view)

    def terms(self, step: Step) -> tuple[torch.Tensor, torch.Tensor | float]:
        taught = self.taught(step, step.teacher[f"{TEACHER}:{self.taught_on}"])
        distilled = taught + (1 - self.trust(step)) * self.introspection(step)
        return distilled, cross_entropy(step.student[CLEAN], step.labels)

    def taught(self, step: Step, teacher_logits: torch.Tensor) -> torch.Tensor:
        """The label policy's divergence of s(x') from a teacher's answer, (B,)."""
        return self.label_policy.divergence(
            ADVERSARIAL, step.student[ADVERSARIAL], teacher_logits, step.labels, self.kd_scale
        )

    def introspection(self, step: Step) -> torch.Tensor:
        """KL(s(x) || s(x')), (B,)."""
        return self.kd_scale * kl(step.student[CLEAN], step.student[ADVERSARIAL])

    def trust(self, step: Step) -> torch.Tensor:
        """The teacher's probability of the label on x', to the power beta, (B,); 1 before `start_epoch`."""
        if step.epoch < self.settings.start_epoch:
            return torch.ones_like(step.labels, dtype=torch.float32)
        probability = step.teacher[f"{TEACHER}:{ADVERSARIAL}"].softmax(1).gather(1, step.labels[:, None])[:, 0]
        return probability**self.settings.trust_exponent


@dataclass(frozen=True)
class IadTwoSettings(DistillationSettings):
    kd_reduction: str = setting(
        "class_sum", "scale of a class-summed KL; class_sum as in the code", choices=KD_REDUCTIONS
    )
    share_robust: float = setting(0.5, "alpha1, share of the robust teacher and the student itself", low=0, high=1)
    share_natural: float = setting(0.25, "alpha2, share of the natural teacher; the rest is CE on x'", low=0, high=1)
    trust_exponent: float = setting(0.1, "beta of the trust p_t(y|x')^beta", low=0)
    start_epoch: float = setting(0.2, "completed epochs of full trust in the teacher, 40 of 200", low=0, epoch=True)


@register("iad_ii")
class IADTwo(IAD):
    """IAD-II: (1 - a1 - a2) CE(s(x'), y) + a1 [a KL(t(x') || s(x')) + (1 - a) KL(s(x) || s(x'))] + a2 KL(t_nat(x') ||
    s(x'))."""

    Settings = IadTwoSettings
    teachers = (TEACHER, NATURAL_TEACHER)

    @classmethod
    def coefficients(cls, settings: SimpleNamespace) -> tuple[float, float]:
        return 1.0, 0.0

    @property
    def teacher_forwards(self) -> tuple[tuple[str, str], ...]:
        return (TEACHER, ADVERSARIAL), (NATURAL_TEACHER, ADVERSARIAL)

    def terms(self, step: Step) -> tuple[torch.Tensor, torch.Tensor | float]:
        robust, natural = self.settings.share_robust, self.settings.share_natural
        adversarial, trust = step.student[ADVERSARIAL], self.trust(step)
        taught = self.taught(step, step.teacher[f"{TEACHER}:{ADVERSARIAL}"])
        blended = trust * taught + (1 - trust) * self.introspection(step)
        standard = self.kd_scale * kl(step.teacher[f"{NATURAL_TEACHER}:{ADVERSARIAL}"], adversarial)
        labelled = cross_entropy(adversarial, step.labels)
        return (1 - robust - natural) * labelled + robust * blended + natural * standard, 0.0
