"""Every method and policy on tensors that pass for CUDA's: no step waits for the GPU, nothing meets on two devices, and
a training that is taken up in the middle of an epoch goes on bit for bit."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import methods
from harness.models.build import build
from harness.spec import AugmentSpec, TrainingSpec
from harness.training.trainer import EpochBatches, Trainer
from methods.base import EpochEnd, HeldOut
from tests.fake_cuda import CUDA, FakeCuda, fake_cuda
from tests.small import assert_same_weights

CLASSES, IMAGES, BATCH = 4, 16, 8
BASES = ("absld", "trades", "at")  # the first that a policy goes with carries it
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {"method": "trades", "engine": "plain"},
    "bfloat16": {"method": "absld", "precision": "bfloat16"},
    "train-mode attack": {"method": "fair_ard", "attack_mode": "train", "clamp_start": False},
    "ema": {"method": "at", "training": {"weight_average": {"kind": "ema"}}},
    "awp": {"method": "trades", "training": {"weight_perturbation": {}}},
    "clip": {"method": "at", "training": {"gradient_clip": 1.0, "batch_norm_pass": True, "nesterov": True}},
    "double step": {"method": "at", "margins": {"name": "dafa", "double_step": True}},
    "faal per class": {"method": "at", "weights": {"name": "faal", "per_class": True}},
    "trix by epoch": {"method": "trix", "statistic": "epoch"},
}


def policy_entries() -> Iterator[tuple[str, dict[str, Any]]]:
    """Every policy on a method that it goes with."""
    for kind, table in methods.POLICIES.items():
        for policy in table:
            for base in BASES:
                entry = {"method": base, kind: policy}
                try:
                    methods.resolve(entry, 2)
                except methods.SettingsError:
                    continue
                yield f"{base}, {kind} {policy}", entry
                break


ENTRIES = {**{name: {"method": name} for name in methods.METHODS}, **dict(policy_entries()), **OPTIONS}


def network(width: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(width)
        return build("cnn", {"width": width}, in_channels=3, num_classes=CLASSES)


class Training:
    """A small training of an entry, by hand: what the harness does between two epochs, without data and disk."""

    def __init__(self, entry: Mapping[str, Any], device: torch.device = CUDA) -> None:
        loop = {"engine": "fast", "precision": "float32", "training": {}}
        loop |= {key: entry[key] for key in loop if key in entry}
        resolved = methods.resolve({key: value for key, value in entry.items() if key not in loop}, 2)
        options = {"epochs": 2, "batch_size": BATCH, "attack_steps": 2} | methods.METHODS[resolved["name"]].training
        options |= loop.pop("training")
        if "weight_average" in options:
            options["weight_average"] = {**options["weight_average"], "start_epoch": 0, "threshold": 0.0}
        self.trainer = Trainer(
            network(8), methods.build(resolved, CLASSES), {name: network(6) for name in methods.teachers_of(resolved)},
            TrainingSpec.model_validate(options), eps=8 / 255, device=device, **loop,
        )  # fmt: skip
        generator = torch.Generator().manual_seed(0)
        self.images = torch.randint(256, (IMAGES, 3, 8, 8), dtype=torch.uint8, generator=generator).to(device)
        self.labels = (torch.arange(IMAGES) % CLASSES).to(device)
        self.held_out = HeldOut(*torch.linspace(0.1, 0.9, 5 * CLASSES, dtype=torch.float64).view(5, CLASSES))

    def batches(self, *purpose: str) -> EpochBatches:
        augment = AugmentSpec(crop=1, flip=True)
        epoch = self.trainer.epoch
        return EpochBatches(self.images, self.labels, BATCH, augment=augment, coordinates=purpose, epoch=epoch)

    def begin_epoch(self) -> EpochBatches:
        method, confusing = self.trainer.method, self.batches("confusion")
        if method.learns_confusion:
            list(self.trainer.count_confusion(confusing, confusing.noise))
        if self.trainer.epoch == 0:
            for part in method.parts:
                if part.held_out_first:
                    part.end_epoch(EpochEnd(-1, 2, 1.0, self.held_out))
        self.trainer.begin_epoch()
        return self.batches("training")

    def end_epoch(self) -> None:
        trainer, epoch = self.trainer, self.trainer.epoch
        trainer.end_epoch(self.held_out)
        if trainer.average:
            trainer.average.update(trainer.student, epoch, 1 - self.held_out.robust_error)

    def epoch(self) -> None:
        batches = self.begin_epoch()
        list(self.trainer.train_steps(batches, batches.noise))
        self.end_epoch()

    def weights(self) -> dict[str, Tensor]:
        state = self.trainer.averaged_state() or self.trainer.student.state_dict()
        return {name: value.cpu() for name, value in state.items()}


def through_the_disk(state: dict[str, Any]) -> dict[str, Any]:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, map_location="cpu", weights_only=True)


@contextmanager
def one_step_at_a_time(gpu: FakeCuda | None, training: Training, batches: EpochBatches) -> Iterator[Iterator[int]]:
    """The steps of an epoch; fails where one of them made the host wait."""
    steps = training.trainer.train_steps(batches, batches.noise)
    if gpu is None:
        torch.cuda.set_sync_debug_mode("error")
        try:
            yield steps
        finally:
            torch.cuda.set_sync_debug_mode("default")
    else:
        gpu.forget()
        yield steps
        assert not gpu.waits
        assert not gpu.uploads


@pytest.mark.parametrize("name", ENTRIES)
def test_no_step_waits_and_a_resumed_training_goes_on(name: str, gpu: FakeCuda | None) -> None:
    straight = Training(ENTRIES[name])
    straight.epoch()
    batches = straight.begin_epoch()
    with one_step_at_a_time(gpu, straight, batches) as steps:
        next(steps)
    saved = through_the_disk({"trainer": straight.trainer.state_dict(), "batches": batches.state_dict()})
    with one_step_at_a_time(gpu, straight, batches) as steps:
        list(steps)
    straight.end_epoch()

    resumed = Training(ENTRIES[name])
    resumed.trainer.load_state_dict(saved["trainer"])
    batches = resumed.batches("training")
    batches.load_state_dict(saved["batches"])
    with one_step_at_a_time(gpu, resumed, batches) as steps:
        assert len(list(steps)) == IMAGES // BATCH - 1
    resumed.end_epoch()
    assert_same_weights(straight.weights(), resumed.weights())
    network(8).to(CUDA).load_state_dict(straight.weights())


@pytest.mark.parametrize(("before", "after", "fused"), [("cpu", "cuda", True), ("cuda", "cpu", None)])
def test_the_optimiser_of_a_moved_training_is_that_of_its_new_device(before: str, after: str, fused: bool) -> None:
    with fake_cuda():
        training, moved = (Training(ENTRIES["at"], torch.device(device)) for device in (before, after))
        training.epoch()
        moved.trainer.load_state_dict(through_the_disk(training.trainer.state_dict()))
        assert [group["fused"] for group in moved.trainer.optimizer.param_groups] == [fused]
        moved.epoch()
        assert all(value.isfinite().all() for value in moved.weights().values())


PLANTED: dict[str, tuple[str, Any]] = {
    "a number of the host": ("_local_scalar_dense", lambda labels: float(labels.sum())),
    "a branch": ("_local_scalar_dense", lambda labels: bool((labels > 0).all())),
    "positions": ("nonzero", lambda labels: (labels > 0).nonzero()),
    "a boolean index": ("boolean index", lambda labels: labels[labels > 0]),
    "a boolean place": ("boolean index_put_", lambda labels: labels.clone().__setitem__(labels > 9, labels[:0])),
    "an index of one place": ("_local_scalar_dense", lambda labels: labels[labels.argmax()]),
    "counts": ("bincount", lambda labels: labels.bincount(minlength=CLASSES)),
    "a copy to the host": ("copy to the host", lambda labels: labels.cpu()),
    "a list": ("list", lambda labels: labels.tolist()),
    "a copy to the GPU": ("blocking copy to the GPU", lambda labels: torch.zeros(3).to(labels.device)),
    "a number on the GPU": ("as_tensor", lambda labels: torch.as_tensor(0.5, device=labels.device)),
    "an index of the CPU": ("indices of the CPU", lambda labels: labels[torch.arange(3)]),
}


@pytest.mark.parametrize("plant", PLANTED)
def test_a_planted_wait_is_found(plant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    what, wait = PLANTED[plant]
    monkeypatch.setattr(methods.METHODS["at"], "observe", lambda self, step: wait(step.labels))
    with fake_cuda() as gpu:
        training = Training(ENTRIES["at"])
        batches = training.begin_epoch()
        here = f"{what} at tests/training/test_no_waiting.py"
        with pytest.raises(AssertionError, match=here), one_step_at_a_time(gpu, training, batches) as steps:
            next(steps)


@pytest.mark.parametrize(
    "mixed",
    [
        lambda labels: labels + torch.zeros(BATCH),
        lambda labels: torch.zeros(BATCH).index_add(0, labels, torch.ones(BATCH)),
        lambda labels: torch.cat([labels, torch.zeros(BATCH, dtype=torch.int64)]),
        lambda labels: torch.rand(3, device=labels.device, generator=torch.Generator()),
        lambda labels: labels.numpy(),
    ],
)
def test_tensors_of_two_devices_do_not_meet(mixed: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(methods.METHODS["at"], "observe", lambda self, step: mixed(step.labels))
    with fake_cuda():
        training = Training(ENTRIES["at"])
        with pytest.raises((RuntimeError, TypeError), match=r"device|cuda"):
            training.epoch()
