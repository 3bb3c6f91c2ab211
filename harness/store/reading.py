"""Reading a result store: which trials are committed, and their rows, from files of their own and from compacted ones.

Nothing is written. A driver may commit and compact meanwhile; what is damaged is named in `problems` and passed over.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from harness.errors import InputError
from harness.store import parquet
from harness.store.manifest import Label, Manifest, Part, checked_rows, load_manifest, read_label
from harness.store.parquet import UNREADABLE
from harness.store.tables import STATUSES, TABLES, checked_id, reading_schema

# Key of the trials file's footer: status, the number of rows in each other table, and the hash of every table's rows.
COMMIT = b"commit"
_THREADS = 8  # hides the latency of a network file system; on a local disk one does as well
Result = TypeVar("Result")


class Reader:
    """The tables below `root`, as whoever reads them sees them. Opening it reads nothing."""

    def __init__(self, root: Path | str, manifest: Manifest | None = None) -> None:
        """manifest: instead of the one on disk, which is damaged."""
        self.root = Path(root)
        self._given = manifest
        self._problems: dict[str, None] = {}
        self._footers: dict[tuple[str, int, int, int], Any] = {}

    def manifest(self) -> Manifest:
        """Which compacted files count. InputError where the manifest is damaged or lost."""
        return load_manifest(self.root) if self._given is None else self._given

    @property
    def problems(self) -> list[str]:
        """What this object came across and could not read, one line per file; everything else was read."""
        return list(self._problems)

    def trials(self, columns: Sequence[str] | None = None) -> pd.DataFrame:
        """One row per committed trial, whatever its status, in the order of trial ids."""
        return self.read("trials", columns=columns).sort_values("trial_id", ignore_index=True)

    def read(
        self, table: str, trial_ids: Collection[str] | None = None, columns: Sequence[str] | None = None
    ) -> pd.DataFrame:
        """The rows of a table that belong to committed trials, of all or of `trial_ids`; null numbers are NaN.

        `columns` adds trial_id if it is missing. Repeated text comes as pandas categories, so group with
        `observed=True`. Damaged files are named in `problems` and left out.
        """
        return self.arrow(table, trial_ids, columns).to_pandas()

    def arrow(
        self, table: str, trial_ids: Collection[str] | None = None, columns: Sequence[str] | None = None
    ) -> pa.Table:
        """As `read`, as an Arrow table."""
        names = list(dict.fromkeys(["trial_id", *(columns if columns is not None else TABLES[table].names)]))
        unknown = set(names) - set(TABLES[table].names)
        if unknown:
            raise ValueError(f"table {table} has no column {', '.join(sorted(unknown))}")
        return self._while_compacting(lambda final: self._arrow(table, trial_ids, names, final))

    def row(self, trial_id: str) -> dict[str, Any]:
        """What `trials` has of a committed trial, None for null. InputError where it cannot be read."""
        rows = self.arrow("trials", [trial_id]).to_pylist()
        if not rows:
            raise self.damaged(trial_id)
        return rows[0]

    def damaged(self, trial_id: str) -> InputError:
        """To raise for a trial whose row cannot be read."""
        return InputError(f"{self.root}: the row of trial {trial_id} is damaged; see `run-bench verify {self.root}`")

    def has(self, trial_id: str) -> bool:
        """Whether the trial is done."""
        return self.status(trial_id) == "done"

    def status(self, trial_id: str) -> str | None:
        """done, failed, stopped or interrupted; None for a trial that is not committed."""
        return self._statuses([trial_id]).get(trial_id)

    def statuses(self) -> dict[str, str]:
        """The status of every committed trial; reads no column, so it is quick for ten thousand trials."""
        return {trial_id: mark["status"] for trial_id, mark in self.marks().items()}

    def marks(self) -> dict[str, dict[str, Any]]:
        """Of every committed trial: its `status`, `tables`, the number of rows it stored in each other table, and
        `sha256`, the hash of the rows of every table (`content_hash`), which trials of old have not."""
        return self._while_compacting(self._marks)

    def compacted(self) -> Mapping[str, Mapping[str, int]]:
        """The compacted trials that count (their part of `trials` is readable) with their rows by table."""
        return self._while_compacting(self._compacted)

    def readable(self, path: Path, rows: int | None = None) -> bool:
        """Whether a Parquet file is there, whole, and of so many rows; a problem is noted if not."""
        try:
            found = parquet.footer(path).num_rows
            if rows is not None and found != rows:
                raise ValueError(f"{found} rows where {rows} were committed")
            return True
        except UNREADABLE as error:
            self._problem(path, error)
            return False

    def look_for_foreign_files(self) -> None:
        """Names in `problems` every Parquet file of the tables' folders that belongs to no trial of the store, and what
        is called like one and is none: folders, pipes, links to nothing."""
        committed = set(self.marks())
        for table in TABLES:
            own = (Path(entry.path) for entry in _entries(self.root / table))
            self._name_foreign(path for path in own if path.stem not in committed)
            for entry in _entries(self.root / table, regular=False):
                self._problem(Path(entry.path), ValueError("is not a regular file"))

    def uncommitted(self) -> dict[str, list[str]]:
        """The tables that hold rows of each trial without a commit mark."""
        committed = set(self.marks())
        found: dict[str, list[str]] = {}
        for table in sorted(TABLES.keys() - {"trials"}):
            own = (Path(entry.path) for entry in _entries(self.root / table))
            for path in (path for path in own if path.stem not in committed and _is_table(path)):
                found.setdefault(path.stem, []).append(table)
        later = set(self.marks()) if found else set()  # a run may have committed them meanwhile
        return {trial_id: tables for trial_id, tables in found.items() if trial_id not in later}

    # Files

    def path(self, table: str, trial_id: str) -> Path:
        return self.root / table / f"{trial_id}.parquet"

    def _arrow(self, table: str, trial_ids: Collection[str] | None, names: list[str], final: bool) -> pa.Table:
        entries = _entries(self.root / table)  # listed before the manifest is read: see `_while_compacting`
        wanted = self._wanted(trial_ids)
        pieces: list[pa.Table] = []
        covered: set[str] = set()
        manifest = self.manifest()
        for part in manifest.of(table):
            ids = part.trials & wanted - covered
            rows = sum(manifest.rows(table, trial_id) for trial_id in ids)
            piece = self._read_part(part, ids, rows, names, final) if ids else None
            if piece is not None:
                pieces.append(piece)
                covered |= part.trials
        own = [Path(entry.path) for entry in entries]
        self._name_foreign(path for path in own if trial_ids is None and path.stem not in wanted)
        own = sorted(path for path in own if path.stem in wanted and path.stem not in covered)
        with ThreadPoolExecutor(_THREADS) as pool:
            read = partial(self._read_file, table=table, names=names, final=final)
            pieces += [piece for piece in pool.map(read, own) if piece]
        return pa.concat_tables(pieces) if pieces else reading_schema(table, names).empty_table()

    def _marks(self, final: bool) -> dict[str, dict[str, Any]]:
        entries = _entries(self.root / "trials")  # listed before the manifest is read: see `_while_compacting`
        compacted, hashes = self._compacted(final), self._hashes()
        marks: dict[str, dict[str, Any]] = {
            key: {"status": "done", "tables": tables} | ({"sha256": hashes[key]} if key in hashes else {})
            for key, tables in compacted.items()
        }
        for entry in entries:
            path = Path(entry.path)
            try:
                if path.stem not in compacted:
                    marks[checked_id(path.stem)] = self._mark(path, entry.stat())
            except FileNotFoundError:
                if not final:
                    raise
            except UNREADABLE as error:
                self._problem(path, error)
        return marks

    def _statuses(self, trial_ids: Collection[str]) -> dict[str, str]:
        """The status of those that are committed, of a few trials."""
        found = {}
        paths = {trial_id: self.path("trials", checked_id(trial_id)) for trial_id in trial_ids}
        there = {trial_id for trial_id, path in paths.items() if path.exists()}  # before the manifest is read
        compacted = self.compacted()
        for trial_id, path in paths.items():
            try:
                if trial_id in compacted:
                    found[trial_id] = "done"
                elif trial_id in there:
                    found[trial_id] = self._mark(path, path.stat())["status"]
            except FileNotFoundError:  # compacted, or replaced, since
                found |= {trial_id: "done"} if trial_id in self.compacted() else {}
            except UNREADABLE as error:
                self._problem(path, error)
        return found

    def _wanted(self, trial_ids: Collection[str] | None) -> set[str]:
        if trial_ids is None or len(trial_ids) > 100:
            committed = set(self.marks())
            return committed if trial_ids is None else committed & set(trial_ids)
        return set(self._statuses(trial_ids))

    def _read_part(self, part: Part, ids: Collection[str], rows: int, names: list[str], final: bool) -> pa.Table | None:
        path = self.root / part.table / part.file
        try:
            some = None if parquet.footer(path).num_rows == rows else ids
            return _conforming(path, part.table, names, threads=True, trials=some)
        except UNREADABLE as error:
            self._missing_or_damaged(path, error, final)
            return None

    def _read_file(self, path: Path, table: str, names: list[str], final: bool) -> pa.Table | None:
        try:
            found = _conforming(path, table, names)
            if pc.unique(found["trial_id"].cast(pa.string())).to_pylist() != [path.stem]:
                raise ValueError("holds rows of another trial")
            return found
        except UNREADABLE as error:
            self._missing_or_damaged(path, error, final)
            return None

    def _missing_or_damaged(self, path: Path, error: BaseException, final: bool) -> None:
        """A damaged file is a problem to name; a missing one may have been compacted away: it is raised at first."""
        if isinstance(error, FileNotFoundError) and not final:
            raise error
        self._problem(path, error)

    def _name_foreign(self, paths: Iterable[Path]) -> None:
        """Files without a commit mark are no trial's yet; those that are not even ours are a problem to name."""
        for path in paths:
            try:
                if "trial_id" not in parquet.footer(path).schema.names:
                    raise ValueError("is not a table of a result store")
            except FileNotFoundError:
                continue
            except UNREADABLE as error:
                self._problem(path, error)

    def _compacted(self, final: bool) -> Mapping[str, Mapping[str, int]]:
        manifest = self.manifest()
        parts = manifest.of("trials")
        sound = [part.trials for part in parts if self._label(part, final)]
        if len(sound) == len(parts):
            return manifest.commits
        return {key: manifest.commits[key] for key in set().union(*sound)}

    def _hashes(self) -> dict[str, dict[str, str]]:
        """Of the compacted trials that have them: the hashes of their rows by table."""
        labels = [self._label(part, final=True) for part in reversed(self.manifest().of("trials"))]
        marks = {key: mark for label in labels if label for key, mark in label.marks.items()}
        return {key: mark["sha256"] for key, mark in marks.items() if "sha256" in mark}

    def _label(self, part: Part, final: bool) -> Label | None:
        """What a part says of itself, remembered until the file changes; None where it is damaged."""
        path = self.root / part.table / part.file
        try:
            found = path.stat()
            key = (f"{part.table}/{part.file}", found.st_ino, found.st_mtime_ns, found.st_size)
            if key not in self._footers:
                self._footers[key] = read_label(self.root, part.table, part.file)
            return self._footers[key]
        except UNREADABLE as error:
            self._missing_or_damaged(path, error, final)
            return None

    def _mark(self, path: Path, found: os.stat_result) -> dict[str, Any]:
        """The commit mark in the footer of a file of `trials`, remembered until the file changes."""
        key = (path.name, found.st_ino, found.st_mtime_ns, found.st_size)
        if key not in self._footers:
            self._footers[key] = _checked_mark(json.loads((parquet.footer(path).metadata or {})[COMMIT]))
        return self._footers[key]

    def _problem(self, path: Path, error: BaseException) -> None:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        reason = "no commit mark, not a trial of this store" if isinstance(error, KeyError) else reason
        reason = "is missing" if isinstance(error, FileNotFoundError) else reason
        text = f"{path}: {reason}".encode(errors="backslashreplace").decode()  # names need not be UTF-8
        self._problems[text] = None

    def _while_compacting(self, read: Callable[[bool], Result]) -> Result:
        """Reads again if a file was compacted away, or replaced, between listing and opening it.

        Folders are listed before the manifest is read: what a compaction removes in between is then either in the
        manifest or found missing, never overlooked. What stays missing while the manifest stays the same is missing:
        the last time, read(True) leaves it out.
        """
        patience = 3
        for _ in range(20):
            before = self.manifest()
            try:
                return read(False)
            except FileNotFoundError:
                patience -= self.manifest() is before
                if not patience:
                    break
                time.sleep(0.05)
        return read(True)


