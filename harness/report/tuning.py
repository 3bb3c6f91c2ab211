"""What a search found: a table of its settings, its cost, and two figures. Pure functions of DataFrames.

`runs` has a line per setting and seed: `setting` (its number), `seed`, `trial_id`, `status` (of the setting), `epochs`
(that the search let it run), and a column for each key of the space. `epochs` is that table of the store.
"""

from __future__ import annotations

import io
import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from harness.report import escape
from harness.report.figures_variants import pareto_front
from harness.report.style import INK, SOFT, canvas, legend_below, looks, plain, styled
from harness.report.tables import markdown_table

RUN = ("setting", "seed", "trial_id", "status", "epochs")
MEASURES = {"val_robust_avg": "average", "val_robust_worst": "worst", "val_robust_nsd": "nsd"}
TITLES = {
    "selection_score": "validation score",
    "val_robust_avg": "validation average",
    "val_robust_worst": "validation worst",
    "val_robust_nsd": "validation NSD",
}
_MOST_PANELS = 4


def kept_epochs(runs: pd.DataFrame, epochs: pd.DataFrame) -> pd.DataFrame:
    """`runs` with the row of `epochs` whose weights selection kept: the best selection score among the epochs that the
    search let it run, the later one of equals; `hours`, of all of these. NaN for a run without an epoch."""
    own = runs[["trial_id", "epochs"]].rename(columns={"epochs": "allowed"})
    rows = epochs.astype({"trial_id": str}).merge(own, on="trial_id")
    rows = rows[rows["epoch"] <= rows["allowed"]].sort_values(["trial_id", "epoch"])
    hours = rows.groupby("trial_id")["seconds"].sum() / 3600
    best = rows.sort_values(["trial_id", "selection_score", "epoch"], na_position="first").groupby("trial_id").tail(1)
    best = best.rename(columns={"epoch": "kept_epoch"})[["trial_id", "kept_epoch", "selection_score", *MEASURES]]
    return runs.merge(best, on="trial_id", how="left").assign(hours=runs["trial_id"].map(hours).to_numpy())


def settings_table(runs: pd.DataFrame, epochs: pd.DataFrame, metric: str, mode: str) -> pd.DataFrame:
    """A line per setting, best first: its values, `status`, `epochs`, the metric's `mean`, standard deviation `sd` and
    `seed_N`, the other measures' means, `hours`, and whether it is `best` or on the `pareto` front.

    The metric is that of the kept checkpoint. Best, and the front of validation average against worst class, are of the
    settings that ran to their end.
    """
    kept = kept_epochs(runs, epochs)
    groups = kept.groupby("setting", sort=True)
    keys = keys_of(runs)
    table = groups[[*keys, "status", "epochs"]].first()
    table["mean"], table["sd"] = groups[metric].mean(), groups[metric].std(ddof=1)
    for seed, part in kept.groupby("seed"):
        table[f"seed_{seed}"] = part.set_index("setting")[metric]
    for column, name in MEASURES.items():
        table[name] = groups[column].mean()
    table["hours"] = groups["hours"].sum()
    done = table[(table["status"] == "done") & table["mean"].notna()]
    table["best"] = table["pareto"] = False
    if len(done):
        table.loc[done["mean"].idxmax() if mode == "max" else done["mean"].idxmin(), "best"] = True
        front = done.index[pareto_front(done[["average", "worst"]].to_numpy(dtype=float))]
        table.loc[front, "pareto"] = True
    rank = table["status"].map({"done": 0, "stopped": 1}).fillna(2)
    order = table["mean"] * (-1 if mode == "max" else 1)
    places = pd.DataFrame({"rank": rank, "order": order}).sort_values(["rank", "order"], kind="stable").index
    return table.loc[places].reset_index()


def keys_of(runs: pd.DataFrame) -> list[str]:
    """The keys of the space."""
    return [name for name in runs.columns if name not in RUN]


