"""What a search found: a table of each method's settings, what it cost, and whether it was worth it. Pure functions of
DataFrames.

`runs` has a line per setting and seed of a method: `setting` (its number), `seed`, `trial_id`, `status` (of the
setting), `epochs` (that the search let it run), `cpu_s` (processor seconds of these, NaN where not known), and a column
for each key of the method's space. `epochs` is that table of the store.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from harness.report import escape
from harness.report.figures.variants import pareto_front
from harness.report.tables.grid import duration
from harness.report.tables.tables import markdown_table
from harness.statistics.registry import METRICS, is_metric

RUN = ("setting", "seed", "trial_id", "status", "epochs", "cpu_s")
MEASURES = {
    "selection_score": "score",
    "val_robust_avg": "average",
    "val_robust_worst": "worst",
    "val_robust_nsd": "nsd",
}
TITLES = {
    "selection_score": "validation score",
    "val_robust_avg": "validation average",
    "val_robust_worst": "validation worst",
    "val_robust_nsd": "validation NSD",
}


def in_percent(metric: str) -> bool:
    """Whether what a search goes by is a share of images."""
    return metric != "val_robust_nsd" if metric in MEASURES else METRICS[metric].percent


def title_of(metric: str) -> str:
    """What a search goes by, for people."""
    return TITLES.get(metric) or f"validation {METRICS[metric].title}"


def with_metric(
    epochs: pd.DataFrame, class_state: pd.DataFrame, metric: str, counts: np.ndarray | None
) -> pd.DataFrame:
    """`epochs` with a column for a metric of the classes, of their robust accuracy on validation images. counts: images
    of each class there (C,), for metrics that ask for them."""
    robust = class_state[class_state["quantity"].astype(str) == "val_robust"].astype({"trial_id": str})
    wide = robust.pivot(index=["trial_id", "epoch"], columns="class_index", values="value")
    images = np.full(wide.shape[1], np.nan) if counts is None else counts
    found = pd.Series(METRICS[metric].values(wide.to_numpy(dtype=float), images), wide.index, name=metric)
    return epochs.astype({"trial_id": str}).merge(found.reset_index(), on=["trial_id", "epoch"], how="left")


_DIGITS = 9  # to which means over seeds are equal


@dataclass(frozen=True)
class Found:
    """What a search found of one method: `runs`, and the `table` of its settings (see `settings_table`)."""

    method: str
    runs: pd.DataFrame
    table: pd.DataFrame

    @property
    def keys(self) -> list[str]:
        """What differs between its settings."""
        return keys_of(self.runs)

    @property
    def best(self) -> dict[str, Any] | None:
        """The line of the best setting."""
        lines = self.table[self.table["best"]].to_dict("records")
        return {str(key): value for key, value in lines[0].items()} if lines else None


def kept_epochs(runs: pd.DataFrame, epochs: pd.DataFrame) -> pd.DataFrame:
    """`runs` with the row of `epochs` whose weights selection kept: the best selection score among the epochs that the
    search let it run, the later one of equals; `hours`, of all of these. NaN for a run without an epoch."""
    own = runs[["trial_id", "epochs"]].rename(columns={"epochs": "allowed"})
    rows = epochs.astype({"trial_id": str}).merge(own, on="trial_id")
    rows = rows[rows["epoch"] <= rows["allowed"]].sort_values(["trial_id", "epoch"])
    hours = rows.groupby("trial_id")["seconds"].sum() / 3600
    best = rows.sort_values(["trial_id", "selection_score", "epoch"], na_position="first").groupby("trial_id").tail(1)
    measured = [name for name in best.columns if name in MEASURES or is_metric(name)]
    best = best.rename(columns={"epoch": "kept_epoch"})[["trial_id", "kept_epoch", *measured]]
    return runs.merge(best, on="trial_id", how="left").assign(hours=runs["trial_id"].map(hours).to_numpy())


def settings_table(runs: pd.DataFrame, epochs: pd.DataFrame, metric: str, mode: str) -> pd.DataFrame:
    """A line per setting of a method, best first: its values, `status`, `epochs`, the metric's `mean`, standard
    deviation `sd` and `seed_N`, the means of all MEASURES, `hours`, and whether it is `best`, `tied` with the best by
    the metric, or on the `pareto` front.

    The metric is that of the kept checkpoint. Best, and the front of validation average against worst class, are of the
    settings that ran to their end; of equals the one with the higher average is best, then the one that was tried
    first.
    """
    kept = kept_epochs(runs, epochs)
    groups = kept.groupby("setting", sort=True)
    keys = keys_of(runs)
    table = groups[[*keys, "status", "epochs"]].first()
    # a seed whose metric is not defined, as the NSD of all classes at 0, must not make the mean that of the others
    table["mean"] = groups[metric].agg(lambda values: values.mean(skipna=False))
    table["sd"] = groups[metric].std(ddof=1)
    for seed, part in kept.groupby("seed"):
        table[f"seed_{seed}"] = part.set_index("setting")[metric]
    for column, name in MEASURES.items():
        table[name] = groups[column].mean()
    table["hours"] = groups["hours"].sum()
    rank = table["status"].map({"done": 0, "stopped": 1}).fillna(2)
    order = pd.DataFrame(
        {"rank": rank, "mean": table["mean"] * (-1 if mode == "max" else 1), "average": -table["average"]}
    )
    table = table.loc[order.round(_DIGITS).sort_values(["rank", "mean", "average"], kind="stable").index]
    done = table[(table["status"] == "done") & table["mean"].notna()]
    table["best"] = table["tied"] = table["pareto"] = False
    if len(done):
        table.loc[done.index[0], "best"] = True
        table.loc[done.index[1:], "tied"] = done["mean"].iloc[1:].round(_DIGITS) == round(done["mean"].iloc[0], _DIGITS)
        front = done.index[pareto_front(done[["average", "worst"]].to_numpy(dtype=float))]
        table.loc[front, "pareto"] = True
    return table.reset_index()


def winner(found: Found) -> str:
    """The best setting of a method in a sentence: of how many, how many ran to their end, which are as good."""
    table, best = found.table, found.best
    finished = int((table["status"] == "done").sum())
    tried = f"{len(table)} settings tried, {finished} of them to the end"
    if best is None:
        return f"{found.method}: {tried}: none is best."
    tied = [setting_text(line, found.keys) for line in table[table["tied"]].to_dict("records")]
    equal = f", tied by the metric with {'; '.join(tied)}" if tied else ""
    return f"{found.method}: {tried}; best: {setting_text(best, found.keys)}{equal}."


def setting_text(line: Mapping[Any, Any], keys: Iterable[str]) -> str:
    """A setting in one line: `temperature_rate=0.3`."""
    return ", ".join(f"{key}={text_of(line[key])}" for key in keys) or "its defaults"


def keys_of(runs: pd.DataFrame) -> list[str]:
    """The keys of the space."""
    return [name for name in runs.columns if name not in RUN]


def cost(parts: Sequence[pd.DataFrame], epochs: pd.DataFrame, most: int, wall_s: float, reused: int) -> dict[str, Any]:
    """What the search took, and what stopping saved: epochs that were not run, at the mean time of those that were.

    parts: the runs of each method. most: epochs of a whole trial. wall_s: of the drivers. reused: epochs that other
    searches had left in the store, counted like the others. cpu_s: processor seconds of these epochs, None where the
    store does not have them.
    """
    runs = pd.concat(parts, ignore_index=True)
    rows = epochs.astype({"trial_id": str}).merge(runs[["trial_id", "epochs"]], on="trial_id", suffixes=("", "_run"))
    rows = rows[rows["epoch"] <= rows["epochs"]]
    per_epoch = float(rows["seconds"].mean()) if len(rows) else 0.0
    stopped = runs[runs["status"] == "stopped"]
    spared = int((most - stopped["epochs"]).sum())
    by_status = pd.concat([part.drop_duplicates("setting")["status"] for part in parts]).value_counts()
    return {
        "settings": int(by_status.sum()),
        **{status: int(by_status.get(status, 0)) for status in ("done", "stopped", "failed", "open")},
        "trials": len(runs),
        "epochs_run": len(rows),
        "epochs_possible": most * len(runs),
        "epochs_reused": reused,
        "hours": float(rows["seconds"].sum()) / 3600,
        "cpu_s": None if runs["cpu_s"].isna().any() else float(runs["cpu_s"].sum()),
        "wall_hours": wall_s / 3600,
        "seconds_per_epoch": per_epoch,
        "epochs_saved": spared,
        "hours_saved": spared * per_epoch / 3600,
    }


def csv_text(parts: Sequence[Found]) -> str:
    """The tables of all methods in full, as one; a key that a method does not have is empty."""
    frame = pd.concat([part.table.assign(method=part.method) for part in parts], ignore_index=True)
    keys = list(dict.fromkeys(key for part in parts for key in part.keys))
    frame = frame[
        ["method", "setting", *keys, *(name for name in frame.columns if name not in ("method", "setting", *keys))]
    ]
    for name in frame.columns:
        frame[name] = [
            escape.csv(text_of(value)) if isinstance(value, (str, list, dict)) else value for value in frame[name]
        ]
    text = io.StringIO()
    frame.to_csv(text, index=False, lineterminator="\n")
    return text.getvalue()


def markdown(parts: Sequence[Found], facts: Mapping[str, Any], spent: Mapping[str, Any]) -> str:
    """The search as a Markdown document. facts: of the search, as in its journal. spent: see `cost`."""
    names = ", ".join(part.method for part in parts)
    lines = [f"# Tuning of {escape.markdown(names)} on {escape.markdown(facts['suite'])}", _sentences(facts, spent)]
    for part in parts:
        space = ", ".join(f"{key} in {text}" for key, text in facts["space"][part.method].items())
        lines += [
            f"## {escape.markdown(part.method)}",
            escape.markdown(winner(part) + f" Space: {space}." * bool(space)),
        ]
        lines.append(_settings(part, facts))
    return "\n\n".join(lines) + "\n"


def _settings(part: Found, facts: Mapping[str, Any]) -> str:
    percent = in_percent(facts["metric"])
    seeds = [name for name in part.table.columns if name.startswith("seed_")]
    scores = ["mean", *(["sd", *seeds] if len(seeds) > 1 else [])]
    titles = ["", *map(escape.markdown, part.keys), *(name.replace("_", " ") for name in scores)]
    titles += ["score", "average", "worst", "NSD", "epochs", "status", "time"]
    rows = []
    for line in part.table.to_dict("records"):
        marks = {"**best**": line["best"], "tied": line["tied"], "front": line["pareto"] and not line["best"]}
        values = [escape.markdown(text_of(line[key])) for key in part.keys]
        numbers = [number(line[name], percent) for name in scores]
        numbers += [number(line[name], name != "nsd") for name in MEASURES.values()]
        reached = f"{line['epochs']:.0f}/{facts['epochs']}"
        mark = ", ".join(text for text, holds in marks.items() if holds)
        rows.append([mark, *values, *numbers, reached, line["status"], duration(3600 * line["hours"])])
    return markdown_table(titles, rows)


def _sentences(facts: Mapping[str, Any], spent: Mapping[str, Any]) -> str:
    better = "higher" if facts["mode"] == "max" else "lower"
    percent = " in percent" if in_percent(facts["metric"]) else ""
    first = ", the first one each method's own setting" if facts["with_default"] else ""
    seeds = ", ".join(map(str, facts["seeds"]))
    parts = [
        f"Search: {facts['search']}, {facts['trials']} tries for every method{first}; {_stopping(facts)}.",
        f"Mean: {facts['metric']} on held-out training images{percent}, {better} is better, at the epoch that "
        f"selection keeps, over seed{'s' * (len(facts['seeds']) > 1)} {seeds}; sd: over seeds. Score: half the average "
        "and half the worst class.",
        "Best and front (validation average against worst class) are of settings that ran to their end; of settings "
        "that are equal by the metric the one with the higher average is best, then the one tried first.",
        f"Cost: {spent['settings']} settings, {spent['trials']} trials, {spent['epochs_run']} of "
        f"{spent['epochs_possible']} epochs, {_processor(spent['cpu_s'])}"
        f"{duration(3600 * spent['hours'])} of training, {duration(3600 * spent['wall_hours'])} of wall time; stopping "
        f"saved {spent['epochs_saved']} epochs, about {duration(3600 * spent['hours_saved'])}.",
    ]
    if spent["epochs_reused"]:
        parts.append(
            f"{spent['epochs_reused']} of these epochs were in the store already; the wall time is without them."
        )
    return " ".join(escape.markdown(part) for part in parts)


def _stopping(facts: Mapping[str, Any]) -> str:
    if facts["scheduler"] == "none":
        return f"every setting is trained for {facts['epochs']} epochs"
    if facts["scheduler"] == "halving":
        cuts = ", ".join(map(str, facts["rungs"])) or "none"
        return f"successive halving, the best third goes on, at least two; cuts after epoch {cuts} of {facts['epochs']}"
    return f"scheduler {facts['scheduler']} from epoch {facts['grace']} of {facts['epochs']} on"


def _processor(seconds: float | None) -> str:
    return "" if seconds is None else f"{duration(seconds)} of a processor, "


def number(value: float, percent: bool) -> str:
    """A measure for people: a rate in percent, or an NSD."""
    return "–" if not np.isfinite(value) else f"{100 * value:.2f}" if percent else f"{value:.3f}"


def text_of(value: Any) -> str:
    """A value of a setting, for people."""
    if isinstance(value, (list, dict)):
        return json.dumps(value)
    return f"{value:g}" if isinstance(value, float) else str(value)
