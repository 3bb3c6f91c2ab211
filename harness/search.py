"""A tuning, planned: a suite, a method, a space and how to search it become settings, and settings become ordinary
trials. Imports neither torch nor Ray."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field

import methods
from harness.blocks import read
from harness.config import Suite, for_this_machine, load_suite
from harness.errors import InputError, unknown
from harness.plan import plan
from harness.space import Space, Values, draw, grid, read_space, short, split_entry
from harness.spec import EvaluationSpec, Frozen, TrialSpec
from harness.store import Store
from methods.registry import KINDS

METRICS = {"selection_score": "max", "val_robust_worst": "max", "val_robust_avg": "max", "val_robust_nsd": "min"}
_TRIALS = 20


class TuneOptions(Frozen):
    """How to search; a suite's `tune:` block. seeds: of one setting, trained in lockstep. compare_seeds: fresh ones on
    which the best setting meets the defaults. grace: epochs that no scheduler cuts, a ninth of them where null."""

    method: str
    space: dict[str, Any]
    trials: int | None = Field(None, ge=1)
    search: Literal["random", "grid", "tpe"] = "random"
    scheduler: Literal["asha", "median", "none"] = "asha"
    metric: str = "selection_score"
    mode: Literal["max", "min"] | None = None
    seeds: int = Field(3, ge=1)
    compare_seeds: int = Field(3, ge=0)
    grace: int | None = Field(None, ge=1)
    search_seed: int = Field(0, ge=0)

    @property
    def direction(self) -> str:
        """`max` or `min`: which end of the metric is better."""
        return self.mode or METRICS[self.metric]


@dataclass(frozen=True)
class Family:
    """The trials of one method that differ in a few hyper-parameters. entry: the suite's entry that the settings
    change. bases: its trials without attacks on test images, one per tuning seed."""

    entry: dict[str, Any]
    bases: tuple[TrialSpec, ...]

    @property
    def epochs(self) -> int:
        training = self.bases[0].training
        assert training is not None
        return training.epochs

    def at(self, values: Values) -> dict[str, Any]:
        """The suite's entry at a setting. A key such as `labels.temperature_rate` names a policy's own."""
        entry = json.loads(json.dumps(self.entry))
        for path, value in values.items():
            kind, dot, key = path.partition(".")
            if not dot:
                entry[kind] = value
                continue
            if kind not in KINDS:
                raise InputError(f"space {path}: a key is a hyper-parameter of the method, or policy.key with policy "
                                 f"one of {', '.join(KINDS)}")  # fmt: skip
            inner = entry.get(kind)
            entry[kind] = {**(inner if isinstance(inner, dict) else {"name": inner} if inner else {}), key: value}
        return entry

    def default(self, key: str) -> Any:
        """What the method's own entry has for a key of the space; None where it says nothing."""
        assert self.bases[0].method is not None
        base = methods.completed(self.bases[0].method)
        kind, dot, name = key.rpartition(".")
        parts = [base[kind]] if dot else [base["settings"], *(base[each] for each in KINDS), base]
        return next((part[name] for part in parts if name in part), None)

    def specs(self, values: Values) -> list[TrialSpec]:
        """The trials of a setting, one per seed. Raises InputError for a setting that the method does not take."""
        try:
            entry = self.at(values)
            entry.pop("training", None)  # the bases have it
            resolved = methods.resolve(entry, self.epochs)
        except methods.SettingsError as error:
            raise InputError(f"space: {error}") from error
        base = self.bases[0].method
        assert base is not None
        if set(methods.teachers_of(resolved)) != set(methods.teachers_of(base)):
            raise InputError(f"space: {short(values)} learns from other teachers than the method's other settings")
        names = [short({key: value}) for key, value in values.items()]
        change = {
            "method": resolved,
            "code": methods.code_of(resolved),
            "variant": "-".join([self.entry["method"], *names]),
        }
        return [TrialSpec.model_validate({**spec.model_dump(), **change}) for spec in self.bases]


