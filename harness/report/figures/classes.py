"""Figures with a mark per class: class-wise accuracy, attack ladder, confusion under attack."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from harness.report.captions import attack_title
from harness.report.figures.choice import choose
from harness.report.figures.data import (
    ClassView,
    at,
    attack_labels,
    class_view,
    headline_attack,
    ladder,
    variants_in,
    with_numbers,
)
from harness.report.figures.lettering import fitted, inches, plain
from harness.report.figures.notes import NO_BANDS, SAMPLES, means, over_seeds, sentences
from harness.report.figures.placing import END_SIZE, end_name, spread_ends, ticks_below
from harness.report.figures.registry import Example, register
from harness.report.figures.style import (
    INK,
    MOST_BANDS,
    MOST_VARIANTS,
    SEPARATOR,
    SOFT,
    Drawing,
    Look,
    canvas,
    curve,
    legend_below,
    lines_of,
    looks,
    marks,
    pairs_of,
    reach,
    remark,
)
from harness.statistics.metrics import rates

MANY_CLASSES = 20  # beyond, a class has no label of its own
PANELS = {"column": 2, "text": 3}  # of the attack ladder, side by side
CONFUSED = 2  # variants that the confusion figure shows
UNDECIDED = "none"  # what a network takes an image for whose outputs are not numbers
TITLE = 7.5  # points
NAME_ROOM = {"column": 0.9, "text": 1.8}  # inches, of class names beside an axis
BAR_ROOM = 6.0  # inches, that the bars of all classes share
HARD = "Dark lines: the classes that are hard for the baseline."
BARS = 3  # up to so many variants as bars, more as points


@register(
    "accuracy of every class under attack, per variant",
    "Which classes does a method help, and which does it give up?",
    example=Example("fashion_mnist_small", ("at", "rslad", "absld_reweight")),
)
def class_accuracy(
    class_accuracy: pd.DataFrame,
    *,
    attack: str | None = None,
    checkpoint: str = "best_validation",
    variants: Sequence[str] | None = None,
    ranking: Sequence[str] | None = None,
    baseline: str | None = None,
    width: str = "text",
    styles: Mapping[str, Look] | None = None,
) -> Drawing | None:
    """Accuracy of every class under one attack, a mark per variant.

    `class_accuracy`: rows of that table of one setting. Classes run from the hardest for the baseline to the easiest.
    Up to three variants are bars, more are points with 95 % intervals over test samples; many classes become sorted
    profiles. None without rows.
    """
    attack = attack or headline_attack(class_accuracy)
    frame = at(class_accuracy, checkpoint, attack)
    if frame.empty:
        return None
    lack = f"without results under {attack_title(attack)}"
    chosen = choose(variants_in(frame), MOST_VARIANTS, ranking, asked=variants, lack=lack)
    names = chosen.shown
    view = class_view(frame, names, baseline)
    styles = styles or looks(names)
    many = len(view.classes) > MANY_CLASSES
    if many:
        figure = _profiles(view, styles, width)
    elif len(names) <= BARS and width == "text" and _words_fit(view.classes):
        figure = _bars(view, styles, width)
    else:
        figure = _points(view, styles, width)
    axis = figure.axes[0]
    under = f"Accuracy by class, {attack_title(attack)}" if attack != "clean" else "Clean accuracy by class"
    axis.set_title(fitted([under], 0.65 * figure.get_figwidth(), size=TITLE)[0])
    legend_below(figure, pairs_of([axis]), chosen.brief)
    interval = f"{'Bands' if many else 'Bars'}: {SAMPLES}, each class by itself."
    if many and len(names) > MOST_BANDS:
        interval = NO_BANDS
    figure.says = sentences(means(frame[frame["variant"].isin(names)]), interval, chosen.sentence)
    return figure


def _words_fit(classes: Sequence[str]) -> bool:
    """Whether names of classes stand side by side, whole words on two lines."""
    labels = fitted(classes, BAR_ROOM / len(classes), lines=2)
    return all(label.replace("\n", " ") == plain(name) for label, name in zip(labels, classes, strict=True))


def _bars(view: ClassView, styles: Mapping[str, Look], width: str) -> Drawing:
    figure, axes = canvas(width, 2.4)
    order, axis = view.by_difficulty, axes[0, 0]
    size = 0.8 / len(view.variants)
    for place, name in enumerate(view.variants):
        x = np.arange(len(order)) - 0.4 + size * (place + 0.5)
        value, low, high = (100 * array[place, order] for array in (view.accuracy, view.low, view.high))
        look = styles[name]
        faces = {"color": look.colour, "hatch": look.hatch, "edgecolor": "white", "linewidth": 0.4}
        axis.bar(x, value, size, label=look.label, **faces)
        axis.errorbar(x, value, reach(value, low, high), fmt="none", ecolor=INK, elinewidth=0.7)
    labels = fitted([view.classes[index] for index in order], BAR_ROOM / len(order), lines=2)
    axis.set_xticks(np.arange(len(order)), labels)
    axis.set_ylim(0, 100)
    axis.set_ylabel("accuracy (%)")
    axis.tick_params(axis="x", length=0)
    return figure


def _points(view: ClassView, styles: Mapping[str, Look], width: str) -> Drawing:
    order = view.by_difficulty
    labels = fitted([view.classes[index] for index in order], NAME_ROOM[width], lines=2)
    step = max(0.23 if any("\n" in label for label in labels) else 0.17, 0.047 * len(view.variants) + 0.06)
    figure, axes = canvas(width, 0.9 + step * len(view.classes))
    axis = axes[0, 0]
    offsets = (np.arange(len(view.variants)) - (len(view.variants) - 1) / 2) * 0.7 / len(view.variants)
    for place, name in enumerate(view.variants):
        value, low, high = (100 * array[place, order] for array in (view.accuracy, view.low, view.high))
        y = np.arange(len(order)) + offsets[place]
        marks(axis, value, y, styles[name], xerr=reach(value, low, high), markersize=2.8)
    lines_of(axis, labels)
    for edge in np.arange(len(order) - 1) + 0.5:
        axis.axhline(edge, **SEPARATOR)
    axis.set_xlim(-1.5, 101.5)  # room for marks at the ends
    axis.tick_params(axis="y", length=0)
    axis.set_xlabel("accuracy (%)")
    return figure


def _profiles(view: ClassView, styles: Mapping[str, Look], width: str) -> Drawing:
    """Each variant's classes sorted on their own: the shape of its unfairness, from its worst class to its best."""
    figure, axes = canvas(width, 2.5)
    axis, count = axes[0, 0], len(view.classes)
    for place, name in enumerate(view.variants):
        order = np.argsort(view.accuracy[place], kind="stable")
        value, low, high = (100 * array[place, order] for array in (view.accuracy, view.low, view.high))
        x, every = np.arange(1, count + 1), (place * 2, max(1, count // 8))
        if len(view.variants) <= MOST_BANDS:
            axis.fill_between(x, low, high, color=styles[name].colour, alpha=0.12, linewidth=0)
        curve(axis, x, value, styles[name], markevery=every, markersize=3.5)
    axis.set_xlim(1, count)
    axis.set_ylim(0, 100)
    axis.set_xlabel(f"classes, each variant's worst to its best of {count}")
    axis.set_ylabel("accuracy (%)")
    return figure


@register(
    "accuracy of every class from clean to the strongest attack",
    "Which classes fall, and at which attack?",
    absent="fewer than two attacks were run",
    example=Example("fashion_mnist_small", ("at", "rslad", "absld", "absld_reweight")),
)
def attack_ladder(
    class_accuracy: pd.DataFrame,
    *,
    checkpoint: str = "best_validation",
    variants: Sequence[str] | None = None,
    ranking: Sequence[str] | None = None,
    baseline: str | None = None,
    width: str = "text",
) -> Drawing | None:
    """How each class falls from clean accuracy to the strongest attack; a panel per variant, a line per class.

    `class_accuracy`: rows of that table of one setting. Dark lines are the classes that are hard for the baseline,
    under the last attack that it has. None where fewer than two attacks were run.
    """
    frame = at(class_accuracy, checkpoint)
    attacks = ladder(frame)
    if len(attacks) < 2:
        return None
    chosen = choose(variants_in(frame), PANELS[width], ranking, asked=variants)
    names = chosen.shown
    views = [class_view(frame[frame["attack"] == attack], names, baseline) for attack in attacks]
    accuracy = np.stack([view.accuracy for view in views])  # (attacks, variants, classes)
    known = [view for view in views if np.isfinite(view.accuracy[view.first]).any()]
    order, classes = known[-1].by_difficulty, views[0].classes
    figure, axes = canvas(width, 2.7, 1, len(names), sharey=True)
    room = figure.get_figwidth() / len(names)
    titles, ticks = fitted(names, room - 0.35, size=TITLE), attack_labels(frame, attacks)
    ends = end_names(classes, 0.3 * room)
    inner = (figure.get_figwidth() - 0.45) / len(names) - max((inches(end, END_SIZE) for end in ends), default=0) - 0.2
    for axis, title, lines in zip(axes[0], titles, accuracy.transpose(1, 0, 2), strict=True):
        class_lines(axis, np.arange(len(attacks)), 100 * lines, order, ends)
        axis.set_title(title)
        ticks_below(axis, np.arange(len(attacks)), ticks, inner / (len(attacks) - 1))
        axis.set_ylim(0, 100)
    axes[0, 0].set_ylabel("accuracy (%)")
    remark(figure, chosen.brief)
    spread_ends(figure)
    shown = frame[frame["variant"].isin(names)]
    figure.says = sentences(means(shown), HARD, "No intervals are drawn.", chosen.sentence)
    return figure


def end_names(classes: Sequence[str], room: float) -> list[str]:
    """What stands in `room` inches at the ends of the classes' lines; nothing of many classes."""
    return fitted(classes, room, size=END_SIZE) if len(classes) <= MANY_CLASSES else []


def class_lines(axis: Axes, x: np.ndarray, lines: np.ndarray, order: np.ndarray, names: Sequence[str]) -> None:
    """A line per class (points, classes), dark for the hardest, with its name, see `end_names`.

    order: classes from the hardest to the easiest. The line style changes too, so that grey prints stay legible.
    """
    shades = matplotlib.colormaps["cividis"](np.linspace(0.0, 0.82, len(order)))
    few = len(names) > 0
    for place, index in enumerate(order):
        look: dict[str, Any] = {"linestyle": _STYLES[place % 3] if few else "-", "linewidth": 1.0 if few else 0.5}
        axis.plot(x, lines[:, index], color=shades[place], marker="o" if len(x) == 1 else None, markersize=3, **look)
        if few and np.isfinite(lines[-1, index]):
            end_name(axis, lines[-1, index], names[index], shades[place] * [0.75, 0.75, 0.75, 1])
    if len(x) > 1:
        axis.set_xlim(x[0], x[-1])


_STYLES: tuple[Any, ...] = ("-", (0, (4, 1.5)), (0, (1, 1)))


@register(
    "where the images of each class end up under attack",
    "What are the images of a class taken for under attack?",
    example=Example("fashion_mnist_small", ("at", "rslad", "absld", "absld_reweight")),
)
def confusion(
    outcomes: pd.DataFrame,
    *,
    names: Sequence[str] | None = None,
    attack: str | None = None,
    checkpoint: str = "best_validation",
    variants: Sequence[str] | None = None,
    ranking: Sequence[str] | None = None,
    baseline: str | None = None,
    width: str = "text",
) -> Drawing | None:
    """Where images of each class end up under attack: a class x class panel per variant, rows summing to 100 %.

    `outcomes`: rows of that table of one setting with `variant`. names: of the classes. None without rows.
    """
    attack = attack or headline_attack(outcomes)
    frame = at(outcomes, checkpoint, attack)
    if frame.empty:
        return None
    known = variants_in(frame)
    unread = [name for name in (ranking or ())[CONFUSED:] if name not in known]  # outcomes of few variants are read
    order = sorted(ranking or (), key=lambda name: name not in known)
    lack = f"without outcomes under {attack_title(attack)}"
    chosen = choose([*known, *unread], len(known[:CONFUSED]), [*(ranking or ())[:1], *order], asked=variants, lack=lack)
    count = max(len(names or ()), int(frame[["label", "prediction"]].to_numpy().max()) + 1)
    shares = np.stack([confusion_shares(frame[frame["variant"] == name], count) for name in chosen.shown])
    decided = count if not np.nan_to_num(shares[:, :, count]).any() else count + 1
    places = np.argsort(np.diag(shares[0]), kind="stable") if count > MANY_CLASSES else np.arange(count)
    columns = [*places, count][:decided]
    labels = fitted(with_numbers(names, count), NAME_ROOM["column"])
    down = width == "column"
    shape = (len(chosen.shown), 1) if down else (1, len(chosen.shown))
    figure, axes = canvas(width, 0.4 + 2.9 * shape[0], *shape, sharex=True, sharey=True)
    titles = [f"{name}, {attack_title(str(attack))}" for name in chosen.shown]
    titles = fitted(titles, figure.get_figwidth() / shape[1] - 1.3, size=TITLE, most=60)
    for axis, title, share in zip(axes.flat, titles, shares, strict=True):
        image = axis.imshow(100 * share[np.ix_(places, columns)], cmap="Blues", vmin=0, vmax=100)
        axis.set_title(title)
        _confusion_axes(axis, 100 * share[:, :decided], labels)
        axis.label_outer()
    place = "bottom" if down else "right"
    figure.colorbar(image, ax=list(axes.flat), label="% of the class", location=place, shrink=0.6, aspect=30)
    remark(figure, chosen.brief)
    shown = frame[frame["variant"].isin(chosen.shown)]
    images = shown.groupby("trial_id", observed=True).size().max()
    figure.says = sentences(
        f"Shares of the images of each true class, {over_seeds(shown)}; {images:,} test images.",
        f"Last column, {UNDECIDED}: the network's outputs were not numbers." if decided > count else "",
        chosen.sentence,
    )
    return figure


def confusion_shares(frame: pd.DataFrame, count: int) -> np.ndarray:
    """(true, predicted) shares of the images of each true class, all seeds together, (count, count + 1): a robust image
    is on the diagonal, and in the last column are those for which the network decided nothing (prediction -1).
    NaN for a class without images.
    """
    predicted = np.where(frame["robust"], frame["label"], frame["prediction"])
    predicted = np.where(predicted < 0, count, predicted).astype(int)
    width = count + 1
    cells = np.bincount(frame["label"].to_numpy(dtype=int) * width + predicted, minlength=count * width)
    cells = cells.reshape(count, width).astype(float)
    return rates(cells, cells.sum(axis=1, keepdims=True))


def _confusion_axes(axis: Axes, percent: np.ndarray, labels: Sequence[str]) -> None:
    """percent: (classes, classes), with a column more where a network decided nothing."""
    count, columns = percent.shape
    axis.grid(visible=False)
    axis.spines[:].set_visible(False)
    axis.tick_params(length=0)
    undecided = [UNDECIDED] * (columns - count)
    if undecided:
        axis.axvline(count - 0.5, color=SOFT, linewidth=0.6)
    if count > MANY_CLASSES:
        axis.set_xticks([count] * len(undecided), undecided)
        axis.set_yticks([])
        axis.set(xlabel="predicted class, hardest first", ylabel="true class, hardest first")
        return
    axis.set(xlabel="predicted class", ylabel="true class")
    axis.set_xticks(np.arange(columns), [*labels, *undecided], rotation=90)
    axis.set_yticks(np.arange(count), labels)
    if count <= 12:
        for row, column in np.argwhere(percent >= 0.5):
            colour = "white" if percent[row, column] > 55 else INK
            axis.text(column, row, f"{percent[row, column]:.0f}", ha="center", va="center", fontsize=5, color=colour)
