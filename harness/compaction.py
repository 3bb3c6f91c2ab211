"""Compaction: the files of many finished trials become a few large ones.

New parts are written first, then the manifest names them, then what they replace is removed. Readers go by the
manifest (`harness.manifest`), so they see the same rows before, after and in between.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from harness.errors import InputError
from harness.files import make_folder, replacing, sync_folder
from harness.manifest import Manifest, Part, load_manifest, save_manifest
from harness.tables import categories

if TYPE_CHECKING:
    from harness.store import Store

# Samples are always read trial by trial, and one trial already fills a file: merging them would only move gigabytes.
COMPACTED = ("class_accuracy", "epochs", "class_state", "notes", "trials")
PART_ROWS = 4_000_000
_GROUP_ROWS = 65_536  # a row group: what has to be read to get one trial out of a part


def compact(store: Store) -> int:
    """Merges the files of finished trials; returns how many trials were merged. See `Store.compact`."""
    manifest = load_manifest(store.root)
    _remove_unnamed(store.root, manifest)
    fresh = _complete_trials(store)
    if fresh:
        try:
            publish(store, {trial_id: (store, tables) for trial_id, tables in fresh.items()})
        except (
            InputError
        ):  # a file that looked whole has damaged contents: it is named in `problems`, all stays as it is
            return 0
    _remove_covered(store)
    return len(fresh)


def publish(store: Store, trials: Mapping[str, tuple[Store, Mapping[str, int]]]) -> None:
    """Puts done trials into parts of `store` and these into its manifest, in one atomic step.

    `trials` maps a trial id to the store to read it from (which may be `store` itself) and its rows by table. Parts
    that are still small are rewritten with the new ones, so their number stays low however often this happens.
    """
    manifest = load_manifest(store.root)
    commits = {**manifest.commits, **{key: dict(tables) for key, (_, tables) in trials.items()}}
    origin = {key: source for key, (source, _) in trials.items()}
    counting = {*store.compacted(), *trials}
    parts: list[Part] = []
    for table in COMPACTED:
        rows = {key: _rows(commits, table, key) for key in trials}
        for part in manifest.of(table):
            held = {key: _rows(commits, table, key) for key in part.trials}
            small = sum(held.values()) < PART_ROWS // 2
            if small and part.trials <= counting and store.readable(store.root / table / part.file):
                rows |= held
            else:
                parts.append(part)
        parts += _write_parts(store.root, table, rows, partial(_gather, store, table, origin))
    merged = Manifest(tuple(parts), commits)
    save_manifest(store.root, merged)
    _remove_unnamed(store.root, merged)


def _complete_trials(store: Store) -> dict[str, Mapping[str, int]]:
    """The done trials that no part holds yet and whose files are all there and whole: their rows by table."""
    compacted = store.compacted()
    done = {key: mark["tables"] for key, mark in store.marks().items() if mark["status"] == "done"}
    return {
        key: tables
        for key, tables in done.items()
        if key not in compacted
        and all(store.readable(store.path(name, key), rows) for name, rows in tables.items() if name in COMPACTED)
    }


def _gather(store: Store, table: str, origin: Mapping[str, Store], ids: list[str]) -> pa.Table:
    sources: dict[Path, tuple[Store, list[str]]] = {}
    for trial_id in ids:
        source = origin.get(trial_id, store)
        sources.setdefault(source.root, (source, []))[1].append(trial_id)
    found = pa.concat_tables([source.arrow(table, some) for source, some in sources.values()])
    found = found.unify_dictionaries()
    return found.take(pc.sort_indices(found["trial_id"].cast(pa.string())))  # a stable sort: rows keep their order


def _write_parts(root: Path, table: str, rows: Mapping[str, int], read: Callable[[list[str]], pa.Table]) -> list[Part]:
    """Writes the trials in `rows` (their number of rows) as new parts, of about PART_ROWS rows at most.

    `read` returns the rows of a list of trials. A trial without rows in this table gets no part.
    """
    parts = []
    for ids in _batches(rows):
        content = read(ids)
        if content.num_rows != sum(rows[key] for key in ids):
            raise InputError(f"{root}: {table} has damaged or missing rows; `verify` says which trials they belong to")
        name = hashlib.sha256(json.dumps([table, ids]).encode()).hexdigest()[:16]
        path = make_folder(root / table) / f"compacted-{name}.parquet"
        with replacing(path) as temporary:
            pq.write_table(
                content,
                temporary,
                row_group_size=_GROUP_ROWS,
                compression="zstd",
                use_dictionary=["trial_id", *categories(table)],
            )
        parts.append(Part(table, path.name, frozenset(ids)))
    return parts


def _remove_unnamed(root: Path, manifest: Manifest) -> None:
    """Removes parts that were replaced, or that a crash left before the manifest named them."""
    named = {(part.table, part.file) for part in manifest.parts}
    for table in COMPACTED:
        for path in (root / table).glob("compacted-*.parquet"):
            if (table, path.name) not in named:
                path.unlink(missing_ok=True)


def _remove_covered(store: Store) -> None:
    """Removes the own files of trials whose rows stand in a readable part."""
    for table in COMPACTED:
        for part in load_manifest(store.root).of(table):
            paths = [path for trial_id in part.trials if (path := store.path(table, trial_id)).exists()]
            if paths and store.readable(store.root / table / part.file):
                for path in paths:
                    path.unlink(missing_ok=True)
                sync_folder(store.root / table)


def _rows(commits: Mapping[str, Mapping[str, int]], table: str, trial_id: str) -> int:
    return 1 if table == "trials" else commits[trial_id].get(table, 0)


def _batches(rows: Mapping[str, int]) -> Iterator[list[str]]:
    batch: list[str] = []
    total = 0
    for trial_id in sorted(key for key, count in rows.items() if count):
        if batch and total + rows[trial_id] > PART_ROWS:
            yield batch
            batch, total = [], 0
        batch.append(trial_id)
        total += rows[trial_id]
    if batch:
        yield batch
