"""Two figures of a search: the metric against each key, and average against worst class. Frames as in
`harness.report.tuning`."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from harness.report.figures.lettering import fitted
from harness.report.figures.placing import ticks_below
from harness.report.figures.style import (
    DOTTED,
    INK,
    Drawing,
    canvas,
    front_steps,
    legend_below,
    looks,
    pairs_of,
    styled,
)
from harness.report.tuning import in_percent, kept_epochs, keys_of, text_of, title_of

_MOST_PANELS = 4


@styled
def response(
    runs: pd.DataFrame,
    epochs: pd.DataFrame,
    metric: str,
    *,
    logarithmic: Collection[str] = (),
    defaults: Mapping[str, Any] | None = None,
) -> Drawing | None:
    """The metric of every trial against each key of the space: a panel per key, a dot per trial, seeds apart in colour
    and marker, hollow where the trial was stopped early; a line for the method's default. None without a value."""
    kept = kept_epochs(runs, epochs).dropna(subset=[metric])
    keys = keys_of(runs)[:_MOST_PANELS]
    if kept.empty or not keys:
        return None
    figure, axes = canvas("text" if len(keys) > 1 else "column", 2.3, 1, len(keys), sharey=True)
    scale = 100 if in_percent(metric) else 1
    room = figure.get_figwidth() / len(keys) - 0.5
    for axis, key, title in zip(axes[0], keys, fitted(keys, room), strict=True):
        places, labels = _places(kept[key])
        _dots(axis, kept.assign(place=places, value=scale * kept[metric]), joined=len(keys) == 1 and not labels)
        if labels:
            ticks_below(axis, np.arange(len(labels)), fitted(labels, 2 * room / len(labels)), room / len(labels))
        elif key in logarithmic:
            axis.set_xscale("log")
        default = (defaults or {}).get(key)
        place = labels.index(text_of(default)) if labels and text_of(default) in labels else None if labels else default
        if isinstance(place, (int, float)) and not isinstance(place, bool) and (place > 0 or key not in logarithmic):
            axis.axvline(place, zorder=0, label="default", **DOTTED)
        axis.set_xlabel(title)
    axes[0, 0].set_ylabel(title_of(metric) + ("" if scale == 1 else " (%)"))
    pairs = sorted(pairs_of(axes.flat), key=lambda pair: ("seed" not in pair[1], pair[1]))
    others = keys_of(runs)[_MOST_PANELS:]
    left_out = f"; not shown: {', '.join(others)}" if others else ""
    legend_below(figure, pairs, f"a mark per trial, at the epoch that selection keeps{left_out}")
    return figure


def _dots(axis: Axes, kept: pd.DataFrame, joined: bool) -> None:
    """A dot per trial. joined: and a line through the means over seeds, where nothing else varies."""
    styles = looks([str(seed) for seed in sorted(kept["seed"].unique())])
    for (seed, status), part in kept.groupby(["seed", "status"]):
        look = styles[str(seed)]
        whole = status == "done"
        axis.plot(
            part["place"], part["value"], look.marker, color=look.colour, markersize=3.5, linestyle="none",
            markerfacecolor=look.colour if whole else "none", label=f"seed {seed}" + ("" if whole else f", {status}"),
        )  # fmt: skip
    done = kept[kept["status"] == "done"]
    mean = done.groupby("place")["value"].mean()
    if joined and kept["seed"].nunique() > 1 and len(mean) > 1:
        axis.plot(mean.index, mean, color=INK, linewidth=0.8, zorder=1, label="mean of whole trials")
    axis.grid(visible=True, axis="both")


def _places(values: pd.Series) -> tuple[pd.Series, list[str]]:
    """Where values stand on the axis; with labels where they are not numbers."""
    if all(isinstance(value, (int, float, np.number)) and not isinstance(value, bool) for value in values):
        return values.astype(float), []
    texts = values.map(text_of)
    labels = sorted(texts.unique())
    return texts.map(labels.index).astype(float), labels


@styled
def pareto(table: pd.DataFrame) -> Drawing | None:
    """Validation average against validation worst class, a dot per setting, with the front of the whole ones. `table`:
    of `settings_table`. None without a value."""
    drawn = table.dropna(subset=["average", "worst"])
    if drawn.empty:
        return None
    figure, axes = canvas("column", 2.6)
    axis = axes[0, 0]
    colour = looks(["setting"])["setting"].colour
    for whole, label in ((True, "ran to the end"), (False, "stopped")):
        part = drawn[(drawn["status"] == "done") == whole]
        if len(part):
            axis.plot(100 * part["average"], 100 * part["worst"], "o", color=colour, markersize=4, linestyle="none",
                      markerfacecolor=colour if whole else "none", label=label)  # fmt: skip
    best = drawn[drawn["best"]]
    if len(best):
        axis.plot(100 * best["average"], 100 * best["worst"], "o", color=INK, markersize=7, markerfacecolor="none",
                  linestyle="none", label="best by the metric")  # fmt: skip
    axis.margins(0.1)
    front = drawn.loc[drawn["pareto"], ["average", "worst"]].sort_values("average")
    front_steps(axis, 100 * front.to_numpy(dtype=float))
    axis.set_xlabel("validation average under attack (%)")
    axis.set_ylabel("validation worst class (%)")
    axis.grid(visible=True, axis="both")
    seeds = sum(name.startswith("seed_") for name in table.columns)
    legend_below(figure, pairs_of([axis]), f"a mark per setting, mean over {seeds} seeds" if seeds > 1 else None)
    return figure
