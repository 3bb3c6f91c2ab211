"""One trial as the scheduler runs it, here or in a worker: the trial's events, and its error as one more event."""

from __future__ import annotations

import os
import pkgutil
import socket
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.engine.process import torch_threads
from harness.errors import InfrastructureError, kind_of
from harness.running.stopping import StopSignal
from harness.spec import TrialSpec
from harness.store.provenance import command

Event = dict[str, Any]


@dataclass(frozen=True)
class Job:
    """All that a worker needs to know; it travels there as a whole.

    run_trial: `module:function`, the generator of `harness.trial`. control, nonce: where `StopSignal` looks, and for
    which run. plugins: method files to run first, once per process. assistant: what the driver calls the task, where
    it is not the trial itself. command: of the process that made the job, for the trial's row.
    """

    spec: TrialSpec
    store_root: Path
    control: str
    nonce: str
    run_trial: str = "harness.trial:run_trial"
    data_root: Path | None = None
    download: bool = False
    plugins: tuple[str, ...] = ()
    assistant: str = ""
    command: str = field(default_factory=command)

    @property
    def name(self) -> str:
        """What the task's events have for a trial id."""
        return self.assistant or self.spec.trial_id


def trial_events(job: Job, should_stop: Callable[[], bool] | None = None, place: str = "") -> Iterator[Event]:
    """Yields a `launch` event, then what the trial yields; an exception becomes an `error` event, with its traceback.

    The error is judged here, where the exception still is what was raised: nothing has to survive pickling.
    """
    common = {"trial_id": job.name}
    where = {"host": socket.gethostname(), "pid": os.getpid(), "place": place}
    yield {"event": "launch", **common, **where, "devices": os.environ.get("CUDA_VISIBLE_DEVICES", "")}
    try:
        job.store_root.stat()  # nothing is made anew at the place of a results folder that was moved
        load_plugins(job.plugins)
        run = pkgutil.resolve_name(job.run_trial)
        with torch_threads(job.spec.threads):
            stop = should_stop or StopSignal(job.control, job.nonce)
            options: dict[str, Any] = {"data_root": job.data_root, "download": job.download, "should_stop": stop}
            if not job.assistant:  # which writes no row
                options["columns"] = {"command": job.command}
            for event in run(job.spec, job.store_root, **options):
                yield {**event, **common}
    except Exception as error:
        text = " ".join(f"{type(error).__name__}: {error}".split())
        yield {"event": "error", **common, "kind": kind_of(error), "error": text, "traceback": traceback.format_exc()}


def load_plugins(paths: tuple[str, ...]) -> None:
    """Runs the users' method files; each process runs each of them once. InfrastructureError where one cannot be run
    here: the driver has run them all, so no trial is at fault."""
    from methods.plugins import load_plugin
    from methods.settings import SettingsError

    try:
        for path in paths:
            load_plugin(path)
    except SettingsError as error:
        raise InfrastructureError(f"{error} (on {socket.gethostname()}; nothing was computed)") from error
