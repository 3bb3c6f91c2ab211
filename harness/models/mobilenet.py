"""MobileNetV2 with CIFAR strides; names as in the checkpoints of the distillation papers (RSLAD, ABSLD)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from harness.models.layers import Network, conv1x1, conv3x3, global_average

# Expansion, output channels, blocks, stride of the first block. The strides of conv1 and of the second row are 1, not
# ImageNet's 2.
_ROWS = (
    (1, 16, 1, 1),
    (6, 24, 2, 1),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


class InvertedResidual(nn.Module):
    """Expand, filter depthwise, project. Unlike the paper's, the shortcut at stride 1 may change the channels."""

    def __init__(self, in_channels: int, out_channels: int, expansion: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        inner = expansion * in_channels
        self.conv1 = conv1x1(in_channels, inner)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = conv3x3(inner, inner, stride, groups=inner)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv3 = conv1x1(inner, out_channels)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.shortcut = nn.Sequential()
        if stride == 1 and in_channels != out_channels:
            self.shortcut = nn.Sequential(conv1x1(in_channels, out_channels), nn.BatchNorm2d(out_channels))

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        out = F.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        return out + self.shortcut(x) if self.stride == 1 else out


class MobileNetV2(Network):
    """Seventeen inverted residuals between two convolutions; PyTorch's default weights."""

    def __init__(self, in_channels: int, num_classes: int) -> None:
        super().__init__()
        self.conv1 = conv3x3(in_channels, 32)
        self.bn1 = nn.BatchNorm2d(32)
        blocks: list[nn.Module] = []
        channels = 32
        for expansion, out_channels, count, stride in _ROWS:
            for index in range(count):
                blocks.append(InvertedResidual(channels, out_channels, expansion, stride if index == 0 else 1))
                channels = out_channels
        self.layers = nn.Sequential(*blocks)
        self.conv2 = conv1x1(channels, 1280)
        self.bn2 = nn.BatchNorm2d(1280)
        self.linear = nn.Linear(1280, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layers(F.relu(self.bn1(self.conv1(self.normalise(x)))))
        x = F.relu(self.bn2(self.conv2(x)))
        return self.linear(global_average(x))
