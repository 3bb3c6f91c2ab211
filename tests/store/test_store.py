"""The result store: atomic, readable whatever happens to single files, compacted and merged without a changed row."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import effort
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from harness import files
from harness.errors import InputError
from harness.store import compaction, manifest, parquet
from harness.store.compaction import compact
from harness.store.lock import StoreLock, process_start
from harness.store.merge import merge
from harness.store.store import Store
from harness.store.tables import TABLES
from harness.store.verify import verify
from tests.damage import damage
from tests.waiting import wait_until

ROOT = Path(__file__).resolve().parents[2]
KEYS = ["trial_id", "checkpoint", "attack", "class_index"]


def trial(trial_id: str, status: str = "done", **more: Any) -> dict[str, Any]:
    fields = {"trial_id": trial_id, "training_id": "t" + trial_id, "status": status, "method": "at", "variant": "at"}
    return {**fields, "dataset": "digits", "seed": 0, "eps": 0.1, "spec": {"b": 1, "a": [2]}, "train_s": 1.5, **more}


def rows(correct: int = 5, samples: int = 10) -> dict[str, pd.DataFrame]:
    """Two attacks on two classes of `samples` images; `correct` of class 1 survive fgsm, all else survives."""
    attack, label = np.repeat(["clean", "fgsm"], 2 * samples), np.tile(np.repeat([0, 1], samples), 2)
    robust = np.ones(4 * samples, dtype=bool)
    robust[3 * samples + correct :] = False
    outcomes = pd.DataFrame({"checkpoint": "last", "attack": attack, "label": label, "prediction": 0, "robust": robust})
    outcomes["sample_index"] = np.tile(np.arange(2 * samples), 2)
    counts = outcomes.groupby(["checkpoint", "attack", "label"])["robust"].agg(n="count", correct="sum").reset_index()
    counts = counts.rename(columns={"label": "class_index"})
    counts["accuracy"] = counts["correct"] / counts["n"]
    epochs = pd.DataFrame({"epoch": [0, 1], "loss": [2.0, 1.0], "selection_score": [0.25, np.nan]})
    return {"class_accuracy": counts, "outcomes": outcomes, "epochs": epochs}


def filled(root: Path, count: int = 3) -> Store:
    store = Store(root)
    for index in range(count):
        store.commit(trial(f"t{index}"), rows(index))
    return store


def contents(store: Store, table: str = "class_accuracy") -> pd.DataFrame:
    frame = store.read(table)
    frame = frame.astype({name: str for name in frame if isinstance(frame[name].dtype, pd.CategoricalDtype)})
    return frame.sort_values(frame.columns.tolist(), ignore_index=True)


def temporary_files(root: Path) -> list[Path]:
    return list(root.rglob(".*.tmp"))


class TestCommit:
    def test_rows_come_back_with_the_columns_they_share_with_the_trial(self, tmp_path: Path) -> None:
        store = Store(tmp_path / "new" / "store")
        assert store.commit(trial("a", started=1_700_000_000, attempts=2), rows(7))
        found = store.read("class_accuracy")
        assert list(found.columns) == TABLES["class_accuracy"].names
        assert found["correct"].tolist() == [10, 10, 10, 7]
        assert found["accuracy"].tolist() == [1.0, 1.0, 1.0, 0.7]
        assert found["method"].tolist() == ["at"] * 4
        assert found["eps"].tolist() == [0.1] * 4
        row = store.trials().iloc[0]
        assert (row["spec"], row["started"], row["attempts"]) == (
            '{"a": [2], "b": 1}',
            "2023-11-14T22:13:20+00:00",
            2,
        )
        assert store.has("a")
        assert store.status("b") is None
        assert store.problems == []
        assert temporary_files(tmp_path) == []

    def test_undefined_is_null_on_disk_and_nan_when_read(self, tmp_path: Path) -> None:
        store = filled(tmp_path, 1)
        assert pq.read_table(tmp_path / "epochs" / "t0.parquet")["selection_score"].to_pylist() == [0.25, None]
        assert np.isnan(store.read("epochs")["selection_score"][1])

    def test_failure_never_replaces_done_and_done_replaces_failure_with_all_its_rows(self, tmp_path: Path) -> None:
        store = Store(tmp_path)
        assert store.commit(trial("a", "stopped", error="asha"), {"epochs": rows()["epochs"]})
        assert store.statuses() == {"a": "stopped"}
        only_classes = {"class_accuracy": rows()["class_accuracy"]}
        assert store.commit(trial("a"), only_classes)
        assert store.read("epochs").empty
        assert not store.commit(trial("a", "failed", error="Traceback"), {"epochs": rows()["epochs"]})
        assert store.statuses() == {"a": "done"}
        assert store.read("epochs").empty
        assert len(store.read("class_accuracy")) == 4

    def test_committing_twice_changes_nothing(self, tmp_path: Path) -> None:
        store = filled(tmp_path, 1)
        before = contents(store)
        assert store.commit(trial("t0"), rows(0))
        assert contents(store).equals(before)
        assert verify(store.root).broken == {}

    def test_rows_do_not_count_before_the_mark(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        store = filled(tmp_path, 1)
        write = parquet.pq.write_table

        def die_at_the_mark(table: pa.Table, path: Path, **options: Any) -> None:
            if "trials" in str(path):
                raise OSError(errno.ENOSPC, "No space left on device")
            write(table, path, **options)

        monkeypatch.setattr(parquet.pq, "write_table", die_at_the_mark)
        with pytest.raises(OSError, match="No space left"):
            store.commit(trial("new"), rows())
        assert (tmp_path / "class_accuracy" / "new.parquet").exists()
        assert set(store.read("class_accuracy")["trial_id"]) == {"t0"}
        assert not (tmp_path / "trials" / "new.parquet").exists()
        assert temporary_files(tmp_path) == []
        assert store.problems == []

    @pytest.mark.parametrize(
        ("bad", "tables", "words"),
        [
            ({"trial_id": "../x"}, {}, "not a trial id"),
            ({"status": "running"}, {}, "status"),
            ({"colour": "red"}, {}, "colour"),
            ({}, {"classes": pd.DataFrame({"a": [1]})}, "classes"),
            ({}, {"epochs": pd.DataFrame({"los": [1.0]})}, "los"),
            ({}, {"epochs": pd.DataFrame({"epoch": [1.5]})}, "epoch"),
            ({}, {"epochs": pd.DataFrame({"trial_id": ["b"], "epoch": [1]})}, "another trial"),
        ],
    )
    def test_wrong_rows_are_refused_before_anything_is_written(
        self, tmp_path: Path, bad: dict[str, Any], tables: dict[str, pd.DataFrame], words: str
    ) -> None:
        with pytest.raises(ValueError, match=words):
            Store(tmp_path).commit({**trial("a"), **bad}, tables)
        assert list(tmp_path.rglob("*.parquet")) == []

    def test_two_processes_committing_one_trial_leave_one(self, tmp_path: Path) -> None:
        def commit() -> None:
            for _ in range(10):
                Store(tmp_path).commit(trial("a"), rows())
                Store(tmp_path).commit(trial("a", "failed"), {})

        threads = [threading.Thread(target=commit) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        store = Store(tmp_path)
        assert store.statuses() == {"a": "done"}
        assert verify(store.root).broken == {}
        assert len(store.read("class_accuracy")) == 4
        assert temporary_files(tmp_path) == []

    def test_attempts_survive_and_can_be_reset(self, tmp_path: Path) -> None:
        assert Store(tmp_path).attempts("a") == 0
        assert [Store(tmp_path).record_attempt("a") for _ in range(3)] == [1, 2, 3]
        assert Store(tmp_path).attempts("a") == 3
        Store(tmp_path).reset_attempts("a")
        assert Store(tmp_path).attempts("a") == 0


class TestBadFiles:
    def test_a_colon_in_a_relative_path_makes_no_address(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        filled(Path("host:port"), 2)
        assert compact(Store("host:port")) == 2
        assert len(Store("host:port").trials()) == 2
        assert len(Store("host:port").read("epochs", ["t0"])) > 0
        assert verify(Path("host:port")).broken == {}

    def test_results_under_a_file_are_refused_in_one_line(self, tmp_path: Path) -> None:
        (tmp_path / "taken").write_text("")
        with pytest.raises(InputError, match="cannot write to"):
            Store(tmp_path / "taken" / "store").prepare()
        with pytest.raises(InputError, match="cannot write to"):
            Store(tmp_path / "taken" / "store").commit(trial("a"), {})

    def test_folders_of_other_things_take_no_results(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HOME", str(tmp_path / "home"))
        (tmp_path / "home").mkdir()
        (tmp_path / "thesis").mkdir()
        (tmp_path / "thesis" / "chapter.tex").write_text("")
        for root, words in (("/", "right into /"), (tmp_path / "home", "right into"), (ROOT, "right into"),
                            (tmp_path / "thesis", "holds other files .chapter.tex.")):  # fmt: skip
            with pytest.raises(InputError, match=words):
                Store(root).prepare()
        assert [path.name for path in (tmp_path / "thesis").iterdir()] == ["chapter.tex"]
        (tmp_path / "planned").mkdir()
        (tmp_path / "planned" / "plan.md").write_text("")
        Store(tmp_path / "planned").prepare()
        filled(tmp_path / "thesis", 1)
        Store(tmp_path / "thesis").prepare()  # a store already

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
    def test_read_only_folder_is_refused(self, tmp_path: Path) -> None:
        tmp_path.chmod(0o500)
        with pytest.raises(InputError, match="cannot write to"):
            Store(tmp_path).prepare()

    def test_truncated_and_foreign_files_are_named_and_the_others_read(self, tmp_path: Path) -> None:
        filled(tmp_path)
        broken = tmp_path / "class_accuracy" / "t1.parquet"
        broken.write_bytes(broken.read_bytes()[:200])
        pd.DataFrame({"x": [1]}).to_parquet(tmp_path / "trials" / "foreign.parquet")
        pd.DataFrame({"x": [1]}).to_parquet(tmp_path / "epochs" / "other.parquet")
        (tmp_path / "trials" / "empty.parquet").write_bytes(b"")
        store = Store(tmp_path)
        assert set(store.read("class_accuracy")["trial_id"]) == {"t0", "t2"}
        assert set(store.statuses()) == {"t0", "t1", "t2"}
        assert len(store.read("epochs")) == 6
        named = "\n".join(store.problems)
        for name in ("t1.parquet", "foreign.parquet", "other.parquet", "empty.parquet"):
            assert name in named
        assert len(store.problems) == 4
        assert verify(store.root).broken == {"t1": ["class_accuracy: 0 readable rows where 4 were committed"]}

    def test_file_of_another_trial_is_not_counted_twice(self, tmp_path: Path) -> None:
        store = filled(tmp_path)
        (tmp_path / "class_accuracy" / "t1.parquet").write_bytes((tmp_path / "class_accuracy/t2.parquet").read_bytes())
        assert set(store.read("class_accuracy")["trial_id"]) == {"t0", "t2"}
        assert "another trial" in store.problems[0]

    def test_truncated_mark_makes_the_trial_uncommitted(self, tmp_path: Path) -> None:
        store = filled(tmp_path)
        path = tmp_path / "trials" / "t1.parquet"
        path.write_bytes(path.read_bytes()[:-20])
        assert not store.has("t1")
        assert set(store.statuses()) == {"t0", "t2"} == set(store.read("class_accuracy")["trial_id"])

    def test_class_rows_that_contradict_outcomes_are_reported(self, tmp_path: Path) -> None:
        tables = rows(5)
        tables["class_accuracy"].loc[3, "correct"] = 6
        store = Store(tmp_path)
        store.commit(trial("a"), tables)
        faults = ["accuracy under fgsm is not correct / n", "fgsm is not what the outcomes say"]
        assert verify(store.root).broken == {"a": [f"class_accuracy: {fault}" for fault in faults]}

    def test_store_without_outcomes_is_whole_one_with_some_is_not(self, tmp_path: Path) -> None:
        store = filled(tmp_path)
        (tmp_path / "outcomes" / "t1.parquet").unlink()
        assert list(verify(store.root).broken) == ["t1"]
        for path in (tmp_path / "outcomes").iterdir():
            path.unlink()
        (tmp_path / "outcomes").rmdir()
        assert verify(store.root).broken == {}

    @pytest.mark.slow
    def test_full_disk_leaves_nothing_under_a_final_name(self, tmp_path: Path) -> None:
        mount = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=256k", "none", str(tmp_path)], capture_output=True, check=False
        )
        if mount.returncode:
            pytest.skip("needs the right to mount a small file system")
        try:
            store = filled(tmp_path, 1)
            big = pd.DataFrame({"source": "x", "text": [os.urandom(300_000).hex()]})
            with pytest.raises(OSError, match="space") as caught:
                store.commit(trial("big"), {"notes": big})
            assert caught.value.errno == errno.ENOSPC
            assert not (tmp_path / "notes" / "big.parquet").exists()
            assert temporary_files(tmp_path) == []
            assert Store(tmp_path).statuses() == {"t0": "done"}
            assert store.commit(trial("small"), rows())
            assert files.free_bytes(tmp_path / "not" / "there") < 256_000
        finally:
            subprocess.run(["umount", str(tmp_path)], check=True)

    def test_leftovers_of_dead_writers_go_and_those_of_living_ones_stay(self, tmp_path: Path) -> None:
        store = filled(tmp_path, 1)
        gone = subprocess.Popen([sys.executable, "-c", ""])
        gone.wait()
        host = os.uname().nodename
        for pid in (gone.pid, os.getpid()):
            (tmp_path / "trials" / f".a.parquet.{host}.{pid}.0.0123abcd.tmp").write_text("")
        (tmp_path / "trials" / ".a.parquet.elsewhere.1.0.0123abcd.tmp").write_text("")
        assert store.remove_leftovers() == 1
        assert len(temporary_files(tmp_path)) == 2

    @pytest.mark.parametrize("name", ["trials/.mine.tmp", "mine/.a.parquet.elsewhere.1.0.0123abcd.tmp", ".Trash.tmp"])
    def test_what_is_not_ours_is_never_cleaned_up(self, tmp_path: Path, name: str) -> None:
        store = filled(tmp_path, 1)
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("")
        os.utime(path, (0, 0))
        assert store.remove_leftovers() == 0
        assert path.exists()


class TestCompaction:
    def test_rows_are_the_same_and_ids_addressable(self, tmp_path: Path) -> None:
        store = filled(tmp_path, 5)
        store.commit(trial("bad", "failed", error="boom"), {"epochs": rows()["epochs"]})
        before = {table: contents(store, table) for table in TABLES}
        assert compact(store) == 5
        for table in TABLES:
            pd.testing.assert_frame_equal(contents(Store(tmp_path), table), before[table])
        assert sorted(path.name for path in (tmp_path / "trials").iterdir())[0] == "bad.parquet"
        assert len(list((tmp_path / "class_accuracy").iterdir())) == 1
        assert store.read("class_accuracy", ["t3"], ["correct"])["correct"].tolist() == [10, 10, 10, 3]
        assert store.statuses()["bad"] == "failed"
        assert store.has("t3")
        assert verify(store.root).broken == {}
        assert compact(store) == 0

    def test_later_trials_join_and_a_late_writer_doubles_nothing(self, tmp_path: Path) -> None:
        store = filled(tmp_path, 3)
        compact(store)
        store.commit(trial("t9"), rows(9))
        store.commit(trial("t1"), rows(1))  # a worker of a killed run that lived on
        assert not store.commit(trial("t1", "failed"), {})
        assert len(contents(store)) == 16
        assert compact(store) == 1
        assert len(list((tmp_path / "class_accuracy").iterdir())) == 1
        assert contents(store)["correct"].sum() == 4 * 30 + 0 + 1 + 2 + 9
        assert sorted(store.statuses()) == ["t0", "t1", "t2", "t9"]

    def test_parts_have_a_size_limit(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(compaction, "PART_ROWS", 10)
        store = filled(tmp_path, 5)
        before = contents(store)
        compact(store)
        assert len(list((tmp_path / "class_accuracy").iterdir())) == 3
        assert contents(store).equals(before)
        assert store.read("class_accuracy", ["t4"])["correct"].tolist() == [10, 10, 10, 4]

    @pytest.mark.parametrize("step", range(30))
    def test_crash_at_any_step_costs_no_row(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int) -> None:
        """The process dies at its `step`-th change of the file system; then readers, and then another compaction."""
        monkeypatch.setattr(files.os, "fsync", lambda descriptor: None)
        store = filled(tmp_path, 2)
        compact(store)
        store.commit(trial("t7"), rows(7))
        before, steps = contents(store), iter(range(100))

        class Killed(BaseException):
            pass

        def dying(function: Any) -> Any:
            def change(*values: Any, **options: Any) -> Any:
                if next(steps) == step:
                    raise Killed
                return function(*values, **options)

            return change

        with monkeypatch.context() as patch:
            patch.setattr(files.os, "replace", dying(os.replace))
            patch.setattr(parquet.pq, "write_table", dying(pq.write_table))
            patch.setattr(Path, "unlink", dying(Path.unlink))
            try:
                compact(Store(tmp_path))
            except Killed:
                pass
            else:
                assert step > 10
        for _ in range(2):
            assert contents(Store(tmp_path)).equals(before)
            assert verify(tmp_path).broken == {}
            compact(Store(tmp_path))
        assert len(list((tmp_path / "class_accuracy").glob("*.parquet"))) == 1

    def test_readers_see_every_row_while_trials_are_compacted(self, tmp_path: Path) -> None:
        store = filled(tmp_path, 3)
        finished, wrong = threading.Event(), []

        def watch() -> None:
            while not finished.is_set():
                held = set(store.statuses())
                found = Store(tmp_path).read("class_accuracy")
                if not held <= set(found["trial_id"]) or found.duplicated(KEYS).any():
                    wrong.append(found)

        reader = threading.Thread(target=watch)
        reader.start()
        for index in range(10, 25):
            store.commit(trial(f"t{index}"), rows(index % 10))
            compact(Store(tmp_path))
        finished.set()
        reader.join()
        assert wrong == []

    def test_damaged_part_is_named_kept_and_its_trials_can_run_again(self, tmp_path: Path) -> None:
        store = filled(tmp_path, 2)
        compact(store)
        part = next((tmp_path / "trials").glob("compacted-*"))
        part.write_bytes(part.read_bytes()[:-10])
        assert Store(tmp_path).statuses() == {}
        store = Store(tmp_path)
        store.commit(trial("t0"), rows(0))
        assert store.statuses() == {"t0": "done"}
        assert len(store.read("class_accuracy")) == 4
        assert part.name in store.problems[0]
        assert compact(store) == 1
        assert part.exists()
        assert store.statuses() == {"t0": "done"}

    def test_damaged_trial_stays_out_of_the_parts(self, tmp_path: Path) -> None:
        store = filled(tmp_path, 3)
        broken = tmp_path / "epochs" / "t1.parquet"
        broken.write_bytes(broken.read_bytes()[:-10])
        assert compact(store) == 2
        assert broken.exists()
        assert (tmp_path / "class_accuracy" / "t1.parquet").exists()
        assert len(store.read("class_accuracy")) == 12

    def test_damaged_manifest_stops_rather_than_forgets(self, tmp_path: Path) -> None:
        store = filled(tmp_path, 1)
        compact(store)
        manifest.manifest_path(tmp_path).write_text("{")
        with pytest.raises(InputError, match="damaged"):
            store.statuses()


def test_a_store_is_looked_at_while_trials_are_committed(tmp_path: Path) -> None:
    """What came after the look began is not part of it, and no fault."""
    store = filled(tmp_path, 2)
    stop = threading.Event()

    def commit() -> None:
        for number in range(10, 200):
            if stop.is_set():
                return
            store.commit(trial(f"t{number}"), rows(2))

    writer = threading.Thread(target=commit)
    writer.start()
    try:
        verdicts = [verify(tmp_path) for _ in range(5)]
    finally:
        stop.set()
        writer.join()
    assert [verdict.trials for verdict in verdicts] == sorted({verdict.trials for verdict in verdicts})
    faults = {fault for verdict in verdicts for found in verdict.broken.values() for fault in found}
    assert all(fault.endswith("rows without a row in `trials`") for fault in faults), "one was under way"


class TestMerge:
    def test_whole_stores_join_with_weights_and_outcomes(self, tmp_path: Path) -> None:
        first, second = filled(tmp_path / "a", 2), Store(tmp_path / "b")
        second.commit(trial("t1", train_s=99.0, device="other"), rows(1))
        second.commit(trial("t5"), rows(5))
        second.commit(trial("t6", "failed", error="boom"), {"epochs": rows()["epochs"]})
        compact(first)
        work = tmp_path / "b" / "work" / "tt5"
        work.mkdir(parents=True)
        (work / "best_validation.pt").write_bytes(b"weights")
        (work / "state.pt").write_bytes(b"state")
        done = merge([tmp_path / "a", tmp_path / "b"], tmp_path / "all")
        assert done == {"added": 4, "replaced": 0, "same": 0, "differing": 0}
        joined = Store(tmp_path / "all")
        assert joined.statuses() == {"t0": "done", "t1": "done", "t5": "done", "t6": "failed"}
        assert verify(joined.root).broken == {}
        assert joined.trials().set_index("trial_id")["train_s"]["t1"] == 1.5
        assert joined.trials().set_index("trial_id")["error"]["t6"] == "boom"
        assert len(joined.read("outcomes")) == 3 * 40
        assert (joined.root / "work" / "tt5" / "best_validation.pt").read_bytes() == b"weights"
        assert not (joined.root / "work" / "tt5" / "state.pt").exists()
        assert merge([tmp_path / "a"], tmp_path / "all") == {"added": 0, "replaced": 0, "same": 4, "differing": 0}

    @pytest.mark.parametrize("lacking", [False, True])
    @pytest.mark.parametrize("order", [("a", "b"), ("b", "a")])
    def test_outcomes_are_those_of_the_rows_that_are_taken(
        self, tmp_path: Path, order: tuple[str, str], lacking: bool
    ) -> None:
        """Other images with the same counts are another result, whichever store stands first, with outcomes or not."""
        filled(tmp_path / "a", 2)
        for index in range(2):
            other = rows(index)
            other["outcomes"]["prediction"] = 1
            Store(tmp_path / "b").commit(trial(f"t{index}"), other)
        if lacking:
            shutil.rmtree(tmp_path / order[0] / "outcomes")
        stores = [tmp_path / name for name in order]
        assert merge(stores, tmp_path / "all")["added"] == 2
        assert verify(tmp_path / "all").broken == {}
        kept = Store(tmp_path / "all").read("outcomes")["prediction"]
        assert set(kept) == (set() if lacking else {0 if order[0] == "a" else 1})

    def test_outcomes_that_a_store_left_out_come_from_one_with_the_same(self, tmp_path: Path) -> None:
        for name in ("a", "b"):
            filled(tmp_path / name, 2)
        shutil.rmtree(tmp_path / "a" / "outcomes")
        merge([tmp_path / "a", tmp_path / "b"], tmp_path / "all")
        assert len(Store(tmp_path / "all").read("outcomes")) == 2 * 40
        assert verify(tmp_path / "all").broken == {}

    def test_a_damaged_row_is_told_with_its_store_and_nothing_is_written(self, tmp_path: Path) -> None:
        for status in ("done", "failed"):
            root = tmp_path / status
            filled(root, 2)
            Store(root).commit(trial("t9", status), rows(5))
            damage(root / "trials" / "t9.parquet")
            with pytest.raises(InputError, match=f"^{root}: the row of trial t9 is damaged; see `run-bench verify"):
                merge([root], tmp_path / "all")
            assert not (tmp_path / "all").exists()

    @pytest.mark.parametrize("compacted", [False, True])
    def test_other_numbers_are_refused_with_both_origins(self, tmp_path: Path, compacted: bool) -> None:
        first, second = filled(tmp_path / "a", 2), Store(tmp_path / "b")
        second.commit(trial("t1"), rows(8))
        second.commit(trial("t5"), rows(5))
        if compacted:
            compact(first)
        with pytest.raises(InputError, match=r"t1 .*/a .*/b"):
            merge([tmp_path / "b"], tmp_path / "a")
        assert sorted(first.statuses()) == ["t0", "t1"]
        assert not (tmp_path / "a" / "outcomes" / "t5.parquet").exists()

    @pytest.mark.parametrize(
        ("first", "second", "told"),
        [
            ({"device": "A"}, {"device": "B"}, "same specification and code, other processor (A, B)"),
            (
                {"device": "A", "train_device": "B", "code_fingerprint": "c"},
                {"device": "A", "train_device": "C", "code_fingerprint": "c"},
                "same specification and code, other processor (B, C)",
            ),
            ({"code_fingerprint": "c", "device": "A"}, {"code_fingerprint": "d", "device": "B"}, "other code (c, d)"),
            (
                {"versions": {"torch": "2.1", "numpy": "2"}, "device": "A"},
                {"versions": {"torch": "2.2", "numpy": "2"}, "device": "B"},
                "same specification and code, other libraries (torch 2.1 and 2.2)",
            ),
            (
                {"teacher_sha256": "a1", "device": "A"},
                {"teacher_sha256": "b2", "device": "B"},
                "same specification, students of other teachers (a1, b2)",
            ),
            (
                {"init_sha256": "a1", "device": "A"},
                {"init_sha256": "b2", "device": "B"},
                "same specification, started from other networks (a1, b2)",
            ),
            (
                {"device": "A"},
                {"device": "A"},
                "same specification, code, libraries and processor: one of them is damaged",
            ),
            ({}, {"device": "A"}, "one of them is damaged"),
        ],
    )
    def test_the_refusal_says_what_differs(
        self, tmp_path: Path, first: dict[str, Any], second: dict[str, Any], told: str
    ) -> None:
        Store(tmp_path / "a").commit(trial("t", **first), rows(5))
        Store(tmp_path / "b").commit(trial("t", **second), rows(8))
        with pytest.raises(InputError) as excinfo:
            merge([tmp_path / "b"], tmp_path / "a")
        assert told in str(excinfo.value)
        assert "--keep first" in str(excinfo.value)
        assert "\n" not in str(excinfo.value)

    @pytest.mark.parametrize("into", ["a", "new"])
    def test_the_first_store_s_rows_can_be_kept_and_stay_whole(self, tmp_path: Path, into: str) -> None:
        """Neither outcomes nor weights of the other training come along with them."""
        first, second = Store(tmp_path / "a"), Store(tmp_path / "b")
        first.commit(trial("t", device="A"), {name: rows(5)[name] for name in ("class_accuracy", "epochs")})
        second.commit(trial("t", device="B"), rows(8))
        second.commit(trial("u"), rows(1))
        for name in ("tt", "tu"):
            work = tmp_path / "b" / "work" / name
            work.mkdir(parents=True)
            (work / "best_validation.pt").write_bytes(b"of b")
        done = merge([first.root, second.root], tmp_path / into, keep="first")
        assert done == {
            "added": 1 if into == "a" else 2,
            "replaced": 0,
            "same": 0,
            "differing": 1,
        }
        joined = Store(tmp_path / into)
        assert joined.trials().set_index("trial_id")["device"]["t"] == "A"
        assert joined.read("class_accuracy", ["t"])["correct"].sum() == 35
        assert joined.read("outcomes", ["t"]).empty
        assert len(joined.read("outcomes", ["u"])) == 40
        assert not (joined.root / "work" / "tt").exists()
        assert (joined.root / "work" / "tu" / "best_validation.pt").exists()
        assert verify(joined.root).broken == {}
        with pytest.raises(InputError, match="value of --keep"):
            merge([second.root], joined.root, keep="last")

    def test_other_validation_scores_are_refused_where_there_are_no_class_rows(self, tmp_path: Path) -> None:
        for name, score in (("a", 0.5), ("b", 0.6)):
            epochs = pd.DataFrame({"epoch": [0], "selection_score": [score]})
            Store(tmp_path / name).commit(trial("t"), {"epochs": epochs})
        with pytest.raises(InputError, match="other numbers"):
            merge([tmp_path / "b"], tmp_path / "a")

    def test_failed_never_replaces_done_in_either_direction(self, tmp_path: Path) -> None:
        good, bad = filled(tmp_path / "good", 1), Store(tmp_path / "bad")
        bad.commit(trial("t0", "failed", error="boom"), {"notes": pd.DataFrame({"source": ["x"], "text": ["y"]})})
        assert merge([bad.root], good.root) == {"added": 0, "replaced": 0, "same": 1, "differing": 0}
        assert good.statuses() == {"t0": "done"}
        assert merge([good.root], bad.root) == {"added": 0, "replaced": 1, "same": 0, "differing": 0}
        assert bad.statuses() == {"t0": "done"}
        assert bad.read("notes").empty
        assert verify(bad.root).broken == {}

    def test_outcomes_left_out_of_one_store_are_added(self, tmp_path: Path) -> None:
        slim, full = filled(tmp_path / "slim", 1), filled(tmp_path / "full", 1)
        for path in (slim.root / "outcomes").iterdir():
            path.unlink()
        (slim.root / "outcomes").rmdir()
        merge([full.root], slim.root)
        assert len(slim.read("outcomes")) == 40

    def test_damaged_source_is_refused(self, tmp_path: Path) -> None:
        source = filled(tmp_path / "a", 1)
        path = tmp_path / "a" / "epochs" / "t0.parquet"
        path.write_bytes(path.read_bytes()[:-9])
        with pytest.raises(InputError, match="damaged or missing"):
            merge([source.root], tmp_path / "b")
        assert Store(tmp_path / "b").statuses() == {}
        with pytest.raises(InputError, match="not a result store"):
            merge([tmp_path / "nowhere"], tmp_path / "b")


HOLD = """
import sys, time
from harness.store.lock import StoreLock
with StoreLock(sys.argv[1]):
    print("held", flush=True)
    time.sleep(600)
