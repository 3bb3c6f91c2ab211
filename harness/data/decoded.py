"""Decoded images as .npy files in the data directory, which every process of a node maps: one copy in memory."""

from __future__ import annotations

import contextlib
import os
import socket
from pathlib import Path

import numpy as np

from harness.data import DATASETS

Arrays = tuple[np.ndarray, np.ndarray]
"""Images (N, C, H, W) uint8 and labels (N,) int64."""


def read(root: Path, name: str, split: str) -> Arrays | None:
    """Images (mapped from disk) and labels as `write` left them; None if absent or not what they should be."""
    info = DATASETS[name]
    images_path, labels_path = _paths(root, name, split)
    try:
        # Copy on write: pages are shared between processes, and no slip in this one can reach the file.
        images = np.asarray(np.load(images_path, mmap_mode="c", allow_pickle=False))
        labels = np.load(labels_path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    good = images.dtype == np.uint8 and images.shape[1:] == (info.channels, info.image_size, info.image_size)
    return (images, labels) if good and labels.dtype == np.int64 and labels.shape == images.shape[:1] else None


def write(root: Path, name: str, split: str, arrays: Arrays) -> None:
    """Store images and labels for `read`; each file appears whole or not at all. Raises OSError."""
    for path, array in zip(_paths(root, name, split), arrays, strict=True):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{socket.gethostname()}-{os.getpid()}.tmp")
        try:
            with temporary.open("wb") as file:
                np.save(file, array, allow_pickle=False)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink()


def _paths(root: Path, name: str, split: str) -> tuple[Path, Path]:
    folder = root / "decoded"
    return folder / f"{name}-{split}-images.npy", folder / f"{name}-{split}-labels.npy"
