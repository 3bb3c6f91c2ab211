"""Two variants' networks on the same test images, summed up by class: all that a paired comparison needs of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from harness.statistics.metrics import Floats, rates


@dataclass(frozen=True)
class Paired:
    """Counts of S networks of one variant, then S of another; network s of both has the same seed.

    n: (C,) images. right: (2S, C) images that a network got right. both: (C, 2S, 2S) that two networks got right.
    """

    n: Floats
    right: Floats
    both: Floats

    @classmethod
    def of(cls, labels: ArrayLike, first: ArrayLike, second: ArrayLike, num_classes: int) -> Paired:
        """labels: (N,); first, second: (S, N) or (N,) booleans, robust or not, by seed.

        Raises ValueError for shapes that do not pair.
        """
        labels, first, second = np.asarray(labels), np.atleast_2d(first), np.atleast_2d(second)
        if not first.shape == second.shape == (len(first), len(labels)):
            raise ValueError(f"outcomes of shape {first.shape} and {second.shape} do not pair on {len(labels)} images")
        order = np.argsort(labels, kind="stable")
        robust = np.concatenate([first, second]).astype(np.float32)[:, order]
        edges = np.searchsorted(labels[order], np.arange(num_classes + 1))
        parts = np.split(robust, edges[1:-1], axis=1)
        both = np.stack([part @ part.T for part in parts]).astype(float)  # whole numbers, exact below 2^24 images
        return cls(np.diff(edges).astype(float), np.einsum("ckk->kc", both), both)

    @property
    def seeds(self) -> int:
        return len(self.right) // 2

    @property
    def there(self) -> np.ndarray:
        """(C,) whether a class has images."""
        return self.n > 0

    @property
    def accuracy(self) -> Floats:
        """(2S, C); NaN for a class without images."""
        return rates(self.right, self.n)

    @property
    def signs(self) -> Floats:
        """(2S,) the weights whose sum over networks is the mean difference, first minus second."""
        return np.repeat([1.0, -1.0], self.seeds) / self.seeds

    def turned(self) -> Paired:
        """Second against first."""
        order = np.roll(np.arange(len(self.right)), self.seeds)
        return Paired(self.n, self.right[order], self.both[:, order][:, :, order])

    def moments(self, extra: float) -> tuple[Floats, Floats]:
        """Class accuracies (2S, C) and their covariances (C, 2S, 2S) over test images, of one enlarged sample.

        As Agresti and Min for two proportions, 2 `extra` images are added to each class, one quarter for each outcome
        of the pair of variants: no variance is empty. Both moments are of the same images, so none is negative.
        """
        n = self.n + 2 * extra
        mean = (self.right + extra) / n
        side = np.repeat([0, 1], self.seeds)
        second = (self.both + np.where(side[:, None] == side, extra, extra / 2)) / n[:, None, None]
        product = mean.T[:, :, None] * mean.T[:, None, :]
        return mean, (second - product) / n[:, None, None]
