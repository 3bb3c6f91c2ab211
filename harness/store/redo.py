"""Making finished trials again: what the store has of them is set aside, never lost, and a run finds them missing.

`<store>/set_aside/<time>/` is a store like any other, for every reader: rows in their tables, weights below `work`.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from harness.errors import InputError, unknown
from harness.files import make_folder, sync_folder
from harness.spec import TrialSpec
from harness.store.compaction import publish
from harness.store.manifest import aside
from harness.store.store import Store
from harness.store.tables import TABLES
from harness.store.work import WorkingFolder, work_folder

_SHORTEST = 4  # characters of a trial id
_LISTED = 4  # trials that a refusal names


def named_trials(specs: Sequence[TrialSpec], names: Sequence[str]) -> list[str]:
    """The ids of the trials that are called so: by their variant, or the beginning of their id, four characters at
    least. InputError for a name of none."""
    chosen: dict[str, None] = {}
    for name in names:
        found = [spec.trial_id for spec in specs if spec.variant == name]
        if not found and len(name) >= _SHORTEST:
            found = [spec.trial_id for spec in specs if spec.trial_id.startswith(name)]
        if not found:
            raise unknown("variant or trial to make again", name, {spec.variant for spec in specs})
        chosen.update(dict.fromkeys(found))
    return list(chosen)


def refuse_left_behind(store: Store, specs: Sequence[TrialSpec]) -> None:
    """InputError where a store has finished trials that learnt or started from these and are not among them: they would
    stand beside a network that they never saw."""
    trainings, named = {spec.training_id for spec in specs}, {spec.trial_id for spec in specs}
    rows = store.arrow("trials", columns=["variant", "status", "spec"]).to_pylist()
    left = [
        f"{row['variant']} ({row['trial_id'][:8]})"
        for row in rows
        if row["status"] == "done" and row["trial_id"] not in named and trainings & _trainings(row["spec"])
    ]
    if left:
        shown = ", ".join(left[:_LISTED]) + (f" and {len(left) - _LISTED} more" if len(left) > _LISTED else "")
        raise InputError(
            f"{store.root} has finished trials of a network that is to be made again: {shown}; name them with --redo "
            "too, or use another --results"
        )


def _trainings(spec: str | None) -> set[str]:
    """The trainings whose weights a stored specification learns or starts from."""
    found = json.loads(spec or "{}")
    sources = [*(found.get("teachers") or {}).values(), found.get("init")]
    return {source["training"] for source in sources if source and source["training"]}


def set_aside(store: Store, specs: Sequence[TrialSpec]) -> Path | None:
    """Move all that a store has of some trials, rows and working folders, into a store below it; None where it has
    nothing. Only the store's one driver may call it.

    A working folder goes with the first trial that names it: trials that differ in their attacks alone share one. A
    crash in between loses nothing; asked for again, the rest is set aside too. InputError where rows in a compacted
    file are damaged or others depend on them (`refuse_left_behind`); then nothing is changed.
    """
    refuse_left_behind(store, specs)
    compacted = store.compacted()
    held = frozenset(spec.trial_id for spec in specs if spec.trial_id in compacted)
    files = [store.path(table, spec.trial_id) for spec in specs for table in sorted(TABLES, key="trials".__eq__)]
    files = [path for path in files if path.is_file()]
    folders = {WorkingFolder(store.root, spec.training_id).path for spec in specs}
    folders = {folder for folder in folders if folder.is_dir()}
    if not (held or files or folders):
        return None
    target = Store(aside(store.root))
    if held:
        _take_out(store, held, target)
    for folder in sorted(folders):
        os.replace(folder, make_folder(work_folder(target.root)) / folder.name)
    for path in files:  # the rows of `trials` last: they are the commit mark
        os.replace(path, make_folder(target.root / path.parent.name) / path.name)
    for spec in specs:
        store.reset_attempts(spec.trial_id)
    sync_folder(target.root)
    return target.root


def _take_out(store: Store, trial_ids: frozenset[str], target: Store) -> None:
    """Move compacted trials into files of their own in `target`. InputError where their part is damaged."""
    marks = store.marks()
    try:
        for trial_id in sorted(trial_ids):
            rows = {name: store.read(name, [trial_id]) for name in marks[trial_id]["tables"]}
            for name, count in marks[trial_id]["tables"].items():
                if name != "outcomes" and len(rows[name]) != count:  # which a published store may leave out
                    raise InputError(f"{store.root}: trial {trial_id} has damaged or missing rows of {name}")
            trial = store.arrow("trials", [trial_id]).to_pylist()
            if not trial:
                raise InputError(f"{store.root}: the row of trial {trial_id} is damaged")
            target.commit(trial[0], rows)
        publish(store, {}, without=trial_ids)
    except InputError as error:
        shutil.rmtree(target.root)
        raise InputError(f"{error}; only a copy can replace a compacted file. Nothing was set aside") from error
