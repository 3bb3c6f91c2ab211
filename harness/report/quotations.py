"""Numbers in prose that a store proves: passages of Markdown files that are computed from the result stores they name.

A passage stands between `<!-- from STORE: KIND key=value ... -->` and `<!-- end -->`, the store's path relative to the
file. `quote` writes every passage anew; what stands there by hand is lost, so text claims only what the store proves.
"""

from __future__ import annotations

import itertools
import json
import re
import shlex
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from harness.errors import InputError, unknown
from harness.files import open_plain, write_bytes
from harness.report import escape, tuning
from harness.report.captions import attack_title, eps_text, setting_title
from harness.report.null_control import NullControl
from harness.report.results import Results, read_results, records, some_trials
from harness.report.rows import CELL, SETTING
from harness.report.scores.counts import class_counts, mean_counts
from harness.report.scores.families import Registered
from harness.report.scores.leaderboard import Leaderboard, leaderboard
from harness.report.scores.selection import rule
from harness.report.tables.grid import MAIN, duration, number
from harness.report.tables.tables import markdown_table
from harness.statistics.registry import METRICS
from harness.store.folder import is_store
from harness.store.store import Store

_START = re.compile(r"^[ \t]*<!--[ \t]*from\b.*$", re.MULTILINE | re.IGNORECASE)  # also one that is written wrongly
_PASSAGE = re.compile(
    r"^(<!-- from (?P<store>\S[^\n]*?): (?P<words>[^\n]*?) -->[ \t\r]*\n)(?P<text>.*?)^(<!-- end -->)",
    re.DOTALL | re.MULTILINE,
)
Options = dict[str, str]


@dataclass(frozen=True, eq=False)
class Source:
    """A store that is quoted. primary: the comparisons that were registered in it before their results."""

    root: Path
    results: Results
    primary: Sequence[Registered]


PrimaryOf = Callable[[Path], Sequence[Registered]]


def quote(path: Path, primary_of: PrimaryOf) -> bool | None:
    """Write the passages of a Markdown file anew; whether that changed the file, None without passages. primary_of:
    what was registered in the store at a path. Raises InputError for a passage that cannot be computed."""
    with open_plain(path, "the page") as file:
        content = file.read()
    try:
        before = content.decode()
    except UnicodeDecodeError as error:
        raise InputError(f"cannot read {path}: {error}") from error
    try:
        after = quoted(before, path.parent, primary_of)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    if after != before:
        write_bytes(path, after.encode())
    return after != before if _PASSAGE.search(before) else None


def quoted(text: str, folder: Path, primary_of: PrimaryOf) -> str:
    """The text with every passage as its store has it now. folder: what the stores' paths are relative to. InputError
    for a passage that is begun and not ended: what stands below it is not the store's."""
    begun = [match.start() for match in _START.finditer(text)]
    read = {match.start(): match.end() for match in _PASSAGE.finditer(text)}
    for place, following in itertools.pairwise([*begun, len(text)]):
        if read.get(place, len(text) + 1) > following:
            line = text[place:].splitlines()[0].strip()
            raise InputError(
                f"line {text.count(chr(10), 0, place) + 1}, '{line}': a passage stands between lines "
                "<!-- from STORE: KIND key=value ... --> and <!-- end -->"
            )

    def passage(match: re.Match[str]) -> str:
        return f"{match[1]}\n{_passage(folder / match['store'], match['words'], primary_of)}\n\n{match[5]}"

    return _PASSAGE.sub(passage, text)


def _passage(root: Path, words: str, primary_of: PrimaryOf) -> str:
    where = f"quotation '{words}' from {root}"
    try:
        kind, *pairs = shlex.split(words)
    except ValueError as error:
        raise InputError(f"{where}: KIND key=value ... is not what stands there") from error
    if kind not in KINDS:
        raise unknown(f"kind of {where}", kind, KINDS)
    if not is_store(root, begun=False):
        raise InputError(f"{where}: there is no result store")
    options = dict(pair.partition("=")[::2] for pair in pairs)
    needed, write = KINDS[kind]
    for name in options:
        if name not in needed:
            raise unknown(f"option of {where}", name, needed)
    try:
        setting = tuple((name, options[name]) for name in SETTING if name in options)
        return write(_source(root, primary_of, options.get("among", ""), setting), options)
    except KeyError as error:
        raise InputError(f"{where}: {error.args[0]} is missing or not in the store") from error
    except InputError as error:
        raise InputError(f"{where}: {error}") from error


