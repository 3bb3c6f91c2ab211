"""Training on the device: the numbers of every method, what makes the host wait, and going on after an interruption."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import methods
from benchmarks.gpu.check import Setting, Threshold, Work
from benchmarks.gpu.waiting import first_wait
from harness.engine.process import deterministic_algorithms
from harness.inputs import Data, Images, new_network
from harness.models.checkpoints import read_state
from harness.spec import AugmentSpec, TrainedSpec
from harness.store.work import WorkingFolder
from harness.suites.blocks import read
from harness.suites.plan import plan
from harness.suites.suite import Suite
from harness.training.train import train, trainer_of
from harness.training.trainer import EpochBatches, Trainer
from methods.base import EpochEnd, HeldOut

CLASSES, BATCH, BATCHES, SIDE = 10, 32, 3, 16
CNN = {"name": "cnn", "width": 4}
SUITE: dict[str, Any] = {
    "name": "acceptance",
    "dataset": "cifar10",  # of which nothing is read: the images are drawn
    "student": CNN,
    "teacher": {"model": CNN, "method": "at"},
    "natural_teacher": {"model": CNN, "method": "natural"},
    "init": {"method": "trades"},
    "eps": 8 / 255,
    "training": {"epochs": 4, "batch_size": BATCH, "lr": 0.05, "attack_steps": 3, "validation_steps": 2},
    "evaluation": {"attacks": ["clean"]},
}
# Every kind of state that a training may have: class weights and labels, two teachers, averages, perturbed weights, an
# attack in train mode.
RESUMED: tuple[Any, ...] = (
    "at",
    "absld_reweight",
    "mtard",
    "cfa_at",
    "csr",
    "fair_tat",
    {"method": "at", "training": {"weight_average": {"kind": "ema"}}, "variant": "at, EMA"},
    {"method": "trades", "training": {"weight_perturbation": {}}, "variant": "trades, AWP"},
    {"method": "ard", "attack_mode": "train", "variant": "ard, attack in train mode"},
)
# Their training attacks are never recorded: two networks climb, there is none, each batch has an objective of its own.
TOLD = frozenset({"adaad", "adaiad", "natural", "trix"})


def losses(setting: Setting) -> list[Work]:
    """Three steps of every method, two in one epoch and one in the next, against the same on the processor."""

    def measure(line: str, spec: TrainedSpec) -> dict[str, float]:
        right, found = (_three_losses(spec, device) for device in (torch.device("cpu"), setting.device))
        return {line: max(abs(ours - theirs) / abs(theirs) for ours, theirs in zip(found, right, strict=True))}

    return _each(sorted(methods.METHODS), "losses of three steps, relative difference", Threshold("<=", 2e-3), measure)


def recorded(setting: Setting) -> list[Work]:
    """Two epochs of every method with attacks done from recordings, against attacks that are told in full."""

    def measure(precision: str, line: str, spec: TrainedSpec) -> dict[str, float]:
        spec = spec.model_copy(update={"precision": precision})
        with _deterministic(setting.device):
            found, right = (two_epochs(spec, setting.device, record) for record in (True, False))
        return {line: max(float((one - other).abs().max()) for one, other in zip(found, right, strict=True))}

    what = "attacks from recordings: largest difference of weights and losses"
    return [
        work
        for precision in ("float32", "bfloat16")
        for work in _each(
            sorted(methods.METHODS), f"{precision}, {what}", Threshold("==", 0.0), partial(measure, precision)
        )
    ]


def waits(setting: Setting) -> list[Work]:
    """What the host waits for in a step of every method, its batch included."""

    def measure(line: str, spec: TrainedSpec) -> dict[str, str]:
        trainer, data = _begun(spec, setting.device)
        batches = _batches(trainer, data)
        trainer.begin_epoch()
        steps = trainer.train_steps(batches, batches.noise)
        for _ in range(2):  # the first one makes what later ones find, the second records
            next(steps)
        setting.synchronize()
        return {line: first_wait(setting.device, lambda: next(steps))}

    return _each(sorted(methods.METHODS), "first wait in a step", Threshold("==", "none"), measure)


def resume(setting: Setting) -> list[Work]:
    """A training that is interrupted in the middle of an epoch, against one that is not."""

    def measure(precision: str, line: str, spec: TrainedSpec) -> dict[str, float]:
        with _deterministic(setting.device), tempfile.TemporaryDirectory() as folder:
            return {
                line: _interruption_changes(spec.model_copy(update={"precision": precision}), Path(folder), setting)
            }

    return [
        work
        for precision in ("float32", "bfloat16")
        for work in _each(
            RESUMED, f"{precision}, interrupted: largest difference", Threshold("==", 0.0), partial(measure, precision)
        )
    ]


def _each(
    entries: Any, what: str, threshold: Threshold, measure: Callable[[str, TrainedSpec], Mapping[str, Any]]
) -> list[Work]:
    """A work for each of a suite's method entries."""
    lines = {f"{spec.variant}: {what}": spec for spec in _planned(entries) if spec.role == "student"}
    return [Work({line: threshold}, partial(measure, line, spec)) for line, spec in lines.items()]


def _planned(entries: Any) -> list[TrainedSpec]:
    specs = plan(read(Suite, {**SUITE, "methods": list(entries)}, "acceptance"))
    return [spec for spec in specs if isinstance(spec, TrainedSpec)]


