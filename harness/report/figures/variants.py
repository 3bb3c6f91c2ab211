"""Figures with a mark per variant: average against worst class, and NSD under every attack."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.transforms import Bbox

from harness.report.captions import attack_title
from harness.report.figures.choice import Choice, choose
from harness.report.figures.data import at, attack_labels, headline_attack, ladder, variant_scores, variants_in
from harness.report.figures.lettering import fitted, inches
from harness.report.figures.notes import bars, means, sentences
from harness.report.figures.placing import END_SIZE, end_name, name_points, spread_ends, ticks_below
from harness.report.figures.registry import Example, register
from harness.report.figures.style import (
    FAINT,
    INK,
    MOST_VARIANTS,
    SEPARATOR,
    Drawing,
    Look,
    canvas,
    dark,
    front_steps,
    legend_below,
    looks,
    marks,
    pairs_of,
    reach,
    remark,
)

MARKS = {"column": 45, "text": 95}  # that fit side by side
BARE = 6  # variants that the NSD figure shows under however many attacks
FAR = 3.0  # times the median: an NSD beyond is drawn at the edge, or the others would lie on a line


@register(
    "average against worst class, with the Pareto front",
    "What does a better worst class cost on average?",
    example=Example("fashion_mnist_small", ("at", "rslad", "absld", "absld_reweight")),
)
def average_worst(
    class_accuracy: pd.DataFrame,
    *,
    attack: str | None = None,
    checkpoint: str = "best_validation",
    ranking: Sequence[str] | None = None,
    width: str = "column",
    styles: Mapping[str, Look] | None = None,
    published: pd.DataFrame | None = None,
) -> Drawing | None:
    """Average against worst-class accuracy, a named point per variant, with the Pareto front and 95 % intervals.

    `class_accuracy`: rows of that table of one setting. Intervals are over seeds where there are three, else over test
    samples (worst class: simultaneous). Teachers are hollow and outside the front, and so are numbers of papers.
    published: a line each, `variant` whose colour it has and `beside` the attack; where they know nothing of the usual
    attack, another is shown. None without rows of students.
    """
    stated = _stated(published)
    attack = attack or _with_papers(headline_attack(class_accuracy), stated)
    stated = stated[stated["beside"] == attack]
    frame = at(class_accuracy, checkpoint, attack, roles=("student", "evaluation", "teacher"))
    taught = frame["role"] == "teacher" if "role" in frame else pd.Series(False, frame.index)
    students, teachers = frame[~taught], frame[taught]
    if students.empty:
        return None
    names = variants_in(students)
    chosen = choose(names, MOST_VARIANTS, ranking, lack=f"without results under {attack_title(attack)}")
    styles = styles or looks(names)
    scores = variant_scores(students)
    numbers, stars = _average_and_worst(scores), _average_and_worst(variant_scores(teachers))
    figure, axes = canvas(width, 2.7)
    axis = axes[0, 0]
    for name in chosen.shown:
        _point(axis, numbers[name], styles[name])
    labels = {styles[name].label: numbers[name] for name in chosen.shown}
    for name, label in zip(sorted(stars), fitted(sorted(stars)), strict=True):
        said = label if name.startswith("teacher") else f"{label} (teacher)"
        (x, _, _), (y, _, _) = stars[name]
        axis.plot(x, y, "*", markerfacecolor="none", markeredgecolor=INK, markersize=7, linestyle="none", label=said)
        labels[said] = stars[name]
    if chosen.left_out:
        x, y = np.stack([numbers[name][:, 0] for name in chosen.left_out], axis=1)
        label = f"{len(chosen.left_out)} others"
        axis.plot(x, y, ".", color=FAINT, markersize=3, zorder=1, linestyle="none", label=label)
    _open(axis, stated, {name: styles[name] for name in chosen.shown})
    axis.set_xlabel(f"average accuracy, {attack_title(attack)} (%)")
    axis.set_ylabel(f"worst class, {attack_title(attack)} (%)")
    axis.grid(visible=True, axis="both")
    axis.margins(0.1)
    points = np.array([numbers[name][:, 0] for name in names]).reshape(-1, 2)
    front_steps(axis, points[pareto_front(points)])
    _name(figure, axis, labels, _points(stated))
    figure.says = sentences(
        means(students),
        bars(scores[scores["metric"].isin(["average", "worst"])], students),
        _front_note(chosen),
        _papers(stated),
    )
    return figure


def _stated(published: pd.DataFrame | None) -> pd.DataFrame:
    """What papers state of both average and worst class."""
    columns = ["variant", "average", "worst", "beside", "cite"]
    frame = pd.DataFrame(columns=columns) if published is None else published[columns]
    return frame.dropna(subset=["average", "worst"])


def _average_and_worst(scores: pd.DataFrame) -> dict[str, np.ndarray]:
    """By variant value, low and high of both, in percent, (2, 3)."""
    cells = scores.set_index(["metric", "variant"])[["value", "low", "high"]] * 100
    return {
        str(name): cells.reindex([("average", name), ("worst", name)]).to_numpy(dtype=float)
        for name in scores["variant"].unique()
    }


def _with_papers(usual: str | None, stated: pd.DataFrame) -> str | None:
    """The usual attack, or where no paper states anything of it the one that most state something of."""
    attacks = stated.loc[stated["beside"] != "clean", "beside"]
    return usual if attacks.empty or (attacks == usual).any() else str(attacks.mode().iloc[0])


def _open(axis: Axes, stated: pd.DataFrame, styles: Mapping[str, Look]) -> None:
    """Open marks, in the look of a variant where it is shown, and one line of the legend for all."""
    options: dict[str, Any] = {"markerfacecolor": "none", "linestyle": "none", "markersize": 3.6, "zorder": 2}
    for name, rows in stated.groupby("variant", sort=False):
        look = styles.get(str(name))
        marker, colour = (look.marker, look.colour) if look else ("o", FAINT)
        axis.plot(*_points(rows).T, marker, markeredgecolor=colour, **options)
    if len(stated):
        axis.plot([], [], "o", markeredgecolor=INK, label="published", **options)


def _papers(stated: pd.DataFrame) -> str:
    return (
        "Open marks, in the look of a variant of the same method: as published, under protocols and partly with "
        f"additions of their own, outside the front ({'; '.join(dict.fromkeys(stated['cite']))})."
        if len(stated)
        else ""
    )


def _points(stated: pd.DataFrame) -> np.ndarray:
    return stated[["average", "worst"]].to_numpy(dtype=float)


def _front_note(chosen: Choice) -> str:
    front = "No variant is better in both than one on the dotted front."
    named = f"Named are {chosen.sentence}".replace("left out", "grey") if chosen.left_out else chosen.sentence
    return sentences(front, named)


def pareto_front(points: np.ndarray) -> np.ndarray:
    """Indices of the (P, 2) points that no other reaches in both coordinates, from left to right."""
    best, kept = -np.inf, []
    for index in np.lexsort((-points[:, 1], -points[:, 0])):
        if points[index, 1] > best:
            best = points[index, 1]
            kept.append(int(index))
    return np.array(kept[::-1], dtype=int)


def _point(axis: Axes, numbers: np.ndarray, look: Look) -> None:
    """numbers: (2, 3), value, low and high of average and worst."""
    lengths = reach(*numbers.T)
    x, y = numbers[:, 0]
    marks(axis, x, y, look, xerr=lengths[:, :1], yerr=lengths[:, 1:], zorder=3)


def _name(figure: Drawing, axis: Axes, numbers: Mapping[str, np.ndarray], others: np.ndarray) -> None:
    """Names beside their points, off the others (P, 2); in a legend those for which there is no room, and what is no
    variant."""
    bare, listed = figure.get_figheight(), set[str]()
    pairs = pairs_of([axis])
    bounds = [Bbox([[x_low, y], [x_high, y]]) for (x, x_low, x_high), (y, _, _) in numbers.values()]
    bounds += [Bbox([[x, low], [x, high]]) for (x, _, _), (y, low, high) in numbers.values()]
    bounds += [Bbox([point, point]) for point in others]
    while True:
        legend_below(figure, [pair for pair in pairs if pair[1] not in numbers or pair[1] in listed])
        figure.draw_without_rendering()
        beside = {label: tuple(cells[:, 0]) for label, cells in numbers.items() if label not in listed}
        crowded = name_points(axis, beside, bounds)
        if not crowded:
            return
        listed |= set(crowded)
        for old in [*axis.texts, *figure.legends]:
            old.remove()
        figure.set_figheight(bare)


@register(
    "NSD under every attack, per variant",
    "How unevenly are the classes protected, under each attack?",
    example=Example("fashion_mnist_small", ("at", "rslad", "absld", "absld_reweight")),
)
def nsd(
    class_accuracy: pd.DataFrame,
    *,
    checkpoint: str = "best_validation",
    variants: Sequence[str] | None = None,
    ranking: Sequence[str] | None = None,
    width: str = "column",
    styles: Mapping[str, Look] | None = None,
) -> Drawing | None:
    """NSD (population form) under every attack, a line per variant with 95 % intervals; lower is fairer.

    `class_accuracy`: rows of that table of one setting. A value far beyond the others stands at the edge, in figures.
    None without rows.
    """
    frame = at(class_accuracy, checkpoint)
    if frame.empty:
        return None
    attacks = ladder(frame)
    most = max(BARE, min(MOST_VARIANTS, MARKS[width] // len(attacks)))
    chosen = choose(variants_in(frame), most, ranking, asked=variants)
    names = chosen.shown
    styles = styles or looks(names)
    frame = frame[frame["variant"].isin(names)]
    scores = variant_scores(frame)
    scores = scores[scores["metric"] == "nsd"].set_index(["variant", "attack"])
    near = scores["value"] <= FAR * scores["value"].median()
    edge = np.inf if near.all() else 1.15 * scores.loc[near, "high"].max()
    figure, axes = canvas(width, 2.5)
    axis = axes[0, 0]
    short = fitted(names, 0.38 * figure.get_figwidth(), size=END_SIZE)
    for place, (name, label) in enumerate(zip(names, short, strict=True)):
        lines = scores.reindex([(name, attack) for attack in attacks])
        x = np.arange(len(attacks)) + (place - (len(names) - 1) / 2) * 0.6 / len(names)
        _nsd_line(axis, x, lines[["value", "low", "high"]].to_numpy(dtype=float), edge, styles[name], label)
    for separator in np.arange(len(attacks) - 1) + 0.5:
        axis.axvline(separator, **SEPARATOR)
    room = figure.get_figwidth() - 0.75 - max(inches(label, END_SIZE) for label in short)
    ticks_below(axis, np.arange(len(attacks)), attack_labels(frame, attacks), room / len(attacks))
    axis.tick_params(axis="x", length=0)
    axis.set_xlim(-0.5, len(attacks) - 0.5)
    axis.set_ylim(0, 1.04 * edge if np.isfinite(edge) else None)
    axis.set_ylabel("NSD (lower is fairer)")
    remark(figure, chosen.brief)
    spread_ends(figure)
    figure.says = sentences(means(frame), bars(scores, frame), chosen.sentence)
    return figure


def _nsd_line(axis: Axes, x: np.ndarray, numbers: np.ndarray, edge: float, look: Look, name: str) -> None:
    """numbers: (attacks, 3), value, low and high."""
    value, low, high = numbers.T
    lengths = np.where(value > edge, 0, reach(value, low, high))
    shown = np.minimum(value, edge)
    marks(axis, x, shown, look, yerr=lengths)
    axis.plot(x, shown, color=look.colour, linestyle=look.line, linewidth=0.6, zorder=1)
    for at_x, beyond in zip(x[value > edge], value[value > edge], strict=True):
        axis.text(at_x, 0.965 * edge, f"{beyond:.2f}→", rotation=90, fontsize=5.5, ha="center", va="top")
    known = shown[np.isfinite(shown)]
    if len(known):
        end_name(axis, float(known[-1]), name, dark(look.colour))
