"""The figures by name.

Each function takes rows of the store and returns a matplotlib Figure, or None without data for it.

In a notebook: `figures.training_curves(figures.rows(store, "epochs"))`. One setting (data set, student, eps) at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from harness.errors import unknown
from harness.report.captions import FAILED
from harness.report.escape import one_line
from harness.report.figures.classes import attack_ladder, class_accuracy, confusion
from harness.report.figures.data import class_names, headline_attack, reference, variants_in
from harness.report.figures.epochs import temperatures, training_curves
from harness.report.figures.style import looks
from harness.report.figures.variants import average_worst, hyperparameter_response, nsd, selection_gap
from harness.report.results import Readable, Results, read_results

MOST_CONFUSIONS = 2  # variants whose outcomes are read for the confusion figure


@dataclass(frozen=True)
class FigureInfo:
    """A figure: what it shows, its function, the tables it needs, and its text alternative."""

    description: str
    function: Callable[..., Figure | None]
    needs: tuple[str, ...]


FIGURES: dict[str, FigureInfo] = {
    "class_accuracy": FigureInfo(
        "accuracy of every class under attack, per variant", class_accuracy, ("class_accuracy",)
    ),
    "average_worst": FigureInfo(
        "average against worst class, with the Pareto front", average_worst, ("class_accuracy",)
    ),
    "nsd": FigureInfo("NSD under every attack, per variant", nsd, ("class_accuracy",)),
    "temperatures": FigureInfo("temperature of every class over epochs", temperatures, ("class_state",)),
    "confusion": FigureInfo("where the images of each class end up under attack", confusion, ("outcomes",)),
    "training_curves": FigureInfo(
        "robust validation accuracy over epochs: average, worst, gap", training_curves, ("epochs",)
    ),
    "attack_ladder": FigureInfo(
        "accuracy of every class from clean to the strongest attack", attack_ladder, ("class_accuracy",)
    ),
    "selection_gap": FigureInfo(
        "what choosing the epoch on the test set would add", selection_gap, ("epochs", "class_state")
    ),
    "hyperparameter_response": FigureInfo(
        "best validation value against each tuned hyper-parameter", hyperparameter_response, ("trials", "epochs")
    ),
}


def rows(store: Readable, table: str) -> pd.DataFrame:
    """Rows of a table as the figures want them: with `variant`, in the order of the report, and `role`.

    Of `outcomes`, the largest table, those of the baseline and of the variant with the best worst class.
    """
    if table not in {needed for info in FIGURES.values() for needed in info.needs}:
        raise unknown("table for figures", table, {needed for info in FIGURES.values() for needed in info.needs})
    return _Tables(read_results(store), "best_validation", None).get(table)


def figure_names(names: Sequence[str] | None) -> list[str]:
    """The names asked for, all by default. InputError with the nearest for one that does not exist."""
    for name in names or ():
        if name not in FIGURES:
            raise unknown("figure", name, FIGURES)
    return list(names) if names is not None else list(FIGURES)


def draw(
    results: Results,
    names: Sequence[str],
    checkpoint: str = "best_validation",
    width: str | None = None,
    baseline: str | None = None,
) -> dict[str, Figure | str]:
    """The figures of one setting by name, or in their place the reason why there is none.

    Every variant has one look in all of them. width: column or text, each figure's own by default.
    """
    tables = _Tables(results, checkpoint, baseline)
    styles = looks([str(name) for name in results.rows.loc[results.rows["role"] != "teacher", "variant"]])
    options: dict[str, Any] = {"styles": styles} | ({} if width is None else {"width": width})
    found: dict[str, Figure | str] = {}
    for name in names:
        info = FIGURES[name]
        frames = [tables.get(table) for table in info.needs]
        empty = [table for table, frame in zip(info.needs, frames, strict=True) if frame.empty]
        if empty:
            found[name] = f"{name}: no rows in {', '.join(empty)}"
            continue
        try:
            drawn = info.function(*frames, **tables.extra(name), **options)
        except Exception as error:  # a figure that fails takes none of the others with it
            found[name] = f"{name}: {FAILED} ({one_line(f'{type(error).__name__}: {error}')[:200]})"
            continue
        found[name] = drawn or f"{name}: {_REASONS.get(name, 'no rows to draw')}"
    return found


_REASONS = {
    "temperatures": "no variant logged class temperatures",
    "attack_ladder": "fewer than two attacks were run",
    "selection_gap": "no trial recorded its test curve (record_test_curve)",
    "hyperparameter_response": "no method has three trials that differ in a number",
}


class _Tables:
    """The tables of one setting with the names of the report on their rows, each read when first asked for."""

    def __init__(self, results: Results, checkpoint: str, baseline: str | None) -> None:
        self.results, self.checkpoint, self.baseline = results, checkpoint, baseline
        self.read: dict[str, pd.DataFrame] = {}

    def get(self, table: str) -> pd.DataFrame:
        if table not in self.read:
            frame = getattr(self, f"_{table}")()
            rows = self.results.rows
            order = list(dict.fromkeys(rows["variant"]))
            variant = pd.Categorical(rows["variant"].reindex(frame["row"]).to_numpy(), order, ordered=True)
            self.read[table] = frame.assign(variant=variant, role=rows["role"].reindex(frame["row"]).to_numpy())
        return self.read[table]

    def extra(self, name: str) -> dict[str, Any]:
        """What a figure wants to know beside its rows."""
        wants_checkpoint = name in ("class_accuracy", "average_worst", "nsd", "confusion", "attack_ladder")
        extra: dict[str, Any] = {"checkpoint": self.checkpoint} if wants_checkpoint else {}
        if wants_checkpoint or name == "training_curves":
            extra["baseline"] = self.baseline
        if name in ("confusion", "temperatures") and not self.get("class_accuracy").empty:
            extra["names"] = class_names(self.get("class_accuracy"))
        return extra

    def _trials(self) -> pd.DataFrame:
        return self.results.trials

    def _class_accuracy(self) -> pd.DataFrame:
        return self.results.class_accuracy

    def _epochs(self) -> pd.DataFrame:
        return self.results.epochs

    def _class_state(self) -> pd.DataFrame:
        frame = self.results.class_state(["temperature*", "val_robust", "peeked_test_robust"])
        return frame[frame["row"].isin(self.results.rows.index[self.results.rows["role"] == "student"])]

    def _outcomes(self) -> pd.DataFrame:
        """Of the baseline and the fairest variant: outcomes are the largest table."""
        frame = self.get("class_accuracy")
        chosen = frame[frame["checkpoint"].isin([self.checkpoint, "given"]) & (frame["role"] != "teacher")]
        chosen = chosen[chosen["attack"] == headline_attack(chosen)] if len(chosen) else chosen
        sums = chosen.groupby(["variant", "class_index"], observed=True)[["correct", "n"]].sum(min_count=1)
        worst = (sums["correct"] / sums["n"].where(sums["n"] > 0)).groupby("variant", observed=True).min()
        names = variants_in(chosen)
        first = [reference(names, self.baseline)] if names else []
        pair = list(dict.fromkeys([*first, *worst.sort_values(ascending=False).index]))[:MOST_CONFUSIONS]
        trials = self.results.done
        rows = self.results.rows.index[self.results.rows["variant"].isin(pair)]
        return self.results.outcomes(list(trials.loc[trials["row"].isin(rows), "trial_id"]))
