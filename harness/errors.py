"""What can go wrong, and whose fault it is: the user's mistakes, told in one line, and the errors of a trial; and how
commands end."""

from __future__ import annotations

import difflib
import errno
import re
from collections.abc import Collection, Iterable, Iterator
from enum import IntEnum
from typing import Any, Literal

FULL = {errno.ENOSPC, errno.EDQUOT}  # a full disk, as error numbers
_FILE_SYSTEM_TROUBLE = {errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN, errno.EHOSTDOWN}
_LONGEST_NAME = 100  # characters that are compared with the valid names

# method: the trial's own error.  gpu_memory: the GPU was too small or shared.  device: the GPU failed or cannot be
# used.  infrastructure: the machine's fault otherwise.  disk: no space left.  timeout: over the time limit per trial.
Kind = Literal["method", "gpu_memory", "device", "infrastructure", "disk", "timeout"]
MACHINE_FAULTS: tuple[Kind, ...] = ("device", "infrastructure")  # no trial's fault: another process, or GPU, may do

# What torch, CUDA and its libraries say: the first kind that is found. All else that they report (an invalid
# argument, a wrong shape) is the method's. A failed allocation has many names: where a library finds no room for its
# handle it is "not initialized", and where cuDNN finds none to work in, it has no engine or no algorithm.
_LIBRARY = "CU(BLAS|DNN|SOLVER|SPARSE)_STATUS"
_SAID: dict[Kind, str] = {
    "gpu_memory": (
        rf"\b(CUDA|HIP)\b.{{0,40}}out of memory|(?<!HOST)_ALLOC(ATION)?_FAILED|{_LIBRARY}_NOT_INITIALIZED"
        r"|unable to find an engine to execute|unable to find a valid cuDNN algorithm"
        r"|NVML_SUCCESS == "  # asked by the allocator as it reports what it lacks
    ),
    "method": (
        r"device-side assert triggered|illegal memory access|misaligned address|illegal instruction"
        r"|invalid program counter"
    ),
    "infrastructure": r"HOST_ALLOCATION_FAILED|DefaultCPUAllocator: (can't allocate|not enough) memory",
    "device": (
        r"CUDA error: (uncorrectable (ECC|NVLink) error|unspecified launch failure|unknown error|initialization error"
        r"|hardware stack error|.*hardware error|.*launch timed out|no CUDA-capable device|invalid device ordinal"
        r"|.*busy or unavailable|.*driver|.*MPS (server|client)|.*kernel image|system not yet initialized)"
        rf"|{_LIBRARY}_(EXECUTION_FAILED|INTERNAL_ERROR|MAPPING_ERROR|ARCH_MISMATCH)"
        r"|No CUDA GPUs are available|no NVIDIA driver|NVIDIA driver on your system is too old|CUDA unknown error"
        r"|not compiled with CUDA|CUDA driver initialization failed|error from cudaGetDeviceCount|GPU is lost"
    ),
}


class ExitCode(IntEnum):
    """How a command ended. The README's table says what each means."""

    DONE = 0
    INCOMPLETE = 1
    REFUSED = 2
    INTERRUPTED = 130


class InputError(ValueError):
    """Something the user wrote cannot be used: what is wrong, where, what is allowed. The command exits with 2."""


class AbsentError(InputError):
    """What the user named is not there. A plan can be made all the same."""


class InfrastructureError(RuntimeError):
    """The process that a trial runs in is not what was planned; another one may do."""


class DeviceError(RuntimeError):
    """The GPU that a trial was given cannot be used; another one may do."""


def first_line(text: object) -> str:
    """Of a message, such as an error's; the type of an error that says nothing."""
    nothing = type(text).__name__ if isinstance(text, BaseException) else ""
    return (str(text).strip().splitlines() or [nothing])[0]


def is_utf8(text: str) -> bool:
    """Whether UTF-8 can write it: bytes that it cannot read come from a system as lone surrogates."""
    return not any("\ud800" <= char <= "\udfff" for char in text)


def unknown(what: str, name: object, allowed: Iterable[str], also: str = "") -> InputError:
    """An InputError for a name that is not in a list: the nearest valid names, or all of them where few are or none
    is near. also: what else it could be."""
    names, name = sorted(allowed), str(name)[:_LONGEST_NAME]
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    if not near or len(names) <= 4:
        hint += f"allowed: {', '.join(names)}"
    return InputError(f"unknown {what} '{name}': {hint.strip()}{also}")


def one_of(what: str, name: Any, allowed: Collection[str], also: str = "") -> Any:
    """The name, where it is text and among those allowed; else the InputError of `unknown`."""
    if not isinstance(name, str) or name not in allowed:
        raise unknown(what, name, allowed, also)
    return name


def named(what: str, names: Iterable[str], entries: Iterable[tuple[str, str]]) -> dict[int, None]:
    """Positions of the entries (variant, method) that some names mean, in the order of the names: a variant's exact
    name means that variant alone, a method's name all its variants. InputError for a name that means none."""
    listed = list(entries)
    found: dict[int, None] = {}
    for name in names:
        meant = [place for place, (variant, _) in enumerate(listed) if variant == name]
        meant = meant or [place for place, (_, method) in enumerate(listed) if method == name]
        if not meant:
            raise unknown(what, name, {each for entry in listed for each in entry})
        found.update(dict.fromkeys(meant))
    return found


def kind_of(error: BaseException) -> Kind:
    """Whose fault an exception is that a trial raised. Looks through its causes; knows torch's by name."""
    chain = list(_causes(error))
    if any(_is_disk_full(each) for each in chain):
        return "disk"
    if any(type(each).__name__ == "OutOfMemoryError" for each in chain):
        return "gpu_memory"
    if any(isinstance(each, DeviceError) for each in chain):
        return "device"
    for kind, said in _SAID.items():
        if any(re.search(said, str(each), re.I) for each in chain):
            return kind
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


def _is_infrastructure(error: BaseException) -> bool:
    if isinstance(error, OSError):
        return error.errno in _FILE_SYSTEM_TROUBLE
    return isinstance(error, (InfrastructureError, MemoryError))
