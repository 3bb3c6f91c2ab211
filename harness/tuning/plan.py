"""A tuning, planned: a suite, methods, spaces and how to search them become settings, as many for every method, and
settings become ordinary trials. Imports neither torch nor Ray."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

import methods
from harness.errors import InputError, unknown
from harness.spec import TrainedSpec, TrialSpec
from harness.statistics.registry import METRICS, Metric
from harness.store.folder import check_results_folder
from harness.store.records import MACHINE_FILE
from harness.store.store import Store
from harness.suites.machine import MACHINE, for_this_machine
from harness.suites.plan import plan, read_entry
from harness.suites.suite import Suite, load_suite
from harness.tuning.halving import REDUCTION, rungs
from harness.tuning.method import SearchedMethod, validation_counts, without_tests
from harness.tuning.options import TuneOptions, left_out, read_options
from harness.tuning.space import Setting, Space, Values, draw, grid, read_space
from methods.plugins import code_of
from methods.registry import KINDS

_TRIALS = 20
_FIRST_SEED = 1000  # of a search: far from those that suites use


@dataclass(frozen=True)
class TuningPlan:
    """A search, ready to run. teachers: trials that settings learn from. parents: stores that may have them: the one
    beside the search's own, the suite's, the published one."""

    suite: Suite
    options: TuneOptions
    searched: dict[str, SearchedMethod]
    teachers: tuple[TrialSpec, ...]
    store: Store
    parents: tuple[Path, ...]
    machine: Mapping[str, Any]  # what the suite left to the machine, as resolved

    @cached_property
    def tuning_id(self) -> str:
        """12 hexadecimal digits of all that decides which settings are run, and for how long.

        The number of trials is no part of it where a search can be made longer: unless it shapes a grid or a cut.
        """
        options, own = self.options, self.own_metric
        metric = f"{own.name} {code_of(own.function)}" if own else options.metric
        facts = {
            "methods": {
                name: [[spec.training_id for spec in method.bases], _texts(method.space), options.settings.get(name)]
                for name, method in self.searched.items()
            },
            "rules": [options.search, options.scheduler, metric, options.direction, self.grace],
            "first": options.with_default,
            "seed": options.search_seed,
            "trials": self.trials if options.search == "grid" or options.scheduler == "halving" else None,
        }
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:12]

    @property
    def own_metric(self) -> Metric | None:
        """The plugin's metric that the search goes by, if it does."""
        found = METRICS.get(self.options.metric)
        return found if found and found.function else None

    @property
    def folder(self) -> Path:
        """Where this search keeps its journal, tables and figures."""
        return self.store.root / "tuning" / self.tuning_id

    @property
    def trials(self) -> int:
        """Tries of every method, unless its whole space is smaller."""
        return self.options.trials or (max(map(len, self.options.settings.values()), default=_TRIALS))

    @property
    def epochs(self) -> int:
        """Of a setting that runs to its end."""
        return next(iter(self.searched.values())).epochs

    @property
    def bases(self) -> list[TrialSpec]:
        """A trial per method and seed, as the methods' own entries have it."""
        return [spec for method in self.searched.values() for spec in method.bases]

    @property
    def seeds(self) -> list[int]:
        """Of every setting."""
        return sorted({spec.seed for spec in self.bases})

    @property
    def grace(self) -> int:
        """Epochs before the scheduler may stop a setting: a third of them before a cut that nobody comes back from,
        rounded up, since the next cut would else come just before the end; a ninth otherwise, unless given."""
        usual = -(-self.epochs // REDUCTION) if self.options.scheduler == "halving" else max(1, self.epochs // 9)
        return min(self.options.grace or usual, self.epochs)

    @property
    def rungs(self) -> list[int]:
        """The epochs after which halving cuts."""
        return rungs(self.grace, self.epochs) if self.options.scheduler == "halving" else []

    @cached_property
    def settings(self) -> list[Setting]:
        """All settings that are known beforehand; none of a tpe search."""
        return [Setting(name, values) for name, method in self.searched.items() for values in method.settings]

    @property
    def known_tries(self) -> list[TrialSpec]:
        """The trials of all settings that are known beforehand."""
        return [spec for setting in self.settings for spec in self.specs(setting)]

    @property
    def tries(self) -> dict[str, int]:
        """How many settings each method has: `trials`, unless its whole space is smaller."""
        return {name: len(method.settings) or self.trials for name, method in self.searched.items()}

    @property
    def facts(self) -> dict[str, Any]:
        """What is searched and how, for people who read the journal."""
        return {
            "tuning_id": self.tuning_id,
            "suite": self.suite.name,
            **self.options.model_dump(exclude={"space", "settings"}),
            "trials": self.trials,
            "mode": self.options.direction,
            "grace": self.grace,
            "rungs": self.rungs,
            "epochs": self.epochs,
            "seeds": self.seeds,
            "space": {name: _texts(method.space) for name, method in self.searched.items()},
        }

    @property
    def summary(self) -> list[str]:
        """The plan in sentences: how much is run, what may be cut, what comes after, and where it is kept."""
        count = sum(self.tries.values())
        each = ", ".join(f"{name} {number}" for name, number in self.tries.items())
        trials, scheduler = count * len(self.seeds), self.options.scheduler
        cuts = f" after epoch {', '.join(map(str, self.rungs))}" if self.rungs else ""
        found = [
            f"{count} settings ({each}), {trials} trials (seeds {', '.join(map(str, self.seeds))}) of {self.epochs} "
            f"epochs: {trials * self.epochs} epochs if none is stopped; scheduler {scheduler}{cuts}"
        ]
        if self.options.search == "tpe":
            found.append("tpe proposes settings one after the other")
        if self.options.compare_seeds:
            seeds = ", ".join(map(str, self.comparison_seeds))
            found.append(f"then each method's best setting beside its own on test images, seeds {seeds}")
        return [*found, f"kept in {self.folder}"]

    @property
    def comparison_seeds(self) -> list[int]:
        """The suite's seeds and, where these are fewer, further ones; none of the search's."""
        more = _numbers(max(self.suite.seeds) + 1, self.options.compare_seeds, self.seeds)
        return [*self.suite.seeds, *more][: self.options.compare_seeds]

    def specs(self, setting: Setting) -> list[TrainedSpec]:
        """The trials of a setting, one per seed."""
        return self.searched[setting.method].specs(setting.values)

    def comparison(self, best: Mapping[str, Values]) -> list[TrialSpec]:
        """Each method's best setting beside its own, trained and evaluated as the suite says. A method whose own
        setting is its best has nothing to compare."""
        entries: list[Any] = []
        for name, values in best.items():
            method = self.searched[name]
            if not method.is_own(values):
                entries.append({**method.entry, "variant": f"{name}-default"})
                entries.append({**method.at(values), "variant": f"{name}-tuned"})
        if not entries:
            return []
        return plan(self.suite.model_copy(update={"methods": entries, "primary": []}), seeds=self.comparison_seeds)


def plan_tuning(
    suite_name: str, given: Mapping[str, Any], *, overrides: Sequence[str] = (), results: Path | None = None
) -> TuningPlan:
    """What a suite's `tune:` block and the command's options ask for; the latter win. Writes nothing. Raises InputError
    for anything that could not run."""
    suite = load_suite(suite_name, overrides)
    options = read_options(suite, given)
    home = Path("results") / "runs" / suite.name
    root = results or home / "tuning"
    check_results_folder(root)
    parents = [path for path in (root.parent, home, Path("results") / suite.name) if path != root]
    machine = next((path for path in (root, root.parent, home) if (path / MACHINE_FILE).exists()), root)
    resolved = for_this_machine(suite, machine)
    searched, teachers = _searched(resolved, options, left_out(suite, given))
    left_open = {key: getattr(resolved, key) for key in MACHINE if getattr(suite, key) == "auto"}
    tuning = TuningPlan(resolved, options, searched, teachers, Store(root), tuple(parents), left_open)
    if len({method.epochs for method in searched.values()}) > 1:
        each = ", ".join(f"{name} {method.epochs}" for name, method in searched.items())
        raise InputError(f"tune: one number of epochs for all methods: --epochs; the suite has {each}")
    if tuning.own_metric and validation_counts(tuning.bases[0]) is None:
        raise InputError(
            f"tune: metric {options.metric} is told the images of each class, which the data set does not say "
            f"beforehand (train_counts, test_counts)"
        )
    if options.grace and options.grace > tuning.epochs:
        raise InputError(f"grace must be at most the {tuning.epochs} epochs of a trial, not {options.grace}")
    most = max(len(method.settings) for method in searched.values())
    if options.search == "random" and most < tuning.trials:
        raise InputError(f"the space has only {most} different settings: --trials {most}")
    return tuning


# Methods, their spaces, their settings


def _searched(
    suite: Suite, options: TuneOptions, others: Sequence[str]
) -> tuple[dict[str, SearchedMethod], tuple[TrialSpec, ...]]:
    """The methods in their order, and the teachers of them all. others: methods that the space was written for too."""
    taken = {*suite.seeds, *(seed for entry in suite.methods for seed in read_entry(entry, suite).seeds)}
    seeds = _numbers(_FIRST_SEED, options.seeds, taken)
    found: dict[str, SearchedMethod] = {}
    teachers: dict[str, TrialSpec] = {}
    for name in options.methods:
        found[name], needed = _searched_method(suite, name, seeds, options.epochs)
        teachers.update({spec.trial_id: spec for spec in needed})
    spaces = _spaces(
        options, found, lambda: [_searched_method(suite, name, seeds, options.epochs)[0] for name in others]
    )
    for name, method in found.items():
        searched = replace(method, space=spaces[name])
        _check_schedule(searched, {})
        _check_corners(searched)
        found[name] = replace(searched, settings=tuple(_settings(searched, options)))
    return found, tuple(teachers.values())


def _numbers(first: int, count: int, without: Collection[int]) -> list[int]:
    """So many whole numbers from `first` on, without some."""
    return list(itertools.islice((number for number in itertools.count(first) if number not in without), count))


def _searched_method(
    suite: Suite, name: str, seeds: list[int], epochs: int | None
) -> tuple[SearchedMethod, list[TrialSpec]]:
    """A method without a space yet, and the teachers it needs: these are trained as the suite says."""
    entry = _entry(suite, name)
    tried = entry
    if epochs is not None:
        tried = {**entry, "training": {**entry.get("training", {}), "epochs": epochs}}
    specs = plan(suite.model_copy(update={"methods": [{**tried, "variant": name}], "primary": []}), seeds=seeds)
    students = [spec for spec in specs if spec.role == "student" and isinstance(spec, TrainedSpec)]
    if len({spec.student.label for spec in students}) > 1:
        raise InputError(f"suite {suite.name} has several students; tune one of them: --set students=[]")
    if len(students) > len(seeds):
        raise InputError(f"suite {suite.name} has several teachers; tune with one: --set teacher.seeds=[0]")
    needed = {source for spec in students for source in spec.depends_on}
    method = SearchedMethod(name, entry, suite, tuple(without_tests(spec) for spec in students), {})
    return method, [spec for spec in specs if spec.trial_id in needed]


def _entry(suite: Suite, name: str) -> dict[str, Any]:
    """The suite's entry of that variant, else the method of that name with its defaults."""
    variants = []
    for entry in suite.methods:
        variants.append(read_entry(entry, suite).variant)
        if variants[-1] == name:
            values = dict(entry) if isinstance(entry, Mapping) else {"method": entry}
            return {key: value for key, value in values.items() if key not in ("variant", "seeds")}
    if name not in methods.METHODS:
        raise unknown("method", name, {*methods.METHODS, *variants})
    return {"method": name}


def _spaces(
    options: TuneOptions, searched: Mapping[str, SearchedMethod], others: Callable[[], Sequence[SearchedMethod]]
) -> dict[str, Space]:
    """What of the space concerns each method: the keys that it has, and its own ones. others: methods that are not
    searched and may have the rest."""
    shared = {key: text for key, text in options.space.items() if not isinstance(text, Mapping)}
    own = {name: entries for name, entries in options.space.items() if isinstance(entries, Mapping)}
    for name in own:
        if name not in searched:
            raise unknown("method in space", name, searched)
    common = read_space(shared)
    for key, domain in common.items():
        if not any(_concerns(method, key, common) for method in [*searched.values(), *others()]):
            next(iter(searched.values())).specs({key: domain.corners[0]})
            raise InputError(f"space {key}: no method has it")
    return {
        name: {key: domain for key, domain in common.items() if _concerns(method, key, common)}
        | read_space(own.get(name, {}))
        for name, method in searched.items()
    }


def _concerns(method: SearchedMethod, key: str, space: Space) -> bool:
    """Whether the method has the key, or a policy that has it may come from the space."""
    kind, dot, _ = key.partition(".")
    return method.has(key) or (bool(dot) and kind in KINDS and kind in space)


def _check_corners(method: SearchedMethod) -> None:
    """The method takes the extreme values of every key; then it takes what lies between them."""
    for key, domain in method.space.items():
        first = {other: each.corners[0] for other, each in method.space.items()}
        for value in domain.corners:
            method.specs({**first, key: value})
            _check_schedule(method, {**first, key: value})


def _check_schedule(method: SearchedMethod, values: Values) -> None:
    """A schedule in numbers of epochs would lose its shape in a shorter training."""
    whole = method.whole_epochs(values)
    points = method.points(values)
    if whole != method.epochs and any(point >= 1 for point in points):
        raise InputError(f"epochs: {method.epochs} instead of {whole} needs milestones and start epochs as "
                         f"fractions of training, such as 0.5, not {points}")  # fmt: skip


def _settings(method: SearchedMethod, options: TuneOptions) -> list[Values]:
    """The tries of a method, each another training; drawn with a seed of the method's own, so that methods beside it
    change nothing."""
    count, seed = options.trials or _TRIALS, f"{options.search_seed} {method.name}"
    if options.search == "tpe":
        return []
    if options.search == "random":
        first = [method.defaults] if options.with_default else []
        return draw(method.space, count, seed, first=first, by=method.training_of)
    if options.search == "list":
        found, count = options.settings[method.name], len(options.settings[method.name])
    else:
        found = grid(method.space, count, seed)
    distinct: dict[str, Values] = {}
    for values in found:
        distinct.setdefault(method.training_of(values), values)
    if options.search == "list" and len(distinct) < len(found):
        raise InputError(f"tune: settings: two of {method.name} are the same training")
    return list(distinct.values())[:count]


def _texts(space: Space) -> dict[str, str]:
    return {key: domain.text for key, domain in space.items()}


def proposed(config: Mapping[str, Any], searched: Mapping[str, SearchedMethod]) -> Setting:
    """A setting from what Ray Tune hands out: the setting itself, or what a searcher proposed."""
    if "setting" in config:
        return Setting(**config["setting"])
    name = config["method"]
    return Setting(name, {key: domain.decode(config[key]) for key, domain in searched[name].space.items()})


def snippet(tuning: TuningPlan, best: Mapping[str, Values], remarks: Sequence[str]) -> str:
    """The best setting of every method as YAML: a `methods:` list for a suite, in which each is called as it was
    before, with remarks above."""
    entries = [
        {**method.at(method.at_full_length(values)), "variant": name}
        for name, values in best.items()
        for method in [tuning.searched[name]]
    ]
    text = yaml.safe_dump({"methods": entries}, sort_keys=False, default_flow_style=None)
    return "".join(f"# {line}\n" for line in remarks) + text
