"""One trial as the driver has it run, here or in a worker: the trial's events, and its error as one more event."""

from __future__ import annotations

import os
import pkgutil
import socket
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.engine.gpu import look
from harness.engine.process import torch_threads
from harness.errors import InfrastructureError, Kind, kind_of
from harness.events import Error, TaskEvent
from harness.running.stopping import StopSignal
from harness.spec import TrialSpec
from harness.store.provenance import command
from methods.plugins import load_plugin, loaded
from methods.settings import SettingsError

_LOOK_EVERY_S = 1.0


@dataclass(frozen=True)
class Workplace:
    """What is the same for all tasks of a run; it travels to the workers with each.

    control, nonce: where `StopSignal` looks, and for which run. plugins: files to run first, once per process; those
    that the process has loaded which made this.
    command: of the process that made this, for the trials' rows.
    """

    store_root: Path
    control: str = ""
    nonce: str = ""
    data_root: Path | None = None
    download: bool = False
    plugins: tuple[str, ...] = field(default_factory=loaded)
    command: str = field(default_factory=command)

    @property
    def stop_signal(self) -> StopSignal:
        return StopSignal(self.control, self.nonce)

    @property
    def data(self) -> dict[str, Any]:
        """Where trials read data, as `harness.trial` calls it."""
        return {"data_root": self.data_root, "download": self.download}


@dataclass(frozen=True)
class Job:
    """One task. run_trial: `module:function`, a generator as those of `harness.trial`. helper: what the driver calls
    the task, where it is not the trial itself."""

    spec: TrialSpec
    workplace: Workplace
    run_trial: str = "harness.trial:run_trial"
    helper: str = ""

    @property
    def name(self) -> str:
        """What the task's events have for a trial id."""
        return self.helper or self.spec.trial_id


def trial_events(job: Job, should_stop: Callable[[], bool] | None = None, place: str = "") -> Iterator[TaskEvent]:
    """Yields a `launch` event, then what the trial yields; an exception becomes an `error` event, with its traceback.

    The error is judged here, where the exception still is what was raised: nothing has to survive pickling.
    """
    yield {
        "event": "launch",
        "trial_id": job.name,
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "place": place,
        "devices": os.environ.get("CUDA_VISIBLE_DEVICES", ""),
    }
    workplace = job.workplace
    try:
        workplace.store_root.stat()  # nothing is made anew at the place of a results folder that was moved
        load_plugins(workplace.plugins)
        run = pkgutil.resolve_name(job.run_trial)
        with torch_threads(job.spec.threads):
            options = {**workplace.data, "should_stop": should_stop or workplace.stop_signal}
            if not job.helper:  # which writes no row
                options["columns"] = {"command": workplace.command}
            for event in run(job.spec, workplace.store_root, **options):
                event["trial_id"] = job.name
                yield event
    except Exception as error:
        text = " ".join(f"{type(error).__name__}: {error}".split())
        yield raised(job.name, fault(error, job.spec), text)


def hold_failed_gpu(job: Job, last: TaskEvent) -> Iterator[TaskEvent]:
    """After the last event of a task that failed with its GPU: where a new process cannot use it either, the task keeps
    its share until the run ends, or the GPU would fail one trial after the other, being free at once each time. An
    `end` event then says that the attempt is over all the same."""
    if last["event"] != "error" or last["kind"] != "device" or not (problem := look().problem):
        return
    text = f"its GPU on {socket.gethostname()} has failed, and this run gives it to no other trial: {problem}"
    yield {"event": "remark", "trial_id": job.name, "text": text}
    yield {"event": "end", "trial_id": job.name}
    over = job.workplace.stop_signal
    while not over():
        time.sleep(_LOOK_EVERY_S)


def fault(error: BaseException, spec: TrialSpec) -> Kind:
    """The kind of a trial's error. A GPU that it did not ask for is no machine's fault: its method calls for one."""
    kind = kind_of(error)
    return "method" if kind == "device" and not spec.resources.gpu else kind


def raised(name: str, kind: Kind, error: str) -> Error:
    """The event of the exception that is handled now."""
    return {"event": "error", "trial_id": name, "kind": kind, "error": error, "traceback": traceback.format_exc()}


def load_plugins(paths: tuple[str, ...]) -> None:
    """Runs the users' files; each process runs each of them once. InfrastructureError where one cannot be run
    here: the driver has run them all, so no trial is at fault."""
    try:
        for path in paths:
            load_plugin(path)
    except SettingsError as error:
        raise InfrastructureError(f"{error} (on {socket.gethostname()}; nothing was computed)") from error
