"""Runs a list of trial specs: on Ray, on this machine or a cluster, or one after another in this process.

The result store is the truth: what it holds is skipped at every start, so running again is how a run is resumed.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from harness.data.registry import DATASETS
from harness.engine.gpu import gpus_here
from harness.errors import ExitCode, InputError, kind_of
from harness.events import OnEvent
from harness.models.registry import model_info
from harness.running.checks import check_disk, check_gpus, check_threads
from harness.running.driver import Driver
from harness.running.launchers import Launcher, SerialLauncher
from harness.running.on_ray import RayLauncher, connected, preflight
from harness.running.stopping import RunControl, StopRequest, by_signal
from harness.running.trial_queue import TrialQueue
from harness.running.worker import Job, Workplace
from harness.spec import SELECTED, TrialSpec
from harness.store.compaction import compact
from harness.store.folder import nothing_left_if_refused
from harness.store.lock import StoreLock
from harness.store.manifest import check_parts
from harness.store.redo import set_aside
from harness.store.store import Store
from harness.store.work import WorkingFolder
from harness.training.teacher_logits import shared_bytes, sharing

COMPACT_FROM = 64  # finished trials in files of their own; fewer stay as they are: one file per trial, easy to look at


@dataclass(frozen=True)
class Options:
    """How to run. Nothing here changes a result, so nothing of it is part of a trial's identity.

    workers: at most so many trials at once. address: of a Ray cluster, HOST:PORT or `auto`; a local Ray where neither
    it nor RAY_ADDRESS is given. retry_failed: run trials again that the store holds as failed. again: run what the
    store has from an older numerics version. redo: ids of trials to make again; what the store has of them is set
    aside. trial_timeout_s: a trial that runs longer is stored as failed.
    run_trial, help_trial: `module:function`, the trial and what helps it with its evaluation. InputError for fewer than
    one worker.
    """

    serial: bool = False
    workers: int | None = None
    address: str | None = None
    retry_failed: bool = False
    again: bool = False
    redo: tuple[str, ...] = ()
    data_root: Path | None = None
    download: bool = False
    trial_timeout_s: float | None = None
    run_trial: str = "harness.trial:run_trial"
    help_trial: str = "harness.trial:help_trial"
    minimum_free_bytes: int = 200 * 2**20

    def __post_init__(self) -> None:
        if self.workers is not None and self.workers < 1:
            raise InputError(f"workers must be at least 1, not {self.workers}")

    def workplace(self, control: RunControl) -> Workplace:
        """What the workers of a run need to know."""
        return Workplace(control.root, str(control.path), control.nonce, self.data_root, self.download)


@dataclass(frozen=True)
class Outcome:
    """What became of each trial, by id. skipped: the store had them. failed, blocked: with the reason in one line.

    stop_reason: why the run ended early (`SIGINT`, `SIGTERM`, `SIGHUP`, or a sentence), None if it did not.
    """

    done: list[str]
    skipped: list[str]
    failed: dict[str, str]
    blocked: dict[str, str]
    interrupted: list[str]
    stop_reason: str | None = None

    @property
    def exit_code(self) -> ExitCode:
        """Whether everything is there, or a signal stopped it, or something failed."""
        if by_signal(self.stop_reason):
            return ExitCode.INTERRUPTED
        return ExitCode.INCOMPLETE if self.failed or self.blocked or self.interrupted else ExitCode.DONE


def run(
    specs: Sequence[TrialSpec],
    store: Store,
    *,
    options: Options | None = None,
    on_event: OnEvent = lambda event: None,
    wanted: Collection[str] = (),
) -> Outcome:
    """Runs what the store does not have yet and returns when every trial is settled.

    A failing trial is a row in the store, and the others go on. on_event: told of everything that happens, see
    `harness.events`. SIGINT, SIGTERM and SIGHUP let trials save their state and end the run within half a
    minute; a second one ends it at once. wanted: ids of trials whose networks somebody else will learn from. Raises
    InputError for what cannot be run here.
    """
    options = options or Options()
    with nothing_left_if_refused(store.root), StoreLock(store.prepare().root) as lock:
        store.remove_leftovers()
        check_parts(store.root)
        if options.redo:
            where = set_aside(store, [spec for spec in specs if spec.trial_id in options.redo])
            on_event({"event": "set_aside", "where": str(where or "")})
        _set_damaged_teachers_aside(specs, store, wanted, options.retry_failed, on_event)
        statuses = store.statuses()
        queue = TrialQueue(specs, statuses, {} if options.retry_failed else _stored_failures(store, statuses))
        waiting = [queue.specs[name] for name in queue.waiting]
        shared = shared_bytes(waiting)
        trained = [spec.trial_id for spec in waiting if spec.training and _is_trained(store, spec)]
        on_event({
            "event": "plan", "trials": len(queue.specs), "skipped": list(queue.skipped), "trained": trained,
            "shared_bytes": shared,
        })  # fmt: skip
        for name, reason in queue.failed.items():
            on_event({"event": "failed", "trial_id": name, "error": reason})
        for name, reason in queue.blocked.items():
            on_event({"event": "blocked", "trial_id": name, "error": reason})
        stop_reason = None
        if queue.is_open:
            check_disk(store.root, options.minimum_free_bytes + shared)
            for name in queue.waiting:
                if statuses.get(name) == "failed":
                    store.reset_attempts(name)
            backend = _here if options.serial else _on_ray
            with (
                sharing(store.root, waiting),
                backend(store.root.resolve(), waiting, options) as parts,
            ):
                launcher, request = parts
                driver = Driver(
                    queue,
                    launcher,
                    store,
                    on_event,
                    request,
                    lambda: lock.lost,
                    options.workers,
                    options.trial_timeout_s,
                )
                driver.run()
            stop_reason = driver.stop_reason
            for name in queue.done:  # a helper may have been at work when its trial cleared up
                WorkingFolder(store.root, queue.specs[name].training_id).forget_evaluation()
            store.remove_leftovers()
        if stop_reason is None and not lock.lost:
            _compact(store)
    return Outcome(queue.done, queue.skipped, queue.failed, queue.blocked, queue.interrupted, stop_reason)


def _is_trained(store: Store, spec: TrialSpec) -> bool:
    return not WorkingFolder(store.root, spec.training_id).lacks(spec.evaluation.checkpoints)


def has_network(store: Store, spec: TrialSpec) -> bool:
    """Whether others can learn from the network of a finished trial: its weights are there, and whole."""
    return WorkingFolder(store.root, spec.training_id).has_as_noted(SELECTED)


def _set_damaged_teachers_aside(
    specs: Sequence[TrialSpec], store: Store, wanted: Collection[str], retry_failed: bool, on_event: OnEvent
) -> None:
    """Finished teachers (and networks to start from) whose weights are damaged or gone, and that are `wanted` or needed
    by trials still to run, are trained again by this run. InputError where finished students learnt from them."""
    statuses = store.statuses()
    settled = ("done",) if retry_failed else ("done", "failed")
    left = [spec for spec in specs if statuses.get(spec.trial_id) not in settled]
    needed = set(wanted).union(*(spec.depends_on for spec in left))
    finished = [spec for spec in specs if spec.trial_id in needed and statuses.get(spec.trial_id) == "done"]
    for spec in finished:
        if has_network(store, spec):
            continue
        try:
            where = set_aside(store, [spec])
        except InputError as error:
            raise InputError(
                f"the weights of {spec.variant} ({spec.trial_id[:8]}) are damaged or gone; {error}"
            ) from error
        text = f"{spec.variant} ({spec.trial_id[:8]}): its weights are damaged; it is trained again"
        on_event({"event": "warning", "text": text})
        on_event({"event": "set_aside", "where": str(where or "")})


def _stored_failures(store: Store, statuses: Mapping[str, str]) -> dict[str, str]:
    """The trials that failed in an earlier run, with the first line of their error."""
    names = [name for name, status in statuses.items() if status == "failed"]
    if not names:
        return {}
    rows = store.read("trials", names, ["error"])
    errors = dict(zip(rows["trial_id"], rows["error"], strict=True))
    return {name: f"failed in an earlier run: {str(errors.get(name) or 'unknown').splitlines()[0]}" for name in names}


def _compact(store: Store) -> None:
    """Joins the files of finished trials where there are many."""
    finished = sum(status == "done" for status in store.statuses().values())
    if finished - len(store.compacted()) < COMPACT_FROM:
        return
    try:
        compact(store)
    except OSError as error:
        if kind_of(error) != "disk":
            raise  # without room for the joined files the single ones stay, and nothing is lost


Parts = tuple[Launcher, StopRequest]


@contextmanager
def _here(root: Path, specs: Sequence[TrialSpec], options: Options) -> Iterator[Parts]:
    # the stop signal is asked directly, not through a file
    workplace = Workplace(root, data_root=options.data_root, download=options.download)

    def make_job(spec: TrialSpec) -> Job:
        return Job(spec, workplace, options.run_trial)

    for spec in specs:
        check_threads(spec, os.cpu_count() or 1, "this machine")
    if any(spec.resources.gpu for spec in specs):
        check_gpus(specs, gpus_here(), "this machine")
    with StopRequest() as stop_request:
        yield SerialLauncher(make_job, stop_request, options.trial_timeout_s), stop_request


@contextmanager
def _on_ray(root: Path, specs: Sequence[TrialSpec], options: Options) -> Iterator[Parts]:
    with connected(options.address):
        control = RunControl(root)
        workplace = options.workplace(control)

        def make_job(spec: TrialSpec, helper: str) -> Job:
            return Job(spec, workplace, options.help_trial if helper else options.run_trial, helper)

        try:
            preflight(specs, control, root)
            with StopRequest() as stop_request:  # after Ray has set a handler of its own
                yield RayLauncher(make_job, control), stop_request
        finally:
            control.close()


def check_inputs(
    specs: Sequence[TrialSpec], store: Store, options: Options, *, absent: list[str] | None = None
) -> list[str]:
    """Read every data set and checkpoint file that the trials still to run name, once, before anything is written.
    What is odd about the data sets; raises InputError. absent: notes what is not there, see `check_readable`.

    Only embedded data and this package's own code need no look; for anything else torch is imported here, which a run
    can afford.
    """
    stored = store.statuses()
    specs = [spec for spec in specs if stored.get(spec.trial_id) != "done" or spec.trial_id in options.redo]
    if not any(_needs_a_look(spec) for spec in specs):
        return []
    from harness.inputs import check_readable

    return check_readable(specs, options.data_root, options.download, absent=absent)


def _needs_a_look(spec: TrialSpec) -> bool:
    foreign = bool(spec.code) or any(model_info(network.name).foreign for network in spec.networks)
    return foreign or not DATASETS[spec.dataset.name].embedded or any(source.file for source in spec.sources)
