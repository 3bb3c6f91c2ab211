"""What commands share: their options, and what these are read into. Nothing here imports torch or Ray."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import typer

from harness.cli.messages import (
    err,
)
from harness.errors import ExitCode, InputError, is_utf8


def path_of(text: str | Path) -> Path:
    if not str(text).strip():  # a default comes as a path
        raise typer.BadParameter("an empty path")
    if not is_utf8(str(text)):
        raise typer.BadParameter(f"{str(text)!a} is not UTF-8, which Parquet's paths have to be")
    return Path(text)


def _suites_like(incomplete: str) -> list[str]:
    """What a shell offers for a suite: those of the package, YAML files, and folders on the way to them."""
    from harness.suites.suite import suite_names

    folder = os.path.dirname(incomplete)
    with suppress(OSError), os.scandir(folder or ".") as entries:
        beside = sorted(
            os.path.join(folder, entry.name) + "/" * entry.is_dir()
            for entry in entries
            if entry.is_dir() or entry.name.endswith((".yaml", ".yml"))
        )
        return [name for name in [*suite_names(), *beside] if name.startswith(incomplete)]
    return []


SuiteName = Annotated[
    str,
    typer.Argument(help="a suite's name (`list suites`) or the path of a YAML file", autocompletion=_suites_like),
]


Results = Annotated[
    Path | None,
    typer.Option("--results", parser=path_of, help="the result store; results/runs/SUITE by default"),
]


Sets = Annotated[
    list[str] | None, typer.Option("--set", help="override a key of the suite: training.epochs=20; repeatable")
]


Methods = Annotated[str | None, typer.Option("--methods", help="only these methods or variants, separated by commas")]


Seeds = Annotated[str | None, typer.Option("--seeds", help="these seeds instead of the suite's, separated by commas")]


Plugins = Annotated[
    list[str] | None,
    typer.Option("--plugin", help="a file or package folder with methods, networks, ... of your own; repeatable"),
]


DataRoot = Annotated[
    Path | None,
    typer.Option(
        "--data", parser=path_of, help="the data directory; $ROBUST_FAIRNESS_DATA or the user's cache by default"
    ),
]


Download = Annotated[bool, typer.Option("--download", help="fetch data sets that are missing")]


Workers = Annotated[int | None, typer.Option("--workers", min=1, help="at most so many trials at once")]


Address = Annotated[
    str | None, typer.Option("--address", help="a Ray cluster, HOST:PORT or auto; a local Ray by default")
]


TeachersFrom = Annotated[
    Path | None,
    typer.Option("--teachers-from", parser=path_of, help="a result store whose trained teachers are taken"),
]


Tensorboard = Annotated[
    Path | None, typer.Option("--tensorboard", parser=path_of, help="also write scalars for TensorBoard into a folder")
]


Serial = Annotated[bool, typer.Option("--serial", help="one trial after the other in this process, without Ray")]


def planned_suite(
    suite: str,
    sets: list[str] | None,
    methods: str | None,
    seeds: str | None,
    results: Path | None,
    plugins: list[str] | None = None,
    absent: list[str] | None = None,
    data: Path | None = None,
    download: bool = False,
) -> Any:
    from harness.api import plan_suite

    load_plugins(plugins)
    only, numbers = read_names(methods, "--methods"), read_seeds(seeds)
    return plan_suite(
        suite, results=results, overrides=sets or (), only=only, seeds=numbers, absent=absent, data_root=data,
        download=download,
    )  # fmt: skip


def check_plan(
    specs: list[Any], store: Any, data: Path | None, download: bool, redone: tuple[str, ...] = ()
) -> list[str]:
    """What a run would refuse, its plan refuses; what is odd is told. What is not there, a line each."""
    from harness.running.run import Options, check_inputs

    options, absent = Options(data_root=data, download=download, redo=redone), list[str]()
    for text in check_inputs(specs, store, options, absent=absent):
        err.print(f"warning: {text}", soft_wrap=True)
    return absent


def conclude_plan(absent: list[str]) -> int:
    """Say what is missing for a run of a plan; the exit code."""
    for text in absent:
        err.print(f"missing: {text}", soft_wrap=True)
    return ExitCode.REFUSED if absent else ExitCode.DONE


def trained_teachers(specs: list[Any], target: Any, source: Path | None) -> list[Any]:
    """The trained teachers to take from another store, each told with its hash."""
    from harness.running.teachers import find_teachers

    found = find_teachers(specs, source, target) if source else []
    for each in found:
        err.print(f"{each.spec.variant}: trained, from {source} (sha256 {each.sha256[:12]})", soft_wrap=True)
    return found


def read_seeds(seeds: str | None) -> list[int]:
    from harness.suites.blocks import seed_list

    names = read_names(seeds, "--seeds")
    try:
        numbers = [int(seed) for seed in names]
    except ValueError:
        raise InputError(f"--seeds must be whole numbers separated by commas, not '{seeds}'") from None
    return seed_list(numbers, "--seeds") if numbers else []


def load_plugins(plugins: list[str] | None) -> None:
    from methods.plugins import load_entry_points, load_plugin

    load_entry_points()
    for path in plugins or ():
        load_plugin(path)


def read_names(text: str | None, option: str) -> list[str]:
    """The names in an option that is not empty; none where it is not given."""
    names = listed(text)
    if names == []:
        raise InputError(f"{option} is empty: write names separated by commas, or leave it out")
    return names or []


def listed(text: str | None) -> list[str] | None:
    return [part.strip() for part in text.split(",") if part.strip()] if text is not None else None


def coordinates(planned: Any) -> dict[str, Any]:
    return {"trial_ids": planned.trial_ids, "variants": planned.variants, "datasets": planned.datasets}
