"""One trial, written down: everything that decides its numbers, and the identity that follows from it. Imports
neither torch nor Ray."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from harness.errors import is_utf8

# Raised by hand when a change alters results on purpose: old rows then belong to other trials and are never mixed
# with new ones.
NUMERICS_VERSION = 2

Role = Literal["teacher", "student", "evaluation"]
Checkpoint = Literal["best_validation", "last"]
CHECKPOINTS: tuple[Checkpoint, ...] = ("best_validation", "last")
SELECTED: Checkpoint = "best_validation"  # chosen on held-out images: what students learn and start from
Start = Literal["clean", "uniform", "normal"]
Weights = Literal["ema", "raw", "best", "last"]
UNKNOWN_SHA256 = "0" * 64  # of no content: stands in a plan for one that is not here, and never in a store
MOST_OF_A_NAME = 200  # characters
MOST_EPOCHS = 100_000  # of a training

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


@dataclass(frozen=True)
class InSuites:
    """Marks a field that a suite writes otherwise than a record has it: as what (epochs as fractions of training, for
    example), and what it is where the suite leaves it out."""

    written: str | None = None
    default: str | None = None


POINTS = InSuites("epochs, or fractions of training below 1")
POINT = InSuites("an epoch, or a fraction of training below 1")
STEP = InSuites("a number or a fraction, above 0 and below 1", "eps / 4")


def plain(value: Any, annotation: Any) -> Any:
    """The value of a field as it came, for pydantic to go on with; refused are text that UTF-8 cannot write, and true
    or false for a number, which pydantic would take for 1 and 0."""
    if isinstance(value, str) and not is_utf8(value):
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


_OWN = InSuites(default="the data set's own")


class AugmentSpec(Frozen):
    """What training images are made to vary by."""

    crop: Annotated[int, _OWN] = Field(0, ge=0, description="pixels added a side before a random crop", examples=[4])
    flip: Annotated[bool, _OWN] = Field(False, description="mirror images at random")
    pad: Literal["zero", "reflect"] = Field("zero", description="what is added: `reflect` is the image continued")


class DatasetSpec(Frozen):
    """Which images; all where a number of them is null."""

    name: str = Field(description="the data set: one of `list datasets`", examples=["digits"])
    train_images: Annotated[int | None, InSuites(default="all")] = Field(
        None, ge=1, description="size of a stratified subset of the training images", examples=[1000]
    )
    test_images: Annotated[int | None, InSuites(default="all")] = Field(
        None, ge=1, description="size of a stratified subset of the test images", examples=[200]
    )
    path: Annotated[str | None, ASIDE] = Field(
        None, description="of data of your own: the file or folder, from the suite's folder", examples=["mine.npz"]
    )
    sha256: str | None = Field(
        None, description="of data of your own: the hash that its content must have", examples=["ab" * 32]
    )
    title: Annotated[str | None, ASIDE, InSuites(default="its name")] = Field(
        None, min_length=1, max_length=100, description="what reports call it", examples=["Digits, 8 x 8"]
    )
    resize: Annotated[int | None, Introduced(None), InSuites(default="as they are")] = Field(
        None,
        ge=1,
        le=1024,
        description="pixels a side to which your PNG and JPEG images are brought",
        examples=[32],
    )
    label_column: Annotated[str | None, Introduced(None), InSuites(default="`label`, or the only one")] = Field(
        None, min_length=1, description="of Parquet files: where the labels stand", examples=["fine_label"]
    )
    augment: Annotated[AugmentSpec | None, Introduced(None), _OWN] = Field(
        None, description="what training images are made to vary by", examples=[{"crop": 2, "flip": False}]
    )
    imbalance: Annotated[float | None, Introduced(None), InSuites(default="as they are")] = Field(
        None,
        gt=0,
        le=1,
        description="images of the last class over those of the first, of an exponential long tail",
        examples=[0.1],
    )

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


def is_of_unit_pixels(mean: Sequence[float], std: Sequence[float]) -> bool:
    """Whether a normalisation can be one of pixels in [0, 1], and not in [0, 255]."""
    return all(0 <= value <= 1 for value in mean) and all(0 < value <= 1 for value in std)


class Source(Frozen):
    """Trained weights: of a trial (its id and seed, and the id of its training, which alone decides the weights), or of
    a file with its hash. weights: which of a file that holds averaged ones beside raw ones, or two networks."""

    network: NetworkSpec
    trial: Annotated[str | None, ASIDE] = None
    training: str | None = None
    checkpoint: Checkpoint = SELECTED
    file: Annotated[str | None, ASIDE] = None
    seed: Annotated[int | None, ASIDE] = None
    sha256: str | None = None
    weights: Annotated[Weights | None, Introduced(None)] = None

    @property
    def label(self) -> str:
        """How tables call it."""
        return f"{self.network.label}@{(self.training or self.sha256 or '')[:8]}"


class WeightAverageSpec(Frozen):
    """An average of the weights along training."""

    kind: Literal["ema", "fawa"] = Field(
        description="`fawa` is CFA's: it takes a network only if its worst held-out class reaches the threshold",
        examples=["ema"],
    )
    decay: float = Field(0.85, ge=0, lt=1, description="share of itself that the average keeps at an epoch")
    threshold: float = Field(0.2, ge=0, le=1, description="of `fawa`: the robust accuracy of the worst held-out class")
    start_epoch: Annotated[int, POINT] = Field(0, ge=0, description="when the average begins", examples=[0.5])


class WeightPerturbationSpec(Frozen):
    """Adversarial weight perturbation (AWP, Wu et al., NeurIPS 2020)."""

    gamma: float = Field(0.005, gt=0, description="length of the perturbation over that of the weights")
    start_epoch: Annotated[int, POINT] = Field(0, ge=0, description="when it begins", examples=[0.1])


class TrainingSpec(Frozen):
    """Optimiser (SGD), schedule, attack and options of the training loop."""

    epochs: int = Field(ge=1, le=MOST_EPOCHS, description="passes over the training images", examples=[20])
    batch_size: int = Field(128, ge=2, description="images of a step; batch norm has no statistics of one")
    lr: float = Field(0.1, gt=0, description="learning rate at the start")
    milestones: Annotated[tuple[int, ...], POINTS] = Field(
        (), description="completed epochs after which the rate falls", examples=[[0.6, "215/300"]]
    )
    decay: float = Field(0.1, gt=0, le=1, description="factor of the rate at a milestone")
    decay_rule: Literal["cumulative", "restart"] = Field(
        "cumulative",
        description="`cumulative` multiplies at each milestone; `restart` is the released ARD decay: after every "
        "milestone the base rate times `decay`",
    )
    momentum: float = Field(0.9, ge=0, lt=1, description="of SGD")
    weight_decay: float = Field(2e-4, ge=0, description="of SGD")
    nesterov: bool = Field(False, description="Nesterov's momentum")
    gradient_clip: Annotated[float | None, InSuites(default="none")] = Field(
        None, gt=0, description="largest norm of the gradient", examples=[5.0]
    )
    attack_steps: int = Field(10, ge=1, description="steps of the training attack")
    step_size: Annotated[float | None, STEP] = Field(
        None, gt=0, description="step of the training attack, in pixels", examples=["2/255"]
    )
    validation_steps: int = Field(10, ge=1, description="steps of the attack on the held-out images after an epoch")
    batch_norm_pass: bool = Field(
        False, description="pass the clean batch once more after the step, as the released CFA code does"
    )
    running_statistics: Annotated[Literal["all", "adversarial"], Introduced("all")] = Field(
        "all",
        description="what batch norms' running statistics are of: `all` forwards of a step, as in the released codes, "
        "or, for methods that pass clean images too, those of the `adversarial` ones alone",
    )
    weight_average: Annotated[WeightAverageSpec | None, InSuites(default="none, or the method's own")] = Field(
        None, description="an average of the weights, evaluated in place of them", examples=[{"kind": "ema"}]
    )
    weight_perturbation: Annotated[WeightPerturbationSpec | None, InSuites(default="none")] = Field(
        None, description="adversarial weight perturbation (AWP)", examples=[{"gamma": 0.005}]
    )
    record_test_curve: bool = Field(
        False, description="store the test accuracy of every epoch too, under its own name; nothing is chosen by it"
    )


_ATTACKS = InSuites(default="the attack's own")


class AttackRequest(Frozen):
    """One attack of the evaluation, as `harness.suites.blocks.evaluation_spec` writes it: the steps of PGD and its kin
    are in the name. Below `checkpoints`, what differs from the attack's own settings
    (`harness.attacks.registry.AscentSettings`)."""

    name: str = Field(description="the attack: one of `list attacks`", examples=["pgd20"])
    images: Annotated[int | None, InSuites(default="those of the evaluation")] = Field(
        None, ge=1, description="size of a stratified subset of the test images", examples=[100]
    )
    checkpoints: Annotated[tuple[Checkpoint, ...], _ATTACKS] = Field(
        CHECKPOINTS, description="the states of the network that it is run on", examples=[["last"]]
    )
    steps: Annotated[int | None, _ATTACKS] = Field(None, ge=1, description="gradient steps", examples=[50])
    step_size: Annotated[float | None, InSuites(STEP.written, "the attack's own")] = Field(
        None, gt=0, description="length of a step, in pixels", examples=["2/255"]
    )
    restarts: Annotated[int | None, _ATTACKS] = Field(
        None, ge=1, description="starts; robust is what withstands all of them", examples=[5]
    )
    start: Annotated[Start | None, _ATTACKS] = Field(
        None,
        description="`clean` is the image, `uniform` a point of the eps ball, `normal` the image with normal noise of "
        "deviation 0.001",
        examples=["normal"],
    )
    clamp_start: Annotated[bool | None, _ATTACKS] = Field(
        None, description="clip a uniform start to [0, 1]; later points always are", examples=[False]
    )
    every_iterate: Annotated[bool | None, _ATTACKS] = Field(
        None, description="robust is what is right on every iterate, or else on the last", examples=[False]
    )
    settings: Annotated[dict[str, Any] | None, Introduced(None), _ATTACKS] = Field(
        None, description="of an attack of a plugin: its own, which may stand beside the name", examples=[{"tries": 5}]
    )

    def __hash__(self) -> int:  # settings are a mapping
        return hash(self.model_dump_json())

    @property
    def overrides(self) -> dict[str, Any]:
        """The request as the attacks read it: its name and what differs from that attack's own settings."""
        return self.model_dump(exclude={"images", "checkpoints"}, exclude_none=True)


