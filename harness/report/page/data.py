"""What the page shows, as plain lists and numbers small enough to travel in one file.

Scores and their bounds are whole numbers in billionths, so that the page rounds as the tables do. Classes and curves,
which are many, are in 1/10,000. Null is undefined. Curves are thinned.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from harness.report.captions import attack_title, caption, eps_text, setting_title
from harness.report.data_names import read_spec
from harness.report.escape import visible
from harness.report.figures.data import class_names
from harness.report.page.methods import method_notes
from harness.report.results import Results, records
from harness.report.rows import CELL, SETTING
from harness.report.scores.counts import BY_TRIAL, ClassCounts, class_counts, mean_counts
from harness.report.scores.differences import (
    BOUNDS,
    MOST_PAIRED,
    Outcomes,
    class_differences,
    comparisons,
    metric_differences,
    paired_lines,
)
from harness.report.scores.intervals import class_intervals
from harness.report.scores.leaderboard import Leaderboard, by_dataset
from harness.report.scores.ranking import Ranking
from harness.report.scores.selection import RULES
from harness.report.tables.grid import MAIN, mark
from harness.report.trained import as_told
from harness.spec import CHECKPOINTS
from harness.statistics.registry import METRICS

SHOWN = ("average", "worst", "worst_10_percent", "nsd", "nsd_sample", "gap", "validation_worst", "overall")
FINE, COARSE = 1_000_000_000, 10_000
MOST_COMPARED = 16  # variants of a setting among which every pair is compared beforehand
MOST_POINTS = 30  # of a curve
MOST_NUMBERS = 120_000  # in all temperature curves together; beyond, they are thinned further


def page_data(results: Results, board: Leaderboard, checkpoint: str) -> dict[str, Any]:
    """Everything on the page. Settings have tables; rows refer to them by place, as pairs refer to rows."""
    settings = board.settings
    counts = class_counts(results.class_accuracy, BY_TRIAL)
    rows = _rows(results, board, settings)
    _add_classes(rows, results, counts)
    _add_seeds(rows, results, counts)
    _add_curves(rows, results)
    return {
        "checkpoint": checkpoint,
        "checkpoints": board.checkpoints,
        "rules": {name: rule.description for name, rule in RULES.items()},
        "attacks": [[name, attack_title(name)] for name in board.attacks],
        "metrics": [[name, METRICS[name].title, METRICS[name].up, METRICS[name].percent] for name in _shown(board)],
        "columns": board.columns,
        "settings": [_setting(results, board, setting) for setting in settings],
        "rows": rows,
        "pairs": _pairs(results, board, counts),
        "methods": method_notes(set(board.rows["method"].dropna())),
        "notes": board.notes,
    }


def _shown(board: Leaderboard) -> list[str]:
    return [*SHOWN, *(name for name in board.columns if name not in SHOWN)]


def _setting(results: Results, board: Leaderboard, setting: tuple) -> dict[str, Any]:
    rows = board.of(setting).rows
    accuracy = results.class_accuracy
    return {
        **dict(zip(SETTING, setting, strict=True)),
        "title": setting_title(setting),
        "eps_text": eps_text(setting[2]),
        "classes": class_names(accuracy[accuracy["row"].isin(rows.index)]),
        "baseline": board.baselines.get(setting),
        "marked": {name: board.marked[setting, name].attack for name in CHECKPOINTS if (setting, name) in board.marked},
        "rankings": {name: _ranking(board.ranking(setting, name)) for name in CHECKPOINTS},
        "unequal": bool((board.of(setting).scores["metric"] == "overall").any()),
        "captions": {name: caption(board, setting, name) for name in board.checkpoints},
    }


def _ranking(found: Ranking) -> dict[str, Any]:
    metric = found.metric
    shown = {"metric": metric.name, "title": metric.title, "up": metric.up, "percent": metric.percent}
    return shown | {"attack": found.attack, "listed": found.as_listed}


def _rows(results: Results, board: Leaderboard, settings: Sequence[tuple]) -> list[dict[str, Any]]:
    """The facts of every row with its scores: by checkpoint and attack, per metric value, bounds, rank, mark and spread
    between teachers."""
    facts = records(board.rows)
    parts = reversed(list(enumerate(settings)))
    places = {row: place for place, setting in parts for row in board.of(setting).rows.index}
    rows = []
    for place, row in enumerate(facts):
        known = {key: _plain(row[key]) for key in _FACTS}
        standing = {name: _standing(board, settings[places[place]], name, place) for name in CHECKPOINTS}
        rows.append(known | {"setting": places[place], "standing": standing, "scores": {}, "images": {}})
    names = _shown(board)
    for score in records(board.scores[board.scores["metric"].isin(names)]):
        row = rows[score["row"]]
        cell = row["scores"].setdefault(score["checkpoint"], {}).setdefault(score["attack"], [None] * len(names))
        row["images"][score["attack"]] = _plain(score["images"])
        numbers = [small(score[name]) for name in ("value", *BOUNDS)]
        shown = [*numbers, score["rank"], mark(score, METRICS[score["metric"]]), small(score["teacher_spread"])]
        cell[names.index(score["metric"])] = shown[:1] + _trimmed(shown[1:])
    for place, row in enumerate(rows):
        row["spec"] = as_told(read_spec(board.specs.get(place)))
    return rows


def _standing(board: Leaderboard, setting: tuple, checkpoint: str, row: int) -> list[int | None]:
    """Where a row stands in its table: place from 0, rank (0 without) and what the table is ordered by."""
    ranking = board.ranking(setting, checkpoint)
    return [ranking.order.index(row), ranking.ranks.get(row, 0), small(ranking.values.get(row))]


_FACTS = (
    "role", "variant", "student", "method", "teacher", "teachers", "seeds", "seed_list", "train_hours", "eval_hours",
    "peak_memory_mb", "missing", "honest_score", "last_score", "peeked_score", "peeked_gain", "tuning_trials",
)  # fmt: skip


def _add_classes(rows: list[dict[str, Any]], results: Results, counts: ClassCounts) -> None:
    """`classes` of each row: by checkpoint and attack, per class accuracy (mean over seeds) and its sample bounds; and
    `class_images`, by attack.
    """
    for part in by_dataset(results, counts):
        for (row, checkpoint, attack), classes, images in _class_cells(part):
            rows[row].setdefault("classes", {}).setdefault(checkpoint, {})[attack] = classes
            rows[row].setdefault("class_images", {})[attack] = images


def _class_cells(counts: ClassCounts) -> Iterator[tuple[tuple, list[list[int | None]], list[int]]]:
    """Each row, checkpoint and attack with accuracy (mean over seeds, of a seed over its teachers) and bounds over test
    samples of every class, and the classes' images."""
    means = mean_counts(mean_counts(counts, [*CELL, "seed"]), CELL)
    low, high = class_intervals(means.correct, means.images)
    numbers = np.stack([means.accuracy, low, high], axis=2)
    keys = means.keys[CELL].itertuples(index=False, name=None)
    for key, values, images in zip(keys, numbers, means.images.round(), strict=True):
        classes = [[small(number, COARSE) for number in triple] for triple in values]
        yield key, classes, [int(count) for count in images]


