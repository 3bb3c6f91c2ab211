"""A figure of two variants class by class: which classes a method gains, which it loses, and how sure that is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from harness.report.captions import attack_title
from harness.report.figures.choice import choose
from harness.report.figures.classes import MANY_CLASSES, NAME_ROOM, TITLE
from harness.report.figures.data import (
    at,
    class_names,
    headline_attack,
    network_counts,
    reference,
    variants_in,
    with_numbers,
)
from harness.report.figures.lettering import fitted
from harness.report.figures.notes import means, sentences
from harness.report.figures.registry import Example, register
from harness.report.figures.style import INK, SOFT, Drawing, Look, canvas, legend_below, lines_of, looks, marks, reach
from harness.report.rows import CELL
from harness.report.scores.differences import Outcomes, class_differences, comparisons, paired_lines
from harness.statistics.comparison import seed_means
from harness.statistics.multiple_comparisons import ERROR


@dataclass(frozen=True)
class ClassChange:
    """From one variant to another, arrays (C,) over the seeds that both have: accuracies before and after and their
    difference with its bounds, in percent; p after Holm's correction over the classes; source: what bounds are over."""

    before: np.ndarray
    after: np.ndarray
    difference: np.ndarray
    low: np.ndarray
    high: np.ndarray
    p: np.ndarray
    source: str
    seeds: list[int]


@register(
    "a method against the baseline, class by class, with 95 % intervals",
    "Which classes does a method gain, and which does it pay with?",
    absent="no second variant has results under this attack for a seed and a teacher of the baseline",
    example=Example("cifar10_small", ("rslad", "absld")),
)
def class_difference(
    class_accuracy: pd.DataFrame,
    *,
    attack: str | None = None,
    checkpoint: str = "best_validation",
    variants: Sequence[str] | None = None,
    ranking: Sequence[str] | None = None,
    baseline: str | None = None,
    outcomes: pd.DataFrame | None = None,
    names: Sequence[str] | None = None,
    width: str = "column",
    styles: Mapping[str, Look] | None = None,
) -> Drawing | None:
    """Accuracy of every class under one attack, of the baseline and of one method (the best on validation, or the
    other of two `variants`), and the difference; from the class that gains most to the one that loses most.

    `class_accuracy`: rows of that table of one setting. outcomes: of that table; with them samples are paired. None
    where no other variant has results for a seed and a teacher of the baseline.
    """
    attack = attack or headline_attack(class_accuracy)
    frame = at(class_accuracy, checkpoint, attack)
    every = list(variants or variants_in(frame))
    if not every:
        return None
    first = reference(every, baseline)
    ranking = [name for name in ranking or () if not variants or name in variants]
    others = [name for name in dict.fromkeys([*ranking, *every]) if name in every and name != first]
    changes = ((name, class_change(frame, name, first, outcomes)) for name in others)
    second, change = next(((name, found) for name, found in changes if found), ("", None))
    if change is None:
        return None
    ranked = ranking and [ranking[0], first, second, *ranking]  # the baseline may be one that is not there
    lack = f"without results under {attack_title(attack)}"
    chosen = choose([first, second, *(name for name in others if name != second)], 2, ranked, lack=lack)
    order = np.argsort(-change.difference, kind="stable")
    order = order[np.isfinite(change.difference[order])]
    classes = with_numbers(names or class_names(frame), len(change.difference))
    many = len(order) > MANY_CLASSES
    labels = [] if many else fitted([classes[index] for index in order], NAME_ROOM[width], lines=2)
    step = 0.04 if many else 0.23 if any("\n" in label for label in labels) else 0.18
    figure, axes = canvas(width, 0.9 + step * len(order), 1, 2, sharey=True)
    styles = styles or looks([first, second])
    pairs = _accuracies(axes[0, 0], change, order, styles[first], styles[second])
    _changes(axes[0, 1], change, order, styles[second])
    lines_of(axes[0, 0], labels or [""] * len(order))
    if many:
        axes[0, 0].set_yticks([])
        axes[0, 0].set_ylabel(f"{len(order)} classes, largest gain first")
    axes[0, 1].tick_params(axis="y", length=0)
    legend_below(figure, pairs)
    axes[0, 0].set_title(fitted([attack_title(attack)], 1.2, size=TITLE)[0])
    axes[0, 0].set_xlabel("accuracy (%)")
    axes[0, 1].set_xlabel("difference (points)")
    both = frame[frame["variant"].isin([first, second]) & frame["seed"].isin(change.seeds)]
    figure.says = sentences(
        f"{second} minus {first}, {attack_title(attack)}. {means(both)}",
        f"Bars: 95 % over {change.source}, each class by itself.",
        "Filled marks: not zero, corrected over the classes (Holm).",
        chosen.sentence,
    )
    return figure


