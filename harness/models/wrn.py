"""Wide ResNet in the layout of TRADES' WRN-34-10, which most of the field's teachers share."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from harness.models.layers import Network, conv1x1, conv3x3, global_average, he_normal


class WideBlock(nn.Module):
    """Pre-activation block; where the channels change, both branches start from the activated input."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = conv3x3(in_channels, out_channels, stride)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.conv2 = conv3x3(out_channels, out_channels)
        # The name is the checkpoints'. At widen 1 the first block changes nothing and has none, as in TRADES.
        self.convShortcut = conv1x1(in_channels, out_channels, stride) if in_channels != out_channels else None

    def forward(self, x: Tensor) -> Tensor:
        active = F.relu(self.bn1(x))
        out = self.conv2(F.relu(self.bn2(self.conv1(active))))
        return out + (x if self.convShortcut is None else self.convShortcut(active))


class WideStage(nn.Module):
    """Blocks of one size; the wrapper exists for the name `layer` in the checkpoints."""

    def __init__(self, blocks: int, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        first = WideBlock(in_channels, out_channels, stride)
        self.layer = nn.Sequential(first, *(WideBlock(out_channels, out_channels, 1) for _ in range(blocks - 1)))

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


class WideResNet(Network):
    """WRN-`depth`-`widen`, no dropout, He-normal weights. TRADES' class also owns a `sub_block1` that it never uses."""

    def __init__(self, in_channels: int, num_classes: int, depth: int = 34, widen: int = 10) -> None:
        super().__init__()
        blocks = (depth - 4) // 6
        self.conv1 = conv3x3(in_channels, 16)
        self.block1 = WideStage(blocks, 16, 16 * widen, stride=1)
        self.block2 = WideStage(blocks, 16 * widen, 32 * widen, stride=2)
        self.block3 = WideStage(blocks, 32 * widen, 64 * widen, stride=2)
        self.bn1 = nn.BatchNorm2d(64 * widen)
        self.fc = nn.Linear(64 * widen, num_classes)
        he_normal(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.block3(self.block2(self.block1(self.conv1(self.normalise(x)))))
        return self.fc(global_average(F.relu(self.bn1(x))))
