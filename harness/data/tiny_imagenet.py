"""Tiny ImageNet in its own layout: `train/WNID/images/`, and `val/` with one file that says which class each image has.
Its `test/` has no labels, so `val/` is the test set, as in the literature."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from harness.data.class_names import TINY_IMAGENET
from harness.data.decoded import Arrays
from harness.data.hashes import threads
from harness.data.registry import DATASETS

FOLDER = "tiny-imagenet-200"
_URL, _MD5 = "http://cs231n.stanford.edu/tiny-imagenet-200.zip", "90528d7ca1a48142e341f4ef8d21d0de"
_SIDE = 64


def read_tiny_imagenet(root: Path, split: str) -> Arrays | None:
    """One split; grey images become RGB, as everybody reads them. ValueError where images are missing."""
    folder = root / FOLDER
    if not folder.is_dir():
        return None
    files, labels = _training(folder / "train") if split == "train" else _annotated(folder / "val")
    facts = DATASETS["tiny_imagenet"]
    expected = facts.train_counts if split == "train" else facts.test_counts
    if np.bincount(labels, minlength=len(TINY_IMAGENET)).tolist() != list(expected or ()):
        raise ValueError(f"{FOLDER} lacks {split} images")
    images = np.empty((len(files), 3, _SIDE, _SIDE), np.uint8)
    with ThreadPoolExecutor(threads()) as pool:
        for place, pixels in enumerate(pool.map(_pixels, files)):
            images[place] = pixels
    return images, labels


def download_tiny_imagenet(root: Path) -> None:
    """Fetch and unpack it into a directory."""
    from torchvision.datasets.utils import download_and_extract_archive

    download_and_extract_archive(_URL, str(root), md5=_MD5, remove_finished=True)


def _training(folder: Path) -> tuple[list[Path], np.ndarray]:
    classes = [sorted((folder / wnid / "images").glob("*.JPEG")) for wnid in TINY_IMAGENET]
    labels = np.repeat(np.arange(len(classes)), [len(files) for files in classes])
    return [file for files in classes for file in files], labels


def _annotated(folder: Path) -> tuple[list[Path], np.ndarray]:
    """The images in the order of the file that names their classes: `val_0.JPEG <tab> n03444034 <tab> ...`."""
    places = {wnid: label for label, wnid in enumerate(TINY_IMAGENET)}
    rows = [line.split("\t") for line in (folder / "val_annotations.txt").read_text().splitlines() if line]
    return [folder / "images" / row[0] for row in rows], np.array([places[row[1]] for row in rows], np.int64)


def _pixels(path: Path) -> np.ndarray:
    from PIL import Image

    with Image.open(path, formats=("JPEG",)) as image:
        if image.size != (_SIDE, _SIDE):
            raise ValueError(f"{path.name} has {image.width} x {image.height} pixels")
        return np.asarray(image.convert("RGB")).transpose(2, 0, 1)
