"""The rows a report is about, read from a store: which trials, what they are called, their tables when asked for."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

import pandas as pd

from harness.errors import InputError, named, unknown
from harness.report.data_names import dataset_names
from harness.report.networks import extra_networks, stand_in_teachers, teacher_seeds, with_teachers
from harness.report.rows import CELL, NETWORK, ROW, beside, rows_of, told_apart

_STATES = 10_000_000  # rows of class states to read at once, some 400 MB
_QUANTITIES = 6  # by class, that a trial keeps of each epoch
_UNKNOWN = 500  # trials to read at once where their length is not known


class Readable(Protocol):
    """What a report needs of a store."""

    @property
    def problems(self) -> list[str]: ...

    def trials(self, columns: Sequence[str] | None = None) -> pd.DataFrame: ...

    def read(
        self, table: str, trial_ids: Collection[str] | None = None, columns: Sequence[str] | None = None
    ) -> pd.DataFrame: ...


@dataclass(frozen=True)
class Results:
    """The trials of a report, and where their other rows are.

    trials: rows of `trials`, with `variant` as the report calls it and `row`, the number of its line in `rows`.
    rows: one line per (dataset, student, eps, role, variant), in the order of the report; `teachers`, seeds of the
    teachers that its numbers are over, and `teachers_aside`, of others that some of its seeds were trained from.
    absent: trials that were asked for and are not in the store, with their variants.
    left_out: by row, finished seeds that are not in `trials`, because other rows of their table lack them.
    taught: `NETWORK` of every finished student whose row has several teachers, also of those that are not in `trials`.
    attacks: those that the report is about, in this order; empty for all.
    whole: what these are a part of, by a reader's choice; registered comparisons do not depend on that choice.
    """

    store: Readable
    trials: pd.DataFrame
    rows: pd.DataFrame
    absent: dict[str, str]
    left_out: dict[int, list[int]] = field(default_factory=dict)
    taught: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=NETWORK))
    attacks: tuple[str, ...] = ()
    whole: Results | None = None

    @property
    def done(self) -> pd.DataFrame:
        return self.trials[self.trials["status"] == "done"]

    @cached_property
    def class_accuracy(self) -> pd.DataFrame:
        """Checkpoint, attack, class, n and correct of the finished trials, with their `row`, `seed` and `teacher_seed`.

        Without what is `undefined`, with all its seeds: the mean of the others would be another row's.
        """
        cells = [pd.MultiIndex.from_frame(part[CELL].astype(object)) for part in (self._counted, self.undefined)]
        return self._counted[~cells[0].isin(cells[1])].reset_index(drop=True)

    @cached_property
    def undefined(self) -> pd.DataFrame:
        """Row, checkpoint, attack and seed of evaluations without a result: logits were not finite."""
        return self._counted.loc[self._counted["correct"].isna(), [*CELL, "seed"]].drop_duplicates()

    @cached_property
    def _counted(self) -> pd.DataFrame:
        columns = ["checkpoint", "attack", "class_index", "class_name", "n", "correct"]
        frame = self.store.read("class_accuracy", self._wanted, columns)
        frame = frame[frame["attack"].isin(self.attacks)] if self.attacks else frame
        frame = frame.reset_index(drop=True)
        return self._with(frame, "row", "seed", "teacher_seed")

    @cached_property
    def epochs(self) -> pd.DataFrame:
        """The `epochs` of the finished trials, with `row` and `seed`."""
        return self._with(self.store.read("epochs", self._wanted).reset_index(drop=True), "row", "seed")

    @cached_property
    def quantities(self) -> list[str]:
        """The quantities of `class_state` that the finished trials logged."""
        return sorted({str(name) for part in self._class_states(["quantity"]) for name in part["quantity"].unique()})

    def class_state(self, quantities: Collection[str], at: pd.DataFrame | None = None) -> pd.DataFrame:
        """Rows of `class_state` for some quantities, with `row` and `seed`.

        A name that ends in `*` stands for every quantity that starts so. at: only these trial_id and epoch pairs.
        """
        parts = [self.store.read("class_state", [])]
        for frame in self._class_states():
            kept = frame[matching(frame["quantity"], quantities)].astype({"quantity": str, "trial_id": str})
            parts.append(kept if at is None else kept.merge(at.drop_duplicates(), on=["trial_id", "epoch"]))
        return self._with(
            pd.concat([part for part in parts if len(part)] or parts[:1], ignore_index=True), "row", "seed"
        )

    def _class_states(self, columns: Sequence[str] | None = None) -> Iterator[pd.DataFrame]:
        """The `class_state` of the finished trials, the largest table after `outcomes`, in parts that fit in memory."""
        rows = _QUANTITIES * self.done["epochs"].max() * (self.class_accuracy["class_index"].max() + 1)  # of a trial
        count = max(1, int(_STATES / rows)) if rows > 0 else _UNKNOWN  # NaN where nothing was attacked
        for start in range(0, len(self._wanted), count):
            yield self.store.read("class_state", self._wanted[start : start + count], columns)

    def outcomes(self, trial_ids: Collection[str]) -> pd.DataFrame:
        """Per-sample outcomes of some trials, with `row` and `seed`; empty where they were not kept."""
        return self._with(self.store.read("outcomes", list(trial_ids)).reset_index(drop=True), "row", "seed")

    def select(self, rows: pd.DataFrame) -> Results:
        """The part of the results that belongs to some lines of `rows`."""
        trials, taught = (part[part["row"].isin(rows.index)] for part in (self.trials, self.taught))
        return Results(self.store, trials, rows, {}, self.left_out, taught, self.attacks)

    @cached_property
    def _wanted(self) -> list[str]:
        return list(self.done["trial_id"])

    def _with(self, frame: pd.DataFrame, *columns: str) -> pd.DataFrame:
        """Columns of the trial on its rows in another table."""
        trials = self.trials.set_index("trial_id")
        # a part of a compacted store names all its trials as categories, also those that were not read
        ids = frame["trial_id"].astype("category").cat.remove_unused_categories()
        known = trials.reindex(ids.cat.categories)
        return frame.assign(**{name: known[name].to_numpy()[ids.cat.codes] for name in columns})


def read_results(
    store: Readable,
    *,
    trial_ids: Sequence[str] | None = None,
    variants: Mapping[str, str] | None = None,
    datasets: Mapping[str, str] | None = None,
    titles: Mapping[str, str] | None = None,
    attacks: Sequence[str] = (),
) -> Results:
    """The trials of a store, or those of `trial_ids`, called as `variants` and `datasets` say, by trial id. Reads the
    `trials` table only.

    titles: what rows are called instead, by variant, or by method where it has one variant. attacks: see `Results`.
    """
    trials = store.trials()
    stand_ins = stand_in_teachers(trials)
    if trial_ids is not None:
        trials = trials[trials["trial_id"].isin(set(trial_ids))].reset_index(drop=True)
    names = dict(variants or {})
    stored = set(trials["trial_id"])
    absent = {key: names.get(key, "?") for key in trial_ids or () if key not in stored}
    called = [names.get(key, str(own)) for key, own in zip(trials["trial_id"], trials["variant"], strict=True)]
    place = {key: place for place, key in enumerate(trial_ids or ())}
    content = dataset_names(trials, datasets or {})
    trials = trials.assign(
        variant=_titled(called, trials, titles or {}),
        called=called,
        dataset=content,
        place=trials["trial_id"].map(place),
    )
    trials = told_apart(trials.assign(teacher_seed=teacher_seeds(trials, stand_ins)), stand_ins)
    rows = rows_of(trials)
    keys = pd.MultiIndex.from_frame(rows[ROW].astype(object))
    trials["row"] = keys.get_indexer(pd.MultiIndex.from_frame(trials[ROW].astype(object)))
    students = trials[(trials["status"] == "done") & (trials["role"] == "student")]
    extra = extra_networks(students)
    kept = trials.drop(index=extra.index)
    averaged = set(zip(kept["row"], kept["seed"], strict=True))
    left_out: dict[int, list[int]] = {}
    for row, seed in sorted(set(zip(extra["row"], extra["seed"], strict=True)) - averaged):
        left_out.setdefault(row, []).append(seed)
    several = students.groupby("row")["teacher_seed"].transform("nunique") > 1
    taught = students.loc[several, NETWORK].reset_index(drop=True)
    rows = with_teachers(rows, kept, extra)
    return Results(store, kept.reset_index(drop=True), rows, absent, left_out, taught, tuple(attacks))


def _titled(called: Sequence[str], trials: pd.DataFrame, titles: Mapping[str, str]) -> list[str]:
    """What each trial is called under `titles`. InputError where a title is for a method of several variants."""
    methods = [str(method) if role != "teacher" else "" for method, role in trials[["method", "role"]].to_numpy()]
    of_methods = {name: title for name, title in titles.items() if name not in set(called)}
    for name, title in of_methods.items():
        variants = {variant for variant, method in zip(called, methods, strict=True) if method == name}
        if len(variants) > 1 and title != name:
            raise InputError(
                f"the title '{title}' is for {name}, of which there are several variants: {', '.join(sorted(variants))}"
            )
    renamed = {name: title for name, title in of_methods.items() if title != name}
    return [titles.get(name, renamed.get(method, name)) for name, method in zip(called, methods, strict=True)]


def some_trials(store: Readable, names: Sequence[str], seeds: Sequence[int]) -> list[str]:
    """Ids of the trials of some methods or variants and some seeds, and of the teachers in their tables; all where none
    is named.

    In the order of `names`, as the report has them then; names of teachers choose nothing, they come anyway. InputError
    for a name or a seed that is not there.
    """
    trials = store.trials().astype({"method": str, "variant": str})
    trials = trials.assign(dataset=dataset_names(trials, {}))
    taught = trials["role"] == "teacher"
    teachers, pupils = trials[taught], trials[~taught]
    for seed in seeds:
        if seed not in set(pupils["seed"]):
            raise unknown("seed", seed, {str(one) for one in pupils["seed"]})
    come_anyway = {*teachers["variant"]} - {*pupils["variant"], *pupils["method"]}
    names = [name for name in names if name not in come_anyway]
    places = named("method or variant", names, zip(pupils["variant"], pupils["method"], strict=True))
    chosen = pupils.iloc[list(places)] if names else pupils.sort_values("variant", kind="stable")
    wanted = chosen[chosen["seed"].isin(list(seeds))] if seeds else chosen
    kept = teachers[beside(teachers, wanted)] if names or seeds else teachers
    return [*kept["trial_id"], *wanted["trial_id"]]


def matching(names: pd.Series, patterns: Collection[str]) -> pd.Series:
    """Which names are among the patterns; one that ends in `*` stands for every name that starts so."""
    exact = names.isin([pattern for pattern in patterns if not pattern.endswith("*")])
    starts = tuple(pattern[:-1] for pattern in patterns if pattern.endswith("*"))
    return exact | names.astype(str).str.startswith(starts) if starts else exact


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """The lines of a frame as dicts by column name."""
    return [{str(key): value for key, value in line.items()} for line in frame.to_dict("records")]
