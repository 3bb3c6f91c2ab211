"""Joining whole stores, from several machines or groups, into one."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from harness.errors import InputError, unknown
from harness.files import make_folder, replacing
from harness.store.compaction import publish
from harness.store.folder import is_store, nothing_left_if_refused
from harness.store.lock import StoreLock
from harness.store.manifest import COMPACTED
from harness.store.records import adopt_comparisons, new_comparisons
from harness.store.store import Store
from harness.store.tables import TABLES, checked_id
from harness.store.verify import outcome_counts
from harness.store.work import WorkingFolder

KEEP = ("first",)

# What may set one trial's results apart in two stores, the most telling first: columns of `trials`, and how it is told.
_MADE_WITH = (
    (("code_fingerprint", "train_code_fingerprint"), "other code"),
    (("teacher_sha256",), "same specification, students of other teachers"),
    (("init_sha256",), "same specification, started from other networks"),
    (("versions", "train_versions"), "same specification and code, other libraries"),
    (("device", "train_device"), "same specification and code, other processor"),
)


def merge(sources: Iterable[Path | str], into: Path | str, keep: str | None = None) -> dict[str, int]:
    """Joins stores into the one at `into` (made if missing); returns how many trials were `added`, `replaced`, `same`
    and `differing`.

    The same trial with the same numbers is one row. With other numbers everything is refused before anything is
    written, in an InputError that names both origins and what they were made with; with keep="first" the row of the
    store that stands first stays (`into` before the others), and nothing of the other's trial is taken. A done trial
    replaces a failed one, never the other way round. Kept weights come along, and so do outcomes that one store has and
    another left out, and registered comparisons. Where `into` has all of it, nothing is written. OSError (a full disk):
    what was joined by then is whole, and merging again goes on.
    """
    if keep is not None and keep not in KEEP:
        raise unknown("value of --keep", keep, KEEP)
    target = Store(into)
    stores = [existing_store(Path(source)) for source in sources]
    stores = [store for store in stores if os.path.realpath(store.root) != os.path.realpath(target.root)]
    for store in stores:
        _check_training_ids(store)
    plan = _plan(target, stores, keep)  # refused or without a change, it leaves not even a lock behind
    if plan.changes or not is_store(target.root):
        with nothing_left_if_refused(target.root), StoreLock(target.prepare().root):
            plan = _plan(target, stores, keep)  # another driver may have been at work
            _carry_out(plan, target)
            adopt_comparisons((store.root for store in stores), target.root)
    return plan.counts


@dataclass(frozen=True)
class _Plan:
    """What a merge will do. done, unfinished: the trials to take, with their store. files: copies, from where to where;
    outcomes before the trials are committed, weights after. counts: see `merge`."""

    done: Mapping[str, Store]
    unfinished: Mapping[str, Store]
    outcomes: Sequence[tuple[Path, Path]]
    weights: Sequence[tuple[Path, Path]]
    comparisons: bool
    counts: dict[str, int]

    @property
    def changes(self) -> bool:
        return bool(self.done or self.unfinished or self.outcomes or self.weights or self.comparisons)


def _plan(target: Store, stores: Sequence[Store], keep: str | None) -> _Plan:
    before = target.statuses()
    chosen, others = _choose([target, *stores])
    if others and keep is None:
        raise _other_numbers(others)
    left = {store: {key for key, _, other in others if other is store} for store in stores}
    _check_rows({key: store for key, (store, _) in chosen.items() if store is not target})
    new = {key: held for key, held in chosen.items() if held[0] is not target}
    differing = {key for key, _, _ in others}
    return _Plan(
        done={key: store for key, (store, status) in new.items() if status == "done"},
        unfinished={key: store for key, (store, status) in new.items() if status != "done"},
        outcomes=_outcomes(stores, target, chosen, left),
        weights=[pair for store in stores for pair in _weights(store, target, left[store])],
        comparisons=bool(new_comparisons((store.root for store in stores), target.root)),
        counts={
            "added": len(new.keys() - before.keys()),
            "replaced": len(new.keys() & before.keys()),
            "same": len(before.keys() - new.keys() - differing),
            "differing": len(differing),
        },
    )


def _check_rows(taken: Mapping[str, Store]) -> None:
    """InputError for a trial whose row in `trials` cannot be read where it would be taken from."""
    for store in dict.fromkeys(taken.values()):
        readable = set(store.trials(["status"])["trial_id"])
        for trial_id in sorted(key for key, source in taken.items() if source is store and key not in readable):
            raise store.damaged(trial_id)


def _carry_out(plan: _Plan, target: Store) -> None:
    try:
        for source, destination in plan.outcomes:
            copy_file(source, destination)
        if plan.done:
            marks = {store: store.marks() for store in {*plan.done.values()}}
            publish(target, {key: (store, marks[store][key]) for key, store in plan.done.items()})
    except BaseException:  # a full disk, for one: rows of no trial would be damage
        for _, destination in plan.outcomes:
            if not target.has(destination.stem):
                destination.unlink(missing_ok=True)
        raise
    _remove_attempts(target, plan.done)
    for trial_id, store in plan.unfinished.items():
        commit_copy(store, trial_id, target)
    for source, destination in plan.weights:
        if not destination.exists():  # two stores may have them
            copy_file(source, destination)


def existing_store(root: Path) -> Store:
    """The store at `root`. InputError where there is none."""
    if not is_store(root, begun=False):
        raise InputError(f"{root} is not a result store: it has no folder 'trials'")
    return Store(root)


def _check_training_ids(store: Store) -> None:
    """They become paths. InputError for one that is none of ours."""
    for training_id in store.trials(columns=["training_id"])["training_id"].dropna().unique():
        try:
            checked_id(training_id)
        except ValueError as error:
            raise InputError(f"{store.root}: training_id: {error}") from None


def _choose(stores: Sequence[Store]) -> tuple[dict[str, tuple[Store, str]], list[tuple[str, Store, Store]]]:
    """For each trial the store to take it from and its status there: the first that has it done, else that has it. And
    the trials that a later store has with other numbers, teachers first, with the store they are taken from and that
    other one."""
    chosen: dict[str, tuple[Store, str]] = {}
    others: list[tuple[str, Store, Store]] = []
    numbers = {store: _numbers(store) for store in stores}
    for store in stores:
        teachers = set(store.trials(["role"]).query("role == 'teacher'")["trial_id"])
        for trial_id, status in sorted(store.statuses().items(), key=lambda each: each[0] not in teachers):
            held = chosen.get(trial_id)
            if held is None or (held[1] != "done" and status == "done"):
                chosen[trial_id] = (store, status)
            elif status == "done" and not _same_numbers(trial_id, held[0], store, numbers):
                others.append((trial_id, held[0], store))
    return chosen, others


def _same_numbers(trial_id: str, first: Store, second: Store, numbers: Mapping[Store, pd.Series]) -> bool:
    if numbers[first].get(trial_id) != numbers[second].get(trial_id):
        return False
    left, right = (outcome_counts(store, trial_id) for store in (first, second))
    return left.empty or right.empty or left.equals(right)


def _other_numbers(others: Sequence[tuple[str, Store, Store]]) -> InputError:
    trial_id, first, second = others[0]
    rows = [store.row(trial_id) for store in (first, second)]
    more = f" (so have {len(others) - 1} more trials)" if len(others) > 1 else ""
    return InputError(
        f"trial {trial_id} has other numbers in {first.root} than in {second.root}{more}; nothing was merged: "
        f"{_what_differs(*rows)}. `--keep first` keeps the rows of the store that stands first, the --into store "
        "before all others"
    )


def _what_differs(first: Mapping[str, Any], second: Mapping[str, Any]) -> str:
    """Why two stores may have one trial with two results, as far as its rows in `trials` tell."""
    for columns, told in _MADE_WITH:
        for name in columns:
            pair = [row[name] for row in (first, second) if isinstance(row.get(name), str)]
            if len(set(pair)) == 2:
                return f"{told} ({', '.join(_versions(*pair) if 'versions' in name else pair)})"
    return "same specification, code, libraries and processor: one of them is damaged, or was changed"


def _versions(first: str, second: str) -> list[str]:
    """The libraries whose versions differ: `torch 2.1 and 2.2`."""
    one, other = json.loads(first), json.loads(second)
    names = sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))
    return [f"{name} {one.get(name)} and {other.get(name)}" for name in names]


def _numbers(store: Store) -> pd.Series:
    """A fingerprint of each done trial's results, by trial id; times and machines do not count."""
    counts = _fingerprint(store.read("class_accuracy", columns=["checkpoint", "attack", "class_index", "n", "correct"]))
    # A tuning trial may have no class rows: then its validation scores are its results.
    scores = _fingerprint(store.read("epochs", columns=["epoch", "selection_score"]))
    return pd.concat([counts, scores[~scores.index.isin(counts.index)]])


