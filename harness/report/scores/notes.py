"""What a reader must know of a leaderboard beside its numbers, a line each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd

from harness.report.results import Results, records
from harness.report.rows import SETTING, in_setting, settings_of
from harness.report.scores.counts import ClassCounts
from harness.report.scores.teachers import unlike_teachers
from harness.statistics.registry import METRICS


def notes_of(results: Results, scores: pd.DataFrame) -> list[str]:
    """What is not there, made by different code, teachers or devices, left out, or odd about the data."""
    notes = []
    if results.absent:
        names = pd.Series(list(results.absent.values())).value_counts(sort=False)
        texts = ", ".join(f"{name} ({count})" for name, count in names.items())
        notes.append(f"Not in the store yet, {len(results.absent)} trials: {texts}.")
    notes += _codes(results) + _origins(results) + _data(results) + _autoattack(results)
    if results.left_out:
        variants = results.rows["variant"]
        extra = "; ".join(f"{variants[row]} {', '.join(map(str, seeds))}" for row, seeds in results.left_out.items())
        notes.append(f"Left out of averages, for other rows of their table lack these seeds: {extra}.")
    aside = results.rows[results.rows["teachers_aside"] != ""]
    if len(aside):
        listed_teachers = "; ".join(f"{row['variant']} {row['teachers_aside']}" for row in records(aside))
        notes.append(
            f"Left out of averages, for not every seed of every row was trained from them: teachers of "
            f"{listed_teachers}."
        )
    nsd = scores[scores["metric"] == "nsd"]
    if len(nsd) and nsd["sample_low"].isna().all() and nsd["value"].notna().any():
        notes.append("Intervals of NSD over test samples are left out: they would take long for so many rows.")
    return notes


def meanings(columns: Sequence[str]) -> list[str]:
    """What the metrics are that not every report shows."""
    told = [METRICS[name] for name in columns if METRICS[name].meaning and not METRICS[name].standard]
    return [f"{each.title}: {each.meaning}; {'higher' if each.up else 'lower'} is better." for each in told]


def one_class(results: Results, counts: ClassCounts, classes: Mapping[str, Mapping[int, tuple[str, int]]]) -> list[str]:
    """A note for every network that gets all images of one class right and none of the others, clean and under each of
    its attacks: under an attack alone a good network may do so."""
    there = counts.images > 0
    full, empty = there & (counts.correct == counts.images), there & (counts.correct == 0)
    constant = (full.sum(axis=1) == 1) & (empty.sum(axis=1) == there.sum(axis=1) - 1) & (there.sum(axis=1) > 1)
    lines = counts.keys.assign(place=np.where(constant, full.argmax(axis=1), -1))
    same = lines.groupby(["trial_id", "checkpoint"], observed=True)["place"].transform("nunique") == 1
    lines = lines[same & constant].drop_duplicates(["row", "seed", "checkpoint"])
    return [
        f"{line['dataset']}, {line['student']}: {line['variant']}, seed {line['seed']}, {line['checkpoint']}: "
        f"predicts one class only ({classes[str(line['dataset'])][line['place']][0]})."
        for line in records(lines.join(results.rows[["dataset", "student", "variant"]], on="row"))
    ]


_ORIGINS = {
    "teacher_sha256": "learned from {count} different teachers",
    "init_sha256": "started from {count} different networks",
    "train_device": "were trained on {count} kinds of devices ({names})",
    "device": "were evaluated on {count} kinds of devices ({names})",
}


def _origins(results: Results) -> list[str]:
    """Tables whose students have not all one teacher, started from unlike networks or were made on unlike devices: the
    last bits differ then, and trainings with them."""
    students = results.done[results.done["role"] == "student"]
    found = []
    for setting, part in students.groupby(SETTING, sort=False, dropna=False):
        texts = []
        for column, text in _ORIGINS.items():
            names = _distinct(*part[column]) if column in part else []
            if column == "teacher_sha256" and not unlike_teachers(part):
                continue
            if len(names) > 1:
                texts.append(text.format(count=len(names), names="; ".join(names)))
        if texts:
            who = f"{setting[0]}, {setting[1]}: students"
            found.append(f"{who} {' and '.join(texts)}; not all of a difference among them is the method's.")
    return found


def _data(results: Results) -> list[str]:
    """What is odd about data sets and about selection on them, as the trial that was trained last on each has it."""
    trials = results.done.assign(trained=results.done["epochs"].notna()).sort_values(["trained", "finished"])
    last = trials.drop_duplicates("dataset", keep="last")
    notes = results.store.read("notes", list(last["trial_id"])).astype({"trial_id": str, "source": str})
    names = dict(zip(last["trial_id"], last["dataset"], strict=True))
    odd = notes[notes["source"].isin(["data", "validation"])]
    return [f"{names[note['trial_id']]}: {note['text']}." for note in records(odd)]


def _autoattack(results: Results) -> list[str]:
    """What AutoAttack warned of, and of which networks: robust accuracies may be too high there."""
    trials = results.done.assign(trial_id=results.done["trial_id"].astype(str))
    notes = results.store.read("notes", list(trials["trial_id"])).astype({"trial_id": str, "source": str, "text": str})
    warned = notes[notes["source"] == "autoattack"].merge(trials, on="trial_id")
    found = []
    for (dataset, student, text), part in warned.groupby(["dataset", "student", "text"], sort=False, observed=True):
        seeds = part.groupby("variant", sort=False, observed=True)["seed"]
        who = _some([f"{variant} {', '.join(map(str, sorted(set(own))))}" for variant, own in seeds])
        found.append(f"{dataset}, {student}: AutoAttack warned of {who}: {str(text).removesuffix(_SEE)}")
    return found


_SEE = " See flags_doc.md for details."  # a file of the package


def _codes(results: Results) -> list[str]:
    """A note for every table whose rows were trained or evaluated by different numeric code."""
    notes = []
    for setting in settings_of(results.rows):
        trials = results.done[results.done["row"].isin(in_setting(results.rows, setting).index)]
        variants: dict[str, dict[str, None]] = {}
        for trial in records(trials):
            for code in _distinct(trial.get("train_code_fingerprint"), trial["code_fingerprint"]):
                variants.setdefault(code, {})[trial["variant"]] = None
        if len(variants) > 1:
            listed = "; ".join(f"{code}: {_some(names)}" for code, names in variants.items())
            notes.append(
                f"{setting[0]}, {setting[1]}: {len(variants)} versions of the numeric code made these rows ({listed})."
            )
    return notes


def _distinct(*codes: object) -> list[str]:
    """The fingerprints in some columns: one holds several, separated by commas, where a trial changed code midway."""
    return sorted({code for text in codes if isinstance(text, str) for code in text.split(", ")})


def _some(names: Iterable[str], most: int = 6) -> str:
    names = list(names)
    return ", ".join(names) if len(names) <= most else f"{', '.join(names[:most])} and {len(names) - most} more"
