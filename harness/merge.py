"""Joining whole stores, from several machines or groups, into one."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas as pd

from harness.compaction import COMPACTED, publish
from harness.config import adopt_comparisons
from harness.errors import InputError
from harness.files import make_folder, replacing
from harness.lock import StoreLock
from harness.store import Store
from harness.tables import TABLES
from harness.verify import outcome_counts

# What stays of a trial's working folder once it is done; its training state and caches are of no use elsewhere.
_KEPT = ("best_validation.*", "last.*")


def merge(sources: Iterable[Path | str], into: Path | str) -> dict[str, int]:
    """Joins stores into the one at `into` (made if missing); returns how many trials were `added`, `replaced`, `same`.

    The same trial with the same numbers is one row. With other numbers everything is refused before anything is
    written, in an InputError that names both origins. A done trial replaces a failed one, never the other way round.
    Kept weights come along, and so do outcomes that one store has and another left out, and registered comparisons.
    """
    target = Store(into)
    stores = [_existing(Path(source)) for source in sources]
    stores = [store for store in stores if store.root.resolve() != target.root.resolve()]
    with StoreLock(target.prepare().root):
        before = target.statuses()
        chosen = _choose([target, *stores])
        for store in stores:
            _copy_outcomes(store, target, chosen)
        done = {key: store for key, (store, status) in chosen.items() if store is not target and status == "done"}
        marks = {id(store): store.marks() for store in stores}
        publish(target, {key: (store, marks[id(store)][key]["tables"]) for key, store in done.items()})
        _remove_attempts(target, done)
        unfinished = [key for key, (store, status) in chosen.items() if store is not target and status != "done"]
        for trial_id in unfinished:
            _commit_copy(chosen[trial_id][0], trial_id, target)
        for store in stores:
            _copy_weights(store, target, chosen)
        adopt_comparisons((store.root for store in stores), target.root)
    taken = {*done, *unfinished}
    return {
        "added": len(taken - set(before)),
        "replaced": len(taken & set(before)),
        "same": len(set(before) - taken),
    }


def _existing(root: Path) -> Store:
    if not (root / "trials").is_dir():
        raise InputError(f"{root} is not a result store: it has no folder 'trials'")
    return Store(root)


def _choose(stores: Sequence[Store]) -> dict[str, tuple[Store, str]]:
    """For each trial the store to take it from and its status there: the first that has it done, else that has it."""
    chosen: dict[str, tuple[Store, str]] = {}
    numbers = {id(store): _numbers(store) for store in stores}
    for store in stores:
        for trial_id, status in store.statuses().items():
            held = chosen.get(trial_id)
            if held is None or (held[1] != "done" and status == "done"):
                chosen[trial_id] = (store, status)
            elif status == "done":
                _refuse_other_numbers(trial_id, held[0], store, numbers)
    return chosen


def _refuse_other_numbers(trial_id: str, first: Store, second: Store, numbers: dict[int, pd.Series]) -> None:
    same = numbers[id(first)].get(trial_id) == numbers[id(second)].get(trial_id)
    if same:
        left, right = (outcome_counts(store, trial_id) for store in (first, second))
        same = left.empty or right.empty or left.equals(right)
    if not same:
        raise InputError(
            f"trial {trial_id} has other numbers in {first.root} than in {second.root}; nothing was merged. "
            "One of them was made by other code or is damaged"
        )


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


def _copy_outcomes(store: Store, target: Store, chosen: dict[str, tuple[Store, str]]) -> None:
    """Outcomes of done trials that `target` lacks; they count as soon as the trial does."""
    for trial_id, status in store.statuses().items():
        source, destination = store.path("outcomes", trial_id), target.path("outcomes", trial_id)
        if status == chosen[trial_id][1] == "done" and source.exists():
            if target.status(trial_id) == "done" and destination.exists():
                continue
            _copy(source, destination)


def _remove_attempts(target: Store, done: Iterable[str]) -> None:
    """The files of unfinished attempts that a done trial has replaced."""
    for trial_id in done:
        for table in COMPACTED:
            target.path(table, trial_id).unlink(missing_ok=True)


def _commit_copy(store: Store, trial_id: str, target: Store) -> None:
    trial = store.arrow("trials", [trial_id]).to_pylist()[0]
    names = [name for name in TABLES if name != "trials"]
    target.commit(trial, {name: store.read(name, [trial_id]) for name in names})


def _copy_weights(store: Store, target: Store, chosen: dict[str, tuple[Store, str]]) -> None:
    """Kept weights of done trials, with their descriptions, where `target` has none yet."""
    trials = store.trials(columns=["training_id", "status"])
    wanted = trials[(trials["status"] == "done") & trials["training_id"].notna()]
    for training_id in sorted(set(wanted["training_id"])):
        for pattern in _KEPT:
            for path in (store.root / "work" / training_id).glob(pattern):
                if not (destination := target.root / "work" / training_id / path.name).exists():
                    _copy(path, destination)


def _copy(source: Path, destination: Path) -> None:
    make_folder(destination.parent)
    with replacing(destination) as temporary:
        shutil.copyfile(source, temporary)
