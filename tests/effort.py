"""What work costs, in terms that do not depend on the machine's speed."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

Work = Callable[[], Any]


def growth(small: Work, large: Work) -> float:
    """How many times the processor time of `small` it takes to do `large`, in this process; each the best of two."""
    return _least_seconds(large) / _least_seconds(small)


def _least_seconds(work: Work) -> float:
    taken = []
    for _ in range(2):
        began = time.process_time()
        work()
        taken.append(time.process_time() - began)
    return min(taken)
