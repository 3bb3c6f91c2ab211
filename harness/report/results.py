"""The rows a report is about, read from a store: which trials, what they are called, their tables when asked for."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import Any, Protocol

import numpy as np
import pandas as pd

from harness.errors import named, unknown
from harness.report.data_names import dataset_names, read_spec
from harness.report.scores.seeds import Network, common_networks
from harness.spec import canonical

SETTING = ["dataset", "student", "eps"]  # what results must share to stand in one table
ROW = [*SETTING, "role", "variant"]  # what makes a row: its trials differ in their seed, or their teacher's, only
CELL = ["row", "checkpoint", "attack"]  # what has a result, a mean over seeds
NETWORK = ["trial_id", "row", "seed", "teacher_seed"]  # one trained network
ROLES = ("teacher", "student", "evaluation")
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
    """

    store: Readable
    trials: pd.DataFrame
    rows: pd.DataFrame
    absent: dict[str, str]
    left_out: dict[int, list[int]] = field(default_factory=dict)
    taught: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=NETWORK))

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
        frame = self.store.read("class_accuracy", self._wanted, columns).reset_index(drop=True)
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
        return Results(self.store, trials, rows, {}, self.left_out, taught)

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
) -> Results:
    """The trials of a store, or those of `trial_ids`, called as `variants` and `datasets` say, by trial id. Reads the
    `trials` table only."""
    trials = store.trials()
    stand_ins = _stand_ins(trials)
    if trial_ids is not None:
        trials = trials[trials["trial_id"].isin(set(trial_ids))].reset_index(drop=True)
    names = dict(variants or {})
    stored = set(trials["trial_id"])
    absent = {key: names.get(key, "?") for key in trial_ids or () if key not in stored}
    called = [names.get(key, str(own)) for key, own in zip(trials["trial_id"], trials["variant"], strict=True)]
    place = {key: place for place, key in enumerate(trial_ids or ())}
    content = dataset_names(trials, datasets or {})
    trials = trials.assign(variant=called, called=called, dataset=content, place=trials["trial_id"].map(place))
    trials = _told_apart(trials.assign(teacher_seed=_teacher_seeds(trials, stand_ins)), stand_ins)
    rows = _rows(trials)
    keys = pd.MultiIndex.from_frame(rows[ROW].astype(object))
    trials["row"] = keys.get_indexer(pd.MultiIndex.from_frame(trials[ROW].astype(object)))
    students = trials[(trials["status"] == "done") & (trials["role"] == "student")]
    extra = _extra_networks(students)
    kept = trials.drop(index=extra.index)
    averaged = set(zip(kept["row"], kept["seed"], strict=True))
    left_out: dict[int, list[int]] = {}
    for row, seed in sorted(set(zip(extra["row"], extra["seed"], strict=True)) - averaged):
        left_out.setdefault(row, []).append(seed)
    several = students.groupby("row")["teacher_seed"].transform("nunique") > 1
    taught = students.loc[several, NETWORK].reset_index(drop=True)
    return Results(store, kept.reset_index(drop=True), _with_teachers(rows, kept, extra), absent, left_out, taught)


def _extra_networks(students: pd.DataFrame) -> pd.DataFrame:
    """The finished students of seeds or teachers that other rows of their table lack: averages over unlike ones cannot
    be compared.
    """
    extra = pd.Series(False, students.index)
    for _, part in students.groupby(SETTING, sort=False, dropna=False):
        teachers = [None if np.isnan(teacher) else int(teacher) for teacher in part["teacher_seed"]]
        lines = list(zip(part["row"], zip(part["seed"], teachers, strict=True), strict=True))
        networks: dict[Any, set[Network]] = {row: set() for row, _ in lines}
        for row, network in lines:
            networks[row].add(network)
        kept = common_networks(networks)
        extra[part.index] = np.array([network not in kept[row] for row, network in lines])
    return students[extra]


def _with_teachers(rows: pd.DataFrame, kept: pd.DataFrame, extra: pd.DataFrame) -> pd.DataFrame:
    """The rows with the teachers of their networks: labels and seeds of those in the averages, seeds of others."""
    done, others = (
        part[(part["status"] == "done") & (part["role"] == "student")].dropna(subset=["teacher_seed", "teacher"])
        for part in (kept, extra)
    )
    averaged = set(zip(done["row"], done["teacher_seed"], strict=True))
    pairs = zip(others["row"], others["teacher_seed"], strict=True)
    aside = np.array([pair not in averaged for pair in pairs], dtype=bool)

    def by_row(part: pd.DataFrame, name: str) -> pd.Series:
        names: Any = part.sort_values("teacher_seed", kind="stable").groupby("row")[name]
        texts = names.agg(lambda own: ", ".join(str(each) for each in dict.fromkeys(own)))
        return texts.astype(object).reindex(rows.index)

    whole = [part.astype({"teacher_seed": int}) for part in (done, others[aside])]
    return rows.assign(
        teacher=by_row(done, "teacher").fillna(rows["teacher"].astype(object)),
        teachers=by_row(whole[0], "teacher_seed").fillna(""),
        teachers_aside=by_row(whole[1], "teacher_seed").fillna(""),
    )