def scores(source: Source, options: Options) -> str:
    """A line per row of the leaderboard: average, worst class and NSD under one attack, 95 % over seeds in brackets."""
    board, attack = _board(source), options["attack"]
    titles = ["variant", *[METRICS[name].title for name in MAIN], "seeds", "images"]
    by_cell = _cells(board, attack)
    lines = []
    for row in _rows(board, options):
        cells = [by_cell.get((row, name)) for name in MAIN]
        texts = [_with_seeds(cell) if cell else "–" for cell in cells]
        ends = [str(cells[0]["seed_list"]), f"{cells[0]['images']:,}"] if cells[0] else ["–", "–"]
        lines.append([escape.markdown(board.rows.loc[row, "variant"]), *texts, *ends])
    return f"{attack_title(attack)}, in percent:\n\n{markdown_table(titles, lines)}"


def differences(source: Source, options: Options) -> str:
    """Variants against one other under an attack: difference, 95 % over seeds and over test samples, verdict."""
    board, attack, against = _board(source, options["against"]), options["attack"], options["against"]
    by_cell = _cells(board, attack)
    titles = ["variant", "", f"minus {against}", "95% over seeds", "95% over test samples", "verdict"]
    names = options.get("metrics", ",".join(MAIN)).split(",")
    for name in names:
        if name not in MAIN:
            raise unknown("metric", name, MAIN)
    rows = [row for row in _rows(board, options) if board.rows.loc[row, "variant"] != against]
    cells = [(row, name, by_cell.get((row, name))) for row in rows for name in names]
    over, each_over = _over_seeds([score for _, _, score in cells if score])
    lines = []
    for row, name, score in cells:
        said = [escape.markdown(board.rows.loc[row, "variant"]), METRICS[name].title]
        if score is None or pd.isna(score["difference"]):
            lines.append([*said, "–", "–", "–", "not compared"])
            continue
        spans = [_span(score, where, name) for where in ("seed", "sample")]
        lines.append([*said, _signed(score["difference"], name) + each_over(score), *spans, _verdict(score)])
    return f"{attack_title(attack)}, points and NSD{over}:\n\n{markdown_table(titles, lines)}"


def null_control(source: Source, options: Options) -> str:
    """A variant against itself under some attacks, see `NullControl`: what may be told apart there by chance alone."""
    control = Source(source.root, read_results(NullControl(Store(source.root), options["variant"])), ())
    parts = [
        differences(control, {"attack": attack, "against": options["variant"]})
        for attack in options["attacks"].split(",")
    ]
    return "\n\n".join(parts)


def primary(source: Source, options: Options) -> str:
    """The comparisons that were registered before their results, corrected together: difference, 95 % over seeds and
    over test samples, p and verdict."""
    titles = ["variant", "against", "", "difference", "95% over seeds", "95% over test samples", "p", "verdict"]
    found = _board(source).registered
    found = found[found["checkpoint"].isin(_CHECKPOINTS)]
    _of_one_table(found["setting"])
    over, each_over = _over_seeds(records(found[found["reason"] == ""]))
    lines = []
    for line in records(found):
        name = line["metric"]
        said = [escape.markdown(line["variant"]), escape.markdown(line["against"]),
                f"{METRICS[name].title}, {attack_title(line['attack'])}"]  # fmt: skip
        if line["reason"]:
            lines.append([*said, "–", "–", "–", "–", escape.markdown(f"not available: {line['reason']}")])
            continue
        p = "–" if pd.isna(line["p"]) else f"{line['p']:.4f}"
        spans = [_span(line, where, name) for where in ("seed", "sample")]
        lines.append([*said, _signed(line["difference"], name) + each_over(line), *spans, p, _verdict(line)])
    return f"Points and NSD{over}, p corrected together (Holm):\n\n{markdown_table(titles, lines)}"


