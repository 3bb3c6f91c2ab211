"""GPUs: what share of one a trial may have, which ones a machine has, and the one that a trial was given. Importing
this does not import torch."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import DeviceError, first_line, kind_of
from harness.spec import TrialSpec

if TYPE_CHECKING:
    import torch

_DEVICE = "/dev/nvidiactl"  # not in a container that was given no GPU, which sees the rest all the same
_TRACES = (_DEVICE, "/dev/dxg", "/proc/driver/nvidia/version")  # of NVIDIA's driver, on Linux and in WSL
_VISIBLE = "CUDA_VISIBLE_DEVICES"
_LISTED = Path("/proc/driver/nvidia/gpus")
ANSWER_TIMEOUT_S = 120.0  # torch may come from a slow disk
_UNUSED = 0.02  # of a GPU that may be left over: 0.33 is a third
_MOST = 1000  # trials on one GPU

# Computes a little on every GPU, in a process of its own: its contexts end with it. Prints what it found. One whose
# memory others have taken up is as good as free.
_LOOK = """
import json
found = {"names": [], "bfloat16": True, "problem": ""}
try:
    import torch
    torch.cuda.init()
    for number in range(torch.cuda.device_count()):
        try:
            with torch.cuda.device(number):
                name, units = torch.cuda.get_device_name(), torch.cuda.is_bf16_supported(including_emulation=False)
                ones = torch.ones(64, 64, device="cuda")
                if (ones @ ones != 64).any():
                    raise RuntimeError("wrong sums")
        except Exception as error:
            if "out of memory" not in str(error):
                found["problem"] = f"GPU {number}: {error}"
                continue
        found["names"].append(name)
        found["bfloat16"] &= units
except Exception as error:
    found["problem"] = str(error).strip() or type(error).__name__
print(json.dumps(found))
"""


@dataclass(frozen=True)
class GPUs:
    """NVIDIA's GPUs of a machine that torch can use, by name. bfloat16: all of them have units for it. problem: why it
    cannot use others, in a line."""

    names: tuple[str, ...] = ()
    bfloat16: bool = False
    problem: str = ""


def share_problem(share: float) -> str | None:
    """What is wrong with a share of a GPU that a trial asks for, if anything is."""
    if share > 1:
        return "must be at most 1: a trial computes on one GPU"
    many = int(1 / share + 1e-6) if share > 0 else 0  # trials on one GPU
    if share < 0 or many > _MOST or (many and 1 - many * share > _UNUSED):
        near = f", such as {_decimal(1 / (many + 1))} or {_decimal(1 / many)}" if 0 < many <= _MOST else ""
        return f"must be 0, 1 or 1/k for k trials on a GPU{near}"
    return None


def _decimal(share: float) -> str:
    return f"{int(share * 1000) / 1000:g}"


def models() -> list[str]:
    """The models of this machine's GPUs as NVIDIA's driver lists them, at once; `gpus_here` tells whether torch can use
    them. None where CUDA_VISIBLE_DEVICES leaves none."""
    if os.environ.get(_VISIBLE, "0") in ("", "-1") or not os.path.exists(_DEVICE):
        return []
    facts = [path.read_text() for path in sorted(_LISTED.glob("*/information"))]
    return [line.partition(":")[2].strip() for text in facts for line in text.splitlines() if line.startswith("Model:")]


@cache
def gpus_here(hidden: bool = False) -> GPUs | None:
    """The GPUs of this machine, asked in another process, which takes seconds; None at once where there is no trace of
    NVIDIA's driver. hidden: those too that Ray hides from what asks for none."""
    if not any(map(os.path.exists, _TRACES)):
        return None
    environment = dict(os.environ)
    if hidden:
        environment.pop(_VISIBLE, None)
        environment |= {name: value for name, value in _environment_at_start() if name == _VISIBLE}
    return look(environment)


def _environment_at_start() -> Iterator[tuple[str, str]]:
    """What this process was started with: a variable that was set since stands as it was."""
    with suppress(OSError):
        for entry in Path("/proc/self/environ").read_bytes().decode(errors="replace").split("\0"):
            name, _, value = entry.partition("=")
            yield name, value


def look(environment: dict[str, str] | None = None) -> GPUs:
    """What a new process finds, with this environment, by default that of this process."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", _LOOK], env=environment, capture_output=True, text=True, timeout=ANSWER_TIMEOUT_S
        )
        found = json.loads(done.stdout.splitlines()[-1])
    except subprocess.TimeoutExpired:
        return GPUs(problem=f"no answer within {ANSWER_TIMEOUT_S:.0f} s")
    except (ValueError, IndexError):
        last = (done.stderr.strip() or "the process that asked it died").splitlines()[-1]
        return GPUs(problem=f"{last} (exit code {done.returncode})")
    names = tuple(found["names"])
    return GPUs(names, bool(names) and found["bfloat16"], first_line(found["problem"]))


def lost_context() -> str | None:
    """Why this process can no longer compute on its GPU, if that is so: what goes wrong in a kernel ends a context."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return None
    try:
        torch.cuda.synchronize()
    except RuntimeError as error:
        return first_line(error)
    return None


def device_of(spec: TrialSpec) -> torch.device:
    """The device of a trial. DeviceError where it was given a GPU and cannot use it: what asked for one never computes
    on a processor. Torch's own error where the GPU has no memory left."""
    import torch

    if not spec.resources.gpu:
        return torch.device("cpu")
    device, host = torch.device("cuda"), socket.gethostname()
    try:
        torch.ones(1, device=device).item()
    except (RuntimeError, AssertionError) as error:
        if kind_of(error) == "gpu_memory":
            raise
        raise DeviceError(f"the GPU given on {host} cannot be used: {first_line(error)}") from error
    if spec.wants_bfloat16 and not torch.cuda.is_bf16_supported(including_emulation=False):
        name = torch.cuda.get_device_name(device)
        raise DeviceError(f"the GPU given on {host}, {name}, has no units for bfloat16")
    return device
