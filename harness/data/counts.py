"""How many images of each class a data set has, as far as that can be told without reading an image. Free of torch,
for plans."""

from __future__ import annotations

import os
import pkgutil
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from harness.data.registry import DATASETS, OWN, Content
from harness.spec import DatasetSpec


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
    content = Content(Path(spec.path).expanduser(), spec.sha256, None, 0, spec.label_column)
    return _own_counts(spec.name, content)


@lru_cache(maxsize=8)
def _own_counts(name: str, content: Content) -> ClassCounts | None:
    """Read once per content: a plan asks for every trial."""
    if not os.path.exists(content.path):  # Path.exists raises for too long a name
        return None
    return pkgutil.resolve_name(OWN[name].counts)(content)
