"""Hard classes get sharper teacher labels, easy ones smoother. One temperature per class and term moves so as to shrink
the gaps between the student's class errors.

    5/6 KL(sm(t(x) / T_adv[y]) || p_s(x')) + 1/6 KL(sm(t(x) / T_nat[y]) || p_s(x)),   x' maximises the first KL
    L_c       mean CE(s, y) of class c over the epoch, for x' and for x;   g = L - mean(L)
    T <- clamp(T - r g / max|g|, 0.5, 5) after each epoch;   T 1 at first
    r         0.1, cut with the learning rate before that epoch's update

Released code, and the option that reproduces it:

- Both teacher tensors share memory, so that every label is divided by T_adv[y] T_nat[y], for both terms and the
  attack: `alias_teacher: true`. No other version was ever released, so the published numbers may come from it.
- Sums in place of means, so that a frequent class looks hard, and an absent one the easiest: `class_statistic: sum`.
- Equal class losses turn every temperature into NaN for good; here they leave it as it is. With two parameter groups
  the rate is cut twice.

`tempered_terms` (both, adversarial, clean) tempers only one term's labels; `fixed_class_temperature` never moves: the
papers' ablations.

```yaml
{method: absld, alias_teacher: true, class_statistic: sum, target_log_eps: 1.0e-5}
```

`absld_reweight` is ABSLD with sample-based reweighting, which the 2025 paper names without giving it. This combination
is ours: Fair-ARD's kappa weights on both terms, temperatures learnt from unweighted losses, both states 1 in the first
epoch and updated from the same epoch's statistics.

    w_y [5/6 KL(sm(t(x) / T_adv[y]) || p_s(x')) + 1/6 KL(sm(t(x) / T_nat[y]) || p_s(x))],   w as in fair_ard

Other combinations are spelt out: `{method: absld, weights: frl, margins: ccm}`. Cite the two ABSLD papers and that of
the weights.

```bibtex
@inproceedings{zhao2024improving,
  title     = {Improving Adversarial Robust Fairness via Anti-Bias Soft Label Distillation},
  author    = {Zhao, Shiji and Duan, Ranjie and Wang, Xizhe and Wei, Xingxing},
  booktitle = {Advances in Neural Information Processing Systems},
  year      = {2024},
  note      = {arXiv:2312.05508}
}
@article{zhao2025towards,
  title   = {Towards Class-wise Fair Adversarial Training via Anti-Bias Soft Label Distillation},
  author  = {Zhao, Shiji and Chen, Chi and Duan, Ranjie and Wang, Xizhe and Wei, Xingxing},
  journal = {arXiv preprint arXiv:2506.08611},
  year    = {2025}
}
```
"""

from __future__ import annotations

from dataclasses import dataclass

from methods.base import ADVERSARIAL, CLEAN, EpochEnd, LabelPolicy, Step, TargetSettings
from methods.lazy import torch
from methods.losses import cross_entropy
from methods.registry import register
from methods.rslad import RSLAD
from methods.settings import setting
from methods.statistics import ClassSums

TERMS = (ADVERSARIAL, CLEAN)


@dataclass(frozen=True)
class ClassTemperatureSettings(TargetSettings):
    temperature_rate: float = setting(
        0.1, "how far the most deviating class moves per epoch; decays with the learning rate", low=0
    )
    temperature_range: tuple[float, float] = setting((0.5, 5.0), "clamp of the temperatures", low=1e-6)
    temperature_init: float = setting(1.0, "temperature of every class at the start", low=1e-6)
    tempered_terms: str = setting("both", "terms whose labels are tempered per class", choices=("both", *TERMS))
    alias_teacher: bool = setting(
        False,
        "the released script: both teacher tensors share memory, so every label is divided by T_adv T_nat",
    )
    class_statistic: str = setting(
        "mean",
        "a class's loss over the epoch; the released sum takes frequent for hard and absent for easy",
        choices=("mean", "sum"),
    )
    start_epoch: float = setting(0, "completed epochs before the temperatures may change", low=0, epoch=True)


@register("class_temperature")
class ClassTemperature(LabelPolicy):
    """sm(t(x) / T_adv[y]) for the adversarial term and the attack, sm(t(x) / T_nat[y]) for the clean term.

    After each epoch, for either term, with L_c the mean CE(s, y) of class c on the training batches and g = L -
    mean(L): T <- clamp(T - rate * g / max|g|). Equal losses leave T as it is (the released script turns NaN); absent
    classes keep theirs.
    """

    Settings = ClassTemperatureSettings

    def setup(self) -> None:
        for term in TERMS:
            self.state[f"temperature_{term}"] = self.class_vector(self.settings.temperature_init)
            self.state[f"class_loss_{term}"] = self.class_vector(torch.nan)
            self.sums[term] = ClassSums(self.num_classes)

    def target(self, term: str, teacher_logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        temperature = {name: self.state[f"temperature_{name}"][labels, None] for name in TERMS}
        if self.settings.alias_teacher:
            return teacher_logits / temperature[ADVERSARIAL] / temperature[CLEAN]
        if self.settings.tempered_terms not in ("both", term):
            return teacher_logits
        return teacher_logits / temperature[term]

    def observe(self, step: Step) -> None:
        for term in TERMS:
            if term in step.student:
                self.sums[term].add(cross_entropy(step.student[term], step.labels), step.labels)

    def end_epoch(self, end: EpochEnd) -> None:
        for term in TERMS:
            sums = self.sums[term]
            losses = sums.mean() if self.settings.class_statistic == "mean" else sums.total.clone()
            self.state[f"class_loss_{term}"] = losses.float()
            if self.started(end):
                rate = self.settings.temperature_rate * end.lr_factor
                self.state[f"temperature_{term}"] = self.moved(self.state[f"temperature_{term}"], losses, rate)

    def moved(self, temperature: torch.Tensor, losses: torch.Tensor, rate: float) -> torch.Tensor:
        """Temperatures (C,) after one update from class losses (C,), NaN where a class was absent."""
        present = losses.isfinite()
        if not present.any():
            return temperature
        gap = torch.where(present, losses - losses[present].mean(), 0.0)
        largest = gap.abs().max()
        if not largest > 1e-12 * losses[present].abs().max():
            return temperature
        low, high = self.settings.temperature_range
        return (temperature.double() - rate * gap / largest).clamp(low, high).to(temperature.dtype)


@register("absld")
class ABSLD(RSLAD):
    """RSLAD's loss and attack with class temperatures."""

    reference = "Zhao et al., NeurIPS 2024"
    labels = "class_temperature"


@register("absld_reweight")
class ABSLDReweight(ABSLD):
    """ABSLD with Fair-ARD's kappa weights on both terms."""

    reference = "Zhao et al., 2025 (combination: this project)"
    weights = "kappa"
