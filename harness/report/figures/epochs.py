"""Figures over the epochs of training: quantities of the classes such as temperatures, training curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.ticker import MaxNLocator

from harness.report.figures.choice import choose, validation_ranking
from harness.report.figures.classes import TITLE, class_lines, end_names
from harness.report.figures.data import group, variants_in, with_numbers
from harness.report.figures.lettering import fitted
from harness.report.figures.notes import NO_BANDS, over_seeds, sentences
from harness.report.figures.placing import spread_ends
from harness.report.figures.registry import Example, register
from harness.report.figures.style import MOST_BANDS, Drawing, Look, canvas, curve, legend_below, looks, pairs_of, remark
from harness.report.results import matching

MOST_CURVES, MOST_PANELS = 8, 3
DIFFICULTY = "val_robust"  # the quantity that orders the classes


@register(
    "a quantity of every class over epochs",
    "How does a method treat each class, and when?",
    quantities=(DIFFICULTY,),
    absent="no variant logged it",
    example=Example("fashion_mnist_small", ("absld_reweight",), "weight"),
)
def class_quantity(
    class_state: pd.DataFrame,
    *,
    quantity: str,
    names: Sequence[str] | None = None,
    variants: Sequence[str] | None = None,
    ranking: Sequence[str] | None = None,
    width: str = "text",
) -> Drawing | None:
    """A quantity of each class over epochs, mean over seeds: a panel per variant and term, a line per class.

    `class_state`: rows of that table of one setting with `variant`. Dark lines are the classes with the smallest robust
    validation accuracy at the end. quantity: its name, or what the names of its terms begin with (`temperature`).
    names: of the classes. None where no variant logged such a quantity.
    """
    rows = class_state[matching(class_state["quantity"], group(quantity))].astype({"quantity": str})
    rows = _that_change(rows) if variants is None else rows
    chosen = choose(variants_in(rows), MOST_PANELS, ranking, asked=variants, lack="with none that changes")
    if not chosen.shown:
        return None
    order = class_difficulty(class_state[class_state["variant"].isin(chosen.shown)])
    terms = {name: sorted(rows.loc[rows["variant"] == name, "quantity"].unique()) for name in chosen.shown}
    panels = [(name, term) for name in chosen.shown for term in terms[name]]
    columns = min(len({term for _, term in panels}), 2) if width == "text" else 1
    lines = -(-len(panels) // columns)
    figure, axes = canvas(width, min(0.4 + 1.9 * lines, 8.8), lines, columns, sharey=True, sharex=True)
    room = figure.get_figwidth() / columns
    ends = end_names(with_numbers(names, len(order)), min(0.3 * room, 1.2))
    titles = [f"{name}: {term.removeprefix(quantity).strip('_') or term}" for name, term in panels]
    shown = zip(axes.flat, panels, fitted(titles, room - 0.6, size=TITLE, most=60), strict=False)
    for axis, (variant, term), title in shown:
        part = rows[(rows["variant"] == variant) & (rows["quantity"] == term)]
        wide = part.pivot_table(index="epoch", columns="class_index", values="value").reindex(columns=range(len(order)))
        class_lines(axis, wide.index.to_numpy(), wide.to_numpy(), order, ends)
        axis.set_title(title)
    for axis in axes.flat[len(panels) :]:
        axis.set_visible(False)
    _over_epochs(axes, quantity)
    text = (chosen.brief or "").replace("variants", f"variants that logged a class {quantity}")
    remark(figure, text)
    spread_ends(figure)
    drawn = rows[rows["variant"].isin(chosen.shown)]
    hard = "Dark lines: the classes with the smallest robust validation accuracy at the end."
    figure.says = sentences(_means(drawn), hard, "No intervals are drawn.", _one_epoch(drawn), chosen.sentence)
    return figure


@register(
    "temperature of every class over epochs",
    "Which classes get sharper labels, and when?",
    quantities=(*group("temperature"), DIFFICULTY),
    absent="no variant logged class temperatures",
    example=Example("fashion_mnist_small", ("absld_reweight",)),
)
def temperatures(
    class_state: pd.DataFrame,
    *,
    names: Sequence[str] | None = None,
    variants: Sequence[str] | None = None,
    ranking: Sequence[str] | None = None,
    width: str = "text",
) -> Drawing | None:
    """The temperature of each class over epochs: see `class_quantity`."""
    return class_quantity(
        class_state, quantity="temperature", names=names, variants=variants, ranking=ranking, width=width
    )


def _means(frame: pd.DataFrame) -> str:
    return f"{over_seeds(frame).capitalize()}."


def _one_epoch(frame: pd.DataFrame) -> str:
    """What a figure of curves says of trainings that have none."""
    return "One epoch was trained: there is no curve to draw." if frame["epoch"].nunique() == 1 else ""


def _over_epochs(axes: np.ndarray, label: str) -> None:
    """Epochs below the lowest panels, the label beside the first of each line."""
    for axis in axes[-1]:
        axis.set_xlabel("epoch")
        axis.xaxis.set_major_locator(MaxNLocator(5, integer=True, min_n_ticks=1))
    for axis in axes[:, 0]:
        axis.set_ylabel(label)


def _that_change(rows: pd.DataFrame) -> pd.DataFrame:
    """Without the quantities that never change, such as fixed temperatures: unless all of them are."""
    curves = rows.groupby(["trial_id", "quantity", "class_index"], observed=True)["value"]
    moves = curves.transform("max") > curves.transform("min")
    kept = moves.groupby([rows["variant"], rows["quantity"]], observed=True).transform("any")
    return rows[kept] if kept.any() else rows


def class_difficulty(class_state: pd.DataFrame) -> np.ndarray:
    """Class indices from the smallest robust validation accuracy (last five epochs of each trial) to the largest."""
    rows = class_state[class_state["quantity"] == DIFFICULTY]
    count = int(class_state["class_index"].max()) + 1
    late = rows[rows["epoch"] > rows.groupby("trial_id", observed=True)["epoch"].transform("max") - 5]
    accuracy = late.groupby("class_index", observed=True)["value"].mean().reindex(range(count))
    return np.argsort(accuracy.to_numpy(), kind="stable")


@register(
    "robust validation accuracy over epochs: average, worst, gap",
    "When does the worst class learn, and does it overfit?",
    example=Example("fashion_mnist_small", ("at", "rslad", "absld", "absld_reweight")),
)
def training_curves(
    epochs: pd.DataFrame,
    *,
    variants: Sequence[str] | None = None,
    ranking: Sequence[str] | None = None,
    baseline: str | None = None,
    width: str = "text",
    styles: Mapping[str, Look] | None = None,
) -> Drawing | None:
    """Robust validation accuracy over epochs: average, worst class, and what lies between; a line per variant.

    `epochs`: rows of that table of one setting with `variant`. Lines are means over seeds, bands their range. None
    without rows.
    """
    if "role" in epochs:
        epochs = epochs[epochs["role"] != "teacher"]
    known = variants_in(epochs)
    if not known:
        return None
    ranking = ranking or validation_ranking(epochs, known, baseline)
    chosen = choose(known, MOST_CURVES, ranking, asked=variants, lack="without epochs of training")
    names = chosen.shown
    styles = styles or looks(names)
    curves = epochs.assign(gap=epochs["val_robust_avg"] - epochs["val_robust_worst"])
    panels = {"val_robust_avg": "average", "val_robust_worst": "worst class", "gap": "average − worst"}
    down = width == "column"
    figure, axes = canvas(width, 4.6 if down else 2.1, *((3, 1) if down else (1, 3)), sharex=True)
    for axis, (column, title) in zip(axes.flat, panels.items(), strict=True):
        for place, name in enumerate(names):
            groups = curves[curves["variant"] == name].groupby("epoch", observed=True)[column]
            mean, low, high = (100 * table for table in (groups.mean(), groups.min(), groups.max()))
            if len(names) <= MOST_BANDS:
                axis.fill_between(mean.index, low, high, color=styles[name].colour, alpha=0.15, linewidth=0)
            every = (place * len(mean) // 25, max(1, len(mean) // 4))
            curve(axis, mean.index, mean, styles[name], markevery=every, markersize=3, linewidth=1)
        axis.set_title(title)
        axis.set_ylim(bottom=0)
    _over_epochs(axes, "robust validation (%)")
    legend_below(figure, pairs_of(axes.flat), chosen.brief)
    drawn = epochs[epochs["variant"].isin(names)]
    several = (drawn.groupby("variant", observed=True)["trial_id"].nunique() > 1).any()
    bands = "Bands: from the smallest to the largest trial." if len(names) <= MOST_BANDS else NO_BANDS
    bands = bands if several else "No bands: one trial each."
    figure.says = sentences(_means(drawn), "Held-out training images.", bands, _one_epoch(drawn), chosen.sentence)
    return figure
