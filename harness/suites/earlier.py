"""Finished trials that a store has of a plan's variants under another precision, another number of threads or an older
numerics version. Imports neither torch nor Ray."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from harness.errors import InputError
from harness.spec import NUMERICS_VERSION, TrialSpec, canonical, training_id
from harness.store.store import Store
from harness.suites.machine import MACHINE


@dataclass(frozen=True)
class Otherwise:
    """Trainings of a plan that a store has otherwise. machine: what the machine resolves (`MACHINE`), as there.
    trials: their ids there, with the variants of the plan."""

    numerics_version: int
    machine: dict[str, Any]
    trials: dict[str, str]

    @property
    def older(self) -> bool:
        return self.numerics_version < NUMERICS_VERSION


ENDED = ("done", "stopped")  # states of a trial that nobody runs again unasked: of a search that stopped some, too


def stored_otherwise(specs: Sequence[TrialSpec], store: Store, states: Sequence[str] = ("done",)) -> list[Otherwise]:
    """Of what a plan still lacks, what the store has otherwise in one of some states; the same evaluation is not asked
    for."""
    statuses = store.statuses()
    open_ids = {spec.training_id: spec.variant for spec in specs if statuses.get(spec.trial_id) not in states}
    if not open_ids or not statuses:
        return []
    found = []
    groups: Any = _stored(store, states).groupby(["numerics_version", *MACHINE])
    for (version, *machine), part in groups:
        there = dict(zip(MACHINE, machine, strict=True))
        same = all(getattr(spec, key) == value for spec in specs for key, value in there.items())
        if same and version == NUMERICS_VERSION:
            continue
        wanted = _training_ids(specs, int(version), there)
        variants = {wanted[now]: variant for now, variant in open_ids.items()}
        known = part[part["training_id"].isin(list(variants))]
        if len(known):
            trials = {key: variants[of] for key, of in zip(known["trial_id"], known["training_id"], strict=True)}
            found.append(Otherwise(int(version), there, trials))
    return found


def describe(found: Otherwise, planned: Sequence[TrialSpec]) -> str:
    """In one sentence, with the options under which the trials are found."""
    first = planned[0]
    sets = [f"--set {key}={value}" for key, value in found.machine.items() if getattr(first, key) != value]
    there = f" with {' '.join(sets)}" if sets else ""
    made = f", made under numerics version {found.numerics_version} (now {NUMERICS_VERSION})" if found.older else ""
    return f"the store has {len(found.trials)} finished trials of these variants{there}{made}"


def refuse_older(specs: Sequence[TrialSpec], store: Store, states: Sequence[str] = ("done",)) -> None:
    """InputError where trials still to run were made under an older numerics version: running them makes them again."""
    found = stored_otherwise(specs, store, states)
    _refuse(sum(len(each.trials) for each in found if each.older), store)


def refuse_older_proposals(bases: Sequence[TrialSpec], store: Store) -> None:
    """The same for a search whose settings are not known beforehand: any tries of these methods and seeds count."""
    trials = store.trials(["tuning_id", "status", "numerics_version", "method", "seed"])
    tries = trials[trials["tuning_id"].notna() & trials["status"].isin(ENDED)]
    older = tries[tries["numerics_version"] < NUMERICS_VERSION]
    wanted = {(spec.method["name"], spec.seed) for spec in bases if spec.method}
    _refuse(sum(pair in wanted for pair in zip(older["method"], older["seed"], strict=True)), store)


def _refuse(count: int, store: Store) -> None:
    if count:
        raise InputError(
            f"{store.root} has {count} finished trials of these variants from an older numerics version, whose numbers "
            f"do not mix with those of version {NUMERICS_VERSION}: --again makes them again beside the old ones, "
            f"--results another folder"
        )


def _stored(store: Store, states: Sequence[str]) -> pd.DataFrame:
    """Trials in one of some states with what their machine resolved."""
    trials = store.trials(["training_id", "numerics_version", "status", "spec"])
    trials = trials[trials["status"].isin(states)].reset_index(drop=True)
    specs = [json.loads(text) for text in trials["spec"]]
    return trials.assign(**{key: [spec.get(key) for spec in specs] for key in MACHINE})


def _training_ids(specs: Sequence[TrialSpec], version: int, machine: dict[str, Any]) -> dict[str, str]:
    """For each training of a plan the id it would have there; teachers come first in a plan."""
    there: dict[str, str] = {}
    for spec in specs:
        values = canonical(spec.model_dump(mode="json")) | machine
        if version < 2:  # which knew nothing of the code of plugins
            values.pop("code", None)
        for source in [*values["teachers"].values(), values["init"]]:
            if source and source["training"]:
                source["training"] = there[source["training"]]
        there[spec.training_id] = training_id(values, version)
    return there
