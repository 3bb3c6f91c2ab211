"""What the training loop hands to a method: a batch before and after the attack, and the end of an epoch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from methods.lazy import torch

ADVERSARIAL, CLEAN = "adversarial", "clean"
ADVERSARIAL_AGAIN, CLEAN_AGAIN = "adversarial_again", "clean_again"  # the same images once more
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
class View:
    """What is known of a batch before the attack.

    labels (B,); epoch counts from 0; teacher[name]: that teacher's logits on the clean images (B, C), no gradient,
    where `teacher_forwards` lists them; student_clean(): the student's own logits on them in evaluation mode, no
    gradient, computed when asked; generator(purpose): random numbers, see `no_generator`.
    """

    labels: torch.Tensor
    epoch: int
    teacher: Mapping[str, torch.Tensor]
    student_clean: Callable[[], torch.Tensor]
    generator: Callable[[str], torch.Generator] = no_generator

    def uniform(self, purpose: str) -> torch.Tensor:
        """A random number in [0, 1) for each sample, (B,) float32 where the labels are, from `generator(purpose)`."""
        drawn = torch.rand(self.labels.shape, generator=self.generator(purpose))
        return drawn.to(self.labels.device, non_blocking=True)


@dataclass(frozen=True)
class Step:
    """What is known of a batch after the attack and the forwards.

    labels (B,); epoch counts from 0; student[forward]: logits (B, C) with gradient, one per name in `Method.forwards`;
    teacher[TEACHER, CLEAN], teacher[TEACHER, ADVERSARIAL]: logits (B, C) without gradient, one per pair in
    `Method.teacher_forwards`; correct_iterates (B,): how many iterates of the attack were classified right, the start
    included and the last one not, where the weight policy counts them; generator(purpose): random numbers, see
    `no_generator`.
    """

    labels: torch.Tensor
    epoch: int
    student: Mapping[str, torch.Tensor]
    teacher: Mapping[tuple[str, str], torch.Tensor] = field(default_factory=dict)
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
