"""Which epoch of a training is reported: named rules, pure over stored epochs, printed where their numbers stand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pandas as pd

from harness.errors import unknown
from harness.statistics import metrics


@dataclass(frozen=True)
class SelectionRule:
    """A way to choose an epoch.

    choose: rows of `epochs` -> one epoch (from 1) per trial, a series indexed by trial_id.
    """

    name: str
    description: str
    choose: Callable[[pd.DataFrame], pd.Series]
    honest: bool = True

    def __str__(self) -> str:
        return f"{self.name}: {self.description}"


def _largest(column: str) -> Callable[[pd.DataFrame], pd.Series]:
    """The epoch with the largest value of a column; ties go to the later epoch, trials without a value are left out."""

    def choose(epochs: pd.DataFrame) -> pd.Series:
        known = epochs.dropna(subset=[column]).sort_values([column, "epoch"], kind="stable")
        return known.drop_duplicates("trial_id", keep="last").set_index("trial_id")["epoch"]

    return choose


def _last(epochs: pd.DataFrame) -> pd.Series:
    return epochs.groupby("trial_id", observed=True)["epoch"].max()


RULES: dict[str, SelectionRule] = {
    rule.name: rule
    for rule in (
        SelectionRule(
            "best_validation",
            "the epoch with the largest (average + worst class)/2 of robust validation accuracy; ties to the later one",
            _largest("selection_score"),
        ),
        SelectionRule("last", "the last epoch, no selection", _last),
        SelectionRule(
            "peeked",
            "the epoch with the largest (average + worst class)/2 of robust TEST accuracy: not a result, "
            "what choosing on the test set would have given",
            _largest("peeked_score"),
            honest=False,
        ),
    )
}


def rule(name: str) -> SelectionRule:
    """The rule of that name. InputError with the nearest names for another."""
    if name not in RULES:
        raise unknown("selection rule", name, RULES)
    return RULES[name]


def class_scores(class_state: pd.DataFrame, quantity: str) -> pd.Series:
    """The selection score of a class-wise accuracy in `class_state`, indexed by trial_id and epoch.

    (average + worst)/2; from 100 classes up, the mean of the worst tenth takes the place of the worst class.
    """
    rows = class_state[class_state["quantity"] == quantity]
    wide = rows.pivot(index=["trial_id", "epoch"], columns="class_index", values="value")
    return pd.Series(metrics.selection_score(wide.to_numpy(dtype=float)), wide.index)


def selection_gap(epochs: pd.DataFrame, class_state: pd.DataFrame) -> pd.DataFrame:
    """What peeking at the test set would have added, per trial that recorded its test curve; indexed by trial_id.

    honest_score, last_score, peeked_score: the same test score at the epoch each rule chooses; gap: peeked - honest.
    honest_epoch, peeked_epoch: those epochs.
    """
    score = class_scores(class_state, "peeked_test_robust").rename("peeked_score")
    curve = epochs[["trial_id", "epoch", "selection_score"]].merge(score.reset_index(), on=["trial_id", "epoch"])
    found = {}
    for name, column in (("best_validation", "honest"), ("last", "last"), ("peeked", "peeked")):
        chosen = RULES[name].choose(curve).rename("epoch").reset_index()
        at = chosen.merge(curve, on=["trial_id", "epoch"]).set_index("trial_id")
        found[f"{column}_score"], found[f"{column}_epoch"] = at["peeked_score"], at["epoch"]
    table = pd.DataFrame(found)
    table["gap"] = table["peeked_score"] - table["honest_score"]
    return table.drop(columns="last_epoch")