def cost(runs: pd.DataFrame, epochs: pd.DataFrame, most: int, wall_s: float, reused: int) -> dict[str, Any]:
    """What the search took, and what stopping saved: epochs that were not run, at the mean time of those that were.

    most: epochs of a whole trial. wall_s: of the drivers. reused: epochs that other searches had left in the store.
    """
    rows = epochs.astype({"trial_id": str}).merge(runs[["trial_id", "epochs"]], on="trial_id", suffixes=("", "_run"))
    rows = rows[rows["epoch"] <= rows["epochs"]]
    per_epoch = float(rows["seconds"].mean()) if len(rows) else 0.0
    stopped = runs[runs["status"] == "stopped"]
    spared = int((most - stopped["epochs"]).sum())
    by_status = runs.drop_duplicates("setting")["status"].value_counts()
    return {
        "settings": int(runs["setting"].nunique()),
        **{status: int(by_status.get(status, 0)) for status in ("done", "stopped", "failed", "open")},
        "trials": len(runs),
        "epochs_run": len(rows),
        "epochs_possible": most * len(runs),
        "epochs_reused": reused,
        "hours": float(rows["seconds"].sum()) / 3600,
        "wall_hours": wall_s / 3600,
        "seconds_per_epoch": per_epoch,
        "epochs_saved": spared,
        "hours_saved": spared * per_epoch / 3600,
    }


def csv_text(table: pd.DataFrame) -> str:
    """The table in full."""
    frame = table.copy()
    for name in frame.columns:
        frame[name] = [
            escape.csv(_text(value)) if isinstance(value, (str, list, dict)) else value for value in frame[name]
        ]
    text = io.StringIO()
    frame.to_csv(text, index=False, lineterminator="\n")
    return text.getvalue()


def markdown(table: pd.DataFrame, runs: pd.DataFrame, facts: Mapping[str, Any], spent: Mapping[str, Any]) -> str:
    """The search as a Markdown document. facts: of the search, as in its journal."""
    percent = facts["metric"] != "val_robust_nsd"
    seeds = [name for name in table.columns if name.startswith("seed_")]
    keys = keys_of(runs)
    scores = ["mean", *(["sd", *seeds] if len(seeds) > 1 else [])]
    titles = ["", *map(escape.markdown, keys), *(name.replace("_", " ") for name in scores)]
    titles += ["average", "worst", "NSD", "epochs", "status", "hours"]
    rows = []
    for line in table.to_dict("records"):
        mark = "**best**" if line["best"] else "front" if line["pareto"] else ""
        values = [escape.markdown(_text(line[key])) for key in keys]
        numbers = [_number(line[name], percent) for name in scores]
        numbers += [_number(line["average"], True), _number(line["worst"], True), _number(line["nsd"], False)]
        reached = f"{line['epochs']:.0f}/{facts['epochs']}"
        rows.append([mark, *values, *numbers, reached, line["status"], f"{line['hours']:.2f}"])
    title = f"# Tuning of {escape.markdown(facts['method'])} on {escape.markdown(facts['suite'])}"
    return "\n\n".join([title, _sentences(facts, spent, percent), markdown_table(titles, rows)]) + "\n"


def _sentences(facts: Mapping[str, Any], spent: Mapping[str, Any], percent: bool) -> str:
    space = ", ".join(f"{key} in {text}" for key, text in facts["space"].items())
    better = "higher" if facts["mode"] == "max" else "lower"
    parts = [
        f"{facts['search']} search of {space}; scheduler {facts['scheduler']}"
        + (f" from epoch {facts['grace']} on." if facts["scheduler"] != "none" else "."),
        f"Mean: {facts['metric']} on held-out training images{' in percent' if percent else ''}, {better} is better, "
        f"at the epoch that selection keeps, over {facts['seeds']} seed{'s' * (facts['seeds'] > 1)}; sd: over seeds.",
        "Best and front (validation average against worst class) are of settings that ran to their end.",
        f"Cost: {spent['settings']} settings, {spent['trials']} trials, {spent['epochs_run']} of "
        f"{spent['epochs_possible']} epochs, {spent['hours']:.2f} hours of training, {spent['wall_hours']:.2f} hours "
        f"of wall time; stopping saved {spent['epochs_saved']} epochs, about {spent['hours_saved']:.2f} hours.",
    ]
    if spent["epochs_reused"]:
        parts.append(f"{spent['epochs_reused']} epochs were in the store already and took no time of this search.")
    return " ".join(escape.markdown(part) for part in parts)


