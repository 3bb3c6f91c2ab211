"""Draws of target classes: the released code draws again until the class is another; ours inverts what that leads
to."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from methods.targets import other_class


def drawn_at(scores: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
    """What our draw gives at the middle of the place that each target has in the distribution without the label."""
    shares = scores.double().softmax(0).expand(len(labels), -1).masked_fill(one_hot(labels, len(scores)).bool(), 0.0)
    shares = shares / shares.sum(1, keepdim=True)
    above = shares.cumsum(1) - shares / 2
    return other_class(scores, labels, above.gather(1, targets[:, None])[:, 0])


def never_own_and_even(scores: Tensor, draws: int = 20_000) -> None:
    """Over an even grid of draws each other class has its share, and the label none."""
    grid, classes = (torch.arange(draws, device=scores.device) + 0.5) / draws, len(scores)
    labels = torch.zeros_like(grid, dtype=torch.int64)
    for label in range(classes):
        found = other_class(scores, labels + label, grid).bincount(minlength=classes) / draws
        wanted = scores.double().softmax(0)
        wanted[label] = 0.0
        torch.testing.assert_close(found.double(), wanted / wanted.sum(), rtol=0, atol=2 / draws)
        assert found[label] == 0
