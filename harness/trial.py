"""One specification in, rows out. A generator that composes data, training, evaluation and the store; it knows
nothing of Ray."""

from __future__ import annotations

import os
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from harness.data.splits import stratified_subset
from harness.engine import evaluation_forward
from harness.evaluate import Conditions, chunk_ranges, evaluate_chunk, gather
from harness.models.checkpoints import file_sha256
from harness.provenance import processor, trial_columns
from harness.spec import AttackRequest, Source, TrialSpec
from harness.store import Store
from harness.training import (
    Data,
    peak_memory_mb,
    read_data,
    read_history,
    train,
    trained_network,
    training_folder,
    wants_second_split,
)
from methods.registry import load_entry_points

Event = dict[str, Any]
GIVEN = "given"  # the checkpoint column of a network that was trained elsewhere
EVALUATION_SEED = 0  # evaluation is the same for every trial: intervals over seeds are about training


def run_trial(
    spec: TrialSpec,
    store_root: Path,
    *,
    data_root: Path | None = None,
    download: bool = False,
    should_stop: Callable[[], bool] | None = None,
) -> Iterator[Event]:
    """Train (where the specification trains), evaluate, and commit the rows to the store before the last event.

    Yields `start`, `epoch`, `attack` and `done` events; resumes from its own working folder; when `should_stop()`
    turns true it saves its state,
    yields `interrupted` and returns. Raises whatever stops it: the caller stores the failure.
    """
    should_stop = should_stop or (lambda: False)
    load_entry_points()
    device = torch.device("cuda" if spec.resources.gpu > 0 and torch.cuda.is_available() else "cpu")
    started = time.time()
    yield {
        "event": "start",
        "trial_id": spec.trial_id,
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "device": str(device),
    }
    trains = spec.training is not None
    data = read_data(
        spec.dataset,
        spec.split_seed,
        device,
        second=trains and wants_second_split(spec),
        root=data_root,
        download=download,
    )
    folder = training_folder(store_root, spec.training_id)
    if trains and not _is_trained(spec, folder):
        for event in train(spec, data, store_root, device, should_stop):
            yield event
            if event["event"] == "interrupted":
                return
    evaluation = _Evaluation(spec, data, store_root, device)
    for event in evaluation.run(should_stop):
        yield event
        if event["event"] == "interrupted":
            return
    _commit(spec, data, Store(store_root), evaluation, device, started)
    _drop_weights(spec, folder)
    yield {"event": "done", "trial_id": spec.trial_id, "status": "done"}


def _is_trained(spec: TrialSpec, folder: Path) -> bool:
    """Whether the training is finished and the weights that the evaluation needs were kept."""
    wanted = {checkpoint for attack in spec.evaluation.attacks for checkpoint in attack.checkpoints}
    return read_history(folder) is not None and all((folder / f"{checkpoint}.pt").exists() for checkpoint in wanted)


