"""The working folder of a training: what is whole in it, and what is of use elsewhere."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from harness.errors import InputError
from harness.store.work import WorkingFolder, note_of

WEIGHTS = b"weights"


@pytest.fixture
def folder(tmp_path: Path) -> WorkingFolder:
    return WorkingFolder(tmp_path, "ab12").make()


def keep(folder: WorkingFolder, checkpoint: str, sha256: object = hashlib.sha256(WEIGHTS).hexdigest()) -> None:
    folder.weights(checkpoint).write_bytes(WEIGHTS)
    note_of(folder.weights(checkpoint)).write_text(json.dumps({"sha256": sha256}))


def test_nothing_is_made_where_the_store_is_gone(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        WorkingFolder(tmp_path / "gone", "ab12").make()
    assert not (tmp_path / "gone").exists()


def test_an_empty_folder_has_nothing(folder: WorkingFolder) -> None:
    assert folder.kept() == []
    assert folder.history() is None
    assert folder.noted_sha256("last") is None
    assert not folder.has_whole("last")
    assert folder.has_as_noted("last")  # of which nothing was noted


def test_what_is_of_use_elsewhere(folder: WorkingFolder) -> None:
    keep(folder, "best_validation")
    for path in (folder.state, folder.record, folder.weights("last"), folder.lock, folder.path / ".last.pt.tmp"):
        path.write_text("{}")
    weights = ["best_validation.pt", "best_validation.json", "last.pt"]
    assert [path.name for path in folder.kept_weights()] == weights
    assert [path.name for path in folder.kept()] == [*weights, "training.json"]


@pytest.mark.parametrize("note", ["{", "[]", b"\xff", '{"sha256": "0"}'])
def test_weights_that_are_not_as_noted_are_set_aside(folder: WorkingFolder, note: str | bytes) -> None:
    keep(folder, "last")
    assert folder.has_whole("last")
    note_of(folder.weights("last")).write_bytes(note if isinstance(note, bytes) else note.encode())
    assert not folder.has_as_noted("last")
    assert not folder.has_whole("last")
    assert folder.damaged() == {"last.pt": "damaged-last.pt"}
    assert (folder.path / "damaged-last.pt").read_bytes() == WEIGHTS


def test_a_note_without_a_hash_says_nothing_and_a_damaged_one_is_refused(folder: WorkingFolder) -> None:
    keep(folder, "last")
    note_of(folder.weights("last")).write_text("{}")
    assert folder.noted_sha256("last") is None
    assert folder.has_whole("last")
    note_of(folder.weights("last")).write_text("{")
    with pytest.raises(InputError, match="does not say the sha256"):
        folder.noted_sha256("last")


def test_weights_that_are_gone_are_not_as_noted(folder: WorkingFolder) -> None:
    keep(folder, "last")
    folder.weights("last").unlink()
    assert not folder.has_as_noted("last")
    assert not folder.has_whole("last")
    assert folder.damaged() == {}


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"epochs": []}'])
def test_a_damaged_record_is_set_aside(folder: WorkingFolder, content: str) -> None:
    folder.record.write_text(content)
    assert folder.history() is None
    assert folder.damaged() == {"training.json": "damaged-training.json"}
    folder.record.write_text('{"epochs": [], "class_state": []}')
    assert folder.history() == {"epochs": [], "class_state": []}


def test_what_was_put_aside_goes_and_weights_stay(folder: WorkingFolder) -> None:
    keep(folder, "last")
    keep(folder, "best_validation")
    for path in (folder.claims("t1"), folder.chunks("0123456789abcdef")):
        path.mkdir(parents=True)
    assert sorted(path.name for path in (folder.path / "evaluations").iterdir()) == ["0123456789ab", "claims-t1"]
    folder.forget_evaluation()
    folder.drop_weights("last")
    assert sorted(path.name for path in folder.path.iterdir()) == ["best_validation.json", "best_validation.pt"]
