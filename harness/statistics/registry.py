"""The metrics by name: what tables can show under an attack, and what a search can go by. Free of torch."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pkgutil import resolve_name
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike

from harness.errors import InputError, unknown
from harness.statistics import metrics
from harness.statistics.metrics import Floats
from methods import plugins
from methods.settings import YOURS, SettingsError

AnyFunction = TypeVar("AnyFunction", bound=plugins.Part)


@dataclass(frozen=True)
class Metric:
    """A number of the classes of one network under one attack.

    of: from accuracies (..., C) to numbers (...); None where it needs more than them. up: whether larger is better.
    percent: a share of images, shown in percent. standard: whether every report has it, or those that ask for it.
    meaning: what a reader is told of it. function: of a plugin, `module:name` of a function of accuracies and counts.
    """

    name: str
    title: str
    of: Callable[[Floats], Floats] | None = None
    up: bool = True
    percent: bool = True
    standard: bool = True
    function: str = ""
    meaning: str = ""

    @property
    def of_classes(self) -> bool:
        """Whether it follows from the classes alone."""
        return bool(self.of or self.function)

    @property
    def within(self) -> tuple[float, float]:
        """Where its values can lie."""
        low = -np.inf if self.function and not self.percent else 0.0
        return low, 1.0 if self.percent else np.inf

    def values(self, accuracy: ArrayLike, counts: ArrayLike) -> Floats:
        """Its numbers (...,) of accuracies and images of the classes, both (..., C). InputError where a plugin's
        function raises, or gives what is no number."""
        accuracy = np.asarray(accuracy, dtype=float)
        if not self.function:
            assert self.of is not None
            return self.of(accuracy)
        flat, images = accuracy.reshape(-1, accuracy.shape[-1]), np.broadcast_to(counts, accuracy.shape)
        lines = zip(flat, images.reshape(flat.shape), strict=True)
        return np.array([self._of_one(*line) for line in lines], dtype=float).reshape(accuracy.shape[:-1])

    def _of_one(self, accuracy: Floats, counts: Floats) -> float:
        there = np.isfinite(accuracy)
        if not there.any():
            return np.nan
        try:
            found = float(resolve_name(self.function)(accuracy[there], counts[there]))
        except Exception as error:  # a user's function may fail in any way
            raise self._fault(f"{type(error).__name__}: {error}") from error
        if np.isinf(found) or (self.percent and not (np.isnan(found) or 0 <= found <= 1)):
            wanted = "from 0 to 1, or percent=False" if self.percent else "or NaN where undefined"
            raise self._fault(f"must give a number {wanted}, not {found}")
        return found

    def _fault(self, what: str) -> InputError:
        return InputError(f"{plugins.file_of(self.function)}: metric {self.name}: {what.splitlines()[0]}")


_WORST_OF = re.compile(r"worst_([1-9][0-9]{0,3})")


class _Table(dict[str, Metric]):
    """By name; `worst_{K}` is one for every K, and `range` and `worst_decile` are what the literature calls two of
    them."""

    def __missing__(self, name: str) -> Metric:
        if found := _WORST_OF.fullmatch(str(name)):
            count = int(found[1])
            of = partial(metrics.worst_k, k=count)
            return Metric(name, f"Worst {count}", of, standard=False, meaning=f"mean of the {count} worst classes")
        raise KeyError(name)


METRICS: dict[str, Metric] = _Table(
    (metric.name, metric)
    for metric in (
        Metric("average", "Avg.", metrics.average, meaning="mean of the class accuracies"),
        Metric("overall", "Overall", meaning="share of all images that are right"),
        Metric("worst", "Worst", metrics.worst, meaning="smallest class accuracy"),
        Metric("worst_10_percent", "Worst 10%", metrics.worst_10_percent, meaning="mean of the worst tenth of classes"),
        Metric(
            "nsd", "NSD", metrics.nsd, False, False,
            meaning="standard deviation of the class accuracies over their mean",
        ),
        Metric(
            "nsd_sample", "NSD (sample)", partial(metrics.nsd, sample=True), False, False,
            meaning="the same with C - 1 in place of the C classes",
        ),
        Metric("gap", "Gap", metrics.gap, up=False, meaning="largest minus smallest class accuracy"),
        Metric("validation_worst", "Val.-worst", meaning="accuracy of the class that validation found worst"),
        Metric(
            "score", "Score", metrics.selection_score, standard=False,
            meaning="(average + worst class)/2, from 100 classes up with the mean of the worst tenth in its place",
        ),
        Metric(
            "gini", "Gini", metrics.gini, False, False, False,
            meaning="mean difference of two classes over twice the mean of all",
        ),
        Metric(
            "harmonic", "Harm.", metrics.harmonic, standard=False,
            meaning="harmonic mean of average and worst class",
        ),
    )
)  # fmt: skip
SCORE = METRICS["score"]  # what epochs are selected by, and rows ordered
ALIASES = {"range": "gap", "worst_decile": "worst_10_percent"}


def metric(
    name: str, title: str | None = None, meaning: str = "", up: bool = True, percent: bool = True
) -> Callable[[AnyFunction], AnyFunction]:
    """Decorator of a plugin: a function of the accuracies of the classes that have images, (C,) in [0, 1], and of their
    numbers of images, (C,), that gives one number, NaN where it is undefined.

    up: whether larger is better. percent: a share in [0, 1], shown in percent."""

    def add(function: AnyFunction) -> AnyFunction:
        if name in ALIASES or _WORST_OF.fullmatch(str(name)):
            raise SettingsError(f"metric '{name}' is registered already; give yours another name")
        if plugins.settings_of(function, ("accuracy", "counts"), f"metric {name}"):
            raise SettingsError(f"metric {name} must take (accuracy, counts) and nothing else")
        said, place = meaning or plugins.summary(function), plugins.place_of(function)
        own = Metric(name, title or name, None, up, percent, False, place, said)
        plugins.declare("metric", METRICS, name, own, function)
        return function

    return add


def metric_info(name: Any) -> Metric:
    """The metric of that name, or alias. InputError for any other."""
    if is_metric(name):
        return METRICS[ALIASES.get(name, name)]
    raise unknown("metric", name, [*METRICS, *ALIASES, "worst_3"], YOURS)


def is_metric(name: Any) -> bool:
    """Whether `metric_info` knows it."""
    return isinstance(name, str) and (name in METRICS or name in ALIASES or bool(_WORST_OF.fullmatch(name)))


def scored(more: Iterable[str] = ()) -> list[Metric]:
    """The metrics of every report that follow from class accuracies, and `more` of them."""
    named = [METRICS[name] for name in more]
    return [each for each in METRICS.values() if each.standard and each.of] + [
        each for each in named if not each.standard
    ]


def in_order(names: Sequence[str]) -> list[str]:
    """Names as tables list them: as `METRICS` does, then others as they come."""
    return [name for name in METRICS if name in names] + [name for name in names if name not in METRICS]
