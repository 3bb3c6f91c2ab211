"""A small vision transformer (Dosovitskiy et al., 2021) for small images: patches of 4 pixels, no batch norm."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.errors import InputError
from harness.models.layers import Network

PATCH = 4  # pixels a side


class Attention(nn.Module):
    """Self-attention of several heads over tokens (B, N, D)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.qkv(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        return self.proj(F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Attention, then two layers with GELU between them, each behind a layer norm and added to what comes in."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attn = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class ViT(Network):
    """`depth` blocks of `width` channels; learned positions, the mean of the tokens as the image's. Linear layers begin
    normal with deviation 0.02, biases zero."""

    def __init__(
        self, in_channels: int, num_classes: int, image_size: int, width: int = 192, depth: int = 6, heads: int = 3
    ) -> None:
        super().__init__()
        if image_size % PATCH:
            raise InputError(f"model vit: sides of images must be multiples of {PATCH} pixels, not {image_size}")
        self.patches = nn.Conv2d(in_channels, width, PATCH, stride=PATCH)
        self.positions = nn.Parameter(torch.empty(1, (image_size // PATCH) ** 2, width))
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, num_classes)
        nn.init.trunc_normal_(self.positions, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(self.normalise(x)).flatten(2).transpose(1, 2) + self.positions
        return self.head(self.norm(self.blocks(tokens)).mean(1))
