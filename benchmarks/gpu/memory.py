"""A GPU that is too small: for the batches of an evaluation, and for anything."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.gpu.check import Setting, Threshold, Work
from benchmarks.gpu.suites import TEST_IMAGES, drawn_images, planned
from harness.running.run import Options, run
from harness.store.store import Store

# Bytes of a GPU's memory, and images that a processor's networks take at once in its place: enough for training and
# for a part of the test images at once; enough for nothing.
PART, NOTHING = (2**30, 150), (2**25, 1)


def memory(setting: Setting) -> list[Work]:
    """Trials that lack memory on the way."""

    def measure(room: tuple[int, int], lines: dict[str, Threshold]) -> dict[str, str]:
        with tempfile.TemporaryDirectory() as folder:
            row = _trial(setting, Path(folder), room)
        reason = str(row["error"]).splitlines()[0]
        return dict(zip(lines, (row["status"], "memory" if "memory" in reason else reason), strict=False))

    return [
        Work(lines, partial(measure, room, lines))
        for room, lines in (
            (PART, {"an evaluation batch does not fit: the trial is": Threshold("==", "done")}),
            (
                NOTHING,
                {
                    "nothing fits: the trial is": Threshold("==", "failed"),
                    "nothing fits: the stored reason is": Threshold("==", "memory"),
                },
            ),
        )
    ]


def _trial(setting: Setting, folder: Path, room: tuple[int, int]) -> dict[Any, Any]:
    """The row of a trial that trains on few images at once and attacks all of the test images at once."""
    specs = planned(
        setting, 1, dataset=drawn_images(folder), methods=["at"],
        student={"name": "resnet18", "width": 64 if setting.device.type == "cuda" else 4},
        training={"epochs": 1, "batch_size": 16, "attack_steps": 1, "validation_steps": 1},
        evaluation={"attacks": ["pgd2"], "batch_size": TEST_IMAGES, "chunk_size": TEST_IMAGES},
    )  # fmt: skip
    store = Store(folder / "store")
    with _little_memory(setting.device, *room):
        run(specs, store, options=Options(serial=True))
    return store.trials(["status", "error"]).iloc[0].to_dict()


@contextmanager
def _little_memory(device: torch.device, size: int, images: int) -> Iterator[None]:
    """A GPU with so many bytes, or a processor on which convolutions take so many images."""
    if device.type == "cuda":
        total = torch.cuda.get_device_properties(device).total_memory
        torch.cuda.empty_cache()
        torch.cuda.set_per_process_memory_fraction(size / total, device)
        try:
            yield
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0, device)
            torch.cuda.empty_cache()
        return

    def refuse(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        if isinstance(inputs[0], Tensor) and len(inputs[0]) > images:
            raise torch.OutOfMemoryError(f"out of memory: more than {images} images")

    handle = nn.modules.module.register_module_forward_pre_hook(refuse)
    try:
        yield
    finally:
        handle.remove()
