"""An average of the weights along training: EMA, and CFA's fairness-aware one (FAWA, Wei et al., CVPR
2023)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from harness.spec import WeightAverageSpec
from harness.statistics.metrics import worst


class WeightAverage:
    """averaged <- decay * averaged + (1 - decay) * current over the whole state dict, running batch-norm statistics
    included.

    `ema` takes every network from `start_epoch` on; `fawa` only one whose worst held-out class reaches the threshold.
    The first one taken is copied. Before that there is no average, where the released CFA code evaluates a random
    network.
    """

    def __init__(self, options: WeightAverageSpec) -> None:
        self.options = options
        self.averaged: dict[str, Tensor] | None = None

    @torch.no_grad()
    def update(self, model: nn.Module, epoch: int, held_out: Tensor | None = None) -> bool:
        """Take the network as it is after epoch `epoch` (from 0), or leave it; whether it was taken.

        held_out: robust accuracies (C,) in [0, 1] of the held-out classes, NaN for none; `fawa` needs them.
        """
        if not self._accepts(epoch, held_out):
            return False
        current = model.state_dict()
        if self.averaged is None:
            self.averaged = {name: value.detach().clone() for name, value in current.items()}
        else:
            for name, value in current.items():
                self._blend(self.averaged[name], value)
        return True

    def _accepts(self, epoch: int, held_out: Tensor | None) -> bool:
        if epoch < self.options.start_epoch:
            return False
        if self.options.kind == "ema":
            return True
        if held_out is None:
            raise ValueError("fawa decides by the accuracy of the worst held-out class")
        return float(worst(held_out.numpy())) >= self.options.threshold

    def _blend(self, average: Tensor, current: Tensor) -> None:
        if average.is_floating_point():
            average.mul_(self.options.decay).add_(current, alpha=1 - self.options.decay)
        else:
            average.copy_(current)  # a count of batches has no average

    def state_dict(self) -> dict[str, Any]:
        """What a resumed trial needs."""
        return {"averaged": self.averaged}

    def load_state_dict(self, state: Mapping[str, Any], device: torch.device) -> None:
        """Undo `state_dict`, bit for bit, on the device of the networks to come: a saved state is read on the CPU."""
        averaged = state["averaged"]
        self.averaged = averaged and {name: value.to(device, copy=True) for name, value in averaged.items()}
