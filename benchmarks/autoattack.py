"""Each stage of AutoAttack through the harness's adapter against the same `pyautoattack` call on the plain network.

A stage runs a beginning of the standard attack on one full batch: fewer iterations, one target class, fewer queries.
Every iteration costs the same, so the ratio is that of the whole.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from benchmarks import plain_forms
from benchmarks.evaluate import Counted, agreement
from benchmarks.measure import forward_flops, in_turn, peak_flops, peak_memory_mb
from benchmarks.robust import Robust, robust_student
from harness.attacks.autoattack import Effort, attack_stage
from harness.attacks.conditions import Conditions
from harness.attacks.pgd import predict
from harness.attacks.registry import AUTOATTACK_STAGES
from harness.data.augment import to_float
from harness.engine.forwards import evaluation_forward, frozen

BATCH = 250  # pyautoattack's own default
EFFORTS = {
    "apgd-ce": Effort(iterations=40),
    "apgd-t": Effort(iterations=40, targets=1),
    "fab-t": Effort(iterations=30, targets=1),
    "square": Effort(queries=300),
}


def measure(
    rounds: int, robust: Robust | None = None, efforts: dict[str, Effort] | None = None
) -> list[dict[str, Any]]:
    """One row per stage: seconds, ratio, memory, and how far the two forms' verdicts agree."""
    robust = robust or robust_student()
    return [_row(robust, stage, (efforts or EFFORTS)[stage], rounds) for stage in AUTOATTACK_STAGES]


class Stage:
    """One stage in either form, on a batch of images that the network classifies right."""

    def __init__(self, robust: Robust, stage: str, effort: Effort) -> None:
        self.network, self.stage, self.effort = robust.student, stage, effort
        self.conditions = Conditions({"name": stage}, robust.recipe.eps, 0, BATCH, robust.num_classes)
        self.forward = Counted(evaluation_forward(robust.student, "fast"))
        x, labels = to_float(robust.images), robust.labels
        right = (predict(self.forward, x, BATCH) == labels).nonzero().flatten()[:BATCH]
        self.x, self.labels = x[right], labels[right]
        self.forward.passes = 0

    def plain(self, seed: int = 0) -> np.ndarray:
        """Whether each image survives."""
        found = plain_forms.autoattack(
            self.network, self.x, self.labels, self.stage,
            eps=self.conditions.eps, seed=seed, batch_size=BATCH, effort=self.effort,
        )  # fmt: skip
        return (found == self.labels).numpy()

    def fast(self) -> np.ndarray:
        """Whether each image survives."""
        with frozen(self.network):
            found, _ = attack_stage(
                self.stage, self.forward, self.x, self.labels, self.labels, self.conditions, self.effort
            )
        return (found == self.labels).numpy()


def _row(robust: Robust, name: str, effort: Effort, rounds: int) -> dict[str, Any]:
    stage = Stage(robust, name, effort)
    plain, fast, other_seed = stage.plain(), stage.fast(), stage.plain(seed=1)  # the warm-up too
    flops = stage.forward.passes * forward_flops(robust.student, stage.x[0])
    plain_mb, fast_mb = peak_memory_mb(stage.plain), peak_memory_mb(stage.fast)
    pair = in_turn(stage.plain, stage.fast, rounds, warm_up=0)
    return {
        "model": f"cnn(width={robust.recipe.width})",
        "dataset": robust.recipe.dataset,
        "attack": name,
        "images": len(stage.labels),
        "effort": f"{effort.queries} queries" if name == "square" else f"{effort.iterations} iterations",
        **pair.columns,
        "plain_mb": plain_mb,
        "fast_mb": fast_mb,
        "share_of_peak": flops / pair.fast_s / peak_flops(torch.float32),
        **agreement(plain, fast, other_seed),
    }
