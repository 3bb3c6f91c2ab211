"""Random crops and mirror images of whole batches, on the batch's own device."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from harness.spec import AugmentSpec


def to_float(batch: Tensor) -> Tensor:
    """uint8 images as float32 in [0, 1]."""
    return batch.float().div_(255)


def augmented(batch: Tensor, augment: AugmentSpec, generator: torch.Generator) -> Tensor:
    """A random crop of each padded image, each mirrored with probability one half if asked; float32 in [0, 1].

    batch: (B, C, H, W) uint8, left as it is. Pad `reflect` needs images larger than the crop. Random numbers are drawn
    on the generator's device and then moved, so one CPU generator gives the same images on every device.
    """
    count, _, height, width = batch.shape
    rows = torch.arange(height, device=batch.device).expand(count, -1)
    columns = torch.arange(width, device=batch.device).expand(count, -1)
    if augment.crop:
        offsets = torch.randint(2 * augment.crop + 1, (2, count, 1), generator=generator, device=generator.device)
        offsets = offsets.to(batch.device, non_blocking=True)
        rows, columns = rows + offsets[0], columns + offsets[1]
        batch = _padded(batch, augment)
    if augment.flip:
        mirrored = torch.randint(2, (count, 1), generator=generator, device=generator.device).bool()
        columns = torch.where(mirrored.to(batch.device, non_blocking=True), columns.flip(1), columns)
    # One gather over flattened pixels: several times faster than indexing with four broadcast index tensors.
    pixels = (rows[:, :, None] * batch.shape[3] + columns[:, None, :]).flatten(1)
    cut = batch.flatten(2).gather(2, pixels[:, None].expand(-1, batch.shape[1], -1))
    return to_float(cut.unflatten(2, (height, width)))


def _padded(batch: Tensor, augment: AugmentSpec) -> Tensor:
    padding = augment.crop
    if augment.pad == "zero":
        return F.pad(batch, [padding] * 4)
    height, width = batch.shape[2:]
    if padding >= min(height, width):
        raise ValueError(f"reflect padding of {padding} pixels needs images larger than {height}x{width}")
    # torch reflects floats only, so the reflected positions are looked up.
    return batch[:, :, _reflected(height, padding, batch.device)[:, None], _reflected(width, padding, batch.device)]


def _reflected(size: int, padding: int, device: torch.device) -> Tensor:
    """Source position of each of size + 2 * padding pixels: 2 1 | 0 1 2 3 | 2 1 for size 4, padding 2."""
    position = torch.arange(-padding, size + padding, device=device).abs()
    return size - 1 - (size - 1 - position).abs()
