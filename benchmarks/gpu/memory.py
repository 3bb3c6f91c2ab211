"""A GPU that is too small: for the batches of an evaluation, and for anything."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

from benchmarks.gpu.check import Setting, Threshold, Work
from benchmarks.gpu.suites import TEST_IMAGES, drawn_images, planned
from harness.running.run import Options, run
from harness.spec import Resources
from harness.store.store import Store

# Bytes of a GPU's memory, and images that a processor's networks take at once in its place: enough for training and
# for a part of the test images at once, whose maps take 130 MB each on the GPU; enough for nothing.
PART, NOTHING = (2**28, 150), (2**25, 1)


def memory(setting: Setting) -> list[Work]:
    """Trials that lack memory on the way."""
    smaller = {
        "an evaluation batch does not fit: the trial is": Threshold("==", "done"),
        "an evaluation batch does not fit: its rows say so": Threshold("==", True),
    }
    none = {
        "nothing fits: the trial is": Threshold("==", "failed"),
        "nothing fits: the stored reason is the memory": Threshold("==", True),
    }
    return [
        Work(smaller, partial(_end_of_trial, setting, PART, list(smaller), "no memory for batches")),
        Work(none, partial(_end_of_trial, setting, NOTHING, list(none), "out of memory")),
    ]


def _end_of_trial(setting: Setting, room: tuple[int, int], lines: list[str], says: str) -> dict[str, Any]:
    """Status, and whether error or notes say so, of a trial that trains on few images and attacks all of the test
    images at once."""
    with tempfile.TemporaryDirectory() as folder:
        (spec,) = planned(
            setting, 1, dataset=drawn_images(Path(folder)), methods=["at"],
            student={"name": "cnn", "width": 64 if setting.device.type == "cuda" else 4},
            training={"epochs": 1, "batch_size": 16, "attack_steps": 1, "validation_steps": 1},
            evaluation={"attacks": ["pgd2"], "batch_size": TEST_IMAGES, "chunk_size": TEST_IMAGES},
        )  # fmt: skip
        store = Store(Path(folder) / "store")
        with _little_memory(setting.device, *room):
            run([spec.model_copy(update={"resources": Resources(gpu=1)})], store, options=Options(serial=True))
        row = store.trials(["status", "error"]).iloc[0]
        said = [str(row["error"]), *store.read("notes", columns=["text"])["text"]]
    return dict(zip(lines, (row["status"], any(says in text for text in said)), strict=True))


@contextmanager
def _little_memory(device: torch.device, size: int, images: int) -> Iterator[None]:
    """A GPU with so many bytes, or a processor that passes for one and whose networks take so many images at once."""
    with ExitStack() as stack:
        if device.type == "cuda":
            total = torch.cuda.get_device_properties(device).total_memory
            torch.cuda.empty_cache()
            torch.cuda.set_per_process_memory_fraction(size / total, device)
            stack.callback(torch.cuda.empty_cache)
            stack.callback(torch.cuda.set_per_process_memory_fraction, 1.0, device)
        else:
            hook = nn.modules.module.register_module_forward_pre_hook(partial(_refuse, images))
            stack.callback(hook.remove)
            stack.enter_context(mock.patch("harness.running.run.check_gpus"))
            stack.enter_context(mock.patch("harness.trial.device_of", return_value=device))
        yield


def _refuse(most: int, module: nn.Module, inputs: tuple[Any, ...]) -> None:
    if isinstance(inputs[0], Tensor) and len(inputs[0]) > most:
        raise torch.OutOfMemoryError(f"out of memory: more than {most} images at once")
