"""Figures over the epochs of training: quantities of the classes such as temperatures, training curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from harness.report.figures.classes import class_lines
from harness.report.figures.data import chosen_of, group, reference, variants_in, with_numbers
from harness.report.figures.registry import Example, register
from harness.report.figures.style import Look, canvas, curve, legend_below, looks, name_ends, plain
from harness.report.results import matching

MOST_CURVES, MOST_PANELS = 8, 3
DIFFICULTY = "val_robust"  # the quantity that orders the classes


@register(
    "a quantity of every class over epochs",
    "How does a method treat each class, and when?",
    quantities=(DIFFICULTY,),
    absent="no variant logged it",
    example=Example("fashion_mnist_matrix", ("absld_reweight",), "weight"),
)
def class_quantity(
    class_state: pd.DataFrame,
    *,
    quantity: str,
    names: Sequence[str] | None = None,
    variants: Sequence[str] | None = None,
    width: str = "text",
) -> Figure | None:
    """A quantity of each class over epochs, mean over seeds: a panel per variant and term, a line per class.

    `class_state`: rows of that table of one setting with `variant`. Dark lines are the classes with the smallest robust
    validation accuracy at the end. quantity: its name, or what the names of its terms begin with (`temperature`).
    names: of the classes. None where no variant logged such a quantity.
    """
    rows = class_state[matching(class_state["quantity"], group(quantity))].astype({"quantity": str})
    rows = _that_change(rows) if variants is None else rows
    chosen = list(variants or variants_in(rows))[:MOST_PANELS]
    if not chosen:
        return None
    order = class_difficulty(class_state)
    labels = with_numbers(names, len(order))
    terms = {name: sorted(rows.loc[rows["variant"] == name, "quantity"].unique()) for name in chosen}
    panels = [(name, term) for name in chosen for term in terms[name]]
    columns = min(len({term for _, term in panels}), 2) if width == "text" else 1
    lines = -(-len(panels) // columns)
    figure, axes = canvas(width, min(0.4 + 1.9 * lines, 8.8), lines, columns, sharey=True, sharex=True)
    for axis, (variant, term) in zip(axes.flat, panels, strict=False):
        part = rows[(rows["variant"] == variant) & (rows["quantity"] == term)]
        wide = part.pivot_table(index="epoch", columns="class_index", values="value").reindex(columns=range(len(order)))
        class_lines(axis, wide.index.to_numpy(), wide.to_numpy(), order, labels)
        axis.set_title(f"{plain(variant)}: {term.removeprefix(quantity).strip('_') or term}")
    for axis in axes.flat[len(panels) :]:
        axis.set_visible(False)
    _over_epochs(axes, quantity)
    if variants is None and len(chosen) < (every := len(variants_in(rows))):
        figure.supxlabel(f"{len(chosen)} of {every} variants that logged a class {quantity}", fontsize=6.5)
    name_ends(figure)
    return figure


@register(
    "temperature of every class over epochs",
    "Which classes get sharper labels, and when?",
    quantities=(*group("temperature"), DIFFICULTY),
    absent="no variant logged class temperatures",
    example=Example("fashion_mnist", ("absld",)),
)
def temperatures(
    class_state: pd.DataFrame,
    *,
    names: Sequence[str] | None = None,
    variants: Sequence[str] | None = None,
    width: str = "text",
) -> Figure | None:
    """The temperature of each class over epochs: see `class_quantity`."""
    return class_quantity(class_state, quantity="temperature", names=names, variants=variants, width=width)


def _over_epochs(axes: np.ndarray, label: str) -> None:
    """Epochs below the lowest panels, the label beside the first of each line."""
    for axis in axes[-1]:
        axis.set_xlabel("epoch")
        axis.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    for axis in axes[:, 0]:
        axis.set_ylabel(label)


def _that_change(rows: pd.DataFrame) -> pd.DataFrame:
    """Without the quantities that never change, such as fixed temperatures: unless all of them are."""
    curves = rows.groupby(["trial_id", "quantity", "class_index"], observed=True)["value"]
    moves = curves.transform("max") > curves.transform("min")
    kept = moves.groupby([rows["variant"], rows["quantity"]], observed=True).transform("any")
    return rows[kept] if kept.any() else rows


def class_difficulty(class_state: pd.DataFrame) -> np.ndarray:
    """Class indices from the smallest robust validation accuracy (last five epochs, all variants) to the largest."""
    rows = class_state[class_state["quantity"] == DIFFICULTY]
    count = int(class_state["class_index"].max()) + 1
    late = rows[rows["epoch"] > rows["epoch"].max() - 5]
    accuracy = late.groupby("class_index", observed=True)["value"].mean().reindex(range(count))
    return np.argsort(accuracy.to_numpy(), kind="stable")


@register(
    "robust validation accuracy over epochs: average, worst, gap",
    "When does the worst class learn, and does it overfit?",
    example=Example("fashion_mnist_matrix", ("at", "trades", "dafa", "rslad", "absld_reweight")),
)
def training_curves(
    epochs: pd.DataFrame,
    *,
    variants: Sequence[str] | None = None,
    baseline: str | None = None,
    width: str = "text",
    styles: Mapping[str, Look] | None = None,
) -> Figure | None:
    """Robust validation accuracy over epochs: average, worst class, and what lies between; a line per variant.

    `epochs`: rows of that table of one setting with `variant`. Lines are means over seeds, bands their range. None
    without rows.
    """
    if "role" in epochs:
        epochs = epochs[epochs["role"] != "teacher"]
    names = list(variants or _best_curves(epochs, baseline))
    if not names:
        return None
    styles = styles or looks(names)
    curves = epochs.assign(gap=epochs["val_robust_avg"] - epochs["val_robust_worst"])
    panels = {"val_robust_avg": "average", "val_robust_worst": "worst class", "gap": "average − worst"}
    down = width == "column"
    figure, axes = canvas(width, 4.6 if down else 2.1, *((3, 1) if down else (1, 3)), sharex=True)
    for axis, (column, title) in zip(axes.flat, panels.items(), strict=True):
        for place, name in enumerate(names):
            groups = curves[curves["variant"] == name].groupby("epoch", observed=True)[column]
            mean, low, high = (100 * table for table in (groups.mean(), groups.min(), groups.max()))
            axis.fill_between(mean.index, low, high, color=styles[name].colour, alpha=0.15, linewidth=0)
            every = (place * len(mean) // 25, max(1, len(mean) // 4))
            curve(axis, mean.index, mean, name, styles[name], markevery=every, markersize=3, linewidth=1)
        axis.set_title(title)
        axis.set_ylim(bottom=0)
    _over_epochs(axes, "robust validation (%)")
    legend_below(figure, axes.flat[0], title=None if variants else chosen_of(names, epochs))
    return figure


def _best_curves(epochs: pd.DataFrame, baseline: str | None) -> list[str]:
    """The variants to draw: all, or the baseline and those with the best selection score where there are too many."""
    names = variants_in(epochs)
    if len(names) <= MOST_CURVES:
        return names
    best = epochs.groupby("variant", observed=True)["selection_score"].max().nlargest(MOST_CURVES).index
    first = reference(names, baseline)
    kept = {first, *[name for name in best if name != first][: MOST_CURVES - 1]}
    return [name for name in names if name in kept]
