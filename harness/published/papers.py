"""Numbers as papers and their repositories state them, one YAML file per paper in this folder: typed, checked, each
with a source that a reader can open. Imports neither torch nor Ray."""

from __future__ import annotations

import math
from collections.abc import Iterator
from importlib import resources
from typing import Annotated, Any, Literal

import pandas as pd
from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

import methods
from harness.attacks.registry import canonical_request
from harness.data.registry import DATASETS
from harness.errors import InputError, unknown
from harness.spec import Frozen
from harness.suites.blocks import dataset_spec, network_spec, radius, read
from harness.suites.keys import Entry
from harness.suites.notation import read_yaml

Percent = Annotated[float, Field(ge=0, le=100)]
Text = Annotated[str, Field(min_length=1)]


class Source(Frozen):
    """Where a reader finds a number. link: to open. place: the table, or what stands there. file, commit: of a
    repository. second_hand: who quotes it, where the place itself has not been read."""

    link: Annotated[str, Field(pattern=r"^https://\S+$")]
    place: Text
    file: Text | None = None
    commit: Annotated[str, Field(pattern="^[0-9a-f]{7,40}$")] | None = None
    second_hand: Text | None = None


class Result(Frozen):
    """Of one network, or a mean over seeds: percent, and NSD in the population form. deviation: of average and worst
    over the seeds, as it is stated."""

    average: Percent | None = None
    worst: Percent | None = None
    nsd: Annotated[float, Field(ge=0)] | None = None
    deviation: tuple[Percent | None, Percent | None] | None = None

    @model_validator(mode="after")
    def _sensible(self) -> Result:
        if self.average is None and self.worst is None:
            raise PydanticCustomError("result", "must have an average or a worst class")
        if self.average is not None and self.worst is not None and self.worst > self.average:
            raise PydanticCustomError("result", "has a worst class above its average")
        return self


class Row(Frozen):
    """A method's numbers by attack. method: a registered name, or one of the paper's `others`. variant: what sets it
    apart from the method as it is registered. The rest stands in place of the table's own."""

    method: Text
    variant: Text | None = None
    results: Annotated[dict[str, Result], Field(min_length=1)]
    checkpoint: Text | None = None
    remark: Text | None = None


class Table(Frozen):
    """Rows of one source. dataset, network, eps and attacks as a suite has them; attacks: those that are not as their
    names say. What is null is not said. checkpoint: how it was chosen, `last epoch` where it was not."""

    source: Source
    dataset: Entry
    network: Entry
    eps: str | float
    norm: Literal["linf"] = "linf"
    attacks: tuple[Entry, ...] = ()
    seeds: Annotated[int, Field(ge=1)] | None = None
    checkpoint: Text | None = None
    epochs: Annotated[int, Field(ge=1)] | None = None
    teacher: Text | None = None
    remark: Text | None = None
    rows: Annotated[list[Row], Field(min_length=1)]


class Paper(Frozen):
    """A paper, or another place where numbers are published. cite: how tables call it. own: the methods it introduces.
    others: methods that are not registered here, with their titles."""

    cite: Text
    title: Text
    link: Annotated[str, Field(pattern=r"^https://\S+$")]
    year: Annotated[int, Field(ge=2014, le=2100)]
    own: tuple[str, ...] = ()
    others: dict[str, Text] = Field({})
    tables: Annotated[list[Table], Field(min_length=1)]


COLUMNS = (
    "paper", "cite", "year", "link", "place", "file", "commit", "second_hand", "by", "dataset", "imbalance", "network",
    "norm", "eps", "attack", "request", "method", "title", "variant", "average", "worst", "nsd", "average_deviation",
    "worst_deviation", "seeds", "checkpoint", "epochs", "teacher", "remark",
)  # fmt: skip


def papers() -> dict[str, Paper]:
    """What comes with the package, by the names of the files. InputError for a file with a fault, by its name."""
    folder = resources.files(__package__)
    files = sorted((entry for entry in folder.iterdir() if entry.name.endswith(".yaml")), key=lambda entry: entry.name)
    return {entry.name[:-5]: read_paper(entry.read_text("utf-8"), entry.name) for entry in files}


def read_paper(text: str, name: str) -> Paper:
    """The paper of one file. InputError, with the file's name and the place in it, for whatever is wrong."""
    where = f"published numbers, {name}"
    paper = read(Paper, read_yaml(text, where), where)
    for line in _lines(name, paper):
        most = math.sqrt((DATASETS[line["dataset"]].num_classes or math.inf) - 1)
        if line["nsd"] is not None and line["nsd"] > most:
            raise InputError(f"{where}: {line['method']}, {line['attack']}: nsd {line['nsd']:g} is above {most:g}")
    return paper


def published() -> pd.DataFrame:
    """Every number that comes with the package, one line each, the columns `COLUMNS`.

    average, worst and their deviations in percent; by: `its own paper` or `another paper`; network: as results call
    it; request: the attack as a suite asks for it, `attack` its name in results; title: of the method, for those that
    are not registered here. What is not said is null.
    """
    lines = [line for name, paper in papers().items() for line in _lines(name, paper)]
    return pd.DataFrame(lines, columns=list(COLUMNS), dtype=object)


def _lines(name: str, paper: Paper) -> Iterator[dict[str, Any]]:
    """The numbers of a paper. InputError for a data set, network, attack or method that does not exist."""
    where = f"published numbers, {name}"
    for table in paper.tables:
        try:
            data = dataset_spec(table.dataset)
            network = network_spec(table.network, "published numbers", data).label
            eps = radius(table.eps, "eps")
            otherwise = {_name(entry): _request(entry, eps) for entry in table.attacks}
        except InputError as error:
            raise InputError(f"{where}: {error}") from None
        common = {
            "paper": name, **paper.model_dump(include={"cite", "year"}), **table.source.model_dump(),
            "dataset": data.name, "imbalance": data.imbalance, "network": network, "norm": table.norm, "eps": eps,
            **table.model_dump(include={"seeds", "checkpoint", "epochs", "teacher"}),
        }  # fmt: skip
        for row in table.rows:
            if row.method not in methods.METHODS and row.method not in paper.others:
                raise unknown(f"method in {where}", row.method, {*methods.METHODS, *paper.others})
            yield from (common | line for line in _row_lines(row, paper, table, otherwise, eps, where))


def _row_lines(
    row: Row, paper: Paper, table: Table, otherwise: dict[str, dict[str, Any]], eps: float, where: str
) -> Iterator[dict[str, Any]]:
    for attack, result in row.results.items():
        try:
            request = otherwise.get(attack) or _request(attack, eps)
        except InputError as error:
            raise InputError(f"{where}: {row.method}: {error}") from None
        deviations = result.deviation or (None, None)
        yield {
            "by": "its own paper" if row.method in paper.own else "another paper",
            "attack": request["name"], "request": request, "method": row.method,
            "title": paper.others.get(row.method), "variant": row.variant,
            **result.model_dump(include={"average", "worst", "nsd"}),
            "average_deviation": deviations[0], "worst_deviation": deviations[1],
            "remark": "; ".join(filter(None, (table.remark, row.remark))) or None,
            **({"checkpoint": row.checkpoint} if row.checkpoint else {}),
        }  # fmt: skip


def _name(entry: Entry) -> str:
    return str(entry.get("name")) if isinstance(entry, dict) else entry


def _request(entry: Entry, eps: float) -> dict[str, Any]:
    values = dict(entry) if isinstance(entry, dict) else {"name": entry}
    return canonical_request(values, eps)
