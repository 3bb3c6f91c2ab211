"""Runs a list of trial specs: on Ray, on this machine or a cluster, or one after another in this process.

The result store is the truth: what it holds is skipped at every start, so running again is how a run is resumed.
"""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.agenda import Agenda
from harness.control import RunControl, StopRequest
from harness.driver import Driver, Launcher, SerialLauncher
from harness.errors import InputError
from harness.lock import StoreLock
from harness.preflight import Node, check_disk, check_probe, check_requests, fits, request_of
from harness.spec import Resources, TrialSpec
from harness.store import Store
from harness.worker import Event, Job

_CONNECT_TIMEOUT_S = 10.0
_PROBE_TIMEOUT_S = 60.0
_CAPACITY_AGE_S = 2.0
# Ray keeps its objects in shared memory. Trials exchange small events only, so the minimum will do.
_OBJECT_STORE_BYTES = 100 * 2**20
_QUIET: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # else a driver started by `uv run` makes Ray start every worker through uv
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    # what Ray prints about dead workers and nodes; the driver tells it in its own words
    "RAY_DEDUP_LOGS_SKIP_REGEX": "A worker died or was killed|The node with node id|Raylet is terminated|killed due to",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",
}


@dataclass(frozen=True)
class Options:
    """How to run. Nothing here changes a result, so nothing of it is part of a trial's identity.

    workers: at most so many trials at once. address: of a Ray cluster, HOST:PORT or `auto`; a local Ray where neither
    it nor RAY_ADDRESS is given. retry_failed: run trials again that the store holds as failed. trial_timeout_s: a trial
    that runs longer is stored as failed. plugins: method files that workers run first. run_trial: `module:function`.
    """

    serial: bool = False
    workers: int | None = None
    address: str | None = None
    retry_failed: bool = False
    data_root: Path | None = None
    download: bool = False
    trial_timeout_s: float | None = None
    plugins: tuple[str, ...] = ()
    run_trial: str = "harness.trial:run_trial"
    minimum_free_bytes: int = 200 * 2**20


@dataclass(frozen=True)
class Outcome:
    """What became of each trial, by id. skipped: the store had them. failed, blocked: with the reason in one line.

    stop_reason: why the run ended early (`SIGINT`, `SIGTERM`, or a sentence), None if it did not.
    """

    done: list[str]
    skipped: list[str]
    failed: dict[str, str]
    blocked: dict[str, str]
    interrupted: list[str]
    stop_reason: str | None = None

    @property
    def exit_code(self) -> int:
        """0: everything is there. 130: stopped by a signal. 1: something failed."""
        if self.stop_reason in ("SIGINT", "SIGTERM"):
            return 130
        return 1 if self.failed or self.blocked or self.interrupted else 0