def _fingerprint(frame: pd.DataFrame) -> pd.Series:
    """A hash of each trial's rows, whatever their order."""
    rows = pd.util.hash_pandas_object(frame.drop(columns="trial_id"), index=False)
    return rows.groupby(frame["trial_id"].astype(str)).sum()


def _outcomes(
    stores: Sequence[Store],
    target: Store,
    chosen: Mapping[str, tuple[Store, str]],
    without: Mapping[Store, Collection[str]],
) -> list[tuple[Path, Path]]:
    """Outcomes of done trials that `target` lacks; they count as soon as the trial does. Those that were committed with
    the rows that are taken, from the store of these or from another: counts may be equal where images are not."""
    hashes = {store: {key: mark.get("sha256", {}).get("outcomes") for key, mark in store.marks().items()}
              for store in [target, *stores]}  # fmt: skip
    found: dict[Path, Path] = {}
    for trial_id, (taken, status) in chosen.items():
        destination = target.path("outcomes", trial_id)
        if status != "done" or (target.status(trial_id) == "done" and destination.exists()):
            continue
        wanted = hashes[taken][trial_id]
        for store in sorted(stores, key=lambda store: store is not taken):
            same = store is taken or wanted is None or hashes[store].get(trial_id) == wanted
            source = store.path("outcomes", trial_id)
            if same and store.status(trial_id) == "done" and trial_id not in without[store] and source.is_file():
                found.setdefault(destination, source)
    return [(source, destination) for destination, source in found.items()]


