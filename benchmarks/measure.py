"""Paired timing, peak memory, and the machine's own peak."""

from __future__ import annotations

import ctypes
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Pair:
    """Two forms of one piece of work, timed in turn: seconds of each pair."""

    plain: list[float]
    fast: list[float]

    @property
    def plain_s(self) -> float:
        return statistics.median(self.plain)

    @property
    def fast_s(self) -> float:
        return statistics.median(self.fast)

    @property
    def ratios(self) -> list[float]:
        """plain over fast, pair by pair, sorted."""
        return sorted(plain / fast for plain, fast in zip(self.plain, self.fast, strict=True))

    @property
    def ratio(self) -> float:
        return statistics.median(self.ratios)

    @property
    def columns(self) -> dict[str, Any]:
        """What every benchmark's row says of its pair."""
        return {
            "plain_s": self.plain_s,
            "fast_s": self.fast_s,
            "ratio": self.ratio,
            "ratio_range": [self.ratios[0], self.ratios[-1]],
        }


def in_turn(
    plain: Callable[[], object],
    fast: Callable[[], object],
    rounds: int,
    warm_up: int = 1,
    device: torch.device = CPU,
) -> Pair:
    """Time the two forms alternately, after a warm-up of both."""
    for _ in range(warm_up):
        plain()
        fast()
    return Pair(*all_in_turn((plain, fast), rounds, device))


def all_in_turn(forms: Sequence[Callable[[], object]], rounds: int, device: torch.device = CPU) -> list[list[float]]:
    """The seconds of each form in each round, timed one after the other."""
    times = [[seconds(form, device) for form in forms] for _ in range(rounds)]
    return [list(each) for each in zip(*times, strict=True)]


def peak_memory_mb(work: Callable[[], object], device: torch.device = CPU) -> float | None:
    """MiB that a piece of work needs on top of what this process holds: of a GPU's memory, or resident memory. None
    where the system does not tell. The work should have run before: what is loaded and built once is not its need."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        held = torch.cuda.memory_allocated()
        work()
        return (torch.cuda.max_memory_allocated() - held) / 2**20
    _give_back_free_memory()
    try:
        Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts again from here
        resident = _status_mb("VmRSS")
        work()
        return max(0.0, _status_mb("VmHWM") - resident)
    except OSError:
        work()
        return None


def run_python(
    code: str, arguments: Sequence[str] = (), environment: dict[str, str] | None = None
) -> tuple[float, float | None]:
    """Wall seconds and peak resident MiB (None where the system does not tell) of Python code in a process of its own.

    The process tells its own peak as it ends: what the system counts for it begins at the peak of its parent.
    RuntimeError with its last words if it fails.
    """
    begun = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", f"{_TELL_PEAK}\n{code}", *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env={**os.environ, **(environment or {})},
        check=False,
    )
    wall, words = time.perf_counter() - begun, done.stderr.decode(errors="replace")
    if done.returncode:
        raise RuntimeError(f"Python ended with {done.returncode}: {words[-2000:]}")
    peaks = re.findall(r"^VmHWM:\s+(\d+) kB$", words, re.MULTILINE)
    return wall, int(peaks[-1]) / 1024 if peaks else None


_TELL_PEAK = """
import atexit, pathlib, sys
status = pathlib.Path("/proc/self/status")
if status.exists():
    atexit.register(lambda: sys.stderr.write(status.read_text()))
"""


FILLING = {"cpu": 2048, "cuda": 8192}  # rows of a square matrix whose product keeps all units of a device busy


def peak_flops(dtype: torch.dtype, device: torch.device = CPU, size: int | None = None, rounds: int = 40) -> float:
    """Floating-point operations per second of a device's best matrix product in one precision, on a processor with
    torch's current threads. size: rows, as many as fill the device by default."""
    size = size or FILLING[device.type]
    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    left @ right
    return 2 * size**3 / min(seconds(lambda: left @ right, device) for _ in range(rounds))


def forward_flops(model: torch.nn.Module, image: torch.Tensor) -> float:
    """Floating-point operations of one image's forward: two per multiply-add of convolutions and linear layers."""
    total = 0.0

    def count(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        nonlocal total
        if isinstance(module, torch.nn.Conv2d):
            kernel = module.kernel_size[0] * module.kernel_size[1] * module.in_channels // module.groups
            total += 2.0 * kernel * output[0].numel()
        elif isinstance(module, torch.nn.Linear):
            total += 2.0 * module.in_features * module.out_features

    hooks = [module.register_forward_hook(count) for module in model.modules()]
    with torch.no_grad():
        model.eval()(image[None])
    for hook in hooks:
        hook.remove()
    return total


def seconds(work: Callable[[], object], device: torch.device = CPU) -> float:
    """Seconds of one call: by the wall clock on a processor, on a GPU by its own, from an idle device to the end of
    the last kernel."""
    if device.type != "cuda":
        begun = time.perf_counter()
        work()
        return time.perf_counter() - begun
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize(device)
    begin.record()
    work()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / 1000


def _give_back_free_memory() -> None:
    """What earlier work freed but the allocator kept would hide what the next piece needs."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (AttributeError, OSError):  # another C library than glibc
        return


def _status_mb(name: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{name}:"))