class _Evaluation:
    """Every attack of a trial on every checkpoint it is asked for; finished chunks are found again after a crash."""

    def __init__(self, spec: TrialSpec, data: Data, store_root: Path, device: torch.device) -> None:
        self.spec, self.data, self.store_root, self.device = spec, data, store_root, device
        self.folder = training_folder(store_root, spec.training_id)
        self.outcomes: list[pd.DataFrame] = []
        self.notes: list[dict[str, str]] = []
        self.seconds = 0.0

    def run(self, should_stop: Callable[[], bool]) -> Iterator[Event]:
        """Yields an `attack` event per finished chunk."""
        wanted = [
            (checkpoint, attack) for attack in self.spec.evaluation.attacks for checkpoint in self._checkpoints(attack)
        ]
        for checkpoint in dict.fromkeys(checkpoint for checkpoint, _ in wanted):
            source, key = self._source(checkpoint)
            network = trained_network(source, self.data, self.store_root).to(self.device).eval().requires_grad_(False)
            forward = evaluation_forward(network, self.spec.engine)
            for attack in (attack for name, attack in wanted if name == checkpoint):
                started = time.perf_counter()
                results = []
                for result, chunk, chunks in self._attack(forward, attack, key):
                    results.append(result)
                    yield {
                        "event": "attack",
                        "trial_id": self.spec.trial_id,
                        "checkpoint": checkpoint,
                        "attack": attack.name,
                        "chunk": chunk,
                        "chunks": chunks,
                    }
                    if should_stop():
                        yield {"event": "interrupted", "trial_id": self.spec.trial_id}
                        return
                rows = gather(results, lambda source, text: self.notes.append({"source": source, "text": text}))
                self.outcomes.append(rows.assign(checkpoint=checkpoint, attack=attack.name))
                self.seconds += time.perf_counter() - started

    def _attack(self, forward: Any, attack: AttackRequest, key: str) -> Iterator[tuple[Any, int, int]]:
        test, evaluation = self.data.test, self.spec.evaluation
        chosen = (
            torch.arange(len(test))
            if attack.images is None or attack.images >= len(test)
            else stratified_subset(test.labels, attack.images, 0)
        )
        conditions = Conditions(
            attack.overrides, self.spec.eps, EVALUATION_SEED, evaluation.batch_size, self.data.num_classes, key
        )
        ranges = chunk_ranges(len(chosen), evaluation.chunk_size)
        for chunk, span in enumerate(ranges):
            rows = chosen[span.start : span.stop]
            result = evaluate_chunk(
                forward,
                test.images[rows],
                test.labels[rows],
                self.data.test_index[rows],
                conditions,
                chunk,
                self.folder / "evaluations" / key[:12],
            )
            yield result, chunk + 1, len(ranges)

    def _checkpoints(self, attack: AttackRequest) -> tuple[str, ...]:
        return attack.checkpoints if self.spec.training is not None else (GIVEN,)

    def _source(self, checkpoint: str) -> tuple[Source, str]:
        """The weights of a checkpoint and the sha256 of their file, which names them in the cache."""
        if checkpoint == GIVEN:
            assert self.spec.init is not None
            return self.spec.init, str(self.spec.init.sha256)
        source = Source(network=self.spec.student, training=self.spec.training_id, checkpoint=checkpoint)
        return source, file_sha256(self.folder / f"{checkpoint}.pt")


def _commit(
    spec: TrialSpec, data: Data, store: Store, evaluation: _Evaluation, device: torch.device, started: float
) -> None:
    history = read_history(evaluation.folder) or {
        "epochs": [],
        "class_state": [],
        "train_s": 0.0,
        "peak_memory_mb": 0.0,
    }
    outcomes = pd.concat(evaluation.outcomes, ignore_index=True)
    notes = [*evaluation.notes, *([{"source": "engine", "text": history["engine"]}] if "engine" in history else [])]
    trial = {
        **trial_columns(spec),
        "train_images": len(data.train) if spec.training else None,
        "device": processor() if device.type == "cpu" else torch.cuda.get_device_name(device),
        "attempts": max(1, store.attempts(spec.trial_id)),
        "status": "done",
        "train_s": history["train_s"],
        "eval_s": evaluation.seconds,
        "peak_memory_mb": max(history["peak_memory_mb"], peak_memory_mb(device)),
        "started": started,
        "finished": time.time(),
    }
    store.commit(
        trial,
        {
            "class_accuracy": class_accuracy_rows(outcomes, data.class_names),
            "outcomes": outcomes,
            "epochs": pd.DataFrame(history["epochs"]),
            "class_state": pd.DataFrame(history["class_state"]),
            "notes": pd.DataFrame(notes),
        },
    )


def class_accuracy_rows(outcomes: pd.DataFrame, class_names: tuple[str, ...]) -> pd.DataFrame:
    """Per checkpoint, attack and class: n, correct and accuracy. A class without test images has no row."""
    groups = outcomes.groupby(["checkpoint", "attack", "label"], sort=False)["robust"]
    rows = groups.agg(n="size", correct="sum").reset_index().rename(columns={"label": "class_index"})
    rows["class_name"] = [class_names[index] for index in rows["class_index"]]
    rows["accuracy"] = rows["correct"] / rows["n"]
    return rows


def _drop_weights(spec: TrialSpec, folder: Path) -> None:
    """Keep the weights the suite asked for. A teacher's stay: its students read them. Chunks of the evaluation are in
    the store now."""
    if spec.role == "student" and spec.training is not None:
        for checkpoint in ("best_validation", "last"):
            if checkpoint not in spec.keep:
                for suffix in (".pt", ".json"):
                    (folder / f"{checkpoint}{suffix}").unlink(missing_ok=True)
    if (folder / "evaluations").exists():
        shutil.rmtree(folder / "evaluations", ignore_errors=True)
