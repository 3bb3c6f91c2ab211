"""From a suite to the list of trials it stands for. Imports neither torch nor Ray."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import methods
from harness.blocks import (
    Entry,
    dataset_spec,
    evaluation_spec,
    file_sha256,
    network_spec,
    read,
    training_spec,
)
from harness.config import Suite
from harness.data import DATASETS
from harness.errors import InputError, named, unknown
from harness.notation import number, read_yaml
from harness.spec import NetworkSpec, Source, TrialSpec


def plan(suite: Suite, *, only: Sequence[str] = (), seeds: Sequence[int] = ()) -> list[TrialSpec]:
    """Every trial of a suite, teachers and starting networks first, each once.

    only: variants or methods to keep (with what they depend on), in this order. seeds: instead of the suite's. Raises
    InputError for anything that could not run.
    """
    assert "auto" not in (suite.precision, suite.threads), "for_this_machine comes before plan"
    entries = [_method_entry(entry, suite) for entry in suite.methods]
    _check_variants([entry.variant for entry in entries])
    places = named("method or variant", only, [(entry.variant, entry.resolved["name"]) for entry in entries])
    chosen = [entries[place] for place in places] if only else entries
    specs: dict[str, TrialSpec] = {}
    for network in _students(suite):
        for entry in chosen:
            for seed in seeds or entry.seeds:
                for spec in _student_and_sources(suite, network, entry.variant, entry.resolved, seed):
                    specs.setdefault(spec.trial_id, spec)
    return sorted(specs.values(), key=lambda spec: spec.role != "teacher")


def evaluation_trial(
    checkpoint: Path,
    model: str,
    parameters: Sequence[str],
    dataset: str,
    normalization: str,
    attacks: Sequence[str],
    eps: str,
    images: int | None,
    variant: str,
) -> TrialSpec:
    """The trial that evaluates a network from a file, without training."""
    params = {}
    for parameter in parameters:
        key, sign, value = parameter.partition("=")
        if not sign:
            raise InputError(f"--param {parameter}: write key=value, such as width=16")
        params[key] = read_yaml(value, f"--param {parameter}: the value")
    data = dataset_spec(_dataset_entry(dataset))
    network = network_spec({"name": model, **params, "normalization": normalization}, "--model", data)
    source = Source(network=network, file=str(checkpoint.absolute()), sha256=file_sha256(str(checkpoint), "checkpoint"))
    evaluation = evaluation_spec({"attacks": list(attacks), "images": images})
    return TrialSpec(
        role="evaluation",
        variant=variant,
        dataset=data,
        student=network,
        init=source,
        evaluation=evaluation,
        eps=number(eps, "--eps"),
    )


def _dataset_entry(dataset: str) -> Entry:
    """What `evaluate --dataset` means: the path of a folder or of an .npz file, else a data set's name."""
    if dataset.endswith(".npz"):
        return {"name": "npz", "path": dataset}
    is_folder = "/" in dataset or (dataset not in DATASETS and Path(dataset).is_dir())
    return {"name": "folder", "path": dataset} if is_folder else dataset


def _students(suite: Suite) -> list[NetworkSpec]:
    entries = ([suite.student] if suite.student is not None else []) + suite.students
    if not entries:
        raise InputError(f"suite {suite.name}: 'student' is missing: a model such as cnn, or {{name: cnn, width: 16}}")
    return [network_spec(entry, "student", dataset_spec(suite.dataset)) for entry in entries]


class _MethodEntry(NamedTuple):
    variant: str
    resolved: dict[str, Any]
    seeds: list[int]


def _method_entry(entry: Entry, suite: Suite) -> _MethodEntry:
    """A method entry: what `methods.resolve` reads, a `variant`, and `seeds` of its own."""
    values = dict(entry) if isinstance(entry, Mapping) else {"method": entry}
    variant, seeds = values.pop("variant", None), values.pop("seeds", suite.seeds)
    if not isinstance(seeds, list) or not seeds or not all(isinstance(seed, int) and seed >= 0 for seed in seeds):
        raise InputError(f"methods: seeds of {values.get('method')} must be a list of whole numbers, not {seeds!r}")
    epochs = suite.training.get("epochs", 1)
    try:
        resolved = methods.resolve(values, epochs if isinstance(epochs, int) else 1)
    except methods.SettingsError as error:
        raise InputError(f"methods: {error}") from error
    if variant is None:
        differs = [f"{key}={_short(value)}" for key, value in values.items() if key != "method"]
        variant = "-".join([values["method"], *differs])
    if not isinstance(variant, str) or not variant.strip():
        raise InputError(f"methods: variant of {values['method']} must be a name, not {variant!r}")
    return _MethodEntry(variant, resolved, seeds)