def _stand_ins(trials: pd.DataFrame) -> dict[str, tuple[str, int]]:
    """By the training id of each teacher its seed, and the training that stands for all that differ from it in their
    seed only: that of the smallest seed."""
    teachers = trials[trials["role"] == "teacher"].sort_values("seed")
    first: dict[tuple[str, int], str] = {}
    found = {}
    for training, seed, version, text in teachers[["training_id", "seed", "numerics_version", "spec"]].to_numpy():
        setup = {key: value for key, value in json.loads(_setup(text)[0]).items() if key != "evaluation"}
        same = json.dumps(setup, sort_keys=True), version
        found[str(training)] = first.setdefault(same, str(training)), int(seed)
    return found


def _teacher_seeds(trials: pd.DataFrame, stand_ins: Mapping[str, tuple[str, int]]) -> pd.Series:
    """The seed of each trial's teacher, NaN where it has none or it is not known."""

    def known(text: Any) -> float:
        teacher = (read_spec(text).get("teachers") or {}).get("teacher") or {}
        return stand_ins[teacher["training"]][1] if teacher.get("training") in stand_ins else np.nan

    seeds = trials["teacher_seed"].astype(float)
    return seeds.fillna(trials.loc[seeds.isna(), "spec"].map(known).astype(float))


def some_trials(store: Readable, names: Sequence[str], seeds: Sequence[int]) -> list[str]:
    """Ids of the trials of some methods or variants and some seeds, all where none is named; and of every teacher.

    In the order of `names`, as the report has them then. InputError for a name or a seed that is not there.
    """
    trials = store.trials(["role", "method", "variant", "seed"]).astype({"method": str, "variant": str})
    pupils = trials[trials["role"] != "teacher"]
    for seed in seeds:
        if seed not in set(pupils["seed"]):
            raise unknown("seed", seed, {str(one) for one in pupils["seed"]})
    places = named("method or variant", names, zip(pupils["variant"], pupils["method"], strict=True))
    chosen = pupils.iloc[list(places)] if names else pupils.sort_values("variant", kind="stable")
    wanted = chosen[chosen["seed"].isin(list(seeds))] if seeds else chosen
    return [*trials.loc[trials["role"] == "teacher", "trial_id"], *wanted["trial_id"]]


def settings_of(rows: pd.DataFrame) -> list[tuple]:
    """The (dataset, student, eps) that have a table each: the students', or a teacher's own where it is alone."""
    pupils = rows[rows["role"] != "teacher"]
    taught = pd.MultiIndex.from_frame(pupils[["dataset", "eps"]])
    alone = ~pd.MultiIndex.from_frame(rows[["dataset", "eps"]]).isin(taught)
    heads = pd.concat([pupils, rows[alone]])[SETTING].drop_duplicates()
    return list(heads.itertuples(index=False, name=None))


def in_setting(rows: pd.DataFrame, setting: tuple) -> pd.DataFrame:
    """The rows of one table: those of the setting, and the teachers of its data set and eps, whatever their network."""
    dataset, student, eps = setting
    fits = (rows["student"] == student) | (rows["role"] == "teacher")
    return rows[(rows["dataset"] == dataset) & (rows["eps"] == eps) & fits]


def matching(names: pd.Series, patterns: Collection[str]) -> pd.Series:
    """Which names are among the patterns; one that ends in `*` stands for every name that starts so."""
    exact = names.isin([pattern for pattern in patterns if not pattern.endswith("*")])
    starts = tuple(pattern[:-1] for pattern in patterns if pattern.endswith("*"))
    return exact | names.astype(str).str.startswith(starts) if starts else exact


def _rows(trials: pd.DataFrame) -> pd.DataFrame:
    """One line per row of the report: by data set and eps, teachers first, then as the suite lists them or by name."""
    order = trials["role"].map({role: place for place, role in enumerate(ROLES)})
    keyed = trials.assign(order=order).sort_values(
        ["dataset", "eps", "order", "student", "place", "variant"], kind="stable"
    )
    return keyed.drop_duplicates(ROW)[[*ROW, "method", "teacher"]].reset_index(drop=True)


