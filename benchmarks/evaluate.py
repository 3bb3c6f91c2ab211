"""PGD-20 and CW-20 of the evaluation on a robust student: the papers' form against ours, the any-iterate rule in both.

Ours is folded and channels last, leaves alone what is misclassified, and drops an image once it is broken; its
gradients are float32, as all of the papers' form, or bfloat16.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks import plain_forms
from benchmarks.measure import forward_flops, in_turn, peak_flops, peak_memory_mb
from benchmarks.robust import Robust, robust_student
from harness.attacks.conditions import Conditions
from harness.attacks.registry import ascent_settings
from harness.data.augment import to_float
from harness.engine.forwards import evaluation_forward, frozen
from harness.evaluation.chunk import evaluate_chunk

ATTACKS = ("pgd20", "cw20")
IMAGES = 1000
GRADIENTS = ("float32", "bfloat16")
BATCH = 500  # the default of a suite


def measure(rounds: int, robust: Robust | None = None) -> list[dict[str, Any]]:
    """One row per precision of gradients and attack: seconds, ratio, memory, and how far the two forms' verdicts
    agree."""
    robust = (robust or robust_student()).some(IMAGES)
    return [_row(Verdicts(robust, attack, gradients), rounds) for gradients in GRADIENTS for attack in ATTACKS]


class Verdicts:
    """Which images survive an attack, in either form; the plain one may have another seed. gradients: the precision of
    our form's."""

    def __init__(self, robust: Robust, attack: str, gradients: str = "float32") -> None:
        self.robust, self.attack, self.gradients = robust, attack, gradients
        self.forward = Counted(evaluation_forward(robust.student, "fast"))
        self.cheaper = evaluation_forward(robust.student, "fast", gradients) if gradients != "float32" else None
        self.x = to_float(robust.images)

    def plain(self, seed: int = 0) -> np.ndarray:
        settings = ascent_settings({"name": self.attack})
        found = plain_forms.pgd(
            self.robust.student, self.x, self.robust.labels, settings, eps=self.robust.recipe.eps, seed=seed
        )
        return found.numpy()

    def fast(self) -> np.ndarray:
        images, labels = self.robust.images, self.robust.labels
        conditions = Conditions({"name": self.attack}, self.robust.recipe.eps, 0, BATCH, self.robust.num_classes)
        with frozen(self.robust.student):
            result = evaluate_chunk(
                self.forward, images, labels, torch.arange(len(labels)), conditions, chunk=0, gradients=self.cheaper
            )
        return result.outcomes["robust"].to_numpy()


class Counted:
    """A forward that counts its passes: one for each image, and another where a gradient follows."""

    def __init__(self, forward: Callable[[Tensor], Tensor]) -> None:
        self.forward, self.passes = forward, 0

    def __call__(self, images: Tensor) -> Tensor:
        self.passes += len(images) * (2 if images.requires_grad else 1)
        return self.forward(images)


def _row(verdicts: Verdicts, rounds: int) -> dict[str, Any]:
    robust = verdicts.robust
    plain, fast, other_seed = verdicts.plain(), verdicts.fast(), verdicts.plain(seed=1)  # the warm-up too
    passes = verdicts.forward.passes
    plain_mb, fast_mb = peak_memory_mb(verdicts.plain), peak_memory_mb(verdicts.fast)
    pair = in_turn(verdicts.plain, verdicts.fast, rounds, warm_up=0)
    flops = passes * forward_flops(robust.student, verdicts.x[0])
    share = flops / pair.fast_s / peak_flops(torch.float32)
    return {
        "model": f"cnn(width={robust.recipe.width})",
        "dataset": robust.recipe.dataset,
        "attack": verdicts.attack,
        "gradients": verdicts.gradients,
        "images": len(robust.labels),
        **pair.columns,
        "plain_mb": plain_mb,
        "fast_mb": fast_mb,
        "share_of_peak": None if verdicts.cheaper else share,  # work in two precisions is the share of no one peak
        **agreement(plain, fast, other_seed),
    }


def agreement(plain: np.ndarray, fast: np.ndarray, other_seed: np.ndarray) -> dict[str, float]:
    """Robust accuracy, the share of images that the forms judge differently, and the difference in accuracy; the same
    between two seeds of the plain form, as a yardstick. In [0, 1]."""
    return {
        "robust": float(plain.mean()),
        "verdicts_differ": float((plain != fast).mean()),
        "accuracy_difference": float(fast.mean() - plain.mean()),
        "verdicts_differ_other_seed": float((plain != other_seed).mean()),
        "accuracy_difference_other_seed": float(other_seed.mean() - plain.mean()),
    }