def _remove_attempts(target: Store, done: Iterable[str]) -> None:
    """The files of unfinished attempts that a done trial has replaced."""
    for trial_id in done:
        for table in COMPACTED:
            target.path(table, trial_id).unlink(missing_ok=True)


def commit_copy(store: Store, trial_id: str, target: Store) -> None:
    """Commits a trial of `store`, with all its rows, to `target`."""
    trial = store.row(trial_id)
    names = [name for name in TABLES if name != "trials"]
    target.commit(trial, {name: store.read(name, [trial_id]) for name in names})


def _weights(store: Store, target: Store, without: Collection[str]) -> Iterator[tuple[Path, Path]]:
    """Kept weights of done trials, with their descriptions, where `target` has none yet. Not of trainings that gave
    other numbers here than the rows that were taken."""
    trials = store.trials(columns=["training_id", "status"])
    wanted = trials[(trials["status"] == "done") & trials["training_id"].notna()]
    other = trials.loc[trials["trial_id"].isin(without), "training_id"]
    for training_id in sorted(set(wanted["training_id"]) - set(other)):
        for path in WorkingFolder(store.root, training_id).kept_weights():
            destination = WorkingFolder(target.root, training_id).path / path.name
            if path.is_file() and not destination.exists():
                yield path, destination


def copy_file(source: Path, destination: Path) -> None:
    """A copy that is complete when it gets its name."""
    make_folder(destination.parent)
    with replacing(destination) as temporary:
        shutil.copyfile(source, temporary)
