"""A robust network is fine-tuned for two epochs with TRADES and a cross-entropy on adversarial images whose weight is
large for the confusions that the worst class's error depends on: the gradient of the spectral norm of the robust
confusion matrix.

    before each epoch, on training images under PGD on CE, with z_y lowered to (1 - gamma) z_y:
    M[i, c]    share of class c taken for i != c, diagonal 0;   u, v its leading singular vectors, m = u v^T
    G = 0.01 + 2 (m - min m) / (max m - min m)
    0.7 CE(s(x), y) + beta KL(p_s(x) || p_s(x')) + 0.3 [G_i CE(s(x'), y) + G_i log G_i],   G_i = G[argmax s(x'), y]
    x' as in TRADES;   beta 6, gamma 0.1

Right answers have the weight of the diagonal, though M does not count them; 0.7 is 1 - 0.3; a negative z_y is raised by
gamma; G log G only shifts the loss: all as in the code. Without a wrong answer, or with all confusions alike, there is
no leading pair and G stays (at first 0.01; the released code takes any pair). Released code: M counts images, so that a
frequent class dominates it (never here); the start of the PGD is not clipped; x and x' pass the network twice in
training mode, which batch norm sees and which we keep: once is cheaper.

```yaml
{method: csr, clamp_start: false}
# once:                    {method: csr, repeated_forwards: false}
# the paper's fine-tuning: {method: csr, training: {epochs: 2, lr: 0.001, milestones: []}}
```
The pass before an epoch costs as much as one more training attack. `singular_value` logs all singular values of M from
the largest on, not one for each class: where the first two are close, u and v are unstable. `csr_weight` logs the mean
of G over predictions. The paper's other form has adversarial weight perturbation: `weight_perturbation`, which here
follows the whole loss and there plain TRADES.

```bibtex
@inproceedings{jin2025enhancing,
  title     = {Enhancing Robust Fairness via Confusional Spectral Regularization},
  author    = {Jin, Gaojie and Wu, Sihao and Liu, Jiaxu and Huang, Tianjin and Mu, Ronghui},
  booktitle = {International Conference on Learning Representations},
  year      = {2025},
  note      = {arXiv:2501.13273}
}
```
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from methods.base import ADVERSARIAL, ADVERSARIAL_AGAIN, CLEAN, CLEAN_AGAIN, Step
from methods.lazy import torch
from methods.losses import cross_entropy
from methods.registry import register
from methods.settings import setting
from methods.trades import TRADES, TradesSettings

LEAST, RANGE = 0.01, 2.0  # of the weights
ALIKE = 1e-9  # entries of u v^T that differ by less are equal but for rounding


@dataclass(frozen=True)
class CsrSettings(TradesSettings):
    csr_weight: float = setting(0.3, "share of the weighted cross-entropy; the one on x has the rest", low=0, high=1)
    gamma: float = setting(0.1, "by which share the label's logit is lowered when confusions are counted", low=0)
    repeated_forwards: bool = setting(
        True, "x and x' pass a second time, for the KL's target and for the weighted cross-entropy; false saves both"
    )


@register("csr")
class CSR(TRADES):
    """TRADES with a cross-entropy that is weighed by confusion."""

    Settings = CsrSettings
    reference = "Jin et al., ICLR 2025"
    forwards: tuple[str, ...] = (CLEAN, ADVERSARIAL, CLEAN_AGAIN, ADVERSARIAL_AGAIN)
    fixed_weights = True
    needs_init = True
    confusion = True

    def setup(self) -> None:
        self.state["csr_weight"] = torch.full((self.num_classes, self.num_classes), LEAST, dtype=torch.float64)
        self.state["singular_value"] = self.class_vector(torch.nan).double()

    @classmethod
    def forwards_of(cls, settings: CsrSettings) -> tuple[str, ...]:
        return cls.forwards if settings.repeated_forwards else (CLEAN, ADVERSARIAL)

    @classmethod
    def coefficients(cls, settings: Any) -> tuple[float, float]:
        return 1.0, 1 - settings.csr_weight

    def taken_for(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        own = logits.gather(1, labels[:, None])
        return logits.scatter(1, labels[:, None], own - self.settings.gamma * own).argmax(1)

    def learn_confusion(self, counts: torch.Tensor) -> None:
        wrong = counts / counts.sum(1, keepdim=True).clamp(min=1)
        left, values, right = torch.linalg.svd(wrong.fill_diagonal_(0.0).T)
        gradient = left[:, :1] * right[:1]
        self.state["singular_value"] = values
        above, spread = gradient - gradient.min(), gradient.max() - gradient.min()
        if values[0] > 0 and spread > ALIKE:
            self.state["csr_weight"] = LEAST + RANGE * above / spread

    def terms(self, step: Step) -> tuple[torch.Tensor, torch.Tensor]:
        divergence, clean = super().terms(step)
        adversarial = step.student.get(ADVERSARIAL_AGAIN, step.student[ADVERSARIAL])
        weight = self.confusion_weight(adversarial, step.labels)
        weighted = weight * cross_entropy(adversarial, step.labels) + weight * weight.log()
        return self.settings.beta * divergence + self.settings.csr_weight * weighted, clean

    def confusion_weight(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """G[argmax s(x'), y] of each sample, (B,)."""
        return self.state["csr_weight"].float()[logits.argmax(1), labels]

    def quantities(self) -> dict[str, torch.Tensor]:
        return super().quantities() | {"csr_weight": self.state["csr_weight"].mean(0)}
