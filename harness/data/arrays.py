"""The user's own images from one .npz file, checked so that each mistake is one clear line."""

from __future__ import annotations

import math
import os
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

import numpy as np

from harness.data.class_names import LONGEST_CLASS, is_class_name
from harness.data.counts import ClassCounts
from harness.data.decoded import Arrays
from harness.data.registry import Content
from harness.errors import AbsentError, InputError, unknown
from harness.files import open_plain, sha256_of

_LABELS = ("y_train", "y_test")
_REQUIRED = ("x_train", "y_train", "x_test", "y_test")
_KEYS = (*_REQUIRED, "class_names")
_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
MOST_BYTES = 16 << 30  # of all arrays of a file
_SMALL, _MOST_PACKED = 256 << 20, 100  # bytes that any file may hold; larger ones are real images, which pack less


@dataclass(frozen=True)
class OwnArrays:
    """Both splits of one file: images (N, C, H, W) uint8 with labels (N,) int64, and a name per class."""

    train: Arrays
    test: Arrays
    class_names: tuple[str, ...]


def read_npz(path: Path, sha256: str | None = None) -> OwnArrays:
    """Both splits of an .npz file with x_train, y_train, x_test, y_test and, if wanted, class_names.

    Images: uint8, (N, H, W), (N, H, W, C) or (N, C, H, W) with 1 or 3 channels. Labels: integers 0..K-1, where K is the
    number of class names, or else the largest label of both plus one; or text, one of the class names, which are in
    order of their characters where none are given. Nothing pickled is ever loaded. sha256: what the file must have, if
    given. InputError on any fault.
    """
    path = path.expanduser().absolute()
    with _opened(path) as file:
        status = os.fstat(file.fileno())
    return _read(path, sha256, status.st_mtime_ns, status.st_size)


def read_split(content: Content, split: str, _data_root: Path) -> tuple[Arrays, tuple[str, ...]]:
    """One split of an .npz file and the names of the classes. Raises InputError as `read_npz`."""
    own = read_npz(content.path, content.sha256)
    return (own.train if split == "train" else own.test), own.class_names


def npz_sha256(path: Path) -> str:
    """The hash of an .npz file; InputError for what is none."""
    with _opened(path) as file:
        return sha256_of(file)


@lru_cache(maxsize=2)
def _read(path: Path, sha256: str | None, _modified: int, _size: int) -> OwnArrays:
    """`read_npz`, once per version of a file (the two numbers tell versions apart)."""
    arrays = _numbered(path, _open(path, sha256))
    train, test = (_split(path, arrays, split) for split in ("train", "test"))
    if train[0].shape[1:] != test[0].shape[1:]:
        shapes = " and ".join("x".join(map(str, images.shape[1:])) for images, _ in (train, test))
        raise InputError(f"npz: {path}: training and test images differ in shape: {shapes} (channels x height x width)")
    largest = int(max(train[1].max(), test[1].max()))
    if not 0 < largest < len(train[1]) + len(test[1]):
        raise InputError(f"npz: {path}: the largest label is {largest}; labels are 0..K-1 with two or more classes K")
    if len(np.unique(train[1])) < 2:
        raise InputError(f"npz: {path}: y_train has images of one class only; two or more are needed")
    names = arrays.get("class_names", np.array([str(label) for label in range(largest + 1)]))
    return OwnArrays(train, test, _class_names(path, names, largest, len(train[1]) + len(test[1])))


def _opened(path: Path) -> BinaryIO:
    if not os.path.exists(path):  # unlike Path.exists, no error for a name that is too long
        raise AbsentError(f"npz: there is no file {path}")
    file = open_plain(path, "npz")
    is_array = file.read(len(np.lib.format.MAGIC_PREFIX)) == np.lib.format.MAGIC_PREFIX
    if is_array or not zipfile.is_zipfile(file):
        file.close()
        fault = "one array, not an .npz archive with" if is_array else "damaged or no archive of"
        raise InputError(f"npz: {path} is {fault} {', '.join(_REQUIRED)}")
    file.seek(0)
    return file


def _open(path: Path, sha256: str | None) -> dict[str, np.ndarray]:
    with _opened(path) as file:
        found = sha256_of(file)
        if found != (sha256 or found):
            raise InputError(f"npz: {path} has the sha256 {found}, not {sha256} as planned")
        return _arrays(path, file, _KEYS)


