"""Damage: flipped bits, lost and damaged manifests, anything where tables should be. Nothing is lost, nothing dies."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch

from harness.attacks.conditions import Conditions
from harness.errors import InputError
from harness.evaluation.chunk import evaluate_chunk
from harness.running.run import run
from harness.store import compaction, manifest, parquet, tables
from harness.store.compaction import compact
from harness.store.manifest import COMPACTED, load_manifest, manifest_path, rebuilt
from harness.store.merge import merge
from harness.store.store import Store
from harness.store.tables import TABLES, content_hash
from harness.store.verify import verify
from tests.command import bench
from tests.running.test_scheduler import SERIAL
from tests.synthetic_store import trial_spec, trial_tables

ALL = tuple(TABLES)
VALUES = [
    None,
    True,
    7,
    1.5,
    "text",
    [],
    ["a"],
    {},
    {"parts": 1},
    {"status": "done"},
    [[[]]],
    {"parts": [], "commits": 3},
]


def filled(root: Path, count: int = 3, compacted: bool = False) -> Store:
    for seed in range(count):
        spec = trial_spec("absld", seed, attacks=("clean", "pgd20"), epochs=3)
        Store(root).commit(*trial_tables(spec, per_class=5))
    store = Store(root)
    if compacted:
        compact(store)
    return store


def contents(root: Path) -> dict[str, pd.DataFrame]:
    frames = {}
    for table in TABLES:
        frame = Store(root).read(table)
        frame = frame.astype({name: str for name in frame if isinstance(frame[name].dtype, pd.CategoricalDtype)})
        frames[table] = frame.sort_values("trial_id", kind="stable", ignore_index=True)
    return frames


def same(one: dict[str, pd.DataFrame], other: dict[str, pd.DataFrame]) -> bool:
    return all(one[table].equals(other[table]) for table in TABLES)


def is_well(root: Path) -> bool:
    found = verify(root)
    return not found.broken and not found.problems


# Flipped bits


@pytest.mark.parametrize("compacted", [False, True])
@pytest.mark.parametrize("table", ALL)
def test_a_flipped_bit_is_noticed_or_changes_nothing(tmp_path, table, compacted):
    filled(tmp_path, 2, compacted)
    before = contents(tmp_path)
    path = sorted((tmp_path / table).glob("*.parquet"))[0]
    whole, draw = path.read_bytes(), random.Random(f"{table} {compacted}")
    noticed = 0
    for position in sorted(draw.sample(range(8 * len(whole)), 40)):
        damaged = bytearray(whole)
        damaged[position // 8] ^= 1 << position % 8
        path.write_bytes(damaged)
        if not is_well(tmp_path):
            noticed += 1
        else:
            assert same(contents(tmp_path), before), f"bit {position} of {path.name}"
    path.write_bytes(whole)
    assert noticed
    assert is_well(tmp_path)


def test_ordinary_readers_name_a_flipped_bit_in_a_page(tmp_path):
    store = filled(tmp_path, 1)
    path = next((tmp_path / "class_accuracy").glob("*.parquet"))
    column = next(
        pq.read_metadata(path).row_group(0).column(index)
        for index in range(16)
        if pq.read_metadata(path).row_group(0).column(index).path_in_schema == "correct"
    )
    damaged = bytearray(path.read_bytes())
    damaged[column.data_page_offset + column.total_compressed_size - 3] ^= 1
    path.write_bytes(damaged)
    assert store.read("class_accuracy").empty
    assert path.name in store.problems[0]


def test_a_damaged_piece_of_a_cached_evaluation_is_computed_again(tmp_path):
    images = torch.randint(0, 256, (6, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(6) % 3

    def forward(x: torch.Tensor) -> torch.Tensor:
        return x.flatten(1)[:, :3] * 9

    def outcomes() -> pd.DataFrame:
        conditions = Conditions({"name": "fgsm"}, eps=0.1, seed=0, batch_size=6, num_classes=3)
        return evaluate_chunk(forward, images, labels, torch.arange(6), conditions, 0, tmp_path).outcomes

    first, draw = outcomes(), random.Random(0)
    (path,) = tmp_path.glob("*.parquet")
    whole = path.read_bytes()
    for position in draw.sample(range(8 * len(whole)), 60):
        damaged = bytearray(whole)
        damaged[position // 8] ^= 1 << position % 8
        path.write_bytes(damaged)
        pd.testing.assert_frame_equal(outcomes(), first)


def test_values_that_are_not_those_committed_are_named(tmp_path):
    """A file that is whole, with checksums, and yet not the one that was committed."""
    store = filled(tmp_path, 1)
    (trial_id,) = store.statuses()
    path = store.path("epochs", trial_id)
    rows = pq.read_table(path).to_pandas()
    rows.loc[0, "loss"] += 1e-9
    parquet.write(tables.to_arrow("epochs", rows, {"trial_id": trial_id}), path)
    assert verify(store.root).broken == {trial_id: ["epochs: other values than were committed"]}


def test_an_accuracy_is_correct_over_n(tmp_path):
    spec = trial_spec("absld", 0, attacks=("clean", "pgd20"), epochs=3)
    trial, rows = trial_tables(spec, per_class=5)
    rows["class_accuracy"].loc[rows["class_accuracy"]["attack"] == "pgd20", "accuracy"] += 0.01
    store = Store(tmp_path)
    store.commit(trial, rows)
    assert verify(store.root).broken == {spec.trial_id: ["class_accuracy: accuracy under pgd20 is not correct / n"]}


def test_rows_without_their_trial_are_damage(tmp_path):
    store = filled(tmp_path, 2)
    lost = sorted(store.statuses())[0]
    store.path("trials", lost).unlink()
    without = [f"{table}: rows without a row in `trials`" for table in sorted(set(TABLES) - {"trials"})]
    assert verify(tmp_path).broken == {lost: without}


def test_the_hash_of_rows_does_not_depend_on_how_they_are_stored(tmp_path):
    store = filled(tmp_path, 2)
    written = {key: mark["sha256"] for key, mark in store.marks().items()}
    assert all(set(hashes) == set(TABLES) for hashes in written.values())
    compact(store)
    assert {key: mark["sha256"] for key, mark in Store(tmp_path).marks().items()} == written
    assert is_well(tmp_path)
    merge([tmp_path], tmp_path / "other")
    assert {key: mark["sha256"] for key, mark in Store(tmp_path / "other").marks().items()} == written
    assert is_well(tmp_path / "other")
    (trial_id, *_) = written
    rows = store.arrow("class_accuracy", [trial_id])
    assert content_hash(rows) == content_hash(rows.append_column("later", [[None] * rows.num_rows]))
    assert content_hash(rows) != content_hash(rows.slice(1))


# Stores of earlier versions


def earlier_version(monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on stores are written as before there were checksums, hashes and labels."""
    write = parquet.pq.write_table
    monkeypatch.setattr(
        parquet.pq, "write_table", lambda *words, write_page_checksum, **options: write(*words, **options)
    )
    monkeypatch.setattr(compaction, "label_metadata", lambda table, marks: None)
    plain = json.dumps

    def dumps(value: Any, **options: Any) -> str:
        if isinstance(value, dict) and value.keys() == {"status", "tables", "sha256"}:
            value = {"status": value["status"], "tables": value["tables"]}
        return plain(value, **options)

    monkeypatch.setattr("harness.store.store.json.dumps", dumps)


