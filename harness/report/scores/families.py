"""The few comparisons of a table that are marked: which they are, and which of them stand over training seeds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import pandas as pd

from harness.attacks.registry import attack_info, declared
from harness.report.rows import CELL, SETTING
from harness.report.scores.counts import ClassCounts
from harness.report.scores.intervals import over_teachers
from harness.statistics import metrics
from harness.statistics.intervals import FEWEST_SEEDS
from harness.statistics.multiple_comparisons import compare_family

MARKED = {"average": metrics.average, "worst": metrics.worst, "nsd": metrics.nsd}


class Registered(Protocol):
    """A comparison registered before its results, on some metrics, by default under the strongest attack."""

    @property
    def variant(self) -> str: ...

    @property
    def against(self) -> str: ...

    @property
    def metrics(self) -> Sequence[str]: ...

    @property
    def attack(self) -> str | None: ...


@dataclass(frozen=True)
class OfStore:
    """A registered comparison of one of several stores that are read together. trials: the ids of that store's."""

    variant: str
    against: str
    metrics: Sequence[str]
    attack: str | None
    trials: frozenset[str]


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
    for setting, checkpoint, layout, attack in layouts(rows, counts, baselines, FEWEST_SEEDS):
        family = compare_family(layout.array([attack]), [(place, 0) for place in range(1, len(layout.rows))])
        found[(setting, checkpoint)] = MarkedColumns(attack, layout.seeds, family.comparisons)
        lines += [
            (row, checkpoint, attack, metric, family.p[place, column])
            for place, row in enumerate(layout.rows[1:])
            for column, metric in enumerate(MARKED)
        ]
    return found, pd.DataFrame(lines, columns=[*CELL, "metric", "p"]).astype({"row": "int64", "p": float})


def unmarked(rows: pd.DataFrame, counts: ClassCounts, baselines: dict[tuple, str]) -> dict[tuple, str]:
    """By setting and checkpoint why a table has no marks, of those without."""
    found = {}
    for setting, checkpoint, part, values in _tables(rows, counts):
        if setting in baselines:
            baseline = part.index[part["variant"] == baselines[setting]][0]
            if Layout.around(values, baseline, FEWEST_SEEDS) is None:
                found[setting, checkpoint] = _why_unmarked(values, baseline)
    return found


def _why_unmarked(values: pd.DataFrame, baseline: int) -> str:
    seeds = _seeds(values)
    shared = {row: own & seeds.get(baseline, set()) for row, own in seeds.items() if row != baseline}
    enough = {row: common for row, common in shared.items() if len(common) >= FEWEST_SEEDS}
    if not enough:
        return TOO_FEW_SEEDS
    alike = [common for row, common in enough.items() if same_teachers(values, [baseline, row])]
    if not alike:
        return f"the rows that share {FEWEST_SEEDS} seeds with it learned from other teachers"
    if len(set.intersection(*alike)) < FEWEST_SEEDS:
        return f"the rows that share {FEWEST_SEEDS} seeds with it do not share the same ones"
    return f"no attack has results on every common seed of it and the rows that share {FEWEST_SEEDS} with it"


TOO_FEW_SEEDS = (
    f"no other row shares {FEWEST_SEEDS} seeds with it, and a difference of single networks is not one of methods"
)


def layouts(
    rows: pd.DataFrame, counts: ClassCounts, baselines: dict[tuple, str], fewest: int
) -> Iterator[tuple[tuple, str, Layout, str]]:
    """Each setting and checkpoint with the rows that share so many seeds with the baseline, and the attack that is
    marked.
    """
    for setting, checkpoint, part, values in _tables(rows, counts):
        if setting in baselines:
            layout = Layout.around(values, part.index[part["variant"] == baselines[setting]][0], fewest)
            if layout is not None:
                yield setting, checkpoint, layout, strongest(layout.values)


