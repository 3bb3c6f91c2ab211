"""Suites: a YAML file, its defaults and its overrides. Imports neither torch nor Ray."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from harness.data.registry import OWN
from harness.errors import InputError, unknown
from harness.models.registry import in_folder
from harness.spec import CHECKPOINTS, MOST_OF_A_NAME, Checkpoint, Frozen, InSuites, Record, Seed
from harness.suites.absent import stand_in
from harness.suites.blocks import own_data, read
from harness.suites.keys import MOST_SEEDS, NETWORK_BLOCKS, Entry, ResourceKeys
from harness.suites.notation import number, read_text, read_yaml
from methods.plugins import load_plugin


class PrimaryComparison(Frozen):
    """A comparison of two variants that is registered before their results are known. It changes no trial."""

    variant: str = Field(description="one of the suite's variants", examples=["absld"])
    against: str = Field(description="the variant that it is compared with", examples=["rslad"])
    metrics: tuple[Literal["average", "worst", "nsd"], ...] = Field(
        min_length=1, description="what is compared", examples=[["nsd", "average"]]
    )
    attack: Annotated[str | None, InSuites(default="the strongest")] = Field(
        None, description="one of the evaluation's attacks", examples=["pgd20"]
    )


def _one_component(name: str) -> str:
    if name != name.strip() or name in ("", ".", "..") or not name.isprintable() or set(name) & set("/\\"):
        raise PydanticCustomError("name", "must be one path component, since it names the suite's folder")
    if len(name.encode()) > MOST_OF_A_NAME:
        raise PydanticCustomError(
            "name", f"must have at most {MOST_OF_A_NAME} bytes, since it names the suite's folder"
        )
    return name


class Suite(Record):
    """A benchmark: what is trained on which images, how, and how it is attacked.

    Names and mappings are read further by `plan`."""

    name: Annotated[str, AfterValidator(_one_component), InSuites(default="the file's")] = Field(
        description="names the folder of its results", examples=["mine"]
    )
    description: str = Field("", description="what `list suites` says", examples=["two methods on digits"])
    plugins: list[str] = Field(
        [], description="files and package folders of your own, from the suite's folder", examples=[["mine.py"]]
    )
    dataset: Entry = Field(description="a name, or a mapping of the keys of a data set", examples=["digits"])
    student: Entry | None = Field(
        None, description="the network that is trained: a name, or a mapping", examples=[{"name": "cnn", "width": 8}]
    )
    students: list[Entry] = Field([], description="several, in place of `student` or beside it", examples=[["cnn"]])
    teacher: dict[str, Any] | None = Field(
        None, description="the robust network that distillation learns from", examples=[{"model": "cnn"}]
    )
    natural_teacher: dict[str, Any] | None = Field(
        None,
        description="the second teacher, of methods that ask for one",
        examples=[{"model": "cnn", "method": "natural"}],
    )
    init: dict[str, Any] | None = Field(
        None, description="the robust network that students of FRL start from", examples=[{"method": "trades"}]
    )
    eps: Annotated[float, InSuites("a number or a fraction, below 1")] = Field(
        description="L-infinity radius of all attacks, pixels in [0, 1]", examples=["8/255"]
    )
    norm: Literal["linf"] = Field("linf", description="of all attacks", examples=["linf"])
    training: dict[str, Any] = Field(description="how networks are trained", examples=[{"epochs": 20}])
    methods: Annotated[list[Entry], InSuites("a list of names and mappings, or the name of a YAML file with one")] = (
        Field(min_length=1, description="how students are trained", examples=[["rslad", "absld"]])
    )
    seeds: list[Seed] = Field(
        [0],
        min_length=1,
        max_length=MOST_SEEDS,
        description="every method is trained once with each",
        examples=[[0, 1, 2]],
    )
    split_seed: Seed = Field(0, description="of what is held out and of every subset, whatever the seeds")
    evaluation: dict[str, Any] = Field(
        description="how networks are attacked", examples=[{"attacks": ["clean", "pgd20"]}]
    )
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "float32",
        description="of training, never of what is reported; `auto`: bfloat16 where there are units for it",
    )
    engine: Literal["fast", "plain"] = Field("fast", description="`plain` is the papers' form: nothing is folded")
    threads: Annotated[int, Field(ge=1)] | Literal["auto"] = Field(
        1,
        description="of one trial; `auto`: as many as are measured to be best here, and one beside a GPU",
        examples=[2],
    )
    resources: Annotated[ResourceKeys, InSuites(default="{cpu: 1, gpu: 0, custom: {}}")] = Field(
        ResourceKeys(), description="what one trial takes from the cluster", examples=[{"cpu": 2}]
    )
    deterministic: bool = Field(
        False, description="a GPU computes the same bits in every run, more slowly, as a processor does anyway"
    )
    keep: list[Checkpoint] = Field(
        list(CHECKPOINTS), description="weights that are kept when a trial is done", examples=[["best_validation"]]
    )
    time_limit_hours: float | None = Field(
        None, gt=0, description="of one trial, which then fails; not of a search's", examples=[12.0]
    )
    tune: dict[str, Any] | None = Field(
        None,
        description="how `tune` searches",
        examples=[{"methods": ["absld"], "space": {"temperature_rate": "loguniform(0.01, 1)"}}],
    )
    primary: list[PrimaryComparison] = Field(
        [],
        description="comparisons that are chosen before the results are known",
        examples=[[{"variant": "absld", "against": "rslad", "metrics": ["nsd"]}]],
    )

    @property
    def time_limit_s(self) -> float | None:
        """Seconds that a trial may take."""
        return None if self.time_limit_hours is None else self.time_limit_hours * 3600


def suite_names() -> dict[str, str]:
    """The suites that come with the package, each with the first line of its description."""
    folder = resources.files("harness.suites")
    files = sorted((entry for entry in folder.iterdir() if entry.name.endswith(".yaml")), key=lambda entry: entry.name)
    return {
        entry.name[:-5]: str(read_yaml(entry.read_text(), entry.name).get("description", "")).strip().split("\n")[0]
        for entry in files
    }


def load_suite(name_or_path: str, overrides: Sequence[str] = (), absent: list[str] | None = None) -> Suite:
    """The suite of that name, or of that YAML file, with `key.path=value` overrides applied. Raises InputError.

    Paths of plugins, of networks in a file, of a data set and of a file with the methods are taken from the folder of
    the suite's file, those of an override from the current folder. The plugins are loaded. absent: of a suite that is
    only looked at, see `stand_in`.
    """
    where, text = _suite_text(name_or_path)
    values = read_yaml(text, where)
    if not isinstance(values, dict):
        raise InputError(f"{where} must be a mapping of keys, such as dataset, student, methods")
    values.setdefault("name", Path(where).stem)
    for place in (_place_data, _place_plugins, _place_networks, _read_methods):
        place(values, Path(where).parent)
    for override in overrides:
        _apply(values, override)
    _read_methods(values, Path())
    _load_plugins(values, where)
    if absent is not None:
        stand_in(values, absent)
    if _is_own(values.get("dataset")):
        values["dataset"] = own_data(values["dataset"], Path())
    if "eps" in values:
        values["eps"] = number(values["eps"], f"{where}: eps")
    return read(Suite, values, where)


def _suite_text(name_or_path: str) -> tuple[str, str]:
    path = Path(name_or_path).expanduser()
    if path.suffix in (".yaml", ".yml") or path.is_file():
        return str(path), read_text(path, "suite")
    if name_or_path not in suite_names():
        raise unknown("suite", name_or_path, suite_names())
    return f"suite {name_or_path}", (resources.files("harness.suites") / f"{name_or_path}.yaml").read_text()


def _read_methods(values: dict[str, Any], folder: Path) -> None:
    """`methods: best.yaml` stands for the list in that file, such as a search writes it."""
    name = values.get("methods")
    if not isinstance(name, str) or not name.endswith((".yaml", ".yml")):
        return
    where = f"methods '{name}'"
    found = read_yaml(read_text(folder / Path(name).expanduser(), "methods"), where)
    if not isinstance(found, dict) or "methods" not in found:
        raise InputError(f"{where} must be a file with a list 'methods'")
    values["methods"] = found["methods"]


def _is_own(dataset: Any) -> bool:
    """Whether a suite's entry names data of the user's own; whatever else is wrong with it is told later."""
    return isinstance(dataset, dict) and dataset.get("name") in list(OWN) and isinstance(dataset.get("path"), str)


def _place_data(values: dict[str, Any], folder: Path) -> None:
    dataset = values.get("dataset")
    if isinstance(dataset, dict) and isinstance(dataset.get("path"), str):
        dataset["path"] = str(folder.absolute() / Path(dataset["path"]).expanduser())


def _place_plugins(values: dict[str, Any], folder: Path) -> None:
    if isinstance(values.get("plugins"), list):
        values["plugins"] = [
            str(folder.absolute() / Path(path).expanduser()) if isinstance(path, str) else path
            for path in values["plugins"]
        ]


def _load_plugins(values: dict[str, Any], where: str) -> None:
    """Before anything else is read: what they declare may be named everywhere."""
    found = values.get("plugins", [])
    if not isinstance(found, list) or not all(isinstance(path, str) for path in found):
        raise InputError(f"{where}: plugins must be a list of files, such as [mine.py], not {found!r}")
    for path in found:
        load_plugin(path)


def _place_networks(values: dict[str, Any], folder: Path) -> None:
    """`nets/mine.py:build` stands for a network in that file."""

    def placed(entry: Any, key: str = "name") -> Any:
        if isinstance(entry, dict) and key in entry:
            return {**entry, key: placed(entry[key])}
        return in_folder(entry, folder)

    for block in NETWORK_BLOCKS:
        if isinstance(values.get(block), dict):
            values[block] = placed(values[block], "model")
    if "student" in values:
        values["student"] = placed(values["student"])
    if isinstance(values.get("students"), list):
        values["students"] = [placed(entry) for entry in values["students"]]


def _apply(values: dict[str, Any], override: str) -> None:
    path, sign, text = override.partition("=")
    keys = path.strip().split(".")
    if not sign or not all(keys):
        raise InputError(f"--set {override}: write key.path=value, such as training.epochs=20")
    value = read_yaml(text, f"--set {override}: the value")
    inner = values
    for key in keys[:-1]:
        if isinstance(inner.get(key), str):
            inner[key] = {"name": inner[key]}
        inner = inner.setdefault(key, {})
        if not isinstance(inner, dict):
            raise InputError(f"--set {override}: '{key}' holds a list; set the whole list")
    inner[keys[-1]] = value
