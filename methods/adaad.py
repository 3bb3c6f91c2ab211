"""The teacher answers on the adversarial point itself, and the attack looks for where student and teacher disagree,
with the gradient through both. AdaIAD adds IAD's trust in the student's own clean answer.

    x' maximises KL(p_t(x') || p_s(x')) from x + 0.001 N(0, 1)
    adaad     alpha KL(p_t(x') || p_s(x')) + (1 - alpha) KL(p_t(x) || p_s(x)),   alpha 1
    adaiad    T^2 KL(sm(t(x')/T) || sm(s(x')/T)) + (1 - a) KL(p_s(x) || p_s(x')),   T 30, a as in iad

Released code: averages over classes on CIFAR-10 (`kd_reduction: class_mean`) and sums on CIFAR-100 (`class_sum`),
class_sum in AdaIAD; its flags default to radius 16 and step 4, its documented runs to 8 and 2.

```yaml
{method: adaad, kd_reduction: class_mean}
```
```bibtex
@inproceedings{huang2023boosting,
  title     = {Boosting Accuracy and Robustness of Student Models via Adaptive Adversarial Distillation},
  author    = {Huang, Bo and Chen, Mingyang and Wang, Yi and Lu, Junda and Cheng, Minhao and Wang, Wei},
  booktitle = {IEEE/CVF Conference on Computer Vision and Pattern Recognition},
  year      = {2023}
}
```
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from methods.base import ADVERSARIAL, CLEAN, TEACHER, Adversary, DistillationSettings, Method, View
from methods.iad import IAD, IadSettings
from methods.lazy import torch
from methods.losses import KD_REDUCTIONS, kl
from methods.registry import register
from methods.settings import setting


def disagreement(target_of: Callable[[torch.Tensor], torch.Tensor]) -> Adversary:
    """Maximise KL(t(x') || s(x')) from the normal start, with the gradient through both networks."""

    def objective(logits: torch.Tensor, teacher_logits: torch.Tensor) -> torch.Tensor:
        return kl(target_of(teacher_logits), logits)

    return Adversary(objective, "normal", teacher=TEACHER)


@dataclass(frozen=True)
class AdaadSettings(DistillationSettings):
    alpha: float = setting(1.0, "share of the adversarial term; the clean term has the rest", low=0, high=1)


@register("adaad")
class AdaAD(Method):
    """The teacher answers on the point of either term."""

    Settings = AdaadSettings
    reference = "Huang et al., CVPR 2023"
    labels = "teacher"
    teacher_labels = True
    asks: Mapping[str, tuple[str, str]] = {CLEAN: (TEACHER, CLEAN), ADVERSARIAL: (TEACHER, ADVERSARIAL)}
    forwards = (CLEAN, ADVERSARIAL)

    @classmethod
    def coefficients(cls, settings: AdaadSettings) -> tuple[float, float]:
        return settings.alpha, 1 - settings.alpha

    def adversary(self, view: View) -> Adversary:
        return disagreement(lambda teacher_logits: self.label_policy.target(ADVERSARIAL, teacher_logits, view.labels))


@dataclass(frozen=True)
class AdaiadSettings(IadSettings):
    kd_reduction: str = setting("tenth_sum", "scale of a class-summed KL; class_sum in the code", choices=KD_REDUCTIONS)


@register("adaiad")
class AdaIAD(IAD):
    """IAD with AdaAD's attack, taught by the teacher's tempered answer on x'."""

    Settings = AdaiadSettings
    reference = "Huang et al., CVPR 2023"
    labels = "tempered"
    asks: Mapping[str, tuple[str, str]] = {ADVERSARIAL: (TEACHER, ADVERSARIAL), "trust": (TEACHER, ADVERSARIAL)}
    forwards = (CLEAN, ADVERSARIAL)

    def adversary(self, view: View) -> Adversary:
        return disagreement(lambda teacher_logits: teacher_logits)  # the attack is not tempered
