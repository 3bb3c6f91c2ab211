"""How many images of each class a data set has, as far as that can be told without reading an image. Free of torch,
for plans."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from harness.data.arrays import read_labels
from harness.data.folder import PARTS, list_images
from harness.data.registry import DATASETS
from harness.data.splits import subset_sizes
from harness.errors import InputError
from harness.spec import DatasetSpec

FOLDER_TEST_SHARE = 6  # one image in so many is a test image where a folder has no test/


class ClassCounts(NamedTuple):
    """Images of each class in the whole training and the whole test set: (C,) int64."""

    train: np.ndarray
    test: np.ndarray


def class_counts(spec: DatasetSpec) -> ClassCounts | None:
    """The counts of a data set; of the user's own from its labels or file names. None where those are not here, or are
    not what its reader asks for, which says why."""
    facts = DATASETS[spec.name]
    if facts.train_counts is not None and facts.test_counts is not None:
        return ClassCounts(np.array(facts.train_counts), np.array(facts.test_counts))
    if spec.path is None or spec.sha256 is None:
        return None
    return _own_counts(spec.name, Path(spec.path).expanduser(), spec.sha256)


@lru_cache(maxsize=8)
def _own_counts(name: str, path: Path, _sha256: str) -> ClassCounts | None:
    """Read once per content: a plan asks for every trial."""
    if not path.exists():
        return None
    return _of_folder(path) if name == "folder" else _of_npz(path)


def _of_npz(path: Path) -> ClassCounts | None:
    try:
        labels = read_labels(path)
        if not all(each.dtype.kind in "iu" and each.ndim == 1 and each.size for each in labels):
            return None
        classes = int(max(each.max() for each in labels)) + 1
        if min(each.min() for each in labels) < 0 or classes > sum(map(len, labels)):
            return None
        return ClassCounts(*(np.bincount(each.astype(np.int64), minlength=classes) for each in labels))
    except InputError:
        return None


def _of_folder(path: Path) -> ClassCounts:
    listing = list_images(path)
    parts = np.array([listing.part_of(name) for name in listing.names])
    labels, classes = np.array(listing.labels), len(listing.class_names)
    if listing.parts == PARTS:
        return ClassCounts(*(np.bincount(labels[parts == part], minlength=classes) for part in PARTS))
    whole = np.bincount(labels, minlength=classes)
    test = subset_sizes(whole, len(labels) // FOLDER_TEST_SHARE)
    return ClassCounts(whole - test, test)
