"""CPU tensors that pass for CUDA's: what the host would wait for on a GPU, and what CUDA would refuse, without one.

Everything is computed, backward passes included, so that branches, numbers and resumed states are real. What torch
decides in C++ by the device is not seen (but for `one_hot`, which only checks its values on the CPU), nor are kernels,
their rounding, streams and memory.
"""

from __future__ import annotations

import linecache
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from harness.engine import recorded
from harness.engine.forwards import FoldedTwin

ROOT = str(Path(__file__).parents[1])
CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)
# Their results have a size, or a value, that the host must know.
WAIT = frozenset({
    "_local_scalar_dense", "nonzero", "masked_select", "_unique2", "unique_dim", "unique_consecutive", "bincount",
    "histc", "equal", "is_nonzero", "_linalg_svd", "_linalg_eigh", "_linalg_solve_ex", "linalg_inv_ex",
})  # fmt: skip
INDEXED = frozenset({"index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index"})
COPIES = frozenset({"copy_", "_to_copy", "_foreach_copy_"})
GETTERS = {getattr(Tensor, name).__get__: name for name in ("device", "is_cuda", "is_cpu")}
RealGenerator = torch.Generator


class FakeGenerator(RealGenerator):
    """The CPU's numbers under a device's name."""

    def __new__(cls, device: Any = "cpu") -> FakeGenerator:
        made = super().__new__(cls)
        made.where = CUDA if torch.device(device).type == "cuda" else CPU
        return made

    def __init__(self, device: Any = "cpu") -> None:
        super().__init__()

    @property
    def device(self) -> torch.device:
        return self.where


class FakeEvent:
    """A moment that has passed when it is asked for the second time."""

    asked = 0

    def record(self) -> None:
        pass

    def query(self) -> bool:
        self.asked += 1
        return self.asked > 1

    def synchronize(self) -> None:
        pass


class FakeCuda:
    """What happened between the host and the GPU so far.

    waits: what stopped the host until the GPU was done. uploads: copies to the GPU that the host waits for. Each says
    what it was and where.
    """

    def __init__(self) -> None:
        self.waits: list[str] = []
        self.uploads: list[str] = []

    def forget(self) -> None:
        """Begin to count anew."""
        self.waits.clear()
        self.uploads.clear()

    def device_of(self, tensor: Tensor) -> torch.device:
        return CUDA if self.holds(tensor) else tensor.device

    def holds(self, tensor: Tensor) -> bool:
        """Whether a tensor is on the GPU: views share a storage."""
        return _mark(tensor) == "cuda"

    def place(self, tensors: Any, device: torch.device = CUDA, pinned: bool = False) -> Any:
        for tensor in _tensors(tensors):
            if tensor.layout is torch.strided:
                tensor.untyped_storage().mark = "cuda" if device == CUDA else "pinned" if pinned else "cpu"
        return tensors

    def copied(self, source: Tensor, target: torch.device, non_blocking: bool, into_pinned: bool = False) -> None:
        """Count a copy between the two devices. Memory that is not pinned is copied to the GPU by way of a buffer."""
        here = self.device_of(source)
        if here == CUDA and target == CPU and not (non_blocking and into_pinned):
            self.waits.append(f"copy to the host {_where()}")
        if here == CPU and target == CUDA and not non_blocking:
            self.uploads.append(f"blocking copy to the GPU {_where()}")


