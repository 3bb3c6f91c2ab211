"""Data sets of the user's own whose images are PNG or JPEG, in files or in rows: what they have in common. Free of
torch and Pillow, for plans."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import numpy as np

from harness.data.counts import ClassCounts
from harness.data.splits import subset_sizes
from harness.errors import InputError

PARTS = ("train", "test")
TEST_SHARE = 6  # one image in so many is a test image where the data has no part for it, and one of each class
FEWEST = {"train": 3, "test": 1, "all": 4}  # images of a class: one to validate on, and two that training keeps


class Encoded(Protocol):
    """Images in an order, each with the part that it belongs to (`train` or `test`, or `all`) and its label."""

    @property
    def kind(self) -> str:
        """The name of the data set's declaration, which begins a message."""

    @property
    def root(self) -> Path:
        """What the places of images are told from."""

    @property
    def path(self) -> Path:
        """What a message about all of them names."""

    @property
    def parts(self) -> np.ndarray:
        """(N,) text."""

    @property
    def labels(self) -> np.ndarray:
        """(N,) int64."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """In the order of the labels."""

    def where(self, place: int) -> str:
        """What a message calls an image, below the root."""

    def contents(self, sha256: str) -> Iterator[bytes]:
        """The encoded images. InputError where they cannot be read, or the data does not have the hash."""


def counts_of_parts(found: Encoded) -> ClassCounts:
    """Images of each class that are trained on and tested on."""
    parts, labels, classes = found.parts, found.labels, len(found.class_names)
    if parts[0] in PARTS:
        return ClassCounts(*(np.bincount(labels[parts == part], minlength=classes) for part in PARTS))
    whole = np.bincount(labels, minlength=classes)
    test = subset_sizes(whole, drawn_as_test(whole))
    return ClassCounts(whole - test, test)


def drawn_as_test(counts: np.ndarray) -> int:
    """How many of the images of each class (C,) are test images where the data has no part for them."""
    return max(int(counts.sum()) // TEST_SHARE, int((counts > 0).sum()))


def check_sha256(listed: Encoded, found: str, planned: str) -> None:
    """InputError where the data has another hash than was planned."""
    if found != planned:
        raise InputError(f"{listed.kind}: {listed.path} has the sha256 {found}, not {planned} as planned")
