"""The numbers of a leaderboard: one row per variant, mean over seeds, every interval with its source. No formatting."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd

from harness.report.results import Results, records
from harness.report.rows import CELL, SETTING, in_setting, settings_of
from harness.report.scores.counts import (
    BY_TRIAL,
    ClassCounts,
    attack_order,
    checkpoint_order,
    class_counts,
    mean_counts,
)
from harness.report.scores.differences import differences, pick_baselines, registered_differences, stands
from harness.report.scores.families import MarkedColumns, Registered, marked_columns, unmarked
from harness.report.scores.intervals import sample_intervals, seed_intervals
from harness.report.scores.notes import meanings, notes_of, one_class
from harness.report.scores.origin import made_by
from harness.report.scores.ranking import Column, Ranking, rankings
from harness.report.scores.requested import requested_attacks, requesting_networks
from harness.report.scores.seeds import listed, usual
from harness.report.scores.selection import RULES, selection_gap
from harness.report.scores.teachers import teacher_counts, teacher_spread
from harness.statistics import metrics
from harness.statistics.nsd_interval import most_nsd
from harness.statistics.registry import METRICS, scored


@dataclass(frozen=True)
class Leaderboard:
    """rows: as `Results.rows`, with seeds, what is missing, cost, what peeking would have given, and where it is from.

    scores: a line per row, checkpoint, attack and metric: value (mean over seeds), seeds, seed_list (which attacks of
    some seeds only make differ from the row's), images, classes, sample_low and sample_high (95 % over test images),
    seed_low and seed_high (95 % t over seeds, null below three), rank (1 best of the students over the same seeds, 2
    second, 0 not ranked), and difference with its bounds and pairing: see `differences`. Where a difference is marked,
    also p (over seeds, corrected for all marked ones) and stands: whether p is below 0.05 and the bounds over test
    samples, where there are any, exclude zero (with three teachers also those over seeds and teachers). teacher_spread
    and spread_seeds: see `teacher_spread`. specs: by row, the specification of one of its trials. requests: see
    `requested_attacks`. baselines: by setting, the variant that others are compared with. marked: by setting and
    checkpoint, what is marked, unmarked: why nothing is. registered: see `registered_differences`. classes: by data set
    and class index, its name and number of test images. teacher_counts: by setting. rankings: by setting and
    checkpoint. notes: what a reader must know, a line each. columns: the metrics that were asked for.
    chosen_attacks: see `Results.attacks`.
    """

    rows: pd.DataFrame
    scores: pd.DataFrame
    specs: dict[int, str] = field(default_factory=dict)
    requests: dict[int, dict[str, dict[str, Any]]] = field(default_factory=dict)
    baselines: dict[tuple, str] = field(default_factory=dict)
    marked: dict[tuple, MarkedColumns] = field(default_factory=dict)
    unmarked: dict[tuple, str] = field(default_factory=dict)
    registered: pd.DataFrame = field(default_factory=pd.DataFrame)
    classes: dict[str, dict[int, tuple[str, int]]] = field(default_factory=dict)
    teacher_counts: dict[tuple, int] = field(default_factory=dict)
    rankings: dict[tuple, Ranking] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    columns: tuple[str, ...] = ()
    chosen_attacks: tuple[str, ...] = ()

    @property
    def attacks(self) -> list[str]:
        """Those with results, as they were chosen, else from the weakest kind to the strongest."""
        found = {str(name) for name in self.scores["attack"].unique()}
        return [name for name in self.chosen_attacks if name in found] or attack_order(list(found))

    @property
    def checkpoints(self) -> list[str]:
        return checkpoint_order([str(name) for name in self.scores["checkpoint"].unique()])

    @property
    def settings(self) -> list[tuple]:
        """The (dataset, student, eps) that have a table each."""
        return settings_of(self.rows)

    def ranking(self, setting: tuple, checkpoint: str) -> Ranking:
        """The rows of a table in their order; as they come where a board was made without."""
        return self.rankings.get((setting, checkpoint)) or Ranking(list(in_setting(self.rows, setting).index))

    def of(self, setting: tuple) -> Leaderboard:
        """The part of one setting, teachers included."""
        rows = in_setting(self.rows, setting)
        scores = self.scores[self.scores["row"].isin(rows.index)]
        specs = {row: spec for row, spec in self.specs.items() if row in rows.index}
        return replace(self, rows=rows, scores=scores, specs=specs)


def leaderboard(
    results: Results,
    *,
    baseline: str | None = None,
    paired: bool | None = None,
    primary: Sequence[Registered] = (),
    columns: Sequence[str] = (),
    rank: str | None = None,
    as_listed: bool = False,
) -> Leaderboard:
    """The leaderboard of everything in `results`.

    baseline: the variant that others are compared with; see `pick_baselines` for the default. paired: read `outcomes`
    for the differences; by default for small reports. primary: comparisons registered before their results. columns:
    metrics that tables show under each attack; see `main_metrics` for the default. rank, as_listed: what tables are
    ordered by, see `ranking.Column`.
    """
    by_trial = class_counts(results.class_accuracy, BY_TRIAL)
    column = Column.of(rank, [str(name) for name in by_trial.keys["attack"].unique()], as_listed)
    worst_class = validation_worst(results)
    of_datasets = by_dataset(results, by_trial)
    parts = [_scores(part, worst_class, columns) for part in of_datasets]
    scores = pd.concat(parts, ignore_index=True) if parts else _NO_SCORES
    scores = _ranked(scores, results.rows)
    baselines = pick_baselines(results.rows, baseline)
    found = differences(results, by_trial, baselines, paired=paired)
    marked, p_values = marked_columns(results.rows, by_trial, baselines)
    scores = scores.merge(found, on=[*CELL, "metric"], how="left").merge(p_values, on=[*CELL, "metric"], how="left")
    scores["stands"] = stands(scores)
    scores = scores.merge(teacher_spread(results, columns), on=[*CELL, "metric"], how="left")
    rows = results.rows.join(_costs(results)).join(_peeked(results))
    rows["missing"] = _missing(results, by_trial)
    rows["tuning_trials"] = _tuning_trials(results)
    rows = rows.join(made_by(results))
    first = results.trials.drop_duplicates("row")
    specs = dict(zip(first["row"], first["spec"], strict=True))
    chosen = registered_differences(results, by_trial, primary, paired=paired)
    classes = _classes(results)
    notes = notes_of(results, scores) + one_class(results, by_trial, classes) + meanings(columns)
    bare = unmarked(results.rows, by_trial, baselines)
    asked, teachers = requested_attacks(results), teacher_counts(results)
    ranked = rankings(results, of_datasets, column, paired)
    return Leaderboard(
        rows,
        scores,
        specs,
        asked,
        baselines,
        marked,
        bare,
        chosen,
        classes,
        teachers,
        ranked,
        notes,
        tuple(columns),
        results.attacks,
    )


_NO_SCORES = pd.DataFrame(columns=[
    *CELL, "metric", "value", "seeds", "seed_list", "seed_low", "seed_high", "images", "classes", "fewest", "most",
    "sample_low", "sample_high",
])  # fmt: skip


def by_dataset(results: Results, counts: ClassCounts) -> list[ClassCounts]:
    """The counts of each data set; they may differ in their number of classes."""
    dataset = results.rows.groupby("dataset", sort=False, dropna=False).ngroup()
    of_line = dataset.reindex(counts.keys["row"]).to_numpy()
    parts = [counts.where(of_line == number) for number in np.unique(of_line)]
    classes = results.class_accuracy.groupby("row", observed=True)["class_index"].max() + 1
    sizes = [int(classes.reindex(part.keys["row"]).max()) for part in parts]
    return [
        ClassCounts(part.keys, part.correct[:, :n], part.images[:, :n]) for part, n in zip(parts, sizes, strict=True)
    ]


def validation_worst(results: Results) -> pd.Series:
    """The class with the smallest robust validation accuracy in the chosen epoch, by trial_id and checkpoint."""
    epochs = results.epochs.astype({"trial_id": str})
    chosen = [
        RULES[name].choose(epochs).rename("epoch").reset_index().assign(checkpoint=name)
        for name in ("best_validation", "last")
    ]
    wanted = pd.concat(chosen, ignore_index=True)
    state = results.class_state(["val_robust"], at=wanted[["trial_id", "epoch"]])
    wide = state.pivot(index=["trial_id", "epoch"], columns="class_index", values="value")
    worst = pd.Series(
        metrics.worst_class(wide.to_numpy(dtype=float)) if len(wide) else [], wide.index, name="worst", dtype="int64"
    )
    joined = wanted.merge(worst.reset_index(), on=["trial_id", "epoch"])
    return joined.set_index(["trial_id", "checkpoint"])["worst"]


def _scores(counts: ClassCounts, worst_class: pd.Series, more: Sequence[str]) -> pd.DataFrame:
    """A line per row, checkpoint, attack and metric, of one data set. The accuracy over all images (`overall`) is there
    where classes have unlike numbers of images.
    """
    others = {"validation_worst": _at_class(counts, worst_class)}
    if counts.unequal or "overall" in more:
        others["overall"] = np.nansum(counts.correct, axis=1), counts.images.sum(axis=1)
    asked = scored(more)
    values = pd.DataFrame({metric.name: metric.values(counts.accuracy, counts.images) for metric in asked})
    values = values.assign(**{name: metrics.rates(*counted) for name, counted in others.items()})
    most = float(np.max(most_nsd(counts.accuracy), initial=0.0))
    within = {metric.name: metric.within for metric in (*METRICS.values(), *asked)}
    within |= {"nsd": (0.0, most), "nsd_sample": (0.0, np.sqrt(most**2 + 1))}
    scores = seed_intervals(counts.keys, values, by=CELL, within=within)
    means = mean_counts(counts, CELL)
    there = np.where(means.images > 0, means.images, np.nan).round()
    images = means.keys.assign(
        images=np.nansum(there, axis=1).astype(int), classes=means.images.shape[1],
        fewest=np.nanmin(there, axis=1).astype(int), most=np.nanmax(there, axis=1).astype(int),
    )  # fmt: skip
    seeds: Any = counts.keys.groupby(CELL, sort=False, observed=True)["seed"]
    images = images.merge(seeds.agg(listed).rename("seed_list").reset_index(), on=CELL)
    samples = sample_intervals(counts, CELL, others)
    return scores.merge(images, on=CELL, how="left").merge(samples, on=[*CELL, "metric"], how="left")


def _at_class(counts: ClassCounts, worst_class: pd.Series) -> tuple[np.ndarray, np.ndarray]:
    """(correct, images) of the class that validation found worst, for each line; NaN and 0 where it is not known."""
    keys = pd.MultiIndex.from_arrays([counts.keys["trial_id"].astype(str), counts.keys["checkpoint"].astype(str)])
    index = worst_class.reindex(keys).to_numpy(dtype=float)
    known = np.isfinite(index) & (np.nan_to_num(index) < counts.images.shape[1])
    column = np.where(known, index, 0).astype(int)
    lines = np.arange(len(column))
    return np.where(known, counts.correct[lines, column], np.nan), np.where(known, counts.images[lines, column], 0.0)


def _ranked(scores: pd.DataFrame, rows: pd.DataFrame) -> pd.DataFrame:
    """`rank` among the students of a setting: equal numbers share a rank; a column with one number has none, nor has
    one over other seeds than most of its column (`usual`)."""
    students = rows.index[rows["role"] == "student"]
    setting = rows.groupby(SETTING, sort=False, dropna=False).ngroup()
    part = scores[scores["row"].isin(students) & scores["value"].notna()]
    sign = part["metric"].map(lambda name: -1.0 if METRICS[name].up else 1.0).astype(float)
    keys = [setting.reindex(part["row"]).to_numpy(), part["checkpoint"], part["attack"], part["metric"]]
    length = dict(zip(part["seed_list"], part["seeds"], strict=True))
    lists = part["seed_list"].groupby(keys, sort=False, observed=True)
    common = lists.transform(lambda own: usual(own, length.__getitem__))
    signed = (sign * part["value"].astype(float)).round(9).where(part["seed_list"] == common)
    groups = signed.groupby(keys, sort=False, observed=True)
    rank = groups.rank(method="dense").where(groups.transform("count") > 1, 0)
    return scores.assign(rank=rank.where(rank <= 2, 0).reindex(scores.index).fillna(0).astype(int))


def _costs(results: Results) -> pd.DataFrame:
    """Per row: seeds done, mean hours of training and evaluation of one trial, largest memory."""
    groups = results.done.astype({"train_s": float, "eval_s": float, "peak_memory_mb": float}).groupby("row")
    table = pd.DataFrame({
        "seeds": groups["seed"].nunique(), "seed_list": groups["seed"].agg(listed),
        "train_hours": groups["train_s"].mean() / 3600, "eval_hours": groups["eval_s"].mean() / 3600,
        "peak_memory_mb": groups["peak_memory_mb"].max(),
    }).reindex(results.rows.index)  # fmt: skip
    seeds = pd.to_numeric(table["seeds"]).fillna(0).astype(int)
    return table.assign(seeds=seeds, seed_list=table["seed_list"].astype(object).fillna(""))


def _tuning_trials(results: Results) -> pd.Series:
    """Per row: how many trials of the store belong to the tuning run that its settings come from; NaN for none."""
    if "tuning_id" not in results.trials:
        return pd.Series(np.nan, results.rows.index)
    every = results.store.trials(["trial_id", "tuning_id"])
    count = every.groupby("tuning_id", observed=True)["trial_id"].nunique()
    of_row = results.trials.dropna(subset=["tuning_id"]).groupby("row", observed=True)["tuning_id"].first()
    return of_row.astype(object).map(count).astype("float64").reindex(results.rows.index)


def _peeked(results: Results) -> pd.DataFrame:
    """Per row, mean over seeds: the robust test score at the honest, the last and the peeked epoch, where it was
    recorded.
    """
    columns = ["honest_score", "last_score", "peeked_score", "peeked_gain"]
    recorded = results.trials["spec"].astype(str).str.contains(r'"record_test_curve": ?true', regex=True)
    peeked = results.class_state(["peeked_test_robust"]) if recorded.any() else None
    if peeked is None or peeked.empty:
        return pd.DataFrame(columns=columns, index=results.rows.index, dtype=float)
    gaps = selection_gap(results.epochs.astype({"trial_id": str}), peeked).rename(columns={"gap": "peeked_gain"})
    row = results.trials.set_index("trial_id")["row"].reindex(gaps.index)
    means = gaps[columns].groupby(row.to_numpy()).mean()
    return means.reindex(results.rows.index)


def _missing(results: Results, counts: ClassCounts) -> pd.Series:
    """Per row, in words: trials that are not done, and attacks that some of the seeds that asked for them lack."""
    texts: dict[int, list[str]] = {row: [] for row in results.rows.index}
    others = results.trials[results.trials["status"] != "done"]
    for trial in records(others):
        lines = trial["error"].strip().splitlines() if isinstance(trial["error"], str) else []
        reason = f" ({lines[-1]})" if lines else ""
        several = "," in results.rows["teachers"][trial["row"]]
        of_teacher = f" of teacher {trial['teacher_seed']:g}" if several else ""
        texts[trial["row"]].append(f"seed {trial['seed']}{of_teacher} {trial['status']}{reason}")
    networks = results.done.groupby("row")["trial_id"].nunique()
    cells = counts.keys.groupby(CELL, sort=False, observed=True)["trial_id"].nunique().rename("found").reset_index()
    asked = pd.MultiIndex.from_frame(cells[CELL].astype(object))
    cells["asked"] = requesting_networks(results).reindex(asked, fill_value=0).to_numpy()
    short = cells[cells["found"] < cells["asked"]]
    for cell in records(short):
        what = "networks" if "," in results.rows["teachers"][cell["row"]] else "seeds"
        found = f"{cell['found']} of {cell['asked']} {what}"
        texts[cell["row"]].append(f"{cell['attack']} on {cell['checkpoint']}: {found}")
    for cell in records(results.undefined):
        where = f"{cell['attack']} on {cell['checkpoint']}"
        texts[cell["row"]].append(f"{where}: no result, logits of seed {cell['seed']} are not finite")
    for row in set(networks.index) - set(counts.keys["row"]) - set(results.undefined["row"]):
        texts[row].append("no class-wise results")
    return pd.Series({row: "; ".join(parts) for row, parts in texts.items()}, dtype=object)


def _classes(results: Results) -> dict[str, dict[int, tuple[str, int]]]:
    frame = results.class_accuracy
    datasets = frame["row"].map(results.rows["dataset"]).astype(str)
    found: dict[str, dict[int, tuple[str, int]]] = {}
    groups: Any = frame.astype({"class_name": str}).groupby([datasets, "class_index"])
    for (dataset, index), part in groups:
        found.setdefault(dataset, {})[int(index)] = part["class_name"].iloc[0], int(part["n"].max())
    return found
