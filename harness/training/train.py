"""Training one network of a suite: epochs, validation, checkpoints. What it leaves in its folder is all that
evaluation needs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import methods
from harness.data.remarks import short_last_batch
from harness.data.splits import held_out_wanted
from harness.engine.forwards import FoldedTwin, PlainForward, evaluation_forward
from harness.engine.memory import Fitting, Peak, larger, peak_memory
from harness.engine.process import tuned_convolutions
from harness.errors import kind_of
from harness.events import TaskEvent
from harness.files import file_sha256, to_checked_json, write_bytes
from harness.inputs import Data, Images, new_network, trained_network, weights_path
from harness.models.checkpoints import write_state
from harness.seeds import derive_seed, globally_seeded, seeded
from harness.spec import SELECTED, Source, TrainedSpec
from harness.statistics import metrics
from harness.store.provenance import cpu_seconds, origin
from harness.store.work import WorkingFolder, shared_logits
from harness.training.state import read_training_state, write_training_state
from harness.training.teacher_logits import SharedLogits, digest, network_digest, shared_names
from harness.training.trainer import EpochBatches, Trainer
from harness.training.validation import BATCH, class_rates, correct_under_pgd, held_out_statistics
from methods.base import EpochEnd, HeldOut


def train(
    spec: TrainedSpec, data: Data, store_root: Path, device: torch.device, should_stop: Callable[[], bool]
) -> Iterator[TaskEvent]:
    """Train to the end from wherever the folder's state is, yielding an `epoch` event per epoch; `interrupted` if
    told to stop. What began an epoch on another kind of device begins it again: a `remark`.

    Leaves the weights of both checkpoints, and a record: the rows of `epochs` and `class_state`, seconds, peak memory,
    the hashes of the weights of its teachers and of the network it started from, and where it ran (`origins`, one or,
    after a move, several).
    """
    run = _Run(spec, data, store_root, device)
    while saved := run.saved():
        try:
            run.resume(saved)
            break
        except Exception as error:
            if kind_of(error) != "method":
                raise
            run.folder.set_aside(saved)
            run = _Run(spec, data, store_root, device)  # the other may have taken up a part
    for text in run.begin_again():
        yield {"event": "remark", "trial_id": spec.trial_id, "text": text}
    run.folder.record.unlink(missing_ok=True)  # of weights that are no longer there
    while run.trainer.epoch < run.epochs:
        with tuned_convolutions():  # between two epochs the process may go on with another training
            event = run.epoch(should_stop)
        yield event
        if event["event"] == "interrupted":
            return
    run.finish()


def trainer_of(
    spec: TrainedSpec, data: Data, device: torch.device, student: nn.Module, teachers: Mapping[str, nn.Module]
) -> Trainer:
    """The step of a training as it begins, over these networks."""
    with globally_seeded("method", *_coordinates(spec)):
        method = methods.build(spec.method, data.num_classes)
    counts = torch.bincount(data.train.labels.cpu(), minlength=data.num_classes)
    for part in method.parts:
        part.learn_class_counts(counts)
    return Trainer(
        student,
        method,
        teachers,
        spec.training,
        eps=spec.eps,
        engine=spec.engine,
        precision=spec.precision,
        device=device,
        coordinates=_coordinates(spec),
    )


def _coordinates(spec: TrainedSpec) -> tuple[int | str, ...]:
    """What the order of batches, augmentation and initial weights depend on: not the method, so that trials compare."""
    return spec.dataset.name, spec.split_seed, spec.seed, spec.student.label


class _Run:
    """A training between two epochs: the trainer, the best score so far, the rows so far."""

    def __init__(self, spec: TrainedSpec, data: Data, store_root: Path, device: torch.device) -> None:
        self.spec, self.data, self.device = spec, data, device
        self.training, self.epochs = spec.training, spec.training.epochs
        self.folder = WorkingFolder(store_root, spec.training_id).make()
        self.coordinates = _coordinates(spec)
        student = new_network(spec.student, data, derive_seed("weights", *self.coordinates))
        if spec.init is not None:
            student.load_state_dict(trained_network(spec.init, data, store_root).state_dict())
        self.teachers = {name: trained_network(source, data, store_root) for name, source in spec.teachers.items()}
        self.trainer = trainer_of(spec, data, device, student, self.teachers)
        self.validated = new_network(spec.student, data, 0).to(device)
        self.validation_forward = evaluation_forward(self.validated, spec.engine, recorded=True)
        self.history: dict[str, list[dict[str, Any]]] = {"epochs": [], "class_state": []}
        self.best = -np.inf
        self.seconds = self.cpu_seconds = 0.0
        self.in_epoch = 0.0  # seconds of an epoch that was interrupted, before it goes on
        self.origins = [origin(device)]
        self.teacher_sha256 = {name: self._sha256(source) for name, source in spec.teachers.items()}
        self.init_sha256 = self._sha256(spec.init) if spec.init else None
        self.peak: Peak = {}
        self.remarks: dict[str, None] = {}
        self.fitting = Fitting(spec, BATCH)
        self.batches: EpochBatches | None = None

    def _sha256(self, source: Source) -> str:
        return file_sha256(weights_path(source, self.folder.store_root), "weights")

    def epoch(self, should_stop: Callable[[], bool]) -> TaskEvent:
        """One epoch from its start or from where it was interrupted, and what is told of it."""
        started, started_cpu = time.perf_counter(), cpu_seconds()
        trainer, number = self.trainer, self.trainer.epoch
        if self.batches is None:
            for _ in self._count_confusion(number):
                if should_stop():
                    return self._interrupt(started, started_cpu)
            self._learn_first()
            trainer.begin_epoch()
            self.batches = self._batches(number)
        with closing(self._shared_logits(self.batches)):
            for _ in trainer.train_steps(self.batches, self.batches.noise):
                if should_stop():
                    return self._interrupt(started, started_cpu)
        held_out = self._held_out(number)
        loss = trainer.end_epoch(held_out)
        if trainer.average:
            robust = None if held_out is None else 1 - held_out.robust_error
            trainer.average.update(trainer.student, number, robust)
        row = self._validate(number, loss)
        if remark := self.fitting.remark:
            self.remarks[f"validation: {remark}"] = None
        spent = time.perf_counter() - started
        row["seconds"], self.in_epoch = self.in_epoch + spent, 0.0
        self.seconds += spent
        self.cpu_seconds += cpu_seconds() - started_cpu
        self.history["epochs"].append(row)
        self.batches = None
        self.save()
        return {
            "event": "epoch",
            "trial_id": self.spec.trial_id,
            "epoch": number + 1,
            "epochs": self.epochs,
            "val_robust_avg": row["val_robust_avg"],
            "val_robust_worst": row["val_robust_worst"],
            "val_robust_nsd": row["val_robust_nsd"],
            "selection_score": row["selection_score"],
            "seconds": row["seconds"],
        }

    def _interrupt(self, started: float, started_cpu: float) -> TaskEvent:
        spent = time.perf_counter() - started
        self.seconds += spent
        self.in_epoch += spent
        self.cpu_seconds += cpu_seconds() - started_cpu
        self.save()
        return {"event": "interrupted", "trial_id": self.spec.trial_id}

    def _batches(self, epoch: int, *purpose: str) -> EpochBatches:
        train = self.data.train
        return EpochBatches(
            train.images, train.labels, self.training.batch_size, augment=self.data.augment,
            coordinates=(*purpose, *self.coordinates), epoch=epoch,
        )  # fmt: skip

    def _count_confusion(self, epoch: int) -> Iterator[int]:
        """Attack the training images, in an order and augmentation of their own, for the parts that learn from it."""
        if self.trainer.method.learns_confusion:
            batches = self._batches(epoch, "confusion")
            yield from self.trainer.count_confusion(batches, batches.noise)

    def _shared_logits(self, batches: EpochBatches) -> SharedLogits:
        """Let the trainer take its teachers' clean logits from trials with the same batches, and leave them its own."""
        folder = shared_logits(self.folder.store_root)
        names = self._shared_names(batches) if self.teachers and folder.is_dir() else {}
        shared = SharedLogits(folder, names, self.training.batch_size, self.data.num_classes)
        self.trainer.recall = lambda name, labels, compute: shared.answer(name, batches.done - 1, labels, compute)
        return shared

    def _shared_names(self, batches: EpochBatches) -> dict[str, str]:
        return shared_names(
            self._images_digest,
            self._teacher_digests,
            batches,
            engine=self.trainer.engine,
            precision=self.trainer.precision,
            device=self.device,
        )

    @cached_property
    def _images_digest(self) -> str:
        return digest(vars(self.data.train))

    @cached_property
    def _teacher_digests(self) -> dict[str, str]:
        sources = self.spec.teachers
        return {name: network_digest(network, sources[name].network) for name, network in self.teachers.items()}

    def _learn_first(self) -> None:
        """Held-out statistics of the network that training starts from, for the parts that ask for it (FRL)."""
        parts = [part for part in self.trainer.method.parts if part.held_out_first]
        if parts and self.trainer.epoch == 0:
            with globally_seeded("first", *self.coordinates):
                before = EpochEnd(-1, self.epochs, 1.0, self._held_out(-1))
                for part in parts:
                    part.end_epoch(before)

    @cached_property
    def held_out_forward(self) -> FoldedTwin | PlainForward:
        """The student as it stands, for those who learn from held-out images."""
        return evaluation_forward(self.trainer.student, self.spec.engine, recorded=True)

    def _held_out(self, epoch: int) -> HeldOut | None:
        if not (wanted := held_out_wanted(self.spec)):
            return None
        part, forward = self.data.held_out, self.held_out_forward
        forward.refresh()
        return self.fitting.run(
            lambda size: held_out_statistics(
                forward, part.images, part.labels, self.data.num_classes, eps=self.spec.eps, wanted=wanted,
                generator=seeded("held-out", *self.coordinates, epoch), batch_size=size,
            )
        )  # fmt: skip

    def _validate(self, epoch: int, loss: float) -> dict[str, Any]:
        """The epoch's row; writes the weights where they are the best so far (ties go to the later epoch)."""
        weights = self.trainer.averaged_state() or self.trainer.student.state_dict()
        self.validated.load_state_dict(weights)
        self.validation_forward.refresh()
        clean, robust = self._class_accuracy(self.data.validation)
        values = {"val_clean": clean, "val_robust": robust}
        if self.training.record_test_curve:
            values["peeked_test_clean"], values["peeked_test_robust"] = self._class_accuracy(self.data.test)
        self._log_classes(epoch, values)
        natural, attacked = metrics.summary(clean), metrics.summary(robust)
        score = attacked["selection_score"]
        if not score < self.best:
            self.best = score
            self._write(SELECTED, epoch)
        return {
            "epoch": epoch + 1,
            "lr": self.training.lr * self.trainer.lr_factor(epoch),
            "loss": loss,
            "val_clean_avg": natural["average"],
            "val_clean_worst": natural["worst"],
            "val_robust_avg": attacked["average"],
            "val_robust_worst": attacked["worst"],
            "val_robust_nsd": attacked["nsd_population"],
            "selection_score": score,
        }

    def _class_accuracy(self, part: Images) -> tuple[np.ndarray, np.ndarray]:
        """Clean and robust accuracy per class under the validation attack; the same start noise in every epoch."""
        clean, robust = self.fitting.run(
            lambda size: correct_under_pgd(
                self.validation_forward, part.images, part.labels, eps=self.spec.eps,
                steps=self.training.validation_steps, batch_size=size,
                generator=seeded("validation", self.spec.dataset.name, self.spec.split_seed),
            )
        )  # fmt: skip
        return tuple(class_rates(values, part.labels, self.data.num_classes) for values in (clean, robust))  # type: ignore[return-value]

    def _log_classes(self, epoch: int, values: Mapping[str, np.ndarray]) -> None:
        logged = {
            name: value.cpu().double().numpy() for name, value in self.trainer.method.class_state().items()
        } | dict(values)
        self.history["class_state"] += [
            {"epoch": epoch + 1, "class_index": index, "quantity": name, "value": float(number)}
            for name, numbers in logged.items()
            for index, number in enumerate(numbers)
        ]

    # Disk

    def save(self) -> None:
        """The whole state, atomically; within an epoch, beside that of its beginning."""
        self.peak = larger(self.peak, peak_memory(self.device))
        state = {
            "trainer": self.trainer.state_dict(),
            "batches": self.batches.state_dict() if self.batches else None,
            "history": self.history,
            "best": float(self.best),
            "seconds": self.seconds,
            "in_epoch": self.in_epoch,
            "cpu_seconds": self.cpu_seconds,
            "origins": self.origins,
            "teacher_sha256": self.teacher_sha256,
            "init_sha256": self.init_sha256,
            "remarks": list(self.remarks),
            **self.peak,
        }
        write_training_state(self.folder.part(self.device.type) if self.batches else self.folder.state, state)
        if not self.batches:
            self._drop_parts()

    def _drop_parts(self) -> None:
        for part in self.folder.parts().values():
            part.unlink(missing_ok=True)

    def saved(self) -> Path | None:
        """The file to go on from."""
        files = (self.folder.part(self.device.type), self.folder.state)
        return next((path for path in files if path.exists()), None)

    def begin_again(self) -> Iterator[str]:
        """What there is to say where the epoch that comes next was begun elsewhere: a part that cannot be taken up."""
        for kind in self.folder.parts():
            if self.batches is None and kind != self.device.type:
                text = f"epoch {self.trainer.epoch + 1} was begun on {kind} and starts over on {self.device.type}"
                self.remarks[text] = None
                yield text

    def resume(self, saved: Path) -> None:
        """Take up a saved state; not one that learnt or started from networks with other weights, nor one whose best
        weights are damaged or gone."""
        state = read_training_state(saved)
        for name, sha256 in (("teacher_sha256", self.teacher_sha256), ("init_sha256", self.init_sha256)):
            if state.get(name, sha256) != sha256:
                return
        if state["history"]["epochs"] and not self.folder.has_whole(SELECTED):
            return
        self.trainer.load_state_dict(state["trainer"])
        self.history, self.best = state["history"], state["best"]
        self.seconds, self.in_epoch = state["seconds"], state.get("in_epoch", 0.0)
        self.peak = {name: state.get(name) for name in peak_memory(self.device)}
        self.cpu_seconds, self.remarks = state.get("cpu_seconds", 0.0), dict.fromkeys(state.get("remarks", []))
        earlier = state.get("origins", [])
        self.origins = earlier + [here for here in self.origins if here not in earlier]
        if state["batches"] is not None:
            self.batches = self._batches(self.trainer.epoch)
            self.batches.load_state_dict(state["batches"])

    def finish(self) -> None:
        """Leave the last weights and the history; the training state is dropped."""
        self.validated.load_state_dict(self.trainer.averaged_state() or self.trainer.student.state_dict())
        self._write("last", self.epochs - 1)
        record = {
            **self.history,
            "train_s": self.seconds,
            "train_cpu_s": self.cpu_seconds,
            "origins": self.origins,
            "teacher_sha256": self.teacher_sha256,
            "init_sha256": self.init_sha256,
            **self.peak,
            "notes": self._notes(),
        }
        write_bytes(self.folder.record, to_checked_json(record))
        self.folder.state.unlink(missing_ok=True)
        self._drop_parts()

    def _write(self, checkpoint: str, epoch: int) -> None:
        sidecar = {
            "checkpoint": checkpoint,
            "epoch": epoch + 1,
            "selection_score": float(self.best),
            "spec": self.spec.model_dump(mode="json"),
        }
        write_state(self.folder.weights(checkpoint), self.validated, sidecar)

    def _notes(self) -> list[dict[str, str]]:
        notes = [{"source": "engine", "text": self._engine_note()}]
        notes += [{"source": "device", "text": text} for text in self.remarks]
        if self._batches(0).dropped:
            text = f"a last batch of one image is left out of each epoch, which has {len(self.data.train)} images"
            notes.append({"source": "batches", "text": text})
        elif short := short_last_batch(len(self.data.train), self.training.batch_size):
            notes.append({"source": "batches", "text": short})
        for name, aside in self.folder.damaged().items():
            text = f"{name} was damaged and is set aside as {aside}; the training started over from what was whole"
            notes.append({"source": "damage", "text": text})
        return notes

    def _engine_note(self) -> str:
        """What ran how: a train-mode attack takes the network as it is, whatever the engine."""
        engine, precision = self.spec.engine, self.spec.precision
        if self.trainer.train_mode_attack:
            return f"{engine}, {precision} update, float32 attack in train mode on the unfolded network"
        return f"{engine}, {precision} attack and update, {self.trainer.attacked.description}"
