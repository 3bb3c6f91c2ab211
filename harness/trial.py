"""One specification in, rows out. A generator that composes data, training, evaluation and the store; it knows
nothing of Ray."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

import methods
from harness.attacks.pgd import NO_DECISION
from harness.engine.gpu import device_of
from harness.engine.memory import larger, peak_memory, reset_peak_memory
from harness.engine.process import deterministic_algorithms, exact_float32, keep_freed_memory
from harness.errors import InfrastructureError, InputError
from harness.evaluation.evaluate import SharedEvaluation
from harness.events import TaskEvent
from harness.inputs import Data, data_of
from harness.spec import CHECKPOINTS, TrainedSpec, TrialSpec
from harness.statistics import metrics
from harness.store.provenance import joined, origin, training_columns, trial_columns
from harness.store.store import Store
from harness.store.work import WorkingFolder
from harness.suites.code import code_of
from harness.training.train import train
from harness.training.validation import few_held_out

_NOT_TRAINED: dict[str, Any] = {
    "epochs": [], "class_state": [], "train_s": 0.0, "train_cpu_s": 0.0
}  # fmt: skip


def run_trial(
    spec: TrialSpec,
    store_root: Path,
    *,
    data_root: Path | None = None,
    download: bool = False,
    should_stop: Callable[[], bool] | None = None,
    columns: Mapping[str, Any] | None = None,
) -> Iterator[TaskEvent]:
    """Train (where the specification trains), evaluate, and commit the rows to the store before the last event.

    Yields `start`, `remark`, `epoch`, `evaluation`, `attack` and `done` events; resumes from its own working folder;
    when `should_stop()` turns true it saves its state, yields `interrupted` and returns. Raises whatever stops it: the
    caller stores the failure. In the row, started and finished are the times of the attempt that finished the trial;
    train_s are seconds of training over all attempts; eval_s are seconds spent on the evaluation by all who took part,
    helpers included, over all attempts. columns: more of the `trials` table.
    """
    should_stop = should_stop or (lambda: False)
    device = _prepared(spec)
    started = time.time()
    yield {
        "event": "start",
        "trial_id": spec.trial_id,
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "device": str(device),
    }
    data = data_of(spec, device, root=data_root, download=download)
    folder = WorkingFolder(store_root, spec.training_id)
    if isinstance(spec, TrainedSpec) and not _is_trained(spec, folder):
        for event in train(spec, data, store_root, device, should_stop):
            yield event
            if event["event"] == "interrupted":
                return
    evaluation = SharedEvaluation(spec, data, store_root, device)
    for event in evaluation.run(should_stop):
        yield event
        if event["event"] == "interrupted":
            return
    store = Store(store_root, begun=True)
    _commit(spec, data, store, evaluation, device, {"started": started, **(columns or {})})
    _drop_weights(spec, folder)
    folder.forget_evaluation()  # its rows are in the tables now
    yield {"event": "done", "trial_id": spec.trial_id}


def help_trial(
    spec: TrialSpec,
    store_root: Path,
    *,
    data_root: Path | None = None,
    download: bool = False,
    should_stop: Callable[[], bool] | None = None,
) -> Iterator[TaskEvent]:
    """Help a trial that is in its evaluation, in another process: compute pieces of it until none is left.

    Yields `helped` events with the number of pieces `left`. The trial finds what was computed in its working folder,
    and needs none of it: see `harness.evaluation.evaluate`.
    """
    device = _prepared(spec)
    data = data_of(spec, device, root=data_root, download=download)
    yield from SharedEvaluation(spec, data, store_root, device).help(should_stop or (lambda: False))


def _prepared(spec: TrialSpec) -> torch.device:
    """The device of a trial, in a process made ready for it and that has the code the trial was planned with."""
    try:
        methods.load_entry_points()
    except methods.SettingsError as error:  # the driver has loaded them all
        raise InfrastructureError(f"{error} (on {socket.gethostname()}; nothing was computed)") from error
    check_code(spec)
    keep_freed_memory()
    exact_float32()
    device = device_of(spec)
    if device.type == "cuda":
        deterministic_algorithms(spec.deterministic)
    reset_peak_memory(device)
    return device


def check_code(spec: TrialSpec) -> None:
    """Raises InfrastructureError where this process loaded other plugin code than the trial was planned with."""
    try:
        here = code_of(spec)
    except (KeyError, InputError, methods.SettingsError) as error:
        raise InfrastructureError(f"its plugin was not loaded in this process: {error}") from error
    for role in sorted(here.keys() | spec.code):
        planned, loaded = (codes.get(role, "none")[:12] for codes in (spec.code, here))
        if planned != loaded:
            raise InfrastructureError(
                f"{role} was planned with code {planned} and this process loaded {loaded}: the plugin was edited, or "
                "differs between machines; nothing was computed"
            )


def _is_trained(spec: TrialSpec, folder: WorkingFolder) -> bool:
    """Whether the training is finished and the weights that the evaluation needs were kept."""
    return folder.history() is not None and all(map(folder.has_whole, spec.evaluation.checkpoints))


def _commit(
    spec: TrialSpec,
    data: Data,
    store: Store,
    evaluation: SharedEvaluation,
    device: torch.device,
    columns: Mapping[str, Any],
) -> None:
    history = evaluation.folder.history() or _NOT_TRAINED
    costs, now = evaluation.costs(), peak_memory(device)
    data_notes = [{"source": "data", "text": text} for text in data.remarks]
    notes = [*evaluation.notes, *data_notes, *history.get("notes", [])]
    if spec.training and (warning := few_held_out(data.validation.labels, data.class_names)):
        notes.append({"source": "validation", "text": warning})
    trial = {
        **trial_columns(spec),
        "train_images": len(data.train) if spec.training else None,
        **joined(costs["origins"] or [origin(device)]),
        **training_columns(history),
        "attempts": max(1, store.attempts(spec.trial_id)),
        "status": "done",
        "eval_s": costs["seconds"],
        "eval_cpu_s": costs["cpu_seconds"],
        **larger({name: history.get(name) for name in now}, now),
        "finished": time.time(),
        **columns,
    }
    tables = {
        "epochs": pd.DataFrame(history["epochs"]),
        "class_state": pd.DataFrame(history["class_state"]),
        "notes": pd.DataFrame(notes),
    }
    if evaluation.outcomes:  # a trial of a search has none: it sees no test image
        outcomes = pd.concat(evaluation.outcomes, ignore_index=True)
        tables |= {"class_accuracy": class_accuracy_rows(outcomes, data.class_names), "outcomes": outcomes}
    store.commit(trial, tables)


def class_accuracy_rows(outcomes: pd.DataFrame, class_names: tuple[str, ...]) -> pd.DataFrame:
    """Per checkpoint, attack and class of the data set: n, correct and accuracy; accuracy is null for a class without
    test images.

    Where a prediction is missing because logits were not finite, correct and accuracy are undefined for all classes.
    """
    parts = []
    for (checkpoint, attack), found in outcomes.groupby(["checkpoint", "attack"], sort=False):
        n, counted = metrics.class_counts(found["label"], found["robust"], len(class_names))
        correct = np.where((found["prediction"] == NO_DECISION).any(), np.nan, counted)
        counts = {"n": n, "correct": correct, "accuracy": metrics.rates(correct, n)}
        names = {"class_index": range(len(class_names)), "class_name": class_names}
        parts.append(pd.DataFrame({"checkpoint": checkpoint, "attack": attack, **names, **counts}))
    return pd.concat(parts, ignore_index=True)


def _drop_weights(spec: TrialSpec, folder: WorkingFolder) -> None:
    """Keep the weights the suite asked for. A teacher's stay: its students read them."""
    if spec.role == "student" and isinstance(spec, TrainedSpec):
        for checkpoint in set(CHECKPOINTS) - set(spec.keep):
            folder.drop_weights(checkpoint)