def registered(rows: pd.DataFrame, counts: ClassCounts, primary: Sequence[Registered]) -> pd.DataFrame:
    """The comparisons registered before their results, a line each per setting, checkpoint and metric: `variant`,
    `against`, their rows `row` and `other`, the attack, and `p`, corrected for all that their `store` (a number) has
    registered for this table.

    rows: with `called`, the variants' names in their suites, and `trial_ids`. Where a comparison cannot be made,
    `reason` says why, and row and other are -1 where there is none; it counts in the correction, as does one without a
    p-value: that of a pair with fewer than three seeds in common under the attack, or whose teachers differ. A table
    has the comparisons of its variants, and those whose variants are in no table, of the stores that it comes from.
    """
    students, lines = rows[rows["role"] == "student"], []
    for store, (own, compared) in enumerate(_by_store(students, primary)):
        for setting, checkpoint, part, values in _tables(own, counts):
            elsewhere = set(own["called"]) - set(part["called"])
            here = [each for each in compared if {each.variant, each.against} & set(part["called"])
                    or not {each.variant, each.against} & elsewhere]  # fmt: skip
            lines += [(setting, checkpoint, store, *line) for line in _registered_in(part, values, here)]
    columns = ["variant", "against", "row", "other", "attack", "metric", "reason", "p"]
    return pd.DataFrame(lines, columns=["setting", "checkpoint", "store", *columns])


def _by_store(students: pd.DataFrame, primary: Sequence[Registered]) -> list[tuple[pd.DataFrame, list[Registered]]]:
    """By store that registered comparisons: its students and those. Comparisons that say no store are of all rows."""
    by_store: dict[frozenset[str] | None, list[Registered]] = {}
    for each in primary:
        by_store.setdefault(each.trials if isinstance(each, OfStore) else None, []).append(each)
    return [
        (students if trials is None else students[[not trials.isdisjoint(own) for own in students["trial_ids"]]], made)
        for trials, made in by_store.items()
    ]


def _registered_in(part: pd.DataFrame, values: pd.DataFrame, primary: Sequence[Registered]) -> list[tuple]:
    """The registered comparisons of one table; those that cannot be made count in the correction too."""
    pairs = [(_row_called(part, each.variant), _row_called(part, each.against)) for each in primary]
    seeds = _seeds(values)
    named = [pair for pair in pairs if -1 not in pair]
    whole = [(row, other) for row, other in named
             if len(seeds.get(row, set()) & seeds.get(other, set())) >= FEWEST_SEEDS]  # fmt: skip
    members = list(dict.fromkeys(row for pair in whole or named for row in pair))
    layout = Layout.over(values, members, FEWEST_SEEDS) if same_teachers(values, members) else None
    complete = layout and layout.under_common_attacks()
    default = strongest(values[values["row"].isin(members)] if complete is None else complete.values)
    has_results = set(zip(values["row"], values["attack"], strict=True))
    cells: dict[tuple, str] = {}
    for each, pair in zip(primary, pairs, strict=True):
        attack = each.attack or default
        reason = _unavailable(part, each, pair, attack, has_results)
        for metric in each.metrics:
            cells[(each.variant, each.against, *pair, attack, metric)] = reason
    made = [key[2:] for key, reason in cells.items() if not reason and key[2:4] in whole]
    p_values = {} if layout is None else _registered_p_values(layout, made, len(cells) - len(made))
    return [(*key, reason, p_values.get(key[2:], np.nan)) for key, reason in cells.items()]


def _row_called(part: pd.DataFrame, name: str) -> int:
    """The one row of that name, -1 where there is none or several have it."""
    found = part.index[part["called"] == name]
    return int(found[0]) if len(found) == 1 else -1


def _unavailable(
    part: pd.DataFrame, each: Registered, pair: tuple[int, int], attack: str, has_results: set[tuple]
) -> str:
    """Why a registered comparison cannot be made; empty where it can."""
    for name, row in zip((each.variant, each.against), pair, strict=True):
        if row == -1:
            alike = part.loc[part["called"] == name, "variant"]
            return f"ambiguous, {' and '.join(alike)}" if len(alike) else f"no row is called {name}"
    lacking = [name for name, row in zip((each.variant, each.against), pair, strict=True)
               if (row, attack) not in has_results]  # fmt: skip
    return f"no results of {' and '.join(lacking)}" if lacking else ""


def _registered_p_values(layout: Layout, cells: list[tuple], unavailable: int) -> dict[tuple, float]:
    """By cell (row, other row, attack, metric). unavailable: further comparisons that count."""
    if not cells:
        return {}
    attacks = list(dict.fromkeys(cell[2] for cell in cells))
    pairs = list(dict.fromkeys(cell[:2] for cell in cells))
    columns = [(attack, metric) for attack in attacks for metric in MARKED]
    compared = np.array([[(*pair, *column) in cells for column in columns] for pair in pairs])
    places = [(layout.rows.index(row), layout.rows.index(other)) for row, other in pairs]
    family = compare_family(layout.array(attacks), places, compared, unavailable)
    return {
        (*pair, *column): family.p[line, place]
        for line, pair in enumerate(pairs)
        for place, column in enumerate(columns)
        if compared[line, place]
    }