@dataclass(frozen=True)
class Tuning:
    """A search, ready to run. teachers: trials that every setting learns from. parents: stores that may have them."""

    suite: Suite
    options: TuneOptions
    space: Space
    family: Family
    teachers: tuple[TrialSpec, ...]
    store: Store
    parents: tuple[Store, ...]
    resolved_here: bool

    @cached_property
    def tuning_id(self) -> str:
        """12 hexadecimal digits of all that decides which settings are run, and for how long.

        The number of trials is not part of it unless it shapes the grid: a search can be made longer.
        """
        options = self.options
        facts = {
            "trainings": [spec.training_id for spec in self.family.bases],
            "space": {key: domain.text for key, domain in self.space.items()},
            "rules": [options.search, options.scheduler, options.metric, options.direction, self.grace],
            "seed": options.search_seed,
            "grid": self.trials if options.search == "grid" else None,
        }
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:12]

    @property
    def folder(self) -> Path:
        """Where this search keeps its journal, table and figures."""
        return self.store.root / "tuning" / self.tuning_id

    @property
    def trials(self) -> int:
        return self.options.trials or _TRIALS

    @property
    def grace(self) -> int:
        """Epochs before the scheduler may stop a setting."""
        return min(self.options.grace or max(1, self.family.epochs // 9), self.family.epochs)

    @cached_property
    def settings(self) -> list[Values]:
        """The settings of a random or grid search, all of them known beforehand; empty for tpe."""
        if self.options.search == "tpe":
            return []
        return {"random": draw, "grid": grid}[self.options.search](self.space, self.trials, self.options.search_seed)

    @property
    def count(self) -> int:
        """How many settings there are."""
        return self.trials if self.options.search == "tpe" else len(self.settings)

    @property
    def facts(self) -> dict[str, Any]:
        """What is searched and how, for people who read the journal."""
        return {
            "tuning_id": self.tuning_id,
            "suite": self.suite.name,
            **self.options.model_dump(exclude={"space"}),
            "mode": self.options.direction,
            "grace": self.grace,
            "epochs": self.family.epochs,
            "space": {key: domain.text for key, domain in self.space.items()},
        }

    def comparison(self, best: Values) -> list[TrialSpec]:
        """The best setting and the method's own, on seeds that the search has not seen, evaluated on test images."""
        name, first = self.family.entry["method"], self.options.seeds
        entries: list[Any] = [{**self.family.entry, "variant": f"{name}-default"}]
        entries.append({**self.family.at(best), "variant": f"{name}-tuned"})
        suite = self.suite.model_copy(update={"methods": entries})
        return plan(suite, seeds=list(range(first, first + self.options.compare_seeds)))


def plan_tuning(
    suite_name: str, given: Mapping[str, Any], *, overrides: Sequence[str] = (), results: Path | None = None
) -> Tuning:
    """What a suite's `tune:` block and the command's options ask for; the latter win. Writes nothing. Raises InputError
    for anything that could not run."""
    suite = load_suite(suite_name, overrides)
    options = _options(suite, given)
    space = read_space(options.space)
    home = Path("results") / "runs" / suite.name
    root = results or home / "tuning"
    parents = [path for path in (root.parent, home) if (path / "trials").is_dir() and path != root]
    machine = next((path for path in (root, *parents) if (path / "machine.json").exists()), root)
    resolved = for_this_machine(suite, machine)
    entry = _entry(resolved, options.method)
    family, teachers = _family(resolved.model_copy(update={"methods": [entry]}), entry, options.seeds)
    _check_corners(family, space)
    tuning = Tuning(
        resolved, options, space, family, tuple(teachers), Store(root), tuple(Store(path) for path in parents),
        suite.precision == "auto",
    )  # fmt: skip
    if tuning.options.grace and tuning.options.grace > family.epochs:
        raise InputError(f"grace must be at most the {family.epochs} epochs of a trial, not {tuning.options.grace}")
    for values in tuning.settings:
        family.specs(values)
    return tuning


def _options(suite: Suite, given: Mapping[str, Any]) -> TuneOptions:
    values = {**(suite.tune or {}), **{key: value for key, value in given.items() if value is not None}}
    space = values.get("space") or {}
    if isinstance(space, (list, tuple)):
        pairs = [split_entry(str(text)) for text in space]
        space = dict(pairs)
        if len(space) < len(pairs):
            raise InputError("space: a key is given twice")
    for key, example in (("method", "--method absld"), ("space", "--space 'temperature_rate=loguniform(0.01, 1)'")):
        if not (space if key == "space" else values.get(key)):
            raise InputError(f"tune: {key} is missing: {example}, or 'tune: {{{key}: ...}}' in the suite")
    options = read(TuneOptions, {**values, "space": space}, "tune")
    if options.metric not in METRICS:
        raise unknown("metric", options.metric, METRICS)
    return options


def _entry(suite: Suite, name: str) -> dict[str, Any]:
    """The suite's entry of that variant, else the method of that name with its defaults."""
    for entry in suite.methods:
        if isinstance(entry, Mapping) and entry.get("variant") == name:
            return {key: value for key, value in entry.items() if key not in ("variant", "seeds")}
    if name not in methods.METHODS:
        variants = [entry.get("variant") for entry in suite.methods if isinstance(entry, Mapping)]
        raise unknown("method", name, [*methods.METHODS, *filter(None, variants)])
    return {"method": name}


def _family(suite: Suite, entry: dict[str, Any], seeds: int) -> tuple[Family, list[TrialSpec]]:
    specs = plan(suite, seeds=range(seeds))
    students = [spec for spec in specs if spec.role == "student"]
    if len({spec.student.label for spec in students}) > 1:
        raise InputError(f"suite {suite.name} has several students; tune one of them: --set students=[]")
    if len(students) > seeds:
        raise InputError(f"suite {suite.name} has several teachers; tune with one: --set teacher.seeds=[0]")
    needed = {name for spec in students for name in spec.depends_on}
    bases = tuple(without_tests(spec) for spec in students)
    return Family(entry, bases), [spec for spec in specs if spec.trial_id in needed]


def without_tests(spec: TrialSpec) -> TrialSpec:
    """The same training and no attack on a test image: what a search may look at."""
    return TrialSpec.model_validate({**spec.model_dump(), "evaluation": EvaluationSpec(attacks=())})


def _check_corners(family: Family, space: Space) -> None:
    """The method takes the extreme values of every key; then it takes what lies between them."""
    for key, domain in space.items():
        first = {other: each.corners[0] for other, each in space.items()}
        for value in domain.corners:
            family.specs({**first, key: value})


def setting_of(config: dict[str, Any], space: Space) -> Values:
    """A setting from what Ray Tune hands out: the setting itself, or what a searcher proposed."""
    if "setting" in config:
        return config["setting"]
    return {key: domain.decode(config[key]) for key, domain in space.items()}


def snippet(tuning: Tuning, best: Values, remark: str) -> str:
    """The best setting as YAML: a `methods:` list for a suite, with a remark above."""
    entry = {**tuning.family.at(best), "variant": f"{tuning.family.entry['method']}-tuned"}
    text = yaml.safe_dump({"methods": [entry]}, sort_keys=False, default_flow_style=None)
    return "".join(f"# {line}\n" for line in remark.splitlines()) + text
