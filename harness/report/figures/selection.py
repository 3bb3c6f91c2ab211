"""Figures of what validation chose: the gap to choosing on test images, and the response to a hyper-parameter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from harness.report.data_names import read_spec
from harness.report.figures.choice import choose
from harness.report.figures.data import variants_in
from harness.report.figures.lettering import fitted, inches
from harness.report.figures.notes import over_seeds, sentences
from harness.report.figures.registry import Example, register
from harness.report.figures.style import (
    SOFT,
    Drawing,
    Look,
    canvas,
    legend_below,
    lines_of,
    looks,
    pairs_of,
)
from harness.report.rows import flat
from harness.report.scores.seeds import listed
from harness.report.scores.selection import selection_gap as gaps_of_trials

PEEKED = "peeked_test_robust"  # the quantity that trials with `record_test_curve` log
MOST_LINES = 30  # variants, one below the other
MOST_PANELS = 4  # hyper-parameters
MOST_TICKS = 6  # values of a hyper-parameter that are each named at the axis


@register(
    "what choosing the epoch on the test set would add",
    "How much better would results look, chosen on the test set?",
    quantities=(PEEKED,),
    absent="no trial recorded its test curve (record_test_curve)",
    example=Example("absld_ablation"),
)
def selection_gap(
    epochs: pd.DataFrame, class_state: pd.DataFrame, *, ranking: Sequence[str] | None = None, width: str = "column"
) -> Drawing | None:
    """Robust test score, (average + worst)/2, at the epoch that validation chose, at the last, and at the peeked one.

    `epochs`, `class_state`: those tables of one setting with `variant`. None where no trial recorded its test curve
    (`record_test_curve`).
    """
    if PEEKED not in set(class_state["quantity"]):
        return None
    gaps = 100 * gaps_of_trials(epochs, class_state)
    of_trial = epochs.drop_duplicates("trial_id").set_index("trial_id")["variant"].astype(str)
    means = gaps.groupby(of_trial.reindex(gaps.index).to_numpy()).mean()
    there = [name for name in variants_in(epochs) if name in means.index]
    chosen = choose(there, MOST_LINES, ranking, lack="without a test curve")
    means = means.loc[chosen.shown]
    names = fitted([f"{name}  (+{gap:.1f})" for name, gap in means["gap"].items()], 1.3, lines=2)
    figure, axes = canvas(width, 0.95 + (0.23 if any("\n" in name for name in names) else 0.17) * len(names))
    axis, y = axes[0, 0], np.arange(len(names))
    scores = {
        "last_score": ("last epoch", "|", SOFT, 6.0),
        "honest_score": ("chosen on validation", "o", "#0072B2", 4.5),
        "peeked_score": ("peeked at the test set", "D", "#D55E00", 4.0),
    }
    axis.hlines(y, means["honest_score"], means["peeked_score"], color=SOFT, linewidth=1.0, zorder=1)
    for column, (label, marker, colour, size) in scores.items():
        face = {"color": colour, "markerfacecolor": "none" if column == "peeked_score" else colour}
        axis.plot(means[column], y, marker, markersize=size, label=label, linestyle="none", **face)
    lines_of(axis, names)
    axis.set_xlabel("robust test score (%)")
    legend_below(figure, pairs_of([axis]), chosen.brief)
    figure.says = sentences(
        f"(average + worst class)/2 on all test images, {over_seeds(epochs[epochs['variant'].isin(chosen.shown)])};",
        "in brackets what peeking adds; no intervals are drawn.",
        chosen.sentence,
    )
    return figure


@register(
    "best validation value against each tuned hyper-parameter",
    "How much does a hyper-parameter matter?",
    absent="no method has three trials that differ in a number",
    example=Example("absld_temperature_rate"),
)
def hyperparameter_response(
    trials: pd.DataFrame, epochs: pd.DataFrame, *, metric: str = "selection_score", width: str | None = None
) -> Drawing | None:
    """The best validation value of every trial against each hyper-parameter that a tuning run varied, a panel each.

    `trials` (their `spec`) and `epochs` of one setting. metric: a column of `epochs`. width: by the number of panels by
    default. Lines are means over the trials that share a value. None where no method has three trials that differ in a
    number.
    """
    table = varied_settings(trials, epochs, metric)
    every = [name for name in table.columns if name not in ("method", "best")]
    names = every[:MOST_PANELS]
    if not names:
        return None
    methods = list(dict.fromkeys(table["method"]))
    styles = looks(methods)
    width = width or ("column" if len(names) == 1 else "text")
    columns = min(len(names), 1 if width == "column" else 4)
    figure, axes = canvas(width, 0.3 + 1.9 * -(-len(names) // columns), -(-len(names) // columns), columns, sharey=True)
    room = figure.get_figwidth() / columns - 0.5
    drawn = False
    for axis, name, label in zip(axes.flat, names, fitted(names, room), strict=True):
        drawn |= _response(axis, table, name, methods, styles)
        _value_ticks(axis, np.sort(table[name].dropna().unique()), room)
        axis.set_xlabel(label)
    title = {"selection_score": "score"}.get(metric, metric.removeprefix("val_").replace("_", " "))
    for axis in axes[:, 0]:
        axis.set_ylabel(f"validation {title} (%)")
    if len(methods) > 1:
        legend_below(figure, pairs_of(axes.flat))
    seeds = trials.loc[trials["trial_id"].isin(table.index), "seed"].astype(int)
    figure.says = sentences(
        f"A mark per trial, seeds {listed(seeds)}: its best epoch, on held-out training images;",
        f"{'score: (average + worst class)/2 under attack; ' * (metric == 'selection_score')}no intervals are drawn.",
        "Lines: mean over the trials that share a value." if drawn else "",
        f"Not shown: {', '.join(every[MOST_PANELS:])}." if every[MOST_PANELS:] else "",
    )
    return figure


def varied_settings(trials: pd.DataFrame, epochs: pd.DataFrame, metric: str) -> pd.DataFrame:
    """A line per trial: method, best value of `metric`, and every number of the spec that differs between its trials.

    Columns are short names (`temperature_rate`; `labels.start_epoch` where two are called so); only those with three or
    more values within one method. Of trials of one or two lengths those of the length that most of a method's have:
    longer ones beside a search compare its winner.
    """
    best = epochs.groupby("trial_id", observed=True)[metric].max()
    students = trials[(trials["role"] == "student") & trials["trial_id"].isin(best.index)]
    lengths = students.groupby("method", observed=True)["epochs"]
    usual = lengths.transform(lambda found: found.mode().min())
    students = students[(students["epochs"] == usual) | (lengths.transform("nunique") > 2)]
    specs = [flat({key: read_spec(text).get(key) for key in ("method", "training")}) for text in students["spec"]]
    settings = pd.DataFrame(specs, index=students["trial_id"])
    found: dict[str, Any] = {"method": students.set_index("trial_id")["method"], "best": best.reindex(settings.index)}
    for name in settings.columns:
        numbers = pd.to_numeric(settings[name].where(settings[name].map(_is_number)), errors="coerce")
        if numbers.groupby(found["method"]).nunique().max() >= 3:
            found[name] = numbers
    short = [name.rsplit(".", 1)[-1] for name in found]
    called = {
        name: each if short.count(each) == 1 else ".".join(name.rsplit(".", 2)[-2:])
        for name, each in zip(found, short, strict=True)
    }
    return pd.DataFrame(found).rename(columns=called)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _response(axis: Axes, table: pd.DataFrame, name: str, methods: Sequence[str], styles: Mapping[str, Look]) -> bool:
    """The marks of a panel, and the lines through their means; returns whether there are lines."""
    lines = False
    for method in methods:
        part = table[table["method"] == method].dropna(subset=[name, "best"]).sort_values(name)
        if part[name].nunique() < 3:
            continue
        look = styles[method]
        mean = 100 * part.groupby(name)["best"].mean()
        dots: dict[str, Any] = {"color": look.colour, "markersize": 3.5, "markerfacecolor": "none", "linestyle": "none"}
        axis.plot(part[name], 100 * part["best"], look.marker, label=look.label, **dots)
        if len(mean) < len(part) or len(names_varied(table, method)) == 1:
            axis.plot(mean.index, mean, color=look.colour, linestyle=look.line, linewidth=0.9)
            lines = True
    axis.grid(visible=True, axis="both")
    return lines


def _value_ticks(axis: Axes, values: np.ndarray, room: float) -> None:
    """A scale for some values, and each of them named where there are few and `room`, inches, is enough."""
    if (values > 0).all() and values.max() / values.min() > 30:
        axis.set_xscale("log")
    labels = [f"{value:g}" for value in values]
    if len(values) > MOST_TICKS:
        return
    places = axis.transScale.transform(np.stack([values, np.ones(len(values))], axis=1))[:, 0]
    share = np.diff(places).min() / (places[-1] - places[0])
    if 0.9 * share * room > max(map(inches, labels)) + 0.05:
        axis.set_xticks(values, labels)
        axis.set_xticks([], minor=True)


def names_varied(table: pd.DataFrame, method: str) -> list[str]:
    """The settings that differ between the trials of one method."""
    part = table[table["method"] == method]
    return [name for name in table.columns if name not in ("method", "best") and part[name].nunique() > 1]
