"""A search with Ray Tune: which settings, and how far each is trained. Nothing of what Ray keeps is needed again.

The store has the epochs, the journal has the decisions, and a search that goes on starts a new Ray Tune run, in which
what is there already is reported again at once.
"""

from __future__ import annotations

import gc
import itertools
import logging
import os
import pickle
import shutil
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from harness.errors import MACHINE_FAULTS, InputError, kind_of
from harness.running.checks import check_disk, request_of
from harness.running.on_ray import Health, connected, preflight, search_path
from harness.running.run import Options
from harness.running.scalars import Scalars
from harness.running.stopping import RunControl, StopRequest
from harness.store.lock import StoreLock
from harness.training.teacher_logits import sharing
from harness.tuning.halving import REDUCTION
from harness.tuning.journal import SETTLED, Journal, setting_of
from harness.tuning.listener import Listener, Say
from harness.tuning.plan import TuningPlan
from harness.tuning.setting import SettingJob
from harness.tuning.space import Choice, Domain, Setting, Uniform, Whole

_CRASHES = 3  # restarts of one setting whose process died
_QUIET = {
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # signals are ours: trials save their state first
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # a setting told to stop may end without a report
    "TUNE_GLOBAL_CHECKPOINT_S": "86400",  # Ray's own record of the search is never read
    "TUNE_STATE_REFRESH_PERIOD": "86400",  # nor what the cluster has, which is asked of a head that may be silent
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
}


def run_search(
    tuning: TuningPlan, options: Options, *, say: Say = lambda text: None, scalars: Scalars | None = None
) -> str | None:
    """Run the settings that are still open; returns why it ended early (`SIGINT`, `SIGTERM`, a sentence), else None.

    The teachers must be in the store. say: told of each settled setting in a line. Raises InputError for what cannot
    be run here.
    """
    store = tuning.store.prepare()
    with StoreLock(store.root) as lock:
        journal = Journal(tuning.folder)
        if options.retry_failed:
            journal.forget_failures()
        if journal.is_settled(tuning.tries):
            return None
        store.remove_leftovers()
        check_disk(store.root, options.minimum_free_bytes)
        journal.begin(tuning.facts, tuning.settings)
        # all settings of a seed ask the same
        with connected(options.address), sharing(store.root, tuning.bases * 2):
            return _search(tuning, options, Listener(tuning, journal, lambda: lock.lost, say, scalars))


def _search(tuning: TuningPlan, options: Options, listener: Listener) -> str | None:
    root = tuning.store.root.resolve()
    control = RunControl(root)
    try:
        preflight(tuning.bases, control, root)
        with (
            StopRequest() as request,
            _ray_folder(tuning.folder, root) as folder,
        ):  # after Ray has set a handler of its own
            listener.heed(request, control, Health().trouble)
            try:
                for leg in _legs(tuning, listener.journal):
                    if listener.stop_reason is None:
                        _fit(tuning, options, listener, folder, leg)
            except KeyboardInterrupt:  # the second signal, or Ray is lost
                gc.freeze()  # what Ray Tune leaves would ask Ray something as it is collected, and wait for ever
                listener.stop_reason = listener.stop_reason or request.signal_name or "SIGINT"
    finally:
        control.close()
        listener.save()
    return listener.stop_reason


def needs_optuna(tuning: TuningPlan) -> None:
    """InputError where the search needs optuna and it is not installed."""
    if tuning.options.search == "tpe" and find_spec("optuna") is None:
        raise InputError("search tpe needs optuna: pip install 'robust-fairness-bench[tune]', or pip install optuna")


@dataclass(frozen=True)
class _Leg:
    """One run of Ray Tune: some settings, to an epoch; or those of a method that a searcher proposes."""

    until: int
    settings: list[Setting]
    method: str | None = None


def _legs(tuning: TuningPlan, journal: Journal) -> Iterator[_Leg]:
    """The parts of a search, one after the other: Ray's schedulers and searchers compare all they see, so they see a
    method at a time; halving goes from rung to rung with all of them, as no cut is made before all are there."""
    options = tuning.options
    if options.search == "tpe":
        yield from (_Leg(tuning.epochs, [], name) for name in tuning.searched)
    elif options.scheduler in ("asha", "median"):
        for name in tuning.searched:
            yield _Leg(tuning.epochs, [setting for setting in tuning.settings if setting.method == name])
    else:
        for until in [*tuning.rungs, tuning.epochs]:
            entries = [(setting, journal.entry(setting)) for setting in tuning.settings]
            ahead = (
                tuning.epochs if until == tuning.epochs else until - 1
            )  # at the end also those that only have to end
            left = [setting for setting, entry in entries if entry["status"] == "open" and entry["epochs"] <= ahead]
            yield _Leg(until, left)


def _fit(tuning: TuningPlan, options: Options, listener: Listener, folder: Path, leg: _Leg) -> None:
    """Run a part of the search, and cut what does not go on from there."""
    listener.until = leg.until
    if leg.settings or leg.method:
        _run_ray(tuning, options, listener, folder, leg)
    if leg.until in tuning.rungs and listener.stop_reason is None:
        listener.cut(leg.until)


