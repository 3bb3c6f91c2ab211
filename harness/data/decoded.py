"""Decoded images as .npy files in the data directory, which every process of a node maps: one copy in memory."""

from __future__ import annotations

import contextlib
import os
import socket
from pathlib import Path

import numpy as np

from harness.data.registry import DATASETS

Arrays = tuple[np.ndarray, np.ndarray]
"""Images (N, C, H, W) uint8 and labels (N,) int64."""


def data_root(root: Path | None = None) -> Path:
    """The data directory: the given one, else $ROBUST_FAIRNESS_DATA, else a folder in the user's cache."""
    named = root or os.environ.get("ROBUST_FAIRNESS_DATA")
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(named or Path(cache, "robust-fairness-bench")).expanduser().absolute()


def read(root: Path, name: str, part: str) -> Arrays | None:
    """Images (mapped from disk) and labels as `write` left them; None if absent or not what they should be.

    name: of a data set of `DATASETS`, whose shape is known, or of any other content.
    """
    try:
        # Copy on write: pages are shared between processes, and no slip in this one can reach the file.
        images = np.asarray(np.load(_path(root, name, f"{part}-images"), mmap_mode="c", allow_pickle=False))
        labels = np.load(_path(root, name, f"{part}-labels"), allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    info = DATASETS.get(name)
    fits = images.shape[1:] == (info.channels, info.image_size, info.image_size) if info else images.ndim == 4
    good = fits and images.dtype == np.uint8 and labels.dtype == np.int64 and labels.shape == images.shape[:1]
    return (images, labels) if good else None


def write(root: Path, name: str, part: str, arrays: Arrays) -> None:
    """Store images and labels for `read`; each file appears whole or not at all. Raises OSError."""
    for what, array in zip(("images", "labels"), arrays, strict=True):
        _write(_path(root, name, f"{part}-{what}"), array)


def read_class_names(root: Path, name: str) -> tuple[str, ...] | None:
    """The names of the classes as `write_class_names` left them; None if absent or damaged."""
    try:
        names = np.load(_path(root, name, "classes"), allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return tuple(names.tolist()) if names.dtype.kind == "U" and names.ndim == 1 else None


def write_class_names(root: Path, name: str, class_names: tuple[str, ...]) -> None:
    """Store the names of the classes of content that `DATASETS` does not know. Raises OSError."""
    _write(_path(root, name, "classes"), np.array(class_names))


def _write(path: Path, array: np.ndarray) -> None:
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


def _path(root: Path, name: str, what: str) -> Path:
    return root / "decoded" / f"{name}-{what}.npy"
