"""The finer tables of a leaderboard as frames: intervals and differences, selection and cost, everything in numbers."""

from __future__ import annotations

from typing import Any

import pandas as pd

from harness.attacks.registry import headline
from harness.report.captions import attack_title
from harness.report.results import records
from harness.report.scores.differences import BOUNDS
from harness.report.scores.leaderboard import Leaderboard
from harness.report.tables.grid import MAIN, Cell, change_text, costs, duration, grid, number, or_dash
from harness.statistics.registry import METRICS, in_order


def intervals_table(board: Leaderboard, setting: tuple, checkpoint: str) -> pd.DataFrame:
    """As text: per row and attack every metric with its intervals and its difference from the baseline."""
    part = board.of(setting)
    many = part.scores["classes"].max() > 10  # up to ten classes the worst tenth is the worst class
    known = list(part.scores["metric"].unique())
    names = in_order([name for name in known if many or name != "worst_10_percent"])
    table = grid(board, setting, checkpoint, names)
    baseline = board.baselines.get(setting)
    scores = part.scores[part.scores["checkpoint"].isin([checkpoint, "given"])]
    by_cell = {(score["row"], score["attack"], score["metric"]): score for score in records(scores)}
    found = []
    for line in table.lines:
        row = line.row
        for attack in [name for name in table.attacks if (name, "average") in line.cells]:
            texts = {
                METRICS[name].title: _with_bounds(line.cells.get((attack, name)))
                + _between_teachers(by_cell.get((row, attack, name)), name, line.facts["seed_list"])
                for name in names
            }
            if baseline is not None:
                for name in MAIN:
                    change = _difference(by_cell[row, attack, name], name, line.facts["seed_list"])
                    texts[f"Δ {METRICS[name].title} to {baseline}"] = change
            found.append({"variant": line.name, "attack": attack_title(attack), **texts})
    return pd.DataFrame(found)


def _with_bounds(cell: Cell | None) -> str:
    if cell is None:
        return "–"
    sample, seeds = cell.bounds("samples"), cell.bounds("seeds")
    text = cell.text() + (f" test samples [{sample[0]}, {sample[1]}]" if sample else "")
    return text + (f" seeds [{seeds[0]}, {seeds[1]}]" if seeds else "")


def _between_teachers(score: dict[str, Any] | None, metric: str, seeds: str) -> str:
    if score is None or pd.isna(score["teacher_spread"]):
        return ""
    over = "" if score["spread_seeds"] == seeds else f" (over seeds {score['spread_seeds']})"
    return f" between teachers {number(score['teacher_spread'], METRICS[metric])}{over}"


def _difference(score: dict[str, Any], metric: str, seeds: str) -> str:
    if pd.isna(score.get("difference")):
        return "–"
    return change_text(score, METRICS[metric]) + over_other_seeds(score, seeds)


def over_other_seeds(score: dict[str, Any], seeds: str) -> str:
    """Which seeds a difference is over, where they are not `seeds`, those of its row."""
    known = not pd.isna(score["common_seeds"]) and score["common_seeds"] != seeds
    return f" (over seeds {score['common_seeds']})" if known else ""


MOST_CLASSES = 30  # that are listed with their numbers of images


def class_images(board: Leaderboard, setting: tuple) -> str:
    """How many test images each class has; of many classes the fewest and the most."""
    classes = sorted(board.classes.get(str(setting[0]), {}).items())
    counts = [count for _, (_, count) in classes]
    if not counts:
        return ""
    if min(counts) == max(counts):
        return f"Test images: {counts[0]:,} of each of {len(counts)} classes."
    if len(counts) > MOST_CLASSES:
        return f"Test images: {min(counts):,} to {max(counts):,} of each of {len(counts)} classes."
    return f"Test images by class: {', '.join(f'{name} {count:,}' for _, (name, count) in classes)}."


