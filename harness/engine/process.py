"""The C library's allocator."""

from __future__ import annotations

import ctypes

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of mallopt, malloc.h
_BYTES = 2**30


def keep_freed_memory() -> None:
    """Let this process keep the memory it frees, up to 1 GiB, instead of giving it back to the system.

    A training step allocates the same large maps again and again. glibc's defaults return many of them each time, and
    fresh pages cost: 8,000 to 14,000 faults and between a twentieth and a fifth of the time of a 32-wide cnn's bfloat16
    step, on different days. Without effect on other C libraries.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    mallopt(_TRIM_THRESHOLD, _BYTES)
    mallopt(_MMAP_THRESHOLD, _BYTES)
