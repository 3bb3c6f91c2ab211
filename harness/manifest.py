"""The manifest of a store: which compacted files count, and for which trials.

One small file, replaced atomically. A compacted part that it does not name does not exist for a reader, and for the
trials that a part holds, their own files no longer count; so a crash between any two steps neither loses nor doubles a
row.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from harness.errors import InputError
from harness.files import write_bytes


@dataclass(frozen=True)
class Part:
    """One compacted file: `<root>/<table>/<file>` holds all rows of `trials` in this table."""

    table: str
    file: str
    trials: frozenset[str]


@dataclass(frozen=True)
class Manifest:
    """The parts that count, and for each compacted trial its number of rows by table."""

    parts: tuple[Part, ...] = ()
    commits: Mapping[str, Mapping[str, int]] = field(default_factory=dict)

    def of(self, table: str) -> list[Part]:
        return [part for part in self.parts if part.table == table]

    def covered(self, table: str) -> set[str]:
        """The trials whose rows of a table stand in a part."""
        return set().union(*(part.trials for part in self.of(table)))


def manifest_path(root: Path) -> Path:
    return root / "compacted.json"


def load_manifest(root: Path) -> Manifest:
    """The manifest of a store, empty when nothing was compacted. InputError when it cannot be understood."""
    path = manifest_path(root)
    try:
        stat = path.stat()
        return _parsed(path, stat.st_ino, stat.st_mtime_ns, stat.st_size)
    except (FileNotFoundError, NotADirectoryError):
        return Manifest()
    except (ValueError, KeyError, TypeError) as error:
        # Going on as if nothing were compacted would run finished trials again.
        raise InputError(f"{path} is damaged ({error}): restore it from a copy, or remove it") from error


@lru_cache(maxsize=8)
def _parsed(path: Path, inode: int, changed: int, size: int) -> Manifest:
    """Parsed once for as long as the file stays the same: a report of ten thousand trials asks a hundred times."""
    found = json.loads(path.read_text())
    parts = tuple(Part(each["table"], each["file"], frozenset(each["trials"])) for each in found["parts"])
    return Manifest(parts, found["commits"])


def save_manifest(root: Path, manifest: Manifest) -> None:
    parts = [{"table": part.table, "file": part.file, "trials": sorted(part.trials)} for part in manifest.parts]
    content = {"parts": parts, "commits": {key: dict(value) for key, value in sorted(manifest.commits.items())}}
    write_bytes(manifest_path(root), json.dumps(content, separators=(",", ":")).encode())