def classes(source: Source, options: Options) -> str:
    """Class-wise accuracy under an attack, mean over seeds, the classes in the order of their mean over the rows."""
    board, attack = _board(source), options["attack"]
    rows = _rows(board, options)
    part = source.results.class_accuracy
    part = part[(part["attack"] == attack) & part["checkpoint"].isin(_CHECKPOINTS) & part["row"].isin(rows)]
    if part.empty:
        raise KeyError(attack)
    means = mean_counts(class_counts(part, ["trial_id", "row", "seed"]), ["row"])
    names = part.drop_duplicates("class_index").set_index("class_index")["class_name"].astype(str).to_dict()
    accuracy = pd.DataFrame(means.accuracy, means.keys["row"]).reindex(rows).to_numpy()
    order = np.nanmean(accuracy, axis=0).argsort(kind="stable")
    titles = ["class", *[escape.markdown(board.rows.loc[row, "variant"]) for row in rows]]
    lines = [
        [escape.markdown(names[index]), *[_number(value, "average") for value in accuracy[:, index]]] for index in order
    ]
    said = f"{attack_title(attack)} accuracy of each class, in percent, mean over seeds"
    return f"{said}:\n\n{markdown_table(titles, lines)}"


def ladder(source: Source, options: Options) -> str:
    """Average accuracy under several attacks on the images and seeds that a row has of all of them: what is between two
    columns is the attacks' doing."""
    board, attacks = _board(source), options["attacks"].split(",")
    outcomes = source.results.outcomes(source.results.done["trial_id"])
    outcomes = outcomes[outcomes["checkpoint"].isin(_CHECKPOINTS)].astype({"attack": str, "trial_id": str})
    cells = (pd.MultiIndex.from_frame(part[CELL].astype(object)) for part in (outcomes, source.results.undefined))
    outcomes = outcomes[~next(cells).isin(next(cells))]
    sample = ["row", "seed", "trial_id", "label", "sample_index"]
    common = outcomes.pivot(index=sample, columns="attack", values="robust")[attacks].dropna().astype(float)
    averages = common.groupby(sample[:4]).mean().groupby(sample[:2]).mean()
    lines = []
    for row in _rows(board, options):
        if row not in averages.index.unique("row"):
            lines.append([escape.markdown(board.rows.loc[row, "variant"]), *["–"] * len(attacks), "–", "–"])
            continue
        own, images = averages.loc[row], common.loc[row].index.unique("sample_index")
        means = [_number(own[name].mean(), "average") for name in attacks]
        lines.append([escape.markdown(board.rows.loc[row, "variant"]), *means, _listed(own.index), f"{len(images):,}"])
    titles = ["variant", *map(attack_title, attacks), "seeds", "images"]
    return f"Average on the same images, in percent:\n\n{markdown_table(titles, lines)}"


def validation(source: Source, options: Options) -> str:
    """Robust accuracy of the held-out training images at the epoch that `best_validation` chose, mean over seeds, and
    between which averages the last quarter of the epochs lies, over all seeds; with `against`, the chosen average's
    difference from that variant's over the seeds that both have, which are named where one has more."""
    results, board = source.results, _board(source)
    chosen = rule("best_validation").choose(results.epochs).rename("epoch").reset_index()
    at_choice = results.epochs.merge(chosen, on=["trial_id", "epoch"]).sort_values(["row", "seed"])
    means = at_choice.groupby(["row", "seed"])[[*_VALIDATED]].mean()
    epochs = results.done.groupby("row")["epochs"].first().dropna().astype(int)
    last = results.epochs[results.epochs["epoch"] > 3 / 4 * results.epochs["row"].map(epochs)]
    spans = last.groupby("row")["val_robust_avg"].agg(["min", "max"])
    titles = ["variant", "seeds", "chosen epoch", *[METRICS[name].title for name in MAIN], "Avg. of the last quarter"]
    lines = []
    rows, known = _rows(board, options), set(means.index.unique("row"))
    for row in rows:
        if row not in known:
            lines.append([escape.markdown(board.rows.loc[row, "variant"]), *["–"] * (len(titles) - 1)])
            continue
        own, picked = means.loc[row], at_choice.loc[at_choice["row"] == row, "epoch"]
        low, high = (_number(spans[end][row], "average") for end in ("min", "max"))
        numbers = [_number(own[column].mean(), name) for column, name in zip(_VALIDATED, MAIN, strict=True)]
        variant, which = escape.markdown(board.rows.loc[row, "variant"]), ", ".join(map(str, picked))
        lines.append([variant, _listed(own.index), f"{which} of {epochs[row]}", *numbers, f"{low} to {high}"])
    if against := options.get("against"):
        titles.append(f"Avg. minus {against}")
        average = means["val_robust_avg"]
        (other,) = _rows(board, {"variants": against})
        for row, line in zip(rows, lines, strict=True):
            if row not in known or row == other:
                line.append("–")
                continue
            change = (average[row] - average[other]).dropna()
            everywhere = len(change) == len(average[row]) == len(average[other])
            over = "" if everywhere else f" (seed{'s' * (len(change) > 1)} {_listed(change.index)} of both)"
            line.append(_signed(change.mean(), "average") + over)
    return f"Robust validation accuracy at the chosen epoch, in percent:\n\n{markdown_table(titles, lines)}"


