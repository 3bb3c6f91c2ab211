"""Images and labels by data set name: found, checked, decoded once per node, and never written to."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from harness.data import decoded
from harness.data.arrays import read_npz
from harness.data.counts import FOLDER_TEST_SHARE
from harness.data.decoded import Arrays, data_root
from harness.data.folder import folder_sha256, list_images
from harness.data.pictures import decode
from harness.data.readers import SOURCES
from harness.data.registry import DATASETS, OWN
from harness.data.splits import stratified_subset
from harness.errors import AbsentError, InputError, one_of

Split = Literal["train", "test"]

_DIGITS_TEST_IMAGES = 450  # a quarter of 1,797
_DIGITS_TEST_SEED = 0


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
) -> ImageSet:
    """One split of a data set, on the CPU; a second call in this process shares the same memory.

    root: the data directory, see `data_root`. download: fetch what is missing into it. path: of a data set of `OWN`;
    sha256: what its content must have. resize, split_seed: of `folder`, see `pictures.decode`; the seed draws a sixth
    of each class as test images where the folder has no test/. InputError if the data is missing (where it looked, how
    to get it), damaged, or not what `npz` and `folder` ask for.
    """
    one_of("data set", name, DATASETS)
    if split not in ("train", "test"):
        raise ValueError(f"split must be train or test, not {split!r}")
    if (name in OWN) != (path is not None):
        raise InputError(f"the data set {name} " + ("needs a path" if name in OWN else "takes no path"))
    if path is None:
        return _load(name, split, data_root(root), download)
    if name == "folder":
        path = path.expanduser().absolute()
        return _folder_split(path, sha256 or folder_sha256(path), resize, data_root(root), split, split_seed)
    own = read_npz(path, sha256)
    return _image_set(own.train if split == "train" else own.test, own.class_names)


def pixel_statistics(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel of uint8 images (N, C, H, W), pixel scale [0, 1]."""
    levels = torch.arange(256, dtype=torch.float64) / 255
    counts = torch.stack([torch.bincount(channel.flatten(), minlength=256) for channel in images.cpu().unbind(1)])
    share = counts.double() / counts.sum(1, keepdim=True)
    mean = share @ levels
    variance = (share * (levels - mean[:, None]) ** 2).sum(1)
    return tuple(mean.tolist()), tuple(variance.sqrt().tolist())


@lru_cache(maxsize=16)
def _load(name: str, split: Split, root: Path, download: bool) -> ImageSet:
    arrays = _read_digits(split) if name == "digits" else _read_stored(name, split, root, download)
    return _image_set(arrays, DATASETS[name].class_names or ())


def _image_set(arrays: Arrays, class_names: tuple[str, ...]) -> ImageSet:
    return ImageSet(torch.from_numpy(arrays[0]), torch.from_numpy(arrays[1]), class_names)


def _read_digits(split: Split) -> Arrays:
    from sklearn.datasets import load_digits

    source = load_digits()
    images = np.rint(source.images * (255 / 16)).astype(np.uint8)[:, None]
    labels = source.target.astype(np.int64)
    test = _test_images(labels, _DIGITS_TEST_IMAGES, _DIGITS_TEST_SEED)
    chosen = test if split == "test" else ~test
    return images[chosen], labels[chosen]


