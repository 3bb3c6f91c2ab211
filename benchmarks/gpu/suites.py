"""The trials of small suites on the device of an acceptance, and noise to train them on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.gpu.check import Setting
from harness.spec import TrialSpec
from harness.suites.blocks import own_data, read
from harness.suites.plan import plan
from harness.suites.suite import Suite

TEST_IMAGES = 500


def planned(setting: Setting, share: float, **keys: Any) -> list[TrialSpec]:
    """The trials of a suite with these keys, each on a share of the GPU, if that is the device, and on half a
    processor, so that two have room anywhere."""
    resources = {"cpu": 0.5, "gpu": share if setting.device.type == "cuda" else 0}
    return plan(read(Suite, {"name": "acceptance", "eps": 8 / 255, "resources": resources, **keys}, "acceptance"))


def drawn_images(folder: Path) -> dict[str, Any]:
    """A data set of ten classes in a file in the folder, as a suite names it: noise, 32 x 32 in three channels."""
    drawn, sizes = np.random.default_rng(0), {"train": 600, "test": TEST_IMAGES}
    arrays: dict[str, Any] = {}
    for part, size in sizes.items():
        arrays[f"x_{part}"] = drawn.integers(0, 256, (size, 32, 32, 3), np.uint8)
        arrays[f"y_{part}"] = np.arange(size) % 10
    np.savez(folder / "drawn.npz", **arrays)
    return own_data({"name": "npz", "path": "drawn.npz"}, folder)
