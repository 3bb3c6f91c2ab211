"""Parquet as this package writes and reads it: a checksum on every page, and nothing but regular files."""

from __future__ import annotations

import os
import stat
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

UNREADABLE = (pa.ArrowException, OSError, ValueError, KeyError, TypeError, RecursionError, MemoryError)


def write(table: pa.Table, path: Path, **options: Any) -> None:
    """Write a whole file; OSError where the disk is full."""
    pq.write_table(table, os.path.abspath(path), compression="zstd", write_page_checksum=True, **options)


def footer(path: Path) -> pq.FileMetaData:
    """Rows, schema and metadata of a file. FileNotFoundError, or another of UNREADABLE."""
    return pq.read_metadata(_regular(path))


def read(path: Path, columns: Sequence[str] | None = None, *, coded: Collection[str] = (), threads: bool = False,
         trials: Collection[str] | None = None) -> pa.Table:  # fmt: skip
    """A file's rows; the columns that it has of `columns`; text columns in `coded` as dictionaries.

    trials: only their rows. FileNotFoundError, or another of UNREADABLE: also where a page is not what was written.
    """
    with pq.ParquetFile(
        _regular(path), read_dictionary=list(coded), pre_buffer=False, page_checksum_verification=True
    ) as file:
        there = None if columns is None else [name for name in columns if name in file.schema_arrow.names]
        if trials is None:
            found = file.read(there, use_threads=threads)
    if trials is not None:
        found = pq.read_table(
            _regular(path), columns=there, filters=[("trial_id", "in", list(trials))], read_dictionary=list(coded),
            partitioning=None, page_checksum_verification=True,
        )  # fmt: skip
    found.validate(full=True)  # text that is no UTF-8 would only be noticed in the middle of a report
    return found


def _regular(path: Path) -> str:
    """The path in full (`a:b/c` would be a URI), unless it is a folder, or a pipe that would never end. OSError,
    ValueError."""
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise ValueError("is not a regular file")
    return os.path.abspath(path)
