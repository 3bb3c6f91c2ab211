"""The contract of a method, of its three policies (label x weight x margin), and what the training loop hands them.

A method answers four questions: what the adversary maximises (`adversary`), which forwards the update needs
(`forwards`, `teacher_forwards`), what the student minimises (`terms`), and what it learns about the classes
(`observe`, `end_epoch`). It never touches the optimiser, the loader, the device, the attack loop, the disk or a seed:
the training loop does, for every method alike. What it draws at random comes from the generator of the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, ClassVar

from methods.lazy import torch
from methods.losses import KD_REDUCTIONS, cross_entropy, kd_scale, kl, soft_cross_entropy
from methods.settings import setting
from methods.statistics import ClassSums

ADVERSARIAL, CLEAN, CLEAN_AGAIN = "adversarial", "clean", "clean_again"
TEACHER, NATURAL_TEACHER = "teacher", "natural_teacher"


def no_generator(purpose: str) -> torch.Generator:
    """A source of random numbers for one purpose of a method on one batch, the only one that methods draw from.

    The loop hands over generators on the CPU that are seeded by the trial's data, split, seed and student, the epoch,
    the batch and the purpose: the same in every run, wherever a training is taken up again, and for every method.
    Asked twice for one purpose, also by `View` and by `Step` of one batch, it begins again. This one, of a view or step
    made by hand, has none.
    """
    raise RuntimeError(f"there are no random numbers for '{purpose}': this batch was not made by the training loop")


@dataclass(frozen=True)
class Adversary:
    """What the training attack maximises, and how.

    objective(student_logits, target): per-sample value (B,) to maximise; `target` is what `target()` returned, or the
        logits of `teacher` at the current point (with gradient) where that is set (AdaAD).
    start: "normal" (x + 0.001 N(0, 1)) or "uniform" (inside the eps ball). recomputes_target: the released script
        evaluates `target` anew in every step (same values, more work); only the plain engine does.
    direction(gradient, memory): where to step, and what to remember of it for the next step (at first None), such as
        a momentum; None is the gradient's sign.
    """

    objective: Callable[[torch.Tensor, torch.Tensor | None], torch.Tensor]
    start: str
    target: Callable[[], torch.Tensor] | None = None
    recomputes_target: bool = False
    teacher: str | None = None
    direction: Callable[[torch.Tensor, torch.Tensor | None], tuple[torch.Tensor, torch.Tensor | None]] | None = None


@dataclass(frozen=True)
class View:
    """What is known of a batch before the attack.

    labels (B,); teacher[name]: that teacher's logits on the clean images (B, C), no gradient, where
    `teacher_forwards` lists them; student_clean(): the student's own logits on them in evaluation mode, no gradient,
    computed when asked; generator(purpose): random numbers, see `no_generator`.
    """

    labels: torch.Tensor
    epoch: int
    teacher: Mapping[str, torch.Tensor]
    student_clean: Callable[[], torch.Tensor]
    generator: Callable[[str], torch.Generator] = no_generator


@dataclass(frozen=True)
class Step:
    """What is known of a batch after the attack and the forwards.

    student[forward]: logits (B, C) with gradient, one per name in `Method.forwards`; teacher["name:clean"],
    teacher["name:adversarial"]: logits without gradient; correct_iterates (B,): see `harness.attacks.ascent.Ascent`;
    epoch counts from 0; generator(purpose): random numbers, see `no_generator`.
    """

    labels: torch.Tensor
    epoch: int
    student: Mapping[str, torch.Tensor]
    teacher: Mapping[str, torch.Tensor] = field(default_factory=dict)
    correct_iterates: torch.Tensor | None = None
    generator: Callable[[str], torch.Generator] = no_generator


@dataclass(frozen=True)
class HeldOut:
    """Class-wise statistics of the student (evaluation mode) on held-out training data: each (C,) float64 on the CPU,
    NaN for an absent class.

    clean_error, robust_error: shares misclassified, clean and under PGD-20. clean_loss, boundary_loss: mean CE on x
    and mean KL(s(x) || s(x')) under the TRADES attack. count: samples per class.
    """

    clean_error: torch.Tensor
    robust_error: torch.Tensor
    clean_loss: torch.Tensor
    boundary_loss: torch.Tensor
    count: torch.Tensor


@dataclass(frozen=True)
class EpochEnd:
    """The end of epoch `epoch` (from 0) of `epochs`. lr_factor: next epoch's learning rate over the first one;
    held_out where a part asked for it."""

    epoch: int
    epochs: int
    lr_factor: float
    held_out: HeldOut | None = None


@dataclass(frozen=True)
class NoSettings:
    """Of a policy without hyper-parameters."""


class Part:
    """A method or a policy: settings, and a state of a few numbers per class that the loop saves, restores and logs.

    Tensors assigned to `self.state[name]` and sums in `self.sums[name]` are checkpointed; `quantities()` is logged
    each epoch.
    """

    name: ClassVar[str]
    Settings: ClassVar[type] = NoSettings
    held_out: ClassVar[frozenset[str]] = frozenset()  # of {"pgd", "trades"}: the held-out statistics it learns from
    held_out_first: ClassVar[bool] = False  # also before the first epoch (FRL)

    def __init__(self, settings: Mapping[str, Any], num_classes: int) -> None:
        self.settings = SimpleNamespace(**settings)
        self.num_classes = num_classes
        self.state: dict[str, torch.Tensor] = {}
        self.sums: dict[str, ClassSums] = {}

    def observe(self, step: Step) -> None:
        """Take the unweighted statistics of a batch, before the loss."""

    def end_epoch(self, end: EpochEnd) -> None:
        """Learn from the epoch's class statistics. The loop forgets the sums afterwards."""

    def quantities(self) -> dict[str, torch.Tensor]:
        """What to log of the class state, by name: (C,) tensors."""
        return {key: value for key, value in self.state.items() if value.shape == (self.num_classes,)}

    def class_vector(self, value: float) -> torch.Tensor:
        """A (C,) float32 tensor of one value."""
        return torch.full((self.num_classes,), value, dtype=torch.float32)

    def started(self, end: EpochEnd) -> bool:
        """Whether `start_epoch` epochs are complete, so that a policy may act on what it has learnt."""
        return end.epoch + 1 >= self.settings.start_epoch

    def begin_epoch(self, device: torch.device) -> None:
        """Forget the last epoch's sums and put the state where the batches are."""
        for sums in self.sums.values():
            sums.reset()
        self.to(device)

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
    weighs_cross_entropy: ClassVar[bool] = (
        False  # the clean term, or the adversarial one of a method that has hard labels only
    )
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

    kd_reduction: str = setting("tenth_sum", "scale of a class-summed KL (sheet 1.2)", choices=KD_REDUCTIONS)


@dataclass(frozen=True)
class TargetSettings:
    """Shared by the label policies that use a teacher."""

    target_log_eps: float = setting(
        0.0, "constant inside the target's log-entropy; 1e-5 in the RSLAD family's code: shifts the loss only", low=0
    )


class Method(Part):
    """A training method: a loss with an adversarial and a clean term, and one policy of each kind.

    Class attributes are the preset: the default policies, what the update's forwards are and in which order (batch
    norm sees it), which teachers are asked what, whether it starts from a trained network, and options of the
    training loop that belong to the method.
    """

    Settings: ClassVar[type] = AttackSettings
    labels: ClassVar[str | dict[str, Any]] = "hard"
    weights: ClassVar[str | dict[str, Any]] = "none"
    margins: ClassVar[str | dict[str, Any]] = "none"
    forwards: ClassVar[tuple[str, ...]] = (ADVERSARIAL,)
    fixed_labels: ClassVar[bool] = False  # the loss has labels of its own: other label policies are refused
    teacher_labels: ClassVar[bool] = (
        False  # the loss is a distance from a teacher: label policies without one are refused
    )
    attacks: ClassVar[bool] = True
    teachers: ClassVar[tuple[str, ...]] = ()  # teachers the loss itself asks, beside the label policy's
    needs_init: ClassVar[bool] = False
    training: ClassVar[dict[str, Any]] = {}
    reference: ClassVar[str] = ""  # paper, year

    def __init__(
        self,
        settings: Mapping[str, Any],
        labels: LabelPolicy,
        weights: WeightPolicy,
        margins: MarginPolicy,
        num_classes: int,
    ) -> None:
        super().__init__(settings, num_classes)
        self.label_policy, self.weight_policy, self.margin_policy = labels, weights, margins
        self.parts: tuple[Part, ...] = (self, labels, weights, margins)
        self.weight_sums = {ADVERSARIAL: ClassSums(num_classes), CLEAN: ClassSums(num_classes)}

    @classmethod
    def coefficients(cls, settings: SimpleNamespace) -> tuple[float, float]:
        """The factors of the adversarial and the clean term. Known from the settings alone, so that a combination can
        be refused before anything runs."""
        return 1.0, 0.0

    @property
    def teacher_forwards(self) -> tuple[tuple[str, str], ...]:
        """(teacher, input) pairs whose logits `terms` reads; input is "clean" or "adversarial"."""
        return ((TEACHER, CLEAN),) if self.label_policy.teacher else ()

    def adversary(self, view: View) -> Adversary | None:
        """What the attack maximises on this batch; None trains on clean images."""
        return self.label_policy.adversary(view)

    def terms(self, step: Step) -> tuple[torch.Tensor | float, torch.Tensor | float]:
        """The adversarial and the clean term, per sample (B,), without coefficients and weights."""
        teacher = step.teacher.get(f"{TEACHER}:{CLEAN}")
        scale = self.kd_scale
        adversarial = self.label_policy.divergence(ADVERSARIAL, step.student[ADVERSARIAL], teacher, step.labels, scale)
        if CLEAN not in step.student:
            return adversarial, 0.0
        return adversarial, self.label_policy.divergence(CLEAN, step.student[CLEAN], teacher, step.labels, scale)

    @property
    def kd_scale(self) -> float:
        """The factor on a class-summed KL between teacher and student."""
        return kd_scale(getattr(self.settings, "kd_reduction", "tenth_sum"), self.num_classes)

    def loss(self, step: Step) -> torch.Tensor:
        """The weighted loss per sample (B,); the loop takes its mean over the batch."""
        adversarial, clean = self.terms(step)
        coef_adv, coef_clean = self.coefficients(self.settings)
        weight_adv, weight_clean = self.weight_policy.weights(step, coef_adv, coef_clean)
        if self.weight_policy.name != "none":
            self.weight_sums[ADVERSARIAL].add(weight_adv, step.labels)
            self.weight_sums[CLEAN].add(weight_clean, step.labels)
        return (
            coef_adv * weight_adv * adversarial + coef_clean * weight_clean * clean + self.margin_policy.penalty(step)
        )

    # What the loop calls: every part in turn.

    def start_epoch(self, device: torch.device) -> None:
        """Before the first batch of an epoch."""
        for part in self.parts:
            part.begin_epoch(device)
        for sums in self.weight_sums.values():
            sums.reset()

    def see(self, step: Step) -> None:
        """Statistics of a batch, for every part."""
        for part in self.parts:
            part.observe(step)

    def finish_epoch(self, end: EpochEnd) -> None:
        """The update of every part's class state, after the last batch."""
        for part in self.parts:
            part.end_epoch(end)

    def learn_before_training(self, end: EpochEnd) -> None:
        """Held-out statistics of the network training starts from, for the parts that ask for it (FRL)."""
        for part in self.parts:
            if part.held_out_first:
                part.end_epoch(end)

    @property
    def held_out_wanted(self) -> frozenset[str]:
        """The held-out statistics that any part learns from."""
        return frozenset().union(*(part.held_out for part in self.parts))

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


def toward_target(logits: torch.Tensor, target: torch.Tensor | None) -> torch.Tensor:
    """KL(target || student) for constant target probabilities, without its constant entropy: the same gradient, less
    work per step."""
    assert target is not None
    return soft_cross_entropy(target, logits)


def cross_entropy_adversary(view: View, start: str = "uniform") -> Adversary:
    """CE(student(x'), y): Madry's attack from a uniform start, MART's and MTARD's from the normal one."""
    return Adversary(objective=lambda logits, _: cross_entropy(logits, view.labels), start=start)