def npz_counts(content: Content) -> ClassCounts | None:
    """Images of each class in an .npz file, of which only the labels are read; None where these are not right."""
    path = content.path
    try:
        with _opened(path) as file:
            found = _numbered(path, _arrays(path, file, (*_LABELS, "class_names")))
    except InputError:
        return None
    labels = [found[key] for key in _LABELS]
    if not all(each.dtype.kind in "iu" and each.ndim == 1 and each.size for each in labels):
        return None
    classes = int(max(each.max() for each in labels)) + 1
    if min(each.min() for each in labels) < 0 or classes > sum(map(len, labels)):
        return None
    return ClassCounts(*(np.bincount(each.astype(np.int64), minlength=classes) for each in labels))


def _numbered(path: Path, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The arrays with labels that are text as the places of these among the names of the classes."""
    labels = [arrays[key] for key in _LABELS]
    if not all(each.dtype.kind == "U" and each.ndim == 1 and each.size for each in labels):
        return arrays
    names = arrays.get("class_names", np.unique(np.concatenate(labels)))
    places = {name: place for place, name in enumerate(np.ravel(names).tolist())}
    for key, found in zip(_LABELS, labels, strict=True):
        if foreign := sorted(set(found.tolist()) - places.keys()):
            raise InputError(f"npz: {path}: {key} has '{foreign[0]}', which is not in class_names")
    numbers = {
        key: np.array([places[name] for name in found.tolist()], np.int64)
        for key, found in zip(_LABELS, labels, strict=True)
    }
    return {**arrays, **numbers, "class_names": names}


def _arrays(path: Path, file: BinaryIO, wanted: Sequence[str]) -> dict[str, np.ndarray]:
    try:
        return _checked_arrays(path, file, wanted)
    except InputError:
        raise
    except Exception as error:  # a damaged archive makes the parsers of zip files and headers raise almost anything
        raise InputError(
            f"npz: {path} is damaged or no archive of plain arrays (pickled objects are refused)"
        ) from error


def _checked_arrays(path: Path, file: BinaryIO, wanted: Sequence[str]) -> dict[str, np.ndarray]:
    """The wanted arrays, read once each header fits its array's size and all sizes are such as images have."""
    with zipfile.ZipFile(file) as archive:
        entries = {entry.filename.removesuffix(".npy"): entry for entry in archive.infolist()}
        for key in entries:
            if key not in _KEYS:
                raise unknown(f"array in {path}", key, _KEYS)
        if missing := [key for key in _REQUIRED if key not in entries]:
            raise InputError(f"npz: {path} lacks {', '.join(missing)}")
        size = sum(entry.file_size for entry in entries.values())
        if size > MOST_BYTES or (size > _SMALL and size > _MOST_PACKED * os.fstat(file.fileno()).st_size):
            raise InputError(
                f"npz: {path} would unpack to {size / 2**20:,.0f} MB: at most {MOST_BYTES >> 20:,} are read, and "
                f"at most {_MOST_PACKED} times the file's own size"
            )
        for entry in entries.values():
            _check_header(archive, entry)
        return {key: _array(archive, entry) for key, entry in entries.items() if key in wanted}


def _check_header(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> None:
    """ValueError where the shape in an array's header is not of the size of what follows, or where it holds objects."""
    with archive.open(entry) as file:
        read_header = _HEADERS[np.lib.format.read_magic(file)]
        shape, _, dtype = read_header(file)
        if dtype.hasobject or not dtype.itemsize:
            raise ValueError(f"no plain numbers: {dtype}")
        if math.prod(shape) * dtype.itemsize != entry.file_size - file.tell() or min(shape, default=0) < 0:
            raise ValueError(f"the header says {shape}")


def _array(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> np.ndarray:
    with archive.open(entry) as file:
        return np.lib.format.read_array(file, allow_pickle=False)


def _split(path: Path, arrays: dict[str, np.ndarray], split: str) -> Arrays:
    images = _images(path, f"x_{split}", arrays[f"x_{split}"])
    key, labels = f"y_{split}", arrays[f"y_{split}"]
    if labels.dtype.kind not in "iu" or labels.ndim != 1:
        raise InputError(
            f"npz: {path}: {key} must be integers of shape (N,), or text in both splits, not {labels.dtype} of "
            f"{labels.shape}"
        )
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


def _class_names(path: Path, names: np.ndarray, largest: int, images: int) -> tuple[str, ...]:
    texts = names.tolist() if names.dtype.kind == "U" and names.ndim == 1 else []
    if not texts or len(set(texts)) != len(texts) or not all(map(is_class_name, texts)):
        raise InputError(
            f"npz: {path}: class_names must be different strings, one per class, of 1 to {LONGEST_CLASS} "
            "characters of UTF-8"
        )
    if len(names) > images:
        raise InputError(f"npz: {path}: class_names has {len(names):,} names for {images:,} images")
    if largest >= len(names):
        raise InputError(f"npz: {path}: a label is {largest}, but class_names names only 0..{len(names) - 1}")
    return tuple(names.tolist())