def _tables(rows: pd.DataFrame, counts: ClassCounts) -> Iterator[tuple[tuple, str, pd.DataFrame, pd.DataFrame]]:
    """Each setting and checkpoint with its students' rows, and the marked metrics by row, seed and attack, means over
    teachers."""
    columns = {name: of(counts.accuracy) for name, of in MARKED.items()}
    keys, values = over_teachers(counts.keys, pd.DataFrame(columns), CELL)
    frame = keys[[*CELL, "seed"]].astype({"attack": str, "checkpoint": str}).join(values)
    frame = frame.assign(teachers=frame["row"].map(rows["teachers"]))
    for setting, part in rows[rows["role"] == "student"].groupby(SETTING, sort=False, dropna=False):
        own = frame[frame["row"].isin(part.index)]
        for checkpoint, values in own.groupby("checkpoint", sort=False):
            yield setting, str(checkpoint), part, values


@dataclass(frozen=True)
class Layout:
    """values: the marked metrics of `rows` over the same `seeds`."""

    rows: list[int]
    seeds: tuple[int, ...]
    values: pd.DataFrame

    @classmethod
    def around(cls, values: pd.DataFrame, baseline: int, fewest: int) -> Layout | None:
        """Of the baseline, which comes first, and the rows that share `fewest` seeds and all teachers with it, under
        the attacks that all of them have."""
        seeds = _seeds(values)
        shared = seeds.get(baseline, set())
        others = [row for row in seeds if row != baseline and len(seeds[row] & shared) >= fewest]
        others = [row for row in others if same_teachers(values, [baseline, row])]
        layout = cls.over(values, [baseline, *others], fewest) if others else None
        return layout and layout.under_common_attacks()

    @classmethod
    def over(cls, values: pd.DataFrame, rows: list[int], fewest: int) -> Layout | None:
        """None where the rows share fewer than `fewest` seeds."""
        seeds = _seeds(values)
        shared = set.intersection(*[seeds.get(row, set()) for row in rows]) if rows else set()
        if len(shared) < fewest:
            return None
        return cls(rows, tuple(sorted(shared)), values[values["row"].isin(rows) & values["seed"].isin(shared)])

    def under_common_attacks(self) -> Layout | None:
        """The part under the attacks that all rows have with every seed; None without one."""
        complete = self.values.groupby("attack")["row"].transform("size") == len(self.rows) * len(self.seeds)
        return replace(self, values=self.values[complete]) if complete.any() else None

    def array(self, attacks: Sequence[str]) -> np.ndarray:
        """(S, V, M): the metrics under the first attack, then under the next; NaN where a row has no result."""
        order = pd.MultiIndex.from_product([self.seeds, self.rows])
        by_attack = [self.values[self.values["attack"] == name].set_index(["seed", "row"]) for name in attacks]
        tables = [table[list(MARKED)].reindex(order).to_numpy() for table in by_attack]
        return np.concatenate(tables, axis=1).reshape(len(self.seeds), len(self.rows), -1)


def _seeds(values: pd.DataFrame) -> dict[int, set[int]]:
    groups: Any = values.groupby("row", sort=False)["seed"]
    return {row: set(own) for row, own in groups}


def same_teachers(values: pd.DataFrame, rows: list[int]) -> bool:
    """Whether all rows that have teachers are averages over the same ones."""
    return len(set(values.loc[values["row"].isin(rows), "teachers"]) - {""}) <= 1


def strongest(values: pd.DataFrame) -> str:
    """AutoAttack where it was run, whatever its number of images: the more stages, the stronger. Else the attack that
    leaves the least, on average over all rows."""
    means = values.groupby("attack")["average"].mean()
    stages = {str(name): len(attack_info(name).stages) for name in means.index if declared(name)}
    if max(stages.values(), default=0) > 1:
        return max(stages, key=lambda name: stages[name])
    return str(means.idxmin()) if len(means) else ""
