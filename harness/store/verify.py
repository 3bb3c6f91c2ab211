"""Is a store what its commit marks say? Reads every row of every table, and whatever lies in their folders."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from harness.errors import InputError
from harness.store.manifest import load_manifest, orphans, rebuilt
from harness.store.store import Store
from harness.store.tables import TABLES, content_hash

_KEYS = ["trial_id", "checkpoint", "attack", "class_index"]
Marks = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Verdict:
    """What was found in a store.

    trials: how many are committed. broken: by trial, what is wrong with it: a table file that is damaged or missing,
    another number of rows or other values than were committed, class accuracies that are not correct / n or that the
    stored outcomes contradict, rows without their row in `trials`. problems: a line for each file that cannot be read
    or that a damaged manifest has lost. unchecked: trials from before hashes were stored, of which other values would
    not be noticed. A store published without its `outcomes` is not broken.
    """

    trials: int
    broken: dict[str, list[str]]
    problems: list[str]
    unchecked: int


def verify(root: Path) -> Verdict:
    """Look at everything in the store at `root`; whatever it finds is told, nothing is raised or changed."""
    try:
        manifest, problems = load_manifest(root), []
    except InputError as error:
        manifest, problems = rebuilt(root), [str(error)]
    problems += [
        f"{root / label.table / label.file}: compacted.json does not name it, and it holds trials that stand nowhere "
        f"else; `run-bench repair {root}` names it again"
        for label in ([] if problems else orphans(root, manifest))
    ]
    store, marks = Store(root, manifest), {}
    broken: dict[str, list[str]] = defaultdict(list)
    try:
        marks = store.marks()
        for faults in (_rows(store, marks), _values(store, marks), _contradictions(store, marks), _uncommitted(store)):
            for trial_id, fault in faults:
                broken[trial_id].append(fault)
        store.look_for_foreign_files()
    except OSError as error:  # a folder that may not be looked into
        problems.append(f"{error.filename or root}: {error.strerror or error}")
    unchecked = sum("sha256" not in mark for mark in marks.values())
    return Verdict(len(marks), dict(broken), [*problems, *store.problems], unchecked)


def _rows(store: Store, marks: Marks) -> Iterator[tuple[str, str]]:
    """Trials with another number of rows, or with other values in them, than were committed."""
    for table in TABLES:
        if table == "outcomes" and not (store.root / table).exists():
            continue
        expected = {key: 1 if table == "trials" else mark["tables"].get(table, 0) for key, mark in marks.items()}
        for trial_id, rows in _by_trial(store, table, marks):
            if rows.num_rows != expected[trial_id]:
                found = f"{rows.num_rows} readable rows where {expected[trial_id]} were committed"
                yield trial_id, "trials: the row cannot be read" if table == "trials" else f"{table}: {found}"
                continue
            written = marks[trial_id].get("sha256", {}).get(table)
            if written is not None and rows.num_rows and content_hash(rows) != written:
                yield trial_id, f"{table}: other values than were committed"


def _by_trial(store: Store, table: str, marks: Marks) -> Iterator[tuple[str, pa.Table]]:
    """The readable rows of each committed trial."""
    if table == "outcomes":  # the one table that need not fit into memory
        yield from ((trial_id, store.arrow(table, [trial_id])) for trial_id in sorted(marks))
        return
    found = store.arrow(table)
    ids = np.array(found["trial_id"].to_pylist(), dtype=object)
    order, wanted = np.argsort(ids, kind="stable"), sorted(marks)
    ordered = found.unify_dictionaries().combine_chunks().take(order)
    starts, ends = (np.searchsorted(ids[order], wanted, side) for side in ("left", "right"))
    for trial_id, start, end in zip(wanted, starts, ends, strict=True):
        yield trial_id, ordered.slice(start, end - start)


def _values(store: Store, marks: Marks) -> Iterator[tuple[str, str]]:
    """Trials whose accuracies are not correct / n, or whose row in `trials` has another status than its mark."""
    rows = store.read("class_accuracy", list(marks), ["attack", "n", "correct", "accuracy"])
    rates = rows["correct"].astype(float) / rows["n"]
    wrong = rows[~np.isclose(rows["accuracy"].astype(float), rates, rtol=0, atol=1e-9, equal_nan=True)]
    for trial_id, attack in sorted(set(zip(wrong["trial_id"].astype(str), wrong["attack"].astype(str), strict=True))):
        yield trial_id, f"class_accuracy: accuracy under {attack} is not correct / n"
    for row in store.read("trials", list(marks), ["status"]).itertuples():
        if row.status != marks[str(row.trial_id)]["status"]:
            yield str(row.trial_id), f"trials: the row says {row.status}, its mark {marks[str(row.trial_id)]['status']}"


def _uncommitted(store: Store) -> Iterator[tuple[str, str]]:
    for trial_id, tables in store.uncommitted().items():
        yield from ((trial_id, f"{table}: rows without a row in `trials`") for table in tables)


def _contradictions(store: Store, marks: Marks) -> Iterator[tuple[str, str]]:
    """Trials whose class accuracies are not the counts of the stored outcomes."""
    stated = store.read("class_accuracy", list(marks), ["checkpoint", "attack", "class_index", "n", "correct"])
    stated = stated.astype({"trial_id": str, "checkpoint": str, "attack": str}).set_index("trial_id")
    for trial_id in sorted(set(marks) & set(stated.index)):
        outcomes = outcome_counts(store, trial_id)
        if outcomes.empty:
            continue
        both = stated.loc[[trial_id]].reset_index().merge(outcomes, on=_KEYS, suffixes=("", "_counted"))
        correct, counted = both["correct"].astype(float), both["correct_counted"]
        same = (correct == counted) | (correct.isna() & counted.isna())
        wrong = both[(both["n"] != both["n_counted"]) | ~same]
        yield from ((trial_id, f"class_accuracy: {attack} is not what the outcomes say") for attack in
                    wrong["attack"].unique())  # fmt: skip


def outcome_counts(store: Store, trial_id: str) -> pd.DataFrame:
    """Samples (n) and robust ones (correct) of a trial by checkpoint, attack and class, counted from its outcomes.

    correct is NaN for all classes of an attack under which a prediction is missing (negative).
    """
    outcomes = store.read("outcomes", [trial_id], ["checkpoint", "attack", "label", "prediction", "robust"])
    outcomes = outcomes.astype({"trial_id": str, "checkpoint": str, "attack": str})
    outcomes = outcomes.rename(columns={"label": "class_index"})
    counts = outcomes.groupby(_KEYS)["robust"].agg(n="count", correct="sum").astype(float).reset_index()
    undecided = outcomes.loc[outcomes["prediction"] < 0, _KEYS[:3]]
    undefined = pd.MultiIndex.from_frame(counts[_KEYS[:3]]).isin(pd.MultiIndex.from_frame(undecided))
    return counts.assign(correct=counts["correct"].where(~undefined))
