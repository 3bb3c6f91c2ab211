"""Adversarial weight perturbation: Wu, Xia, Wang, "Adversarial Weight Perturbation Helps Robust Generalization",
NeurIPS 2020."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


@contextmanager
def perturbed(model: nn.Module, loss: Tensor, gamma: float) -> Iterator[None]:
    """Weights w + gamma ||w|| g / ||g|| inside the context, with g the gradient of `loss` (a scalar whose graph is
    used up) per tensor.

    Only tensors of more than one dimension move: no biases, no batch-norm scales. On leaving, the weights are put
    back bit for bit, and so are the running batch-norm statistics: a forward inside leaves no trace but its
    gradients. The released code undoes the perturbation after the optimiser's step instead, so that its weight decay
    acts on the perturbed weights.
    """
    weights = [parameter for parameter in model.parameters() if parameter.requires_grad and parameter.dim() > 1]
    gradients = torch.autograd.grad(loss, weights, allow_unused=True)
    original = [(tensor, tensor.detach().clone()) for tensor in (*weights, *model.buffers())]
    with torch.no_grad():
        for weight, gradient in zip(weights, gradients, strict=True):
            if gradient is not None:
                weight.add_(gradient * (gamma * weight.norm() / gradient.norm().clamp(min=1e-20)))
    try:
        yield
    finally:
        with torch.no_grad():
            for tensor, value in original:
                tensor.copy_(value)
