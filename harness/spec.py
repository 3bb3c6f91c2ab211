"""One trial, written down: everything that decides its numbers, and the identity that follows from it. Imports
neither torch nor Ray."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

# Raised by hand when a change alters results on purpose: old rows then belong to other trials and are never mixed
# with new ones.
NUMERICS_VERSION = 2

Role = Literal["teacher", "student", "evaluation"]
Checkpoint = Literal["best_validation", "last"]
CHECKPOINTS: tuple[Checkpoint, ...] = ("best_validation", "last")
MOST_OF_A_NAME = 200  # characters

Seed = Annotated[int, Field(ge=0, lt=2**63)]  # as wide as the columns of the tables


@dataclass(frozen=True)
class Introduced:
    """Marks a field that records got after specifications had been stored, with the default it had then:
    `flip: Annotated[bool, Introduced(False)] = False`. At that value it is no part of the identity, so that a new
    field changes no id, and a later change of its default changes only ids of trials that have the new default."""

    default: Any  # as JSON has it: a list, never a tuple


@dataclass(frozen=True)
class _Aside:
    """Marks a field that decides no number and is never part of the identity: names, places, resources."""


ASIDE = _Aside()


def plain(value: Any, annotation: Any) -> Any:
    """The value of a field as it came, for pydantic to go on with; refused are text that UTF-8 cannot write, and true
    or false for a number, which pydantic would take for 1 and 0."""
    if isinstance(value, str) and any("\ud800" <= char <= "\udfff" for char in value):
        raise PydanticCustomError("text", "must be text in UTF-8")
    kinds = {annotation, *get_args(annotation)}
    inside = value.values() if isinstance(value, Mapping) else value if isinstance(value, (list, tuple)) else ()
    numbers = [value, *inside] if get_origin(annotation) in (list, tuple, dict) and Any not in kinds else [value]
    if bool not in kinds and any(isinstance(each, bool) for each in numbers):
        raise PydanticCustomError("number", "must not be true or false")
    return value


class Record(BaseModel):
    """Refuses unknown keys, and values as `plain` does."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _plain(cls, value: Any, info: ValidationInfo) -> Any:
        return plain(value, cls.model_fields[str(info.field_name)].annotation)


class Frozen(Record):
    """A read-only record. Fields added from now on are marked `Introduced` or `ASIDE`."""

    model_config = ConfigDict(frozen=True)


class AugmentSpec(Frozen):
    """What training images are made to vary by. crop: pixels added a side before a random crop; flip: mirror images;
    pad: what is added, `zero` or `reflect`, the image continued."""

    crop: int = Field(0, ge=0)
    flip: bool = False
    pad: Literal["zero", "reflect"] = "zero"


class DatasetSpec(Frozen):
    """Which images. train_images, test_images: size of a stratified subset, all where null. path and sha256, of the
    content, are of data of the user's own. title: what reports call it. resize: pixels a side to which a folder's
    images are brought. augment: the data set's own where null. imbalance: images of the last class over those of the
    first, of an exponential long tail made of the training images; as they are where null."""

    name: str
    train_images: int | None = Field(None, ge=1)
    test_images: int | None = Field(None, ge=1)
    path: Annotated[str | None, ASIDE] = None
    sha256: str | None = None
    title: Annotated[str | None, ASIDE] = Field(None, min_length=1, max_length=100)
    resize: Annotated[int | None, Introduced(None)] = Field(None, ge=1, le=1024)
    augment: Annotated[AugmentSpec | None, Introduced(None)] = None
    imbalance: Annotated[float | None, Introduced(None)] = Field(None, gt=0, le=1)

    @property
    def label(self) -> str:
        """How tables call it: its title, else its name; of the user's own data the file and how its hash begins."""
        own = f"{Path(self.path).name} {(self.sha256 or '')[:8]}" if self.path else self.name
        return self.title or own


class NetworkSpec(Frozen):
    """A network by name, its parameters, and the normalisation inside it (null: inputs in [0, 1] as they are)."""

    name: str
    params: dict[str, Any] = {}
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    @property
    def label(self) -> str:
        """How tables call it: `cnn(width=16)`."""
        return self.name + (
            f"({', '.join(f'{key}={value}' for key, value in self.params.items())})" if self.params else ""
        )