class EvaluationSpec(Frozen):
    """Attacks on the test images."""

    attacks: tuple[AttackRequest, ...]
    chunk_size: int = Field(
        500, ge=1, description="images for which random starts are drawn together: another size is another trial"
    )
    batch_size: int = Field(500, ge=1, description="images that pass through the network together, a chunk at most")
    gradient_precision: Annotated[Literal["float32", "bfloat16"], Introduced("float32")] = Field(
        "float32",
        description="of the gradients of PGD and its kin; AutoAttack, plugins and every verdict are float32",
    )

    @property
    def checkpoints(self) -> set[Checkpoint]:
        """Of which weights of a training any attack is asked for."""
        return {checkpoint for attack in self.attacks for checkpoint in attack.checkpoints}


class Resources(Frozen):
    """What one trial takes from the cluster."""

    cpu: float = Field(1, gt=0, description="processors")
    gpu: float = Field(0, ge=0, description="graphics processors, a fraction 1/k for k trials on one", examples=[0.5])
    custom: dict[str, float] = Field({}, description="custom resources by name", examples=[{"large_memory": 1}])


class TrialSpec(Frozen):
    """One network and its evaluation: a `TrainedSpec`, or a `GivenSpec`, whose network is read from a file.

    code: by role, such as `method:mine`, of what is from outside this package the hash of the code that defines it
    (`harness.suites.code`).
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
    deterministic: Annotated[bool, ASIDE] = False

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
    def networks(self) -> list[NetworkSpec]:
        """Its own, and those that it reads."""
        return [self.student, *(source.network for source in self.sources)]

    @property
    def cost_hint(self) -> float:
        """A rough relative cost, to start the longest first: images x epochs x passes."""
        if self.training is None:
            return 0.0
        return (self.dataset.train_images or 50_000) * self.training.epochs * (self.training.attack_steps + 2.0)

    @property
    def wants_bfloat16(self) -> bool:
        """Whether anything of it is computed in bfloat16, for which a GPU needs units."""
        return "bfloat16" in (self.precision, self.evaluation.gradient_precision)

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
    return _kind(values).model_validate(values)


def _kind(values: Mapping[str, Any]) -> type[TrialSpec]:
    return GivenSpec if values.get("training") is None else TrainedSpec


def canonical(values: Mapping[str, Any], kind: type[Frozen] | None = None) -> dict[str, Any]:
    """What decides the numbers in a record written as JSON values, such as the `spec` column of a stored trial: without
    its `ASIDE` fields, and without `Introduced` ones that are absent or as they were introduced. Specifications are
    compared in this form. kind: of the record, by default that of a trial."""
    kind = kind or _kind(values)
    markers = _markers(kind)
    return {
        name: _inner(value, kind.model_fields[name].annotation) if name in kind.model_fields else value
        for name, value in values.items()
        if name not in markers or (markers[name] is not ASIDE and Introduced(value) != markers[name])
    }


def trial_id(canonical: Mapping[str, Any], numerics_version: int = NUMERICS_VERSION) -> str:
    """The identity of a trial in canonical form, as of any numerics version."""
    return _digest({**canonical, "numerics_version": numerics_version})


OF_ATTACK = "attack:"  # begins the role of code that decides no weights


def training_id(canonical: Mapping[str, Any], numerics_version: int = NUMERICS_VERSION) -> str:
    """The identity of its training, as of any numerics version."""
    code = {role: each for role, each in canonical.get("code", {}).items() if not role.startswith(OF_ATTACK)}
    rest = {key: value for key, value in canonical.items() if key not in ("evaluation", "code")}
    return trial_id({**rest, **({"code": code} if code else {})}, numerics_version)


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