@pytest.mark.parametrize("compacted", [False, True])
def test_a_store_without_checksums_passes_and_says_so(tmp_path, monkeypatch, compacted):
    with monkeypatch.context() as patch:
        earlier_version(patch)
        filled(tmp_path / "store", 3, compacted)
    found = verify(tmp_path / "store")
    assert (found.trials, found.broken, found.problems, found.unchecked) == (3, {}, [], 3)
    printed = bench("verify", "store", cwd=tmp_path).stdout
    assert "3 trials, 0 broken, 3 without checksums" in printed
    compact(Store(tmp_path / "store"))
    assert verify(tmp_path / "store").unchecked == 3


# The manifest


def remove(path: Path) -> None:
    path.unlink()


def empty(path: Path) -> None:
    path.write_bytes(b"")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


@pytest.mark.parametrize("damage", [remove, empty, cut])
@pytest.mark.parametrize("version", ["this", "earlier"])
def test_a_lost_or_damaged_manifest_is_named_and_rebuilt(tmp_path, monkeypatch, damage, version):
    root = tmp_path / "store"
    with monkeypatch.context() as patch:
        if version == "earlier":
            earlier_version(patch)
        filled(root, 3, compacted=True)
    before, manifest = contents(root), load_manifest(root)
    damage(manifest_path(root))
    with pytest.raises(InputError, match="run-bench repair"):
        Store(root).statuses()
    for command in (("report", "store"), ("merge", "store", "--into", "other")):
        assert "run-bench repair" in bench(*command, cwd=tmp_path, check=2).stderr
    seen = bench("verify", "store", cwd=tmp_path, check=1)
    assert "compacted.json" in seen.stdout
    assert "3 trials, 0 broken" in seen.stdout
    assert "5 compacted files with 3 trials count again" in bench("repair", "store", cwd=tmp_path).stdout
    assert load_manifest(root).commits == manifest.commits
    assert set(load_manifest(root).parts) == set(manifest.parts)
    assert same(contents(root), before)
    assert is_well(root)
    assert "nothing to repair" in bench("repair", "store", cwd=tmp_path).stdout