def class_change(
    class_accuracy: pd.DataFrame, second: str, first: str, outcomes: pd.DataFrame | None = None
) -> ClassChange | None:
    """The change from one variant to another under one attack, over common seeds and teachers; None without any."""
    places = {first: 0, second: 1}
    frame = class_accuracy[class_accuracy["variant"].isin(places)]
    rows = frame["variant"].astype(str).map(places).astype(int)
    counts = network_counts(frame.assign(row=rows), CELL)
    mine, theirs = paired_lines(counts, [(0, 1, 0)])
    if mine.keys.empty:
        return None
    compared = {} if outcomes is None or outcomes.empty else comparisons(mine, theirs, Outcomes(outcomes))
    found = next(iter(class_differences(mine, theirs, compared).values()))
    seeds = mine.keys["seed"].to_numpy(dtype=int)
    before, after = (100 * seed_means(side.accuracy, seeds).mean(axis=0) for side in (theirs, mine))
    change, low, high = (100 * found[name] for name in ("difference", "low", "high"))
    return ClassChange(before, after, change, low, high, found["p"], found["source"], sorted(set(seeds)))


def _accuracies(axis: Axes, change: ClassChange, order: np.ndarray, first: Look, second: Look) -> list[tuple[Any, str]]:
    """A line from one variant's accuracy to the other's for every class; returns what the legend names."""
    places = np.arange(len(order))
    before, after = change.before[order], change.after[order]
    axis.hlines(places, before, after, color=SOFT, linewidth=0.8, zorder=1)
    dots: dict[str, Any] = {"markersize": _size(order), "linestyle": "none", "markeredgewidth": 0.8}
    (hollow,) = axis.plot(before, places, "o", color=INK, markerfacecolor="white", **dots)
    (filled,) = axis.plot(after, places, "o", color=second.colour, **dots)
    axis.set_xlim(-4, 104)  # room for marks at the ends
    axis.set_xticks([0, 50, 100])
    return [(hollow, first.label), (filled, second.label)]


def _changes(axis: Axes, change: ClassChange, order: np.ndarray, look: Look) -> None:
    """The difference of every class with its bounds; hollow where it may be none."""
    places = np.arange(len(order))
    lengths = reach(*(part[order] for part in (change.difference, change.low, change.high)))
    axis.axvline(0, color=INK, linewidth=0.6)
    dot = replace(look, marker="o")  # a triangle would point somewhere
    for differs in (False, True):
        part = (change.p[order] < ERROR) == differs
        face = {} if differs else {"markerfacecolor": "white"}
        ends = {"capsize": 0.0} if len(order) > MANY_CLASSES else {}
        options: dict[str, Any] = {"markersize": _size(order), **face, **ends}
        marks(axis, change.difference[order][part], places[part], dot, xerr=lengths[:, part], **options)


def _size(order: np.ndarray) -> float:
    """Of a mark, points."""
    return 3.4 if len(order) <= MANY_CLASSES else 1.6
