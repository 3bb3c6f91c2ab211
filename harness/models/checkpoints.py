"""Weights in and out: nothing but tensors is ever loaded, and nothing half-written ever stands under a final name."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor, nn

from harness.errors import InputError
from harness.files import open_plain, sha256_of, temporary_path
from harness.store.work import note_of

State = dict[str, Tensor]

_NESTED = ("state_dict", "model", "net")  # under which training scripts put the state dict among other things
_AVERAGED = re.compile(r"(^|[_.-])(ema|swa|avg|averaged?)([_.-]|$)", re.IGNORECASE)  # weights averaged over training
_CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])")
_IN_AVERAGES = ("shadow", "module")  # where an average keeps its state dict
_COUNTER = "n_averaged"  # of torch's AveragedModel, beside the parameters
_UNUSED = "sub_block1."  # TRADES' WRN owns this block, saves it and never calls it


def read_state(path: Path, sha256: str | None = None, weights: str | None = None) -> State:
    """The tensors of a checkpoint by parameter name, on the CPU: torch's format, tensors only, or .safetensors.

    A state dict nested under `state_dict`, `model` or `net` is found, the prefix `module.` is taken off, and the unused
    block of TRADES' WRN is dropped. weights: `ema` for averaged weights (`state_dict_ema`, `ema`, ...), `raw` for those
    beside them, None for a file without any. InputError if the file is missing, is not the one `sha256` names, is
    damaged, holds anything that would have to be executed, holds no state dict, or holds several and not exactly one
    that `weights` means.
    """
    with _opened(path) as file:
        if sha256 is not None and (found := sha256_of(file)) != sha256.strip().lower():
            raise InputError(f"checkpoint {path} has sha256 {found}, not {sha256}")
        file.seek(0)
        content = _read_safetensors(path, file) if Path(path).suffix == ".safetensors" else _read_torch(path, file)
    return _plain_names(path, _weights(path, content, weights))


def check_finite(state: Mapping[str, Tensor], *, source: str) -> None:
    """InputError, `source` in it, for weights that are not numbers and for negative variances: every result would be
    nonsense."""
    wrong = [key for key, value in state.items() if not torch.isfinite(value).all()]
    if wrong:
        raise InputError(f"{source} holds NaN or infinite weights: {len(wrong)} tensors ({_some(wrong)})")
    negative = [key for key, value in state.items() if key.endswith("running_var") and (value < 0).any()]
    if negative:
        raise InputError(f"{source} holds negative variances: {len(negative)} tensors ({_some(negative)})")


def load_into(model: nn.Module, state: Mapping[str, Tensor], *, source: str) -> None:
    """Copy a state dict into a model, all of it or nothing. InputError with the names that differ, `source` in it.

    Batch norm's batch counters may be absent, as in files of old: nothing is computed from them.
    """
    expected = model.state_dict()
    missing = [key for key in expected if key not in state and not key.endswith("num_batches_tracked")]
    unexpected = [key for key in state if key not in expected]
    shapes = [
        f"{key} {tuple(value.shape)} for {tuple(expected[key].shape)}"
        for key, value in state.items()
        if key in expected and value.shape != expected[key].shape
    ]
    odd = [f"{key} {_kind(value)}" for key, value in state.items() if key in expected and not _is_plain(value)]
    kinds = (("missing", missing), ("unexpected", unexpected), ("of another shape", shapes), ("of another kind", odd))
    if faults := [f"{len(names)} {kind} ({_some(names)})" for kind, names in kinds if names]:
        raise InputError(f"{source} does not fit the network {type(model).__name__}: keys {', '.join(faults)}")
    model.load_state_dict(dict(state))


def write_state(path: Path, model_or_state: nn.Module | Mapping[str, Tensor], sidecar: Mapping[str, Any]) -> None:
    """Write a plain state dict and, beside it (`note_of`), `sidecar` and the file's own sha256.

    Both are complete on disk before either gets its name, the state dict's last. OSError (a full disk) leaves both
    names as they were.
    """
    path = Path(path)
    state = model_or_state.state_dict() if isinstance(model_or_state, nn.Module) else model_or_state
    buffer = io.BytesIO()
    torch.save({key: _own_copy(value) for key, value in state.items()}, buffer)
    weights = buffer.getvalue()
    record = json.dumps({**sidecar, "sha256": hashlib.sha256(weights).hexdigest()}, indent=2) + "\n"
    contents = {note_of(path): record.encode(), path: weights}
    temporary = {final: temporary_path(final) for final in contents}
    try:
        for final, content in contents.items():
            _write_through(temporary[final], content)
        for final in contents:
            temporary[final].replace(final)
    finally:
        for each in temporary.values():
            with contextlib.suppress(OSError):
                each.unlink()


def _own_copy(value: Tensor) -> Tensor:
    """On the CPU, contiguous, in storage of its own: a view would drag its whole storage into the file."""
    return value.detach().cpu().clone(memory_format=torch.contiguous_format)


def _opened(path: Path) -> BinaryIO:
    return open_plain(Path(path).expanduser(), f"checkpoint {path}")


def _read_safetensors(path: Path, file: BinaryIO) -> object:
    import safetensors
    import safetensors.torch

    try:
        return safetensors.torch.load(file.read())
    except (safetensors.SafetensorError, KeyError, ValueError) as error:
        raise InputError(f"checkpoint {path} is not a safetensors file or is damaged") from error


def _read_torch(path: Path, file: BinaryIO) -> object:
    try:
        _check_unpacked(file)
        return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise InputError(
            f"checkpoint {path} is refused: it is damaged or holds more than tensors (nothing in it was executed)"
        ) from error
    except Exception as error:  # a damaged file makes the zip and pickle parsers raise almost anything
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"checkpoint {path} is damaged or not a checkpoint ({reason})") from error


def _check_unpacked(file: BinaryIO) -> None:
    """ValueError for an archive that says it holds more than the file does: torch packs nothing."""
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > file.seek(0, os.SEEK_END):
                raise ValueError("its parts are packed, which torch's own are not")
    file.seek(0)


def _weights(path: Path, content: object, weights: str | None) -> object:
    """The state dict among what a file holds. Averaged weights are another network than the raw ones beside them: which
    to take is never guessed."""
    if not isinstance(content, Mapping):
        return content
    averaged = [
        key
        for key, value in content.items()
        if _AVERAGED.search(_CAMEL.sub("_", str(key))) and isinstance(value, Mapping)
    ]
    names = ", ".join(map(str, averaged))
    if averaged and weights is None:
        raise InputError(f"checkpoint {path} holds averaged weights ({names}): say which to take, weights: ema or raw")
    if weights == "ema" and len(averaged) > 1:
        raise InputError(f"checkpoint {path} holds several averages ({names}): keep one in a file of its own")
    if averaged:
        raw = {key: value for key, value in content.items() if key not in averaged}
        return _nested(content[averaged[0]], (*_NESTED, *_IN_AVERAGES)) if weights == "ema" else _nested(raw, _NESTED)
    inner = next((content[key] for key in _NESTED if isinstance(content.get(key), Mapping)), None)
    if inner is not None:
        return _weights(path, inner, weights)
    if weights is not None:
        raise InputError(f"checkpoint {path} holds no averaged weights, so that 'weights: {weights}' means nothing")
    return content


def _nested(content: object, keys: tuple[str, ...]) -> object:
    for key in keys:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    return content


def _plain_names(path: Path, content: object) -> State:
    if not isinstance(content, Mapping) or not content:
        raise InputError(f"checkpoint {path} holds no state dict")
    state: State = {}
    for key, value in content.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise InputError(f"checkpoint {path} holds no plain state dict: {key!r} is a {type(value).__name__}")
        state[key.removeprefix("module.")] = value.detach()
    if len(state) < len(content):
        raise InputError(f"checkpoint {path} holds parameters twice, with and without the prefix 'module.'")
    return {key: value for key, value in state.items() if not key.startswith(_UNUSED) and key != _COUNTER}


def _is_plain(value: Tensor) -> bool:
    """Whether each number of a tensor is real and stands in memory."""
    return (
        value.layout == torch.strided
        and value.device.type == "cpu"
        and not (value.is_complex() or value.is_quantized or value.is_nested)
    )


def _kind(value: Tensor) -> str:
    return f"{str(value.dtype).removeprefix('torch.')} {str(value.layout).removeprefix('torch.')} {value.device.type}"


def _some(names: list[str], most: int = 3) -> str:
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")


def _write_through(path: Path, content: bytes) -> None:
    """Write and wait until the disk has it."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
