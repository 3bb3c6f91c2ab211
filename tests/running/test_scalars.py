"""Curves for TensorBoard: what the store says of every epoch of a trial."""

from __future__ import annotations

import shutil
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from tensorboardX.proto.event_pb2 import Event

from harness.running.scalars import Scalars
from harness.store.store import Store
from tests.command import bench, refused
from tests.small import suite_file


def scalars(folder: Path) -> Iterator[tuple[str, int, float]]:
    """Tag, step and value of all that event files hold: records of a length, a checksum of it, an event, another."""
    for path in sorted(folder.glob("events.*")):
        content, place = path.read_bytes(), 0
        while place < len(content):
            (size,) = struct.unpack_from("<Q", content, place)
            event = Event.FromString(content[place + 12 : place + 12 + size])
            yield from ((value.tag, event.step, value.simple_value) for value in event.summary.value)
            place += size + 16


def test_a_run_writes_a_curve_per_trial(tmp_path):
    words = (
        "run",
        suite_file(tmp_path, methods=["rslad"]),
        "--serial",
        "--results",
        "store",
        "--tensorboard",
        "curves",
    )
    bench(*words, cwd=tmp_path)
    store = Store(tmp_path / "store")
    trials = store.trials()
    runs = {f"{row.variant}-seed0-{row.trial_id[:8]}": row.trial_id for row in trials.itertuples()}
    assert {path.name for path in (tmp_path / "curves").iterdir()} == runs.keys()
    assert len(runs) == 2  # and the teacher's
    for name, trial_id in runs.items():
        found = {(tag, step): value for tag, step, value in scalars(tmp_path / "curves" / name)}
        epochs = store.read("epochs", [trial_id])
        assert {step for _, step in found} == set(epochs["epoch"]) == {1, 2}
        for row in epochs.itertuples():
            for tag in ("val_robust_avg", "val_robust_worst", "selection_score"):
                assert found[tag, row.epoch] == pytest.approx(getattr(row, tag), abs=1e-6)


def test_a_folder_that_is_lost_in_mid_run_is_told_once_and_ends_nothing(tmp_path):
    said: list[str] = []
    curves = Scalars(tmp_path / "curves", said.append)
    curves.add("at", 1, {"val_robust_avg": 0.5})
    assert [*scalars(tmp_path / "curves" / "at")] == [("val_robust_avg", 1, 0.5)]
    shutil.rmtree(tmp_path / "curves")
    (tmp_path / "curves").write_text("")
    for step in (1, 2):
        curves.add("rslad", step, {"val_robust_avg": 0.5})
    curves.close()
    (line,) = said
    assert line.startswith("warning: no more curves: ")
    assert "curves/rslad" in line


def test_curves_that_cannot_be_written_are_told_before_anything_is_trained(tmp_path):
    suite = suite_file(tmp_path)
    (tmp_path / "file").write_text("")
    words = (suite, "--tensorboard", "file/curves")
    assert "cannot write to file/curves" in refused("run", *words, "--serial", "--results", "store", cwd=tmp_path)
    space = ("--method", "rslad", "--space", "training.lr=uniform(0.1, 0.2)", "--trials", "2", "--results", "store")
    assert "cannot write to file/curves" in refused("tune", *words, *space, cwd=tmp_path)
    own = suite_file(tmp_path, dataset={"name": "npz", "path": "absent.npz", "sha256": "ab" * 32})
    told = refused("run", own, "--serial", "--results", "store", "--tensorboard", "curves", cwd=tmp_path)
    assert "npz: there is no file" in told  # and no folder is made
