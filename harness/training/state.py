"""The file that an unfinished training goes on from: written whole, read only as it was written."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from harness.errors import kind_of
from harness.files import write_bytes


def write_training_state(path: Path, state: Mapping[str, Any]) -> None:
    """Atomically: whoever reads the name finds a whole file or none."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    write_bytes(path, buffer.getvalue())


def read_training_state(path: Path) -> dict[str, Any]:
    """What an unfinished training saved last, its tensors on the CPU. FileNotFoundError where there is nothing,
    ValueError where it is damaged."""
    try:
        with zipfile.ZipFile(path) as archive:  # torch itself does not look at the checksums
            if (name := archive.testzip()) is not None:
                raise ValueError(f"{name} has another checksum")
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise
    except Exception as error:
        if kind_of(error) != "method":
            raise
        raise ValueError(f"{path} is damaged: {error}") from error
