"""Ray: connecting to it, looking at its nodes before a run, and running trials as its tasks."""

from __future__ import annotations

import importlib
import os
import pickle
import secrets
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from harness.engine.gpu import ANSWER_TIMEOUT_S
from harness.errors import InputError
from harness.events import TaskEvent
from harness.running.checks import Node, check_gpus, check_probe, check_requests, fits, request_of
from harness.running.head import SILENCE_S, Head, check_address
from harness.running.session import session_folder
from harness.running.stopping import RunControl, StopRequest
from harness.running.worker import Job
from harness.spec import Resources, TrialSpec

_PROBE_TIMEOUT_S = 60.0
_CAPACITY_AGE_S = 2.0
_LOOK_EVERY_S = 4.0
_ANSWER_TIMEOUT_S = 10.0
_TOKEN_HINT = "if the cluster uses token authentication, set RAY_AUTH_MODE=token"
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
_HARMLESS = {*_ENVIRONMENT, "RAY_ADDRESS", "RAY_TMPDIR", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"}
# Ray listens on all interfaces, wherever it is told to listen: only who has this may talk to a local one.
_TOKEN = secrets.token_hex(32)

# Asks a control process who it is, in a process of its own: Ray cannot be told how long to wait. Ray has no public name
# for it; where this one is gone, nothing is asked. What is printed: that Ray is loaded, then what is wrong.
_ASK = """
import sys
from ray._raylet import GcsClient
from ray.exceptions import RpcError
print("loaded", flush=True)
try:
    GcsClient(address=sys.argv[1])
except RpcError as error:
    print(error)
"""


@contextmanager
def connected(address: str | None = None, **local: Any) -> Iterator[None]:
    """Inside, Ray is there: the session that this process has already, else the cluster at `address`, else a local one.

    local: arguments of `ray.init` for a local Ray, such as num_cpus. What was started here is shut down on leaving.
    """
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    _check_environment()
    # Never Ray's own default: it follows a file that a killed cluster leaves behind.
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    if address == "local" and "ray" not in sys.modules:
        os.environ.setdefault("RAY_AUTH_MODE", "token")  # Ray reads it as it is loaded; from 2.59 on its own default
    import ray

    if ray.is_initialized():
        yield
        return
    with ExitStack() as stack:
        if address == "local":
            stack.enter_context(_authenticated())
            folder = stack.enter_context(session_folder())
        stack.callback(ray.shutdown)
        with _uninterrupted():
            if address == "local":
                _start(include_dashboard=False, object_store_memory=_OBJECT_STORE_BYTES, _temp_dir=str(folder), **local)
            else:
                place = _address_on_file() if address == "auto" else address
                if place:
                    check_address(place)
                    check_control_process(place)
                _join(address)
        yield


def _check_environment() -> None:
    """Ray reads its settings from variables as it is loaded; one that it cannot read ends the process."""
    mode = os.environ.get("RAY_AUTH_MODE", "token")
    if mode.lower() not in ("token", "disabled"):
        raise InputError(f"RAY_AUTH_MODE must be token or disabled, not '{mode}'")
    names = sorted(name for name in os.environ if name.startswith("RAY_") and name not in _HARMLESS | {"RAY_AUTH_MODE"})
    if not names or "ray" in sys.modules:
        return
    if subprocess.run([sys.executable, "-c", "import ray"], capture_output=True, check=False).returncode:
        raise InputError(f"Ray cannot be loaded with {', '.join(names)} as the environment has it: correct or unset it")


def check_control_process(address: str) -> None:
    """InputError where what speaks HTTP/2 at an address is no cluster: Ray would ask it again and again for minutes."""
    command = [sys.executable, "-c", _ASK, address]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as asking:
        assert asking.stdout is not None
        asking.stdout.readline()  # Ray is loaded, however long that takes here
        try:
            reason = " ".join(asking.communicate(timeout=_ANSWER_TIMEOUT_S)[0].split())
        except subprocess.TimeoutExpired:
            asking.kill()
            reason = f"no answer within {_ANSWER_TIMEOUT_S:.0f} s"
    if reason:
        raise InputError(f"cannot join the Ray cluster at '{address}': {reason}; {_TOKEN_HINT}")


@contextmanager
def _authenticated() -> Iterator[None]:
    """Inside, a Ray started here asks for a token that only this process and its children know, unless the user has
    chosen a token or none."""
    chosen = {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & os.environ.keys()
    if chosen or os.environ.get("RAY_AUTH_MODE", "token").lower() != "token":
        yield
        return
    os.environ["RAY_AUTH_TOKEN"] = _TOKEN
    try:
        yield
    finally:
        del os.environ["RAY_AUTH_TOKEN"]
        with suppress(ImportError, AttributeError):  # Ray has no public name for it
            importlib.import_module("ray._raylet").AuthenticationTokenLoader.instance().reset_cache()


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """A signal waits until the block is done: torn apart in the middle of its start, Ray ends the process."""
    with StopRequest() as request:
        yield
    if request.signal_name:
        raise KeyboardInterrupt


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
        with _unheard():
            ray.init(address, **_QUIET)
    except Exception as error:  # many kinds, down to Exception itself
        reason = " ".join(str(error).split())
        raise InputError(f"cannot join the Ray cluster at '{address}': {reason}; {_TOKEN_HINT}") from error


@contextmanager
def _unheard() -> Iterator[None]:
    """Inside, what is written to standard error by whatever language goes nowhere: Ray's own twenty lines about an
    address are told in one."""
    sys.stderr.flush()
    heard = os.dup(2)
    try:
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(heard, 2)
        os.close(heard)


def _address_on_file() -> str | None:
    """What `auto` means on this machine."""
    try:
        from ray._private.utils import read_ray_address  # Ray has no public name for it
    except ImportError:
        return None
    return os.environ.get("RAY_ADDRESS", "auto").replace("auto", "") or read_ray_address()


class Health:
    """Whether the Ray that this process has joined can still run anything. Ray itself would wait for long, silently."""

    def __init__(self) -> None:
        import ray

        self._head = Head(ray.get_runtime_context().gcs_address)
        self._looked = self._seen = time.monotonic()

    def answers(self) -> bool:
        """See `Head.answers`."""
        return self._head.answers()

    def trouble(self) -> str | None:
        """Why no run can go on; None while one can, or for all that is known yet."""
        now = time.monotonic()
        if now - self._looked > _LOOK_EVERY_S and self.answers():
            self._looked = now
            self._seen = now if _nodes() else self._seen
        if self._looked - self._seen > SILENCE_S:
            return "Ray has no node left: its processes were ended"
        return self._head.trouble()


def _nodes() -> list[Node]:
    import ray

    alive = [node for node in ray.nodes() if node["Alive"]]
    return [Node(node["NodeID"], node["NodeManagerHostname"], node["Resources"]) for node in alive]


def preflight(specs: Sequence[TrialSpec], control: RunControl, root: Path) -> None:
    """Every request fits somewhere, and every node that could run a trial passes the probe. A node without a trace of
    NVIDIA whose GPUs Ray was told of by hand is believed."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    nodes = _nodes()
    check_requests(specs, nodes)
    distinct = {(spec.resources.model_dump_json(), spec.precision): spec for spec in specs}.values()
    task = ray.remote(num_cpus=0, max_retries=0)(_probe_task())
    answers: dict[Any, tuple[Node, list[TrialSpec]]] = {}
    for node in nodes:
        able = [spec for spec in distinct if fits(request_of(spec.resources), node.resources)]
        if able:
            there = NodeAffinitySchedulingStrategy(node.node_id, soft=False)
            gpus = any(spec.resources.gpu for spec in able)
            answer = task.options(scheduling_strategy=there).remote(
                search_path(), str(control.path), control.nonce, gpus
            )
            answers[answer] = (node, able)
    patience = _PROBE_TIMEOUT_S + (ANSWER_TIMEOUT_S if any(spec.resources.gpu for spec in distinct) else 0)
    ready, missing = ray.wait(list(answers), num_returns=len(answers), timeout=patience)
    if missing:
        hosts = ", ".join(sorted({answers[answer][0].host for answer in missing}))
        raise InputError(f"no answer within {patience:.0f} s from {hosts}")
    for answer in ready:
        node, able = answers[answer]
        try:
            found = ray.get(answer)
        except ray.exceptions.RayError as error:
            reason = " ".join(str(getattr(error, "cause", None) or error).split())
            raise InputError(f"node {node.host} cannot run trials: {reason}") from error
        check_probe(found, root, ray.__version__)
        if found.get("gpus"):
            check_gpus(able, found["gpus"], f"node {node.host}")


def search_path() -> list[str]:
    """Where this process finds its packages, for workers that were started elsewhere."""
    return [os.path.abspath(entry) for entry in sys.path]


# The two functions that Ray runs are made inside functions, so that they travel by value: a worker can run them before
# it knows where this package is.


def _probe_task() -> Callable[..., dict[str, Any]]:
    def answer(search_path: list[str], control: str, nonce: str, gpus: bool) -> dict[str, Any]:
        import sys

        import ray

        sys.path[:0] = [entry for entry in search_path if entry not in sys.path]
        from harness.running.checks import probe

        return probe(control, nonce, ray.__version__, gpus)

    return answer


def _trial_task() -> Callable[..., Iterator[TaskEvent]]:
    def trial(search_path: list[str], pickled_job: bytes) -> Iterator[TaskEvent]:
        import pickle
        import sys

        import ray

        sys.path[:0] = [entry for entry in search_path if entry not in sys.path]
        from harness.engine.process import prepare_process
        from harness.running.worker import hold_failed_gpu, trial_events

        job = pickle.loads(pickled_job)
        prepare_process(job.spec)
        for event in trial_events(job, place=ray.get_runtime_context().get_node_id()):
            yield event
        yield from hold_failed_gpu(job, event)

    return trial


class RayLauncher:
    """Trials and their helpers as Ray tasks that stream their events. Ray never retries: the driver decides that.

    Only as much is submitted as the cluster can run at once: Ray's own queue knows no priorities, so what waits in it
    would overtake longer trials.
    """

    def __init__(self, make_job: Callable[[TrialSpec, str], Job], control: RunControl) -> None:
        import ray

        self._ray = ray
        self._make_job, self._control = make_job, control
        self._health = Health()
        # Ray hands a worker process from task to task. On a GPU that would keep memory and a CUDA context, so there
        # every trial gets a process of its own.
        self._on_cpu = ray.remote(_trial_task())
        self._on_gpu = ray.remote(max_calls=1)(_trial_task())
        self._live: dict[Any, tuple[str, dict[str, float]]] = {}
        self._held: dict[Any, tuple[str, dict[str, float]]] = {}  # they have ended, and keep a failed GPU from others
        self._capacity: dict[str, float] = {}
        self._capacity_at = float("-inf")

    def has_room(self, resources: Resources) -> bool:
        if time.monotonic() - self._capacity_at > _CAPACITY_AGE_S:
            if not self._health.answers():
                return False
            self._capacity, self._capacity_at = self._ray.cluster_resources(), time.monotonic()
        return fits(request_of(resources), self._left())

    def _left(self) -> dict[str, float]:
        left = dict(self._capacity)
        for _, request in [*self._live.values(), *self._held.values()]:
            for name, amount in request.items():
                left[name] = left.get(name, 0.0) - amount
        return left

    def trouble(self) -> str | None:
        shares = [request["GPU"] for _, request in self._held.values()]
        if shares and not self._live and not fits({"GPU": min(shares)}, self._left()):
            return "every GPU has failed"
        return self._health.trouble()

    def start(self, spec: TrialSpec, resources: Resources, helper: str = "") -> None:
        job = self._make_job(spec.model_copy(update={"resources": resources}), helper)
        task = self._on_gpu if resources.gpu else self._on_cpu
        stream = task.options(
            num_returns="streaming",
            max_retries=0,
            num_cpus=resources.cpu,
            num_gpus=resources.gpu,
            resources=resources.custom or None,
            name=f"trial {job.name}",
        ).remote(search_path(), pickle.dumps(job))
        self._live[stream] = (job.name, request_of(resources))

    def poll(self, timeout: float) -> Iterator[TaskEvent]:
        wait, streams = self._ray.wait, list(self._live)
        if wait(streams, num_returns=1, timeout=timeout, fetch_local=False)[0]:
            for stream in wait(streams, num_returns=len(streams), timeout=0, fetch_local=False)[0]:
                yield self._next(stream)

    def _next(self, stream: Any) -> TaskEvent:
        name, _ = self._live[stream]
        try:
            event = self._ray.get(next(stream))
            if event["event"] == "end":  # though the stream goes on
                self._held[stream] = self._live.pop(stream)
            return event
        except StopIteration:
            del self._live[stream]
            return {"event": "end", "trial_id": name}
        except self._ray.exceptions.RayError as error:
            del self._live[stream]
            return {"event": "lost", "trial_id": name, "error": _one_line(error)}

    def stop(self) -> None:
        self._control.stop()

    def kill(self, name: str) -> None:
        for stream, (other, _) in self._live.items():
            if other == name:
                self._ray.cancel(stream, force=True)


def _one_line(error: BaseException) -> str:
    """Ray's first sentence; the rest is advice about Ray."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:300]
