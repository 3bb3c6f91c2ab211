"""Class-wise counts as arrays: one line per trial, checkpoint and attack (or per row of the report), one column per
class.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from harness.attacks.registry import attack_place
from harness.report.rows import NETWORK

BY_TRIAL = [*NETWORK, "checkpoint", "attack"]  # a line for every trained network, as it was kept and attacked
CHECKPOINT_ORDER = ("best_validation", "last", "given")


@dataclass(frozen=True)
class ClassCounts:
    """keys: G lines that say what each count belongs to.

    correct, images: (G, C) float64; NaN and 0 for a class without images. C: the classes of the data set, the largest
    of several.
    """

    keys: pd.DataFrame
    correct: np.ndarray
    images: np.ndarray

    @property
    def accuracy(self) -> np.ndarray:
        """(G, C) in [0, 1]; NaN for a class without images."""
        return self.correct / np.where(self.images > 0, self.images, np.nan)

    @property
    def unequal(self) -> bool:
        """Whether the classes of some line have unlike numbers of images."""
        there = np.where(self.images > 0, self.images, np.nan)
        return bool(len(there)) and bool(np.any(np.nanmax(there, axis=1) != np.nanmin(there, axis=1)))

    def where(self, chosen: np.ndarray) -> ClassCounts:
        """The lines of a boolean or index array."""
        return ClassCounts(self.keys.loc[chosen].reset_index(drop=True), self.correct[chosen], self.images[chosen])

    def labelled(self, **labels: pd.Series) -> ClassCounts:
        """The same counts with other values in some columns of their keys."""
        columns = {name: values.to_numpy() for name, values in labels.items()}
        return ClassCounts(self.keys.assign(**columns), self.correct, self.images)


def class_counts(class_accuracy: pd.DataFrame, by: Sequence[str]) -> ClassCounts:
    """The counts of `class_accuracy`, one line per combination of the columns `by`, in order of appearance."""
    codes = np.zeros(len(class_accuracy), dtype=np.int64)
    for name in by:
        column, found = pd.factorize(class_accuracy[name], use_na_sentinel=False)
        codes = codes * max(len(found), 1) + column
    line, first = pd.factorize(codes)[0], None
    first = np.unique(line, return_index=True)[1]
    index = class_accuracy["class_index"].to_numpy(dtype=np.int64)
    shape = (len(first), int(index.max(initial=0)) + 1)
    correct, images = np.full(shape, np.nan), np.zeros(shape)
    n = class_accuracy["n"].to_numpy(dtype=float)
    correct[line, index] = np.where(n > 0, class_accuracy["correct"].to_numpy(dtype=float), np.nan)
    images[line, index] = n
    keys = class_accuracy.iloc[first][list(by)].reset_index(drop=True)
    return ClassCounts(keys, correct, images)


def mean_counts(counts: ClassCounts, by: Sequence[str]) -> ClassCounts:
    """The mean over the other keys (the seeds): counts of an average student on the same images, maybe fractional.

    Each image's success, averaged over S seeds, lies in [0, 1]; its variance is at most p(1 - p). So an interval over
    test samples that takes these as counts of n images (not S n: the images are the same) is at least wide enough.
    """
    line = counts.keys.groupby(list(by), sort=False, observed=True).ngroup().to_numpy()
    first = np.unique(line, return_index=True)[1]
    size = np.bincount(line, minlength=len(first))[:, None]

    def mean(values: np.ndarray) -> np.ndarray:
        columns = [np.bincount(line, values[:, column], len(first)) for column in range(values.shape[1])]
        return np.stack(columns, axis=1) / size if columns else np.empty((len(first), 0))

    images = mean(counts.images)
    keys = counts.keys.iloc[first][list(by)].reset_index(drop=True)
    return ClassCounts(keys, mean(counts.accuracy) * images, images)


def attack_order(names: Sequence[str]) -> list[str]:
    """Attacks as tables list them: clean, fgsm, pgd, cw, AutoAttack, then others by name."""
    return sorted(set(names), key=attack_place)


def checkpoint_order(names: Sequence[str]) -> list[str]:
    """best_validation, last, given."""
    return sorted(set(names), key=lambda name: (name not in CHECKPOINT_ORDER, name))
