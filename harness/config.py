"""Suites: a YAML file, its defaults, its overrides, and the list of trials it stands for. Imports neither torch nor
Ray."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from importlib import resources
from pathlib import Path
from typing import Any, Literal, NamedTuple

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

import methods
from harness.attacks import ATTACKS, check_request
from harness.data import DATASETS
from harness.errors import InputError, unknown
from harness.files import write_bytes
from harness.models import MODELS, resolve_params
from harness.provenance import processor_precision
from harness.spec import (
    CHECKPOINTS,
    AttackRequest,
    Checkpoint,
    DatasetSpec,
    EvaluationSpec,
    NetworkSpec,
    Resources,
    Source,
    TrainingSpec,
    TrialSpec,
)

Entry = str | dict[str, Any]


class Suite(BaseModel):
    """A benchmark as its author writes it. Names and mappings are read further by `plan`; see the suites shipped in
    `harness/suites`."""

    model_config = ConfigDict(extra="forbid")

    name: str
    description: str = ""
    dataset: Entry
    student: Entry | None = None
    students: list[Entry] = []
    teacher: dict[str, Any] | None = None
    natural_teacher: dict[str, Any] | None = None
    init: dict[str, Any] | None = None
    eps: float
    norm: Literal["linf"] = "linf"
    training: dict[str, Any]
    methods: list[Entry] = Field(min_length=1)
    seeds: list[int] = Field([0], min_length=1)
    split_seed: int = 0
    evaluation: dict[str, Any]
    precision: Literal["auto", "float32", "bfloat16"] = "float32"
    engine: Literal["fast", "plain"] = "fast"
    threads: int = Field(1, ge=1)
    resources: Resources = Resources()
    keep: list[Checkpoint] = list(CHECKPOINTS)
    time_limit_hours: float | None = Field(None, gt=0)
    tune: dict[str, Any] | None = None


def suite_names() -> dict[str, str]:
    """The suites that come with the package, each with the first line of its description."""
    folder = resources.files("harness.suites")
    files = sorted((entry for entry in folder.iterdir() if entry.name.endswith(".yaml")), key=lambda entry: entry.name)
    return {
        entry.name[:-5]: str(yaml.safe_load(entry.read_text()).get("description", "")).strip().split("\n")[0]
        for entry in files
    }


def load_suite(name_or_path: str, overrides: Sequence[str] = ()) -> Suite:
    """The suite of that name, or of that YAML file, with `key.path=value` overrides applied. Raises InputError."""
    where, text = _suite_text(name_or_path)
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InputError(f"{where} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise InputError(f"{where} must be a mapping of keys, such as dataset, student, methods")
    values.setdefault("name", Path(where).stem)
    for override in overrides:
        _apply(values, override)
    if "eps" in values:
        values["eps"] = number(values["eps"], f"{where}: eps")
    return read(Suite, values, where)


def plan(suite: Suite, *, only: Sequence[str] = (), seeds: Sequence[int] = ()) -> list[TrialSpec]:
    """Every trial of a suite, teachers and starting networks first, each once.

    only: variants or methods to keep (with what they depend on). seeds: instead of the suite's. Raises InputError for
    anything that could not run.
    """
    assert suite.precision != "auto", "for_this_machine comes before plan"
    entries = [_method_entry(entry, suite) for entry in suite.methods]
    _check_variants([entry.variant for entry in entries])
    for name in only:
        if not any(name in (entry.variant, entry.resolved["name"]) for entry in entries):
            raise unknown("variant", name, [entry.variant for entry in entries])
    chosen = [entry for entry in entries if not only or entry.variant in only or entry.resolved["name"] in only]
    specs: dict[str, TrialSpec] = {}
    for network in _students(suite):
        for entry in chosen:
            for seed in seeds or entry.seeds:
                for spec in _student_and_sources(suite, network, entry.variant, entry.resolved, seed):
                    specs.setdefault(spec.trial_id, spec)
    return sorted(specs.values(), key=lambda spec: spec.role != "teacher")


def for_this_machine(suite: Suite, root: Path) -> Suite:
    """The suite with `precision: auto` resolved: as the store at `root` was first planned, else for this machine,
    which is then remembered there.

    What changes numbers is fixed before anything runs, so that a run that goes on elsewhere has the same trials.
    """
    if suite.precision != "auto":
        return suite
    path = root / "machine.json"
    try:
        precision = json.loads(path.read_text())["precision"]
    except FileNotFoundError:
        precision = "bfloat16" if suite.resources.gpu else processor_precision()
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{path} is damaged ({error}); it records the precision this store was planned for") from error
    return suite.model_copy(update={"precision": precision})


def remember_machine(suite: Suite, root: Path) -> None:
    """Write down what `for_this_machine` resolved for a suite with `precision: auto`, once per store."""
    path = root / "machine.json"
    if not path.exists():
        write_bytes(path, json.dumps({"precision": suite.precision}).encode())


def number(value: Any, where: str) -> float:
    """A non-negative number, written as 0.1 or as a fraction, 8/255."""
    try:
        result = float(Fraction(str(value).replace(" ", "")))
    except (ValueError, ZeroDivisionError):
        raise InputError(f"{where} must be a number or a fraction such as 8/255, not '{value}'") from None
    if not math.isfinite(result) or result < 0:
        raise InputError(f"{where} must be a finite number of at least 0, not '{value}'")
    return result


def network_spec(entry: Entry, where: str, dataset: DatasetSpec) -> NetworkSpec:
    """A network from `cnn` or `{name: cnn, width: 16, normalization: dataset}`."""
    values = dict(entry) if isinstance(entry, Mapping) else {"name": entry}
    name = values.pop("name", None)
    if name not in MODELS:
        raise unknown(f"model in {where}", name, MODELS)
    mean, std = _normalization(values.pop("normalization", "none"), where, dataset)
    return NetworkSpec(name=name, params=resolve_params(name, values), mean=mean, std=std)


def dataset_spec(entry: Entry) -> DatasetSpec:
    """A data set from `digits` or `{name: npz, path: mine.npz, train_images: 1000}`."""
    values = dict(entry) if isinstance(entry, Mapping) else {"name": entry}
    if values.get("name") not in DATASETS:
        raise unknown("dataset", values.get("name"), DATASETS)
    spec = read(DatasetSpec, values, "dataset")
    if (spec.name == "npz") != (spec.path is not None):
        raise InputError("dataset: 'path' goes with 'name: npz', and npz needs it")
    if spec.path is None or spec.sha256:
        return spec
    return spec.model_copy(update={"sha256": file_sha256(spec.path, "dataset: path")})


def evaluation_spec(values: Mapping[str, Any]) -> EvaluationSpec:
    """The evaluation block: attacks as names or mappings, `images` as their common default."""
    values = dict(values)
    images = values.pop("images", None)
    attacks = []
    for entry in values.pop("attacks", []):
        request = dict(entry) if isinstance(entry, Mapping) else {"name": entry}
        name = request.get("name")
        if name not in ATTACKS:
            raise unknown("attack", name, ATTACKS)
        if not name.startswith(("clean", "fgsm", "pgd", "cw")):
            request.setdefault("checkpoints", ["best_validation"])  # AutoAttack is the longest job of a trial
        if request.get("step_size") is not None:
            request["step_size"] = number(request["step_size"], f"evaluation: {name}: step_size")
        read_request = read(AttackRequest, {"images": images} | request, f"evaluation: {name}")
        check_request(read_request.overrides)
        attacks.append(read_request)
    if not attacks:
        raise InputError("evaluation: attacks must name at least one attack")
    names = [attack.name for attack in attacks]
    if len(set(names)) < len(names):
        raise InputError("evaluation: attacks: each attack can be listed once")
    return read(EvaluationSpec, {"attacks": attacks, **values}, "evaluation")


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
        params[key] = yaml.safe_load(value)
    data = dataset_spec({"name": "npz", "path": dataset} if dataset.endswith(".npz") else dataset)
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


def file_sha256(path: str, where: str) -> str:
    """The hash of a file's content, InputError where it cannot be read."""
    import hashlib

    try:
        with open(os.path.expanduser(path), "rb") as file:
            return (
                hashlib.file_digest(file, "sha256").hexdigest()
                if hasattr(hashlib, "file_digest")
                else hashlib.sha256(file.read()).hexdigest()
            )
    except OSError as error:
        raise InputError(f"{where}: cannot read '{path}': {error.strerror}") from error


