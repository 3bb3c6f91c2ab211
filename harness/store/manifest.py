"""The manifest of a store: which compacted files (parts) count, and for which trials.

One small file, replaced atomically. A part that it does not name does not exist for a reader, and for the trials that a
part holds, their own files no longer count; so a crash between any two steps neither loses nor doubles a row. Every
part says itself what the manifest says of it, so that a lost or damaged one can be rebuilt.
"""

from __future__ import annotations

import json
import stat
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from harness.errors import InputError
from harness.files import write_bytes
from harness.store import parquet
from harness.store.tables import TABLES, checked_id

# Samples are always read trial by trial, and one trial already fills a file: merging them would only move gigabytes.
COMPACTED = ("class_accuracy", "epochs", "class_state", "notes", "trials")
ASIDE = "set_aside"  # folder of a store: below it one store for each time that trials were made again
_TICK_NS = 2_000_000_000
_PART = b"part"  # key of a part's footer
_DAMAGED = (ValueError, KeyError, TypeError, AttributeError, RecursionError)


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

    def rows(self, table: str, trial_id: str) -> int:
        """How many rows a compacted trial has in a table."""
        return 1 if table == "trials" else self.commits[trial_id].get(table, 0)


EMPTY = Manifest()


def manifest_path(root: Path) -> Path:
    return root / "compacted.json"


def load_manifest(root: Path) -> Manifest:
    """The manifest of a store, empty when nothing was compacted. InputError when it cannot be understood, or is missing
    while parts hold finished trials: going on as if nothing were compacted would run them again."""
    path = manifest_path(root)
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            raise ValueError("not a regular file")
        return _parsed(path, found.st_ino, found.st_mtime_ns, found.st_size)
    except (FileNotFoundError, NotADirectoryError):
        return _none(root, path)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    except _DAMAGED as error:
        reason = " ".join(str(error).split())[:100]
        raise InputError(f"{path} is damaged ({reason}); `run-bench repair {root}` rebuilds it") from error


def _none(root: Path, path: Path) -> Manifest:
    try:
        changed = (root / "trials").stat().st_mtime_ns
    except OSError:
        return EMPTY
    look = _orphaned_trials if _is_settled(changed) else _orphaned_trials.__wrapped__
    if not look(root, changed) or path.exists():  # it may just have been written
        return load_manifest(root) if path.exists() else EMPTY
    raise InputError(
        f"{path} is missing, and compacted files hold finished trials; `run-bench repair {root}` rebuilds it"
    )


def _is_settled(changed: int) -> bool:
    """Whether a time of change (nanoseconds) is one that a later change would alter: file systems count in ticks, the
    coarsest in two seconds, and what changes twice within one keeps its time."""
    return abs(time.time_ns() - changed) > _TICK_NS


@lru_cache(maxsize=8)
def _orphaned_trials(root: Path, changed: int) -> bool:
    return any(orphan.table == "trials" for orphan in orphans(root, EMPTY, ("trials",)))


@lru_cache(maxsize=8)
def _parsed(path: Path, inode: int, changed: int, size: int) -> Manifest:
    """Parsed once for as long as the file stays the same: a report of ten thousand trials asks a hundred times."""
    found = json.loads(path.read_text())
    commits = {checked_id(key): checked_rows(rows) for key, rows in found["commits"].items()}
    return Manifest(tuple(_checked_part(each, commits) for each in found["parts"]), commits)


def _checked_part(each: Any, commits: Mapping[str, Any]) -> Part:
    table, file, trials = each["table"], each["file"], each["trials"]
    if table not in COMPACTED or not isinstance(file, str) or not _is_part(Path(file)) or "/" in file:
        raise ValueError(f"{table!r}, {file!r} is no compacted file of a table")
    if not isinstance(trials, list) or not commits.keys() >= set(trials):
        raise ValueError(f"{file} has trials that were not committed")
    return Part(table, file, frozenset(trials))


def checked_rows(rows: Any) -> dict[str, int]:
    """The rows by table of a committed trial. ValueError for anything else."""
    if not isinstance(rows, dict) or not all(name in TABLES and type(rows[name]) is int for name in rows):
        raise ValueError("the rows of a trial are not numbers by table")
    return rows


def save_manifest(root: Path, manifest: Manifest) -> None:
    parts = [{"table": part.table, "file": part.file, "trials": sorted(part.trials)} for part in manifest.parts]
    content = {"parts": parts, "commits": {key: dict(value) for key, value in sorted(manifest.commits.items())}}
    write_bytes(manifest_path(root), json.dumps(content, separators=(",", ":")).encode())


def aside(root: Path) -> Path:
    """A new folder for what is set aside now: `<root>/set_aside/<time in UTC>`."""
    folder = root / ASIDE
    folder.mkdir(parents=True, exist_ok=True)
    name = time.strftime("%Y-%m-%dT%H%M%SZ", time.gmtime())
    taken = sum(1 for _ in folder.glob(f"{name}*"))
    made = folder / (f"{name}-{taken + 1}" if taken else name)
    made.mkdir()
    return made


# What parts say themselves


