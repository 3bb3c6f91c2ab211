"""DeepMind's Wide ResNet (Gowal et al., Uncovering the Limits of Adversarial Training, 2020), in the layout of its
checkpoints."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from harness.models.layers import Network, conv1x1, conv3x3, global_average


class Block(nn.Module):
    """Pre-activation block; where the channels change, both branches start from the activated input. A convolution of
    stride 2 sees the image as TensorFlow's padding SAME places it, and not as PyTorch's does."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, silu: bool) -> None:
        super().__init__()
        self.stride, self.active = stride, F.silu if silu else F.relu
        self.batchnorm_0 = nn.BatchNorm2d(in_channels)
        self.conv_0 = conv3x3(in_channels, out_channels, stride)
        self.batchnorm_1 = nn.BatchNorm2d(out_channels)
        self.conv_1 = conv3x3(out_channels, out_channels)
        self.shortcut = conv1x1(in_channels, out_channels, stride) if in_channels != out_channels else None
        if stride == 2:
            self.conv_0.padding = (0, 0)

    def forward(self, x: Tensor) -> Tensor:
        active = self.active(self.batchnorm_0(x))
        padded = active
        if self.stride == 2:  # an even side gets a pixel behind, an odd one also one before
            padded = F.pad(active, (x.shape[3] % 2, 1, x.shape[2] % 2, 1))
        out = self.conv_1(self.active(self.batchnorm_1(self.conv_0(padded))))
        return out + (x if self.shortcut is None else self.shortcut(active))


class Group(nn.Module):
    """Blocks of one size; the wrapper exists for the name `block` in the checkpoints."""

    def __init__(self, blocks: int, in_channels: int, out_channels: int, stride: int, silu: bool) -> None:
        super().__init__()
        first = Block(in_channels, out_channels, stride, silu)
        self.block = nn.Sequential(first, *(Block(out_channels, out_channels, 1, silu) for _ in range(blocks - 1)))

    def forward(self, x: Tensor) -> Tensor:
        return self.block(x)


class DMWideResNet(Network):
    """WRN-`depth`-`widen` with PyTorch's default weights. silu: SiLU (Swish) in place of ReLU."""

    def __init__(self, in_channels: int, num_classes: int, depth: int = 28, widen: int = 10, silu: bool = True) -> None:
        super().__init__()
        blocks = (depth - 4) // 6
        self.active = F.silu if silu else F.relu
        self.init_conv = conv3x3(in_channels, 16)
        self.layer = nn.Sequential(
            Group(blocks, 16, 16 * widen, 1, silu),
            Group(blocks, 16 * widen, 32 * widen, 2, silu),
            Group(blocks, 32 * widen, 64 * widen, 2, silu),
        )
        self.batchnorm = nn.BatchNorm2d(64 * widen)
        self.logits = nn.Linear(64 * widen, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer(self.init_conv(self.normalise(x)))
        return self.logits(global_average(self.active(self.batchnorm(x))))