def _told_apart(trials: pd.DataFrame, stand_ins: Mapping[str, tuple[str, int]]) -> pd.DataFrame:
    """Trials of one name whose settings differ in more than the seed, or their teacher's, get names of their own.

    Two suites may share a store and a variant's name; their numbers must not average into one row. Seeds may differ in
    which attacks they were given, not in what an attack of one name did; networks evaluated twice stand apart.
    """
    trials = trials.reset_index(drop=True)
    parts = [_setup(spec, stand_ins) for spec in trials["spec"]]
    setups = pd.Series([setup for setup, _ in parts], trials.index, dtype=object)
    attacks = pd.Series([requests for _, requests in parts], trials.index, dtype=object)
    keys = [*[trials[name] for name in ROW], setups]
    unlike = attacks.groupby(keys, dropna=False).transform("nunique") > 1
    for _, group in trials[unlike].groupby([key[unlike] for key in keys], dropna=False):
        if _disagree(attacks[group.index], group["training_id"]):
            whole = _with_attacks(setups[group.index], attacks[group.index])
            setups = whole.reindex(setups.index).fillna(setups)
    several = setups.groupby([trials[name] for name in ROW], dropna=False).transform("nunique") > 1
    names = trials["variant"].copy()
    for _, group in trials[several].groupby(ROW, dropna=False):
        different = list(dict.fromkeys(setups[group.index]))
        suffixes = dict(zip(different, _suffixes(different), strict=True))
        names[group.index] = [f"{names[index]} {suffixes[setups[index]]}" for index in group.index]
    return trials.assign(variant=names)


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """The lines of a frame as dicts by column name."""
    return [{str(key): value for key, value in line.items()} for line in frame.to_dict("records")]


def flat(value: Any, path: str = "") -> dict[str, Any]:
    """Nested mappings as one, with paths such as `training.epochs`; lists stay whole."""
    if not isinstance(value, dict):
        return {path: value}
    inner = {f"{path}.{key}" if path else key: item for key, item in value.items()}
    return {name: leaf for key, item in inner.items() for name, leaf in flat(item, key).items()}


def _setup(text: Any, stand_ins: Mapping[str, tuple[str, int]] = MappingProxyType({})) -> tuple[str, str]:
    """What decides the numbers in a specification, without the seed: everything but the attacks, and the attacks.

    In place of a teacher stands that of the smallest seed.
    """
    setup = {key: value for key, value in canonical(read_spec(text)).items() if key != "seed"}
    teacher = (setup.get("teachers") or {}).get("teacher") or {}
    if teacher.get("training") in stand_ins:
        teacher["training"] = stand_ins[teacher["training"]][0]
    evaluation = setup.get("evaluation")
    attacks = evaluation.pop("attacks", []) if isinstance(evaluation, dict) else []
    return json.dumps(setup, sort_keys=True), json.dumps(attacks, sort_keys=True)


def _disagree(attacks: pd.Series, trainings: pd.Series) -> bool:
    """Whether trials were given different attacks of one name, or one network was evaluated twice."""
    requests = {json.dumps(request, sort_keys=True) for text in set(attacks) for request in json.loads(text)}
    names = [json.loads(request)["name"] for request in requests]
    return len(set(names)) < len(names) or bool(trainings.duplicated().any())


def _with_attacks(setups: pd.Series, attacks: pd.Series) -> pd.Series:
    def joined(setup: str, requests: str) -> str:
        whole = json.loads(setup)
        return json.dumps(
            {**whole, "evaluation": {**whole["evaluation"], "attacks": json.loads(requests)}}, sort_keys=True
        )

    return pd.Series(list(map(joined, setups, attacks)), setups.index, dtype=object)


def _suffixes(setups: Sequence[str]) -> list[str]:
    """For each setup what sets it apart, such as `[training.epochs=20]`; a number where that would be long."""
    flats = [flat(json.loads(setup)) for setup in setups]
    keys = sorted({key for one in flats for key in one if any(other.get(key) != one[key] for other in flats)})
    texts = ["[" + ", ".join(f"{key}={_short(one.get(key))}" for key in keys) + "]" for one in flats]
    return [text if len(text) <= 60 else f"#{place}" for place, text in enumerate(texts, 1)]


def _short(value: Any) -> Any:
    """The beginning of a hash, anything else as it is."""
    return value[:8] if isinstance(value, str) and re.fullmatch(r"[0-9a-f]{64}", value) else value