def selection_table(board: Leaderboard, setting: tuple, checkpoint: str) -> pd.DataFrame:
    """As text: per row, in the order of that checkpoint's table, the checkpoints side by side, what peeking would have
    given, cost, what is missing.

    What no row has (a checkpoint, peeked scores, tuning trials) has no column.
    """
    part = board.of(setting)
    attack = headline(part.attacks)
    chosen = part.scores[part.scores["attack"] == attack]
    scores = chosen.set_index(["row", "checkpoint", "metric"])["value"].to_dict()
    title = attack_title(attack) if attack else ""
    checkpoints, peeks = part.checkpoints, {} if part.rows["peeked_score"].isna().all() else _PEEKED
    was_tuned, found = part.rows["tuning_trials"].notna().any(), []
    order = board.ranking(setting, checkpoint).order
    for row, facts in zip(order, records(part.rows.loc[order]), strict=True):
        pairs = {}
        for checkpoint in checkpoints:
            texts = [number(scores.get((row, checkpoint, name)), METRICS[name]) for name in MAIN[:2]]
            pairs[f"{checkpoint} {title}"] = " / ".join(texts)
        peeked = {name: number(facts[column], METRICS["average"]) for name, column in peeks.items()}
        seeds, _, memory = costs(facts)
        hours = {title: facts[f"{part}_hours"] for part, title in _TIMES.items()}
        times = {title: duration(3600 * time) if time else "–" for title, time in hours.items()}
        tuning = {"tuning trials": or_dash(facts["tuning_trials"], ".0f")} if was_tuned else {}
        cost = {"seeds": seeds, **times, "MiB": memory, **tuning}
        found.append({"variant": facts["variant"], **pairs, **peeked, **cost, "missing": facts["missing"] or "nothing"})
    return pd.DataFrame(found)


MOST_IDS = 12  # of a row that a table lists
_COMMIT = 12  # characters of a commit that a table shows


def origins_table(board: Leaderboard, setting: tuple) -> pd.DataFrame:
    """As text: per row the commits and the ids of its trials."""
    found = []
    for facts in records(board.of(setting).rows):
        ids = facts["trial_ids"].split()
        more = f" and {len(ids) - MOST_IDS:,} more" if len(ids) > MOST_IDS else ""
        commits = [commit[:_COMMIT] + "+" * commit.endswith("+") for commit in facts["commits"].split()]
        trials = " ".join(ids[:MOST_IDS]) + more
        found.append({"variant": facts["variant"], "commit": ", ".join(commits) or "–", "trials": trials or "–"})
    return pd.DataFrame(found)


_TIMES = {"train": "training", "eval": "evaluation"}
_PEEKED = {
    "test score": "honest_score",
    "last test score": "last_score",
    "peeked test score": "peeked_score",
    "gain of peeking": "peeked_gain",
}


def wide(board: Leaderboard) -> pd.DataFrame:
    """A line per row, checkpoint and attack, with columns `average`, `average_sample_low` and so on, and the
    seeds of these numbers.

    Rows without results stay.
    """
    cell = ["row", "checkpoint", "attack"]
    values = [name for name in ("value", *BOUNDS, *_DIFFERENCE, *_BETWEEN) if name in board.scores]
    scores = board.scores.astype({"checkpoint": str, "attack": str})
    unstacked = scores.set_index([*cell, "metric"])[values].unstack("metric")
    names = in_order(list(scores["metric"].unique()))
    pairs = [(value, metric) for metric in names for value in values if (value, metric) in unstacked]
    columns = {metric if value == "value" else f"{metric}_{value}": unstacked[value, metric] for value, metric in pairs}
    table = pd.DataFrame(columns, index=unstacked.index).dropna(axis="columns", how="all")
    facts = scores.groupby(cell, observed=True)[["images", "seeds", "seed_list"]].first()
    several = "teacher_spread" in board.scores and board.scores["teacher_spread"].notna().any()
    rows = board.rows if several else board.rows.drop(columns=["teachers", "teachers_aside"])
    table = table.join(facts).reset_index()
    order = {name: place for place, name in enumerate([*board.checkpoints, *board.attacks])}
    table = table.sort_values(cell, key=lambda column: column.map(order) if column.name != "row" else column)
    merged = rows.merge(table, left_index=True, right_on="row", how="left", suffixes=("", "_of_cell"))
    merged = merged.drop(columns="row")
    for name in ("seeds", "seed_list"):
        merged[name] = merged.pop(f"{name}_of_cell").fillna(merged[name]).astype(rows[name].dtype)
    return merged


_DIFFERENCE = ("difference", *[f"difference_{name}" for name in BOUNDS], "pairing", "common_seeds", "p", "stands")
_BETWEEN = ("teacher_spread", "spread_seeds")
