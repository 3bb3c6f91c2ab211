"""A suite that is only looked at, on a machine that lacks its data or its files: a hash that is not known yet has
another in its place."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

from harness.errors import AbsentError
from harness.files import file_sha256
from harness.spec import UNKNOWN_SHA256
from harness.suites.keys import NETWORK_BLOCKS


def stand_in(values: dict[str, Any], absent: list[str]) -> None:
    """Give each network file of a suite's keys a hash where the suite does not, and note how to write the right one;
    data of the user's own that are not here get one too. InputError for a file that cannot be read."""
    for name in NETWORK_BLOCKS:
        block = values.get(name)
        if isinstance(block, dict) and block.get("file") is not None and block.get("sha256") is None:
            values[name] = {**block, "sha256": _file_hash(name, Path(str(block["file"])), absent)}
    data = values.get("dataset")
    if not isinstance(data, dict) or data.get("sha256") is not None or not isinstance(data.get("path"), str):
        return
    with suppress(OSError, ValueError):  # no name of a file: its reader says so
        try:
            Path(data["path"]).expanduser().stat()
        except FileNotFoundError:
            values["dataset"] = {**data, "sha256": UNKNOWN_SHA256}


def _file_hash(name: str, file: Path, absent: list[str]) -> str:
    path = file.expanduser().absolute()
    try:
        found = file_sha256(path, name)
    except AbsentError:
        absent.append(
            f"{name}: there is no file {path}; put it there or name another, and give its hash: "
            f"--set {name}.file=PATH --set {name}.sha256=$(sha256sum PATH | cut -d' ' -f1)"
        )
        return UNKNOWN_SHA256
    absent.append(f"{name}: the suite does not say the sha256 of {path}: --set {name}.sha256={found}")
    return found