def read(kind: type[BaseModel], values: Any, where: str) -> Any:
    """A pydantic record from plain values; the first thing wrong becomes a one-line InputError."""
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        place = ": ".join([where, *(str(part) for part in first["loc"])])
        if first["type"] == "extra_forbidden":
            raise unknown(f"key in {where}", first["loc"][-1], _keys(kind, first["loc"][:-1])) from None
        raise InputError(
            f"{place}: {first['msg']}" + (f", not {first['input']!r}" if first["type"] != "missing" else "")
        ) from None


def _keys(kind: type, path: Sequence[Any]) -> list[str]:
    for part in path:
        field = getattr(kind, "model_fields", {}).get(part)
        candidates = [field.annotation, *getattr(field.annotation, "__args__", ())] if field else []
        kind = next((item for item in candidates if hasattr(item, "model_fields")), kind)
    return list(getattr(kind, "model_fields", {}))


def _suite_text(name_or_path: str) -> tuple[str, str]:
    path = Path(name_or_path).expanduser()
    if path.suffix in (".yaml", ".yml") or path.is_file():
        try:
            return str(path), path.read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"cannot read suite '{path}': {error}") from error
    if name_or_path not in suite_names():
        raise unknown("suite", name_or_path, suite_names())
    return f"suite {name_or_path}", (resources.files("harness.suites") / f"{name_or_path}.yaml").read_text()


