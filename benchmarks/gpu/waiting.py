"""Where the host waits for the device."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

ROOT = Path(__file__).parents[2]


def first_wait(device: torch.device, work: Callable[[], object]) -> str:
    """Where the host first waits for the device: `methods/faal.py:30`, or `none`."""
    try:
        with _no_waits(device):
            work()
    except RuntimeError as error:
        if "synchronizing" not in str(error):
            raise
        frames = [(Path(frame.filename), frame.lineno) for frame in traceback.extract_tb(error.__traceback__)]
        places = [f"{path.relative_to(ROOT)}:{line}" for path, line in frames if path.is_relative_to(ROOT)]
        return next(place for place in reversed(places) if not place.startswith("benchmarks"))
    return "none"


@contextmanager
def _no_waits(device: torch.device) -> Iterator[None]:
    """RuntimeError inside, about a synchronizing operation, for what waits for a GPU."""
    if device.type != "cuda":
        with _Waiting(), mock.patch.object(torch.nn.functional, "one_hot", _one_hot):
            yield
        return
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def _one_hot(labels: Tensor, num_classes: int) -> Tensor:
    """Torch's own looks at the labels, on a processor alone."""
    return labels.new_zeros((*labels.shape, num_classes)).scatter_(-1, labels[..., None], 1)


class _Waiting(TorchDispatchMode):
    """A processor waits for nothing: refuses the operations that would wait on a GPU, since the host must know what
    they find."""

    NAMES = frozenset(
        {"_local_scalar_dense", "nonzero", "masked_select", "_unique2", "bincount", "equal", "is_nonzero"}
    )

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        by_mask = name in ("index", "index_put", "index_put_") and any(
            index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1]
        )
        if by_mask or name in self.NAMES:
            raise RuntimeError(f"{name} is a synchronizing operation")
        return func(*args, **(kwargs or {}))
