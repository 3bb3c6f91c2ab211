"""Is a store what its commit marks say? Reads every row of every table."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import pandas as pd

from harness.tables import TABLES

if TYPE_CHECKING:
    from harness.store import Store

_KEYS = ["trial_id", "checkpoint", "attack", "class_index"]


def verify(store: Store) -> dict[str, list[str]]:
    """What is wrong, by trial; see `Store.verify`."""
    broken: dict[str, list[str]] = defaultdict(list)
    marks = store.marks()
    for table in TABLES:
        if table == "trials" or (table == "outcomes" and not (store.root / table).exists()):
            continue
        for trial_id, found in _row_counts(store, table, marks):
            expected = marks[trial_id]["tables"].get(table, 0)
            if found != expected:
                broken[trial_id].append(f"{table}: {found} readable rows where {expected} were committed")
    for trial_id in set(marks) - set(store.trials(columns=["status"])["trial_id"]):
        broken[trial_id].append("trials: the row cannot be read")
    for trial_id, attack in _contradictions(store, marks):
        broken[trial_id].append(f"class_accuracy: {attack} is not what the outcomes say")
    return dict(broken)


def _row_counts(store: Store, table: str, marks: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    if table == "outcomes":  # the one table that need not fit into memory
        yield from ((trial_id, store.arrow(table, [trial_id]).num_rows) for trial_id in marks)
        return
    counts = store.read(table)["trial_id"].value_counts().to_dict()
    yield from ((trial_id, counts.get(trial_id, 0)) for trial_id in marks)


def _contradictions(store: Store, marks: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Trial and attack whose class accuracies are not the counts of the stored outcomes."""
    stated = store.read("class_accuracy", columns=["checkpoint", "attack", "class_index", "n", "correct"])
    stated = stated.astype({"trial_id": str, "checkpoint": str, "attack": str}).set_index("trial_id")
    for trial_id in sorted(set(marks) & set(stated.index)):
        outcomes = outcome_counts(store, trial_id)
        if outcomes.empty:
            continue
        both = stated.loc[[trial_id]].reset_index().merge(outcomes, on=_KEYS, suffixes=("", "_counted"))
        correct, counted = both["correct"].astype(float), both["correct_counted"]
        same = (correct == counted) | (correct.isna() & counted.isna())
        wrong = both[(both["n"] != both["n_counted"]) | ~same]
        yield from ((trial_id, attack) for attack in wrong["attack"].unique())


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
