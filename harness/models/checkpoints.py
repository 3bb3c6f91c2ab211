"""Weights in and out: nothing but tensors is ever loaded, and nothing half-written ever stands under a final name."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor, nn

from harness.errors import InputError, first_line
from harness.files import open_plain, sha256_of, temporary_path
from harness.models.foreign import SCALARS, other_format, refusal
from harness.models.layers import Network
from harness.models.layouts import State, fitted, plain_names, state_among
from harness.spec import is_of_unit_pixels
from harness.store.work import note_of


def read_state(path: Path, sha256: str | None = None, weights: str | None = None) -> State:
    """The tensors of a checkpoint by parameter name, on the CPU: torch's format, tensors only, or .safetensors.

    A state dict nested under `state_dict`, `model`, `net` and the like is found. weights: `ema` for averaged weights
    (`state_dict_ema`, `ema`, ...), `raw` for those beside them, `best` or `last` where a file holds both, None for a
    file without any. InputError if the file is missing, is not the one `sha256` names, is damaged or of another format,
    holds anything that would have to be executed, holds no state dict, or holds several and not exactly one that
    `weights` means.
    """
    with _opened(path) as file:
        if sha256 is not None and (found := sha256_of(file)) != sha256.strip().lower():
            raise InputError(f"checkpoint {path} has sha256 {found}, not {sha256}")
        file.seek(0)
        content = _read_safetensors(path, file) if Path(path).suffix == ".safetensors" else _read_torch(path, file)
    return plain_names(path, state_among(path, content, weights))


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

    What parallel and compiled networks and the field's own classes put before all names (`module.`, `model.`,
    `basic_net.`, ...) is taken off, what they save without
    using it is left out, and a normalisation among the tensors becomes the model's. Batch norm's batch counters may be
    absent, as in files of old: nothing is computed from them.
    """
    expected = model.state_dict()
    state, normalisation = fitted(state, expected, source)
    if not isinstance(model, Network):  # which has no place for it
        state |= normalisation
    missing = [key for key in expected if key not in state and not key.endswith("num_batches_tracked")]
    unexpected = [key for key in state if key not in expected]
    shapes = [
        f"{key} {tuple(value.shape)} for {tuple(expected[key].shape)}"
        for key, value in state.items()
        if key in expected and value.shape != expected[key].shape
    ]
    used = {key: value for key, value in state.items() if key in expected} | normalisation
    odd = [f"{key} {_kind(value)}" for key, value in used.items() if not _is_plain(value)]
    kinds = (("missing", missing), ("unexpected", unexpected), ("of another shape", shapes), ("of another kind", odd))
    if faults := [f"{len(names)} {kind} ({_some(names)})" for kind, names in kinds if names]:
        raise InputError(f"{source} does not fit the network {type(model).__name__}: keys {', '.join(faults)}")
    if normalisation and isinstance(model, Network):
        _normalise(model, **normalisation, source=source)
    model.load_state_dict(state)


def _normalise(model: Network, mean: Tensor, std: Tensor, source: str) -> None:
    """Give a model the normalisation of its file. InputError for one of another scale, or that another contradicts."""
    found = [[float(value) for value in each.flatten()] for each in (mean, std)]
    said = f"{source} holds a normalisation, mean {_rounded(found[0])} and deviation {_rounded(found[1])}"
    if not is_of_unit_pixels(*found):
        raise InputError(f"{said}: not one of pixels in [0, 1]")
    if model.mean is None or model.std is None:
        model.set_normalisation(*found)
        return
    named = [model.mean.flatten().tolist(), model.std.flatten().tolist()]
    if len(named[0]) != len(found[0]) or not torch.allclose(
        torch.tensor(named), torch.tensor(found), atol=1e-6, rtol=0
    ):
        raise InputError(f"{said}, which is not the one that was asked for: leave 'normalization' out to take it")


def _rounded(values: list[float]) -> str:
    return f"[{', '.join(f'{value:.4g}' for value in values)}]"


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
    return open_plain(Path(path).expanduser(), "checkpoint")


def _read_safetensors(path: Path, file: BinaryIO) -> object:
    import safetensors
    import safetensors.torch

    try:
        return safetensors.torch.load(file.read())
    except (safetensors.SafetensorError, KeyError, ValueError) as error:
        raise InputError(f"checkpoint {path} is not a safetensors file or is damaged") from error


def _read_torch(path: Path, file: BinaryIO) -> object:
    if told := other_format(file):
        raise InputError(f"checkpoint {path} {told}")
    try:
        _check_unpacked(file)
        with torch.serialization.safe_globals(SCALARS):
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise InputError(f"checkpoint {path} is refused: it {refusal(file, error)}") from error
    except Exception as error:  # a damaged file makes the zip and pickle parsers raise almost anything
        reason = first_line(error)
        raise InputError(f"checkpoint {path} is damaged or not a checkpoint ({reason})") from error


def _check_unpacked(file: BinaryIO) -> None:
    """ValueError for an archive that says it holds more than the file does: torch packs nothing."""
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > file.seek(0, os.SEEK_END):
                raise ValueError("its parts are packed, which torch's own are not")
    file.seek(0)


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
