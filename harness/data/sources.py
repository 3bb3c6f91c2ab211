"""Images and labels by data set name: found, checked, decoded once per node, and never written to."""

from __future__ import annotations

import contextlib
import pkgutil
import shutil
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from harness.data import decoded
from harness.data.decoded import Arrays, data_root
from harness.data.registry import DATASETS, Content, DatasetInfo, Files
from harness.errors import AbsentError, InputError, first_line, one_of
from methods.plugins import file_of

Split = Literal["train", "test"]


@dataclass(frozen=True)
class ImageSet:
    """One split of a data set. Shared by everything in the process: read it, never write to it.

    images: (N, C, H, W) uint8. labels: (N,) int64 in 0..K-1. class_names: K names; a class may have no image.
    """

    images: Tensor
    labels: Tensor
    class_names: tuple[str, ...]

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def channels(self) -> int:
        return self.images.shape[1]


def load(
    name: str,
    split: Split,
    *,
    root: Path | None = None,
    download: bool = False,
    path: Path | None = None,
    sha256: str | None = None,
    resize: int | None = None,
    split_seed: int = 0,
    label_column: str | None = None,
) -> ImageSet:
    """One split of a data set, on the CPU; a second call in this process shares the same memory.

    root: the data directory, see `data_root`. download: fetch what is missing into it. path: of the user's own data;
    sha256, resize, split_seed, label_column: see `Content` and their readers. InputError if the data is missing (where
    it looked, how to get it), damaged, or not what their reader asks for.
    """
    facts = DATASETS[one_of("data set", name, DATASETS)]
    if split not in ("train", "test"):
        raise ValueError(f"split must be train or test, not {split!r}")
    if (facts.own is None) != (path is None):
        raise InputError(f"the data set {name} " + ("needs a path" if facts.own else "takes no path"))
    if path is None:
        return _load(name, split, data_root(root), download)
    content = Content(path.expanduser().absolute(), sha256, resize, split_seed, label_column)
    return _image_set(*pkgutil.resolve_name(facts.reader)(content, split, data_root(root)))


@lru_cache(maxsize=16)
def _load(name: str, split: Split, root: Path, download: bool) -> ImageSet:
    facts = DATASETS[name]
    if facts.files is None:
        arrays = _read_source(facts, root, split)
        assert arrays is not None  # a data set without files is always there
    else:
        arrays = _read_stored(facts, facts.files, split, root, download)
    return _image_set(arrays, facts.class_names or ())


def _image_set(arrays: Arrays, class_names: tuple[str, ...]) -> ImageSet:
    return ImageSet(torch.from_numpy(arrays[0]), torch.from_numpy(arrays[1]), class_names)


def _read_stored(facts: DatasetInfo, files: Files, split: Split, root: Path, download: bool) -> Arrays:
    """The decoded copy if there is one, else the source's own files (decoded for the next process), else a download."""
    found = decoded.read(root, facts.name, split)
    if found is not None:
        return found
    arrays = _read_source(facts, root, split)
    if arrays is None and download:
        _download(facts, files, root)
        return _read_stored(facts, files, split, root, download=False)
    if arrays is None:
        raise AbsentError(_missing(facts.name, files, root))
    with contextlib.suppress(OSError):  # a data directory that cannot be written to is merely slower
        decoded.write(root, facts.name, split, arrays)
    return decoded.read(root, facts.name, split) or arrays


def _read_source(facts: DatasetInfo, root: Path, split: Split) -> Arrays | None:
    """Images and labels from the data set's own files; None if there are none. InputError if they are not right."""
    try:
        arrays = pkgutil.resolve_name(facts.reader)(root, split)
    except Exception as error:  # a damaged file makes readers and decompressors raise almost anything
        if facts.foreign:
            raise InputError(f"{_reader(facts)}: {type(error).__name__}: {first_line(error)}") from error
        raise InputError(
            f"{facts.name}: the files for {root} are damaged or incomplete ({first_line(error)})"
        ) from error
    if facts.foreign:
        _check_arrays(facts, split, arrays)
    return arrays and (np.ascontiguousarray(arrays[0]), np.asarray(arrays[1], dtype=np.int64))


def _check_arrays(facts: DatasetInfo, split: Split, arrays: object) -> None:
    """InputError where a plugin's reader gives other arrays than its declaration says."""
    if arrays is None and facts.files is not None:
        return
    shape = (facts.channels, facts.image_size, facts.image_size)
    wanted = f"images {('N', *shape)} uint8 and labels (N,) from 0 to {(facts.num_classes or 0) - 1}"
    pair = arrays if isinstance(arrays, tuple) and len(arrays) == 2 else (None, None)
    images, labels = (each if isinstance(each, np.ndarray) else np.empty(0) for each in pair)
    right = images.shape[1:] == shape and images.dtype == np.uint8 and labels.shape == images.shape[:1] and len(images)
    if right and labels.dtype.kind in "iu" and labels.min() >= 0 and labels.max() < (facts.num_classes or 0):
        return
    found = ", ".join(f"{np.shape(each)} {np.asarray(each).dtype}" if each is not None else "nothing" for each in pair)
    raise InputError(f"{_reader(facts)}: the {split} split must be {wanted}, not {found}")


def _reader(facts: DatasetInfo) -> str:
    return f"{file_of(facts.reader)}: data set {facts.name}"


def _download(facts: DatasetInfo, files: Files, root: Path) -> None:
    """Fetch a data set and keep its decoded form; processes that ask at the same time wait for the first."""
    parts: tuple[Split, ...] = ("train", "test")
    temporary = root / f".{facts.name}-download"
    try:
        with decoded.locked(root, facts.name):
            if all(decoded.read(root, facts.name, split) for split in parts):
                return
            shutil.rmtree(temporary, ignore_errors=True)  # left by a killed process: the lock says nobody uses it
            try:
                pkgutil.resolve_name(files.download)(temporary)
                for split in parts:
                    if arrays := _read_source(facts, temporary, split):
                        decoded.write(root, facts.name, split, arrays)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
    except (OSError, RuntimeError) as error:
        raise InputError(f"{facts.name}: the download into {root} failed ({first_line(error)})") from error


def _missing(name: str, files: Files, root: Path) -> str:
    hint = f"{files.hint}, " if files.hint else ""
    return (
        f"{name}: not found in {root}; put {files.content} there, name another data directory (by option or in "
        f"ROBUST_FAIRNESS_DATA), {hint}or have it fetched: --download"
    )