def _test_images(labels: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Which images of a data set without test images of its own are drawn as such: a mask, classes in proportion."""
    chosen = np.zeros(len(labels), dtype=bool)
    chosen[stratified_subset(torch.from_numpy(labels), count, seed).numpy()] = True
    return chosen


@lru_cache(maxsize=4)
def _folder_split(path: Path, sha256: str, resize: int | None, root: Path, split: Split, split_seed: int) -> ImageSet:
    parts, class_names = _read_folder(path, sha256, resize, root)
    if split in parts:
        return _image_set(parts[split], class_names)
    images, labels = parts["all"]
    chosen = _test_images(labels, len(labels) // FOLDER_TEST_SHARE, split_seed)
    chosen = chosen if split == "test" else ~chosen
    return _image_set((images[chosen], labels[chosen]), class_names)


@lru_cache(maxsize=2)
def _read_folder(path: Path, sha256: str, resize: int | None, root: Path) -> tuple[dict[str, Arrays], tuple[str, ...]]:
    """The parts of a folder and its classes, decoded by the first process of a node for all others.

    The decoded copy is named by the content: where it is there, the folder itself is not looked at.
    """
    name = f"folder-{sha256[:32]}" + (f"-{resize}" if resize else "")
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):  # a data directory that cannot be written to is merely slower
            stack.enter_context(_locked(root, name))
        if found := _decoded_folder(root, name):
            return found
        listing = list_images(path)
        parts = decode(listing, sha256, resize)
        with contextlib.suppress(OSError):
            for part, arrays in parts.items():
                decoded.write(root, name, part, arrays)
            decoded.write_class_names(root, name, listing.class_names)
        return _decoded_folder(root, name) or (parts, listing.class_names)


def _decoded_folder(root: Path, name: str) -> tuple[dict[str, Arrays], tuple[str, ...]] | None:
    class_names = decoded.read_class_names(root, name)
    found = {part: decoded.read(root, name, part) for part in ("train", "test", "all")}
    parts = {part: arrays for part, arrays in found.items() if arrays is not None}
    if not class_names or tuple(parts) not in (("train", "test"), ("all",)):
        return None
    counts = [np.bincount(labels, minlength=len(class_names)) for _, labels in parts.values()]
    whole = all(len(each) == len(class_names) and each.all() for each in counts)  # a folder has each class in each part
    return (parts, class_names) if whole else None


def _read_stored(name: str, split: Split, root: Path, download: bool) -> Arrays:
    """The decoded copy if there is one, else the source's own files (decoded for the next process), else a download."""
    found = decoded.read(root, name, split)
    if found is not None:
        return found
    arrays = _read_source(name, root, split)
    if arrays is None and download:
        _download(name, root)
        return _read_stored(name, split, root, download=False)
    if arrays is None:
        raise AbsentError(_missing(name, root))
    with contextlib.suppress(OSError):  # a data directory that cannot be written to is merely slower
        decoded.write(root, name, split, arrays)
    return decoded.read(root, name, split) or arrays


def _read_source(name: str, root: Path, split: Split) -> Arrays | None:
    """Images and labels from the data set's own files; None if there are none. InputError if they are not right."""
    try:
        arrays = SOURCES[name].read(root, split)
    except Exception as error:  # a damaged file makes readers and decompressors raise almost anything
        raise InputError(f"{name}: the files for {root} are damaged or incomplete ({_line(error)})") from error
    return arrays and (np.ascontiguousarray(arrays[0]), np.asarray(arrays[1], dtype=np.int64))


def _download(name: str, root: Path) -> None:
    """Fetch a data set and keep its decoded form; processes that ask at the same time wait for the first."""
    parts: tuple[Split, ...] = ("train", "test")
    temporary = root / f".{name}-download"
    try:
        with _locked(root, name):
            if all(decoded.read(root, name, split) for split in parts):
                return
            shutil.rmtree(temporary, ignore_errors=True)  # left by a killed process: the lock says nobody uses it
            try:
                SOURCES[name].download(temporary)
                for split in parts:
                    if arrays := _read_source(name, temporary, split):
                        decoded.write(root, name, split, arrays)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
    except (OSError, RuntimeError) as error:
        raise InputError(f"{name}: the download into {root} failed ({_line(error)})") from error


@contextlib.contextmanager
def _locked(root: Path, name: str) -> Iterator[None]:
    """Hold the one lock that downloads of this data set into this directory share; it ends with the process."""
    import fcntl

    root.mkdir(parents=True, exist_ok=True)
    with (root / f".{name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _missing(name: str, root: Path) -> str:
    source = SOURCES[name]
    hint = f"{source.hint}, " if source.hint else ""
    return (
        f"{name}: not found in {root}; put {source.files} there, name another data directory (by option or in "
        f"ROBUST_FAIRNESS_DATA), {hint}or allow the download"
    )


def _line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
