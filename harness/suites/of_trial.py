"""From a stored trial back to a suite that makes it again. Imports neither torch nor Ray; runs no code of others."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import methods
from harness.attacks.registry import attack_info, declared
from harness.data.registry import DATASETS
from harness.errors import InputError
from harness.spec import (
    CHECKPOINTS,
    DatasetSpec,
    EvaluationSpec,
    NetworkSpec,
    Source,
    TrainingSpec,
    TrialSpec,
    read_spec,
)
from harness.store.reading import Reader
from harness.suites.keys import Entry
from harness.suites.notation import written
from harness.suites.suite import Suite
from methods.registry import KINDS

Find = Callable[[str], TrialSpec | None]

_LEARNS = "rslad"  # what learns from a teacher that is asked for: any method would do


def stored_suite(store: Reader, trial_id: str) -> str:
    """`suite_text` of a trial of a store."""

    def find(wanted: str) -> TrialSpec | None:
        specs = store.read("trials", [wanted], columns=["spec"])["spec"]
        return read_spec(json.loads(specs.iloc[0])) if len(specs) else None

    trial = find(trial_id)
    if trial is None:
        raise InputError(f"the store has no row of trial {trial_id}")
    return suite_text(trial, trial_id, find)


def suite_text(trial: TrialSpec, stored_as: str, find: Find) -> str:
    """`suite_of` as a YAML file, with what else is to be known of it as comments."""
    same = trial.trial_id == stored_as
    code = ", ".join(f"{role} {sha256[:12]}" for role, sha256 in trial.code.items())
    remarks = {
        f"Makes trial {stored_as}: {trial.variant}, seed {trial.seed}.": True,
        "It was stored under an older numerics version, or written otherwise: made again, its id is another.": not same,
        "A teacher is made by a suite with a student; any will do.": trial.role == "teacher",
        "A setting of a search, which was not attacked: `clean` is, here.": not trial.evaluation.attacks,
        f"Needs code of others, --plugin FILE, by its sha256: {code}.": bool(code),
    }
    head = "".join(f"# {remark}\n" for remark, true in remarks.items() if true)
    return head + written(suite_of(trial, find))


def suite_of(trial: TrialSpec, find: Find) -> dict[str, Any]:
    """The keys of a suite that makes a trial and what it learns or starts from, as short as defaults allow.

    find: a trial of the same store, by its id. A teacher is made by a suite with a student of its own. InputError for a
    network that was given to `evaluate`, and where the store lacks one that the trial learnt from.
    """
    if trial.role == "evaluation":
        raise InputError(f"trial {trial.trial_id}: no suite makes it, it is a network that was given to `evaluate`")
    shared = {
        key: getattr(trial, key) for key in ("norm", "split_seed", "precision", "engine", "threads", "deterministic")
    }
    values = {
        "dataset": _dataset(trial.dataset),
        "student": _network(trial.student),
        "eps": trial.eps,
        **{key: value for key, value in shared.items() if value != Suite.model_fields[key].default},
        "evaluation": _evaluation(trial.evaluation),
    }
    if trial.keep != CHECKPOINTS:
        values["keep"] = list(trial.keep)
    if resources := trial.resources.model_dump(exclude_defaults=True):
        values["resources"] = resources
    if trial.role == "teacher":
        training = {"epochs": trial.training.epochs if trial.training else 1}
        return {**values, "training": training, "methods": [_LEARNS], "teacher": _block("teacher", trial, training)}
    training = _training(trial, {})
    values |= {"training": training, "methods": [_method(trial, trial.variant)], "seeds": [trial.seed]}
    sources = {**trial.teachers, "init": trial.init}
    return values | {name: _source(name, source, training, find) for name, source in sources.items() if source}


def _dataset(spec: DatasetSpec) -> Entry:
    values = spec.model_dump(exclude_none=True)
    return values if len(values) > 1 else spec.name


def _network(spec: NetworkSpec) -> Entry:
    values = {"name": spec.name, **spec.params}
    if spec.mean is not None:
        values["normalization"] = {"mean": list(spec.mean), "std": list(spec.std or ())}
    return values if len(values) > 1 else spec.name


def _evaluation(spec: EvaluationSpec) -> dict[str, Any]:
    values = spec.model_dump(exclude={"attacks"}, exclude_defaults=True)
    if spec.batch_size == spec.chunk_size:  # no more pass together than belong together
        values.pop("batch_size", None)
    requests = [request.model_dump(mode="json", exclude_none=True) for request in spec.attacks]
    return {"attacks": [_attack(request) for request in requests] or ["clean"], **values}


def _attack(request: dict[str, Any]) -> Entry:
    name = request["name"]
    if declared(name) and request["checkpoints"] == list(attack_info(name).checkpoints):
        del request["checkpoints"]
    return request if len(request) > 1 else name


def _training(trial: TrialSpec, suite: Mapping[str, Any]) -> dict[str, Any]:
    """What a training block says beyond the suite's, the method's own and the defaults; how long it is in any case."""
    assert trial.training is not None
    method = methods.METHODS.get(str(trial.method and trial.method["name"]))
    defaults = TrainingSpec(epochs=1).model_dump(mode="json", exclude={"epochs"})
    return _differing(
        trial.training.model_dump(mode="json"), {**defaults, **(method.training if method else {}), **suite}
    )


def _method(trial: TrialSpec, variant: str | None) -> Entry:
    """The entry of a method: what differs from its preset, or everything of one that is not registered here."""
    assert trial.method is not None
    assert trial.training is not None
    name = trial.method["name"]
    called = {} if variant is None else {"variant": variant}
    here = name in methods.METHODS and all(trial.method[kind]["name"] in methods.POLICIES[kind] for kind in KINDS)
    if not here:
        return {"method": name, **called, **trial.method["settings"], **{kind: trial.method[kind] for kind in KINDS}}
    full = methods.completed(trial.method)
    data = DATASETS.get(trial.dataset.name)
    preset = methods.completed(methods.resolve(name, trial.training.epochs, data.num_classes if data else None))
    entry = _differing(full["settings"], preset["settings"])
    for kind in KINDS:
        same = full[kind]["name"] == preset[kind]["name"]
        if full[kind] != preset[kind]:
            entry[kind] = {"name": full[kind]["name"], **_differing(full[kind], preset[kind] if same else {})}
    return {"method": name, **called, **entry} if entry or variant not in (None, name) else name


def _differing(values: Mapping[str, Any], plain: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key not in plain or value != plain[key]}


def _source(where: str, source: Source, suite: Mapping[str, Any], find: Find) -> dict[str, Any]:
    """The block of a teacher or of a network to start from."""
    if source.file is not None:
        named = source.model_dump(include={"file", "sha256", "weights"}, exclude_none=True)
        return {"model": _network(source.network), **named}
    trained = find(str(source.trial))
    if trained is None:
        raise InputError(f"the store has no row of trial {source.trial}, a {source.network.label} that it learnt from")
    return _block(where, trained, suite)


def _block(where: str, trial: TrialSpec, suite: Mapping[str, Any]) -> dict[str, Any]:
    """The block of a network that is a trial: how it was trained, or its file."""
    if trial.init is not None and trial.training is None:
        return _source(where, trial.init, suite, lambda _: None)
    block = {"model": _network(trial.student), "method": _method(trial, None)}
    own = {"training": (_training(trial, suite), {}), "seed": (trial.seed, 0), "variant": (trial.variant, where)}
    return block | {key: value for key, (value, usual) in own.items() if value != usual}