def _apply(values: dict[str, Any], override: str) -> None:
    path, sign, text = override.partition("=")
    keys = path.strip().split(".")
    if not sign or not all(keys):
        raise InputError(f"--set {override}: write key.path=value, such as training.epochs=20")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InputError(f"--set {override}: the value is not valid YAML: {' '.join(str(error).split())}") from error
    inner = values
    for key in keys[:-1]:
        if isinstance(inner.get(key), str):
            inner[key] = {"name": inner[key]}
        inner = inner.setdefault(key, {})
        if not isinstance(inner, dict):
            raise InputError(f"--set {override}: '{key}' holds a list; set the whole list")
    inner[keys[-1]] = value


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


def training_spec(values: Mapping[str, Any]) -> TrainingSpec:
    """The training block; milestones and start epochs below 1 are fractions of training."""
    values = dict(values)
    epochs = values.get("epochs")
    if not isinstance(epochs, int) or epochs < 1:
        raise InputError(f"training: epochs must be a whole number of at least 1, not {epochs!r}")
    if values.get("step_size") is not None:
        values["step_size"] = number(values["step_size"], "training: step_size")
    milestones = values.get("milestones", [])
    if not isinstance(milestones, (list, tuple)) or any(
        not isinstance(point, (int, float)) or point < 0 for point in milestones
    ):
        raise InputError(
            f"training: milestones must be a list of epochs or of fractions of training, not {milestones!r}"
        )
    values["milestones"] = tuple(methods.resolve_epoch(point, epochs) for point in milestones)
    for option in ("weight_average", "weight_perturbation"):
        if isinstance(values.get(option), Mapping) and isinstance(values[option].get("start_epoch"), float):
            values[option] = {
                **values[option],
                "start_epoch": methods.resolve_epoch(values[option]["start_epoch"], epochs),
            }
    return read(TrainingSpec, values, "training")


def _normalization(value: Any, where: str, dataset: DatasetSpec) -> tuple[Any, Any]:
    if value == "none":
        return None, None
    if value == "dataset":
        facts = DATASETS[dataset.name]
        if facts.mean is None:
            raise InputError(
                f"{where}: normalization: dataset {dataset.name} has no known mean and deviation; give them as "
                f"{{mean: [...], std: [...]}}"
            )
        return facts.mean, facts.std
    if isinstance(value, Mapping) and set(value) == {"mean", "std"}:
        return tuple(value["mean"]), tuple(value["std"])
    raise InputError(f"{where}: normalization must be none, dataset or {{mean: [...], std: [...]}}, not {value!r}")
