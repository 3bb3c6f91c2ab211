"""Work that a GPU is told of once and then does again from the recording (a CUDA graph): one launch for hundreds."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from types import BuiltinFunctionType, CodeType, FunctionType, ModuleType
from typing import Any, ClassVar
from weakref import WeakSet

import torch
from torch import Tensor

from harness.errors import first_line
from methods import lazy

Outputs = tuple[Any, ...]  # tensors and None
Work = Callable[..., Outputs]

MOST = 16  # recordings of one network
_FIXED = (ModuleType, FunctionType, BuiltinFunctionType, type, type(lazy.torch))


def code_of(function: object) -> Hashable | None:
    """What tells a function from others that is told all that it depends on, also where it is made anew for each
    batch. None for one that closes over something, has defaults, belongs to an object, or reads a global that is
    neither a function nor a class nor a module."""
    if not isinstance(function, FunctionType):
        return None
    if function.__closure__ or function.__defaults__ or function.__kwdefaults__:
        return None
    used = (function.__globals__[name] for name in _names(function.__code__) if name in function.__globals__)
    return (function.__module__, function.__code__) if all(isinstance(each, _FIXED) for each in used) else None


def _names(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for each in code.co_consts:
        if isinstance(each, CodeType):
            yield from _names(each)


class Recorder:
    """Does work on one network whose weights stay where they are, whatever is copied into them.

    The first time that some work meets tensors of some shapes it is done as it stands, the second time it is recorded,
    from then on the recording is done again: the same kernels on the same memory, so the same bits. Where work cannot
    be recorded, because it waits for the GPU or because there is no room for the maps of a recording beside those of
    all else, it and whatever comes later is done as it stands, and `problems` says why.
    """

    all: ClassVar[WeakSet[Recorder]] = WeakSet()

    def __init__(self) -> None:
        Recorder.all.add(self)
        self.problems: list[str] = []
        self.recordings: dict[Hashable, Work | None] = {}
        self._forget()

    def _forget(self) -> None:
        self.recordings.clear()
        self._met: set[Hashable] = set()
        self._pool = torch.cuda.graph_pool_handle()  # one at a time is done again, its outputs copied: memory is shared

    @property
    def records(self) -> bool:
        """Whether anything is recorded."""
        return any(self.recordings.values())

    def __call__(self, what: Hashable, work: Work, *tensors: Tensor | None) -> Outputs:
        """`work(*tensors)`: its outputs, which are the caller's.

        what: all that work depends on beside the tensors and the network. work: draws nothing, and keeps nothing.
        """
        key = what, tuple(None if each is None else (each.shape, each.stride(), each.dtype) for each in tensors)
        if key in self._met and key not in self.recordings and len(self.recordings) < MOST:
            self.recordings[key] = self._recorded(work, tensors)
        self._met.add(key)
        recording = self.recordings.get(key)
        return (recording or work)(*tensors)

    @classmethod
    def forget_all(cls) -> bool:
        """Give up the recordings of this process, whose memory others lack; they are made again when work recurs.
        Whether there were any."""
        held = [recorder for recorder in cls.all if recorder.records]
        for recorder in held:
            recorder._forget()
        return bool(held)

    def _recorded(self, work: Work, tensors: Sequence[Tensor | None]) -> Work | None:
        if self.problems:
            return None
        try:
            return record(work, tensors, self._pool)
        except Exception as error:  # what cannot be recorded raises almost anything, and again if it is at fault itself
            self.problems.append(f"{type(error).__name__}: {first_line(error)}")
            return None


def record(work: Work, tensors: Sequence[Tensor | None], pool: Any) -> Work:
    """A CUDA graph of the work, as a function of other tensors of these shapes; its memory comes from the pool. Raises
    whatever kept it from being recorded."""
    before = torch.cuda.current_stream()
    try:
        return _graph(work, tensors, pool)
    except BaseException:
        torch.cuda.set_stream(before)  # where a recording fails, torch leaves its stream in place
        raise


def _graph(work: Work, tensors: Sequence[Tensor | None], pool: Any) -> Work:
    free, _ = torch.cuda.mem_get_info()
    if free + torch.cuda.memory_reserved() - torch.cuda.memory_allocated() < torch.cuda.max_memory_allocated():
        raise MemoryError("no room beside what is needed at most without a recording")
    inputs = [None if each is None else each.detach().clone() for each in tensors]
    side = _side_stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side), _waits_refused():  # a wait inside of a recording would spoil more than that
        work(*inputs)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    torch._C._cuda_clearCublasWorkspaces()  # so that the recording's lies in its pool, and is nobody else's
    with torch.cuda.graph(graph, pool=pool, stream=side):
        outputs = work(*inputs)
    torch._C._cuda_clearCublasWorkspaces()
    places = [each for each in inputs if each is not None]

    def again(*given: Any) -> Outputs:
        torch._foreach_copy_(places, [each for each in given if each is not None])
        graph.replay()
        return tuple(None if each is None else each.clone() for each in outputs)

    return again


@cache
def _side_stream() -> torch.cuda.Stream:
    """One for all recordings: each stream that multiplies matrices keeps memory for that."""
    return torch.cuda.Stream()


@contextmanager
def _waits_refused() -> Iterator[None]:
    """RuntimeError inside for what waits for the GPU."""
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)