def _number(value: float, percent: bool) -> str:
    return "–" if not np.isfinite(value) else f"{100 * value:.2f}" if percent else f"{value:.3f}"


def _text(value: Any) -> str:
    if isinstance(value, (list, dict)):
        return json.dumps(value)
    return f"{value:g}" if isinstance(value, float) else str(value)


@styled
def response(
    runs: pd.DataFrame,
    epochs: pd.DataFrame,
    metric: str,
    *,
    logarithmic: Collection[str] = (),
    defaults: Mapping[str, Any] | None = None,
    width: str = "text",
) -> Figure | None:
    """The metric of every trial against each key of the space: a panel per key, a dot per trial, seeds apart in colour
    and marker, hollow where the trial was stopped early; a line for the method's default. None without a value."""
    kept = kept_epochs(runs, epochs).dropna(subset=[metric])
    keys = keys_of(runs)[:_MOST_PANELS]
    if kept.empty or not keys:
        return None
    figure, axes = canvas(width if len(keys) > 1 else "column", 2.3, 1, len(keys), sharey=True)
    scale = 1 if metric == "val_robust_nsd" else 100
    for axis, key in zip(axes[0], keys, strict=True):
        places, labels = _places(kept[key])
        _dots(axis, kept.assign(place=places, value=scale * kept[metric]), joined=len(keys) == 1 and not labels)
        if labels:
            axis.set_xticks(range(len(labels)), [plain(label) for label in labels])
        elif key in logarithmic:
            axis.set_xscale("log")
        default = (defaults or {}).get(key)
        place = labels.index(_text(default)) if labels and _text(default) in labels else None if labels else default
        if isinstance(place, (int, float)) and not isinstance(place, bool) and (place > 0 or key not in logarithmic):
            axis.axvline(place, color=SOFT, linewidth=0.8, linestyle=(0, (1, 1.5)), zorder=0, label="default")
        axis.set_xlabel(plain(key))
    axes[0, 0].set_ylabel(TITLES[metric] + ("" if scale == 1 else " (%)"))
    legend_below(figure, axes[0, 0], _once(axes[0]))
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
    texts = values.map(_text)
    labels = sorted(texts.unique())
    return texts.map(labels.index).astype(float), labels


def _once(axes: Sequence[Axes]) -> list[tuple[Any, str]]:
    """Handles and labels of all panels, each label once."""
    found: dict[str, Any] = {}
    for axis in axes:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    order = sorted(found, key=lambda label: ("seed" not in label, label))
    return [(found[label], label) for label in order]


@styled
def pareto(table: pd.DataFrame, *, width: str = "column") -> Figure | None:
    """Validation average against validation worst class, a dot per setting, with the front of the whole ones. `table`:
    of `settings_table`. None without a value."""
    drawn = table.dropna(subset=["average", "worst"])
    if drawn.empty:
        return None
    figure, axes = canvas(width, 2.6)
    axis = axes[0, 0]
    colour = looks(["setting"])["setting"].colour
    for whole, label in ((True, "ran to the end"), (False, "stopped")):
        part = drawn[(drawn["status"] == "done") == whole]
        if len(part):
            axis.plot(100 * part["average"], 100 * part["worst"], "o", color=colour, markersize=4, linestyle="none",
                      markerfacecolor=colour if whole else "none", label=label)  # fmt: skip
    front = drawn[drawn["pareto"]].sort_values("average")
    line = {"color": SOFT, "linewidth": 0.8, "linestyle": (0, (1, 1.5))}
    axis.plot(100 * front["average"], 100 * front["worst"], zorder=1, label="Pareto front", **line)
    best = drawn[drawn["best"]]
    axis.plot(100 * best["average"], 100 * best["worst"], "o", color=INK, markersize=7, markerfacecolor="none",
              linestyle="none", label="best by the metric")  # fmt: skip
    axis.set_xlabel("validation average, under attack (%)")
    axis.set_ylabel("validation worst class, under attack (%)")
    axis.grid(visible=True, axis="both")
    legend_below(figure, axis)
    return figure
