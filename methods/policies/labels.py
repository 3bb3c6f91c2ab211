"""Label policies that do not learn while they teach: the same rule in every epoch. The adaptive one is in
`methods.absld`."""

from __future__ import annotations

from dataclasses import dataclass

from methods.base import Adversary, LabelPolicy, TargetSettings, View, cross_entropy_adversary
from methods.lazy import torch
from methods.losses import cross_entropy, kl
from methods.registry import register
from methods.settings import class_indices, setting


@register("hard")
class Hard(LabelPolicy):
    """The label itself: cross-entropy, attacked by cross-entropy from a uniform start (AT)."""

    teacher = False

    def divergence(
        self, term: str, logits: torch.Tensor, teacher_logits: torch.Tensor | None, labels: torch.Tensor, scale: float
    ) -> torch.Tensor:
        return cross_entropy(logits, labels)

    def adversary(self, view: View) -> Adversary:
        return cross_entropy_adversary(view)


@register("balanced")
class Balanced(LabelPolicy):
    """The label itself, against logits raised by log n_c, n_c the training images of class c: a balanced softmax; the
    attack maximises the plain cross-entropy from the normal start (AT-BSL). A class without images counts as of one."""

    teacher = False

    def setup(self) -> None:
        self.state["training_images"] = self.class_vector(1.0).double()

    def learn_class_counts(self, counts: torch.Tensor) -> None:
        self.state["training_images"] = counts.double().clamp(min=1)

    def divergence(
        self, term: str, logits: torch.Tensor, teacher_logits: torch.Tensor | None, labels: torch.Tensor, scale: float
    ) -> torch.Tensor:
        return cross_entropy(logits + self.state["training_images"].to(logits.dtype).log(), labels)

    def adversary(self, view: View) -> Adversary:
        return cross_entropy_adversary(view, start="normal")


@register("teacher")
class Teacher(LabelPolicy):
    """sm(t(x)) for both terms (RSLAD)."""

    Settings = TargetSettings

    def target(self, term: str, teacher_logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return teacher_logits


@dataclass(frozen=True)
class TemperedSettings:
    distill_temperature: float = setting(30.0, "T of T^2 KL(sm(t/T) || sm(s/T))", low=1e-6)


@register("tempered")
class Tempered(LabelPolicy):
    """One temperature T for teacher and student, with Hinton's T^2 factor (ARD)."""

    Settings = TemperedSettings

    def target(self, term: str, teacher_logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return teacher_logits / self.settings.distill_temperature

    def divergence(
        self, term: str, logits: torch.Tensor, teacher_logits: torch.Tensor | None, labels: torch.Tensor, scale: float
    ) -> torch.Tensor:
        assert teacher_logits is not None
        temperature = self.settings.distill_temperature
        return scale * temperature**2 * kl(teacher_logits / temperature, logits / temperature)


@dataclass(frozen=True)
class FixedClassTemperatureSettings(TargetSettings):
    temperature: float = setting(1.0, "temperature of every class that is not in `hard_classes`", low=1e-6)
    hard_temperature: float = setting(1.0, "temperature of the classes in `hard_classes`", low=1e-6)
    hard_classes: str = setting(
        "",
        "class indices, separated by commas; the ablation of the ABSLD papers gives hard classes sharper labels",
        example="3,5",
        classes=True,
    )


@register("fixed_class_temperature")
class FixedClassTemperature(LabelPolicy):
    """sm(t(x) / T_y) with temperatures that never move: one smoothness for all classes, or a sharper one for named
    classes."""

    Settings = FixedClassTemperatureSettings

    def setup(self) -> None:
        temperature = self.class_vector(self.settings.temperature)
        hard = class_indices(self.settings.hard_classes, "hard_classes", self.num_classes)
        temperature[hard] = self.settings.hard_temperature
        self.state["temperature_fixed"] = temperature

    def target(self, term: str, teacher_logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return teacher_logits / self.state["temperature_fixed"][labels, None]
