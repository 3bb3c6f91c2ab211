"""Trials that sleep instead of training, and misbehave as told: what the scheduler tests run in real workers.

A trial writes each start and each end as a line into `<store>/journal`, one file per trial, and its step in
`<store>/work/<training id>/step`, from where it resumes.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from harness.files import write_bytes
from harness.spec import (
    DatasetSpec,
    EvaluationSpec,
    NetworkSpec,
    Resources,
    Source,
    TrainedSpec,
    TrainingSpec,
    TrialSpec,
)
from harness.store.provenance import trial_columns

HANGS_S = 600.0  # longer than any machine takes to notice and end a hanging trial
POLICIES = {"labels": {"name": "hard"}, "weights": {"name": "none"}, "margins": {"name": "none"}}


class OutOfMemoryError(RuntimeError):
    """Named as torch's."""


def make(
    seed: int = 0,
    behaviour: str = "good",
    *,
    steps: int = 3,
    step_s: float = 0.02,
    role: Any = "student",
    teacher: TrialSpec | None = None,
    cpu: float = 1,
    gpu: float = 0,
    custom: dict[str, float] | None = None,
    threads: int = 1,
) -> TrialSpec:
    """A specification whose trial takes `steps` epochs of `step_s` seconds and behaves as `_BEHAVIOUR` says."""
    network = NetworkSpec(name="cnn")
    teachers = {}
    if teacher is not None:
        teachers["teacher"] = Source(network=network, trial=teacher.trial_id, training=teacher.training_id)
    return TrainedSpec(
        role=role,
        variant=behaviour,
        dataset=DatasetSpec(name="digits", train_images=max(1, int(step_s * 1000))),
        student=network,
        teachers=teachers,
        method={"name": "at", "behaviour": behaviour, "step_s": step_s, **POLICIES},
        training=TrainingSpec(epochs=steps, attack_steps=1),
        evaluation=EvaluationSpec(attacks=()),
        eps=0.1,
        seed=seed,
        threads=threads,
        resources=Resources(cpu=cpu, gpu=gpu, custom=custom or {}),
    )


def run(
    spec: TrialSpec,
    store_root: Path,
    *,
    data_root: Path | None,
    download: bool,
    should_stop: Callable[[], bool],
    columns: Mapping[str, Any],
) -> Iterator[dict[str, Any]]:
    """As `harness.trial.run_trial`."""
    assert isinstance(spec, TrainedSpec)
    name, behaviour = spec.trial_id, spec.method["behaviour"]
    folder = store_root / "work" / spec.training_id
    folder.mkdir(parents=True, exist_ok=True)
    step_file = folder / "step"
    first = int(step_file.read_text()) if step_file.exists() else 0
    starts = note(store_root, spec, "start", step=first)
    yield {"event": "start", "trial_id": name, "device": "cpu"}
    for step in range(first, spec.training.epochs):
        _BEHAVIOUR.get(behaviour, lambda *_: None)(step, starts, spec)
        time.sleep(spec.method["step_s"])
        if should_stop():
            note(store_root, spec, "interrupted", step=step)
            yield {"event": "interrupted", "trial_id": name}
            return
        write_bytes(step_file, str(step + 1).encode())  # whole or not at all: the process may be killed here
        yield {"event": "epoch", "trial_id": name, "epoch": step + 1, "epochs": spec.training.epochs}
    note(store_root, spec, "end")
    if behaviour != "quiet":
        commit(spec, store_root, starts)
    if behaviour == "die_after_commit":
        _die(0, starts, spec)
    yield {"event": "done", "trial_id": name}


def commit(spec: TrialSpec, store_root: Path, starts: int) -> None:
    """Stores the trial as done. A quiet trial leaves that out: importing pandas takes longer than it sleeps."""
    from harness.store.store import Store

    Store(store_root).commit({**trial_columns(spec), "status": "done", "attempts": starts})


def note(root: Path, spec: TrialSpec, what: str, **more: Any) -> int:
    """Adds a line to the trial's journal; returns how many starts it then has."""
    path = root / "journal" / spec.trial_id
    path.parent.mkdir(exist_ok=True)
    ray = sys.modules.get("ray")
    line = {
        "what": what,
        "time": time.time(),
        "pid": os.getpid(),
        "devices": os.environ.get("CUDA_VISIBLE_DEVICES"),
        "threads": os.environ.get("OMP_NUM_THREADS"),
        "node": ray.get_runtime_context().get_node_id() if ray and ray.is_initialized() else "",
        **more,
    }
    with open(path, "a") as file:
        file.write(json.dumps(line) + "\n")
    return sum(entry["what"] == "start" for entry in journal(root, spec))


def journal(root: Path, spec: TrialSpec) -> list[dict[str, Any]]:
    """What a trial noted."""
    path = root / "journal" / spec.trial_id
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def seconds(spec: TrialSpec) -> float:
    """How long a trial sleeps."""
    assert isinstance(spec, TrainedSpec)
    return spec.method["step_s"] * spec.training.epochs


def start_steps(root: Path, spec: TrialSpec) -> list[int]:
    """The step that each start of a trial began with."""
    return [entry["step"] for entry in journal(root, spec) if entry["what"] == "start"]


def _die(step: int, starts: int, spec: TrialSpec) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _die_once_at_step_2(step: int, starts: int, spec: TrialSpec) -> None:
    if step == 2 and starts == 1:
        _die(step, starts, spec)


def _die_after_each_step(step: int, starts: int, spec: TrialSpec) -> None:
    if step == starts:
        _die(step, starts, spec)


def _raise(step: int, starts: int, spec: TrialSpec) -> None:
    raise ValueError("the loss is not finite at step 7")


def _raise_first_time(step: int, starts: int, spec: TrialSpec) -> None:
    if starts == 1:
        _raise(step, starts, spec)


def _fill_the_disk(step: int, starts: int, spec: TrialSpec) -> None:
    if starts == 1 and step == 1:
        raise OSError(28, "No space left on device")


def _need_a_whole_gpu(step: int, starts: int, spec: TrialSpec) -> None:
    if spec.resources.gpu < 1:
        raise OutOfMemoryError("CUDA out of memory")


def _fail_on_gpu_0(step: int, starts: int, spec: TrialSpec) -> None:
    if os.environ["CUDA_VISIBLE_DEVICES"] == "0":
        _fail_on_any_gpu(step, starts, spec)


def _fail_on_any_gpu(step: int, starts: int, spec: TrialSpec) -> None:
    raise RuntimeError("CUDA error: uncorrectable ECC error encountered")


def _hang(step: int, starts: int, spec: TrialSpec) -> None:
    if step == 1:
        time.sleep(HANGS_S)


def _exit(step: int, starts: int, spec: TrialSpec) -> None:
    sys.exit("no")


_BEHAVIOUR: dict[str, Callable[[int, int, TrialSpec], None]] = {
    "die": _die,
    "die_once_at_step_2": _die_once_at_step_2,
    "die_after_each_step": _die_after_each_step,
    "raise": _raise,
    "raise_first_time": _raise_first_time,
    "fill_the_disk": _fill_the_disk,
    "need_a_whole_gpu": _need_a_whole_gpu,
    "fail_on_gpu_0": _fail_on_gpu_0,
    "fail_on_any_gpu": _fail_on_any_gpu,
    "hang": _hang,
    "exit": _exit,
}
