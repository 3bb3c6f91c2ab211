"""Decoded images as .npy files in the data directory, which every process of a node maps: one copy in memory."""

from __future__ import annotations

import contextlib
import os
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from harness.data.registry import DATASETS
from harness.files import replacing

Arrays = tuple[np.ndarray, np.ndarray]
"""Images (N, C, H, W) uint8 and labels (N,) int64."""


def data_root(root: Path | None = None) -> Path:
    """The data directory: the given one, else $ROBUST_FAIRNESS_DATA, else a folder in the user's cache."""
    named = root or os.environ.get("ROBUST_FAIRNESS_DATA")
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(named or Path(cache, "robust-fairness-bench")).expanduser().absolute()


def read(root: Path, name: str, part: str) -> Arrays | None:
    """Images (mapped from disk) and labels as `write` left them; None if absent or not what they should be.

    name: of a data set of `DATASETS`, whose shape and classes are known, or of any other content.
    """
    images, labels, sums = (_mapped(_path(root, name, f"{part}-{what}")) for what in ("images", "labels", "sums"))
    if images is None or labels is None or images.dtype != np.uint8 or labels.dtype != np.int64:
        return None
    info = DATASETS.get(name)
    fits = images.shape[1:] == (info.channels, info.image_size, info.image_size) if info else images.ndim == 4
    if not fits or labels.shape != images.shape[:1] or (labels < 0).any():
        return None
    if sums is not None:
        return (images, labels) if sums.shape == (2,) and sums.tolist() == _sums((images, labels)) else None
    known = {"train": info.train_counts, "test": info.test_counts}[part] if info else None  # a copy without checksums
    return (images, labels) if known in (None, tuple(np.bincount(labels).tolist())) else None


def _mapped(path: Path) -> np.ndarray | None:
    """An array, mapped copy on write: pages are shared between processes, and no slip in this one can reach the file.
    None where there is none of the size that its header says."""
    try:
        array = np.asarray(np.load(path, mmap_mode="c", allow_pickle=False)) if path.is_file() else None
        return array if array is not None and array.dtype.itemsize else None
    except Exception:  # a damaged header makes its parser raise almost anything
        return None


def _sums(arrays: Arrays) -> list[int]:
    """Checksums of images and labels."""
    return [zlib.crc32(np.ascontiguousarray(array).data) for array in arrays]


def write(root: Path, name: str, part: str, arrays: Arrays) -> None:
    """Store images and labels for `read`; each file appears whole or not at all. Raises OSError."""
    for what, array in zip(("images", "labels"), arrays, strict=True):
        _write(_path(root, name, f"{part}-{what}"), array)
    _write(_path(root, name, f"{part}-sums"), np.array(_sums(arrays), np.int64))


def read_class_names(root: Path, name: str) -> tuple[str, ...] | None:
    """The names of the classes as `write_class_names` left them; None if absent or damaged."""
    names = _mapped(_path(root, name, "classes"))
    return tuple(names.tolist()) if names is not None and names.dtype.kind == "U" and names.ndim == 1 else None


def write_class_names(root: Path, name: str, class_names: tuple[str, ...]) -> None:
    """Store the names of the classes of content that `DATASETS` does not know. Raises OSError."""
    _write(_path(root, name, "classes"), np.array(class_names))


@contextlib.contextmanager
def locked(root: Path, name: str) -> Iterator[None]:
    """Hold the one lock that those who decode this data set into this directory share; it ends with the process."""
    import fcntl

    root.mkdir(parents=True, exist_ok=True)
    with (root / f".{name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _write(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.save(file, array, allow_pickle=False)


def _path(root: Path, name: str, what: str) -> Path:
    return root / "decoded" / f"{name}-{what}.npy"
