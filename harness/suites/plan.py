"""From a suite to the list of trials it stands for. Imports neither torch nor Ray."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import methods
from harness.data.counts import class_counts
from harness.data.registry import DATASETS
from harness.data.splits import check_sizes, wants_second_split
from harness.errors import InputError, named, unknown
from harness.spec import MOST_OF_A_NAME, GivenSpec, NetworkSpec, Source, TrainedSpec, TrainingSpec, TrialSpec
from harness.suites.blocks import (
    attack_entries,
    attack_names,
    dataset_spec,
    epochs_of,
    evaluation_spec,
    network_spec,
    radius,
    read,
    seed_list,
    training_block,
    training_spec,
)
from harness.suites.code import with_code
from harness.suites.keys import NETWORK_BLOCKS, Entry, FileKeys, SourceKeys
from harness.suites.suite import Suite


def plan(suite: Suite, *, only: Sequence[str] = (), seeds: Sequence[int] = ()) -> list[TrialSpec]:
    """Every trial of a suite, teachers and starting networks first, each once.

    only: variants or methods to keep (with what they depend on), in this order. seeds: instead of the suite's. Raises
    InputError for anything that could not run.
    """
    left = (suite.precision, suite.threads, suite.resources.gpu)
    assert "auto" not in left, "for_this_machine comes before plan"
    entries = [read_entry(entry, suite) for entry in suite.methods]
    _check_variants([entry.variant for entry in entries])
    _check_primary(suite, [entry.variant for entry in entries])
    places = named("method or variant", only, [(entry.variant, entry.resolved["name"]) for entry in entries])
    _check_attack_seeds(suite, {seed for entry in entries for seed in entry.seeds} | set(seeds))
    chosen = [entries[place] for place in places] if only else entries
    _check_blocks(suite)
    specs: dict[str, TrialSpec] = {}
    for network in _students(suite):
        for entry in chosen:
            needed = [(one, _sources(one, network, entry)) for one in _by_teacher_seed(suite)]
            for seed in seeds or entry.seeds:
                for one, sources in needed:
                    student = _student(one, network, entry, sources, seed)
                    for spec in (*sources.trials, student):
                        specs.setdefault(spec.trial_id, spec)
    asked = {(spec.dataset, wants_second_split(spec), spec.evaluation): spec for spec in specs.values()}
    for spec in asked.values():
        if counts := class_counts(spec.dataset):
            check_sizes(spec, *counts)
    return sorted(specs.values(), key=lambda spec: spec.role != "teacher")


def _check_blocks(suite: Suite) -> None:
    """A slip in a block that no method of the plan needs is told all the same."""
    student = _network_entry(_students(suite)[0])
    for where in NETWORK_BLOCKS:
        block = getattr(suite, where)
        known = [*SourceKeys.model_fields] if where == "teacher" else _ONE_SOURCE
        for key in block or {}:
            if key not in known:
                raise unknown(f"key in {where}", key, known)
        if block is not None and ("file" not in block or block.get("sha256")):  # whose file is named later
            one = {key: value for key, value in block.items() if key != "seeds"}
            _source(suite, {"model": student, **one} if where == "init" else one, where)


def _students(suite: Suite) -> list[NetworkSpec]:
    entries = ([suite.student] if suite.student is not None else []) + suite.students
    if not entries:
        raise InputError(f"suite {suite.name}: 'student' is missing: a model such as cnn, or {{name: cnn, width: 16}}")
    return [network_spec(entry, "student", dataset_spec(suite.dataset)) for entry in entries]


class MethodEntry(NamedTuple):
    variant: str
    resolved: dict[str, Any]
    training: TrainingSpec
    seeds: list[int]


def read_entry(entry: Entry, suite: Suite) -> MethodEntry:
    """A method entry: what `methods.resolve` reads, a `variant`, and `training` (over the suite's) and `seeds` of its
    own."""
    values = dict(entry) if isinstance(entry, Mapping) else {"method": entry}
    name, variant = values.get("method"), values.pop("variant", None)
    own: Any = values.pop("training", {})
    seeds = seed_list(values.pop("seeds", suite.seeds), f"methods: seeds of {name}")
    where = f"methods: training of {name}" if own else "training"
    given = {**suite.training, **training_block(own, where)}
    resolved = _resolved(values, epochs_of(given, where), "methods", suite)
    training = _training(given, resolved, suite, where)
    if variant is None:
        differs = [f"{key}={_short(value)}" for key, value in {**values, **own}.items() if key != "method"]
        variant = "-".join([resolved["name"], *differs])
    return MethodEntry(_variant(variant, f"methods: variant of {name}"), resolved, training, seeds)


def _training(given: Mapping[str, Any], resolved: Mapping[str, Any], suite: Suite, where: str) -> TrainingSpec:
    """What is given over what the method brings."""
    spec = training_spec({**methods.METHODS[resolved["name"]].training, **given}, _eps(suite), where)
    if spec.running_statistics != "all" and not methods.clean_passes_of(resolved):
        return spec.model_copy(update={"running_statistics": "all"})  # the same training makes the same specification
    return spec


def _resolved(entry: Entry, epochs: int, where: str, suite: Suite) -> dict[str, Any]:
    try:
        return methods.resolve(entry, epochs, DATASETS[dataset_spec(suite.dataset).name].num_classes)
    except methods.SettingsError as error:
        raise InputError(f"{where}: {error}") from error


def _variant(name: Any, where: str) -> str:
    if not isinstance(name, str) or not name.strip() or len(name) > MOST_OF_A_NAME:
        raise InputError(f"{where} must be a name of at most {MOST_OF_A_NAME} characters, not {name!r}")
    return name


def _short(value: Any) -> str:
    if isinstance(value, Mapping):
        return "+".join(f"{key}={_short(item)}" if key != "name" else str(item) for key, item in value.items())
    return str(value)


def _check_variants(variants: list[str]) -> None:
    twice = sorted({variant for variant in variants if variants.count(variant) > 1})
    if twice:
        raise InputError(f"methods: two entries are called '{twice[0]}'; give each a 'variant' of its own")


def _check_primary(suite: Suite, variants: list[str]) -> None:
    for comparison in suite.primary:
        for name in (comparison.variant, comparison.against):
            if name not in variants:
                raise unknown("variant in primary", name, variants)
        if comparison.variant == comparison.against:
            raise InputError(f"primary: '{comparison.variant}' is compared with itself")
        attacks = attack_names(suite.evaluation, suite.eps, dataset_spec(suite.dataset))
        if comparison.attack is not None and comparison.attack not in attacks:
            raise unknown("attack in primary", comparison.attack, attacks)


def _check_attack_seeds(suite: Suite, seeds: set[int]) -> None:
    """An attack for seeds that no method has would never run."""
    for entry in attack_entries(suite.evaluation):
        values = entry if isinstance(entry, Mapping) else {}
        for seed in seed_list(values["seeds"], f"evaluation: {values.get('name')}: seeds") if "seeds" in values else []:
            if seed not in seeds:
                raise unknown(f"seed of attack {values.get('name')}", seed, {str(one) for one in seeds})


def _by_teacher_seed(suite: Suite) -> list[Suite]:
    """The suite once for each of its teacher's seeds."""
    block = suite.teacher or {}
    if "seeds" not in block:
        return [suite]
    for key in ("seed", "file"):
        if key in block:
            raise InputError(f"teacher: 'seeds' are of a teacher to train; it does not go with '{key}'")
    rest = {key: value for key, value in block.items() if key != "seeds"}
    seeds = seed_list(block["seeds"], "teacher: seeds")
    return [suite.model_copy(update={"teacher": {**rest, "seed": seed}}) for seed in seeds]


class _Sources(NamedTuple):
    """The networks that a method learns from or starts from, and the trials among them."""

    teachers: dict[str, Source]
    init: Source | None
    trials: list[TrialSpec]


def _student(suite: Suite, network: NetworkSpec, entry: MethodEntry, sources: _Sources, seed: int) -> TrialSpec:
    trained = {"variant": entry.variant, "student": network, "method": entry.resolved, "training": entry.training}
    return _trial(suite, seed, role="student", **trained, teachers=sources.teachers, init=sources.init)


def _sources(suite: Suite, network: NetworkSpec, entry: MethodEntry) -> _Sources:
    resolved, teachers, trials = entry.resolved, {}, []
    for name in methods.teachers_of(resolved):
        block = suite.teacher if name == "teacher" else suite.natural_teacher
        if block is None:
            raise InputError(
                f"method {resolved['name']} learns from a teacher; the suite has no '{name}' (a network to "
                f"train, or a file with its sha256)"
            )
        teachers[name], trial = _source(suite, block, name)
        trials += [trial] if trial else []
    init = None
    if methods.METHODS[resolved["name"]].needs_init:
        if suite.init is None:
            raise InputError(
                f"method {resolved['name']} starts from a robust network; the suite has no 'init' (a network to "
                f"train, or a file with its sha256)"
            )
        init, trial = _source(suite, {"model": _network_entry(network), **suite.init}, "init")
        trials += [trial] if trial else []
    return _Sources(teachers, init, trials)


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
        variant = _variant(block.pop("variant", where), f"{where}: variant")
        known = {key: block.pop(key) for key in ("sha256", "weights") if key in block}
        _check_keys(block, where, FileKeys.model_fields, "a network from a file")
        source = read(Source, {"network": network, "file": os.path.abspath(os.path.expanduser(file)), **known}, where)
        return source, _trial(suite, role="teacher", variant=variant, student=network, init=source)
    variant = _variant(block.pop("variant", where), f"{where}: variant")
    entry = block.pop("method", "at")
    training = {**suite.training, **training_block(block.pop("training", {}), f"{where}: training")}
    seed = block.pop("seed", 0)
    if type(seed) is not int or not 0 <= seed < 2**63:
        raise InputError(f"{where}: seed must be a whole number of at least 0, below 2^63, not {seed!r}")
    _check_keys(block, where, _TRAINED_SOURCE, "a network that is trained")
    resolved = _resolved(entry, epochs_of(training, f"{where}: training"), where, suite)
    if methods.teachers_of(resolved) or methods.METHODS[resolved["name"]].needs_init:
        raise InputError(
            f"{where}: method {resolved['name']} needs another network first; choose one that trains alone, "
            f"such as at, trades or natural"
        )
    read_training = _training(training, resolved, suite, f"{where}: training")
    trial = _trial(
        suite, seed, role="teacher", variant=variant, student=network, method=resolved, training=read_training
    )
    return Source(network=network, trial=trial.trial_id, training=trial.training_id, seed=seed), trial


_ONE_SOURCE = [key for key in SourceKeys.model_fields if key != "seeds"]
_TRAINED_SOURCE = [key for key in _ONE_SOURCE if key not in ("sha256", "weights")]


def _check_keys(left: Mapping[str, Any], where: str, allowed: Iterable[str], of: str) -> None:
    """Refuse what is left of a block once its keys are read."""
    if left:
        raise unknown(f"key in {where}", next(iter(left)), allowed, f" ({of})")


def _trial(suite: Suite, seed: int = 0, **own: Any) -> TrialSpec:
    """A trial with the suite's settings and its own: role, variant and student; method, training, teachers and init
    where it has them."""
    dataset, eps = dataset_spec(suite.dataset), _eps(suite)
    evaluation = evaluation_spec(suite.evaluation, eps, dataset, seed, given="training" not in own)
    if suite.engine == "plain" and evaluation.gradient_precision != "float32":
        raise InputError("evaluation: gradient_precision: bfloat16 is of engine: fast; plain evaluates in float32")
    shared = {
        "dataset": dataset,
        "evaluation": evaluation,
        "eps": eps,
        "norm": suite.norm,
        "split_seed": suite.split_seed,
        "precision": suite.precision,
        "engine": suite.engine,
        "threads": suite.threads,
        "resources": suite.resources.model_dump(),
        "keep": tuple(suite.keep),
        "deterministic": suite.deterministic,
    }
    kind = TrainedSpec if "training" in own else GivenSpec
    return with_code(read(kind, {**shared, "seed": seed, **own}, f"suite {suite.name}"))


def _eps(suite: Suite) -> float:
    return radius(suite.eps, f"suite {suite.name}: eps")