class _Functions(TorchFunctionMode):
    """Python's view: devices as they are asked for and given."""

    def __init__(self, gpu: FakeCuda) -> None:
        self.gpu = gpu

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        gpu, kwargs = self.gpu, dict(kwargs or {})
        if func in GETTERS:
            device, name = gpu.device_of(args[0]), GETTERS[func]
            return device if name == "device" else device.type == name.removeprefix("is_")
        if func in (Tensor.to, Tensor.cpu, Tensor.cuda):
            return self._move(func, *args, **kwargs)
        if func in (Tensor.numpy, Tensor.__array__) and gpu.holds(args[0]):
            raise TypeError("can't convert cuda:0 device type tensor to numpy")
        if func is Tensor.tolist and gpu.holds(args[0]):
            gpu.waits.append(f"list {_where()}")
        if func is Tensor.__deepcopy__:
            return gpu.place(func(*args, **kwargs), gpu.device_of(args[0]))
        if func is torch.nn.functional.one_hot:
            return _one_hot(*args, **kwargs)
        return self._make(func, args, kwargs)

    def _move(self, func: Any, tensor: Tensor, *args: Any, copy: bool = False, **kwargs: Any) -> Tensor:
        gpu = self.gpu
        if func is not Tensor.to:
            args = (CPU if func is Tensor.cpu else CUDA, *args)
        if args and isinstance(args[0], Tensor):
            args = (gpu.device_of(args[0]), args[0].dtype, *args[1:])
        device, dtype, non_blocking, memory_format = torch._C._nn._parse_to(*args, **kwargs)
        here = gpu.device_of(tensor)
        there = here if device is None else CUDA if device.type == "cuda" else device
        if here != there:
            gpu.copied(tensor, there, non_blocking)
        formats = {} if memory_format is None else {"memory_format": memory_format}
        real = CPU if there == CUDA else there
        moved = tensor.to(real, dtype or tensor.dtype, copy=copy or here != there, **formats)
        return moved if moved is tensor else gpu.place(moved, there)

    def _make(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """Whatever else: a factory makes its tensor where it is told to."""
        gpu, wanted, pinned = self.gpu, kwargs.get("device"), kwargs.pop("pin_memory", False)
        if wanted is None or torch.device(wanted).type != "cuda":
            made = func(*args, **kwargs)
            return gpu.place(made, CPU, pinned=True) if pinned else made
        if isinstance(generator := kwargs.get("generator"), RealGenerator) and generator.device.type != "cuda":
            raise RuntimeError("Expected a 'cuda' device type for generator but found 'cpu'")
        kwargs["device"] = CPU
        given = args[0] if args else None
        if func in (torch.tensor, torch.as_tensor):
            if isinstance(given, Tensor) and func is torch.as_tensor:
                return self._move(Tensor.to, given, CUDA)
            gpu.uploads.append(f"{func.__name__} {_where()}")
        return gpu.place(func(*args, **kwargs))


class _Kernels(TorchDispatchMode):
    """The GPU's view: what a result is computed from decides where it is."""

    def __init__(self, gpu: FakeCuda) -> None:
        super().__init__()
        self.gpu = gpu

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        with torch._C.DisableTorchFunction():
            gpu, name, kwargs = self.gpu, func.overloadpacket.__name__, kwargs or {}
            tensors = list(_tensors((args, kwargs)))
            there = [tensor for tensor in tensors if gpu.holds(tensor)]
            if name in ("copy_", "_foreach_copy_"):
                self._copy(args, kwargs)
                return func(*args, **kwargs)
            if there:
                self._check(name, args, tensors)
            result = func(*args, **kwargs)
            return gpu.place(result) if there else result

    def _copy(self, args: Any, kwargs: Any) -> None:
        targets, sources = (leaf if isinstance(leaf, (list, tuple)) else [leaf] for leaf in args[:2])
        non_blocking = bool(kwargs.get("non_blocking", args[2] if len(args) > 2 else False))
        for target, source in zip(targets, sources, strict=True):
            self.gpu.copied(source, self.gpu.device_of(target), non_blocking, _mark(target) == "pinned")

    def _check(self, name: str, args: Any, tensors: list[Tensor]) -> None:
        """Count a wait; refuse what CUDA refuses."""
        gpu = self.gpu
        if name in WAIT:
            gpu.waits.append(f"{name} {_where()}")
        here = [tensor for tensor in tensors if not gpu.holds(tensor) and tensor.dim() > 0]
        if name in INDEXED and gpu.holds(args[0]):
            indices = [index for index in args[1] if index is not None]
            if any(index.dtype in (torch.bool, torch.uint8) for index in indices):
                gpu.waits.append(f"boolean {name} {_where()}")
            if any(not gpu.holds(index) for index in indices):
                gpu.uploads.append(f"{name} by indices of the CPU {_where()}")
            here = [tensor for tensor in here if not any(tensor is index for index in indices)]
        if here and name not in COPIES:
            raise RuntimeError(f"Expected all tensors to be on the same device, cuda:0 and cpu: {name} {_where()}")


_active: list[FakeCuda] = []


@contextmanager
def fake_cuda() -> Iterator[FakeCuda]:
    """Inside, `torch.device("cuda")` is a device that computes on the CPU; inside of another, the same one."""
    if _active:
        yield _active[-1]
        return
    gpu, autocast, fork = FakeCuda(), torch.autocast, torch.random.fork_rng
    grouped = torch._C._group_tensors_by_device_and_dtype

    def grouped_by_device(tensors: Any, *options: Any) -> Any:  # C++ answers with the devices it sees
        return {
            (CUDA if gpu.holds(group[0][0]) else device, dtype): (group, indices)
            for (device, dtype), (group, indices) in grouped(tensors, *options).items()
        }

    def replaced(target: Any, name: str, by: Any) -> None:
        stack.enter_context(mock.patch.object(target, name, by))

    with ExitStack() as stack:
        replaced(torch, "Generator", FakeGenerator)
        replaced(torch, "autocast", lambda device, **options: autocast("cpu", **options))
        replaced(torch._C, "_group_tensors_by_device_and_dtype", grouped_by_device)
        replaced(torch.random, "fork_rng", lambda devices=(), **options: fork(devices=[], **options))
        answers: dict[str, Callable[..., Any]] = {
            "is_available": lambda: True,
            "device_count": lambda: 1,
            "device": lambda device: nullcontext(),
            "get_device_name": lambda device=None: "a fake GPU",
            "is_bf16_supported": lambda including_emulation=True: True,
            "manual_seed": lambda seed: None,
            "manual_seed_all": lambda seed: None,
            "empty_cache": lambda: None,
            "reset_peak_memory_stats": lambda device=None: None,
            "max_memory_allocated": lambda device=None: 100 * 2**20,
            "max_memory_reserved": lambda device=None: 200 * 2**20,
            "synchronize": lambda device=None: gpu.waits.append(f"synchronize {_where()}"),
            "Event": FakeEvent,
            "graph_pool_handle": lambda: None,
        }
        for name, answer in answers.items():
            replaced(torch.cuda, name, answer)
        replaced(torch.backends.cudnn, "version", lambda: None)
        replaced(recorded, "record", _recording)
        stack.enter_context(_Kernels(gpu))
        stack.enter_context(_Functions(gpu))
        _active.append(gpu)
        stack.callback(_active.clear)
        yield gpu


def _recording(work: Callable[..., Any], tensors: Any, pool: Any) -> Callable[..., Any]:
    """As a CUDA graph: the work of the first call, on memory of its own, whatever later calls would have done."""
    inputs = [None if each is None else each.detach().clone() for each in tensors]
    places = _places_of_weights(work)

    def again(*given: Any) -> tuple[Any, ...]:
        assert _places_of_weights(work) == places, "a recording would read memory that is no longer the network's"
        for target, source in zip(inputs, given, strict=True):
            if target is not None:
                target.copy_(source)
        return tuple(None if each is None else each.clone() for each in work(*inputs))

    return again


def _places_of_weights(work: Callable[..., Any]) -> list[int]:
    """Where the weights of the network lie that the work closes over."""
    cells = [cell.cell_contents for cell in work.__closure__ or ()]
    (twin,) = (each for each in cells if isinstance(each, FoldedTwin))
    return [tensor.data_ptr() for tensor in twin.twin.state_dict().values()]


def _one_hot(labels: Tensor, num_classes: int) -> Tensor:
    made = labels.new_zeros((*labels.shape, num_classes))
    return made.scatter_(-1, labels[..., None], 1)


def _mark(tensor: Tensor) -> str:
    """What is known of a tensor's memory, which its views share."""
    return getattr(tensor.untyped_storage(), "mark", "cpu") if tensor.layout is torch.strided else "cpu"


def _tensors(values: Any) -> Iterator[Tensor]:
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, (list, tuple)):
        for value in values:
            yield from _tensors(value)
    elif isinstance(values, dict):
        yield from _tensors(tuple(values.values()))


def _where() -> str:
    """The innermost line of the project that is not this file's."""
    frame = sys._getframe()
    while frame.f_back is not None:
        file, line = frame.f_code.co_filename, frame.f_lineno
        if file.startswith(ROOT) and file != __file__:
            return f"at {file.removeprefix(ROOT + '/')}:{line}: {linecache.getline(file, line).strip()}"
        frame = frame.f_back
    return "outside the project"