def run(
    specs: Sequence[TrialSpec],
    store: Store,
    *,
    options: Options | None = None,
    on_event: Callable[[Event], None] = lambda event: None,
) -> Outcome:
    """Runs what the store does not have yet and returns when every trial is settled.

    A failing trial is a row in the store, and the others go on. on_event: told of everything that happens, see
    `harness.progress`. SIGINT and SIGTERM let trials save their state and end the run within half a minute; a second
    one ends it at once. Raises InputError for what cannot be run here.
    """
    options = options or Options()
    if options.workers is not None and options.workers < 1:
        raise InputError(f"workers must be at least 1, not {options.workers}")
    store.prepare()
    with StoreLock(store.root) as lock:
        store.remove_leftovers()
        statuses = store.statuses()
        agenda = Agenda(specs, statuses, {} if options.retry_failed else _stored_failures(store, statuses))
        on_event({"event": "plan", "trials": len(agenda.specs), "skipped": list(agenda.skipped)})
        for name, reason in {**agenda.failed, **agenda.blocked}.items():
            on_event({"event": "blocked" if name in agenda.blocked else "failed", "trial_id": name, "error": reason})
        stop_reason = None
        if agenda.is_open:
            check_disk(store.root, options.minimum_free_bytes)
            for name in agenda.waiting:
                if statuses.get(name) == "failed":
                    store.reset_attempts(name)
            backend = _here if options.serial else _on_ray
            with backend(store.root.resolve(), [agenda.specs[name] for name in agenda.waiting], options) as parts:
                launcher, request = parts
                driver = Driver(
                    agenda,
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
            store.remove_leftovers()
    return Outcome(agenda.done, agenda.skipped, agenda.failed, agenda.blocked, agenda.interrupted, stop_reason)


def _stored_failures(store: Store, statuses: Mapping[str, str]) -> dict[str, str]:
    """The trials that failed in an earlier run, with the first line of their error."""
    names = [name for name, status in statuses.items() if status == "failed"]
    if not names:
        return {}
    rows = store.read("trials", names, ["error"])
    errors = dict(zip(rows["trial_id"], rows["error"], strict=True))
    return {name: f"failed in an earlier run: {str(errors.get(name) or 'unknown').splitlines()[0]}" for name in names}


Parts = tuple[Launcher, StopRequest]


@contextmanager
def _here(root: Path, specs: Sequence[TrialSpec], options: Options) -> Iterator[Parts]:
    def make_job(spec: TrialSpec) -> Job:
        # the caller has loaded the plugins in this process; the stop signal is asked directly, not through a file
        return Job(spec, root, "", "", options.run_trial, options.data_root, options.download)

    with StopRequest() as stop_request:
        yield SerialLauncher(make_job, stop_request, options.trial_timeout_s), stop_request


@contextmanager
def _on_ray(root: Path, specs: Sequence[TrialSpec], options: Options) -> Iterator[Parts]:
    with connected(options.address):
        control = RunControl(root)
        try:
            _preflight(specs, control, root)
            with StopRequest() as stop_request:  # after Ray has set a handler of its own
                yield RayLauncher(root, control, options), stop_request
        finally:
            control.close()


# Ray


@contextmanager
def connected(address: str | None = None, **local: Any) -> Iterator[None]:
    """Inside, Ray is there: the session that this process has already, else the cluster at `address`, else a local one.

    local: arguments of `ray.init` for a local Ray, such as num_cpus. What was started here is shut down on leaving.
    """
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    import ray

    if ray.is_initialized():
        yield
        return
    # Never Ray's own default: it follows a file that a killed cluster leaves behind.
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    if address == "local":
        _start(include_dashboard=False, object_store_memory=_OBJECT_STORE_BYTES, **local)
    else:
        _check_address(address)
        _join(address)
    try:
        yield
    finally:
        ray.shutdown()


def _start(**options: Any) -> None:
    import ray

    try:
        ray.init("local", **_QUIET, **options)
    except Exception:  # Ray gives its own processes half a minute to start, which a very busy machine may exceed
        ray.shutdown()
        try:
            ray.init("local", **_QUIET, **options)
        except Exception as error:
            reason = " ".join(str(error).split())
            raise InputError(f"cannot start Ray on this machine: {reason}; --serial runs without it") from error


def _join(address: str) -> None:
    import ray

    try:
        ray.init(address, **_QUIET)
    except Exception as error:  # many kinds, down to Exception itself
        reason = " ".join(str(error).split())
        hint = "if the cluster uses token authentication, set RAY_AUTH_MODE=token"
        raise InputError(f"cannot join the Ray cluster at '{address}': {reason}; {hint}") from error


def _check_address(address: str) -> None:
    """Ray itself takes minutes to find out that nobody answers at an address, and then ends the process."""
    if "://" in address:
        raise InputError(
            f"address '{address}': give HOST:PORT or auto; a driver must run inside its cluster (ray job submit)"
        )
    if address == "auto":
        address = _address_on_file() or ""
        if not address:
            return  # Ray looks for running processes, and says if it finds none
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_TIMEOUT_S).close()
    except (OSError, ValueError) as error:
        raise InputError(
            f"no Ray cluster answers at '{address}' ({error}); start one with: ray start --head"
        ) from error


def _address_on_file() -> str | None:
    """What `auto` means on this machine."""
    try:
        from ray._private.utils import read_ray_address  # Ray has no public name for it
    except ImportError:
        return None
    return os.environ.get("RAY_ADDRESS", "auto").replace("auto", "") or read_ray_address()


def _nodes() -> list[Node]:
    import ray

    alive = [node for node in ray.nodes() if node["Alive"]]
    return [Node(node["NodeID"], node["NodeManagerHostname"], node["Resources"]) for node in alive]


