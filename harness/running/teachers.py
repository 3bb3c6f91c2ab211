"""Trained networks of another store (teachers, networks to start from), taken with their rows, so that machines without
a shared folder train students of the same ones. Imports neither torch nor Ray."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import InputError
from harness.files import file_sha256
from harness.report.rows import flat
from harness.spec import NUMERICS_VERSION, SELECTED, TrialSpec, canonical
from harness.store.folder import is_store
from harness.store.lock import StoreLock
from harness.store.merge import commit_copy, copy_file
from harness.store.store import Store
from harness.store.work import WORK, WorkingFolder, note_of, work_folder


@dataclass(frozen=True)
class Trained:
    """A network that another store has trained, and the sha256 of its weights. evaluated: its rows are there too."""

    spec: TrialSpec
    origin: Store
    sha256: str
    evaluated: bool

    @property
    def folder(self) -> WorkingFolder:
        return _folder(self.origin, self.spec)


def find_teachers(specs: Sequence[TrialSpec], source: Path, target: Store) -> list[Trained]:
    """The networks that the trials of a plan learn from or start from and that are to be trained, as the store at
    `source` has them; not those that `target` has itself, being the same.

    Writes nothing. InputError where `source` lacks one, where its weights are not the ones that it recorded or that its
    students saw, and where `target` has another network of this specification or students of another.
    """
    if not (is_store(source, begun=False) or work_folder(source).is_dir()):
        raise InputError(f"{source} is not a result store: it has neither a folder 'trials' nor '{WORK}'")
    origin = Store(source)
    needed = {name for spec in specs for name in spec.depends_on}
    wanted = [spec for spec in specs if spec.trial_id in needed and spec.training is not None]
    found = [_trained(spec, origin) for spec in wanted]
    for each in found:
        _compare(each, target)
    return [each for each in found if not _has(target, each)]


def teachers_beside(specs: Sequence[TrialSpec], sources: Sequence[Path], target: Store) -> list[Trained]:
    """Of these networks those that the first of some stores has trained and `target` has not. InputError as
    `find_teachers`, but for what a store lacks."""
    wanted = [spec for spec in specs if spec.training is not None and not _is_trained(target, spec)]
    found: dict[str, Trained] = {}
    for store in map(Store, sources):
        there = [spec for spec in wanted if spec.trial_id not in found and _is_usable(store, spec)]
        found |= {spec.trial_id: _trained(spec, store) for spec in there}
    for each in found.values():
        _compare(each, target)
    return list(found.values())


def take_teachers(found: Sequence[Trained], target: Store) -> None:
    """Copies weights, then rows: a network counts when its row is there. What `target` had begun of it goes."""
    if not found:
        return
    with StoreLock(target.prepare().root):
        for each in found:
            folder = _folder(target, each.spec)
            if not folder.record.exists():
                shutil.rmtree(folder.path, ignore_errors=True)
            for path in each.folder.kept():
                copy_file(path, folder.path / path.name)
            if each.evaluated and not target.has(each.spec.trial_id):
                commit_copy(each.origin, each.spec.trial_id, target)


def _trained(spec: TrialSpec, origin: Store) -> Trained:
    folder = _folder(origin, spec)
    path = folder.weights(SELECTED)
    if not path.exists() and origin.has(spec.trial_id):
        raise InputError(
            f"{origin.root} has no trained '{spec.variant}', only its rows: its weights {path} are not there; whoever "
            "has them can put them there, with the .json file beside them"
        )
    if not path.exists():
        raise InputError(
            f"{origin.root} has no trained '{spec.variant}' of this specification (no {path}){_nearest(spec, origin)}"
        )
    found, recorded = file_sha256(path, "weights"), folder.noted_sha256(SELECTED)
    if recorded is None:
        raise InputError(f"{note_of(path)} does not say the sha256 of the weights beside it")
    if found != recorded:
        raise InputError(f"{path} is damaged or was exchanged: sha256 {found[:12]}, recorded {recorded[:12]}")
    evaluated = origin.has(spec.trial_id)
    if not evaluated and (lacks := folder.lacks(spec.evaluation.checkpoints)):
        raise InputError(
            f"{origin.root} has no rows of '{spec.variant}' under this evaluation, and to evaluate it here "
            f"{folder.path} lacks {', '.join(lacks)}"
        )
    return Trained(spec, origin, found, evaluated)


def _compare(network: Trained, target: Store) -> None:
    """Every student of the network, in both stores, saw these weights, and `target` has no others."""
    variant, mine = network.spec.variant, network.sha256[:12]
    for store in (network.origin, target):
        for student, took, sha256 in _seen(store, network.spec.training_id):
            if sha256 != network.sha256:
                raise InputError(
                    f"{student} in {store.root} {took} a '{variant}' of sha256 {sha256[:12]}; the one in "
                    f"{network.origin.root} has {mine}. Students of both do not belong into one store: use another "
                    "--results"
                )
    own = _folder(target, network.spec)
    if own.weights(SELECTED).exists() and own.record.exists():  # trained, under whatever evaluation
        sha256 = file_sha256(own.weights(SELECTED), "weights")
        if sha256 != network.sha256:
            raise InputError(
                f"{target.root} has trained a '{variant}' of its own, sha256 {sha256[:12]}; the one in "
                f"{network.origin.root} has {mine}: use another --results"
            )


def _seen(store: Store, training_id: str) -> Iterator[tuple[str, str, str]]:
    """The students of this training, how they took it, and the sha256 of the weights they were given."""
    columns = ["variant", "seed", "spec", "teacher_sha256", "init_sha256"]
    for row in store.arrow("trials", columns=columns).to_pylist():
        spec = json.loads(row["spec"] or "{}")
        teachers = spec.get("teachers") or {}
        hashes = (row["teacher_sha256"] or "").split("+")  # in the order of the teachers' names
        taken = [
            ("learnt from", teachers[name], sha256) for name, sha256 in zip(sorted(teachers), hashes, strict=False)
        ]
        for took, source, sha256 in [*taken, ("started from", spec.get("init"), row["init_sha256"])]:
            if source and sha256 and source["training"] == training_id:
                yield f"{row['variant']} (seed {row['seed']})", took, sha256


def _nearest(spec: TrialSpec, origin: Store) -> str:
    """How the trained network of the store that is most like the wanted one differs from it."""
    wanted = _facts(spec.model_dump(mode="json"), NUMERICS_VERSION)
    rows = origin.arrow("trials", columns=["role", "status", "spec", "numerics_version"]).to_pylist()
    teachers = [_facts(json.loads(row["spec"]), row["numerics_version"]) for row in rows
                if (row["role"], row["status"]) == ("teacher", "done")]  # fmt: skip
    missing = object()
    apart = [
        [key for key in wanted | other if wanted.get(key, missing) != other.get(key, missing)] for other in teachers
    ]
    if not apart:
        return "; it holds no teacher"
    keys, other = min(zip(apart, teachers, strict=True), key=lambda pair: len(pair[0]))
    return "; the nearest there has " + ", ".join(
        f"{key}={other[key]}" if key in other else f"no {key}" for key in keys
    )


def _facts(spec: dict[str, Any], numerics_version: int) -> dict[str, Any]:
    """What decides the weights, by path."""
    training = {key: value for key, value in canonical(spec).items() if key != "evaluation"}
    return flat(training) | {"numerics_version": numerics_version}


def _is_trained(store: Store, spec: TrialSpec) -> bool:
    """Whether a store has a network's weights, of a training that has ended."""
    folder = _folder(store, spec)
    return folder.weights(SELECTED).exists() and (store.has(spec.trial_id) or folder.record.exists())


def _is_usable(store: Store, spec: TrialSpec) -> bool:
    lacks = [] if store.has(spec.trial_id) else _folder(store, spec).lacks(spec.evaluation.checkpoints)
    return _is_trained(store, spec) and not lacks


def _has(target: Store, network: Trained) -> bool:
    return target.has(network.spec.trial_id) and _folder(target, network.spec).weights(SELECTED).exists()


def _folder(store: Store, spec: TrialSpec) -> WorkingFolder:
    return WorkingFolder(store.root, spec.training_id)
