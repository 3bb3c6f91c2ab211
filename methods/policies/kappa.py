"""Sample weights from how long a class resists the attack (Fair-ARD, Yue et al., NeurIPS 2023)."""

from __future__ import annotations

from dataclasses import dataclass

from methods.base import EpochEnd, Step, WeightPolicy
from methods.lazy import torch
from methods.registry import register
from methods.settings import setting
from methods.statistics import ClassSums


@dataclass(frozen=True)
class KappaSettings:
    beta: float = setting(2.0, "exponent of 1 / kappa", low=0)
    weight_range: tuple[float, float] = setting(
        (5 / 6, 5 / 2), "clamp of the weights, after they were scaled to sum to C", low=0
    )
    kappa_eps: float = setting(
        1e-5,
        "added to kappa; 0 in the released Fair-RSLAD, whose kappa 0 is NaN and here gets the largest weight",
        low=0,
    )
    renormalize: bool = setting(False, "scale to sum C again after the clamp; the papers' code does not")
    start_epoch: float = setting(0, "completed epochs before the weights may change", low=0, epoch=True)


@register("kappa")
class Kappa(WeightPolicy):
    """w_c = (1 / (K_c + eps))^beta, scaled to sum C, clamped; K_c = mean over the class of kappa_i, the number of
    attack iterates that the student still classifies right. Both terms of a sample carry w_y; the weights of an epoch
    come from the one before, 1 at first."""

    Settings = KappaSettings
    needs_attack = True
    count_correct = True

    def setup(self) -> None:
        self.state["weight"] = self.class_vector(1.0)
        self.state["kappa"] = self.class_vector(torch.nan)
        self.sums["kappa"] = ClassSums(self.num_classes)

    def weights(self, step: Step, coef_adv: float, coef_clean: float) -> tuple[torch.Tensor, torch.Tensor]:
        weight = self.state["weight"][step.labels]
        return weight, weight

    def observe(self, step: Step) -> None:
        assert step.correct_iterates is not None
        self.sums["kappa"].add(step.correct_iterates, step.labels)

    def end_epoch(self, end: EpochEnd) -> None:
        kappa = self.sums["kappa"].mean()
        self.state["kappa"] = kappa.float()
        if self.started(end):
            self.state["weight"] = self.weights_of(kappa, self.state["weight"].double()).float()

    def weights_of(self, kappa: torch.Tensor, previous: torch.Tensor) -> torch.Tensor:
        """Class weights (C,) for mean kappas (C,); a class that was absent (NaN) keeps its previous weight."""
        present = kappa.isfinite()
        inverse = (
            1 / (kappa[present] + self.settings.kappa_eps).clamp(min=1e-12)
        ) ** self.settings.beta  # finite even at kappa 0
        low, high = self.settings.weight_range
        scaled = (inverse * (len(inverse) / inverse.sum())).clamp(low, high)
        if self.settings.renormalize:
            scaled = scaled * (len(scaled) / scaled.sum())
        weight = previous.to(kappa).clone()
        weight[present] = scaled
        return weight