@pytest.mark.parametrize("then", ["compact", "merge", "commit"])
def test_no_part_is_deleted_while_it_holds_a_trial_found_nowhere_else(tmp_path, then):
    """An old copy of the manifest is restored, or it is removed, and work goes on."""
    root = tmp_path / "store"
    store = filled(root, 2, compacted=True)
    old = manifest_path(root).read_bytes()
    for seed in (5, 6):
        store.commit(*trial_tables(trial_spec("trades", seed, attacks=("clean",), epochs=2), per_class=5))
        compact(store)
    before = contents(root)
    manifest_path(root).write_bytes(old)
    if then == "merge":
        filled(tmp_path / "source", 3)
        merge([tmp_path / "source"], root)
    else:
        Store(root).commit(*trial_tables(trial_spec("rslad", 1, attacks=("clean",), epochs=2), per_class=5))
        compact(Store(root))
    assert "run-bench repair" in "\n".join(verify(root).problems)
    with pytest.raises(InputError, match="run-bench repair"):
        run([], Store(root), options=SERIAL)  # which would train again what it does not see
    bench("repair", "store", cwd=tmp_path)
    after = contents(root)
    for table in TABLES:
        kept = after[table][after[table]["trial_id"].isin(before["trials"]["trial_id"])].reset_index(drop=True)
        pd.testing.assert_frame_equal(kept, before[table])
    assert is_well(root)


def test_a_manifest_is_rebuilt_from_parts_of_every_age(tmp_path, monkeypatch):
    """Parts that a crash left behind beside those that replaced them: the newest count."""
    store = filled(tmp_path, 2, compacted=True)
    left = {path: path.read_bytes() for path in tmp_path.rglob("compacted-*.parquet")}
    store.commit(*trial_tables(trial_spec("trades", 5, attacks=("clean",), epochs=2), per_class=5))
    compact(store)
    before = contents(tmp_path)
    for path, content in left.items():
        path.write_bytes(content)
    manifest_path(tmp_path).unlink()
    assert compaction.repair(Store(tmp_path))[1] == 3
    assert same(contents(tmp_path), before)
    assert is_well(tmp_path)
    Store(tmp_path).commit(*trial_tables(trial_spec("trades", 6, attacks=("clean",), epochs=2), per_class=5))
    compact(Store(tmp_path))
    assert {table: len(list((tmp_path / table).glob("compacted-*"))) for table in COMPACTED} == dict.fromkeys(
        COMPACTED, 1
    )
    assert is_well(tmp_path)


def test_a_part_tells_the_manifest_what_the_manifest_says(tmp_path):
    filled(tmp_path, 3, compacted=True)
    told, known = rebuilt(tmp_path), load_manifest(tmp_path)
    assert (set(told.parts), told.commits) == (set(known.parts), known.commits)


# Whatever lies there


def fifo(path: Path) -> None:
    os.mkfifo(path)


def folder(path: Path) -> None:
    path.mkdir()


def dangling(path: Path) -> None:
    path.symlink_to("nowhere")


def loop(path: Path) -> None:
    path.symlink_to(path.name)


