"""Which images are held out and which are drawn: functions of the labels and a split seed, never of a trial's seed."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Splits:
    """Three disjoint parts of the training data that together are all of it: sorted int64 indices."""

    train: Tensor
    validation: Tensor
    held_out: Tensor


def held_out_split(labels: Tensor, split_seed: int, second: bool) -> Splits:
    """Set images of every class aside: `validation` to select checkpoints on, `held_out` (if `second`) to learn from.

    Each takes at least 100 images of a class or 10 % of it, whichever is less, and 2 % where that is more. The
    validation part does not depend on `second`. A class of one or two images keeps them all for training.
    """
    values = labels.cpu().numpy()
    counts = np.bincount(values)
    size = np.minimum(np.maximum(100, (counts + 25) // 50), -(-counts // 10))
    size = np.where(counts > 2, size, 0)
    rank, own = _rank_in_class(values, _order(len(values), "held-out", split_seed)), size[values]
    validation = rank < own
    held_out = ~validation & (rank < 2 * own) if second else np.zeros_like(validation)
    return Splits(_indices(~validation & ~held_out), _indices(validation), _indices(held_out))


def stratified_subset(labels: Tensor, count: int, seed: int) -> Tensor:
    """Sorted int64 indices of `count` images with the classes in proportion, and at least one of each class present.

    Proportions are rounded by largest remainder, ties to the lower class. ValueError if `count` is fewer than the
    classes present or more than the images.
    """
    values = labels.cpu().numpy()
    counts = np.bincount(values)
    present = int((counts > 0).sum())
    if not present <= count <= len(values):
        raise ValueError(f"a stratified subset of {count} images needs {present} to {len(values)}: {present} classes")
    size = _proportional(counts, count)
    return _indices(_rank_in_class(values, _order(len(values), "subset", seed)) < size[values])


def _proportional(counts: np.ndarray, count: int) -> np.ndarray:
    """`count` shared out in proportion to `counts`, whole numbers, one at least where `counts` is not zero."""
    total = int(counts.sum())
    size = np.maximum(counts * count // total, counts > 0)
    while size.sum() != count:
        # Remainders in units of 1 / total, so that equal ones compare equal.
        remainder = counts * count - size * total
        if size.sum() < count:
            size[np.argmax(np.where(size < counts, remainder, np.iinfo(np.int64).min))] += 1
        else:  # small classes were lifted to one image: the class furthest above its share pays
            size[np.argmin(np.where(size > 1, remainder, np.iinfo(np.int64).max))] -= 1
    return size


def _order(count: int, purpose: str, seed: int) -> np.ndarray:
    """A permutation of 0..count-1 that is the same for ever: NumPy promises stable raw bits, not stable shuffles."""
    digest = hashlib.sha256(f"{purpose}:{seed}".encode()).digest()
    return np.argsort(np.random.PCG64(int.from_bytes(digest[:16], "big")).random_raw(count), kind="stable")


def _rank_in_class(values: np.ndarray, order: np.ndarray) -> np.ndarray:
    """For each sample, how many of its own class come before it in `order`."""
    grouped = order[np.argsort(values[order], kind="stable")]
    counts = np.bincount(values)
    rank = np.empty_like(grouped)
    rank[grouped] = np.arange(len(values)) - np.repeat(np.cumsum(counts) - counts, counts)
    return rank


def _indices(chosen: np.ndarray) -> Tensor:
    return torch.from_numpy(np.flatnonzero(chosen))
