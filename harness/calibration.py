"""How long trials will take on this machine, from seconds of measuring: some batches of each distinct training, short
pieces of each attack. And with how many threads a trial makes the most of each core.

Networks have fresh weights here and data are the real ones: a batch costs the same at the start of a training as at its
end. What fresh weights cannot tell is how many images are still right when an attack goes on; the store tells, where it
has results of the same data and radius, else `CLEAN` and `ROBUST` are assumed.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

import methods
from harness.attacks.ascent import Forward
from harness.attacks.autoattack import STANDARD, Effort, attack_stage
from harness.attacks.conditions import Conditions
from harness.attacks.function import attack_by_function
from harness.attacks.pgd import attack_chunk, predict, seeded_noise
from harness.attacks.registry import AUTOATTACK_STAGES, ascent_settings, attack_info, stage_names
from harness.data.augment import to_float
from harness.data.splits import held_out_wanted, wants_second_split
from harness.engine.forwards import evaluation_forward
from harness.engine.process import (
    deterministic_algorithms,
    exact_float32,
    keep_freed_memory,
    torch_threads,
    tuned_convolutions,
)
from harness.errors import InputError
from harness.inputs import Data, data_of, new_network
from harness.seeds import seeded
from harness.spec import AttackRequest, TrainedSpec, TrialSpec
from harness.store.store import Store
from harness.store.work import WorkingFolder
from harness.training.train import trainer_of
from harness.training.trainer import EpochBatches, Noise, Trainer
from harness.training.validation import correct_under_pgd, held_out_statistics

CLEAN, ROBUST = 0.85, 0.65  # shares of the test images that are right before an attack and after it
MEASURE_S, FEWEST, MOST = 1.5, 3, 12  # seconds of batches to measure, and how many batches at least and at most
PIECE, PIECE_S = 32, 0.1  # images of an attack's piece at least, and more for as many seconds of forwards
VALIDATED = 250  # images of the piece of a validation
NO_RADIUS = 1e-6  # at which no image breaks
SHORT, LONG = 4, 12  # steps of an attack: the difference is free of what an attack does once


@dataclass(frozen=True)
class Estimate:
    """Seconds of one trial on its device with its threads, nothing else running there."""

    train_s: float
    eval_s: float

    @property
    def total_s(self) -> float:
        return self.train_s + self.eval_s


class Calibration:
    """Estimates trials; those of one configuration (data, networks, method, batch, precision, threads, device) are
    measured once. store: where shares of surviving images are looked up, and which networks are trained already; those
    of the trials `redone` will be trained again."""

    def __init__(
        self, store: Store, *, data_root: Path | None = None, download: bool = False, redone: Collection[str] = ()
    ) -> None:
        self.data_root, self.download, self.redone = data_root, download, redone
        self.store, self.shares = store, stored_shares(store)
        self.measured: dict[str, Any] = {}

    def estimate(self, spec: TrialSpec) -> Estimate:
        """The trial's estimate, of its evaluation alone where the store has its network. InputError where data are
        missing, or it wants a GPU and there is none here."""
        device, data = _device(spec), self._data(spec)
        where = (_device_facts(spec), spec.dataset, spec.student)
        with torch_threads(spec.threads):
            train_s = 0.0
            trained = not WorkingFolder(self.store.root, spec.training_id).lacks(spec.evaluation.checkpoints)
            if isinstance(spec, TrainedSpec) and (not trained or spec.trial_id in self.redone):
                key = (where, _training_facts(spec, data.num_classes))
                train_s = self._once(key, lambda: epoch_seconds(spec, data, device)) * spec.training.epochs
            eval_s = 0.0
            for attack in spec.evaluation.attacks:
                cost = self._once(
                    (where, attack.overrides, spec.evaluation.gradient_precision),
                    partial(attack_cost, attack, spec, data, device),
                )
                images = min(attack.images or len(data.test), len(data.test))
                times = len(attack.checkpoints) if isinstance(spec, TrainedSpec) else 1
                eval_s += times * images * cost.seconds(self._share(spec, cost, attack.name))
        return Estimate(train_s, eval_s)

    def _data(self, spec: TrialSpec) -> Data:
        facts = (spec.dataset, spec.split_seed, wants_second_split(spec), _device_facts(spec))
        read = partial(data_of, spec, _device(spec), root=self.data_root, download=self.download)
        return self._once(facts, read)

    def _once(self, key: object, measure: Callable[[], Any]) -> Any:
        if repr(key) not in self.measured:
            self.measured[repr(key)] = measure()
        return self.measured[repr(key)]

    def _share(self, spec: TrialSpec, cost: AttackCost, attack: str) -> float:
        name, assumed = (attack, ROBUST) if cost.drops_broken else ("clean", CLEAN)
        return self.shares.get((spec.dataset.label, spec.eps, name), assumed)


@dataclass(frozen=True)
class AttackCost:
    """Seconds per image of one attack: of its clean forward, and of the attack on an image that never breaks."""

    clean_s: float
    attacked_s: float
    drops_broken: bool

    def seconds(self, share: float) -> float:
        """Per image, where the attack works on this share of the images."""
        return self.clean_s + share * self.attacked_s


def stored_shares(store: Store) -> dict[tuple[str, float, str], float]:
    """The share of images that survive, over all finished trials, by data set, radius and attack."""
    rows = store.read("class_accuracy", columns=["dataset", "eps", "attack", "n", "correct"]).dropna()
    sums = rows.groupby(["dataset", "eps", "attack"], observed=True)[["n", "correct"]].sum().reset_index()
    keys = zip(sums["dataset"].astype(str), sums["eps"].astype(float), sums["attack"].astype(str), strict=True)
    return dict(zip(keys, (sums["correct"] / sums["n"]).astype(float), strict=True))


# Training


@tuned_convolutions()
def epoch_seconds(spec: TrainedSpec, data: Data, device: torch.device) -> float:
    """One epoch: steps on the training images, validation, and the statistics of held-out or of training images that
    the method learns from."""
    trainer = _trainer(spec, data, device)
    steps = len(data.train) / spec.training.batch_size
    seconds = steps * step_seconds(trainer, data, spec.training.batch_size)
    if trainer.method.learns_confusion:
        seconds += steps * confusion_seconds(trainer, data, spec.training.batch_size)
    forward = evaluation_forward(trainer.student, spec.engine, recorded=True)
    validated = len(data.validation) + (len(data.test) if spec.training.record_test_curve else 0)
    seconds += validated * _validation_seconds(forward, data, spec)
    if held_out_wanted(spec):
        seconds += len(data.held_out) * _held_out_seconds(forward, data, spec)
    return seconds


def step_seconds(trainer: Trainer, data: Data, batch_size: int) -> float:
    """The median of some training steps on whole batches; the first, which allocates, does not count."""
    awp = trainer.training.weight_perturbation
    trainer.epoch = min(awp.start_epoch, trainer.training.epochs - 1) if awp else 0  # when its steps cost more
    trainer.begin_epoch()
    return _median_seconds(trainer, data, batch_size, trainer.step)


def confusion_seconds(trainer: Trainer, data: Data, batch_size: int) -> float:
    """The same of the attack on a batch before an epoch."""

    def count(images: Tensor, labels: Tensor, noise: Noise) -> None:
        for _ in trainer.count_confusion([(images, labels)], noise):
            pass

    return _median_seconds(trainer, data, batch_size, count)


def _median_seconds(
    trainer: Trainer, data: Data, batch_size: int, work: Callable[[Tensor, Tensor, Noise], Any]
) -> float:
    times: list[float] = []
    for images, labels, noise in _whole_batches(data, batch_size):
        times.append(_seconds(trainer.device, partial(work, images, labels, noise)))
        if len(times) > MOST or (len(times) > FEWEST and sum(times[1:]) > MEASURE_S):
            break
    return median(times[1:])


def _whole_batches(data: Data, batch_size: int) -> Iterator[tuple[Tensor, Tensor, Noise]]:
    """Batches without end."""
    size = min(batch_size, len(data.train))
    for epoch in count():
        batches = EpochBatches(
            data.train.images, data.train.labels, size,
            augment=data.augment, coordinates=("calibration",), epoch=epoch,
        )  # fmt: skip
        for images, labels in batches:
            if len(labels) == size:
                yield images, labels, batches.noise


def _trainer(spec: TrainedSpec, data: Data, device: torch.device) -> Trainer:
    teachers = {name: new_network(source.network, data, 1) for name, source in spec.teachers.items()}
    return trainer_of(spec, data, device, new_network(spec.student, data, 0), teachers)


def _validation_seconds(forward: Forward, data: Data, spec: TrainedSpec) -> float:
    """Per image."""
    images, labels = data.validation.images[:VALIDATED], data.validation.labels[:VALIDATED]
    steps = spec.training.validation_steps
    generator = seeded("calibration")
    attack = partial(correct_under_pgd, forward, images, labels, eps=spec.eps, steps=steps, generator=generator)
    return _seconds(images.device, attack) / len(labels)


def _held_out_seconds(forward: Forward, data: Data, spec: TrainedSpec) -> float:
    """Per image."""
    images, labels = data.held_out.images[:VALIDATED], data.held_out.labels[:VALIDATED]
    work = partial(
        held_out_statistics, forward, images, labels, data.num_classes,
        eps=spec.eps, wanted=held_out_wanted(spec), generator=seeded("calibration"),
    )  # fmt: skip
    return _seconds(images.device, work) / len(labels)


# Evaluation


def attack_cost(attack: AttackRequest, spec: TrialSpec, data: Data, device: torch.device) -> AttackCost:
    """Measured on a few images, with next to no radius and the network's own answers as labels: no image breaks, and
    none is spared."""
    network = new_network(spec.student, data, 0).to(device).eval().requires_grad_(False)
    forward, precision = evaluation_forward(network, spec.engine), spec.evaluation.gradient_precision
    gradients = None if precision == "float32" else evaluation_forward(network, spec.engine, precision)
    images = min(attack.images or len(data.test), spec.evaluation.batch_size, spec.evaluation.chunk_size)
    x = _piece(forward, to_float(data.test.images[: int(ROBUST * images)]))
    labels = predict(forward, x, len(x))
    clean_s = _forward_seconds(forward, x)
    if attack_info(attack.name).ascent:
        settings = ascent_settings(attack.overrides)
        short = replace(settings, steps=min(SHORT, settings.steps))
        work = partial(
            attack_chunk, forward, x, labels, labels, short, eps=NO_RADIUS,
            noise=seeded_noise(x, short, "calibration"), batch_size=len(x), gradients=gradients,
        )  # fmt: skip
        work()
        return AttackCost(
            clean_s, _seconds(device, work) / len(x) * settings.steps / short.steps, settings.every_iterate
        )
    if attack_info(attack.name).function:
        work = partial(
            attack_by_function, attack.overrides, forward, x, labels, labels,
            eps=NO_RADIUS, batch_size=len(x), seed=(0,),
        )  # fmt: skip
        return AttackCost(clean_s, _seconds(device, work) / len(x), drops_broken=False)
    stages = [stage for stage in stage_names(attack.name, data.num_classes) if stage in AUTOATTACK_STAGES]
    conditions = Conditions({"name": attack.name}, NO_RADIUS, 0, len(x), data.num_classes)
    attacked_s = sum(_stage_seconds(stage, forward, x, labels, conditions) for stage in stages)
    return AttackCost(clean_s, attacked_s, drops_broken=True)


def _piece(forward: Forward, x: Tensor) -> Tensor:
    """As many of the images as are worth measuring: small networks have a cost a call, large ones take their time."""
    _forward_seconds(forward, x[:PIECE])
    return x[: max(PIECE, int(PIECE_S / _forward_seconds(forward, x[:PIECE])))]


def _forward_seconds(forward: Forward, x: Tensor) -> float:
    """Per image, without a gradient."""
    return _seconds(x.device, lambda: predict(forward, x, len(x))) / len(x)


def _stage_seconds(stage: str, forward: Forward, x: Tensor, labels: Tensor, conditions: Conditions) -> float:
    """Per image, of the whole standard stage: two beginnings of different length tell what a step costs."""

    def seconds(effort: Effort) -> float:
        attack = partial(attack_stage, stage, forward, x, labels, labels, conditions, effort=effort)
        return _seconds(x.device, attack)

    first, short, long = (Effort(iterations=steps, targets=1, queries=5 * steps) for steps in (1, SHORT, LONG))
    seconds(first)
    between = max(0.0, seconds(long) - seconds(short))
    steps, of_short, of_long = (each.steps(stage, conditions.num_classes) for each in (STANDARD, short, long))
    return between / (of_long - of_short) * steps / len(x)


# Threads


def batch_seconds(
    specs: Sequence[TrialSpec], *, data_root: Path | None = None, download: bool = False
) -> dict[int, float]:
    """Seconds of a training batch of the plan's longest training by number of threads: one, twice as many up to all
    cores. {1: 0.0} where nothing trains."""
    training = [spec for spec in specs if isinstance(spec, TrainedSpec)]
    if not training:
        return {1: 0.0}
    spec = max(training, key=lambda spec: spec.cost_hint)
    device = _device(spec)
    data = data_of(spec, device, root=data_root, download=download)
    found = {}
    for threads in _thread_counts(os.cpu_count() or 1):
        with torch_threads(threads):
            found[threads] = step_seconds(_trainer(spec, data, device), data, spec.training.batch_size)
    return found


def best_threads(seconds: Mapping[int, float]) -> int:
    """The number of threads with the most batches per second and core; the smaller of two that are equal."""
    return min(sorted(seconds), key=lambda threads: threads * seconds[threads])


def _thread_counts(cores: int) -> list[int]:
    return sorted({cores, *(2**power for power in range(cores.bit_length()) if 2**power <= cores)})


# Keys and clocks


def _training_facts(spec: TrainedSpec, num_classes: int) -> tuple[object, ...]:
    """What decides the cost of an epoch; most settings of methods and policies do not."""
    policies = [spec.method[kind]["name"] for kind in ("labels", "weights", "margins")]
    training = spec.training.model_dump(exclude={"epochs", "lr", "milestones", "decay", "momentum", "weight_decay"})
    teachers = {name: source.network for name, source in spec.teachers.items()}
    method: Any = methods.build(spec.method, num_classes)
    forwards = (spec.method["settings"].get("attack_mode"), method.forwards, method.teacher_forwards)
    return spec.method["name"], forwards, policies, training, teachers, spec.precision, spec.split_seed


def _device_facts(spec: TrialSpec) -> tuple[object, ...]:
    return str(_device(spec)), spec.threads, spec.engine, spec.deterministic


def _device(spec: TrialSpec) -> torch.device:
    if spec.resources.gpu and not torch.cuda.is_available():
        raise InputError(
            f"trial {spec.trial_id} ({spec.variant}) wants a GPU and this machine has none: calibrate where it will run"
        )
    keep_freed_memory()  # all as in the trial
    exact_float32()
    if spec.resources.gpu:
        deterministic_algorithms(spec.deterministic)
    return torch.device("cuda" if spec.resources.gpu else "cpu")


def _seconds(device: torch.device, work: Callable[[], object]) -> float:
    """Wall seconds; of a GPU until it has finished."""
    begun = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - begun
