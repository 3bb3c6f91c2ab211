"""A suite from its file to its report: plan, run, compact, write. The command and a notebook call the same
functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from harness.errors import AbsentError
from harness.events import OnEvent
from harness.running.run import Options, Outcome, check_inputs, run
from harness.running.teachers import Trained, find_teachers, take_teachers
from harness.spec import TrialSpec
from harness.store.folder import check_results_folder, nothing_left_if_refused
from harness.store.store import Store
from harness.suites.comparisons import remember_comparisons
from harness.suites.earlier import refuse_older
from harness.suites.machine import MACHINE, for_this_machine, remember_machine
from harness.suites.plan import plan
from harness.suites.suite import Suite, load_suite
from harness.tuning.options import check_block


@dataclass(frozen=True)
class Planned:
    """A suite with the trials it stands for and the store they belong to."""

    suite: Suite
    specs: list[TrialSpec]
    store: Store
    machine: Mapping[str, Any] = field(default_factory=dict)  # what the suite left to the machine, as resolved

    @property
    def trial_ids(self) -> list[str]:
        return [spec.trial_id for spec in self.specs]

    @property
    def variants(self) -> dict[str, str]:
        """What this suite calls each trial; another suite that shares the store may call it otherwise."""
        return {spec.trial_id: spec.variant for spec in self.specs}

    @property
    def datasets(self) -> dict[str, str]:
        """What this suite calls the data set of each trial."""
        return {spec.trial_id: spec.dataset.label for spec in self.specs}


def plan_suite(
    suite: str | Suite,
    *,
    results: Path | None = None,
    overrides: Sequence[str] = (),
    only: Sequence[str] = (),
    seeds: Sequence[int] = (),
    absent: list[str] | None = None,
    data_root: Path | None = None,
    download: bool = False,
) -> Planned:
    """The trials of a suite, given by name, file or object. Writes nothing. results: the store,
    `results/runs/<suite>` by default. absent: of a suite that is only looked at; notes what is not here, a line each.
    Raises InputError.

    Only `threads: auto` in a new store computes anything: a batch with one thread and with more, see
    `harness.calibration`, on the data in `data_root`, which are fetched where `download` says so.
    """
    if isinstance(suite, str):
        suite = load_suite(suite, overrides, absent)
    check_block(suite)
    root = results or Path("results") / "runs" / suite.name
    check_results_folder(root)
    measured: dict[int, float] = {}

    def count_threads(single: Suite) -> int:
        from harness.calibration import batch_seconds, best_threads

        try:
            specs = plan(single, only=only, seeds=seeds)
            measured.update(batch_seconds(specs, data_root=data_root, download=download))
        except AbsentError:
            if absent is None:
                raise
            absent.append("threads: auto is measured on the data: without them, this plan has one thread")
            return 1
        return best_threads(measured)

    resolved = for_this_machine(suite, root, count_threads)
    machine = {key: getattr(resolved, key) for key in MACHINE if getattr(suite, key) == "auto"}
    if measured:
        machine["batch_seconds_by_threads"] = measured
    return Planned(resolved, plan(resolved, only=only, seeds=seeds), Store(root), machine)


def run_suite(
    suite: str | Suite,
    *,
    results: Path | None = None,
    overrides: Sequence[str] = (),
    only: Sequence[str] = (),
    seeds: Sequence[int] = (),
    teachers_from: Path | None = None,
    options: Options | None = None,
    on_event: OnEvent = lambda event: None,
) -> Outcome:
    """Run what the store does not have yet; see `harness.running.run.run`. only: variants or methods; teachers_from: a
    store whose trained teachers are taken; options: serial, workers, address, ..."""
    options = options or Options()
    planned = plan_suite(
        suite, results=results, overrides=overrides, only=only, seeds=seeds, data_root=options.data_root,
        download=options.download,
    )  # fmt: skip
    teachers = find_teachers(planned.specs, teachers_from, planned.store) if teachers_from else []
    return run_planned(planned, options, on_event, teachers)


def run_planned(
    planned: Planned,
    options: Options,
    on_event: OnEvent,
    teachers: Sequence[Trained] = (),
) -> Outcome:
    """Run a plan. teachers: trained networks of another store to take first. InputError where the store has the plan
    from an older numerics version and `options.again` does not say that it may be made again."""
    if options.trial_timeout_s is None:
        options = replace(options, trial_timeout_s=planned.suite.time_limit_s)
    if not options.again:
        refuse_older(planned.specs, planned.store)
    for text in check_inputs(planned.specs, planned.store, options):
        on_event({"event": "warning", "text": text})
    with nothing_left_if_refused(planned.store.root):
        take_teachers(teachers, planned.store)
        planned.store.prepare()
        if planned.machine:
            remember_machine(planned.store.root, planned.machine)
        remember_comparisons(planned.suite, planned.store.root)
        return run(planned.specs, planned.store, options=options, on_event=on_event)


def load_results(root: Path | str) -> Store:
    """The results below a directory: `.trials()`, `.read("class_accuracy")` and so on are DataFrames."""
    return Store(root)
