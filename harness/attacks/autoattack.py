"""AutoAttack through `pyautoattack`, stage by stage: its warnings kept, its adversarial points checked by us."""

from __future__ import annotations

import logging
import re
import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from pyautoattack import AutoAttack, checks
from torch import Tensor

from harness.attacks.ascent import Forward, check_points
from harness.attacks.conditions import Conditions
from harness.attacks.pgd import predict

MOST_TARGETS = 9


@dataclass(frozen=True)
class Effort:
    """How far the stages go. The standard attack goes all the way; less is a beginning of it, to time it by.

    iterations: of APGD and FAB, for each target class. targets: classes that the targeted stages try.
    queries: Square's.
    """

    iterations: int = 100
    targets: int = MOST_TARGETS
    queries: int = 5000

    def narrow(self, attack: AutoAttack, num_classes: int) -> None:
        """Let an attack go so far. It has a target class less than there are classes."""
        attack.apgd_targeted.n_target_classes = attack.fab.n_target_classes = min(self.targets, num_classes - 1)
        attack.apgd.n_iter = attack.apgd_targeted.n_iter = attack.fab.n_iter = self.iterations
        attack.square.n_queries = self.queries

    def steps(self, stage: str, num_classes: int) -> int:
        """How often a stage steps, at most."""
        if stage == "square":
            return self.queries
        return self.iterations * (min(self.targets, num_classes - 1) if stage in ("apgd-t", "fab-t") else 1)


STANDARD = Effort()


def few_classes(stages: Iterable[str], num_classes: int) -> list[str]:
    """The remark that a result with two or three classes carries, where the DLR losses are undefined."""
    if num_classes > 3:
        return []
    loss = "DLR loss is" if num_classes < 3 else "targeted DLR loss is"
    return [f"not the standard AutoAttack: with {num_classes} classes the {loss} undefined; ran {', '.join(stages)}"]


def attack_stage(
    stage: str,
    forward: Forward,
    x: Tensor,
    labels: Tensor,
    prediction: Tensor,
    conditions: Conditions,
    effort: Effort = STANDARD,
) -> tuple[Tensor, list[str]]:
    """`prediction` (N,) after one stage on the images still classified right, and the warnings AutoAttack gave.

    RuntimeError: it returned a point outside the eps ball or outside [0, 1].
    """
    alive = (prediction == labels).nonzero().flatten()
    if not len(alive):
        return prediction, []
    log = _Warnings()
    attack = _build(stage, forward, x.device, conditions, log.logger, effort)
    with torch.random.fork_rng(devices=[x.device] if x.device.type == "cuda" else []):  # it seeds the global generators
        points = _run(attack, x[alive], labels[alive], conditions.batch_size)
    check_points(f"AutoAttack's {stage}", points, x[alive], conditions.eps)
    prediction = prediction.clone()
    prediction[alive] = predict(forward, points, conditions.batch_size)
    return prediction, [f"{stage}: {text}" for text in log.kinds()]


def square_warnings(robust_accuracy: dict[str, float]) -> list[str]:
    """AutoAttack's alarm that Square broke what gradients did not, given the robust accuracy after each stage."""
    log = _Warnings()
    checks.check_square_sr(robust_accuracy, logger=log.logger)
    return log.kinds()


def one_of_each(texts: Iterable[str], unit: str) -> list[str]:
    """The texts without repeats: those that differ only in numbers count as one; the first says how often it came."""
    texts = list(texts)
    times = Counter(_kind(text) for text in texts)
    first = {_kind(text): text for text in reversed(texts)}
    return [first[kind] + (f" ({count} {unit})" if count > 1 else "") for kind, count in times.items()]


def _kind(text: str) -> str:
    return re.sub(r"\d+(\.\d+)?", "#", text)


class _Warnings(logging.Handler):
    """A logger of its own: everything AutoAttack warns of arrives here and nothing global is touched."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.texts: list[str] = []
        self.logger = logging.Logger("autoattack", logging.WARNING)
        self.logger.addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())

    def kinds(self) -> list[str]:
        return one_of_each(self.texts, "times")


def _build(
    stage: str,
    forward: Forward,
    device: torch.device,
    conditions: Conditions,
    logger: logging.Logger,
    effort: Effort = STANDARD,
) -> AutoAttack:
    """The standard AutoAttack narrowed to one stage: a `custom` one would give APGD-CE five restarts."""
    attack = AutoAttack(
        forward, device=device, eps=conditions.eps, norm="Linf", seed=conditions.seed, version="standard"
    )
    attack.attacks_to_run = [stage]
    effort.narrow(attack, conditions.num_classes)
    attack.logger = attack.apgd.logger = attack.apgd_targeted.logger = logger
    return attack


def _run(attack: AutoAttack, x: Tensor, labels: Tensor, batch_size: int) -> Tensor:
    """The adversarial points. Its check for dynamic defences counts calls in a module global that it never resets, and
    leaves the interpreter's trace function off."""
    checks.funcs.update(dict.fromkeys(checks.funcs, 0))
    trace = sys.gettrace()
    try:
        return attack.run_standard_evaluation(x, labels, batch_size=batch_size)[0]
    finally:
        sys.settrace(trace)