"""


class TestLock:
    def hold(self, root: Path) -> subprocess.Popen[str]:
        here = Path(__file__).parents[2]
        child = subprocess.Popen([sys.executable, "-c", HOLD, str(root)], stdout=subprocess.PIPE, text=True, cwd=here)
        assert child.stdout is not None
        assert child.stdout.readline() == "held\n"
        return child

    def test_second_driver_is_refused_and_a_killed_one_taken_over_at_once(self, tmp_path: Path) -> None:
        child = self.hold(tmp_path)
        try:
            with pytest.raises(InputError, match=f"process {child.pid} on {os.uname().nodename}"), StoreLock(tmp_path):
                pass
        finally:
            child.kill()
        wait_until(lambda: process_start(child.pid) is None)  # not yet waited for: a zombie does not hold the lock
        with StoreLock(tmp_path) as lock:
            assert not lock.lost
            with pytest.raises(InputError, match=str(os.getpid())):
                StoreLock(tmp_path).acquire()
        child.wait()
        with StoreLock(tmp_path):
            pass

    def held_by(self, root: Path, **change: Any) -> Path:
        """The file of a lock that this process held, changed, as if it had died."""
        with StoreLock(root) as lock:
            path = lock._path
            assert path is not None
            content = json.loads(path.read_text())
        path.write_text(json.dumps({**content, **change}))
        return path

    def test_process_number_used_again_does_not_hold_the_lock(self, tmp_path: Path) -> None:
        self.held_by(tmp_path, process_start="1")
        with StoreLock(tmp_path):
            pass

    def test_other_host_holds_until_its_heartbeat_is_stale(self, tmp_path: Path) -> None:
        path = self.held_by(tmp_path, machine="far away", host="far")
        with pytest.raises(InputError, match="on far"):
            StoreLock(tmp_path).acquire()
        os.utime(path, (time.time() - 50, time.time() - 50))  # a busy machine may need some of the ten seconds left
        with pytest.raises(InputError, match="on far"):
            StoreLock(tmp_path).acquire()
        os.utime(path, (time.time() - 62, time.time() - 62))
        with StoreLock(tmp_path):
            pass

    def test_holder_that_lost_the_lock_knows_and_its_release_harms_nobody(self, tmp_path: Path) -> None:
        slow = StoreLock(tmp_path, heartbeat=0.05)
        slow.acquire()
        assert slow._path is not None
        next_one = tmp_path / "driver" / "00000002.json"
        next_one.write_text(slow._path.read_text())
        wait_until(lambda: slow.lost)
        slow.release()
        with pytest.raises(InputError, match="in use"):
            StoreLock(tmp_path).acquire()

    def test_heartbeat_keeps_the_file_young(self, tmp_path: Path) -> None:
        with StoreLock(tmp_path, heartbeat=0.05) as lock:
            assert lock._path is not None
            path = lock._path
            for _ in range(3):
                os.utime(path, (0, 0))
                wait_until(lambda: path.stat().st_mtime > 0)

    def test_of_many_that_start_at_once_exactly_one_drives(self, tmp_path: Path) -> None:
        self.held_by(tmp_path, process_start="1")  # all of them find a dead holder
        for _ in range(20):
            start, over = threading.Barrier(8), threading.Barrier(8)
            held: list[int] = []

            def drive(start: threading.Barrier = start, held: list[int] = held, over: threading.Barrier = over) -> None:
                lock = StoreLock(tmp_path)
                start.wait()
                try:
                    lock.acquire()
                    held.append(1)
                except InputError:
                    pass
                over.wait()
                lock.release()

            threads = [threading.Thread(target=drive) for _ in range(8)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert held == [1]


def synthetic(root: Path, trials: int, classes: int = 10) -> Store:
    """A store of `trials` done trials x 2 checkpoints x 6 attacks x `classes`."""
    generator = np.random.default_rng(0)
    checkpoint, attack = np.repeat(["best_validation", "last"], 6), np.tile(["clean", "fgsm", "a", "b", "c", "d"], 2)
    frame = pd.DataFrame({"checkpoint": np.repeat(checkpoint, classes), "attack": np.repeat(attack, classes)})
    frame["class_index"] = np.tile(np.arange(classes), 12)
    frame["class_name"] = [f"class {index}" for index in frame["class_index"]]
    frame["n"] = 100
    store = Store(root)
    for index in range(trials):
        frame["correct"] = generator.integers(0, 100, len(frame))
        frame["accuracy"] = frame["correct"] / 100
        name = f"method{index % 20}"
        row = trial(f"{index:016x}", method=name, variant=name, seed=index // 20, spec={"text": "x" * 1500})
        store.commit({**row, "role": "student", "student": "cnn", "teacher": "wide"}, {"class_accuracy": frame})
    return store


@pytest.mark.slow
def test_four_times_the_trials_take_no_more_than_twice_four_times_as_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files.os, "fsync", lambda descriptor: None)  # durability is not what is timed here
    for name, trials in (("few", 250), ("many", 1000)):
        synthetic(tmp_path / name, trials)

    def read(name: str) -> tuple[int, int]:
        store = Store(tmp_path / name)
        assert set(store.statuses().values()) == {"done"}
        return len(store.trials()), len(store.read("class_accuracy"))

    assert effort.growth(lambda: Store(tmp_path / "few").statuses(), lambda: Store(tmp_path / "many").statuses()) < 8
    for name in ("few", "many"):
        compact(Store(tmp_path / name))
    assert effort.growth(lambda: read("few"), lambda: read("many")) < 8
    assert read("many") == (1000, 120_000)
    assert Store(tmp_path / "many").read("class_accuracy").memory_usage(deep=True).sum() < 250 * 120_000
