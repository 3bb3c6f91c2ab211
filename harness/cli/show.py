"""`status`, `show`, `list`: what there is, without torch and Ray; `export`: one network of it, to give away."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer
from rich.live import Live

from harness.cli.messages import (
    out,
    print_trials,
    states_of,
)
from harness.cli.options import (
    DataRoot,
    Methods,
    Plugins,
    Results,
    Seeds,
    Sets,
    SuiteName,
    load_plugins,
    path_of,
    planned_suite,
)
from harness.errors import unknown

TrialBeginning = Annotated[str, typer.Argument(help="a trial id or its beginning")]
Searched = Annotated[
    Path | None,
    typer.Option("--results", parser=path_of, help="the result store it is in; all below results/ by default"),
]

_LOOK_S = 2.0  # between two looks at a run


def status(
    suite: SuiteName,
    sets: Sets = None,
    methods: Methods = None,
    seeds: Seeds = None,
    results: Results = None,
    plugin: Plugins = None,
    watch: Annotated[
        bool, typer.Option("--watch", help="first follow the run that goes on, in any terminal or machine, to its end")
    ] = False,
) -> int:
    """Show what has become of each trial of a suite, with the error of those that failed."""
    planned = planned_suite(suite, sets, methods, seeds, results, plugin)
    if watch:
        _follow(planned.store.root)
    print_trials(planned, states_of(planned))
    return 0


def _follow(store_root: Path) -> None:
    """Shows how far the run is that drives a store, until there is none; a line a minute where there is no terminal."""
    from harness.cli.progress import TOLD_S, shared_picture
    from harness.store.lock import holder

    with Live(console=out, auto_refresh=False, transient=True) as live:
        told = -TOLD_S
        while holder(store_root) is not None:
            picture = shared_picture(store_root)
            if picture and out.is_terminal:
                live.update(picture.render(), refresh=True)
            elif picture and time.monotonic() - told >= TOLD_S:
                told = time.monotonic()
                out.print(picture.headline, soft_wrap=True)
            time.sleep(_LOOK_S)


def show(
    trial: TrialBeginning,
    results: Searched = None,
    suite: Annotated[bool, typer.Option("--suite", help="only print a suite that makes this trial")] = False,
) -> int:
    """Show one trial: its specification, its class-wise accuracies, its notes, its error."""
    from harness.cli.listings import found_trial, show_suite, show_trial

    store, trial_id, others = found_trial(trial, _stores(results))
    (show_suite if suite else show_trial)(store, trial_id, out)
    if others and not suite:
        out.print(f"also in {', '.join(others)}: --results names a store", soft_wrap=True)
    return 0


def export(
    trial: TrialBeginning,
    into: Annotated[Path, typer.Option("--into", parser=path_of, help="a folder of its own")],
    results: Searched = None,
    checkpoint: Annotated[
        str | None, typer.Option("--checkpoint", help="best_validation or last; by default the first that is kept")
    ] = None,
    data: DataRoot = None,
    plugin: Plugins = None,
) -> int:
    """Write a trial's network into a folder: weights (.safetensors) and a card with its results and how to load it."""
    from harness.cli.listings import found_trial
    from harness.evaluation.export import export as write_export

    load_plugins(plugin)
    store, trial_id, _ = found_trial(trial, _stores(results))
    write_export(store, trial_id, checkpoint, into, data)
    out.print(f"{trial_id} of {store.root}: exported into {into}", soft_wrap=True)
    return 0


def _stores(results: Path | None) -> list[Path]:
    """Where a trial is looked for."""
    return [results] if results else sorted(path.parent for path in Path("results").glob("**/trials") if path.is_dir())


def list_names(
    what: Annotated[
        str, typer.Argument(help="methods, policies, datasets, models, attacks, metrics, suites or keys (of a suite)")
    ],
    name: Annotated[str | None, typer.Argument(help="one of them, with all its settings")] = None,
    plugin: Plugins = None,
) -> int:
    """List the names that suites can use, or what can be set for one of them."""
    from harness.cli.listings import LISTS, in_full

    load_plugins(plugin)

    if what not in LISTS:
        raise unknown("list", what, LISTS)
    out.print(LISTS[what]() if name is None else in_full(what, name))
    return 0
