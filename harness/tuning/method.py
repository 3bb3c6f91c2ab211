"""A method as a search sees it: the suite's entry, and the trials that a setting makes of it. Imports neither torch
nor Ray."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from harness.data.counts import class_counts
from harness.data.splits import split_sizes
from harness.errors import InputError
from harness.spec import EvaluationSpec, TrainedSpec, TrialSpec
from harness.suites.code import with_code
from harness.suites.plan import read_entry
from harness.suites.suite import Suite
from harness.tuning.space import Space, Values, short
from methods import completed, points_of, teachers_of
from methods.registry import KINDS


@dataclass(frozen=True)
class SearchedMethod:
    """The trials of one method that differ in a few settings of the method or of its training.

    name: the method, or the variant of the suite whose entry the settings change. entry: that entry, without a name and
    seeds of its own. suite: what the entry is read with. bases: the entry's own trials, one per seed of the search,
    without attacks on test images. space: what is searched. settings: the values of every try in order, those of a
    searcher excepted, which are known one after the other.
    """

    name: str
    entry: dict[str, Any]
    suite: Suite
    bases: tuple[TrainedSpec, ...]
    space: Space
    settings: tuple[Values, ...] = ()

    @property
    def epochs(self) -> int:
        return self.bases[0].training.epochs

    @property
    def keys(self) -> list[str]:
        """What differs between the settings."""
        return list(dict.fromkeys([*self.space, *(key for values in self.settings for key in values)]))

    def at(self, values: Values) -> dict[str, Any]:
        """The suite's entry at a setting. A key such as `training.lr` or `labels.temperature_rate` names a part."""
        entry = json.loads(json.dumps(self.entry))
        for path, value in sorted(values.items(), key=lambda each: "." in each[0]):  # a policy, then its settings
            if path == "training.epochs":
                raise InputError(f"space {path}: every setting is trained for the same number of epochs: --epochs")
            part, dot, key = path.partition(".")
            if not dot and part != "training":
                entry[part] = value
                continue
            if not key or part not in ("training", *KINDS):
                raise InputError(f"space {path}: a key is a hyper-parameter of the method, training.KEY, or policy.KEY "
                                 f"with policy one of {', '.join(KINDS)}")  # fmt: skip
            inner = entry.get(part)
            entry[part] = {**(inner if isinstance(inner, dict) else {"name": inner} if inner else {}), key: value}
        return entry

    def has(self, key: str) -> bool:
        """Whether a key of the space means something here: a part of the entry, or a hyper-parameter of the method or
        of the policies that its entry has."""
        part, dot, name = key.partition(".")
        if dot:
            return part == "training" or name in self._method.get(part, {})
        return any(key in each for each in self._parts())

    def default(self, key: str) -> Any:
        """What the entry itself has for a key; None where it says nothing."""
        part, dot, name = key.partition(".")
        if dot:
            found = self._trainings() if part == "training" else self._method[part]
            return found.get(name)
        value = next((each[key] for each in self._parts() if key in each), None)
        return value["name"] if isinstance(value, Mapping) and set(value) == {"name"} else value

    @property
    def defaults(self) -> Values:
        """The entry's own setting."""
        return {key: self.default(key) for key in self.keys}

    def specs(self, values: Values) -> list[TrainedSpec]:
        """The trials of a setting, one per seed. Raises InputError for a setting that the method does not take."""
        changed = self.at(values)
        changed["training"] = {**changed.get("training", {}), "epochs": self.epochs}
        try:
            entry = read_entry(changed, self.suite)
        except InputError as error:
            raise InputError(f"space: {error}") from error
        if set(teachers_of(entry.resolved)) != set(teachers_of(self._method)):
            raise InputError(f"space: {short(values)} learns from other teachers than the method's other settings")
        variant = "-".join([self.name, *(short({key: value}) for key, value in values.items())])
        change = {
            "method": entry.resolved,
            "training": entry.training,
            "variant": variant,
        }
        return [with_code(TrainedSpec.model_validate({**spec.model_dump(), **change})) for spec in self.bases]

    def whole_epochs(self, values: Values) -> int:
        """How long a setting is trained outside of the search."""
        return int(self._training_at(self.at(values))["epochs"])

    def points(self, values: Values) -> list[float]:
        """The points in training that the suite or a setting names: milestones, and where something starts."""
        entry = self.at(values)
        training = self._training_at(entry)
        options = [training.get(key) for key in ("weight_average", "weight_perturbation")]
        found = [*training.get("milestones", []), *(each.get("start_epoch") for each in options if each)]
        for part, names in points_of(read_entry(entry, self.suite).resolved).items():
            own = entry.get(part) if part in KINDS else None
            found += [given.get(name) for name in names for given in (entry, own) if isinstance(given, Mapping)]
        return [point for point in found if point is not None]

    def at_full_length(self, values: Values) -> Values:
        """A setting for a training as long as the suite says. The entry's own one is known by the epochs of the search:
        its points in training are left to the entry."""
        if not self.is_own(values) or self.whole_epochs(values) == self.epochs:
            return values
        own = {"milestones", "weight_average", "weight_perturbation"}.union(*points_of(self.bases[0].method).values())
        return {key: value for key, value in values.items() if key.rpartition(".")[2] not in own}

    def _training_at(self, entry: Mapping[str, Any]) -> dict[str, Any]:
        return {**self.suite.training, **entry.get("training", {})}

    def training_of(self, values: Values) -> str:
        """The id of a setting's training with the first seed: two settings may be the same training."""
        return self.specs(values)[0].training_id

    def is_own(self, values: Values) -> bool:
        """Whether a setting trains what the entry itself does."""
        return self.training_of(values) == self.bases[0].training_id

    @property
    def _method(self) -> dict[str, Any]:
        """As resolved, with the fields that stand at their defaults."""
        return completed(self.bases[0].method)

    def _trainings(self) -> dict[str, Any]:
        return self.bases[0].training.model_dump(mode="json")

    def _parts(self) -> Iterator[Mapping[str, Any]]:
        """The tables of the resolved method in which a plain key may stand."""
        yield self._method["settings"]
        yield from (self._method[kind] for kind in KINDS)
        yield {kind: self._method[kind] for kind in KINDS}


def validation_counts(spec: TrialSpec) -> np.ndarray | None:
    """Images of each class that are set aside for validation (C,); None where the data set does not say."""
    counts = class_counts(spec.dataset)
    return None if counts is None else split_sizes(counts.train).validation


def without_tests(spec: TrainedSpec) -> TrainedSpec:
    """The same training and no attack on a test image: what a search may look at."""
    return with_code(TrainedSpec.model_validate({**spec.model_dump(), "evaluation": EvaluationSpec(attacks=())}))
