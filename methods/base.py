"""The contract of a method and of its three policies (label x weight x margin); authors import all they need from here.

A method answers four questions: what the adversary maximises (`adversary`), which forwards the update needs
(`forwards`, `teacher_forwards`), what the student minimises (`terms`), and what it learns about the classes
(`observe`, `end_epoch`). It never touches the optimiser, the loader, the device, the attack loop, the disk or a seed:
the training loop does, for every method alike. What it draws at random comes from the generator of the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from methods.lazy import torch
from methods.losses import KD_REDUCTIONS, cross_entropy, kd_scale, kl, soft_cross_entropy
from methods.observations import (
    ADVERSARIAL,
    ADVERSARIAL_AGAIN,
    CLEAN,
    CLEAN_AGAIN,
    NATURAL_TEACHER,
    TEACHER,
    EpochEnd,
    HeldOut,
    Step,
    View,
)
from methods.settings import Declares, NoSettings, S, setting
from methods.statistics import ClassSums

__all__ = [
    "ADVERSARIAL", "ADVERSARIAL_AGAIN", "CLEAN", "CLEAN_AGAIN", "NATURAL_TEACHER", "TEACHER", "Adversary",
    "AttackSettings", "DistillationSettings", "EpochEnd", "HeldOut", "LabelPolicy", "MarginPolicy", "Method",
    "NoSettings", "Part", "Step", "TargetSettings", "View", "WeightPolicy", "cross_entropy_adversary", "toward_target",
]  # fmt: skip


class Part:
    """A method or a policy: settings, and a state of a few numbers per class that the loop saves, restores and logs.

    What `setup` puts into `self.state[name]`, and sums in `self.sums[name]`, is checkpointed; `quantities()` is logged
    each epoch. `Settings` is a frozen dataclass of `setting`s, and `self.settings` one of them.
    """

    name: ClassVar[str]
    Settings: ClassVar[type[Any]] = NoSettings
    held_out: ClassVar[frozenset[str]] = frozenset()  # of {"pgd", "trades"}: the held-out statistics it learns from
    held_out_first: ClassVar[bool] = False  # also before the first epoch (FRL)
    confusion: ClassVar[bool] = False  # learns from what training images are taken for under attack (CSR)

    def __init__(self, settings: Mapping[str, Any], num_classes: int) -> None:
        self._settings = self.Settings(**settings)
        self.num_classes = num_classes
        self.state: dict[str, torch.Tensor] = {}
        self.sums: dict[str, ClassSums] = {}
        self.setup()

    def setup(self) -> None:
        """Fill `state` and `sums` with what they are before training."""

    def learn_class_counts(self, counts: torch.Tensor) -> None:
        """Learn, before training, how many training images (C,) int64 each class has."""

    def observe(self, step: Step) -> None:
        """Take the unweighted statistics of a batch, before the loss."""

    def end_epoch(self, end: EpochEnd) -> None:
        """Learn from the epoch's class statistics. The loop forgets the sums afterwards."""

    def taken_for(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """The class (B,) that an attacked training image counts as in the confusion."""
        return logits.argmax(1)

    def learn_confusion(self, counts: torch.Tensor) -> None:
        """Learn, before each epoch, where `confusion` asks for it: counts[i, j] training images of class i are taken
        for class j, (C, C) float64 on the CPU, under PGD on the cross-entropy with the training attack's radius and
        steps, student in evaluation mode."""

    def quantities(self) -> dict[str, torch.Tensor]:
        """What to log of the class state, by name: (C,) tensors."""
        return {key: value for key, value in self.state.items() if value.shape == (self.num_classes,)}

    # For those who write one.

    @property
    def settings(self: Declares[S]) -> S:
        """The hyper-parameters, of the class's own `Settings`."""
        return self._settings

    def class_vector(self, value: float) -> torch.Tensor:
        """A (C,) float32 tensor of one value."""
        return torch.full((self.num_classes,), value, dtype=torch.float32)

    def started(self, end: EpochEnd) -> bool:
        """Whether `start_epoch` epochs are complete, so that a policy may act on what it has learnt."""
        return end.epoch + 1 >= self.settings.start_epoch

    # For the loop.

    def begin_epoch(self, device: torch.device) -> None:
        """Forget the last epoch's sums and put the state where the batches are."""
        self.to(device)
        for sums in self.sums.values():
            sums.reset(device)

    def to(self, device: torch.device) -> None:
        self.state = {key: value.to(device) for key, value in self.state.items()}
        for sums in self.sums.values():
            sums.to(device)

    def state_dict(self) -> dict[str, Any]:
        return {"state": dict(self.state), "sums": {key: sums.state_dict() for key, sums in self.sums.items()}}

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        self.state = {key: value.clone() for key, value in saved["state"].items()}
        for key, sums in self.sums.items():
            sums.load_state_dict(saved["sums"][key])


@dataclass(frozen=True)
class Adversary:
    """What the training attack maximises, and how.

    objective(student_logits, target): per-sample value (B,) to maximise; `target` is what `target()` returned, labels
        or probabilities, or the logits of `teacher` at the current point (with gradient) where that is set (AdaAD). A
        GPU climbs from a recording, many times faster, where it is a function that closes over nothing, has no defaults
        and reads nothing that changes.
    start: "normal" (x + 0.001 N(0, 1)) or "uniform" (inside the eps ball). recomputes_target: the released script
        evaluates `target` anew in every step (same values, more work); only the plain engine does.
    direction(gradient, memory): where to step, and what to remember of it for the next step (at first None), such as
        a momentum; None is the gradient's sign.
    """

    objective: Callable[[torch.Tensor, Any], torch.Tensor]
    start: str
    target: Callable[[], torch.Tensor] | None = None
    recomputes_target: bool = False
    teacher: str | None = None
    direction: Callable[[torch.Tensor, torch.Tensor | None], tuple[torch.Tensor, torch.Tensor | None]] | None = None


def toward_target(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """KL(target || student) for constant target probabilities, without its constant entropy: the same gradient, less
    work per step."""
    return soft_cross_entropy(target, logits)


def cross_entropy_adversary(view: View, start: str = "uniform") -> Adversary:
    """CE(student(x'), y): Madry's attack from a uniform start, MART's and MTARD's from the normal one."""
    return Adversary(cross_entropy, start, target=lambda: view.labels)


@dataclass(frozen=True)
class TargetSettings:
    """Shared by the label policies that use a teacher."""

    target_log_eps: float = setting(
        0.0, "constant inside the target's log-entropy; 1e-5 in the RSLAD family's code: shifts the loss only", low=0
    )


class LabelPolicy(Part):
    """What the student is taught: the target of each term, and the divergence from it."""

    teacher: ClassVar[bool] = True  # whether it needs the teacher's clean logits

    def target(self, term: str, teacher_logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Target logits (B, C) of the `adversarial` or `clean` term."""
        raise TypeError(f"label policy '{self.name}' has no teacher targets")

    def divergence(
        self, term: str, logits: torch.Tensor, teacher_logits: torch.Tensor | None, labels: torch.Tensor, scale: float
    ) -> torch.Tensor:
        """The student's distance from the target, (B,). scale: the factor of `kd_reduction` on a class-summed KL."""
        assert teacher_logits is not None, "the loop computes the teacher's logits for every policy that asks"
        return scale * kl(self.target(term, teacher_logits, labels), logits, self.settings.target_log_eps)

    def adversary(self, view: View) -> Adversary:
        """The attack on this label: by default KL(target || student(x')) from the normal start (RSLAD, ABSLD)."""
        return Adversary(
            objective=toward_target,
            start="normal",
            target=lambda: self.target(ADVERSARIAL, view.teacher[TEACHER], view.labels).softmax(1),
        )


class WeightPolicy(Part):
    """How much each sample counts in each term."""

    needs_attack: ClassVar[bool] = False
    needs_clean_term: ClassVar[bool] = False
    weighs_cross_entropy: ClassVar[bool] = False  # the clean term, or the adversarial one where all labels are hard
    count_correct: ClassVar[bool] = False  # asks the attack for `correct_iterates`

    def weights(self, step: Step, coef_adv: float, coef_clean: float) -> tuple[torch.Tensor, torch.Tensor]:
        """Multipliers (B,) of the adversarial and the clean term. The coefficients are the method's own, for policies
        that balance the two."""
        ones = torch.ones_like(step.labels, dtype=torch.float32)
        return ones, ones


class MarginPolicy(Part):
    """How far the training attack may move each sample."""

    stop_points: ClassVar[bool] = False  # train on BAT's two points instead of (x', x)

    def radius(
        self, labels: torch.Tensor, eps: float, step_size: float
    ) -> tuple[torch.Tensor | float, torch.Tensor | float]:
        """The eps and the step size of each sample, in the units of eps."""
        return eps, step_size

    def second_step(self, eps: float, step_size: float) -> tuple[float, float] | None:
        """Radius and size of one more step along the same gradient in each iteration (released DAFA); None for the
        usual one."""
        return None

    def penalty(self, step: Step) -> torch.Tensor | float:
        """An extra loss per sample (bat_stop's uniform terms), unweighted."""
        return 0.0


def asked(asks: Mapping[str, tuple[str, str]], taught: bool) -> tuple[tuple[str, str], ...]:
    """The distinct (teacher, input) pairs of `Method.asks`; those of the two terms only where a label policy is taught
    by a teacher."""
    return tuple(dict.fromkeys(pair for use, pair in asks.items() if taught or use not in (ADVERSARIAL, CLEAN)))


def clean_among(forwards: Iterable[str]) -> frozenset[str]:
    """The forwards of clean images, of those of a method that passes adversarial ones too."""
    every = frozenset(forwards)
    clean = every & {CLEAN, CLEAN_AGAIN}
    return clean if clean != every else frozenset()


@dataclass(frozen=True)
class AttackSettings:
    """Shared by every method with an attack."""

    attack_mode: str = setting(
        "eval", "student's mode during the attack; train in the released AT, ARD, IAD, CFA", choices=("eval", "train")
    )
    clamp_start: bool = setting(True, "clip a uniform start to [0, 1]; the released ARD and IAD do not")


@dataclass(frozen=True)
class DistillationSettings(AttackSettings):
    """Shared by the distillation methods."""

    kd_reduction: str = setting("tenth_sum", "scale of a class-summed KL", choices=KD_REDUCTIONS)


class Method(Part):
    """A training method: a loss with an adversarial and a clean term, and one policy of each kind.

    Class attributes are the preset; a policy is a name, or {"name": ...} with its settings.
    """

    Settings: ClassVar[type[Any]] = AttackSettings
    reference: ClassVar[str] = ""  # authors, venue and year
    labels: ClassVar[str | dict[str, Any]] = "hard"
    weights: ClassVar[str | dict[str, Any]] = "none"
    margins: ClassVar[str | dict[str, Any]] = "none"
    forwards: tuple[str, ...] = (ADVERSARIAL,)  # of the update, in the order in which batch norm sees them
    # Which teacher is asked, on which input: for the label of either term, and, by any name, for the rest of the loss.
    asks: Mapping[str, tuple[str, str]] = {ADVERSARIAL: (TEACHER, CLEAN), CLEAN: (TEACHER, CLEAN)}
    fixed_labels: ClassVar[bool] = False  # the loss has labels of its own: other label policies are refused
    fixed_weights: ClassVar[bool] = False  # the loss has weights of its own: weight policies are refused
    teacher_labels: ClassVar[bool] = False  # the loss is a distance from a teacher: labels without one are refused
    attacks: ClassVar[bool] = True
    needs_init: ClassVar[bool] = False  # starts from a trained network
    training: ClassVar[dict[str, Any]] = {}  # options of the training loop that belong to the method

    def __init__(
        self,
        settings: Mapping[str, Any],
        labels: LabelPolicy,
        weights: WeightPolicy,
        margins: MarginPolicy,
        num_classes: int,
    ) -> None:
        self.label_policy, self.weight_policy, self.margin_policy = labels, weights, margins
        self.parts: tuple[Part, ...] = (self, labels, weights, margins)
        self.weight_sums = {ADVERSARIAL: ClassSums(num_classes), CLEAN: ClassSums(num_classes)}
        self.forwards = self.forwards_of(self.Settings(**settings))  # which `setup` may change
        super().__init__(settings, num_classes)

    @classmethod
    def coefficients(cls, settings: Any) -> tuple[float, float]:
        """The factors of the adversarial and the clean term. Known from the settings (one of `Settings`) alone, so
        that a combination can be refused before anything runs."""
        return 1.0, 0.0

    @classmethod
    def forwards_of(cls, settings: Any) -> tuple[str, ...]:
        """`forwards`, where they depend on the settings (one of `Settings`)."""
        return cls.forwards

    @property
    def teacher_forwards(self) -> tuple[tuple[str, str], ...]:
        """(teacher, input) pairs whose logits `terms` reads; input is "clean" or "adversarial"."""
        return asked(self.asks, self.label_policy.teacher)

    def adversary(self, view: View) -> Adversary | None:
        """What the attack maximises on this batch; None trains on clean images."""
        return self.label_policy.adversary(view)

    def terms(self, step: Step) -> tuple[torch.Tensor | float, torch.Tensor | float]:
        """The adversarial and the clean term, per sample (B,), without coefficients and weights."""
        return self.taught(ADVERSARIAL, step), self.taught(CLEAN, step) if CLEAN in step.student else 0.0

    def taught(self, term: str, step: Step) -> torch.Tensor:
        """The label policy's divergence of the student's answer of one term, (B,)."""
        teacher = step.teacher.get(self.asks[term])
        return self.label_policy.divergence(term, step.student[term], teacher, step.labels, self.kd_scale)

    @property
    def kd_scale(self) -> float:
        """The factor on a class-summed KL between teacher and student."""
        return kd_scale(getattr(self.settings, "kd_reduction", "tenth_sum"), self.num_classes)

    def loss(self, step: Step) -> torch.Tensor:
        """The weighted loss per sample (B,); the loop takes its mean over the batch."""
        adversarial, clean = self.terms(step)
        for term, value in ((ADVERSARIAL, adversarial), (CLEAN, clean)):
            if not isinstance(value, int | float):  # a mean would take the mean of the weights: they would do nothing
                self.check_per_sample(value, f"the {term} term", step)
        coef_adv, coef_clean = self.coefficients(self.settings)
        weight_adv, weight_clean = self.weight_policy.weights(step, coef_adv, coef_clean)
        if self.weight_policy.name != "none":
            self.weight_sums[ADVERSARIAL].add(weight_adv, step.labels)
            self.weight_sums[CLEAN].add(weight_clean, step.labels)
        return (
            coef_adv * weight_adv * adversarial + coef_clean * weight_clean * clean + self.margin_policy.penalty(step)
        )

    def check_per_sample(self, values: torch.Tensor, what: str, step: Step) -> None:
        """ValueError unless there is one value per sample."""
        if values.shape != step.labels.shape:
            given = "x".join(map(str, values.shape)) or "one number"
            raise ValueError(
                f"method {self.name}: {what} must be one value per sample ({len(step.labels)}), not {given}"
            )

    @property
    def learns_confusion(self) -> bool:
        """Whether the method or one of its policies asks for the confusion before each epoch."""
        return any(part.confusion for part in self.parts)

    # What the loop does with the state of all parts.

    def begin_epoch(self, device: torch.device) -> None:
        super().begin_epoch(device)
        for sums in self.weight_sums.values():
            sums.reset(device)

    def to(self, device: torch.device) -> None:
        super().to(device)
        for sums in self.weight_sums.values():
            sums.to(device)

    def class_state(self) -> dict[str, torch.Tensor]:
        """Everything logged per class after an epoch, (C,) each: the state of all parts, and the mean weight each
        class had in each term."""
        logged = {key: value for part in self.parts for key, value in part.quantities().items()}
        if self.weight_policy.name != "none":
            logged |= {f"mean_weight_{term}": sums.mean() for term, sums in self.weight_sums.items()}
        return logged

    def save(self) -> list[dict[str, Any]]:
        """The state of all parts, for the checkpoint."""
        return [part.state_dict() for part in self.parts] + [
            {term: sums.state_dict() for term, sums in self.weight_sums.items()}
        ]

    def restore(self, saved: list[dict[str, Any]]) -> None:
        """Undo `save`, bit for bit."""
        *parts, weight_sums = saved
        for part, state in zip(self.parts, parts, strict=True):
            part.load_state_dict(state)
        for term, sums in self.weight_sums.items():
            sums.load_state_dict(weight_sums[term])
