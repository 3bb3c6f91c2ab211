"""Files that are no plain checkpoint: what they are, so that a refusal says what to do, and the scalars of numpy that
may stand beside tensors. Nothing in a file is ever executed."""

from __future__ import annotations

import pickle
import re
import struct
import zipfile
from typing import Any, BinaryIO

_READ = 1 << 20  # bytes that are looked at
_LARGEST_HEADER = 100_000_000  # of a safetensors file
_GLOBAL = re.compile(r"GLOBAL ([\w.]+)")  # as torch names what it refuses
_TRUSTED = "torch.load(FILE, weights_only=False)"


def other_format(file: BinaryIO) -> str | None:
    """What a file is that torch did not write, and what to do; None for what may be torch's. Leaves the file at its
    beginning."""
    file.seek(0)
    start = file.read(512)
    size = file.seek(0, 2)
    file.seek(0)
    text = start.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if text.startswith((b"<!doctype html", b"<html")):
        return "is a web page: the link led to a page about the file; open it in a browser and download the file itself"
    if start[257:262] == b"ustar" or start.startswith(b"\x1f\x8b"):
        return "is an archive (tar or gzip): unpack it, and name the checkpoint in it"
    header = struct.unpack("<Q", start[:8])[0] if len(start) >= 9 else 0
    if start[8:9] == b"{" and 2 <= header <= min(_LARGEST_HEADER, size - 8):
        return "is a safetensors file: give it a name that ends in .safetensors"
    return None


def refusal(file: BinaryIO, error: Exception) -> str:
    """Why torch's reader of tensors refused a file, and the cure, for one that the user trusts."""
    found = _GLOBAL.search(str(error))
    named = f" ({found[1]})" if found else ""
    if _holds_module(file):
        return (
            f"holds a whole pickled network{named}, which only its own code can read (nothing in it was executed): "
            f"there, save its weights alone, torch.save(network.state_dict(), ...)"
        )
    if found:
        return (
            f"holds {found[1]} beside tensors (nothing in it was executed): if you trust it, read it with {_TRUSTED} "
            f"and save its state dict alone"
        )
    return "is damaged or holds more than tensors (nothing in it was executed)"


def _holds_module(file: BinaryIO) -> bool:
    """Whether the pickle has the attributes of an `nn.Module`."""
    file.seek(0)
    try:
        with zipfile.ZipFile(file) as archive:
            name = next(name for name in archive.namelist() if name.endswith("data.pkl"))
            with archive.open(name) as pickled:
                text = pickled.read(_READ)
    except Exception:  # of another form, or damaged in any way
        file.seek(0)
        text = file.read(_READ)
    return b"_parameters" in text and b"_modules" in text


class _Kind:
    """In place of numpy's dtype: only its name."""

    def __init__(self, name: str, *_: Any) -> None:
        self.name = name

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.big = len(state) > 1 and state[1] == ">"


_FORMS = {
    "f8": "d", "f4": "f", "f2": "e", "i8": "q", "i4": "i", "i2": "h", "i1": "b", "u8": "Q", "u4": "I", "u2": "H",
    "u1": "B", "b1": "?",
}  # fmt: skip


def _scalar(kind: Any, content: Any) -> float:
    """In place of numpy's scalar: the number itself."""
    form = _FORMS.get(kind.name) if isinstance(kind, _Kind) else None
    if form is None or not isinstance(content, bytes) or len(content) != struct.calcsize(form):
        raise pickle.UnpicklingError("a numpy scalar that is no number")
    return struct.unpack((">" if getattr(kind, "big", False) else "<") + form, content)[0]


# For torch's reader of tensors: numpy's scalars under the names of numpy 1 and 2, read without numpy.
SCALARS: list[Any] = [
    (_scalar, "numpy.core.multiarray.scalar"),
    (_scalar, "numpy._core.multiarray.scalar"),
    (_Kind, "numpy.dtype"),
]
