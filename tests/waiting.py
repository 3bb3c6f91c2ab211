"""Waiting for what other processes do, for as long as a busy machine may take."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path


def wait_until(condition: Callable[[], bool], timeout: float = 180.0) -> None:
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.05)


def processes_of(mark: Path) -> list[int]:
    """The processes, other than this one, that inherited RUN_MARK, set to `mark`, in their environment."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if int(folder.name) != os.getpid() and f"RUN_MARK={mark}".encode() in (folder / "environ").read_bytes():
                found.append(int(folder.name))
    return found
