"""What an error means for a trial: fail it, try again, or stop the run. Pure rules, no Ray and no torch."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from harness.errors import InfrastructureError
from harness.files import FULL

# method: the trial's own error.  gpu_memory: the GPU was too small or shared.  infrastructure: the machine's fault.
# disk: no space left.  timeout: over the time limit per trial.
Kind = Literal["method", "gpu_memory", "infrastructure", "disk", "timeout"]
Action = Literal["fail", "retry", "retry_whole_gpu", "stop"]

MAX_BARREN_ATTEMPTS = 3  # attempts in a row that did not finish an epoch
_LONGEST_PAUSE_S = 30.0
_FILE_SYSTEM_TROUBLE = {errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN, errno.EHOSTDOWN}


@dataclass(frozen=True)
class Decision:
    """What to do with a trial whose attempt ended in an error; pause_s: seconds to wait before the next attempt."""

    action: Action
    pause_s: float = 0.0


def decide(kind: Kind, *, barren: int, gpu: float, had_whole_gpu: bool = False) -> Decision:
    """The rule for one more error.

    barren: attempts in a row, this one included, that did not finish an epoch (0 if this one did).
    gpu: what the attempt had of a GPU. had_whole_gpu: it was already given a whole one because of an earlier error.
    """
    if kind == "disk":
        return Decision("stop")
    if kind == "gpu_memory" and 0 < gpu < 1 and not had_whole_gpu:
        return Decision("retry_whole_gpu")
    if kind == "infrastructure" and barren < MAX_BARREN_ATTEMPTS:
        return Decision("retry", min(_LONGEST_PAUSE_S, 0.5 * 2 ** max(0, barren - 1)))
    return Decision("fail")


def disk_full(error: str) -> str:
    """Why a run stops on a full disk, and what to do about it."""
    return f"the disk is full ({error}); free some space and run again"


def kind_of(error: BaseException) -> Kind:
    """Whose fault an exception is that a trial raised. Looks through its causes; knows torch's by name."""
    chain = list(_causes(error))
    if any(_is_disk_full(each) for each in chain):
        return "disk"
    if any(_is_gpu_memory(each) for each in chain):
        return "gpu_memory"
    if any(_is_infrastructure(each) for each in chain):
        return "infrastructure"
    return "method"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _is_disk_full(error: BaseException) -> bool:
    if isinstance(error, OSError) and error.errno in FULL:
        return True
    # torch.save reports a short write without an error number
    return "No space left on device" in str(error) or "PytorchStreamWriter failed writing" in str(error)


def _is_gpu_memory(error: BaseException) -> bool:
    return type(error).__name__ == "OutOfMemoryError" or "CUDA out of memory" in str(error)


def _is_infrastructure(error: BaseException) -> bool:
    if isinstance(error, OSError):
        return error.errno in _FILE_SYSTEM_TROUBLE
    return isinstance(error, (InfrastructureError, MemoryError)) or "can't allocate memory" in str(error)
