"""DAFA's class weights from the similarity of the classes: Lee et al., ICLR 2024, arXiv 2401.12532."""

from __future__ import annotations

from dataclasses import dataclass

from methods.base import ADVERSARIAL, EpochEnd, MarginPolicy, Part, Step, WeightPolicy
from methods.lazy import torch
from methods.registry import register
from methods.settings import setting
from methods.statistics import ClassSums


def balance(similarity: torch.Tensor, strength: float) -> torch.Tensor:
    """w (C,) from S (C, C), S[i, j] the mean probability of class j over samples of class i; a row of NaN is an
    absent class, of weight 1.

    w_i = 1 + strength sum_{j != i} (+ S[i, j] S[j, j] if S[i, i] < S[j, j], - S[j, i] S[i, i] if S[i, i] > S[j, j]):
    the harder class of a pair gains what the easier one is taken for. A tie changes nothing, where the released code
    takes from both.
    """
    present = similarity.diagonal().isfinite()
    similarity = torch.where(present[:, None] & present, similarity, 0.0)
    own = similarity.diagonal()
    gained = similarity * own * (own[:, None] < own)
    lost = similarity.T * own[:, None] * (own[:, None] > own)
    return 1 + strength * (gained - lost).sum(1)


def class_weights(similarity: torch.Tensor, strength: float) -> torch.Tensor:
    """The balance (C,) as weights of a loss and of a radius: not below 0."""
    return balance(similarity, strength).clamp(min=0)


@dataclass(frozen=True)
class DafaSettings:
    similarity_strength: float = setting(1.0, "lambda: 1 for CIFAR-10, 1.5 for CIFAR-100 and STL-10", low=0)
    start_epoch: float = setting(
        70 / 110, "completed epochs after which the weights are computed, once: 70 of 110", low=0, epoch=True
    )


class _Similarity(Part):
    """Class weights that are 1 until the end of warm-up, then fixed: from that epoch's train-mode softmax on x'."""

    def setup(self) -> None:
        self.state["dafa_weight"] = self.class_vector(1.0).double()
        self.sums["similarity"] = ClassSums(self.num_classes, width=self.num_classes)

    def last_of_warm_up(self, epoch: int) -> bool:
        return epoch + 1 == max(self.settings.start_epoch, 1)

    def observe(self, step: Step) -> None:
        if self.last_of_warm_up(step.epoch):
            self.sums["similarity"].add(step.student[ADVERSARIAL].softmax(1), step.labels)

    def end_epoch(self, end: EpochEnd) -> None:
        if self.last_of_warm_up(end.epoch):
            self.state["dafa_weight"] = class_weights(self.sums["similarity"].mean(), self.settings.similarity_strength)


@register("dafa")
class DAFAWeights(_Similarity, WeightPolicy):
    """w_y on the clean term only, w from the similarity of the classes at the end of warm-up; for a method with hard
    labels and no clean term (AT), on its cross-entropy."""

    Settings = DafaSettings
    needs_attack = True
    weighs_cross_entropy = True

    def weights(self, step: Step, coef_adv: float, coef_clean: float) -> tuple[torch.Tensor, torch.Tensor]:
        weight = self.state["dafa_weight"].float()[step.labels]
        ones = torch.ones_like(weight)
        return (ones, weight) if coef_clean else (weight, ones)


@dataclass(frozen=True)
class DafaMarginSettings(DafaSettings):
    double_step: bool = setting(
        False,
        "released PGD form: a second, unscaled step and projection in every iteration, which undoes margins above eps",
    )


@register("dafa")
class DAFAMargins(_Similarity, MarginPolicy):
    """eps_y = w_y eps and step_y = w_y step, w as in the weights: harder classes are attacked harder."""

    Settings = DafaMarginSettings

    def radius(
        self, labels: torch.Tensor, eps: float, step_size: float
    ) -> tuple[torch.Tensor | float, torch.Tensor | float]:
        weight = self.state["dafa_weight"].float()[labels]
        return weight * eps, weight * step_size

    def quantities(self) -> dict[str, torch.Tensor]:
        return {"eps_factor": self.state["dafa_weight"]}  # the weights beside it may have other ones

    def second_step(self, eps: float, step_size: float) -> tuple[float, float] | None:
        return (eps, step_size) if self.settings.double_step else None
