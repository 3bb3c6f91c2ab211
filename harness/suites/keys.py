"""The keys of the parts of a suite that are written otherwise than a specification has them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from harness.engine.gpu import share_problem
from harness.spec import AttackRequest, EvaluationSpec, InSuites, Record, Resources, Seed, Weights

Entry = str | dict[str, Any]

MOST_SEEDS = 10_000
NETWORK_BLOCKS = ("teacher", "natural_teacher", "init")  # of networks that students learn or start from

_SUITE_SEEDS = InSuites(default="the suite's")


def _share(gpu: float | str) -> float | str:
    if isinstance(gpu, float) and (problem := share_problem(gpu)):
        raise PydanticCustomError("share", "{problem}", {"problem": problem})
    return gpu


_SHARE = InSuites("0, 1, 1/k for k trials on one GPU, or auto", "0")


class ResourceKeys(Resources):
    """What one trial takes from the cluster."""

    gpu: Annotated[float | Literal["auto"], AfterValidator(_share), _SHARE] = Field(  # type: ignore[assignment]
        0.0,
        description="share of a GPU; `auto`: 1 where the machine that plans the suite has one, else 0",
        examples=[0.5],
    )


class NetworkKeys(Record):
    """A network by name, `cnn`, or as a mapping of these and its own settings, `{name: cnn, width: 16}`."""

    name: str = Field(description="the network: one of `list models`", examples=["cnn"])
    normalization: Annotated[Entry, InSuites("none, dataset, or {mean: [...], std: [...]}")] = Field(
        "none", description="what is done to images inside the network: nothing, or with the data set's mean and "
        "deviation, or with these, one number a channel", examples=["dataset"],
    )  # fmt: skip


class FileKeys(Record):
    """A trained network from a file."""

    model: Entry = Field(description="the network; of `init` the student's by default", examples=[{"name": "cnn"}])
    variant: Annotated[str, InSuites(default="the block's name")] = Field(
        "", description="what tables call it", examples=["trades-wrn"]
    )
    file: str | None = Field(None, description="its weights, from the current folder", examples=["teacher.pt"])
    sha256: str | None = Field(None, description="the hash that the file must have", examples=["ab" * 32])
    weights: Weights | None = Field(
        None, description="which to take of a file with averaged weights beside raw ones, or with two networks",
        examples=["ema"],
    )  # fmt: skip


class SourceKeys(FileKeys):
    """A network that students learn or start from: one that is trained first, or, where `file` is given, one from a
    file, with its hash and without what concerns training."""

    method: Entry = Field("at", description="how it is trained: a method that needs no other network")
    training: Annotated[dict[str, Any], InSuites(default="the suite's")] = Field(
        {}, description="keys of the training that differ for it", examples=[{"epochs": 20}]
    )
    seed: Seed = Field(0, description="of its training")
    seeds: list[Seed] | None = Field(
        None, description="of `teacher` alone, in place of `seed`: every student is trained from each of them",
        examples=[[0, 1]],
    )  # fmt: skip


class MethodKeys(Record):
    """A method by name, `absld`, or as a mapping of these and its settings, `{method: absld, temperature_rate: 0.3}`;
    those of its policies too, where only one of the four has the name."""

    method: str = Field(description="the method: one of `list methods`", examples=["absld"])
    labels: Annotated[Entry, InSuites(default="the method's own")] = Field(
        "", description="label policy: a name, or a mapping with its settings", examples=["teacher"]
    )
    weights: Annotated[Entry, InSuites(default="the method's own")] = Field(
        "", description="weight policy: the same", examples=[{"name": "kappa", "beta": 3}]
    )
    margins: Annotated[Entry, InSuites(default="the method's own")] = Field(
        "", description="margin policy: the same", examples=["ccm"]
    )
    variant: Annotated[str, InSuites(default="the method and what differs from its own settings")] = Field(
        "", min_length=1, max_length=200, description="what tables call it, unique in the suite", examples=["mine"]
    )
    training: Annotated[dict[str, Any], InSuites(default="the suite's")] = Field(
        {}, description="keys of the training that differ for this entry", examples=[{"lr": 0.2}]
    )
    seeds: Annotated[list[Seed], _SUITE_SEEDS] = Field([], description="of this entry", examples=[[0]])


class AttackKeys(AttackRequest):
    """An attack by name, `pgd20`, or as a mapping, `{name: pgd20, restarts: 5}`. From `steps` to
    `every_iterate` they are of gradient attacks alone."""

    seeds: Annotated[list[Seed], _SUITE_SEEDS] = Field(
        [], description="of the trials that it is run in", examples=[[0]]
    )


class EvaluationKeys(EvaluationSpec):
    """Attacks on the test images."""

    attacks: list[Entry] = Field(description="names and mappings, each attack once", examples=[["clean", "pgd20"]])  # type: ignore[assignment]
    images: Annotated[int | None, InSuites(default="all")] = Field(
        None, ge=1, description="stratified subset of the test images, of attacks that name none", examples=[200]
    )
