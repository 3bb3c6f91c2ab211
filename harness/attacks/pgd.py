"""FGSM, PGD and CW for evaluation: a network and a chunk of images in, the decisive prediction per image out.

An image is robust exactly when that prediction is its label; a broken one has that of the point that broke it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pkgutil import resolve_name

import torch
from torch import Tensor

from harness.attacks.ascent import Forward, Objective, Steps, Toward, ascend, normal_start, uniform_start
from harness.attacks.registry import AscentSettings
from harness.seeds import seeded
from methods import losses

NO_DECISION = -1
LEAVE_TOGETHER = {"cuda": 64}  # broken images, so that a GPU sees few shapes; elsewhere each leaves at once


def decide(logits: Tensor) -> Tensor:
    """The predicted class per row (B,); -1, which is nobody's label, where a logit is NaN or infinite."""
    logits = logits.detach()
    return torch.where(logits.isfinite().all(1), logits.argmax(1), NO_DECISION)


@torch.no_grad()
def predict(forward: Forward, x: Tensor, batch_size: int) -> Tensor:
    """Predicted classes (N,) of images (N, C, H, W) in [0, 1]."""
    return torch.cat([decide(forward(part)) for part in x.split(batch_size)])


def cross_entropy(labels: Tensor) -> Objective:
    """The per-sample cross-entropy, to be maximised."""
    return Toward(losses.cross_entropy, labels)


def margin(labels: Tensor) -> Objective:
    """The largest other logit minus the label's, to be maximised: positive means broken.

    Fair-ARD's -relu(z_y - max other + 50) has the same gradient up to a margin of 50, where theirs vanishes.
    """

    return Toward(_ahead, labels)


def _ahead(logits: Tensor, labels: Tensor) -> Tensor:
    others = logits.scatter(1, labels[:, None], -torch.inf).max(1).values
    return others - logits.gather(1, labels[:, None]).squeeze(1)


def draw_noise(x: Tensor, settings: AscentSettings, generator: torch.Generator) -> Tensor:
    """Start noise of x's shape: in [-1, 1], standard normal, or zero. Drawn on the CPU: every device starts alike."""
    if settings.start == "uniform":
        noise = torch.rand(x.shape, generator=generator, pin_memory=x.is_cuda).mul_(2).sub_(1)
    elif settings.start == "normal":
        noise = torch.randn(x.shape, generator=generator, pin_memory=x.is_cuda)
    else:
        return torch.zeros(x.shape, device=x.device)
    return noise.to(x.device, non_blocking=True)


def seeded_noise(x: Tensor, settings: AscentSettings, *coordinates: int | str) -> Callable[[int], Tensor]:
    """The start noise of x by number of restart. It follows from the kind of start, the restart and the coordinates:
    attacks that start alike start at the same points, whatever they do then."""
    return lambda restart: draw_noise(x, settings, seeded("start", settings.start, restart, *coordinates))


def start_point(x: Tensor, noise: Tensor, settings: AscentSettings, eps: float) -> Tensor:
    """Where the ascent from x begins, given the noise that `draw_noise` describes."""
    if settings.start == "uniform":
        return uniform_start(x, eps, noise, clamp=settings.clamp_start)
    return normal_start(x, noise) if settings.start == "normal" else x


@dataclass(frozen=True)
class Approximation:
    """A cheaper form of a network that an attack takes its gradients from, and how far it is to be believed.

    gradients: as the network's forward, in another precision. bound: of a margin, a scalar; an image is looked at with
    the network itself wherever its label's logit is not ahead by more.
    """

    gradients: Forward
    bound: Tensor

    @classmethod
    @torch.no_grad()
    def of(cls, forward: Forward, gradients: Forward, x: Tensor, labels: Tensor, batch_size: int) -> Approximation:
        """The bound is twice the largest deviation of a margin on these images: of all that are attacked together, so
        that no verdict depends on the batch."""
        parts = zip(x.split(batch_size), labels.split(batch_size), strict=True)
        deviations = [(margin(y)(gradients(few), few) - margin(y)(forward(few), few)).abs().max() for few, y in parts]
        return cls(gradients, 2 * torch.stack(deviations).max())

    def decide(self, forward: Forward, labels: Tensor, logits: Tensor, point: Tensor) -> Tensor:
        """The predicted class (B,): the label where the margin leaves no doubt, else what `forward`, the network
        itself, says. logits: the cheaper form's."""
        doubtful = ~(margin(labels)(logits.detach(), point) < -self.bound)  # NaN is doubtful too
        together = LEAVE_TOGETHER.get(point.device.type, 1)
        size = math.ceil(int(doubtful.sum()) / together) * together
        looked = doubtful.argsort(descending=True, stable=True)[:size]
        if not len(looked):
            return labels
        return labels.index_copy(0, looked, predict(forward, point.detach()[looked], len(looked)))