def searches(source: Source, options: Options) -> str:
    """What each search of `run-bench tune` in the store that has been written up cost, the longest first, and the
    setting that it chose of each method."""
    folders = [path.parent for path in sorted(source.root.glob("tuning/*/cost.json"))]
    if not folders:
        raise KeyError("tuning")
    titles = ["scheduler", "settings", "to the end", "epochs", "processor", "wall", "best", "its metric on validation"]
    found = []
    for folder in folders:
        asked, cost = (json.loads((folder / name).read_text()) for name in ("journal.json", "cost.json"))
        tried = pd.read_csv(folder / "settings.csv")
        best = tried[tried["best"]]
        columns = list(tried.columns)
        keys = columns[columns.index("setting") + 1 : columns.index("status")]
        values = [{key: line[key] for key in keys if pd.notna(line[key])} for line in records(best)]
        chosen = [tuning.setting_text(each, each) for each in values]
        if tried["method"].nunique() > 1:
            chosen = [f"{method}: {text}" for method, text in zip(best["method"], chosen, strict=True)]
        measure = partial(tuning.number, percent=tuning.in_percent(asked["metric"]))
        spread = ["" if pd.isna(sd) else f" ± {measure(sd)}" for sd in best["sd"]]  # none of one seed
        means = [measure(mean) + sd for mean, sd in zip(best["mean"], spread, strict=True)]
        epochs = f"{cost['epochs_run']} of {cost['epochs_possible']}"
        wall = "from stored rows" if cost["epochs_reused"] else duration(3600 * cost["wall_hours"])
        processor = "–" if cost["cpu_s"] is None else duration(cost["cpu_s"])  # rows of earlier versions have none
        line = [asked["scheduler"], str(cost["settings"]), str(cost["done"]), epochs, processor, wall]
        found.append((-cost["epochs_run"], [*line, escape.markdown("; ".join(chosen)), "; ".join(means)]))
    return markdown_table(titles, [line for _, line in sorted(found)])


def facts(source: Source, options: Options) -> str:
    """What made the rows: trials, seeds, commits, processors, time."""
    trials = source.results.store.trials()  # also those of seeds that no table is over
    trials = trials[trials["status"] == "done"]
    students = trials[trials["role"] == "student"]
    said = {
        "trials": f"{len(trials)}, of them {len(students)} students",
        "seeds": ", ".join(str(seed) for seed in sorted(set(students["seed"]))),
        "epochs": _listed(students["epochs"].dropna().astype(int)),
        "training images": _listed(f"{count:,.0f}" for count in students["train_images"].dropna()),
        "precision": _listed(trials["precision"]),
        "processor": _listed(trials["device"]),
        "code": _listed(_commit(each) for text in trials["git_commit"].dropna() for each in text.split(", ")),
        "time": f"{_time(trials, 'train')} of training and {_time(trials, 'eval')} of evaluation, summed over trials",
    }
    return "\n".join(f"- {name}: {escape.markdown(text)}" for name, text in said.items())


def _commit(commit: str) -> str:
    """Short, and marked as `git_commit` is where the code had changes that were not committed."""
    return commit[:7] + "+" * commit.endswith("+")


def _time(trials: pd.DataFrame, part: str) -> str:
    """By the clock, which also counts what ran beside; of the processor too where every row has it."""
    wall, cpu = duration(trials[f"{part}_s"].sum()), trials[f"{part}_cpu_s"]
    trained = trials[f"{part}_s"] > 0
    return wall if cpu[trained].isna().any() else f"{wall} ({duration(cpu.sum())} of the processor)"


