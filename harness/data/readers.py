"""How each public data set is read from its own files and fetched, through torchvision's readers and their checks;
torchvision is imported on use: a decoded data set does without."""

from __future__ import annotations

import gzip
import math
import struct
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from harness.data.decoded import Arrays
from harness.data.registry import DEBIAN_FASHION_MNIST
from harness.data.splits import drawn_test_images

_DIGITS_TEST_IMAGES = 450  # a quarter of 1,797
_DIGITS_TEST_SEED = 0


def read_digits(_root: Path, split: str) -> Arrays:
    """scikit-learn's digits, of which it has one part: the test images are drawn."""
    from sklearn.datasets import load_digits

    source = load_digits()
    images = np.rint(source.images * (255 / 16)).astype(np.uint8)[:, None]
    labels = source.target.astype(np.int64)
    test = drawn_test_images(labels, _DIGITS_TEST_IMAGES, _DIGITS_TEST_SEED)
    chosen = test if split == "test" else ~test
    return images[chosen], labels[chosen]


def read_fashion_mnist(root: Path, split: str) -> Arrays | None:
    """The IDX files, plain or .gz, from torchvision's folder, from the directory itself or from Debian's folder."""
    stem, count = ("train", 60_000) if split == "train" else ("t10k", 10_000)
    for folder in (root / "FashionMNIST" / "raw", root, DEBIAN_FASHION_MNIST):
        images_path = _plain_or_gz(folder / f"{stem}-images-idx3-ubyte")
        labels_path = _plain_or_gz(folder / f"{stem}-labels-idx1-ubyte")
        if images_path and labels_path:
            images, labels = _read_idx(images_path, (count, 28, 28)), _read_idx(labels_path, (count,))
            # MNIST's files have the same names and shapes, but not the same number of images in every class.
            if np.bincount(labels).tolist() != [count // 10] * 10:
                raise ValueError(f"{folder} holds something other than Fashion-MNIST")
            return images[:, None], labels
    return None


def _plain_or_gz(path: Path) -> Path | None:
    return next((each for each in (path, path.with_name(path.name + ".gz")) if each.is_file()), None)


def _read_idx(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """An IDX file of bytes. ValueError where its header is not of that shape or what follows not of that size, of
    which no more is read or unpacked."""
    size, header = math.prod(shape), struct.pack(f">HBB{len(shape)}I", 0, 8, len(shape), *shape)
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        if file.read(len(header)) != header:
            raise ValueError(f"{path.name} holds something other than Fashion-MNIST's {shape[0]:,}")
        content = bytearray(file.read(size + 1))
    if len(content) != size:
        raise ValueError(f"{path.name} is {'longer' if len(content) > size else 'shorter'} than its header says")
    return np.frombuffer(content, np.uint8).reshape(shape)


def _read_cifar(kind: str, root: Path, split: str) -> Arrays | None:
    reader = _torchvision(kind)
    if not (root / reader.base_folder).is_dir():
        return None
    source = reader(root, train=split == "train")
    return source.data.transpose(0, 3, 1, 2), source.targets


def _download(kind: str, root: Path) -> None:
    _torchvision(kind)(root, download=True)


def read_svhn(root: Path, split: str) -> Arrays | None:
    reader = _torchvision("SVHN")
    if not (root / reader.split_list[split][1]).is_file():
        return None
    source = reader(root, split=split)
    return source.data, source.labels


def download_svhn(root: Path) -> None:
    for split in ("train", "test"):
        _torchvision("SVHN")(root, split=split, download=True)


def _torchvision(kind: str) -> Any:
    from torchvision import datasets

    return getattr(datasets, kind)


download_fashion_mnist = partial(_download, "FashionMNIST")
read_cifar10, download_cifar10 = partial(_read_cifar, "CIFAR10"), partial(_download, "CIFAR10")
read_cifar100, download_cifar100 = partial(_read_cifar, "CIFAR100"), partial(_download, "CIFAR100")