def _short(value: Any) -> str:
    if isinstance(value, Mapping):
        return "+".join(f"{key}={_short(item)}" if key != "name" else str(item) for key, item in value.items())
    return str(value)


def _check_variants(variants: list[str]) -> None:
    twice = sorted({variant for variant in variants if variants.count(variant) > 1})
    if twice:
        raise InputError(f"methods: two entries are called '{twice[0]}'; give each a 'variant' of its own")


def _student_and_sources(
    suite: Suite, network: NetworkSpec, variant: str, resolved: dict[str, Any], seed: int
) -> Iterator[TrialSpec]:
    teachers = {}
    for name in methods.teachers_of(resolved):
        block = suite.teacher if name == "teacher" else suite.natural_teacher
        if block is None:
            raise InputError(
                f"method {resolved['name']} learns from a teacher; the suite has no '{name}' (a network to "
                f"train, or a file with its sha256)"
            )
        teachers[name], trial = _source(suite, block, name)
        if trial:
            yield trial
    init = None
    if methods.METHODS[resolved["name"]].needs_init:
        if suite.init is None:
            raise InputError(
                f"method {resolved['name']} starts from a robust network; the suite has no 'init' (a network to "
                f"train, or a file with its sha256)"
            )
        init, trial = _source(suite, {"model": _network_entry(network), **suite.init}, "init")
        if trial:
            yield trial
    training = {**methods.METHODS[resolved["name"]].training, **suite.training}
    yield _trial(suite, "student", variant, network, resolved, training, seed, teachers=teachers, init=init)


def _network_entry(network: NetworkSpec) -> dict[str, Any]:
    normalization = {"mean": list(network.mean), "std": list(network.std or ())} if network.mean else "none"
    return {"name": network.name, **network.params, "normalization": normalization}


def _source(suite: Suite, block: Mapping[str, Any], where: str) -> tuple[Source, TrialSpec | None]:
    """A teacher or a starting network: a file to read, or a trial to run first."""
    block = dict(block)
    network = network_spec(block.pop("model", "missing"), where, dataset_spec(suite.dataset))
    if "file" in block:
        file = str(block.pop("file"))
        if block.get("sha256") is None:
            raise InputError(
                f"{where}: a file needs its sha256, so that every result names the network it came from; "
                f"compute it with sha256sum {file}"
            )
        variant = str(block.pop("variant", where))
        source = read(Source, {"network": network, "file": os.path.abspath(os.path.expanduser(file)), **block}, where)
        return source, _trial(suite, "teacher", variant, network, None, None, 0, init=source)
    variant = block.pop("variant", where)
    entry = block.pop("method", "at")
    training = {**suite.training, **block.pop("training", {})}
    seed = block.pop("seed", 0)
    if block:
        raise unknown(
            f"key in {where}", next(iter(block)), ["model", "method", "training", "seed", "variant", "file", "sha256"]
        )
    epochs = training.get("epochs", 1)
    try:
        resolved = methods.resolve(entry, epochs if isinstance(epochs, int) else 1)
    except methods.SettingsError as error:
        raise InputError(f"{where}: {error}") from error
    if methods.teachers_of(resolved) or methods.METHODS[resolved["name"]].needs_init:
        raise InputError(
            f"{where}: method {resolved['name']} needs another network first; choose one that trains alone, "
            f"such as at, trades or natural"
        )
    trial = _trial(suite, "teacher", variant, network, resolved, training, seed)
    return Source(network=network, trial=trial.trial_id, training=trial.training_id), trial


def _trial(
    suite: Suite,
    role: Literal["teacher", "student"],
    variant: str,
    network: NetworkSpec,
    resolved: dict[str, Any] | None,
    training: Mapping[str, Any] | None,
    seed: int,
    *,
    teachers: dict[str, Source] | None = None,
    init: Source | None = None,
) -> TrialSpec:
    return read(
        TrialSpec,
        {
            "role": role,
            "variant": variant,
            "dataset": dataset_spec(suite.dataset),
            "student": network,
            "teachers": teachers or {},
            "init": init,
            "method": resolved,
            "code": methods.code_of(resolved) if resolved else {},
            "training": training_spec(training) if training is not None else None,
            "evaluation": evaluation_spec(suite.evaluation),
            "eps": suite.eps,
            "norm": suite.norm,
            "seed": seed,
            "split_seed": suite.split_seed,
            "precision": suite.precision,
            "engine": suite.engine,
            "threads": suite.threads,
            "resources": suite.resources,
            "keep": tuple(suite.keep),
        },
        f"suite {suite.name}",
    )
