"""The teacher's soft labels replace hard ones everywhere: for the attack, the adversarial and the clean term. There is
no temperature.

    5/6 KL(p_t(x) || p_s(x')) + 1/6 KL(p_t(x) || p_s(x)),   x' maximises the first KL from x + 0.001 N(0, 1)

Released code: `target_log_eps: 1.0e-5`; checkpoints chosen on the test set (never here).

```bibtex
@inproceedings{zi2021revisiting,
  title     = {Revisiting Adversarial Robustness Distillation: Robust Soft Labels Make Student Better},
  author    = {Zi, Bojia and Zhao, Shihao and Ma, Xingjun and Jiang, Yu-Gang},
  booktitle = {IEEE/CVF International Conference on Computer Vision},
  year      = {2021},
  note      = {arXiv:2108.07969}
}
```
"""

from __future__ import annotations

from dataclasses import dataclass

from methods.base import ADVERSARIAL, CLEAN, DistillationSettings, Method
from methods.registry import register
from methods.settings import setting


@dataclass(frozen=True)
class RsladSettings(DistillationSettings):
    coef_adv: float = setting(5 / 6, "share of the adversarial term; the clean term has the rest", low=0, high=1)


@register("rslad")
class RSLAD(Method):
    """Both terms, and the attack, on the label policy's soft labels."""

    Settings = RsladSettings
    reference = "Zi et al., ICCV 2021"
    labels = "teacher"
    forwards = (ADVERSARIAL, CLEAN)

    @classmethod
    def coefficients(cls, settings: RsladSettings) -> tuple[float, float]:
        return settings.coef_adv, 1 - settings.coef_adv
