"""The most memory that a process has used since it was last set back, and batches that a GPU has room for."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import torch

from harness.engine.recorded import Recorder
from harness.errors import kind_of
from harness.spec import TrialSpec

T = TypeVar("T")

_MIB = 2**20
_FORGET_PEAK = "5"  # of proc(5), clear_refs

# MiB by columns of the `trials` table: used, and, on a GPU, also what torch had reserved for that
Peak = Mapping[str, float | None]


def reset_peak_memory(device: torch.device) -> None:
    """From here on the peak is counted anew; of resident memory on Linux only."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text(_FORGET_PEAK)


def peak_memory(device: torch.device) -> Peak:
    """Of the GPU where the device is one, else resident memory."""
    if device.type != "cuda":
        return {"peak_memory_mb": _resident_mb(), "peak_reserved_mb": None}
    allocated, reserved = torch.cuda.max_memory_allocated(device), torch.cuda.max_memory_reserved(device)
    return {"peak_memory_mb": allocated / _MIB, "peak_reserved_mb": reserved / _MIB}


def larger(one: Peak, other: Peak) -> Peak:
    """The larger of two peaks, column by column."""
    pairs = {
        name: [value for peak in (one, other) if (value := peak.get(name)) is not None] for name in {**one, **other}
    }
    return {name: max(values, default=None) for name, values in pairs.items()}


def _resident_mb() -> float:
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        import resource

        # begins at the peak of the parent process on Linux, and counts bytes on macOS
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (_MIB if sys.platform == "darwin" else 1024)


class Fitting:
    """Batches of an evaluation, smaller once a whole GPU had no memory for larger ones; a share of a GPU is exchanged
    for a whole one first, by the driver. size: images at present, of `asked` ones."""

    def __init__(self, spec: TrialSpec, asked: int) -> None:
        self.asked = self.size = asked
        self._whole = spec.resources.gpu >= 1

    @property
    def remark(self) -> str | None:
        """What to say of batches that are smaller than asked for."""
        if self.size == self.asked:
            return None
        return f"the GPU had no memory for batches of {self.asked} images, they have {self.size}"

    def run(self, work: Callable[[int], T]) -> T:
        """What `work` gives for the largest size there is memory for, halved from the present one; torch's error where
        not even one image fits."""
        while True:
            try:
                return work(self.size)
            except Exception as error:
                if kind_of(error) != "gpu_memory":
                    raise
                if not Recorder.forget_all():
                    if not self._whole or self.size == 1:
                        raise
                    self.size //= 2
            torch.cuda.empty_cache()
