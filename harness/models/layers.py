"""What the networks share: normalisation inside the model, the 3x3 and 1x1 convolutions, pooling, He's weights."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Network(nn.Module):
    """Base of the networks: images (B, C, H, W) in [0, 1] to logits (B, K); `forward` begins with `normalise`.

    Mean and standard deviation are non-persistent buffers: they move with the model and are no part of its state dict,
    whose names stay those of the field's checkpoints.
    """

    mean: Tensor | None
    std: Tensor | None

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", None, persistent=False)
        self.register_buffer("std", None, persistent=False)

    def set_normalisation(self, mean: Sequence[float], std: Sequence[float]) -> None:
        """Subtract `mean` and divide by `std`, one number per channel, pixel scale [0, 1]."""
        self.mean = torch.tensor(mean).view(1, -1, 1, 1)
        self.std = torch.tensor(std).view(1, -1, 1, 1)

    def normalise(self, x: Tensor) -> Tensor:
        return x if self.mean is None or self.std is None else (x - self.mean) / self.std


def conv3x3(in_channels: int, out_channels: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    """A 3x3 convolution that keeps the size at stride 1, without bias: a batch norm follows or precedes it."""
    return nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, groups=groups, bias=False)


def conv1x1(in_channels: int, out_channels: int, stride: int = 1) -> nn.Conv2d:
    """A 1x1 convolution without bias."""
    return nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False)


def global_average(x: Tensor) -> Tensor:
    """(B, C, H, W) to (B, C) for any H and W; on 32x32 images the same as the fixed pooling of the field's networks."""
    return x.mean((2, 3))


def he_normal(network: nn.Module) -> None:
    """Convolutions normal with variance 2 / (kernel area * output channels), linear biases zero."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)
