"""ResNets for small images: ResNet-18 and its pre-activation form with the CIFAR stem, and ResNet-56; names and weights
as in the field's checkpoints."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from harness.models.layers import Network, conv1x1, conv3x3, global_average, he_normal


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with batch norm, and a projected shortcut where the shape changes (He et al. 2016a)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = conv3x3(in_channels, out_channels, stride)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = conv3x3(out_channels, out_channels)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.shortcut = nn.Sequential()
        if stride != 1 or in_channels != out_channels:
            self.shortcut = nn.Sequential(conv1x1(in_channels, out_channels, stride), nn.BatchNorm2d(out_channels))

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(out)) + self.shortcut(x))


class NarrowBlock(nn.Module):
    """The same under the names of torchvision's: a projected shortcut is `downsample`."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = conv3x3(in_channels, out_channels, stride)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = conv3x3(out_channels, out_channels)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.downsample = None
        if stride != 1 or in_channels != out_channels:
            self.downsample = nn.Sequential(conv1x1(in_channels, out_channels, stride), nn.BatchNorm2d(out_channels))

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(out + (x if self.downsample is None else self.downsample(x)))


class PreActBlock(nn.Module):
    """Batch norm and ReLU before each convolution; a projected shortcut sees the activated input (He et al. 2016b)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = conv3x3(in_channels, out_channels, stride)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.conv2 = conv3x3(out_channels, out_channels)
        changes = stride != 1 or in_channels != out_channels
        self.shortcut = nn.Sequential(conv1x1(in_channels, out_channels, stride)) if changes else None

    def forward(self, x: Tensor) -> Tensor:
        active = F.relu(self.bn1(x))
        shortcut = x if self.shortcut is None else self.shortcut(active)
        return self.conv2(F.relu(self.bn2(self.conv1(active)))) + shortcut


class ResNet18(Network):
    """Four stages of two basic blocks, `width` to 8 `width` channels; PyTorch's default weights, as in the field."""

    def __init__(self, in_channels: int, num_classes: int, width: int = 64) -> None:
        super().__init__()
        self.conv1 = conv3x3(in_channels, width)
        self.bn1 = nn.BatchNorm2d(width)
        self.layer1 = _layer(BasicBlock, width, width, stride=1)
        self.layer2 = _layer(BasicBlock, width, 2 * width, stride=2)
        self.layer3 = _layer(BasicBlock, 2 * width, 4 * width, stride=2)
        self.layer4 = _layer(BasicBlock, 4 * width, 8 * width, stride=2)
        self.linear = nn.Linear(8 * width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(self.normalise(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.linear(global_average(x))


class PreActResNet18(Network):
    """Pre-activation ResNet-18 with PyTorch's default weights.

    `final_norm`: the batch norm `bn` before pooling. The networks of fast AT, AWP and CFA have it; the CIFAR zoo that
    they descend from does not.
    """

    def __init__(self, in_channels: int, num_classes: int, width: int = 64, final_norm: bool = True) -> None:
        super().__init__()
        self.conv1 = conv3x3(in_channels, width)
        self.layer1 = _layer(PreActBlock, width, width, stride=1)
        self.layer2 = _layer(PreActBlock, width, 2 * width, stride=2)
        self.layer3 = _layer(PreActBlock, 2 * width, 4 * width, stride=2)
        self.layer4 = _layer(PreActBlock, 4 * width, 8 * width, stride=2)
        self.bn = nn.BatchNorm2d(8 * width) if final_norm else None
        self.linear = nn.Linear(8 * width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(self.normalise(x))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        if self.bn is not None:
            x = F.relu(self.bn(x))
        return self.linear(global_average(x))


class ResNet56(Network):
    """Three stages of nine basic blocks, `width` to 4 `width` channels (He et al. 2016a, section 4.2, but shortcuts are
    projected): MTARD's clean teacher, in the layout of pytorch-cifar-models. Convolutions He-normal."""

    def __init__(self, in_channels: int, num_classes: int, width: int = 16) -> None:
        super().__init__()
        self.conv1 = conv3x3(in_channels, width)
        self.bn1 = nn.BatchNorm2d(width)
        self.layer1 = _layer(NarrowBlock, width, width, stride=1, blocks=9)
        self.layer2 = _layer(NarrowBlock, width, 2 * width, stride=2, blocks=9)
        self.layer3 = _layer(NarrowBlock, 2 * width, 4 * width, stride=2, blocks=9)
        self.fc = nn.Linear(4 * width, num_classes)
        he_normal(self)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(self.normalise(x))))
        return self.fc(global_average(self.layer3(self.layer2(self.layer1(x)))))


def _layer(
    block: type[BasicBlock] | type[NarrowBlock] | type[PreActBlock],
    in_channels: int,
    out_channels: int,
    stride: int,
    blocks: int = 2,
) -> nn.Sequential:
    others = (block(out_channels, out_channels, 1) for _ in range(blocks - 1))
    return nn.Sequential(block(in_channels, out_channels, stride), *others)
