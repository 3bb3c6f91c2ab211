"""What an error means for a trial: fail it, try again, or stop the run. Pure rules, no Ray and no torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from harness.errors import MACHINE_FAULTS, Kind, kind_of

Action = Literal["fail", "retry", "retry_whole_gpu", "stop"]

MAX_BARREN_ATTEMPTS = 3  # attempts in a row that did not finish an epoch
_LONGEST_PAUSE_S = 30.0


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
    if kind in MACHINE_FAULTS and barren < MAX_BARREN_ATTEMPTS:
        return Decision("retry", min(_LONGEST_PAUSE_S, 0.5 * 2 ** max(0, barren - 1)))
    return Decision("fail")


def disk_full(error: str) -> str:
    """Why a run stops on a full disk, and what to do about it."""
    return f"the disk is full ({error}); free some space and run again"


def folder_gone(root: Path) -> str:
    """Why a run stops whose results folder was moved or deleted."""
    return f"the results folder {root} is no longer there"


@contextmanager
def stopping(stop: Callable[[str], None], root: Path) -> Iterator[None]:
    """For a driver's own writes to its store at `root`: a full disk stops the run as it does in a trial, and so does a
    results folder that is gone; everything else is raised."""
    try:
        yield
    except OSError as error:
        if root.is_dir() and kind_of(error) != "disk":
            raise
        stop(disk_full(str(error)) if root.is_dir() else folder_gone(root))
