"""The few comparisons of a table that are marked: which they are, and which of them stand over training seeds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from harness import metrics
from harness.multiple_comparisons import compare_family
from harness.report.counts import ClassCounts
from harness.report.results import CELL, SETTING
from harness.statistics import FEWEST_SEEDS

MARKED = {"average": metrics.average, "worst": metrics.worst, "nsd": metrics.nsd}
STRONGEST = ("aa_standard", "aa_short")  # stronger than every single attack, whatever their numbers of images


@dataclass(frozen=True)
class MarkedColumns:
    """Of one table: the attack whose columns are marked, over which seeds, how many comparisons are corrected for."""

    attack: str
    seeds: tuple[int, ...]
    comparisons: int


def marked_columns(
    rows: pd.DataFrame, counts: ClassCounts, baselines: dict[tuple, str]
) -> tuple[dict[tuple, MarkedColumns], pd.DataFrame]:
    """By setting and checkpoint what is marked, and a line per row, checkpoint, attack and metric of it with the
    p-value `p` corrected for all of them.

    Average, worst class and NSD, each against the baseline, under the strongest attack that all rows have. A table has
    none whose rows have fewer than three seeds in common with the baseline.
    """
    found, lines = {}, []
    for setting, part in rows[rows["role"] == "student"].groupby(SETTING, sort=False, dropna=False):
        if setting not in baselines:
            continue
        baseline = part.index[part["variant"] == baselines[setting]][0]
        for checkpoint in counts.keys["checkpoint"].unique():
            chosen = counts.keys["row"].isin(part.index) & (counts.keys["checkpoint"] == checkpoint)
            layout = _Layout.of(counts.where(chosen.to_numpy()), baseline)
            if layout is None:
                continue
            pairs = [(place, 0) for place in range(1, len(layout.rows))]
            family = compare_family(layout.values, pairs)
            found[(setting, checkpoint)] = MarkedColumns(layout.attack, layout.seeds, family.comparisons)
            lines += [
                (row, checkpoint, layout.attack, metric, family.p[place, column])
                for place, row in enumerate(layout.rows[1:])
                for column, metric in enumerate(MARKED)
            ]
    return found, pd.DataFrame(lines, columns=[*CELL, "metric", "p"]).astype({"row": "int64", "p": float})


@dataclass(frozen=True)
class _Layout:
    """values: (S, V, 3) of the rows `rows`, the baseline first, under `attack`, over the same `seeds`."""

    rows: list[int]
    seeds: tuple[int, ...]
    attack: str
    values: np.ndarray

    @classmethod
    def of(cls, counts: ClassCounts, baseline: int) -> _Layout | None:
        """Of the rows that share the baseline's seeds. None where there are too few seeds or rows."""
        values = np.stack([of(counts.accuracy) for of in MARKED.values()], axis=1)
        frame = pd.DataFrame(values, columns=list(MARKED)).join(counts.keys[["row", "seed", "attack"]])
        frame = frame.astype({"attack": str}).dropna().drop_duplicates(["row", "seed", "attack"])
        seeds = set(frame.loc[frame["row"] == baseline, "seed"])
        own: Any = frame.groupby("row", sort=False)["seed"].agg(set)
        rows = [baseline, *[row for row in own.index if row != baseline and len(own[row] & seeds) >= FEWEST_SEEDS]]
        seeds = set.intersection(seeds, *[own[row] for row in rows[1:]])
        if len(rows) < 2 or len(seeds) < FEWEST_SEEDS:
            return None
        part = frame[frame["row"].isin(rows) & frame["seed"].isin(seeds)]
        complete = part.groupby("attack")["row"].size() == len(rows) * len(seeds)
        if not complete.any():
            return None
        attack = _strongest(part[part["attack"].isin(complete.index[complete])])
        order = pd.MultiIndex.from_product([sorted(seeds), rows])
        table = part[part["attack"] == attack].set_index(["seed", "row"])[list(MARKED)].reindex(order)
        return cls(rows, tuple(sorted(seeds)), attack, table.to_numpy().reshape(len(seeds), len(rows), len(MARKED)))


def _strongest(part: pd.DataFrame) -> str:
    """AutoAttack where it was run, else the attack that leaves the least, on average over all rows."""
    means = part.groupby("attack")["average"].mean()
    return next((name for name in STRONGEST if name in means.index), str(means.idxmin()))
