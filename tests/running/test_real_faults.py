"""Real trials that lose their worker, their driver or their disk space: what they leave is what undisturbed ones do."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fake_driver
import pytest
import torch

from harness.errors import InputError
from harness.running.run import Options, run
from harness.spec import CHECKPOINTS, TrialSpec
from harness.store.compaction import compact, repair
from harness.store.manifest import manifest_path
from harness.store.store import Store
from harness.store.verify import verify
from tests.real_trials import assert_same_numbers
from tests.running.test_ray_faults import outcome_of, start_driver
from tests.running.test_scheduler import ids
from tests.small import assert_same_weights, run_to_end, small_specs, spoil, weights
from tests.waiting import processes_of, wait_until

pytestmark = pytest.mark.slow


def assert_same(specs: list[TrialSpec], one: Path, other: Path) -> None:
    """The same rows and the same weights."""
    assert_same_numbers(one, other)
    for spec in specs:
        for checkpoint in CHECKPOINTS:
            assert_same_weights(weights(one, spec, checkpoint), weights(other, spec, checkpoint))
    assert not list(other.rglob("*.tmp"))
    assert not list(other.rglob("evaluations"))
    assert not list(other.rglob("state.pt"))


def test_a_worker_killed_in_mid_epoch_changes_nothing(ray_session: None, tmp_path: Path) -> None:
    specs = [spec for name, spec in small_specs(tmp_path).items() if name in ("teacher", "absld_reweight")]
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    for spec in specs:
        run_to_end(spec, straight)
    options = Options(run_trial="real_trials:killed_in_mid_epoch", minimum_free_bytes=0)
    events: list[dict[str, Any]] = []
    outcome = run(specs, Store(killed), options=options, on_event=events.append)
    assert sorted(outcome.done) == sorted(ids(specs)), outcome
    student = specs[1].trial_id
    told = [event["event"] for event in events if event.get("trial_id") == student]
    assert told[: told.index("evaluation")] == ["launch", "start", "epoch", "retry", "launch", "start", "epoch"]
    assert [event["epoch"] for event in events if event["event"] == "epoch" and event["trial_id"] == student] == [1, 2]
    assert_same(specs, straight, killed)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The trials of the scenario `real`, one after the other in this process."""
    root = tmp_path_factory.mktemp("undisturbed")
    for spec in fake_driver.real_trials():
        run_to_end(spec, root)
    return root


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_driver_of_real_trials_is_simply_started_again(
    number: signal.Signals, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUN_MARK", str(tmp_path))
    specs = fake_driver.real_trials()
    (tmp_path / ".hold").touch()
    driver = start_driver("real", tmp_path)
    wait_until(lambda: driver.poll() is not None or (done(tmp_path) and len(under_way(tmp_path, specs)) >= 2))
    assert driver.poll() is None, driver.communicate()
    driver.send_signal(number)
    if number == signal.SIGTERM:
        stopped = outcome_of(driver)
        assert (stopped["exit_code"], stopped["stop_reason"]) == (130, "SIGTERM")
        assert set(Store(tmp_path).statuses().values()) == {"done", "interrupted"}
    else:
        driver.communicate()
        wait_until(lambda: not processes_of(tmp_path))  # its workers live on for a moment
    finished, resumable = done(tmp_path), under_way(tmp_path, specs)
    before = {name: (tmp_path / "trials" / f"{name}.parquet").stat().st_mtime_ns for name in finished}
    assert len(resumable) == 2
    (tmp_path / ".hold").unlink()

    again = outcome_of(start_driver("real", tmp_path))
    assert again["exit_code"] == 0
    assert (set(again["skipped"]), len(again["done"])) == (finished, len(specs) - len(finished))
    assert {name: (tmp_path / "trials" / f"{name}.parquet").stat().st_mtime_ns for name in finished} == before
    first_epochs = {name: int(epoch) for name, epoch in (line.split() for line in again["stderr"].splitlines())}
    assert all(first_epochs.get(name, 9) > reached for name, reached in resumable.items())
    assert_same(specs, undisturbed, tmp_path)


def done(root: Path) -> set[str]:
    return {name for name, status in Store(root).statuses().items() if status == "done"}


def under_way(root: Path, specs: list[TrialSpec]) -> dict[str, int]:
    """The trials with a saved state, and the epochs that each has finished."""
    found = {}
    for spec in specs:
        path = root / "work" / spec.training_id / "state.pt"
        if path.exists():
            found[spec.trial_id] = len(torch.load(path, weights_only=True)["history"]["epochs"])
    return found


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own with three megabytes."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(folder)], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"a file system of three megabytes cannot be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.mark.parametrize("moment", ["checkpoint", "table"])
def test_a_disk_that_fills_up_stops_the_run_until_there_is_space(moment: str, tiny_disk: Path, tmp_path: Path) -> None:
    """It fills up after the first epoch, when the next state is to be saved, or with the evaluation's last piece."""
    spec = small_specs(tmp_path)["at"]
    straight, store, filler = tmp_path / "straight", tiny_disk / "store", tiny_disk / "filler"
    run_to_end(spec, straight)
    options = Options(serial=True, minimum_free_bytes=0)

    def fill(event: dict[str, Any]) -> None:
        if event["event"] == ("epoch" if moment == "checkpoint" else "attack") and event.get("left", 0) == 0:
            with open(filler, "ab", buffering=0) as file:
                try:
                    while True:
                        file.write(bytes(4096))
                except OSError:
                    return

    outcome = run([spec], Store(store), options=options, on_event=fill)
    assert (outcome.done, outcome.interrupted, outcome.exit_code) == ([], [spec.trial_id], 1)
    assert str(outcome.stop_reason).startswith("the disk is full")
    assert "\n" not in str(outcome.stop_reason)
    with pytest.raises(InputError, match=r"cannot write to .*: No space left on device"):
        run([spec], Store(store), options=options)
    folder = store / "work" / spec.training_id
    assert not list(store.rglob(".*.tmp"))
    assert Store(store).statuses() == {}
    assert not [path for path in store.rglob("*.parquet") if path.stat().st_size == 0]
    if moment == "checkpoint":
        assert len(torch.load(folder / "state.pt", weights_only=True)["history"]["epochs"]) == 1
    else:
        assert (folder / "last.pt").exists()
    filler.unlink()
    events: list[dict[str, Any]] = []
    assert run([spec], Store(store), options=options, on_event=events.append).done == [spec.trial_id]
    epochs = [event["epoch"] for event in events if event["event"] == "epoch"]
    assert epochs == ([2] if moment == "checkpoint" else [])
    assert verify(store).broken == {}
    assert_same([spec], straight, store)


def test_a_soak_under_random_kills_and_damage_leaves_every_row_once_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SOAK_TRIALS short trials (16 by default) while workers are killed and files are damaged again and again."""
    root = tmp_path / "store"
    root.mkdir()
    monkeypatch.setenv("RUN_MARK", str(root))  # every process of the run inherits it
    specs = fake_driver.soak_of_real_trials()
    outcome = outcome_of(start_driver("soak", root), timeout=7200)
    wait_until(lambda: not processes_of(root))
    counts = json.loads((root / "soak.json").read_text())
    pids, damaged_rows = counts.pop("pids"), counts.pop("damaged_rows")
    assert (sorted(outcome["done"] + outcome["skipped"]), outcome["failed"]) == (sorted(ids(specs)), {})
    assert counts["kills"] >= min(4, len(specs) // 8)
    assert counts.get("retry", 0) <= counts["kills"]
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)

    found = verify(root)
    named = {name for name in ids(specs) if name in found.broken or any(name in line for line in found.problems)}
    assert named <= set(damaged_rows)
    assert set(found.broken) <= named
    made_again = Options(serial=True, redo=tuple(sorted(named)), minimum_free_bytes=0)
    assert run(specs, Store(root), options=made_again).exit_code == 0
    compact(Store(root))
    spoil(manifest_path(root), "truncated")
    repair(Store(root))
    found = verify(root)
    assert (found.trials, found.broken, found.problems) == (len(specs), {}, [])

    straight = tmp_path / "straight"
    run(specs, Store(straight), options=Options(serial=True, minimum_free_bytes=0))
    assert_same(specs, straight, root)
    store = Store(root)
    assert store.statuses() == dict.fromkeys(ids(specs), "done")
    rows = {name: store.read(name) for name in ("class_accuracy", "outcomes", "epochs", "class_state")}
    keys = {
        "class_accuracy": ["checkpoint", "attack", "class_index"],
        "outcomes": ["checkpoint", "attack", "sample_index"],
        "epochs": ["epoch"],
        "class_state": ["epoch", "class_index", "quantity"],
    }
    for name, columns in keys.items():
        assert not rows[name].duplicated(["trial_id", *columns]).any()
        assert rows[name].groupby("trial_id", observed=True).size().nunique() == 1
    assert not list(root.rglob("control.json"))
    print({"trials": len(specs), **counts, "starts": len(pids), "damaged rows": len(damaged_rows), "named": len(named)})
    print({name: len(frame) for name, frame in rows.items()})
