"""Figures with a mark per variant: average against worst, NSD per attack, the gap of selection, hyper-parameter
response.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from harness.report.captions import attack_title
from harness.report.data_names import read_spec
from harness.report.figures.data import (
    at,
    attack_labels,
    chosen_of,
    headline_attack,
    ladder,
    most_telling,
    variant_scores,
    variants_in,
)
from harness.report.figures.registry import Example, register
from harness.report.figures.style import (
    DOTTED,
    FAINT,
    INK,
    SEPARATOR,
    SOFT,
    Look,
    canvas,
    legend_below,
    lines_of,
    looks,
    marks,
    plain,
    reach,
)
from harness.report.rows import flat
from harness.report.scores.selection import selection_gap as gaps_of_trials

PEEKED = "peeked_test_robust"  # the quantity that trials with `record_test_curve` log
MOST_NAMED = 12  # variants with a name, as many as have a look of their own; the others are grey
MARKS = {"column": 45, "text": 95}  # that fit side by side
MOST_TICKS = 6  # values of a hyper-parameter that are each named at the axis
BARE = 6  # variants that the NSD figure shows under however many attacks
FAR = 3.0  # times the median: an NSD beyond is drawn at the edge, or the others would lie on a line


@register(
    "average against worst class, with the Pareto front",
    "What does a better worst class cost on average?",
    example=Example("fashion_mnist_matrix"),
)
def average_worst(
    class_accuracy: pd.DataFrame,
    *,
    attack: str | None = None,
    checkpoint: str = "best_validation",
    baseline: str | None = None,
    width: str = "column",
    styles: Mapping[str, Look] | None = None,
) -> Figure | None:
    """Average against worst-class accuracy, a point per variant, with the Pareto front and 95 % intervals.

    `class_accuracy`: rows of that table of one setting. Intervals are over seeds where there are three, else over test
    samples (worst class: simultaneous). Teachers are hollow and outside the front. None without rows.
    """
    attack = attack or headline_attack(class_accuracy)
    frame = at(class_accuracy, checkpoint, attack, roles=("student", "evaluation", "teacher"))
    if frame.empty:
        return None
    teachers = set(frame.loc[frame["role"] == "teacher", "variant"].astype(str)) if "role" in frame else set()
    names = [name for name in variants_in(frame) if name not in teachers]
    styles = styles or looks(names)
    students = frame[~frame["variant"].isin(teachers)]
    named = set(most_telling(students, MOST_NAMED, baseline)) if names else set()
    scores = variant_scores(frame).set_index(["metric", "variant"])[["value", "low", "high"]] * 100
    figure, axes = canvas(width, 2.7)
    axis = axes[0, 0]
    if len(named) < len(names):
        axis.plot([], [], ".", color=FAINT, markersize=3, label=f"{len(names) - len(named)} others")
    _front(axis, np.array([[scores.loc[(metric, name), "value"] for metric in ("average", "worst")] for name in names]))
    for name in sorted(names, key=lambda name: name in named):
        _point(axis, scores, name, styles[name] if name in named else None)
    for name in sorted(teachers):
        x, y = (scores.loc[(metric, name), "value"] for metric in ("average", "worst"))
        label = plain(name) if name == "teacher" else f"{plain(name)} (teacher)"
        axis.plot(x, y, "*", markerfacecolor="none", markeredgecolor=INK, markersize=7, linestyle="none", label=label)
    axis.set_xlabel(f"average accuracy, {attack_title(attack)} (%)")
    axis.set_ylabel(f"worst class, {attack_title(attack)} (%)")
    axis.grid(visible=True, axis="both")
    axis.margins(0.08)
    _legend_in_order(figure, axis, [plain(name) for name in names if name in named])
    return figure


def pareto_front(points: np.ndarray) -> np.ndarray:
    """Indices of the (P, 2) points that no other reaches in both coordinates, from left to right."""
    best, kept = -np.inf, []
    for index in np.lexsort((-points[:, 1], -points[:, 0])):
        if points[index, 1] > best:
            best = points[index, 1]
            kept.append(int(index))
    return np.array(kept[::-1], dtype=int)


def _front(axis: Axes, points: np.ndarray) -> None:
    if len(points) > 1:
        front = points[pareto_front(points)]
        axis.plot(front[:, 0], front[:, 1], zorder=1, label="Pareto front", **DOTTED)


def _point(axis: Axes, scores: pd.DataFrame, name: str, look: Look | None) -> None:
    numbers = scores.reindex([("average", name), ("worst", name)])[["value", "low", "high"]].to_numpy(dtype=float).T
    (x, y), lengths = numbers[0], reach(*numbers)
    if look is None:
        axis.plot(x, y, ".", color=FAINT, markersize=3, zorder=1)
    else:
        marks(axis, x, y, name, look, xerr=lengths[:, :1], yerr=lengths[:, 1:], zorder=3)


def _legend_in_order(figure: Figure, axis: Axes, order: Sequence[str]) -> None:
    handles, labels = axis.get_legend_handles_labels()
    pairs = sorted(
        zip(handles, labels, strict=True), key=lambda pair: order.index(pair[1]) if pair[1] in order else len(order)
    )
    legend_below(figure, axis, pairs=pairs)


@register(
    "NSD under every attack, per variant",
    "How unevenly are the classes protected, under each attack?",
    example=Example("fashion_mnist"),
)
def nsd(
    class_accuracy: pd.DataFrame,
    *,
    checkpoint: str = "best_validation",
    variants: Sequence[str] | None = None,
    baseline: str | None = None,
    width: str = "column",
    styles: Mapping[str, Look] | None = None,
) -> Figure | None:
    """NSD (population form) under every attack, a mark per variant with its 95 % interval; lower is fairer.

    `class_accuracy`: rows of that table of one setting. A value far beyond the others stands at the edge, in figures.
    None without rows.
    """
    frame = at(class_accuracy, checkpoint)
    if frame.empty:
        return None
    attacks = ladder(frame)
    most = max(BARE, min(MOST_NAMED, MARKS[width] // len(attacks)))
    names = list(variants or most_telling(frame[frame["attack"] == headline_attack(frame)], most, baseline))
    styles = styles or looks(names)
    scores = variant_scores(frame[frame["variant"].isin(names)])
    scores = scores[scores["metric"] == "nsd"].set_index(["variant", "attack"])
    near = scores["value"] <= FAR * scores["value"].median()
    edge = np.inf if near.all() else 1.15 * scores.loc[near, "high"].max()
    figure, axes = canvas(width, 2.5)
    axis = axes[0, 0]
    for place, name in enumerate(names):
        lines = scores.reindex([(name, attack) for attack in attacks])
        x = np.arange(len(attacks)) + (place - (len(names) - 1) / 2) * 0.75 / len(names)
        value, low, high = lines[["value", "low", "high"]].to_numpy(dtype=float).T
        lengths = np.where(value > edge, 0, reach(value, low, high))
        marks(axis, x, np.minimum(value, edge), name, styles[name], yerr=lengths, markersize=3.5)
        for at_x, beyond in zip(x[value > edge], value[value > edge], strict=True):
            axis.text(at_x, 0.965 * edge, f"{beyond:.2f}→", rotation=90, fontsize=5.5, ha="center", va="top")
    for separator in np.arange(len(attacks) - 1) + 0.5:
        axis.axvline(separator, **SEPARATOR)
    axis.set_xticks(np.arange(len(attacks)), [label.replace(" ", "\n") for label in attack_labels(frame, attacks)])
    axis.tick_params(axis="x", length=0)
    axis.set_xlim(-0.5, len(attacks) - 0.5)
    axis.set_ylim(0, 1.04 * edge if np.isfinite(edge) else None)
    axis.set_ylabel("NSD (lower is fairer)")
    legend_below(figure, axis, title=None if variants else chosen_of(names, frame))
    return figure


@register(
    "what choosing the epoch on the test set would add",
    "How much better would results look, chosen on the test set?",
    quantities=(PEEKED,),
    absent="no trial recorded its test curve (record_test_curve)",
    example=Example("absld_ablation"),
)
def selection_gap(epochs: pd.DataFrame, class_state: pd.DataFrame, *, width: str = "column") -> Figure | None:
    """Robust test score, (average + worst)/2, at the epoch that validation chose, at the last, and at the peeked one.

    `epochs`, `class_state`: those tables of one setting with `variant`. None where no trial recorded its test curve
    (`record_test_curve`).
    """
    if PEEKED not in set(class_state["quantity"]):
        return None
    gaps = 100 * gaps_of_trials(epochs, class_state)
    of_trial = epochs.drop_duplicates("trial_id").set_index("trial_id")["variant"].astype(str)
    means = gaps.groupby(of_trial.reindex(gaps.index).to_numpy()).mean()
    names = [name for name in variants_in(epochs) if name in means.index]
    figure, axes = canvas(width, 0.95 + 0.17 * len(names))
    axis = axes[0, 0]
    scores = {
        "last_score": ("last epoch", "|", SOFT, 6.0),
        "honest_score": ("chosen on validation", "o", "#0072B2", 4.5),
        "peeked_score": ("peeked at the test set", "D", "#D55E00", 4.0),
    }
    y = np.arange(len(names))
    means = means.loc[names]
    axis.hlines(y, means["honest_score"], means["peeked_score"], color=SOFT, linewidth=1.0, zorder=1)
    for column, (label, marker, colour, size) in scores.items():
        face = {"color": colour, "markerfacecolor": "none" if column == "peeked_score" else colour}
        axis.plot(means[column], y, marker, markersize=size, label=label, linestyle="none", **face)
    lines_of(axis, [f"{plain(name)}  (+{gap:.1f})" for name, gap in means["gap"].items()])
    axis.set_xlabel("robust test score, (average + worst)/2 (%)")
    legend_below(figure, axis)
    return figure


@register(
    "best validation value against each tuned hyper-parameter",
    "How much does a hyper-parameter matter?",
    absent="no method has three trials that differ in a number",
    example=Example("absld_temperature_rate"),
)
def hyperparameter_response(
    trials: pd.DataFrame, epochs: pd.DataFrame, *, metric: str = "selection_score", width: str | None = None
) -> Figure | None:
    """The best validation value of every trial against each hyper-parameter that a tuning run varied, a panel each.

    `trials` (their `spec`) and `epochs` of one setting. metric: a column of `epochs`. width: by the number of panels by
    default. Lines are means over the trials that share a value. None where no method has three trials that differ in a
    number.
    """
    table = varied_settings(trials, epochs, metric)
    names = [name for name in table.columns if name not in ("method", "best")][:4]
    if not names:
        return None
    methods = list(dict.fromkeys(table["method"]))
    styles = looks(methods)
    width = width or ("column" if len(names) == 1 else "text")
    figure, axes = canvas(width, 2.2, 1, len(names), sharey=True)
    for axis, name in zip(axes[0], names, strict=True):
        _response(axis, table, name, methods, styles)
    title = {"selection_score": "(average + worst)/2"}.get(metric, metric.removeprefix("val_").replace("_", " "))
    axes[0, 0].set_ylabel(f"validation, {title} (%)")
    if len(methods) > 1:
        legend_below(figure, axes[0, 0])
    return figure


def varied_settings(trials: pd.DataFrame, epochs: pd.DataFrame, metric: str) -> pd.DataFrame:
    """A line per trial: method, best value of `metric`, and every number of the spec that differs between its trials.

    Columns are short names (`temperature_rate`); only those with three or more values within one method.
    """
    best = epochs.groupby("trial_id", observed=True)[metric].max()
    students = trials[(trials["role"] == "student") & trials["trial_id"].isin(best.index)]
    specs = [flat({key: read_spec(text).get(key) for key in ("method", "training")}) for text in students["spec"]]
    settings = pd.DataFrame(specs, index=students["trial_id"])
    found: dict[str, Any] = {"method": students.set_index("trial_id")["method"], "best": best.reindex(settings.index)}
    for name in settings.columns:
        numbers = pd.to_numeric(settings[name].where(settings[name].map(_is_number)), errors="coerce")
        if numbers.groupby(found["method"]).nunique().max() >= 3:
            found[name.rsplit(".", 1)[-1]] = numbers
    return pd.DataFrame(found)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _response(axis: Axes, table: pd.DataFrame, name: str, methods: Sequence[str], styles: Mapping[str, Look]) -> None:
    for method in methods:
        part = table[table["method"] == method].dropna(subset=[name, "best"]).sort_values(name)
        if part[name].nunique() < 3:
            continue
        look = styles[method]
        mean = 100 * part.groupby(name)["best"].mean()
        dots: dict[str, Any] = {"color": look.colour, "markersize": 3.5, "markerfacecolor": "none", "linestyle": "none"}
        axis.plot(part[name], 100 * part["best"], look.marker, label=plain(method), **dots)
        if len(mean) < len(part) or len(names_varied(table, method)) == 1:
            axis.plot(mean.index, mean, color=look.colour, linestyle=look.line, linewidth=0.9)
    values = np.sort(table[name].dropna().unique())
    if (values > 0).all() and values.max() / values.min() > 30:
        axis.set_xscale("log")
    if len(values) <= MOST_TICKS:
        axis.set_xticks(values, [f"{value:g}" for value in values])
        axis.set_xticks([], minor=True)
    axis.set_xlabel(plain(name))
    axis.grid(visible=True, axis="both")


def names_varied(table: pd.DataFrame, method: str) -> list[str]:
    """The settings that differ between the trials of one method."""
    part = table[table["method"] == method]
    return [name for name in table.columns if name not in ("method", "best") and part[name].nunique() > 1]
