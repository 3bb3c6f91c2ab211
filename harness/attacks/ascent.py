"""The one L-infinity ascent loop: every training attack and every PGD-like evaluation attack is a call of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from harness.engine.recorded import Outputs, Recorder, code_of

TOLERANCE = 1e-6  # pixels: x + eps in float32 is off by one unit in the last place

Forward = Callable[[Tensor], Tensor]
Objective = Callable[[Tensor, Tensor], Tensor]
# Where to step (B, C, H, W), from the gradient there (which may be overwritten) and what the last step remembered; and
# what this one does: None, or a tensor with one row per image.
Direction = Callable[[Tensor, Tensor | None], tuple[Tensor, Tensor | None]]


@dataclass(frozen=True, eq=False)
class Toward:
    """The objective that is a function of the logits (B, K) and of one tensor: labels (B,), or a target (B, K)."""

    function: Callable[[Tensor, Tensor], Tensor]
    target: Tensor

    def __call__(self, logits: Tensor, point: Tensor) -> Tensor:
        return self.function(logits, self.target)


def gradient_sign(gradient: Tensor, memory: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """The direction of FGSM and PGD; it remembers nothing."""
    return gradient.sign_(), memory


@dataclass(frozen=True)
class Steps:
    """How an ascent moves inside the ball of radius eps. eps, size: one number, or (B,) per sample.

    direction: from each gradient to the step, in units of size. second: radius and size of one more step along the same
    gradient in each iteration (released DAFA only).
    """

    eps: float | Tensor
    size: float | Tensor
    number: int
    direction: Direction = gradient_sign
    second: tuple[float, float] | None = None


@dataclass(frozen=True)
class Ascent:
    """Where the ascent ended, and what its caller asked it to watch.

    point: (B, C, H, W), the last iterate.
    correct_iterates: (B,) int64, how many of the iterates x_0 .. x_{steps-1} were classified right (the start counts,
        the last iterate does not).
    last_correct, first_wrong: (B, C, H, W), BAT's two points: the last iterate before the first error (the start,
        if that is already wrong), and one step beyond the first wrong iterate (the last iterate, if none was wrong).
    logits: (B, K), the network's answer at the iterate before the last step.
    memory: (B, ...), what the direction remembers for a next step.
    """

    point: Tensor
    logits: Tensor | None = None
    correct_iterates: Tensor | None = None
    last_correct: Tensor | None = None
    first_wrong: Tensor | None = None
    memory: Tensor | None = None


def uniform_start(x: Tensor, eps: float | Tensor, noise: Tensor, clamp: bool = True) -> Tensor:
    """x + eps * noise, noise uniform in [-1, 1]; released train-mode attacks let it leave [0, 1] (`clamp=False`)."""
    start = x + _per_sample(eps, x) * noise
    return start.clamp_(0, 1) if clamp else start


def normal_start(x: Tensor, noise: Tensor) -> Tensor:
    """x + 0.001 * noise with standard normal noise, not clamped: the start of TRADES and of all that follow it."""
    return x + 0.001 * noise


def ascend(
    forward: Forward,
    x: Tensor,
    objective: Objective,
    steps: Steps,
    *,
    start: Tensor,
    memory: Tensor | None = None,
    labels: Tensor | None = None,
    count_correct: bool = False,
    stop_points: bool = False,
) -> Ascent:
    """Gradient ascent on `objective(logits, point)` (per sample, (B,)) inside the eps ball around x and [0, 1].

    forward: images (B, C, H, W) in [0, 1] to logits (B, K). Its mode and its parameters are the caller's affair; only
        the gradient with respect to the point is taken. One with a `recorder`, a fast form on a GPU, climbs from a
        recording where objective and direction are told all that they depend on.
    memory: what the direction remembers of the steps before. count_correct, stop_points: watch the iterates, which
        needs labels (B,).
    Every iterate after the start is projected onto the ball and clipped; a start outside [0, 1] is used as it is.
    """
    if (count_correct or stop_points) and labels is None:
        raise ValueError("watching the iterates needs labels")
    how = steps.number, steps.second, count_correct, stop_points
    tensors = x, start, _per_sample(steps.eps, x), _per_sample(steps.size, x), memory, labels
    recorder: Recorder | None = getattr(forward, "recorder", None)
    if recorder is not None and isinstance(objective, Toward):
        function = objective.function

        def work(target: Tensor, *tensors: Any) -> Outputs:
            return _climb(forward, Toward(function, target), steps.direction, how, *tensors)

        codes = code_of(function), code_of(steps.direction)
        if None not in codes:
            return Ascent(*recorder((codes, how), work, objective.target, *tensors))
    return Ascent(*_climb(forward, objective, steps.direction, how, *tensors))


def _climb(
    forward: Forward,
    objective: Objective,
    direction: Direction,
    how: tuple[int, tuple[float, float] | None, bool, bool],
    x: Tensor,
    start: Tensor,
    radius: Tensor,
    step: Tensor,
    memory: Tensor | None,
    labels: Tensor | None,
) -> Outputs:
    """What an `Ascent` consists of."""
    number, second, count_correct, stop_points = how
    watch = Watch(start, labels, count_correct, stop_points)
    lower, upper = (x - radius).clamp_(0, 1), (x + radius).clamp_(0, 1)
    point = start.detach().clone()
    for _ in range(number):
        point.requires_grad_()
        with torch.enable_grad():
            logits = forward(point)
            gradient = torch.autograd.grad(objective(logits, point).sum(), point)[0]
        point = point.detach()
        watch.before_step(point, logits.detach())
        ahead, memory = direction(gradient, memory)
        point = point + step * ahead if stop_points else point.addcmul_(ahead, step)
        point.clamp_(lower, upper)
        if second is not None:
            wider, longer = second
            point = (point + longer * ahead).clamp_(x - wider, x + wider).clamp_(0, 1)
        watch.after_step(point)
    return point, logits.detach(), watch.correct_iterates, watch.last_correct, watch.first_wrong, memory


def check_points(who: str, points: Tensor, x: Tensor, eps: float) -> None:
    """RuntimeError, `who` in it, where a point (B, C, H, W) is outside the eps ball around its image or outside
    [0, 1]."""
    inside = ((points - x).abs() <= eps + TOLERANCE) & (points >= -TOLERANCE) & (points <= 1 + TOLERANCE)
    if not inside.all():
        wrong = (~inside.flatten(1).all(1)).sum().item()
        raise RuntimeError(f"{who} returned {wrong} points outside the eps ball or outside [0, 1]")


class Watch:
    """What the ascent is asked to report about its iterates (see `Ascent`); costs nothing when nothing is asked."""

    last_correct: Tensor | None = None
    first_wrong: Tensor | None = None

    def __init__(self, start: Tensor, labels: Tensor | None, count_correct: bool, stop_points: bool) -> None:
        self.labels = labels if count_correct or stop_points else None
        self.correct_iterates = labels.new_zeros(labels.shape) if count_correct and labels is not None else None
        if stop_points and labels is not None:
            self.last_correct = start.detach().clone()
            self.first_wrong = start.detach().clone()
            self.alive = torch.ones_like(labels, dtype=torch.bool)
            self.just_wrong = torch.zeros_like(self.alive)

    def before_step(self, point: Tensor, logits: Tensor) -> None:
        if self.labels is None:
            return
        correct = logits.argmax(1) == self.labels
        if self.correct_iterates is not None:
            self.correct_iterates += correct
        if self.last_correct is not None:
            self.just_wrong = self.alive & ~correct
            self.alive = self.alive & correct
            self.last_correct = torch.where(_per_sample(self.alive, point), point, self.last_correct)

    def after_step(self, point: Tensor) -> None:
        if self.first_wrong is not None:
            moved = _per_sample(self.just_wrong | self.alive, point)
            self.first_wrong = torch.where(moved, point, self.first_wrong)


def _per_sample(value: float | Tensor, x: Tensor) -> Tensor:
    """A number or a (B,) tensor, shaped to broadcast over images."""
    if not isinstance(value, Tensor):
        return torch.full((), value, dtype=x.dtype, device=x.device)
    return value.view(-1, *[1] * (x.dim() - 1)) if value.dim() else value
