"""A store is compacted at the end of a run once many trials are finished, and nobody can tell the difference."""

from __future__ import annotations

import errno
import signal
from pathlib import Path

import fake_trials as fake
import pandas as pd
import pytest

from harness.report.results import read_results
from harness.report.write import Form, write_report
from harness.running.run import COMPACT_FROM, run
from harness.store import compaction
from harness.store.compaction import compact
from harness.store.store import Store
from harness.store.tables import TABLES
from tests.command import bench
from tests.report.test_page import embedded, row_of
from tests.running.test_scheduler import SERIAL, ids
from tests.small import small_specs, suite_file
from tests.synthetic_store import fill_store, trial_spec


def names(root: Path) -> list[str]:
    return sorted(path.stem.split("-")[0] for path in (root / "trials").iterdir())


@pytest.fixture
def from_three(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.running.run.COMPACT_FROM", 3)


def test_small_stores_keep_a_file_per_trial(tmp_path: Path) -> None:
    specs = [fake.make(seed, steps=1, step_s=0.0) for seed in range(3)]
    assert len(specs) < COMPACT_FROM
    run(specs, Store(tmp_path), options=SERIAL)
    assert names(tmp_path) == sorted(ids(specs))


def test_many_finished_trials_are_compacted_and_not_run_again(tmp_path: Path, from_three: None) -> None:
    specs = [fake.make(seed, steps=1, step_s=0.0) for seed in range(4)]
    failing = fake.make(9, "raise", steps=1)
    outcome = run([*specs, failing], Store(tmp_path), options=SERIAL)
    assert len(outcome.done) == 4
    assert names(tmp_path) == sorted(["compacted", failing.trial_id])  # a failure may still be tried again
    again = run([*specs, failing], Store(tmp_path), options=SERIAL)
    assert (sorted(again.skipped), again.done) == (sorted(ids(specs)), [])
    assert all(fake.start_steps(tmp_path, spec) == [0] for spec in specs)
    more = [fake.make(seed, steps=1, step_s=0.0) for seed in range(6)]
    assert len(run(more, Store(tmp_path), options=SERIAL).done) == 2
    assert names(tmp_path).count("compacted") == 1  # two new ones are too few
    assert Store(tmp_path).statuses() == dict.fromkeys(ids(more), "done") | {failing.trial_id: "failed"}


def test_a_run_that_was_stopped_is_not_compacted(tmp_path: Path, from_three: None) -> None:
    specs = [fake.make(seed, steps=1, step_s=0.0) for seed in range(6)]
    done: list[str] = []

    def on_event(event: dict) -> None:
        if event["event"] == "done":
            done.append(event["trial_id"])
            if len(done) == 4:
                signal.raise_signal(signal.SIGTERM)

    assert run(specs, Store(tmp_path), options=SERIAL, on_event=on_event).exit_code == 130
    assert "compacted" not in names(tmp_path)


def test_a_disk_without_room_for_it_leaves_the_files_as_they_are(
    tmp_path: Path, from_three: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object, **options: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(compaction, "publish", full)
    specs = [fake.make(seed, steps=1, step_s=0.0) for seed in range(4)]
    outcome = run(specs, Store(tmp_path), options=SERIAL)
    assert outcome.exit_code == 0
    assert names(tmp_path) == sorted(ids(specs))


@pytest.mark.slow
def test_commands_and_notebooks_see_no_difference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    suite, root = suite_file(tmp_path), tmp_path / "store"
    trial = small_specs(tmp_path)["rslad"].trial_id
    run_again = ("run", suite, "--serial", "--results", "store")
    commands = [("report", "store"), ("status", suite, "--results", "store"), ("verify", "store")]
    commands += [("show", trial[:8], "--results", "store")]
    bench(*run_again, cwd=tmp_path)

    def seen() -> tuple[list[str], dict[str, bytes], dict[str, pd.DataFrame]]:
        printed = [bench(*words, cwd=tmp_path).stdout for words in commands]
        written = {path.name: path.read_bytes() for path in (root / "report").rglob("*.csv")}
        return printed, written, {table: ordered(Store(root).read(table)) for table in TABLES}

    before = seen()
    assert names(root) == sorted(spec.trial_id for spec in small_specs(tmp_path).values())
    monkeypatch.setattr("harness.running.run.COMPACT_FROM", 4)
    bench(*run_again, cwd=tmp_path)
    assert names(root) == ["compacted"]
    after = seen()
    assert (after[0], after[1]) == (before[0], before[1])
    assert before[1]
    for table, frame in before[2].items():
        pd.testing.assert_frame_equal(after[2][table], frame)
    assert "4 added" in bench("merge", "store", "--into", "all", cwd=tmp_path).stdout
    assert "4 same" in bench("merge", "store", "--into", "all", cwd=tmp_path).stdout
    assert "4 trials, 0 broken" in bench("verify", "all", cwd=tmp_path).stdout


def ordered(frame: pd.DataFrame) -> pd.DataFrame:
    known = ("trial_id", "checkpoint", "attack", "epoch", "class_index", "sample_index", "quantity")
    keys = [name for name in known if name in frame]
    text = {name: str for name in frame if frame[name].dtype == "category"}
    return frame.astype(text).sort_values(keys, ignore_index=True)


def test_a_page_of_some_of_a_compacted_stores_trials(tmp_path: Path) -> None:
    """A part names all its trials, also those that were not asked for."""
    specs = [trial_spec("rslad", seed, epochs=4) for seed in range(3)]
    fill_store(tmp_path, specs, per_class=20)
    store = Store(tmp_path)
    assert compact(store) == 3
    write_report(read_results(store, trial_ids=[specs[1].trial_id]), tmp_path / "report", Form(html=True))
    shown = row_of(embedded((tmp_path / "report" / "index.html").read_text()), "rslad")
    accuracy = store.read("class_accuracy", [specs[1].trial_id])
    rows = accuracy[(accuracy.attack == "pgd20") & (accuracy.checkpoint == "last")].sort_values("class_index")
    assert [trial["seed"] for trial in shown["trials"]] == [1]
    assert [triple[0] for triple in shown["classes"]["last"]["pgd20"]] == [round(v * 10_000) for v in rows.accuracy]
