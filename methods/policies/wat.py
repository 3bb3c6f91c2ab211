"""WAT's no-regret weights: Li, Liu, AAAI 2023, arXiv 2302.04025."""

from __future__ import annotations

from dataclasses import dataclass

from methods.base import EpochEnd, HeldOut, Step, WeightPolicy
from methods.lazy import torch
from methods.registry import register
from methods.settings import setting


@dataclass(frozen=True)
class WatSettings:
    eta: float = setting(0.1, "how sharply the weights follow the costs so far", low=0)
    cost_beta: float = setting(6.0, "factor of the KL in an expert's cost", low=0)
    average_expert: bool = setting(True, "an expert for the plain average beside those of the classes")
    start_epoch: float = setting(0, "completed epochs before the weights may change", low=0, epoch=True)


@register("wat")
class WAT(WeightPolicy):
    """w_y + w_average on both terms; w = C softmax(eta sum of costs over the epochs), C experts and one for the
    average.

    Cost of a class: mean CE + 6 mean KL on held-out training data under the TRADES attack; a class without samples
    costs as much as the average. At first w = C / (C + 1) each, where the released code has 1: its first epoch has
    twice the loss.
    """

    Settings = WatSettings
    needs_attack = True
    held_out = frozenset({"trades"})

    def setup(self) -> None:
        experts = self.num_classes + self.settings.average_expert
        self.state["cost"] = torch.zeros(experts, dtype=torch.float64)
        self.state["expert_weight"] = torch.full((experts,), self.num_classes / experts, dtype=torch.float64)

    def end_epoch(self, end: EpochEnd) -> None:
        assert end.held_out is not None, "the loop measures what `held_out` asks for"
        self.state["cost"] = cost = self.state["cost"] + self.costs(end.held_out).to(self.state["cost"].device)
        if self.started(end):
            self.state["expert_weight"] = self.num_classes * (self.settings.eta * cost).softmax(0)

    def costs(self, held_out: HeldOut) -> torch.Tensor:
        """The cost of every expert in one epoch: (C,), and the average at the end where there is an expert for it."""
        cost = held_out.clean_loss + self.settings.cost_beta * held_out.boundary_loss
        average = (cost.nan_to_num(0.0) * held_out.count).sum() / held_out.count.sum()
        cost = torch.where(cost.isnan(), average, cost)
        return torch.cat([cost, average[None]]) if self.settings.average_expert else cost

    def class_weights(self) -> torch.Tensor:
        """What a sample of each class counts, (C,)."""
        weight = self.state["expert_weight"]
        return weight[: self.num_classes] + (weight[self.num_classes] if self.settings.average_expert else 0.0)

    def weights(self, step: Step, coef_adv: float, coef_clean: float) -> tuple[torch.Tensor, torch.Tensor]:
        weight = self.class_weights().float()[step.labels]
        return weight, weight

    def quantities(self) -> dict[str, torch.Tensor]:
        return {"weight": self.class_weights(), "cost": self.state["cost"][: self.num_classes]}
