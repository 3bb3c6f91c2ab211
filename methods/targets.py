"""Targets of targeted attacks: for each sample a class other than its own."""

from __future__ import annotations

from methods.lazy import torch


def other_class(scores: torch.Tensor, labels: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
    """A class other than the label for each sample, (B,), with the probabilities sm(scores) without the label's own.

    scores: (C,), equal for a uniform draw. uniform: a number in [0, 1) for each sample, (B,), at which the cumulative
    distribution is inverted.
    """
    own = torch.nn.functional.one_hot(labels, len(scores)).bool()
    reached = scores.double().expand(len(labels), -1).masked_fill(own, -torch.inf).softmax(1).cumsum(1)
    return (reached <= uniform.double()[:, None] * reached[:, -1:]).sum(1)
