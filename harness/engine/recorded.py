"""Work that a GPU is told of once and then does again from the recording (a CUDA graph): one launch for hundreds."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from types import FunctionType
from typing import Any, ClassVar
from weakref import WeakSet

import torch
from torch import Tensor

from harness.errors import first_line

Outputs = tuple[Any, ...]  # tensors and None
Work = Callable[..., Outputs]

MOST = 64  # recordings of one network
WARM_UPS = 2  # cuDNN and cuBLAS settle what they need on the stream of the recording


def code_of(function: object) -> Hashable | None:
    """What tells a function from others that is told all that it depends on, also where it is made anew for each
    batch; None for one that closes over something, has defaults, or belongs to an object."""
    if not isinstance(function, FunctionType):
        return None
    bound = function.__closure__ or function.__defaults__ or function.__kwdefaults__
    return None if bound else (function.__module__, function.__code__)


class Recorder:
    """Does work on one network whose weights stay where they are, whatever is copied into them.

    The first time that some work meets tensors of some shapes it is done as it stands, the second time it is recorded,
    from then on the recording is done again: the same kernels on the same memory, so the same bits. Work that cannot be
    recorded, because it waits for the GPU or lacks the memory, is done as it stands, and `problems` says why.
    """

    all: ClassVar[WeakSet[Recorder]] = WeakSet()

    def __init__(self) -> None:
        Recorder.all.add(self)
        self.problems: list[str] = []
        self._met: set[Hashable] = set()
        self._recordings: dict[Hashable, Work] = {}
        self._pool = torch.cuda.graph_pool_handle()  # one at a time is done again, its outputs copied: memory is shared

    def __call__(self, what: Hashable, work: Work, *tensors: Tensor | None) -> Outputs:
        """`work(*tensors)`: its outputs, which are the caller's.

        what: all that work depends on beside the tensors and the network. work: draws nothing, and keeps nothing.
        """
        key = what, tuple(None if each is None else (each.shape, each.stride(), each.dtype) for each in tensors)
        if key not in self._recordings:
            if key not in self._met or len(self._recordings) >= MOST:
                self._met.add(key)
                return work(*tensors)
            self._recordings[key] = self._recorded(work, tensors)
        return self._recordings[key](*tensors)

    @classmethod
    def forget_all(cls) -> None:
        """Give up the recordings of this process, whose memory others lack; they are made again when work recurs."""
        for recorder in cls.all:
            recorder._recordings.clear()
            recorder._met.clear()

    def _recorded(self, work: Work, tensors: Sequence[Tensor | None]) -> Work:
        try:
            return record(work, tensors, self._pool)
        except Exception as error:  # what cannot be recorded raises almost anything, and again if it is at fault itself
            self.problems.append(f"{type(error).__name__}: {first_line(error)}")
            torch.cuda.synchronize()
            torch.cuda.empty_cache()
            return work


def record(work: Work, tensors: Sequence[Tensor | None], pool: Any) -> Work:
    """A CUDA graph of the work, as a function of other tensors of these shapes; its memory comes from the pool."""
    inputs = [None if each is None else each.detach().clone() for each in tensors]
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(WARM_UPS):
            work(*inputs)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, pool=pool):
        outputs = work(*inputs)
    places = [each for each in inputs if each is not None]

    def again(*given: Any) -> Outputs:
        torch._foreach_copy_(places, [each for each in given if each is not None])
        graph.replay()
        return tuple(None if each is None else each.clone() for each in outputs)

    return again