class Source(Frozen):
    """Trained weights: of a trial (its id and seed, and the id of its training, which alone decides the weights), or of
    a file with its hash. weights: which of a file that holds averaged ones beside raw ones."""

    network: NetworkSpec
    trial: Annotated[str | None, ASIDE] = None
    training: str | None = None
    checkpoint: Checkpoint = "best_validation"
    file: Annotated[str | None, ASIDE] = None
    seed: Annotated[int | None, ASIDE] = None
    sha256: str | None = None
    weights: Annotated[Literal["ema", "raw"] | None, Introduced(None)] = None

    @property
    def label(self) -> str:
        """How tables call it."""
        return f"{self.network.label}@{(self.training or self.sha256 or '')[:8]}"


class WeightAverageSpec(Frozen):
    """An average of the weights along training: `ema`, or CFA's `fawa`, which takes a network only if its worst
    held-out class reaches the threshold."""

    kind: Literal["ema", "fawa"]
    decay: float = Field(0.85, ge=0, lt=1)
    threshold: float = Field(0.2, ge=0, le=1)
    start_epoch: int = Field(0, ge=0)


class WeightPerturbationSpec(Frozen):
    """Adversarial weight perturbation (AWP, Wu et al., NeurIPS 2020)."""

    gamma: float = Field(0.005, gt=0)
    start_epoch: int = Field(0, ge=0)


class TrainingSpec(Frozen):
    """Optimiser, schedule, attack and options of the training loop. Epochs in `milestones` are numbers of completed
    epochs.

    decay_rule: `cumulative` multiplies at each milestone; `restart` is the released ARD decay, base rate times
    `decay` after every milestone.
    step_size: of the training attack, eps / 4 where null. batch_norm_pass: the released CFA code passes the clean
    batch once more after the step.
    """

    epochs: int = Field(ge=1)
    batch_size: int = Field(128, ge=2)  # batch norm has no statistics of one image
    lr: float = Field(0.1, gt=0)
    milestones: tuple[int, ...] = ()
    decay: float = Field(0.1, gt=0, le=1)
    decay_rule: Literal["cumulative", "restart"] = "cumulative"
    momentum: float = Field(0.9, ge=0, lt=1)
    weight_decay: float = Field(2e-4, ge=0)
    nesterov: bool = False
    gradient_clip: float | None = Field(None, gt=0)
    attack_steps: int = Field(10, ge=1)
    step_size: float | None = Field(None, gt=0)
    validation_steps: int = Field(10, ge=1)
    batch_norm_pass: bool = False
    weight_average: WeightAverageSpec | None = None
    weight_perturbation: WeightPerturbationSpec | None = None
    record_test_curve: bool = False


class AttackRequest(Frozen):
    """One attack of the evaluation, as `harness.suites.blocks.evaluation_spec` writes it: the steps of PGD and its kin
    are in the name. images: size of a stratified test subset, all where null. Below `checkpoints`, what differs from
    the attack's own settings (`harness.attacks.registry.AscentSettings`)."""

    name: str
    images: int | None = Field(None, ge=1)
    checkpoints: tuple[Checkpoint, ...] = CHECKPOINTS
    steps: int | None = Field(None, ge=1)
    step_size: float | None = Field(None, gt=0)
    restarts: int | None = Field(None, ge=1)
    start: str | None = None
    clamp_start: bool | None = None
    every_iterate: bool | None = None

    @property
    def overrides(self) -> dict[str, Any]:
        """The request as the attacks read it: its name and what differs from that attack's own settings."""
        return self.model_dump(exclude={"images", "checkpoints"}, exclude_none=True)


class EvaluationSpec(Frozen):
    """Attacks on the test images. Random starts are drawn per chunk of `chunk_size` images, so the size is part of
    the identity."""

    attacks: tuple[AttackRequest, ...]
    chunk_size: int = Field(500, ge=1)
    batch_size: int = Field(500, ge=1)


class Resources(Frozen):
    """What one trial takes from the cluster. gpu may be a fraction 1/k; custom resources by name."""

    cpu: float = Field(1, gt=0)
    gpu: float = Field(0, ge=0)
    custom: dict[str, float] = {}


