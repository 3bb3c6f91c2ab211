"""A student trained robustly in about a minute, kept in the temporary folder for the next run: what evaluation is
timed on. On an untrained network every image breaks at once, and an attack would cost nothing."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

import methods
from harness.data.registry import DATASETS
from harness.data.sources import load
from harness.data.splits import stratified_subset
from harness.errors import InputError
from harness.models.build import build
from harness.spec import NUMERICS_VERSION, AugmentSpec, TrainingSpec
from harness.store.provenance import processor_precision
from harness.training.trainer import EpochBatches, Trainer


@dataclass(frozen=True)
class Recipe:
    """How the student is made, and what it is attacked with. train_images, images: stratified subsets."""

    dataset: str
    width: int
    eps: float
    epochs: int
    train_images: int
    images: int


FASHION = Recipe("fashion_mnist", width=32, eps=0.1, epochs=5, train_images=6_000, images=2_000)
DIGITS = Recipe("digits", width=32, eps=0.1, epochs=12, train_images=1_000, images=450)


@dataclass(frozen=True)
class Robust:
    """A trained student in evaluation mode, and test images, uint8 (N, C, H, W), with their labels (N,)."""

    student: nn.Module
    images: Tensor
    labels: Tensor
    recipe: Recipe

    @property
    def num_classes(self) -> int:
        """Of the data set, whatever images there are."""
        return DATASETS[self.recipe.dataset].num_classes or 0

    def some(self, count: int) -> Robust:
        """The same with a stratified part of the images."""
        chosen = stratified_subset(self.labels, min(count, len(self.labels)), 1)
        return Robust(self.student, self.images[chosen], self.labels[chosen], self.recipe)


def robust_student(recipe: Recipe | None = None, folder: Path | None = None) -> Robust:
    """The student of a recipe; by default on Fashion-MNIST, on the digits where it is not installed. folder: where
    it is kept, the temporary one by default."""
    recipe = recipe or _available()
    test = load(recipe.dataset, "test")
    chosen = stratified_subset(test.labels, recipe.images, 0) if recipe.images < len(test.labels) else slice(None)
    student = build("cnn", {"width": recipe.width}, in_channels=test.channels, num_classes=test.num_classes)
    path = (folder or Path(tempfile.gettempdir())) / _name(recipe)
    try:
        student.load_state_dict(torch.load(path, weights_only=True))
    except FileNotFoundError:
        _train(student, recipe)
        temporary = path.with_suffix(f".{os.getpid()}")
        torch.save(student.state_dict(), temporary)
        temporary.replace(path)
    return Robust(student.eval(), test.images[chosen], test.labels[chosen], recipe)


def _available() -> Recipe:
    try:
        load(FASHION.dataset, "test")
        return FASHION
    except InputError:
        return DIGITS


def _name(recipe: Recipe) -> str:
    """Code that gives other numbers on purpose trains another student."""
    key = json.dumps([asdict(recipe), NUMERICS_VERSION, torch.__version__]).encode()
    return f"benchmark-student-{hashlib.sha256(key).hexdigest()[:16]}.pt"


def _train(student: nn.Module, recipe: Recipe) -> None:
    """Standard adversarial training, in the precision this machine is fastest in."""
    train, facts = load(recipe.dataset, "train"), DATASETS[recipe.dataset]
    chosen = stratified_subset(train.labels, recipe.train_images, 0)
    milestones = (recipe.epochs * 6 // 10, recipe.epochs * 85 // 100)
    trainer = Trainer(
        student,
        methods.build(methods.resolve("at", recipe.epochs), train.num_classes),
        {},
        TrainingSpec(epochs=recipe.epochs, batch_size=64, lr=0.05, milestones=milestones, attack_steps=7),
        eps=recipe.eps,
        precision=processor_precision(),
    )
    for epoch in range(recipe.epochs):
        batches = EpochBatches(
            train.images[chosen],
            train.labels[chosen],
            64,
            augment=AugmentSpec(crop=facts.crop_padding, flip=facts.flip),
            coordinates=("benchmark",),
            epoch=epoch,
        )
        trainer.train_epoch(batches, batches.noise)
