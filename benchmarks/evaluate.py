"""PGD-20 and CW-20 of the evaluation on a robust student: the papers' form against ours, the any-iterate rule in both.

Ours is folded and channels last, leaves alone what is misclassified, and drops an image once it is broken; its
gradients are float32, as all of the papers' form, or bfloat16.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks import plain_forms
from benchmarks.measure import Pair, all_in_turn, forward_flops, peak_flops, peak_memory_mb
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
    """One row per attack and precision of gradients: seconds, ratio, memory, and how far the two forms' verdicts
    agree."""
    robust = (robust or robust_student()).some(IMAGES)
    return [row for attack in ATTACKS for row in _rows(Verdicts(robust, attack), rounds)]


class Verdicts:
    """Which images survive an attack, in either form; the plain one may have another seed, ours gradients in another
    precision."""

    def __init__(self, robust: Robust, attack: str) -> None:
        self.robust, self.attack = robust, attack
        self.forward = Counted(evaluation_forward(robust.student, "fast"))
        self.cheaper = {"bfloat16": evaluation_forward(robust.student, "fast", "bfloat16")}
        self.x = to_float(robust.images)

    def plain(self, seed: int = 0) -> np.ndarray:
        settings = ascent_settings({"name": self.attack})
        found = plain_forms.pgd(
            self.robust.student, self.x, self.robust.labels, settings, eps=self.robust.recipe.eps, seed=seed
        )
        return found.numpy()

    def fast(self, gradients: str = "float32") -> np.ndarray:
        images, labels = self.robust.images, self.robust.labels
        conditions = Conditions({"name": self.attack}, self.robust.recipe.eps, 0, BATCH, self.robust.num_classes)
        with frozen(self.robust.student):
            result = evaluate_chunk(
                self.forward, images, labels, torch.arange(len(labels)), conditions, chunk=0,
                gradients=self.cheaper.get(gradients),
            )  # fmt: skip
        return result.outcomes["robust"].to_numpy()


class Counted:
    """A forward that counts its passes: one for each image, and another where a gradient follows."""

    def __init__(self, forward: Callable[[Tensor], Tensor]) -> None:
        self.forward, self.passes = forward, 0

    def __call__(self, images: Tensor) -> Tensor:
        self.passes += len(images) * (2 if images.requires_grad else 1)
        return self.forward(images)


def _rows(verdicts: Verdicts, rounds: int) -> list[dict[str, Any]]:
    """All forms of one attack, timed in turn."""
    robust, ours = verdicts.robust, {name: partial(verdicts.fast, name) for name in GRADIENTS}
    fast = {"float32": verdicts.fast()}
    flops = verdicts.forward.passes * forward_flops(robust.student, verdicts.x[0])
    fast["bfloat16"] = verdicts.fast("bfloat16")
    plain, other_seed = verdicts.plain(), verdicts.plain(seed=1)  # the warm-up too
    plain_mb, fast_mb = peak_memory_mb(verdicts.plain), {name: peak_memory_mb(form) for name, form in ours.items()}
    plain_s, *fast_s = all_in_turn([verdicts.plain, *ours.values()], rounds)
    pairs = {name: Pair(plain_s, times) for name, times in zip(GRADIENTS, fast_s, strict=True)}
    # work in two precisions is the share of no one peak
    share_of_peak = {"float32": flops / pairs["float32"].fast_s / peak_flops(torch.float32)}
    return [
        {
            "model": f"cnn(width={robust.recipe.width})",
            "dataset": robust.recipe.dataset,
            "attack": verdicts.attack,
            "gradients": gradients,
            "images": len(robust.labels),
            **pairs[gradients].columns,
            "plain_mb": plain_mb,
            "fast_mb": fast_mb[gradients],
            "share_of_peak": share_of_peak.get(gradients),
            **agreement(plain, fast[gradients], other_seed),
        }
        for gradients in GRADIENTS
    ]


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
