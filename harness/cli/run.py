"""`run`: a suite, from its plan to its report."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from harness.cli.messages import (
    conclude,
    err,
    print_calibration,
    print_trials,
    report_store,
    say_unused_gpu,
    states_of,
    tell,
)
from harness.cli.options import (
    Address,
    DataRoot,
    Download,
    Methods,
    Plugins,
    Results,
    Seeds,
    Serial,
    Sets,
    SuiteName,
    TeachersFrom,
    Tensorboard,
    Workers,
    check_plan,
    conclude_plan,
    coordinates,
    path_of,
    planned_suite,
    trained_teachers,
)
from harness.errors import AbsentError, InputError


def run(
    suite: SuiteName,
    sets: Sets = None,
    methods: Methods = None,
    seeds: Seeds = None,
    results: Results = None,
    workers: Workers = None,
    address: Address = None,
    serial: Serial = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="list every trial with its id, role and status; start nothing")
    ] = False,
    calibrate: Annotated[
        bool, typer.Option("--calibrate", help="with --dry-run: measure some batches here and estimate the time")
    ] = False,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="run the trials again that failed")] = False,
    teachers_from: TeachersFrom = None,
    into: Annotated[
        Path | None,
        typer.Option(
            "--into", parser=path_of, help="add to this result store, such as a published one, with its own teachers"
        ),
    ] = None,
    again: Annotated[
        bool, typer.Option("--again", help="make again what the store has from an older numerics version")
    ] = False,
    redo: Annotated[
        list[str] | None,
        typer.Option(
            "--redo", help="make these again: a variant, or the beginning of a trial's id; what there is, is set aside"
        ),
    ] = None,
    tensorboard: Tensorboard = None,
    data: DataRoot = None,
    download: Download = False,
    plugin: Plugins = None,
) -> int:
    """Run a suite: what the store has is skipped, so running it again goes on where it stopped."""
    if calibrate and not dry_run:
        raise InputError("--calibrate goes with --dry-run")
    if into is not None and (results is not None or teachers_from is not None):
        raise InputError("--into is the store and where its teachers are: it stands for --results and --teachers-from")
    from harness.store.redo import named_trials, refuse_left_behind

    results, teachers_from = into or results, into or teachers_from
    absent: list[str] | None = [] if dry_run else None
    planned = planned_suite(suite, sets, methods, seeds, results, plugin, absent, data, download)
    if "gpu" not in planned.suite.resources.model_fields_set:
        say_unused_gpu("--set resources.gpu=1, or 0.5 for two trials on it; in a suite also `resources: {gpu: auto}`")
    teachers = trained_teachers(planned.specs, planned.store, teachers_from)
    redone = named_trials(planned.specs, redo or ())
    if absent is not None:
        absent += check_plan(planned.specs, planned.store, data, download, tuple(redone))
        refuse_left_behind(planned.store, [spec for spec in planned.specs if spec.trial_id in redone])
        states = states_of(planned) | dict.fromkeys(redone, ("again", "what there is, is set aside"))
        print_trials(planned, states)
        if calibrate:
            left = [spec for spec in planned.specs if states[spec.trial_id][0] != "done"]
            with suppress(AbsentError):  # which is told next
                print_calibration(left, planned.store, data, download, redone)
        return conclude_plan(absent)
    from harness.api import run_planned
    from harness.cli.progress import Progress
    from harness.report.results import read_results
    from harness.running.run import Options
    from harness.running.scalars import scalars_in

    options = Options(
        serial=serial, workers=workers, address=address, retry_failed=retry_failed, again=again, redo=tuple(redone),
        data_root=data, download=download,
    )  # fmt: skip
    shown = Progress(planned.specs, err, store_root=planned.store.root)
    with scalars_in(tensorboard, tell) as scalars, shown as progress:
        on_event = scalars.of_trials(planned.specs, progress) if scalars else progress
        outcome = run_planned(planned, options, on_event, teachers)
    try:
        if outcome.stop_reason is None:  # a report of thousands of trials takes longer than a stop may
            report_store(planned.store, read_results(planned.store, **coordinates(planned)))
    finally:
        code = conclude(outcome, planned, suite, results, " but --redo" if redone else "")
    return code
