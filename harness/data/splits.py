"""Which images are held out and which are drawn: functions of the labels and a split seed, never of a trial's seed.
Sizes follow from class counts alone and are computed without torch, for plans."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

import methods
from harness.errors import InputError
from harness.spec import TrainedSpec, TrialSpec

if TYPE_CHECKING:
    from torch import Tensor

_FEWEST = 2  # images of a class from which a method can learn its errors
_FEWEST_CHOSEN = 11  # images of a class of which so many are held out


@dataclass(frozen=True)
class Sizes:
    """Images of each class in the parts of `Splits`: (C,) int64."""

    train: np.ndarray
    validation: np.ndarray
    held_out: np.ndarray


@dataclass(frozen=True)
class Splits:
    """Three disjoint parts of the training data: sorted int64 indices."""

    train: Tensor
    validation: Tensor
    held_out: Tensor


def held_out_wanted(spec: TrialSpec) -> frozenset[str]:
    """The statistics on held-out training images that the trial's method, or the averaging of its weights, learns from:
    none, "pgd", "trades" (`harness.training.validation.held_out_statistics`)."""
    if not isinstance(spec, TrainedSpec):
        return frozenset()
    average = spec.training.weight_average
    of_average = {"pgd"} if average is not None and average.kind == "fawa" else set()
    return methods.held_out_of(spec.method) | of_average


def wants_second_split(spec: TrialSpec) -> bool:
    """Whether some training images are held out for the trial to learn from, beside those for validation."""
    return bool(held_out_wanted(spec))


def split_sizes(
    counts: ArrayLike, *, train_images: int | None = None, second: bool = False, imbalance: float | None = None
) -> Sizes:
    """How many images of each class `split` gives to each part, from the images of each class in the whole data set
    (C,). ValueError as there.
    """
    whole = np.asarray(counts, dtype=np.int64)
    validation = _held_out_size(whole)
    rest = _long_tail(whole - validation, imbalance)
    chosen = rest if train_images is None else subset_sizes(rest, train_images, "train_images")
    held_out = _held_out_size(chosen) if second else np.zeros_like(chosen)
    if second and (held_out < _FEWEST)[chosen > 0].any():
        raise ValueError(_too_few(rest, chosen))
    return Sizes(chosen - held_out, validation, held_out)


def most_train_images(counts: ArrayLike, imbalance: float | None = None) -> int:
    """How many images there are to train on, beside validation, from the images of each class in the whole set (C,)."""
    return int(split_sizes(counts, imbalance=imbalance).train.sum())


def check_sizes(spec: TrialSpec, train: np.ndarray, test: np.ndarray) -> None:
    """InputError where a trial asks for images that its data set does not have, or for too few. train, test: images of
    each class in the whole of both (C,)."""
    asked = spec.dataset
    try:
        split_sizes(train, train_images=asked.train_images, second=wants_second_split(spec), imbalance=asked.imbalance)
        if asked.test_images is not None:
            test = subset_sizes(test, asked.test_images, "test_images")
    except ValueError as error:
        raise InputError(f"dataset {asked.name}: {error}") from error
    check_attacked(spec, test)


def check_attacked(spec: TrialSpec, test: ArrayLike) -> None:
    """InputError where an attack is asked for fewer images than one of each class. test: a trial's test images of each
    class (C,)."""
    classes = int((np.asarray(test) > 0).sum())
    for attack in spec.evaluation.attacks:
        if attack.images is not None and attack.images < classes:
            raise InputError(
                f"evaluation: {attack.name}: images must be at least {classes}, one of each class of "
                f"{spec.dataset.name}, not {attack.images}"
            )


def split(
    labels: Tensor,
    split_seed: int,
    *,
    train_images: int | None = None,
    second: bool = False,
    imbalance: float | None = None,
) -> Splits:
    """Set images of every class aside: `validation` to select checkpoints on, `held_out` (if `second`) to learn from.

    Validation is taken from all images; `imbalance` thins out the others, class by class (`_long_tail`); of what is
    left, `train_images` are drawn in proportion (all if None); the second part is taken out of those. So neither
    validation nor the drawn images depend on `second`. Each part takes at least 100 images of a class or 10 % of it,
    whichever is less, and 2 % where that is more; of one or two images none. ValueError where `train_images` is fewer
    than the classes present or more than the images, and where the second part would hold fewer than two images of a
    class.
    """
    values = labels.cpu().numpy()
    counts = np.bincount(values)
    sizes = split_sizes(counts, train_images=train_images, second=second, imbalance=imbalance)
    validation = _drawn(values, sizes.validation, "held-out", split_seed)
    rest = np.flatnonzero(~validation)
    if imbalance is not None:
        tail = _long_tail(counts - sizes.validation, imbalance)
        rest = rest[_drawn(values[rest], tail, "imbalance", split_seed)]
    chosen = rest[_drawn(values[rest], sizes.train + sizes.held_out, "subset", split_seed)]
    held_out = _drawn(values[chosen], sizes.held_out, "second held-out", split_seed)
    return Splits(_tensor(chosen[~held_out]), _tensor(np.flatnonzero(validation)), _tensor(chosen[held_out]))


def stratified_subset(labels: Tensor, count: int, seed: int) -> Tensor:
    """Sorted int64 indices of `count` images with the classes in proportion, and at least one of each class present.

    Proportions are rounded by largest remainder, ties to the lower class. ValueError if `count` is fewer than the
    classes present or more than the images.
    """
    values = labels.cpu().numpy()
    return _tensor(np.flatnonzero(_drawn(values, subset_sizes(np.bincount(values), count), "subset", seed)))


def _long_tail(counts: np.ndarray, imbalance: float | None) -> np.ndarray:
    """Images of each class in an exponential long tail, the classes in their order: n_max f^(i / (K - 1)), rounded
    down, one at least and no more than there are (Cui et al., CVPR 2019). All where f is null."""
    if imbalance is None or len(counts) < 2:
        return counts
    share = imbalance ** (np.arange(len(counts)) / (len(counts) - 1))
    return np.minimum(counts, np.maximum(1, np.floor(counts.max() * share + 1e-9).astype(np.int64)))


def _held_out_size(counts: np.ndarray) -> np.ndarray:
    size = np.minimum(np.maximum(100, (counts + 25) // 50), -(-counts // 10))
    return np.where(counts > 2, size, 0)


def _too_few(rest: np.ndarray, chosen: np.ndarray) -> str:
    """Why the second part cannot be, and what it takes. rest: the images of each class beside validation."""
    present = np.flatnonzero(chosen)
    least = int(present[np.argmin(chosen[present])])
    reason = (
        f"a method that learns from held-out training images needs {_FEWEST} of each class, so {_FEWEST_CHOSEN} "
        f"training images of each, and class {least} has {chosen[least]}"
    )
    fewest = int(rest[rest > 0].min())
    if fewest < _FEWEST_CHOSEN:
        return reason
    needed = min(-(-_FEWEST_CHOSEN * int(rest.sum()) // fewest), int(rest.sum()))
    while (subset_sizes(rest, needed - 1) >= _FEWEST_CHOSEN)[rest > 0].all():  # rounding may be kind
        needed -= 1
    return f"{reason}: train_images must be at least {needed}"


def subset_sizes(counts: np.ndarray, count: int, what: str = "a stratified subset") -> np.ndarray:
    """How many images of each class (C,) a stratified subset of `count` has. ValueError as `stratified_subset`."""
    present = int((counts > 0).sum())
    if not present <= count <= counts.sum():
        raise ValueError(f"{what} must be {present} to {counts.sum()} images, at least one of each class, not {count}")
    return _proportional(counts, count)


def drawn_test_images(labels: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Which images (N,) of a data set without test images of its own are drawn as such, the classes in proportion.
    ValueError as `stratified_subset`."""
    return _drawn(labels, subset_sizes(np.bincount(labels), count), "subset", seed)


