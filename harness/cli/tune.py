"""`tune`: a search of settings, then the best against the defaults."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from harness.cli.messages import (
    conclude_tuning,
    err,
    print_tuning,
    tell,
)
from harness.cli.options import (
    Address,
    DataRoot,
    Download,
    Plugins,
    Sets,
    SuiteName,
    TeachersFrom,
    Tensorboard,
    Workers,
    check_plan,
    conclude_plan,
    load_plugins,
    path_of,
    trained_teachers,
)


def tune(
    suite: SuiteName,
    methods: Annotated[
        str | None, typer.Option("--methods", "--method", help="methods or variants of the suite, separated by commas")
    ] = None,
    space: Annotated[
        list[str] | None,
        typer.Option(
            "--space", help="'training.lr=choice(0.05,0.1)', 'absld: temperature_rate=...' for one; repeatable"
        ),
    ] = None,
    trials: Annotated[int | None, typer.Option("--trials", help="settings of every method; 20 by default")] = None,
    with_default: Annotated[
        bool | None, typer.Option("--with-default", help="the first of them is the method's own setting")
    ] = None,
    search: Annotated[str | None, typer.Option("--search", help="random (the default), grid or tpe")] = None,
    scheduler: Annotated[
        str | None, typer.Option("--scheduler", help="halving (the default), asha, median or none")
    ] = None,
    metric: Annotated[
        str | None,
        typer.Option(
            "--metric", help="selection_score (the default), val_robust_worst, _avg or _nsd, or of `list metrics`"
        ),
    ] = None,
    mode: Annotated[str | None, typer.Option("--mode", help="max or min; by the metric where not given")] = None,
    epochs: Annotated[int | None, typer.Option("--epochs", help="of a setting; the suite's by default")] = None,
    seeds: Annotated[
        int | None, typer.Option("--seeds", help="how many of a setting, side by side, none the suite's; 3 by default")
    ] = None,
    compare_seeds: Annotated[
        int | None, typer.Option("--compare-seeds", help="seeds of the comparison with the defaults; 3 by default")
    ] = None,
    no_comparison: Annotated[bool, typer.Option("--no-comparison", help="end with the search")] = False,
    grace: Annotated[int | None, typer.Option("--grace", help="epochs before a scheduler may stop a setting")] = None,
    search_seed: Annotated[int | None, typer.Option("--search-seed", help="of what is drawn; 0 by default")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="list every setting; start nothing")] = False,
    sets: Sets = None,
    results: Annotated[
        Path | None,
        typer.Option("--results", parser=path_of, help="the result store; results/runs/SUITE/tuning by default"),
    ] = None,
    workers: Workers = None,
    address: Address = None,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="run the settings again that failed")] = False,
    teachers_from: TeachersFrom = None,
    again: Annotated[
        bool, typer.Option("--again", help="make again what the store has from an older numerics version")
    ] = False,
    tensorboard: Tensorboard = None,
    data: DataRoot = None,
    download: Download = False,
    plugin: Plugins = None,
) -> int:
    """Search the settings of methods on validation images, as many tries for each, then compare each method's best with
    its defaults on test images. Every option can stand in the suite's `tune:` block."""
    from harness.tuning.plan import plan_tuning

    load_plugins(plugin)
    given = {
        "methods": methods, "space": space, "trials": trials, "with_default": with_default, "search": search,
        "scheduler": scheduler, "metric": metric, "mode": mode, "epochs": epochs, "seeds": seeds,
        "compare_seeds": 0 if no_comparison else compare_seeds, "grace": grace, "search_seed": search_seed,
    }  # fmt: skip
    tuning = plan_tuning(suite, given, overrides=sets or (), results=results)
    teachers = trained_teachers([*tuning.teachers, *tuning.bases], tuning.store, teachers_from)
    if dry_run:
        absent = check_plan([*tuning.teachers, *tuning.bases], tuning.store, data, download)
        print_tuning(tuning)
        return conclude_plan(absent)
    from harness.cli.progress import Progress
    from harness.running.run import Options
    from harness.running.scalars import scalars_in
    from harness.tuning.run import run_tuning

    options = Options(
        workers=workers, address=address, retry_failed=retry_failed, again=again, data_root=data,
        download=download,
    )  # fmt: skip
    with scalars_in(tensorboard, tell) as scalars:
        tuned = run_tuning(
            tuning, options, teachers=teachers, say=lambda text: err.print(text, soft_wrap=True),
            follow=lambda specs: Progress(specs, err), scalars=scalars,
        )  # fmt: skip
    return conclude_tuning(tuned, tuning, suite)