@dataclass(frozen=True)
class Label:
    """What a part says of itself. written: nanoseconds since 1970. marks: in parts of `trials`, the commit marks, empty
    in those of an earlier version."""

    table: str
    file: str
    trials: frozenset[str]
    written: int
    marks: Mapping[str, Mapping[str, Any]]


def label_metadata(table: str, marks: Mapping[str, Mapping[str, Any]]) -> dict[bytes, bytes]:
    """The Parquet metadata of a new part with the rows of some trials, given by their commit marks."""
    label: dict[str, Any] = {"written": time.time_ns(), "trials": sorted(marks)}
    if table == "trials":
        label["marks"] = {key: {name: mark[name] for name in ("tables", "sha256") if name in mark}
                          for key, mark in marks.items()}  # fmt: skip
    return {_PART: json.dumps(label, separators=(",", ":")).encode()}


def read_label(root: Path, table: str, file: str) -> Label:
    """What a part says of itself; one of an earlier version is asked for the trials in its rows. One of
    parquet.UNREADABLE."""
    path = root / table / file
    text = (parquet.footer(path).metadata or {}).get(_PART)
    if text is None:
        trials = parquet.read(path, ["trial_id"])["trial_id"].unique().to_pylist()
        return Label(table, file, frozenset(map(checked_id, trials)), path.stat().st_mtime_ns, {})
    try:
        found = json.loads(text)
        trials = frozenset(map(checked_id, found["trials"]))
        marks = {key: _part_mark(mark) for key, mark in found.get("marks", {}).items() if key in trials}
        return Label(table, file, trials, int(found["written"]), marks)
    except (AttributeError, OverflowError) as error:
        raise ValueError("does not say which trials it holds") from error


def _part_mark(mark: Any) -> dict[str, Any]:
    if not isinstance(mark.get("sha256", {}), dict):
        raise ValueError("has a damaged commit mark")
    return mark | {"tables": checked_rows(mark["tables"])}


def part_files(root: Path, tables: tuple[str, ...] = COMPACTED) -> Iterator[tuple[str, str]]:
    """Table and file name of every part in a store's folders, named by the manifest or not."""
    for table in tables:
        yield from ((table, path.name) for path in sorted((root / table).glob("compacted-*.parquet")))


def orphans(root: Path, manifest: Manifest, tables: tuple[str, ...] = COMPACTED) -> list[Label]:
    """The parts that the manifest does not name and that hold rows of a trial which stand nowhere else: in no named
    part, no file of the trial's own, and not among those set aside. Unreadable ones are passed over."""
    named = {(part.table, part.file) for part in manifest.parts}
    unnamed = [part for part in part_files(root, tables) if part not in named]
    if not unnamed:
        return []
    sound = [part for part in manifest.parts if _is_sound(root / part.table / part.file)]
    held = {(part.table, trial_id) for part in sound for trial_id in part.trials}
    return [
        label
        for label in _labels(root, unnamed)
        if any((label.table, key) not in held and not _has_file(root, label.table, key) for key in label.trials)
    ]


def check_parts(root: Path) -> None:
    """InputError where parts hold trials that the manifest has forgotten: they would be run again."""
    if found := orphans(root, load_manifest(root)):
        raise InputError(
            f"{root}: {len(found)} compacted files hold trials that compacted.json does not name; "
            f"`run-bench repair {root}` names them again"
        )


def rebuilt(root: Path) -> Manifest:
    """The manifest as the parts themselves tell it, the newest first; those that cannot be read are left out."""
    labels = sorted(_labels(root, part_files(root)), key=lambda label: label.written, reverse=True)
    commits: dict[str, Mapping[str, int]] = {}
    for label in labels:
        if label.table == "trials":
            rows = {key: mark["tables"] for key, mark in label.marks.items()} or _counted(root, labels, label.trials)
            commits = {**rows, **commits}
    parts = [Part(label.table, label.file, frozenset(label.trials & commits.keys())) for label in labels]
    return Manifest(tuple(part for part in parts if part.trials), commits)


def _counted(root: Path, labels: list[Label], trials: frozenset[str]) -> dict[str, dict[str, int]]:
    """The rows of trials by table, counted: what parts of an earlier version do not say."""
    rows: dict[str, dict[str, int]] = {key: {} for key in trials}
    for label in labels:
        if label.table == "trials" or not label.trials & trials:
            continue
        found = parquet.read(root / label.table / label.file, ["trial_id"])["trial_id"].to_pylist()
        for key, count in Counter(found).items():
            if key in rows:
                rows[key].setdefault(label.table, count)
    for key in trials:
        own = root / "outcomes" / f"{key}.parquet"
        if _is_sound(own):
            rows[key]["outcomes"] = parquet.footer(own).num_rows
    return rows


def _labels(root: Path, parts: Any) -> Iterator[Label]:
    for table, file in parts:
        try:
            yield read_label(root, table, file)
        except parquet.UNREADABLE:
            continue


def _has_file(root: Path, table: str, trial_id: str) -> bool:
    folders = [root, *(root / ASIDE).glob("*")]
    return any(_is_sound(folder / table / f"{trial_id}.parquet") for folder in folders)


def _is_sound(path: Path) -> bool:
    try:
        parquet.footer(path)
    except parquet.UNREADABLE:
        return False
    return True


def _is_part(path: Path) -> bool:
    return path.match("compacted-*.parquet")