def _entries(folder: Path, regular: bool = True) -> list[os.DirEntry[str]]:
    """What is called as the Parquet files of single trials in a folder, regular files or else; compacted parts and
    temporary files are passed over."""
    try:
        with os.scandir(folder) as found:
            return [
                entry
                for entry in found
                if entry.name.endswith(".parquet")
                and not entry.name.startswith((".", "compacted-"))
                and entry.is_file() == regular
            ]
    except (FileNotFoundError, NotADirectoryError):
        return []


def _conforming(path: Path, table: str, names: list[str], **how: Any) -> pa.Table:
    """Columns of a file in the order and types of a table; one that an older version did not write is null."""
    schema = reading_schema(table, names)
    coded = [field.name for field in schema if pa.types.is_dictionary(field.type)]
    found = parquet.read(path, names, coded=coded, **how)
    if "trial_id" not in found.column_names:
        raise ValueError("is not a table of a result store (no trial_id)")
    columns = [
        found[field.name].cast(field.type) if field.name in found.column_names else pa.nulls(len(found), field.type)
        for field in schema
    ]
    return pa.table(columns, schema=schema)


def _is_table(path: Path) -> bool:
    try:
        return "trial_id" in parquet.footer(path).schema.names
    except UNREADABLE:
        return False


def _checked_mark(mark: Any) -> dict[str, Any]:
    """A commit mark as it was read. ValueError for anything else."""
    if not isinstance(mark, dict) or mark.get("status") not in STATUSES or not isinstance(mark.get("sha256", {}), dict):
        raise ValueError("has a damaged commit mark")
    return mark | {"tables": checked_rows(mark.get("tables"))}