def _add_seeds(rows: list[dict[str, Any]], results: Results, counts: ClassCounts) -> None:
    """`trials` of each row: id, seed, state, versions, origin, and average, worst and NSD by checkpoint and attack."""
    trials = {trial["trial_id"]: trial for trial in records(results.trials)}
    found: dict[str, dict[str, Any]] = {}
    for key, trial in sorted(trials.items(), key=lambda item: (item[1]["seed"], item[1]["teacher_seed"])):
        entry = {name: _plain(trial.get(name)) for name in _TRIAL}
        entry["versions"] = read_spec(trial["versions"])
        found[key] = entry | {"scores": {}}
        rows[trial["row"]].setdefault("trials", []).append(found[key])
    values = np.stack([METRICS[name].values(counts.accuracy, counts.images) for name in MAIN], axis=1)
    for key, numbers in zip(records(counts.keys), values, strict=True):
        cell = found[key["trial_id"]]["scores"].setdefault(key["checkpoint"], {})
        cell[key["attack"]] = [small(number) for number in numbers]


_TRIAL = (
    "trial_id", "seed", "teacher_seed", "status", "train_device", "device", "git_commit", "code_fingerprint",
    "teacher_sha256", "init_sha256",
)  # fmt: skip


def _add_curves(rows: list[dict[str, Any]], results: Results) -> None:
    """Over epochs, for each row: `curve` (robust validation, average and worst) and `temperatures` (by term, class)."""
    epochs = results.epochs.groupby(["row", "epoch"], observed=True)[["val_robust_avg", "val_robust_worst"]].mean()
    groups: Any = epochs.groupby(level="row")
    for row, part in groups:
        part = part.droplevel("row")
        kept = part.iloc[_thinned(len(part), MOST_POINTS)]
        rows[row]["curve"] = [[int(epoch) for epoch in kept.index], *(_smalls(kept[name]) for name in kept)]
    state = results.class_state(["temperature*"])
    if state.empty:
        return
    keys = ["row", "quantity", "epoch", "class_index"]
    means = state.groupby(keys, observed=True)["value"].mean().unstack("class_index")
    curves: Any = means.groupby(level=["row", "quantity"], observed=True)
    points = max(6, min(MOST_POINTS, MOST_NUMBERS // max(1, means.shape[1] * curves.ngroups)))
    for (row, quantity), part in curves:
        kept = part.iloc[_thinned(len(part), points)].droplevel(["row", "quantity"])
        term = str(quantity).removeprefix("temperature").strip("_")
        lines = [[int(epoch) for epoch in kept.index], [_smalls(kept[name]) for name in kept]]
        rows[row].setdefault("temperatures", {})[term] = lines


def _pairs(results: Results, board: Leaderboard, counts: ClassCounts) -> dict[str, Any]:
    """Comparisons of rows `first-second` (first minus second) by checkpoint and attack, made beforehand.

    Each: per metric average, worst, NSD [difference, bounds over samples, bounds over seeds, stands, which is null
    where the table does not mark it]; how samples were paired; per class [difference, low, high, p after Holm] and what
    that is over; `seeds` and `sides`, see `_add_pairs` and `_add_side`.
    """
    found: dict[str, Any] = {}
    for setting in board.settings:
        rows = _compared_rows(board.of(setting))
        part = next((one for one in by_dataset(results, counts) if one.keys["row"].isin(rows).any()), None)
        if part is None or len(rows) < 2:
            continue
        ids = set(part.keys.loc[part.keys["row"].isin(rows), "trial_id"])
        outcomes = Outcomes(results.outcomes(ids if len(ids) <= MOST_PAIRED else []))
        pairs = [(f"{first}-{second}", first, second) for first, second in itertools.combinations(rows, 2)]
        sides = paired_lines(part, pairs)
        _add_pairs(found, *sides, outcomes, _verdicts(board, setting), board.rows["seed_list"])
        for place, side in enumerate(sides):
            _add_side(found, side, place, part)
    return found


def _verdicts(board: Leaderboard, setting: tuple) -> dict[tuple, int]:
    """Whether a marked difference stands, by pair of rows (either way round), checkpoint, attack and metric."""
    part = board.of(setting)
    students = part.rows[part.rows["role"] == "student"]
    baseline = students.index[students["variant"] == board.baselines.get(setting)]
    scores = part.scores[part.scores["stands"].notna()]
    found = {}
    for score in records(scores):
        for pair in (f"{score['row']}-{baseline[0]}", f"{baseline[0]}-{score['row']}"):
            found[pair, score["checkpoint"], score["attack"], score["metric"]] = int(score["stands"])
    return found


def _add_pairs(
    found: dict[str, Any],
    mine: ClassCounts,
    theirs: ClassCounts,
    outcomes: Outcomes,
    verdicts: dict[tuple, int],
    seed_lists: pd.Series,
) -> None:
    """Each pair's cells by checkpoint and attack, with `seeds` where the difference is not over those of both rows.

    A pair without common seeds is not there.
    """
    if mine.keys.empty:
        return
    compared = comparisons(mine, theirs, outcomes)
    lines = metric_differences(mine, theirs, compared)
    for line in records(lines[lines["metric"].isin(MAIN)]):
        cells = found.setdefault(line["row"], {}).setdefault(line["checkpoint"], {})
        cell = cells.setdefault(line["attack"], {"metrics": [None] * len(MAIN)})
        verdict = verdicts.get(tuple(line[name] for name in (*CELL, "metric")))
        shown = [small(line[name]) for name in ("difference", *[f"difference_{name}" for name in BOUNDS])]
        cell["metrics"][MAIN.index(line["metric"])] = [*shown, verdict]
        cell["pairing"] = line["pairing"] or cell.get("pairing")
        if {seed_lists[int(row)] for row in line["row"].split("-")} != {line["common_seeds"]}:
            cell["seeds"] = line["common_seeds"]
    for (pair, checkpoint, attack), classes in class_differences(mine, theirs, compared).items():
        numbers = zip(*(classes[name] for name in ("difference", "low", "high", "p")), strict=True)
        cell = {"classes": [[small(number, COARSE) for number in line] for line in numbers], "over": classes["source"]}
        found[pair][checkpoint][attack] |= cell


def _add_side(found: dict[str, Any], side: ClassCounts, place: int, counts: ClassCounts) -> None:
    """`sides` of each pair's cells: by place in the pair, classes as a row has them, over the networks that are
    compared, where the row has more. counts: of the rows."""
    own = counts.keys.groupby(CELL, observed=True)["trial_id"].nunique().to_dict()
    compared: Any = side.keys.groupby(CELL, observed=True)["trial_id"].nunique().to_dict()
    fewer = [key for key, count in compared.items() if count < own[(int(key[0].split("-")[place]), *key[1:])]]
    if fewer:
        lines = pd.MultiIndex.from_frame(side.keys[CELL].astype(object)).isin(fewer)
        for (pair, checkpoint, attack), classes, _ in _class_cells(side.where(lines)):
            found[pair][checkpoint][attack].setdefault("sides", {})[place] = classes


def _compared_rows(board: Leaderboard) -> list[int]:
    """Rows whose pairs are compared beforehand: all, or the baseline and those with the best (average + worst)/2."""
    rows = board.rows[board.rows["seeds"] > 0]
    if len(rows) <= MOST_COMPARED:
        return list(rows.index)
    scores = board.scores[board.scores["metric"].isin(["average", "worst"]) & (board.scores["attack"] != "clean")]
    best = scores.groupby("row")["value"].mean().reindex(rows.index).nlargest(MOST_COMPARED).index
    baselines = rows.index[rows["variant"].isin(board.baselines.values()) & (rows["role"] == "student")]
    return sorted([*baselines[:1], *[row for row in best if row not in baselines[:1]]][:MOST_COMPARED])


def small(value: Any, scale: int = FINE) -> int | None:
    """A number as a whole one, in parts of 1/scale; null for undefined."""
    return None if value is None or pd.isna(value) else round(float(value) * scale)


def _smalls(values: pd.Series) -> list[int | None]:
    return [small(value, COARSE) for value in values]


def _thinned(count: int, most: int) -> np.ndarray:
    """At most so many places of a curve, evenly spread, the first and the last among them."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(int))


def _trimmed(values: list[Any]) -> list[Any]:
    """Without empty ends."""
    while values and values[-1] in (None, "", 0):
        values.pop()
    return values


def _plain(value: Any) -> Any:
    """For JSON: null for NaN, Python numbers for numpy's, five digits for floats."""
    if value is None or (not isinstance(value, str) and pd.isna(value)):
        return None
    if isinstance(value, (float, np.floating)):
        return float(f"{value:.5g}")
    return int(value) if isinstance(value, np.integer) else value


def safe_json(data: Any) -> str:
    """JSON that can stand inside a script element: no `<`, `>` or `&`, no invisible characters, no NaN."""
    text = json.dumps(data, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    for char in "<>&\u2028\u2029":
        text = text.replace(char, f"\\u{ord(char):04x}")
    return visible(text)
