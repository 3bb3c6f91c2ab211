"""Compaction: the files of many finished trials become a few large ones.

New parts are written first, then the manifest names them, then what they replace is removed. Readers go by the
manifest (`harness.store.manifest`), so they see the same rows before, after and in between.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from harness.errors import InputError
from harness.files import make_folder, replacing, sync_folder
from harness.store import parquet
from harness.store.manifest import (
    COMPACTED,
    EMPTY,
    Manifest,
    Part,
    aside,
    label_metadata,
    load_manifest,
    manifest_path,
    orphans,
    part_files,
    read_label,
    rebuilt,
    save_manifest,
)
from harness.store.store import Store
from harness.store.tables import categories

Mark = Mapping[str, Any]  # a commit mark: see `Store.marks`
PART_ROWS = 4_000_000
_GROUP_ROWS = 65_536  # a row group: what has to be read to get one trial out of a part


def compact(store: Store) -> int:
    """Merges the files of finished trials into few large ones; returns how many trials were merged.

    Only the store's one driver may call it; readers and late writers are not disturbed, and a crash at any point costs
    nothing but the work. A trial with a damaged or missing file stays as it is.
    """
    manifest = load_manifest(store.root)
    _remove_unnamed(store.root, manifest)
    fresh = _complete_trials(store)
    if fresh:
        try:
            publish(store, {trial_id: (store, mark) for trial_id, mark in fresh.items()})
        except (
            InputError
        ):  # a file that looked whole has damaged contents: it is named in `problems`, all stays as it is
            return 0
    _remove_covered(store)
    return len(fresh)


def publish(store: Store, trials: Mapping[str, tuple[Store, Mark]], without: frozenset[str] = frozenset()) -> None:
    """Puts done trials into parts of `store` and these into its manifest, in one atomic step.

    `trials` maps a trial id to the store to read it from (which may be `store` itself) and its commit mark. `without`:
    compacted trials that are taken out. Parts that are still small are rewritten with the new ones, so their number
    stays low however often this happens. InputError where rows are damaged; then nothing is changed.
    """
    manifest = load_manifest(store.root)
    held = store.marks() if manifest.parts else {}
    marks: dict[str, Mark]
    marks = {key: held.get(key) or {"tables": rows} for key, rows in manifest.commits.items() if key not in without}
    marks |= {key: mark for key, (_, mark) in trials.items()}
    origin = {key: source for key, (source, _) in trials.items()}
    counting = {*store.compacted(), *trials}
    parts: list[Part] = []
    try:
        for table in COMPACTED:
            wanted = set(trials)
            for part in manifest.of(table):
                small = sum(manifest.rows(table, key) for key in part.trials) < PART_ROWS // 2
                sound = part.trials <= counting and store.readable(store.root / table / part.file)
                if part.trials & without or (small and sound and trials):
                    wanted |= part.trials - without
                else:
                    parts.append(part)
            rows = {key: marks[key] for key in wanted}
            found = {key: origin.get(key, store).root for key in rows}
            parts.extend(_write_parts(store.root, table, rows, partial(_gather, store, table, origin), found))
        merged = Manifest(tuple(parts), {key: dict(mark["tables"]) for key, mark in marks.items()})
        save_manifest(store.root, merged)
    except BaseException:  # a full disk, for one: parts that nothing names would have to be repaired
        known = {(part.table, part.file) for part in manifest.parts}
        for part in parts:
            if (part.table, part.file) not in known:
                (store.root / part.table / part.file).unlink(missing_ok=True)
        raise
    _remove_unnamed(store.root, merged)


def repair(store: Store) -> tuple[int, int]:
    """Names the parts again that the manifest has lost, or rebuilds it where it is lost or damaged: from what the parts
    say themselves. Returns how many parts it names again, and how many trials they hold. It no longer names parts that
    are gone where others hold all their trials. Nothing is removed: a damaged manifest goes to what was set aside."""
    told = rebuilt(store.root)
    try:
        known = load_manifest(store.root)
    except InputError:
        known = EMPTY
        if (path := manifest_path(store.root)).exists():
            os.replace(path, aside(store.root) / path.name)
    lost = {(label.table, label.file) for label in orphans(store.root, known)}
    found = [part for part in told.parts if (part.table, part.file) in lost]
    if found:
        held = {(part.table, trial_id) for part in found for trial_id in part.trials}
        gone = [part for part in known.parts if not (store.root / part.table / part.file).exists()]
        replaced = [part for part in gone if all((part.table, trial_id) in held for trial_id in part.trials)]
        parts = (*(part for part in known.parts if part not in replaced), *found)
        counting = frozenset().union(*(part.trials for part in parts if part.table == "trials"))
        parts = tuple(replace(part, trials=part.trials & counting) for part in parts if part.trials & counting)
        commits = {**told.commits, **known.commits}
        save_manifest(store.root, Manifest(parts, {key: commits[key] for key in counting}))
    return len(found), len(frozenset().union(*(part.trials for part in found)))


def _complete_trials(store: Store) -> dict[str, Mark]:
    """The done trials that no part holds yet and whose files are all there and whole: their commit marks."""
    compacted = store.compacted()
    done = {key: mark for key, mark in store.marks().items() if mark["status"] == "done"}
    return {
        key: mark
        for key, mark in done.items()
        if key not in compacted
        and all(
            store.readable(store.path(name, key), rows) for name, rows in mark["tables"].items() if name in COMPACTED
        )
    }


def _gather(store: Store, table: str, origin: Mapping[str, Store], ids: list[str]) -> pa.Table:
    sources: dict[Path, tuple[Store, list[str]]] = {}
    for trial_id in ids:
        source = origin.get(trial_id, store)
        sources.setdefault(source.root, (source, []))[1].append(trial_id)
    found = pa.concat_tables([source.arrow(table, some) for source, some in sources.values()])
    found = found.unify_dictionaries()
    return found.take(pc.sort_indices(found["trial_id"].cast(pa.string())))  # a stable sort: rows keep their order


def _write_parts(
    root: Path,
    table: str,
    marks: Mapping[str, Mark],
    read: Callable[[list[str]], pa.Table],
    origins: Mapping[str, Path],
) -> Iterator[Part]:
    """Writes the trials in `marks` as new parts, of about PART_ROWS rows at most, and yields each.

    `read` returns the rows of a list of trials, which come from the stores `origins`. A trial without rows in this
    table gets no part.
    """
    rows = {key: 1 if table == "trials" else mark["tables"].get(table, 0) for key, mark in marks.items()}
    for ids in _batches(rows):
        content = read(ids)
        if content.num_rows != sum(rows[key] for key in ids):
            where = " or ".join(dict.fromkeys(str(origins[key]) for key in ids))
            raise InputError(f"{where}: {table} has damaged or missing rows; `verify` says which trials they belong to")
        name = hashlib.sha256(json.dumps([table, ids]).encode()).hexdigest()[:16]
        path = make_folder(root / table) / f"compacted-{name}.parquet"
        labelled = content.replace_schema_metadata(label_metadata(table, {key: marks[key] for key in ids}))
        with replacing(path) as temporary:
            parquet.write(
                labelled, temporary, row_group_size=_GROUP_ROWS, use_dictionary=["trial_id", *categories(table)]
            )
        yield Part(table, path.name, frozenset(ids))


def _remove_unnamed(root: Path, manifest: Manifest) -> None:
    """Removes parts that were replaced, or that a crash left before the manifest named them; none that cannot be read
    or that holds what stands nowhere else."""
    named = {(part.table, part.file) for part in manifest.parts}
    kept = named | {(label.table, label.file) for label in orphans(root, manifest)}
    for table, file in part_files(root):
        if (table, file) not in kept and _is_readable(root, table, file):
            (root / table / file).unlink(missing_ok=True)


def _is_readable(root: Path, table: str, file: str) -> bool:
    try:
        read_label(root, table, file)
    except parquet.UNREADABLE:
        return False
    return True


def _remove_covered(store: Store) -> None:
    """Removes the own files of trials whose rows stand in a readable part."""
    for table in COMPACTED:
        for part in load_manifest(store.root).of(table):
            paths = [path for trial_id in part.trials if (path := store.path(table, trial_id)).exists()]
            if paths and store.readable(store.root / table / part.file):
                for path in paths:
                    path.unlink(missing_ok=True)
                sync_folder(store.root / table)


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
