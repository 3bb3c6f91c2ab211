"""The user's own images from one .npz file, checked so that each mistake is one clear line."""

from __future__ import annotations

import hashlib
import io
import zipfile
import zlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from harness.data.decoded import Arrays
from harness.errors import InputError, unknown

_REQUIRED = ("x_train", "y_train", "x_test", "y_test")
_KEYS = (*_REQUIRED, "class_names")
_UNREADABLE = (OSError, EOFError, ValueError, NotImplementedError, zipfile.BadZipFile, zlib.error)


@dataclass(frozen=True)
class OwnArrays:
    """Both splits of one file: images (N, C, H, W) uint8 with labels (N,) int64, and a name per class."""

    train: Arrays
    test: Arrays
    class_names: tuple[str, ...]


def read_npz(path: Path, sha256: str | None = None) -> OwnArrays:
    """Both splits of an .npz file with x_train, y_train, x_test, y_test and, if wanted, class_names.

    Images: uint8, (N, H, W), (N, H, W, C) or (N, C, H, W) with 1 or 3 channels. Labels: integers 0..K-1, where K is the
    number of class names, or else the largest label of both plus one. Nothing pickled is ever loaded. sha256: what the
    file must have, if given. InputError on any fault.
    """
    path = path.expanduser().absolute()
    if not path.is_file():
        raise InputError(f"npz: there is no file {path}")
    status = path.stat()
    return _read(path, sha256, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=2)
def _read(path: Path, sha256: str | None, _modified: int, _size: int) -> OwnArrays:
    """`read_npz`, once per version of a file (the two numbers tell versions apart)."""
    arrays = _open(path, sha256)
    train, test = (_split(path, arrays, split) for split in ("train", "test"))
    if train[0].shape[1:] != test[0].shape[1:]:
        shapes = " and ".join("x".join(map(str, images.shape[1:])) for images, _ in (train, test))
        raise InputError(f"npz: {path}: training and test images differ in shape: {shapes} (channels x height x width)")
    largest = int(max(train[1].max(), test[1].max()))
    if not 0 < largest < len(train[1]) + len(test[1]):
        raise InputError(f"npz: {path}: the largest label is {largest}; labels are 0..K-1 with two or more classes K")
    names = arrays.get("class_names", np.array([str(label) for label in range(largest + 1)]))
    return OwnArrays(train, test, _class_names(path, names, largest))


def _open(path: Path, sha256: str | None) -> dict[str, np.ndarray]:
    try:
        content = path.read_bytes()
        found = hashlib.sha256(content).hexdigest()
        if found != (sha256 or found):
            raise InputError(f"npz: {path} has the sha256 {found}, not {sha256} as planned")
        file = np.load(io.BytesIO(content), allow_pickle=False)
        if not isinstance(file, np.lib.npyio.NpzFile):
            raise InputError(f"npz: {path} is one array, not an .npz archive with {', '.join(_REQUIRED)}")
        with file:
            for key in file.files:
                if key not in _KEYS:
                    raise unknown(f"array in {path}", key, _KEYS)
            if missing := [key for key in _REQUIRED if key not in file.files]:
                raise InputError(f"npz: {path} lacks {', '.join(missing)}")
            return {key: file[key] for key in file.files}
    except InputError:
        raise
    except _UNREADABLE as error:
        raise InputError(
            f"npz: {path} is damaged or no archive of plain arrays (pickled objects are refused)"
        ) from error


def _split(path: Path, arrays: dict[str, np.ndarray], split: str) -> Arrays:
    images = _images(path, f"x_{split}", arrays[f"x_{split}"])
    key, labels = f"y_{split}", arrays[f"y_{split}"]
    if labels.dtype.kind not in "iu" or labels.ndim != 1:
        raise InputError(f"npz: {path}: {key} must be integers of shape (N,), not {labels.dtype} of {labels.shape}")
    if len(labels) != len(images):
        raise InputError(f"npz: {path}: x_{split} has {len(images)} images and {key} has {len(labels)} labels")
    if labels.min() < 0 or labels.max() > np.iinfo(np.int64).max:
        raise InputError(f"npz: {path}: {key} runs from {labels.min()} to {labels.max()}; labels are 0..K-1")
    return images, labels.astype(np.int64)


def _images(path: Path, key: str, images: np.ndarray) -> np.ndarray:
    """The images as contiguous (N, C, H, W)."""
    if images.dtype != np.uint8:
        raise InputError(f"npz: {path}: {key} must be uint8, 0 to 255, not {images.dtype}")
    if images.ndim not in (3, 4) or images.size == 0:
        layouts = "(N, H, W), (N, H, W, C) or (N, C, H, W)"
        raise InputError(f"npz: {path}: {key} must be {layouts} and not empty, not {images.shape}")
    if images.ndim == 3:
        return np.ascontiguousarray(images[:, None])
    first, last = images.shape[1] in (1, 3), images.shape[3] in (1, 3)
    if first == last:
        fault = "both the second and the last axis" if first else "neither the second nor the last axis"
        raise InputError(f"npz: {path}: {key} is {images.shape}: {fault} could be the channels (1 or 3)")
    return np.ascontiguousarray(images if first else images.transpose(0, 3, 1, 2))


def _class_names(path: Path, names: np.ndarray, largest: int) -> tuple[str, ...]:
    if names.dtype.kind != "U" or names.ndim != 1 or len(set(names.tolist())) != len(names):
        raise InputError(f"npz: {path}: class_names must be different strings, one per class")
    if largest >= len(names):
        raise InputError(f"npz: {path}: a label is {largest}, but class_names names only 0..{len(names) - 1}")
    return tuple(names.tolist())