def attack_from(
    forward: Forward,
    x: Tensor,
    labels: Tensor,
    start: Tensor,
    settings: AscentSettings,
    eps: float,
    gradients: Forward | None = None,
    approximation: Approximation | None = None,
) -> Tensor:
    """The decisive prediction (B,) of one run: on the first wrong iterate if every iterate counts, else on the last.
    It is `forward`'s; gradients are, where given, `approximation`'s in the first case and `gradients`' in the other."""
    if settings.every_iterate:
        return _first_wrong(forward, x, labels, start, settings, eps, approximation)
    objective = resolve_name(settings.objective)(labels)
    point = ascend(gradients or forward, x, objective, _steps(settings, eps), start=start).point
    return predict(forward, point, len(point))


def attack_chunk(
    forward: Forward,
    x: Tensor,
    labels: Tensor,
    prediction: Tensor,
    settings: AscentSettings,
    *,
    eps: float,
    noise: Callable[[int], Tensor],
    batch_size: int,
    gradients: Forward | None = None,
) -> Tensor:
    """`prediction` (N,) with the attack's in place where it was right: only images still classified right are attacked.

    noise: by number of restart, for the whole chunk (see `seeded_noise`). It goes with the image: neither batch size
    nor who is still alive changes it. gradients: a cheaper form of the network to take them from (`Approximation`).
    """
    right, bounded = prediction == labels, None
    if gradients and settings.every_iterate and right.any():
        bounded = Approximation.of(forward, gradients, x[right], labels[right], batch_size)
    prediction = prediction.clone()
    for restart in range(settings.restarts):
        drawn = noise(restart)
        for part in (prediction == labels).nonzero().flatten().split(batch_size):
            start = start_point(x[part], drawn[part], settings, eps)
            prediction[part] = attack_from(forward, x[part], labels[part], start, settings, eps, gradients, bounded)
    return prediction


def _first_wrong(
    forward: Forward,
    x: Tensor,
    labels: Tensor,
    start: Tensor,
    settings: AscentSettings,
    eps: float,
    approximation: Approximation | None,
) -> Tensor:
    """One step at a time, so that broken images leave the batch in between, and what is remembered of them with them.
    A step waits for a GPU once, for the number of those that are left; with an approximation also for the number of
    those that are looked at."""
    prediction, one_step = labels.clone(), replace(_steps(settings, eps), number=1)
    place, alive = torch.arange(len(labels), device=labels.device), torch.ones_like(labels, dtype=torch.bool)
    together = LEAVE_TOGETHER.get(x.device.type, 1)
    point, memory = start, None
    climbed = approximation.gradients if approximation else forward
    for step in range(settings.steps):
        objective = resolve_name(settings.objective)(labels)
        moved = ascend(climbed, x, objective, one_step, start=point, memory=memory)
        before, point, memory = point, moved.point, moved.memory
        if step == 0 and not settings.start_is_an_image:
            continue
        assert moved.logits is not None
        guess = approximation.decide(forward, labels, moved.logits, before) if approximation else decide(moved.logits)
        prediction[place] = torch.where(alive, guess, prediction[place])
        alive = alive & (guess == labels)
        left = int(alive.sum())
        if not left:
            return prediction
        size = math.ceil(left / together) * together
        if size < len(alive):
            kept = alive.argsort(descending=True, stable=True)[:size]  # the others only fill the batch
            place, alive, x, labels, point = (each[kept] for each in (place, alive, x, labels, point))
            memory = None if memory is None else memory[kept]
    prediction[place] = torch.where(alive, predict(forward, point, len(point)), prediction[place])
    return prediction


def _steps(settings: AscentSettings, eps: float) -> Steps:
    return Steps(eps, settings.step(eps), settings.steps, resolve_name(settings.direction))
