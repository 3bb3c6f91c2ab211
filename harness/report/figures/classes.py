"""Figures with a mark per class: class-wise accuracy, attack ladder, confusion under attack."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from harness.report.captions import attack_title
from harness.report.figures.data import (
    ClassView,
    at,
    attack_labels,
    chosen_of,
    class_view,
    headline_attack,
    ladder,
    most_telling,
    reference,
    variants_in,
    with_numbers,
)
from harness.report.figures.registry import Example, register
from harness.report.figures.style import (
    INK,
    SEPARATOR,
    Look,
    canvas,
    curve,
    legend_below,
    lines_of,
    looks,
    marks,
    name_ends,
    plain,
    reach,
)
from harness.statistics.metrics import rates

MANY_CLASSES = 20  # beyond, a class has no label of its own
PANELS = {"column": 2, "text": 3}  # of the attack ladder, side by side
MOST_SHOWN = 12  # variants; as many have a look of their own
BARS = 3  # up to so many variants as bars, more as points


@register(
    "accuracy of every class under attack, per variant",
    "Which classes does a method help, and which does it give up?",
    example=Example("fashion_mnist_matrix", ("at", "dafa", "absld_reweight")),
)
def class_accuracy(
    class_accuracy: pd.DataFrame,
    *,
    attack: str | None = None,
    checkpoint: str = "best_validation",
    variants: Sequence[str] | None = None,
    baseline: str | None = None,
    width: str = "text",
    styles: Mapping[str, Look] | None = None,
) -> Figure | None:
    """Accuracy of every class under one attack, a mark per variant.

    `class_accuracy`: rows of that table of one setting. Classes run from the hardest for the baseline to the easiest.
    Up to three variants are bars, more are points with 95 % intervals over test samples; many classes become sorted
    profiles. None without rows.
    """
    attack = attack or headline_attack(class_accuracy)
    frame = at(class_accuracy, checkpoint, attack)
    if frame.empty:
        return None
    names = list(variants or most_telling(frame, MOST_SHOWN, baseline))
    view = class_view(frame, names, baseline)
    styles = styles or looks(names)
    if len(view.classes) > MANY_CLASSES:
        figure = _profiles(view, styles, width)
    else:
        figure = (_bars if len(names) <= BARS and width == "text" else _points)(view, styles, width)
    under = f"Accuracy by class, {attack_title(attack)}"
    figure.axes[0].set_title(under if attack != "clean" else "Clean accuracy by class")
    legend_below(figure, figure.axes[0], title=None if variants else chosen_of(names, frame))
    return figure


def _bars(view: ClassView, styles: Mapping[str, Look], width: str) -> Figure:
    figure, axes = canvas(width, 2.4)
    order, axis = view.by_difficulty, axes[0, 0]
    size = 0.8 / len(view.variants)
    for place, name in enumerate(view.variants):
        x = np.arange(len(order)) - 0.4 + size * (place + 0.5)
        value, low, high = (100 * array[place, order] for array in (view.accuracy, view.low, view.high))
        look = styles[name]
        faces = {"color": look.colour, "hatch": look.hatch, "edgecolor": "white", "linewidth": 0.4}
        axis.bar(x, value, size, label=plain(name), **faces)
        axis.errorbar(x, value, reach(value, low, high), fmt="none", ecolor=INK, elinewidth=0.6)
    axis.set_xticks(np.arange(len(order)), _wrapped([view.classes[index] for index in order]))
    axis.set_ylim(0, 100)
    axis.set_ylabel("accuracy (%)")
    axis.tick_params(axis="x", length=0)
    return figure


def _points(view: ClassView, styles: Mapping[str, Look], width: str) -> Figure:
    step = max(0.17, 0.047 * len(view.variants) + 0.06)
    figure, axes = canvas(width, 0.9 + step * len(view.classes))
    order, axis = view.by_difficulty, axes[0, 0]
    offsets = (np.arange(len(view.variants)) - (len(view.variants) - 1) / 2) * 0.7 / len(view.variants)
    for place, name in enumerate(view.variants):
        value, low, high = (100 * array[place, order] for array in (view.accuracy, view.low, view.high))
        y = np.arange(len(order)) + offsets[place]
        marks(axis, value, y, name, styles[name], xerr=reach(value, low, high), markersize=3.2, markeredgewidth=0.4)
    lines_of(axis, [plain(view.classes[index]) for index in order])
    for edge in np.arange(len(order) - 1) + 0.5:
        axis.axhline(edge, **SEPARATOR)
    axis.set_xlim(0, 100)
    axis.tick_params(axis="y", length=0)
    axis.set_xlabel("accuracy (%)")
    return figure


def _profiles(view: ClassView, styles: Mapping[str, Look], width: str) -> Figure:
    """Each variant's classes sorted on their own: the shape of its unfairness, from its worst class to its best."""
    figure, axes = canvas(width, 2.5)
    axis, count = axes[0, 0], len(view.classes)
    for place, name in enumerate(view.variants):
        order = np.argsort(view.accuracy[place], kind="stable")
        value, low, high = (100 * array[place, order] for array in (view.accuracy, view.low, view.high))
        x, every = np.arange(1, count + 1), (place * 2, max(1, count // 8))
        axis.fill_between(x, low, high, color=styles[name].colour, alpha=0.12, linewidth=0)
        curve(axis, x, value, name, styles[name], markevery=every, markersize=3.5)
    axis.set_xlim(1, count)
    axis.set_ylim(0, 100)
    axis.set_xlabel(f"classes of each variant, from its worst to its best of {count}")
    axis.set_ylabel("accuracy (%)")
    return figure


@register(
    "accuracy of every class from clean to the strongest attack",
    "Which classes fall, and at which attack?",
    absent="fewer than two attacks were run",
    example=Example("fashion_mnist"),
)
def attack_ladder(
    class_accuracy: pd.DataFrame,
    *,
    checkpoint: str = "best_validation",
    variants: Sequence[str] | None = None,
    baseline: str | None = None,
    width: str = "text",
) -> Figure | None:
    """How each class falls from clean accuracy to the strongest attack; a panel per variant, a line per class.

    `class_accuracy`: rows of that table of one setting. Dark lines are the classes that are hard for the baseline. None
    where fewer than two attacks were run.
    """
    frame = at(class_accuracy, checkpoint)
    attacks = ladder(frame)
    if len(attacks) < 2:
        return None
    names = list(variants or most_telling(frame[frame["attack"] == headline_attack(frame)], PANELS[width], baseline))
    views = [class_view(frame[frame["attack"] == attack], names, baseline) for attack in attacks]
    accuracy = np.stack([view.accuracy for view in views])  # (attacks, variants, classes)
    order, classes = views[-1].by_difficulty, views[0].classes
    labels = [label.replace(" n=", "\nn=") for label in attack_labels(frame, attacks)]
    figure, axes = canvas(width, 2.7, 1, len(names), sharey=True)
    for axis, name, lines in zip(axes[0], names, accuracy.transpose(1, 0, 2), strict=True):
        class_lines(axis, np.arange(len(attacks)), 100 * lines, order, classes)
        axis.set_title(plain(name))
        axis.set_xticks(np.arange(len(attacks)), labels, rotation=90)
        axis.set_ylim(0, 100)
    axes[0, 0].set_ylabel("accuracy (%)")
    if variants is None and (text := chosen_of(names, frame)):
        figure.supxlabel(text, fontsize=6.5)
    name_ends(figure)
    return figure


def class_lines(axis: Axes, x: np.ndarray, lines: np.ndarray, order: np.ndarray, classes: Sequence[str]) -> None:
    """A line per class (points, classes), dark for the hardest, named at its end where there is room for names.

    order: classes from the hardest to the easiest. The line style changes too, so that grey prints stay legible.
    """
    shades = matplotlib.colormaps["cividis"](np.linspace(0.0, 0.82, len(order)))
    labels = []
    for place, index in enumerate(order):
        few = len(order) <= MANY_CLASSES
        style = ("-", (0, (4, 1.5)), (0, (1, 1)))[place % 3] if few else "-"
        axis.plot(x, lines[:, index], color=shades[place], linestyle=style, linewidth=1.0 if few else 0.5)
        if few and np.isfinite(lines[-1, index]):
            name, colour = f" {plain(classes[index])}", shades[place] * [0.75, 0.75, 0.75, 1]
            labels.append(axis.text(x[-1], lines[-1, index], name, color=colour, fontsize=5.5, va="center"))
    axis.set_xlim(x[0], x[-1])
    axis.class_labels = labels  # type: ignore[attr-defined]


@register(
    "where the images of each class end up under attack",
    "What are the images of a class taken for under attack?",
    example=Example("fashion_mnist_matrix"),
)
def confusion(
    outcomes: pd.DataFrame,
    *,
    names: Sequence[str] | None = None,
    attack: str | None = None,
    checkpoint: str = "best_validation",
    variants: Sequence[str] | None = None,
    baseline: str | None = None,
    width: str = "text",
) -> Figure | None:
    """Where images of each class end up under attack: a class x class panel per variant, rows summing to 100 %.

    `outcomes`: rows of that table of one setting with `variant`. names: of the classes. None without rows.
    """
    attack = attack or headline_attack(outcomes)
    frame = at(outcomes, checkpoint, attack)
    if frame.empty:
        return None
    chosen = list(variants or [reference(variants_in(frame), baseline), *variants_in(frame)][:3])
    chosen = list(dict.fromkeys(chosen))[:2] if variants is None else chosen
    count = max(len(names or ()), int(frame[["label", "prediction"]].to_numpy().max()) + 1)
    labels = [plain(name) for name in with_numbers(names, count)]
    shares = [confusion_shares(frame[frame["variant"] == name], count) for name in chosen]
    order = np.argsort(np.diag(shares[0]), kind="stable") if count > MANY_CLASSES else np.arange(count)
    down = width == "column"
    shape = (len(chosen), 1) if down else (1, len(chosen))
    figure, axes = canvas(width, 0.4 + 2.9 * shape[0], *shape, sharex=True, sharey=True)
    for axis, name, share in zip(axes.flat, chosen, shares, strict=True):
        image = axis.imshow(100 * share[np.ix_(order, order)], cmap="Blues", vmin=0, vmax=100)
        axis.set_title(f"{plain(name)}, {attack_title(str(attack))}")
        _confusion_axes(axis, 100 * share, labels, count)
        axis.label_outer()
    place = "bottom" if down else "right"
    figure.colorbar(image, ax=list(axes.flat), label="images of the class (%)", location=place, shrink=0.6, aspect=30)
    return figure


def confusion_shares(frame: pd.DataFrame, count: int) -> np.ndarray:
    """(true, predicted) shares of the images of each true class, all seeds together; a robust image is on the
    diagonal. NaN for a class without images.
    """
    predicted = np.where(frame["robust"], frame["label"], frame["prediction"])
    cells = np.bincount(frame["label"].to_numpy(dtype=int) * count + predicted.astype(int), minlength=count * count)
    cells = cells.reshape(count, count).astype(float)
    return rates(cells, cells.sum(axis=1, keepdims=True))


def _confusion_axes(axis: Axes, percent: np.ndarray, labels: Sequence[str], count: int) -> None:
    axis.grid(visible=False)
    axis.set(xlabel="predicted class", ylabel="true class")
    axis.spines[:].set_visible(False)
    if count > MANY_CLASSES:
        axis.set_xticks([])
        axis.set_yticks([])
        axis.set(xlabel="predicted class, hardest first", ylabel="true class, hardest first")
        return
    axis.set_xticks(np.arange(count), labels, rotation=90)
    axis.set_yticks(np.arange(count), labels)
    axis.tick_params(length=0)
    if count <= 12:
        for row, column in np.argwhere(percent >= 0.5):
            colour = "white" if percent[row, column] > 55 else INK
            axis.text(column, row, f"{percent[row, column]:.0f}", ha="center", va="center", fontsize=5, color=colour)


def _wrapped(names: Sequence[str]) -> list[str]:
    """Class names on two lines where they have two words."""
    return [plain(name).replace(" ", "\n", 1) if len(name) > 8 else plain(name) for name in names]
