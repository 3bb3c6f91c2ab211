"""A robust teacher's answer on the clean image is the target for the adversarial one, both softened by a high
temperature. Labels enter only if alpha is below 1.

    alpha T^2 KL(sm(t(x)/T) || sm(s(x')/T)) + (1 - alpha) CE(s(x), y),   T 30, alpha 1;   x' maximises CE

Released code: KL averaged over classes as well; training-mode attack, start not clipped; a decay that starts again
from the base rate at every milestone, so that the second one changes nothing.

```yaml
{method: ard, kd_reduction: class_mean, attack_mode: train, clamp_start: false}   # with training: {decay_rule: restart}
```
```bibtex
@inproceedings{goldblum2020adversarially,
  title     = {Adversarially Robust Distillation},
  author    = {Goldblum, Micah and Fowl, Liam and Feizi, Soheil and Goldstein, Tom},
  booktitle = {AAAI Conference on Artificial Intelligence},
  year      = {2020},
  note      = {arXiv:1905.09747}
}
```
"""

from __future__ import annotations

from dataclasses import dataclass

from methods.base import (
    ADVERSARIAL,
    CLEAN,
    Adversary,
    DistillationSettings,
    Method,
    Step,
    View,
    cross_entropy_adversary,
)
from methods.lazy import torch
from methods.losses import cross_entropy
from methods.registry import register
from methods.settings import setting


@dataclass(frozen=True)
class ArdSettings(DistillationSettings):
    alpha: float = setting(1.0, "share of the distillation term; the rest is CE on clean images", low=0, high=1)


@register("ard")
class ARD(Method):
    """A teacher's tempered answer for the adversarial image, the label for the clean one."""

    Settings = ArdSettings
    reference = "Goldblum et al., AAAI 2020"
    labels = "tempered"
    forwards = (ADVERSARIAL, CLEAN)

    @classmethod
    def coefficients(cls, settings: ArdSettings) -> tuple[float, float]:
        return settings.alpha, 1 - settings.alpha

    def adversary(self, view: View) -> Adversary:
        return cross_entropy_adversary(view)

    def terms(self, step: Step) -> tuple[torch.Tensor, torch.Tensor]:
        return self.taught(ADVERSARIAL, step), cross_entropy(step.student[CLEAN], step.labels)