def _preflight(specs: Sequence[TrialSpec], control: RunControl, root: Path) -> None:
    """Every request fits somewhere, and every node that could run a trial passes the probe."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    nodes = _nodes()
    check_requests(specs, nodes)
    requests = [request_of(spec.resources) for spec in specs]
    usable = [node for node in nodes if any(fits(request, node.resources) for request in requests)]
    task = ray.remote(num_cpus=0, max_retries=0)(_probe_task())
    answers = {
        task.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node.node_id, soft=False)).remote(
            _search_path(), str(control.path), control.nonce
        ): node
        for node in usable
    }
    ready, missing = ray.wait(list(answers), num_returns=len(answers), timeout=_PROBE_TIMEOUT_S)
    if missing:
        hosts = ", ".join(sorted({answers[answer].host for answer in missing}))
        raise InputError(f"no answer within {_PROBE_TIMEOUT_S:.0f} s from {hosts}")
    for answer in ready:
        try:
            found = ray.get(answer)
        except ray.exceptions.RayError as error:
            reason = " ".join(str(getattr(error, "cause", None) or error).split())
            raise InputError(f"node {answers[answer].host} cannot run trials: {reason}") from error
        check_probe(found, root, ray.__version__)


def _search_path() -> list[str]:
    """Where this process finds its packages, for workers that were started elsewhere."""
    return [os.path.abspath(entry) for entry in sys.path]


# The two functions that Ray runs are made inside functions, so that they travel by value: a worker can run them before
# it knows where this package is.


def _probe_task() -> Callable[..., dict[str, Any]]:
    def answer(search_path: list[str], control: str, nonce: str) -> dict[str, Any]:
        import sys

        import ray

        sys.path[:0] = [entry for entry in search_path if entry not in sys.path]
        from harness.preflight import probe

        return probe(control, nonce, ray.__version__)

    return answer


def _trial_task() -> Callable[..., Iterator[Event]]:
    def trial(search_path: list[str], pickled_job: bytes) -> Iterator[Event]:
        import pickle
        import sys

        import ray

        sys.path[:0] = [entry for entry in search_path if entry not in sys.path]
        from harness.worker import prepare_process, trial_events

        job = pickle.loads(pickled_job)
        prepare_process(job.spec)
        yield from trial_events(job, place=ray.get_runtime_context().get_node_id())

    return trial


class RayLauncher:
    """Trials as Ray tasks that stream their events. Ray never retries: that is the driver's decision.

    Only as much is submitted as the cluster can run at once: Ray's own queue knows no priorities, so what waits in it
    would overtake longer trials.
    """

    def __init__(self, root: Path, control: RunControl, options: Options) -> None:
        import ray

        self._ray = ray
        self._root, self._control, self._options = root, control, options
        # Ray hands a worker process from task to task. On a GPU that would keep memory and a CUDA context, so there
        # every trial gets a process of its own.
        self._on_cpu = ray.remote(_trial_task())
        self._on_gpu = ray.remote(max_calls=1)(_trial_task())
        self._live: dict[Any, tuple[str, dict[str, float]]] = {}
        self._capacity: dict[str, float] = {}
        self._capacity_at = float("-inf")

    def has_room(self, resources: Resources) -> bool:
        if time.monotonic() - self._capacity_at > _CAPACITY_AGE_S:
            self._capacity, self._capacity_at = self._ray.cluster_resources(), time.monotonic()
        left = dict(self._capacity)
        for _, request in self._live.values():
            for name, amount in request.items():
                left[name] = left.get(name, 0.0) - amount
        return fits(request_of(resources), left)

    def start(self, spec: TrialSpec, resources: Resources) -> None:
        import pickle

        options = self._options
        job = Job(
            spec.model_copy(update={"resources": resources}),
            self._root,
            str(self._control.path),
            self._control.nonce,
            options.run_trial,
            options.data_root,
            options.download,
            options.plugins,
        )
        task = self._on_gpu if resources.gpu else self._on_cpu
        stream = task.options(
            num_returns="streaming",
            max_retries=0,
            num_cpus=resources.cpu,
            num_gpus=resources.gpu,
            resources=resources.custom or None,
            name=f"trial {spec.trial_id}",
        ).remote(_search_path(), pickle.dumps(job))
        self._live[stream] = (spec.trial_id, request_of(resources))

    def poll(self, timeout: float) -> Iterator[Event]:
        wait, streams = self._ray.wait, list(self._live)
        if wait(streams, num_returns=1, timeout=timeout, fetch_local=False)[0]:
            for stream in wait(streams, num_returns=len(streams), timeout=0, fetch_local=False)[0]:
                yield self._next(stream)

    def _next(self, stream: Any) -> Event:
        name, _ = self._live[stream]
        try:
            return self._ray.get(next(stream))
        except StopIteration:
            event = {"event": "end", "trial_id": name}
        except self._ray.exceptions.RayError as error:
            event = {"event": "lost", "trial_id": name, "error": _one_line(error)}
        del self._live[stream]
        return event

    def stop(self) -> None:
        self._control.stop()

    def kill(self, trial_id: str) -> None:
        for stream, (name, _) in self._live.items():
            if name == trial_id:
                self._ray.cancel(stream, force=True)


def _one_line(error: BaseException) -> str:
    """Ray's first sentence; the rest is advice about Ray."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:300]
