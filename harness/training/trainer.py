"""The one training loop: every method trains here, and the loop owns the attack, the optimiser, the schedule and the
randomness."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from harness.attacks.ascent import (
    Ascent,
    Forward,
    Objective,
    Steps,
    Toward,
    ascend,
    gradient_sign,
    normal_start,
    uniform_start,
)
from harness.attacks.pgd import cross_entropy
from harness.data.augment import augmented
from harness.engine.forwards import evaluation_forward, frozen, statistics_kept, training_forward, update_precision
from harness.seeds import globally_seeded, seeded
from harness.spec import AugmentSpec, TrainingSpec
from harness.training.weight_average import WeightAverage
from harness.training.weight_perturbation import perturbed
from methods.base import (
    ADVERSARIAL,
    ADVERSARIAL_AGAIN,
    CLEAN,
    CLEAN_AGAIN,
    Adversary,
    EpochEnd,
    HeldOut,
    Method,
    Step,
    View,
    clean_among,
)
from methods.statistics import ClassSums

Batches = Iterable[tuple[Tensor, Tensor]]
Noise = Callable[[str, Tensor], Tensor]
# A teacher's name, the labels of the clean batch, and how to compute the logits: the logits, perhaps from elsewhere.
Recall = Callable[[str, Tensor, Callable[[], Tensor]], Tensor]


class NonFiniteLossError(RuntimeError):
    """Training has diverged: names the epoch and the step."""


class Trainer:
    """A student in training: the state between two steps, and the step.

    teachers: frozen networks by name. engine: `fast` (folded twin, channels last, target once) or `plain` (what the
    papers' scripts do). coordinates: of the trial; with epoch and batch they decide what a method draws at random.
    """

    def __init__(
        self,
        student: nn.Module,
        method: Method,
        teachers: Mapping[str, nn.Module],
        training: TrainingSpec,
        *,
        eps: float,
        engine: str = "fast",
        precision: str = "float32",
        device: torch.device | None = None,
        coordinates: tuple[int | str, ...] = (),
    ) -> None:
        self.device = device or torch.device("cpu")
        self.coordinates = coordinates
        self.student = student.to(self.device)
        if engine == "fast":
            self.student.to(memory_format=torch.channels_last)
        self.method, self.training, self.eps = method, training, eps
        self.engine, self.precision = engine, precision
        self.step_size = training.step_size or eps / 4
        self.train_mode_attack = getattr(method.settings, "attack_mode", "eval") == "train"
        self.clamp_start = getattr(method.settings, "clamp_start", True)
        self.attacked = evaluation_forward(student, engine, precision, recorded=True)
        self.updated = training_forward(student, engine)
        self.teachers = {
            name: evaluation_forward(network.to(self.device).eval().requires_grad_(False), engine, precision)
            for name, network in teachers.items()
        }
        self.recall: Recall = lambda name, labels, compute: compute()
        self.average = WeightAverage(training.weight_average) if training.weight_average else None
        self.optimizer = torch.optim.SGD(
            self.student.parameters(),
            lr=training.lr,
            momentum=training.momentum,
            weight_decay=training.weight_decay,
            nesterov=training.nesterov,
            fused=self.device.type == "cuda" or None,
        )
        self.epoch = 0
        self.losses: list[Tensor] = []

    # One epoch

    def begin_epoch(self) -> None:
        """Set the learning rate and forget the last epoch's sums."""
        self.losses = []
        for group in self.optimizer.param_groups:
            group["lr"] = self.training.lr * self.lr_factor(self.epoch)
        with self._seeded("begin"):
            for part in self.method.parts:
                part.begin_epoch(self.device)

    def train_steps(self, batches: Batches, noise: Noise) -> Iterator[int]:
        """Train on each batch of (images float32 in [0, 1], labels); yields the number of steps done, so that the
        caller can stop in between."""
        for images, labels in batches:
            with self._seeded("step"):
                loss = self.step(images, labels, noise)
            self.losses.append(loss)
            yield len(self.losses)

    def end_epoch(self, held_out: HeldOut | None = None) -> float:
        """The method's class update; the epoch's mean loss. Raises NonFiniteLossError."""
        losses = torch.stack(self.losses)
        bad = (~losses.isfinite()).nonzero()
        if len(bad):
            raise NonFiniteLossError(
                f"the loss is not finite: epoch {self.epoch + 1}, step {int(bad[0]) + 1} of {len(losses)}"
            )
        end = EpochEnd(self.epoch, self.training.epochs, self.lr_factor(self.epoch + 1), held_out)
        with self._seeded("end"):
            for part in self.method.parts:
                part.end_epoch(end)
        self.epoch += 1
        return float(losses.mean())

    def train_epoch(self, batches: Batches, noise: Noise, held_out: HeldOut | None = None) -> float:
        """A whole epoch at once; the mean loss."""
        self.begin_epoch()
        for _ in self.train_steps(batches, noise):
            pass
        return self.end_epoch(held_out)

    def lr_factor(self, epoch: int) -> float:
        """Learning rate of an epoch (from 0) over the base rate."""
        passed = sum(milestone <= epoch for milestone in self.training.milestones)
        if self.training.decay_rule == "restart":
            passed = min(passed, 1)
        return self.training.decay**passed

    # Before an epoch

    def count_confusion(self, batches: Batches, noise: Noise) -> Iterator[int]:
        """What the student takes the images of these batches for under attack, for the parts that learn from it, which
        they do after the last batch; yields the number of batches done."""
        counted = [
            (part, ClassSums(part.num_classes, width=part.num_classes, device=self.device))
            for part in self.method.parts
            if part.confusion
        ]
        steps = Steps(self.eps, self.step_size, self.training.attack_steps)
        self.attacked.refresh()
        for done, (images, labels) in enumerate(batches, 1):
            start = uniform_start(images, self.eps, noise("uniform", images), clamp=self.clamp_start)
            logits = self._student(ascend(self.attacked, images, cross_entropy(labels), steps, start=start).point)
            for part, sums in counted:
                sums.add(one_hot(part.taken_for(logits, labels), part.num_classes), labels)
            yield done
        for part, sums in counted:
            part.learn_confusion(sums.total.cpu())

    # One step

    def step(self, images: Tensor, labels: Tensor, noise: Noise) -> Tensor:
        """Attack a batch, update the student; the mean loss, detached, on the device."""
        method = self.method
        teacher = {
            name: self.recall(name, labels, partial(self._teach, name, images))
            for name, point in method.teacher_forwards
            if point == CLEAN
        }
        ascent = self._attack(images, labels, teacher, noise)
        points = {CLEAN: images, CLEAN_AGAIN: images, ADVERSARIAL: ascent.point}
        if (
            ascent.last_correct is not None and ascent.first_wrong is not None
        ):  # BAT still compares with the clean images
            points |= {CLEAN: ascent.last_correct, ADVERSARIAL: ascent.first_wrong}
        points[ADVERSARIAL_AGAIN] = points[ADVERSARIAL]
        answers = {(name, CLEAN): logits for name, logits in teacher.items()}
        for name, point in method.teacher_forwards:
            if point != CLEAN:
                answers[name, point] = self._teach(name, points[point])
        self.student.train()
        uncounted = clean_among(method.forwards) if self.training.running_statistics == "adversarial" else frozenset()

        def record() -> Step:
            logits = {}
            with update_precision(self.device, self.precision):
                for name in method.forwards:
                    with statistics_kept(self.student) if name in uncounted else nullcontext():
                        logits[name] = self.updated(points[name]).float()
            return Step(labels, self.epoch, logits, answers, ascent.correct_iterates, self._generators())

        self.optimizer.zero_grad(set_to_none=True)
        step = record()
        for part in method.parts:
            part.observe(step)
        loss = self._mean_loss(step)
        awp = self.training.weight_perturbation
        if awp and self.epoch >= awp.start_epoch:
            with perturbed(self.student, loss, awp.gamma):
                self._mean_loss(record()).backward()
        else:
            loss.backward()
        if self.training.gradient_clip:
            nn.utils.clip_grad_norm_(self.student.parameters(), self.training.gradient_clip)
        self.optimizer.step()
        if self.training.batch_norm_pass:
            with torch.no_grad():
                self.student(images)
        return loss.detach()

    def _mean_loss(self, step: Step) -> Tensor:
        loss = self.method.loss(step)
        self.method.check_per_sample(loss, "the loss", step)
        return loss.mean()

    def _teach(self, name: str, images: Tensor) -> Tensor:
        with torch.no_grad():
            return self.teachers[name](images)

    def _attack(self, images: Tensor, labels: Tensor, teacher: Mapping[str, Tensor], noise: Noise) -> Ascent:
        self.attacked.refresh()
        view = View(labels, self.epoch, teacher, partial(self._student, images), self._generators())
        adversary = self.method.adversary(view)
        if adversary is None or not self.method.attacks:
            return Ascent(images)
        margins, counted = self.method.margin_policy, self.method.weight_policy.count_correct
        eps, step_size = margins.radius(labels, self.eps, self.step_size)
        drawn = noise(adversary.start, images)
        start = (
            normal_start(images, drawn)
            if adversary.start == "normal"
            else uniform_start(images, eps, drawn, clamp=self.clamp_start)
        )
        direction, second = adversary.direction or gradient_sign, margins.second_step(self.eps, self.step_size)
        steps = Steps(eps, step_size, self.training.attack_steps, direction, second)
        objective = self._objective(adversary)
        with frozen(self.student) if self.engine == "fast" else nullcontext():
            return ascend(
                self._attack_forward(), images, objective, steps,
                start=start, labels=labels, count_correct=counted, stop_points=margins.stop_points,
            )  # fmt: skip

    def _student(self, images: Tensor) -> Tensor:
        """The student's logits in evaluation mode, no gradient."""
        with torch.no_grad():
            return self.attacked(images)

    def _attack_forward(self) -> Forward:
        if not self.train_mode_attack:
            return self.attacked
        self.student.train()
        return lambda point: self.student(point).float()

    def _objective(self, adversary: Adversary) -> Objective:
        if adversary.teacher is not None:
            network = self.teachers[adversary.teacher]
            return lambda logits, point: adversary.objective(logits, network(point))
        if adversary.target is None:
            return lambda logits, _: adversary.objective(logits, None)
        if self.engine == "plain" and adversary.recomputes_target:
            recompute = adversary.target
            return lambda logits, _: adversary.objective(logits, recompute())
        return Toward(adversary.objective, adversary.target())

    # Randomness

    def _generators(self) -> Callable[[str], torch.Generator]:
        """What `View` and `Step` of the next batch carry; the losses of the epoch count the batches before it."""
        moment = (*self.coordinates, self.epoch, len(self.losses))
        return lambda purpose: seeded("method", purpose, *moment)

    def _seeded(self, part: str) -> AbstractContextManager[None]:
        """For what draws without being handed a generator: a network's dropout, or a method against the rules."""
        return globally_seeded("global", part, *self.coordinates, self.epoch, len(self.losses), device=self.device)

    # State

    def state_dict(self) -> dict[str, Any]:
        """Everything that a later step depends on, but for the generators of the batches."""
        return {
            "student": self.student.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "method": self.method.save(),
            "average": self.average.state_dict() if self.average else None,
            "epoch": self.epoch,
            "losses": self.losses,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Undo `state_dict`, bit for bit."""
        self.student.load_state_dict(state["student"])
        self.optimizer.load_state_dict(state["optimizer"])
        for group in self.optimizer.param_groups:  # the state may come from another kind of device
            group["fused"] = self.optimizer.defaults["fused"]
        self.method.restore(state["method"])
        if self.average:
            self.average.load_state_dict(state["average"], self.device)
        self.epoch, self.losses = state["epoch"], [loss.to(self.device) for loss in state["losses"]]
        for part in self.method.parts:
            part.to(self.device)

    def averaged_state(self) -> Mapping[str, Tensor] | None:
        """The averaged weights where an average exists: what is validated, kept and evaluated in place of the
        student's own."""
        return self.average.averaged if self.average else None


class EpochBatches:
    """The batches of one epoch: order, augmentation and start noise from generators seeded by the trial's coordinates
    and the epoch, so that two methods with one seed and the same training images see the same batches. A state in the
    middle of the epoch can be saved and restored.

    images: uint8 (N, C, H, W) on the training device; labels: (N,) int64 there. A last batch of one image is left out
    (`dropped` is then 1): it has no variance for a batch norm over maps of one pixel.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        batch_size: int,
        *,
        augment: AugmentSpec,
        coordinates: tuple[int | str, ...],
        epoch: int,
    ) -> None:
        self.images, self.labels, self.batch_size = images, labels, batch_size
        self.augment = augment
        order = torch.randperm(len(labels), generator=seeded("order", *coordinates, epoch))
        self.dropped = int(len(labels) > batch_size > 1 and len(labels) % batch_size == 1)
        self.order = order[: len(order) - self.dropped]
        self.augmentation = seeded("augmentation", *coordinates, epoch)
        # all that decides the batches beside the images: what is computed on them is shared by it
        self.recipe = {
            "batch_size": batch_size,
            "augment": augment.model_dump(),
            "order": self.order,
            "augmentation": self.augmentation.get_state(),
        }
        self.start_noise = seeded("noise", *coordinates, epoch, device=images.device)
        self.done = 0

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        while self.done * self.batch_size < len(self.order):
            chosen = self.order[self.done * self.batch_size : (self.done + 1) * self.batch_size].to(
                self.images.device, non_blocking=True
            )
            self.done += 1
            yield augmented(self.images[chosen], self.augment, self.augmentation), self.labels[chosen]

    def __len__(self) -> int:
        return math.ceil(len(self.order) / self.batch_size)

    def noise(self, start: str, images: Tensor) -> Tensor:
        """Start noise: standard normal, or uniform in [-1, 1]."""
        if start == "normal":
            return torch.randn(images.shape, generator=self.start_noise, device=images.device)
        return torch.rand(images.shape, generator=self.start_noise, device=images.device).mul_(2).sub_(1)

    def state_dict(self) -> dict[str, Any]:
        return {"done": self.done, "augmentation": self.augmentation.get_state(), "noise": self.start_noise.get_state()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.done = state["done"]
        self.augmentation.set_state(state["augmentation"])
        self.start_noise.set_state(state["noise"])