def _run_ray(tuning: TuningPlan, options: Options, listener: Listener, folder: Path, leg: _Leg) -> None:
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    from ray import tune

    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # tracebacks of what the listener tells in a line
    resources = tuning.bases[0].resources
    bundle = tune.PlacementGroupFactory([request_of(resources)])
    settled = {setting_of(each).key: each for each in listener.journal.entries if each["status"] in SETTLED}
    job = SettingJob(
        options.workplace(listener.control), tuning.searched, leg.until, tuning.options.metric,
        tuning.options.direction, tuning.tuning_id, settled,
    )  # fmt: skip
    space, searcher, count = _searcher(tuning, listener.journal, leg)
    trainable = _trainable(pickle.dumps(tuning.bases[0]), pickle.dumps(job))
    watch = _watch(listener)
    tune.Tuner(
        tune.with_resources(trainable, bundle),
        param_space=space,
        tune_config=tune.TuneConfig(
            metric="objective", mode=tuning.options.direction, search_alg=searcher, scheduler=_scheduler(tuning),
            num_samples=count, max_concurrent_trials=options.workers,
            reuse_actors=not resources.gpu,  # on a GPU a process that is used again would keep its memory
            trial_dirname_creator=lambda trial: trial.trial_id,
        ),
        run_config=tune.RunConfig(
            name=uuid.uuid4().hex[:8], storage_path=str(folder), callbacks=[watch], stop=watch, verbose=0,
            failure_config=tune.FailureConfig(max_failures=_CRASHES - 1),
        ),
    ).fit()  # fmt: skip


def _searcher(tuning: TuningPlan, journal: Journal, leg: _Leg) -> tuple[dict[str, Any], Any, int]:
    """What varies in Ray's words, its search algorithm, and how many samples to take."""
    from ray import tune

    if leg.method is None:
        return {"setting": tune.grid_search([setting._asdict() for setting in leg.settings])}, None, 1
    import optuna
    from ray.tune.search.optuna import OptunaSearch

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    space, options = tuning.searched[leg.method].space, tuning.options
    earlier = [entry["values"] for entry in journal.first({leg.method: tuning.trials})]
    points = [{key: space[key].encode(value) for key, value in values.items()} for values in earlier]
    # Given points use up no random numbers: with the same seed the first new ones would repeat the first old ones.
    searcher = OptunaSearch(points_to_evaluate=points or None, seed=options.search_seed + len(points))
    domains = {key: _ray_domain(domain) for key, domain in space.items()}
    return {**domains, "method": leg.method}, searcher, tuning.trials


def _ray_domain(domain: Domain) -> Any:
    from ray import tune

    if isinstance(domain, Choice):
        return tune.choice(list(range(len(domain.choices))))
    if isinstance(domain, Whole):
        return tune.randint(domain.low, domain.high + 1)
    assert isinstance(domain, Uniform)
    return (tune.loguniform if domain.logarithmic else tune.uniform)(domain.low, domain.high)


def _scheduler(tuning: TuningPlan) -> Any:
    from ray.tune import schedulers

    time_attr, grace = "training_iteration", tuning.grace
    if tuning.options.scheduler == "asha":
        return schedulers.ASHAScheduler(
            time_attr=time_attr, max_t=tuning.epochs, grace_period=grace, reduction_factor=REDUCTION
        )
    if tuning.options.scheduler == "median":
        return schedulers.MedianStoppingRule(
            time_attr=time_attr, grace_period=grace, min_samples_required=3,
            min_time_slice=10**9,  # else it pauses settings, and a pause means another process
        )  # fmt: skip
    return schedulers.FIFOScheduler()


def _trainable(pickled_spec: bytes, pickled_job: bytes) -> Callable[..., None]:
    """What Ray runs, made inside a function so that it travels by value: see `harness.running.on_ray`."""
    paths = search_path()

    def setting(config: dict[str, Any]) -> None:
        import pickle

        from ray import tune

        sys.path[:0] = [entry for entry in paths if entry not in sys.path]
        from harness.engine.process import prepare_process

        prepare_process(pickle.loads(pickled_spec))  # before the job, which brings torch
        job = pickle.loads(pickled_job)
        from harness.tuning.plan import proposed
        from harness.tuning.setting import setting_reports

        told = False
        for report in setting_reports(job, proposed(config, job.searched)):
            tune.report(report)
            told = True
        if not told:
            tune.report({"interrupted": True})  # Ray prints a line about each that ends without a report

    return setting


def _watch(listener: Listener) -> Any:
    """The listener as Ray Tune sees it: one object that is told of trials and asked when to end."""
    from ray import tune

    class Watch(tune.Callback, tune.Stopper):
        listener: Listener

        def __getstate__(self) -> dict[str, Any]:
            return {}  # Ray writes its callbacks to a file that nobody reads

        def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
            return False

        def stop_all(self) -> bool:
            return self.listener.should_end()

        def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            self.listener.started(trial.trial_id, trial.config)

        def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: Any, **info: Any) -> None:
            self.listener.reported(trial.trial_id, result)

        def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            self.listener.ended(trial.trial_id)

        def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            error = trial.get_pickled_error()
            error = getattr(error, "cause", error)  # Ray wraps what a worker raised
            if error is not None and kind_of(error) in MACHINE_FAULTS:
                self.listener.unfit(trial.trial_id, " ".join(str(error).split()))
            else:
                self.listener.ended(trial.trial_id, f"the process of the setting died {_CRASHES} times")

    watch = Watch()
    watch.listener = listener  # not through the class, which is written as a whole
    return watch


@contextmanager
def _ray_folder(folder: Path, root: Path) -> Iterator[Path]:
    """Where Ray Tune keeps its files: beside the results, where every node can write, and only as long as it runs. If
    the results at `root` were moved meanwhile, nothing is left at their old place."""
    for old in folder.glob("ray-*.tmp"):
        shutil.rmtree(old, ignore_errors=True)
    path = folder.resolve() / f"ray-{uuid.uuid4().hex[:8]}.tmp"
    path.mkdir()
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        for parent in itertools.takewhile(lambda each: each != root.parent, path.parents):
            with suppress(OSError):  # not empty, as it should be
                parent.rmdir()