def stratified_order(labels: Tensor, seed: int) -> Tensor:
    """All positions, ordered so that every beginning is a stratified subset: a smaller subset is the beginning of a
    larger one, which the largest remainders of `stratified_subset` do not promise where classes are unequal.

    First one image of each class, then always the class that lacks most (Webster's method, ties to the lower class).
    With equal classes the beginnings are the images of `stratified_subset`.
    """
    values = labels.cpu().numpy()
    rank = _rank_in_class(values, _order(len(values), "subset", seed))
    due = np.where(rank == 0, 0, (rank + 0.5) / np.bincount(values)[values])
    return _tensor(np.lexsort((values, due)))


def _proportional(counts: np.ndarray, count: int) -> np.ndarray:
    """`count` shared out in proportion to `counts`, whole numbers, one at least where `counts` is not zero."""
    total = int(counts.sum())
    size = np.maximum(counts * count // total, counts > 0)
    while size.sum() != count:
        # Remainders in units of 1 / total, so that equal ones compare equal.
        remainder = counts * count - size * total
        if size.sum() < count:
            size[np.argmax(np.where(size < counts, remainder, np.iinfo(np.int64).min))] += 1
        else:  # small classes were lifted to one image: the class furthest above its share pays
            size[np.argmin(np.where(size > 1, remainder, np.iinfo(np.int64).max))] -= 1
    return size


def _order(count: int, purpose: str, seed: int) -> np.ndarray:
    """A permutation of 0..count-1 that is the same for ever: NumPy promises stable raw bits, not stable shuffles."""
    digest = hashlib.sha256(f"{purpose}:{seed}".encode()).digest()
    return np.argsort(np.random.PCG64(int.from_bytes(digest[:16], "big")).random_raw(count), kind="stable")


def _rank_in_class(values: np.ndarray, order: np.ndarray) -> np.ndarray:
    """For each sample, how many of its own class come before it in `order`."""
    grouped = order[np.argsort(values[order], kind="stable")]
    counts = np.bincount(values)
    rank = np.empty_like(grouped)
    rank[grouped] = np.arange(len(values)) - np.repeat(np.cumsum(counts) - counts, counts)
    return rank


def _drawn(values: np.ndarray, size: np.ndarray, purpose: str, seed: int) -> np.ndarray:
    """Which samples are drawn (N,) where `size` (C,) of each class are."""
    return _rank_in_class(values, _order(len(values), purpose, seed)) < size[values]


def _tensor(indices: np.ndarray) -> Tensor:
    import torch

    return torch.from_numpy(indices)
