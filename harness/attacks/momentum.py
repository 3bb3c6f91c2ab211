"""MI-FGSM (Dong et al., Boosting Adversarial Attacks with Momentum, 2018)."""

from __future__ import annotations

import torch
from torch import Tensor


def momentum(gradient: Tensor, memory: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """The sign of the sum of all gradients so far, each divided by its L1 norm: a decay of 1."""
    norm = gradient.abs().sum((1, 2, 3), keepdim=True)
    unit = gradient / norm.clamp_min(torch.finfo(norm.dtype).tiny)  # without a gradient the sum stays as it is
    memory = unit if memory is None else memory + unit
    return memory.sign(), memory