@pytest.mark.parametrize("compacted", [False, True])
@pytest.mark.parametrize("kind", [remove, empty, cut, fifo, folder, dangling, loop])
def test_verify_looks_at_anything(tmp_path, kind: Callable[[Path], None], compacted):
    root = tmp_path / "store"
    filled(root, 2, compacted)
    for table in set(TABLES) - ({"trials"} if kind is remove else set()):  # of a trial that is gone nothing is left
        path = sorted((root / table).glob("*.parquet"))[0]
        if kind in (remove, empty, cut):
            kind(path)
        else:
            path.unlink()
            kind(path)
    found = verify(root)
    assert found.broken or found.problems
    assert bench("verify", "store", cwd=tmp_path, check=1).stderr == ""


def test_a_manifest_that_is_lost_within_a_tick_of_the_clock_is_missed(tmp_path, monkeypatch):
    """The folder of trials has the time of change that it had when nothing was compacted."""
    monkeypatch.setattr(manifest, "_TICK_NS", 10**12)  # however slow this machine is
    store = filled(tmp_path / "store", 2)
    assert load_manifest(store.root) == manifest.EMPTY
    before = (store.root / "trials").stat()
    compact(store)
    manifest_path(store.root).unlink()
    os.utime(store.root / "trials", ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(InputError, match="is missing, and compacted files hold finished trials"):
        load_manifest(store.root)


@pytest.mark.parametrize("kind", [fifo, folder, dangling, loop])
def test_a_manifest_may_be_anything(tmp_path, kind: Callable[[Path], None]):
    filled(tmp_path / "store", 2, compacted=True)
    manifest_path(tmp_path / "store").unlink()
    kind(manifest_path(tmp_path / "store"))
    assert "compacted.json" in bench("verify", "store", cwd=tmp_path, check=1).stdout


@pytest.mark.parametrize("value", VALUES, ids=map(json.dumps, VALUES))
def test_manifests_and_marks_may_hold_any_json(tmp_path, value):
    root = tmp_path / "store"
    store = filled(root, 2)
    trial_id = sorted(store.statuses())[0]
    path = store.path("trials", trial_id)
    row = pq.read_table(path).replace_schema_metadata({b"commit": json.dumps(value).encode()})
    pq.write_table(row, path)
    manifest_path(root).write_text(json.dumps(value))
    seen = bench("verify", "store", cwd=tmp_path, check=1)
    assert path.name in seen.stdout
    manifest_path(root).unlink()
    assert path.name in bench("verify", "store", cwd=tmp_path, check=1).stdout


LABELS = [
    {"trials": ["a"], "written": 1e999},
    {"trials": ["a"], "marks": ["a"]},
    {"trials": ["a"], "written": 1, "marks": {"a": {"sha256": [], "tables": {}}}},
]


@pytest.mark.parametrize("value", [*VALUES, *LABELS], ids=json.dumps)
def test_parts_may_say_anything_of_themselves(tmp_path, value):
    filled(tmp_path, 2, compacted=True)
    path = next((tmp_path / "trials").glob("compacted-*"))
    pq.write_table(pq.read_table(path).replace_schema_metadata({b"part": json.dumps(value).encode()}), path)
    assert any(path.name in line for line in verify(tmp_path).problems)
    manifest_path(tmp_path).unlink()
    verify(tmp_path)
    compaction.repair(Store(tmp_path))
    assert path.exists()


def test_a_merge_copies_no_device(tmp_path):
    store = filled(tmp_path / "store", 2)
    path = next((tmp_path / "store" / "outcomes").glob("*.parquet"))
    path.unlink()
    path.symlink_to("/dev/zero")
    assert merge([store.root], tmp_path / "joined")["added"] == 2
    assert verify(tmp_path / "joined").broken == {path.stem: ["outcomes: 0 readable rows where 200 were committed"]}


@pytest.mark.parametrize("entry", [{"table": "../trials"}, {"file": "../../x.parquet"}, {"file": "t.parquet"},
                                   {"trials": ["../x"]}, {"trials": 3}])  # fmt: skip
def test_a_manifest_names_nothing_outside_its_tables(tmp_path, entry):
    filled(tmp_path, 2, compacted=True)
    content = json.loads(manifest_path(tmp_path).read_text())
    content["parts"][0] |= entry
    manifest_path(tmp_path).write_text(json.dumps(content))
    with pytest.raises(InputError, match="damaged"):
        load_manifest(tmp_path)
