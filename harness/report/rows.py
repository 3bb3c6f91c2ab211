"""What is one row of a report and what one table: trials that differ in their seed, or their teacher's, only. What one
name stands for more than once is told apart by its settings."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd

from harness.report.data_names import read_spec
from harness.spec import canonical

SETTING = ["dataset", "student", "eps"]  # what results must share to stand in one table
ROW = [*SETTING, "role", "variant"]  # what makes a row: its trials differ in their seed, or their teacher's, only
CELL = ["row", "checkpoint", "attack"]  # what has a result, a mean over seeds
NETWORK = ["trial_id", "row", "seed", "teacher_seed"]  # one trained network
ROLES = ("teacher", "student", "evaluation")


def settings_of(rows: pd.DataFrame) -> list[tuple]:
    """The (dataset, student, eps) that have a table each: the students', or a teacher's own where it is alone."""
    pupils = rows[rows["role"] != "teacher"]
    heads = pd.concat([pupils, rows[~beside(rows, pupils)]])[SETTING].drop_duplicates()
    return list(heads.itertuples(index=False, name=None))


def beside(teachers: pd.DataFrame, pupils: pd.DataFrame) -> np.ndarray:
    """Which teachers stand in a table of some pupils: those of their data set and eps, whatever the network."""
    of_teachers, of_pupils = (pd.MultiIndex.from_frame(part[["dataset", "eps"]]) for part in (teachers, pupils))
    return of_teachers.isin(of_pupils)


def in_setting(rows: pd.DataFrame, setting: tuple) -> pd.DataFrame:
    """The rows of one table: those of the setting, and the teachers of its data set and eps, whatever their network."""
    dataset, student, eps = setting
    fits = (rows["student"] == student) | (rows["role"] == "teacher")
    return rows[(rows["dataset"] == dataset) & (rows["eps"] == eps) & fits]


def rows_of(trials: pd.DataFrame) -> pd.DataFrame:
    """One line per row of the report: by data set and eps, teachers first, then as the suite lists them or by name."""
    order = trials["role"].map({role: place for place, role in enumerate(ROLES)})
    keyed = trials.assign(order=order).sort_values(
        ["dataset", "eps", "order", "student", "place", "variant"], kind="stable"
    )
    return keyed.drop_duplicates(ROW)[[*ROW, "method", "teacher"]].reset_index(drop=True)


def told_apart(trials: pd.DataFrame, stand_ins: Mapping[str, tuple[str, int]]) -> pd.DataFrame:
    """Trials of one name whose settings differ in more than the seed, or their teacher's, get names of their own.

    Two suites may share a store and a variant's name; their numbers must not average into one row. Seeds may differ in
    which attacks they were given, not in what an attack of one name did; networks evaluated twice stand apart.
    """
    trials = trials.reset_index(drop=True)
    parts = [setup_of(spec, stand_ins) for spec in trials["spec"]]
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


def setup_of(text: Any, stand_ins: Mapping[str, tuple[str, int]] = MappingProxyType({})) -> tuple[str, str]:
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


def flat(value: Any, path: str = "") -> dict[str, Any]:
    """Nested mappings as one, with paths such as `training.epochs`; lists stay whole."""
    if not isinstance(value, dict):
        return {path: value}
    inner = {f"{path}.{key}" if path else key: item for key, item in value.items()}
    return {name: leaf for key, item in inner.items() for name, leaf in flat(item, key).items()}