# A training


def _drawn_data(device: torch.device) -> Data:
    """Noise: what is learnt does not matter here."""
    generator = torch.Generator().manual_seed(0)

    def part(size: int) -> Images:
        images = torch.randint(0, 256, (size, 3, SIDE, SIDE), dtype=torch.uint8, generator=generator)
        return Images(images.to(device), (torch.arange(size) % CLASSES).to(device))

    train, validation, held_out, test = map(part, (BATCH * BATCHES, 2 * CLASSES, 2 * CLASSES, 2 * CLASSES))
    names = tuple(map(str, range(CLASSES)))
    return Data(train, validation, held_out, test, torch.arange(len(test)), names, AugmentSpec(crop=2, flip=True))


def _held_out() -> HeldOut:
    error = torch.linspace(0.3, 0.6, CLASSES, dtype=torch.float64)
    return HeldOut(error / 2, error, error * 2, error / 3, torch.full_like(error, 20))


def _begun(spec: TrainedSpec, device: torch.device) -> tuple[Trainer, Data]:
    """A training before its first epoch, over networks that have learnt nothing."""
    data = _drawn_data(device)
    names = enumerate(spec.teachers.items(), 1)
    teachers = {name: new_network(source.network, data, seed) for seed, (name, source) in names}
    trainer = trainer_of(spec, data, device, new_network(spec.student, data, 0), teachers)
    for part in trainer.method.parts:
        if part.held_out_first:
            part.end_epoch(EpochEnd(-1, spec.training.epochs, 1.0, _held_out()))
    return trainer, data


def _batches(trainer: Trainer, data: Data) -> EpochBatches:
    return EpochBatches(
        data.train.images, data.train.labels, BATCH,
        augment=data.augment, coordinates=("acceptance",), epoch=trainer.epoch,
    )  # fmt: skip


def _three_losses(spec: TrainedSpec, device: torch.device) -> list[float]:
    trainer, data = _begun(spec, device)
    generator = torch.Generator().manual_seed(1)

    def noise(start: str, images: Tensor) -> Tensor:
        """Drawn on the processor: devices draw differently."""
        normal = torch.randn(images.shape, generator=generator)
        return (normal if start == "normal" else normal.erf()).to(device)

    found: list[float] = []
    for steps in (2, 1):
        if trainer.method.learns_confusion:
            for _ in trainer.count_confusion(_batches(trainer, data), noise):
                pass
        trainer.begin_epoch()
        for done in trainer.train_steps(_batches(trainer, data), noise):
            if done == steps:
                break
        found += [float(loss) for loss in trainer.losses]
        trainer.end_epoch(_held_out())
    return found


def two_epochs(spec: TrainedSpec, device: torch.device, record: bool) -> list[Tensor]:
    """The losses and the student's state. RuntimeError where an attack should have been recorded and was not."""
    trainer, data = _begun(spec, device)
    recorder = trainer.attacked.recorder
    if not record:
        trainer.attacked.recorder = None
    losses = []
    for _ in range(2):
        batches = _batches(trainer, data)
        if trainer.method.learns_confusion:
            for _ in trainer.count_confusion(batches, batches.noise):
                pass
            batches = _batches(trainer, data)
        losses.append(torch.tensor(trainer.train_epoch(batches, batches.noise, _held_out())))
    if record and recorder and not recorder.records and spec.method["name"] not in TOLD:
        raise RuntimeError("; ".join(["nothing was recorded", *recorder.problems]))
    return [*losses, *(each.double() for each in trainer.student.state_dict().values())]


def _interruption_changes(spec: TrainedSpec, root: Path, setting: Setting) -> float:
    """The largest difference of a last weight and of an epoch's loss."""
    data = _drawn_data(setting.device)
    for source in spec.sources:
        teacher = next(each for each in _planned(RESUMED) if each.training_id == source.training)
        list(train(teacher, data, root, setting.device, lambda: False))
    straight, interrupted = (_trained(spec, data, root, setting.device, stop) for stop in (None, BATCHES + 2))
    pairs = zip(straight, interrupted, strict=True)
    return max(float((one.double() - other.double()).abs().max()) for one, other in pairs)


def _trained(spec: TrainedSpec, data: Data, root: Path, device: torch.device, stop: int | None) -> list[Tensor]:
    """The last weights and the losses. stop: the number of the step after which the training is once interrupted."""
    folder, steps = WorkingFolder(root, spec.training_id), count(1)
    events = [event["event"] for event in train(spec, data, root, device, lambda: next(steps) == stop)]
    if stop is not None:
        assert events[-1] == "interrupted", events
        assert folder.part(device.type).exists(), "not in the middle of an epoch"
        events = [event["event"] for event in train(spec, data, root, device, lambda: False)]
    assert events[-1] == "epoch", events
    history = folder.history()
    assert history is not None
    losses = torch.tensor([row["loss"] for row in history["epochs"]])
    state = read_state(folder.weights("last"))
    shutil.rmtree(folder.path)
    return [losses, *state.values()]


@contextmanager
def _deterministic(device: torch.device) -> Iterator[None]:
    """As a trial of a suite with `deterministic: true`."""
    deterministic_algorithms(device.type == "cuda")
    try:
        yield
    finally:
        deterministic_algorithms(False)
