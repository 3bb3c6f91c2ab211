"""The small network for small images: every batch norm follows a convolution, so it folds fully."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from harness.models.layers import Network, conv3x3, global_average, he_normal


class Stage(nn.Module):
    """Two 3x3 convolutions, each with batch norm and ReLU; the first one may stride."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = conv3x3(in_channels, out_channels, stride)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = conv3x3(out_channels, out_channels)
        self.bn2 = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(x)))


class CNN(Network):
    """Three stages of `width`, 2 `width` and 4 `width` channels at full, half and quarter size; He-normal weights."""

    def __init__(self, in_channels: int, num_classes: int, width: int = 32) -> None:
        super().__init__()
        self.stage1 = Stage(in_channels, width, stride=1)
        self.stage2 = Stage(width, 2 * width, stride=2)
        self.stage3 = Stage(2 * width, 4 * width, stride=2)
        self.fc = nn.Linear(4 * width, num_classes)
        he_normal(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stage3(self.stage2(self.stage1(self.normalise(x))))
        return self.fc(global_average(x))