class TrialSpec(Frozen):
    """One network and its evaluation: a `TrainedSpec`, or a `GivenSpec`, whose network is read from a file.

    code: of a method or policy from outside this package, the hash of the code that defines it
    (`methods.registry.code_of`).
    """

    role: Role
    variant: Annotated[str, ASIDE] = Field(min_length=1, max_length=MOST_OF_A_NAME)
    dataset: DatasetSpec
    student: NetworkSpec
    teachers: dict[str, Source] = {}
    init: Source | None = None
    method: dict[str, Any] | None = None
    code: Annotated[dict[str, str], Introduced({})] = {}
    training: TrainingSpec | None = None
    evaluation: EvaluationSpec
    eps: float = Field(ge=0, lt=1)
    norm: Literal["linf"] = "linf"
    seed: Seed = 0
    split_seed: Seed = 0
    precision: Literal["float32", "bfloat16"] = "float32"
    engine: Literal["fast", "plain"] = "fast"
    threads: int = Field(1, ge=1)
    resources: Annotated[Resources, ASIDE] = Resources()
    keep: Annotated[tuple[Checkpoint, ...], ASIDE] = CHECKPOINTS

    @cached_property
    def trial_id(self) -> str:
        """16 hexadecimal digits of everything that decides the rows: no paths, no names given by the user, no
        resources."""
        return trial_id(self._canonical)

    @cached_property
    def training_id(self) -> str:
        """The same without the evaluation: trials that differ only in their attacks share one training and its
        weights."""
        return training_id(self._canonical)

    @property
    def depends_on(self) -> list[str]:
        """Ids of the trials whose weights this one needs."""
        return list(dict.fromkeys(source.trial for source in self.sources if source.trial))

    @property
    def sources(self) -> list[Source]:
        """Every trained network this trial reads."""
        return [*self.teachers.values(), *([self.init] if self.init else [])]

    @property
    def cost_hint(self) -> float:
        """A rough relative cost, to start the longest first: images x epochs x passes."""
        if self.training is None:
            return 0.0
        return (self.dataset.train_images or 50_000) * self.training.epochs * (self.training.attack_steps + 2.0)

    @cached_property
    def _canonical(self) -> dict[str, Any]:
        return canonical(self.model_dump(mode="json"), type(self))


class TrainedSpec(TrialSpec):
    """A trial that trains its network by one method."""

    method: dict[str, Any]
    training: TrainingSpec


class GivenSpec(TrialSpec):
    """A trial that evaluates a network that was trained elsewhere."""

    init: Source


def read_spec(values: Mapping[str, Any]) -> TrialSpec:
    """A specification from its values, such as a stored one."""
    kind = GivenSpec if values.get("training") is None else TrainedSpec
    return kind.model_validate(values)


def canonical(values: Mapping[str, Any], kind: type[Frozen] = TrialSpec) -> dict[str, Any]:
    """What decides the numbers in a record written as JSON values, such as the `spec` column of a stored trial: without
    its `ASIDE` fields, and without `Introduced` ones that are absent or as they were introduced. Specifications are
    compared in this form."""
    markers = _markers(kind)
    return {
        name: _inner(value, kind.model_fields[name].annotation) if name in kind.model_fields else value
        for name, value in values.items()
        if name not in markers or (markers[name] is not ASIDE and Introduced(value) != markers[name])
    }


def trial_id(canonical: Mapping[str, Any], numerics_version: int = NUMERICS_VERSION) -> str:
    """The identity of a trial in canonical form, as of any numerics version."""
    return _digest({**canonical, "numerics_version": numerics_version})


def training_id(canonical: Mapping[str, Any], numerics_version: int = NUMERICS_VERSION) -> str:
    """The identity of its training, as of any numerics version."""
    return trial_id({key: value for key, value in canonical.items() if key != "evaluation"}, numerics_version)


def _inner(value: Any, annotation: Any) -> Any:
    """The records inside a field, one or several, in canonical form."""
    kind = _record(annotation)
    if kind is None:
        return value
    if isinstance(value, list):
        return [_inner(item, kind) for item in value]
    if not isinstance(value, dict):
        return value
    if get_origin(annotation) is dict:
        return {name: _inner(item, kind) for name, item in value.items()}
    return canonical(value, kind)


@cache
def _markers(kind: type[Frozen]) -> dict[str, Introduced | _Aside]:
    fields = kind.model_fields.items()
    return {name: mark for name, field in fields for mark in field.metadata if isinstance(mark, (Introduced, _Aside))}


@cache
def _record(annotation: Any) -> type[Frozen] | None:
    """The record type in an annotation such as `tuple[AttackRequest, ...]`."""
    if isinstance(annotation, type) and issubclass(annotation, Frozen):
        return annotation
    return next((found for part in get_args(annotation) if (found := _record(part))), None)


def _digest(values: dict[str, Any]) -> str:
    text = json.dumps(values, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