# A kind's options and what writes it.
KINDS: dict[str, tuple[tuple[str, ...], Callable[[Source, Options], str]]] = {
    "scores": (("attack", "variants", "among", *SETTING), scores),
    "differences": (("attack", "variants", "against", "metrics", "among", *SETTING), differences),
    "null_control": (("variant", "attacks"), null_control),
    "primary": (tuple(SETTING), primary),
    "classes": (("attack", "variants", "among", *SETTING), classes),
    "ladder": (("attacks", "variants", *SETTING), ladder),
    "validation": (("variants", "against", *SETTING), validation),
    "searches": ((), searches),
    "facts": ((), facts),
}
_VALIDATED = ("val_robust_avg", "val_robust_worst", "val_robust_nsd")  # columns of `epochs`, as MAIN has them
_CHECKPOINTS = ("best_validation", "given")


@cache
def _source(root: Path, primary_of: PrimaryOf, among: str, setting: tuple[tuple[str, str], ...]) -> Source:
    """The whole store or, of its students, those of some methods or variants, over the seeds that these have; or the
    part of a setting, by name and value of some of `SETTING`."""
    store = Store(root)
    results = read_results(store, trial_ids=some_trials(store, among.split(","), ()) if among else None)
    rows = results.rows
    for name, wanted in setting:
        texts = rows[name].map(eps_text if name == "eps" else str)
        if wanted not in set(texts):
            raise unknown(name, wanted, set(texts))
        rows = rows[texts == wanted]
    return Source(root, results.select(rows) if setting else results, primary_of(root))


@cache
def _board(source: Source, baseline: str | None = None) -> Leaderboard:
    return leaderboard(source.results, baseline=baseline, primary=source.primary)


def _cells(board: Leaderboard, attack: str) -> dict[tuple[int, str], dict[str, Any]]:
    """The scores under an attack, by row and metric."""
    if attack not in board.attacks:
        raise unknown("attack", attack, board.attacks)
    found = board.scores[(board.scores["attack"] == attack) & board.scores["checkpoint"].isin(_CHECKPOINTS)]
    return {(score["row"], score["metric"]): score for score in records(found)}


def _rows(board: Leaderboard, options: Options) -> list[int]:
    """The rows of the variants asked for, in that order; of all students where none is named. InputError for rows of
    several tables."""
    students = board.rows[board.rows["role"] != "teacher"]
    names = list(students["variant"]) if "variants" not in options else options["variants"].split(",")
    students = students[students["variant"].isin(names)]
    _of_one_table(students[SETTING].itertuples(index=False, name=None))
    by_name = dict(zip(students["variant"], students.index, strict=True))
    return [by_name[name] for name in names]


def _of_one_table(settings: Iterable[tuple]) -> None:
    titles = list(dict.fromkeys(setting_title(setting) for setting in settings))
    if len(titles) > 1:
        raise InputError(f"a passage is of one table ({'; '.join(titles)}): choose it by {', '.join(SETTING)}")


def _over_seeds(lines: Sequence[dict[str, Any]]) -> tuple[str, Callable[[dict[str, Any]], str]]:
    """Which seeds some differences are over, to be said once; or, where they differ, of each."""
    known = {str(line["common_seeds"]) for line in lines if not pd.isna(line["common_seeds"])}
    if len(known) > 1:
        return "", lambda line: f" (over seeds {line['common_seeds']})"
    return "".join(f", over seeds {seeds}" for seeds in known), lambda line: ""


def _verdict(score: dict[str, Any]) -> str:
    return "not compared" if pd.isna(score["stands"]) else "stands" if score["stands"] else "inside the noise"


def _with_seeds(score: dict[str, Any]) -> str:
    metric = METRICS[score["metric"]]
    text, span = _number(score["value"], metric.name), _span(score, "", metric.name)
    return text if span == "–" else f"{text} {span}"


def _span(score: dict[str, Any], source: str, name: str) -> str:
    """[low, high] of a number over seeds (no source) or of a difference over `seed` or `sample`."""
    prefix = f"difference_{source}" if source else "seed"
    low, high = score[f"{prefix}_low"], score[f"{prefix}_high"]
    return "–" if pd.isna(low) else f"[{_number(low, name)}, {_number(high, name)}]"


def _signed(value: float, name: str) -> str:
    return ("+" if value > 0 else "") + _number(value, name)


def _number(value: float, name: str) -> str:
    """Percent with one digit, NSD with three."""
    return number(value, METRICS[name], 1 if METRICS[name].percent else 2)


def _listed(values: Iterable[object]) -> str:
    return ", ".join(dict.fromkeys(str(value) for value in values)) or "none"
