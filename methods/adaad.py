"""AdaAD, adaptive adversarial distillation, and AdaIAD, its introspective form: Huang, Chen, Wang, Lu, Cheng, Wang,
CVPR 2023; reference sheet 3.3. The teacher answers on the student's adversarial point, and the attack looks for where
the two disagree."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace

from methods.base import ADVERSARIAL, CLEAN, TEACHER, Adversary, DistillationSettings, Method, Step, View
from methods.iad import IAD, IadSettings
from methods.lazy import torch
from methods.losses import KD_REDUCTIONS, kl
from methods.registry import register
from methods.settings import setting


def disagreement(target_of: Callable[[torch.Tensor], torch.Tensor]) -> Adversary:
    """Maximise KL(t(x') || s(x')) from the normal start, with the gradient through both networks."""

    def objective(logits: torch.Tensor, teacher_logits: torch.Tensor | None) -> torch.Tensor:
        assert teacher_logits is not None
        return kl(target_of(teacher_logits), logits)

    return Adversary(objective, "normal", teacher=TEACHER)


@dataclass(frozen=True)
class AdaadSettings(DistillationSettings):
    alpha: float = setting(1.0, "share of the adversarial term; the clean term has the rest", low=0, high=1)


@register("adaad")
class AdaAD(Method):
    """alpha KL(t(x') || s(x')) + (1 - alpha) KL(t(x) || s(x)), alpha 1.

    The released code averages over classes for CIFAR-10 (`kd_reduction: class_mean`) and sums over them for CIFAR-100
    (`class_sum`).
    """

    Settings = AdaadSettings
    reference = "Huang et al., CVPR 2023"
    labels = "teacher"
    teacher_labels = True
    forwards = (CLEAN, ADVERSARIAL)

    @classmethod
    def coefficients(cls, settings: SimpleNamespace) -> tuple[float, float]:
        return settings.alpha, 1 - settings.alpha

    @property
    def teacher_forwards(self) -> tuple[tuple[str, str], ...]:
        return (TEACHER, CLEAN), (TEACHER, ADVERSARIAL)

    def adversary(self, view: View) -> Adversary:
        return disagreement(lambda teacher_logits: self.label_policy.target(ADVERSARIAL, teacher_logits, view.labels))

    def terms(self, step: Step) -> tuple[torch.Tensor, torch.Tensor]:
        def term(name: str) -> torch.Tensor:
            teacher = step.teacher[f"{TEACHER}:{name}"]
            return self.label_policy.divergence(name, step.student[name], teacher, step.labels, self.kd_scale)

        return term(ADVERSARIAL), term(CLEAN)


@dataclass(frozen=True)
class AdaiadSettings(IadSettings):
    kd_reduction: str = setting("tenth_sum", "scale of a class-summed KL; class_sum in the code", choices=KD_REDUCTIONS)


@register("adaiad")
class AdaIAD(IAD):
    """alpha [T^2 KL(sm(t(x')/T) || sm(s(x')/T)) + (1 - a) KL(s(x) || s(x'))] + (1 - alpha) CE(s(x), y), T 30, a as in
    IAD, AdaAD's attack."""

    Settings = AdaiadSettings
    reference = "Huang et al., CVPR 2023"
    labels = "tempered"
    forwards = (CLEAN, ADVERSARIAL)
    taught_on = ADVERSARIAL

    @property
    def teacher_forwards(self) -> tuple[tuple[str, str], ...]:
        return ((TEACHER, ADVERSARIAL),)

    def adversary(self, view: View) -> Adversary:
        return disagreement(lambda teacher_logits: teacher_logits)  # the attack is not tempered
