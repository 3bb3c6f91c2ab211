"""FRL's multipliers: Xu et al., ICML 2021, arXiv 2010.06121.

Before each epoch, on held-out training data under PGD-20: E_c the clean error of a class, B_c its boundary error
(robust minus clean error), each compared with the overall one. A class whose excess is above the tolerance gets more
weight, or a larger radius.
"""

from __future__ import annotations

from dataclasses import dataclass

from methods.base import EpochEnd, HeldOut, MarginPolicy, Step, WeightPolicy
from methods.lazy import torch
from methods.registry import register
from methods.settings import setting


def excess(errors: torch.Tensor, held_out: HeldOut) -> torch.Tensor:
    """Class errors (C,) minus the error over all samples; 0 for a class without held-out samples."""
    overall = (errors.nan_to_num(0.0) * held_out.count).sum() / held_out.count.sum()
    return torch.where(errors.isnan(), 0.0, errors - overall)


def boundary_error(held_out: HeldOut) -> torch.Tensor:
    """The share that only the attack breaks, per class, (C,)."""
    return held_out.robust_error - held_out.clean_error


def limited(multiplier: torch.Tensor, limit: float) -> torch.Tensor:
    """Multipliers (C,) clamped at 0 and scaled down to `limit` where their sum is above it."""
    multiplier = multiplier.clamp(min=0)
    return multiplier * (limit / multiplier.sum().clamp(min=limit))


@dataclass(frozen=True)
class FrlWeightSettings:
    tolerance_clean: float = setting(0.1, "tau1: excess clean error that is accepted", low=0)
    tolerance_boundary: float = setting(0.1, "tau2: excess boundary error that is accepted", low=0)
    multiplier_rate: float = setting(0.05, "step of the clean multipliers; the boundary ones move twice as fast", low=0)
    multiplier_limit: float = setting(0.5, "largest sum of the multipliers of a term", low=1e-6)
    start_epoch: float = setting(0, "completed epochs before the weights may change", low=0, epoch=True)


@register("frl")
class FRLWeights(WeightPolicy):
    """w_c = 1/C + lambda_c - mean(lambda), separately for the clean and the adversarial term, each divided by its sum
    over the batch.

    lambda <- limited(lambda + rate (excess - tolerance)), the excess of a class's held-out error (clean, or boundary
    under PGD-20) over that of all. The released script halves its rate every 40 epochs, which its 40 epochs never
    reach.
    """

    Settings = FrlWeightSettings
    needs_attack = True
    held_out = frozenset({"pgd"})
    held_out_first = True

    def setup(self) -> None:
        self.state["multiplier_clean"] = self.class_vector(0.0).double()
        self.state["multiplier_boundary"] = self.class_vector(0.0).double()

    def end_epoch(self, end: EpochEnd) -> None:
        if not self.started(end):
            return
        assert end.held_out is not None, "the loop measures what `held_out` asks for"
        rate = self.settings.multiplier_rate
        clean = excess(end.held_out.clean_error, end.held_out) - self.settings.tolerance_clean
        boundary = excess(boundary_error(end.held_out), end.held_out) - self.settings.tolerance_boundary
        self._move("multiplier_clean", rate * clean)
        self._move("multiplier_boundary", 2 * rate * boundary)

    def _move(self, name: str, by: torch.Tensor) -> None:
        self.state[name] = limited(self.state[name] + by.to(self.state[name].device), self.settings.multiplier_limit)

    def costs(self, name: str) -> torch.Tensor:
        """Class weights (C,) of one multiplier, averaging 1/C."""
        multiplier = self.state[name]
        return 1 / self.num_classes + multiplier - multiplier.mean()

    def weights(self, step: Step, coef_adv: float, coef_clean: float) -> tuple[torch.Tensor, torch.Tensor]:
        adversarial, clean = (
            self.costs(name).float()[step.labels] for name in ("multiplier_boundary", "multiplier_clean")
        )
        return adversarial / adversarial.mean(), clean / clean.mean()

    def quantities(self) -> dict[str, torch.Tensor]:
        return super().quantities() | {
            "weight_clean": self.costs("multiplier_clean"),
            "weight_adversarial": self.costs("multiplier_boundary"),
        }


@dataclass(frozen=True)
class FrlMarginSettings:
    tolerance_boundary: float = setting(0.07, "tau2: excess boundary error that is accepted", low=0)
    margin_rate: float = setting(0.2, "step of the margin multipliers", low=0)
    margin_range: tuple[float, float] = setting((0.98, 3.0), "clamp of the radius in eps", low=0)
    margin_step: str = setting(
        "sample",
        "step size: in proportion to the sample's radius; to the batch's largest (released remargin "
        "script); or fixed (released reweight script)",
        choices=("sample", "batch", "fixed"),
    )
    start_epoch: float = setting(0, "completed epochs before the margins may change", low=0, epoch=True)


@register("frl")
class FRLMargins(MarginPolicy):
    """eps_c = clamp(exp(2 lambda_c), 0.98, 3) eps, lambda <- lambda + rate (excess boundary error held out -
    tolerance), neither clamped nor scaled."""

    Settings = FrlMarginSettings
    held_out = frozenset({"pgd"})
    held_out_first = True

    def setup(self) -> None:
        self.state["multiplier_margin"] = self.class_vector(0.0).double()

    def end_epoch(self, end: EpochEnd) -> None:
        if self.started(end):
            assert end.held_out is not None, "the loop measures what `held_out` asks for"
            gap = excess(boundary_error(end.held_out), end.held_out) - self.settings.tolerance_boundary
            multiplier = self.state["multiplier_margin"]
            self.state["multiplier_margin"] = multiplier + self.settings.margin_rate * gap.to(multiplier.device)

    def factors(self) -> torch.Tensor:
        """The radius of each class in eps, (C,)."""
        return (2 * self.state["multiplier_margin"]).exp().clamp(*self.settings.margin_range).float()

    def radius(
        self, labels: torch.Tensor, eps: float, step_size: float
    ) -> tuple[torch.Tensor | float, torch.Tensor | float]:
        factor = self.factors()[labels]
        step = {"sample": factor, "batch": factor.max(), "fixed": torch.ones_like(factor)}[self.settings.margin_step]
        return factor * eps, step * step_size

    def quantities(self) -> dict[str, torch.Tensor]:
        return super().quantities() | {"eps_factor": self.factors()}
