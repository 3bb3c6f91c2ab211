"""A figure of what seeds do: each variant's value for each of them, and whether they move together."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from harness.report.captions import attack_title
from harness.report.figures.choice import choose, listing
from harness.report.figures.classes import TITLE
from harness.report.figures.data import at, headline_attack, network_counts, reference, variants_in
from harness.report.figures.lettering import fitted
from harness.report.figures.notes import images, sentences
from harness.report.figures.registry import Example, register
from harness.report.figures.style import (
    INK,
    MOST_VARIANTS,
    SOFT,
    Drawing,
    canvas,
    legend_below,
    lines_of,
    looks,
    pairs_of,
)
from harness.report.scores.intervals import over_teachers
from harness.report.scores.seeds import listed
from harness.statistics import metrics

MOST_SEEDS = 12  # that have a look of their own
RUNGS = {"average": metrics.average, "worst class": metrics.worst}  # a panel each


@register(
    "each variant's value for every seed, with a line through each seed",
    "How much is it worth to compare seed by seed?",
    absent="no variant has results of two seeds",
    example=Example("fashion_mnist_small", ("at", "rslad", "absld", "absld_reweight")),
)
def seed_ladder(
    class_accuracy: pd.DataFrame,
    *,
    attack: str | None = None,
    checkpoint: str = "best_validation",
    variants: Sequence[str] | None = None,
    ranking: Sequence[str] | None = None,
    baseline: str | None = None,
    width: str = "column",
) -> Drawing | None:
    """Average and worst class of every variant and seed under one attack, a line per seed: where lines run side by
    side, a seed is as good or bad for all, and differences between variants are narrower seed by seed.

    `class_accuracy`: rows of that table of one setting. A value is the mean over the teachers of its seed. None where
    no variant has two seeds.
    """
    attack = attack or headline_attack(class_accuracy)
    frame = at(class_accuracy, checkpoint, attack, roles=("student",))
    seeds = frame.groupby("variant", observed=True)["seed"].nunique()
    every = list(variants or variants_in(at(class_accuracy, checkpoint, attack)))
    several = [name for name in every if seeds.get(name, 0) > 1]
    single = [name for name in every if name not in several]  # networks that were given are of one training each
    lack = f"without results under {attack_title(attack)}"
    chosen = choose(several, MOST_VARIANTS, ranking, asked=variants and several, lack=lack, told=single)
    if not chosen.shown:
        return None
    frame = frame[frame["variant"].isin(chosen.shown)]
    tables = {name: seed_table(frame, name, chosen.shown) for name in RUNGS}
    names = fitted(chosen.shown, 1.0 if width == "column" else 1.9, lines=2)
    step = 0.26 if any("\n" in name for name in names) else 0.2
    figure, axes = canvas(width, 0.85 + step * len(names), 1, len(tables), sharey=True)
    for axis, (name, table) in zip(axes[0], tables.items(), strict=True):
        _rungs(axis, table)
        axis.set_xlabel(f"{name} (%)")
    axes[0, 0].set_title(fitted([attack_title(attack)], 1.2, size=TITLE)[0])
    lines_of(axes[0, 0], names)
    axes[0, 1].tick_params(axis="y", length=0)
    legend_below(figure, pairs_of([axes[0, 0]]), chosen.brief)
    first = reference(chosen.shown, baseline)
    worth = [_worth(table, first, name) for name, table in tables.items()]
    drawn = frame["seed"].astype(int)
    figure.says = sentences(
        f"{attack_title(attack)}, {images(frame)}; a mark for each seed ({listed(drawn)}), a bar at the mean.",
        *worth,
        chosen.sentence,
        f"Not shown, with one seed: {listing(single)}." if single else "",
    )
    return figure


def seed_table(class_accuracy: pd.DataFrame, metric: str, variants: Sequence[str]) -> pd.DataFrame:
    """(variants, seeds): a metric in percent, NaN where a variant lacks the seed."""
    counts = network_counts(class_accuracy, ["variant"])
    values = pd.DataFrame({metric: 100 * RUNGS[metric](counts.accuracy)})
    keys, values = over_teachers(counts.keys, values, ["variant"])
    long = values.assign(variant=keys["variant"].astype(str).to_numpy(), seed=keys["seed"].to_numpy(dtype=int))
    return long.pivot(index="variant", columns="seed", values=metric).reindex(list(variants))


def pairing_worth(table: pd.DataFrame, first: str) -> tuple[float, float] | None:
    """How far differences from a variant vary over the seeds that both have: standard deviations seed by seed, and as
    if seeds had nothing to do with each other; root mean squares over the other variants that share two seeds or more.
    None without such a variant.

    table: (variants, seeds), see `seed_table`.
    """
    found = []
    for name in table.index.drop(first):
        both = table.loc[[name, first]].dropna(axis=1).to_numpy(dtype=float)
        if both.shape[1] > 1:
            found.append(((both[0] - both[1]).var(ddof=1), both.var(axis=1, ddof=1).sum()))
    if not found:
        return None
    paired, apart = np.sqrt(np.mean(found, axis=0))
    return float(paired), float(apart)


def _worth(table: pd.DataFrame, first: str, title: str) -> str:
    found = pairing_worth(table, first)
    if found is None:
        return ""
    return (
        f"{title.capitalize()}: differences from {first} vary over seeds with a standard deviation of {found[0]:.1f} "
        f"points seed by seed, and would with {found[1]:.1f} if seeds were not paired."
    )


def _rungs(axis: Axes, table: pd.DataFrame) -> None:
    """A line through each seed, and a bar at each variant's mean."""
    places = np.arange(len(table))
    styles = looks([str(seed) for seed in table.columns])
    axis.vlines(table.mean(axis=1), places - 0.32, places + 0.32, color=INK, linewidth=1.2, label="mean", zorder=1)
    for seed in table.columns:
        look = styles[str(seed)]
        options = {"color": look.colour, "linestyle": look.line, "marker": look.marker, "label": f"seed {seed}"}
        if len(table.columns) > MOST_SEEDS:
            options = {"color": SOFT, "marker": ".", "label": f"{len(table.columns)} seeds"}
        axis.plot(table[seed], places, linewidth=0.7, markersize=3, **options)
