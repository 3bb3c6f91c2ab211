"""What is seen of a run while it goes on, here and from elsewhere."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path
from typing import get_args, get_type_hints

import fake_trials as fake
import pytest
from rich.console import Console

from harness.cli.progress import Progress, shared_picture
from harness.report.tables.grid import duration
from harness.spec import TrialSpec
from harness.store.lock import StoreLock
from harness.store.store import Store
from harness.store.work import progress_file

ROOT = Path(__file__).parents[2]


class Clock:
    """Seconds that pass only when told."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def screen(specs: list[TrialSpec], terminal: bool) -> tuple[Progress, io.StringIO, Clock]:
    file, clock = io.StringIO(), Clock()
    return Progress(specs, Console(file=file, force_terminal=terminal, width=120), clock), file, clock


def test_each_handler_reads_the_event_of_its_name() -> None:
    """The only place where mypy cannot tell: handlers are found by name."""
    handlers = {name: handler for name, handler in vars(Progress).items() if name.startswith("_on_")}
    assert len(handlers) > 10
    for name, handler in handlers.items():
        event = get_type_hints(handler)["event"]
        assert get_args(get_type_hints(event)["event"]) == (name.removeprefix("_on_"),)


def test_progress_counts_and_estimates() -> None:
    specs = [fake.make(seed, steps=10) for seed in range(4)]
    one, two, three, four = (spec.trial_id for spec in specs)
    progress, _, clock = screen(specs, terminal=False)
    progress({"event": "plan", "skipped": [four], "trained": []})
    assert progress.headline() == "4 trials: 1 done, 0 running, 3 waiting"
    progress({"event": "launch", "trial_id": one})
    progress({"event": "launch", "trial_id": two})
    clock.now = 10.0
    for epoch in range(1, 6):
        progress({"event": "epoch", "trial_id": one, "epoch": epoch, "epochs": 10, "val_robust_avg": 0.5})
    # half of the training is 0.4 of a trial; 2.6 of three are left at 0.04 a second
    assert progress.seconds_left() == pytest.approx(2.6 / 0.04)
    progress({"event": "done", "trial_id": one})
    assert progress.seconds_left() == pytest.approx(2.0 / 0.1)
    assert progress.headline() == "4 trials: 2 done, 1 running, 1 waiting; about 20 s left"
    progress({"event": "failed", "trial_id": two, "error": "no"})
    progress({"event": "blocked", "trial_id": three, "error": "its teacher failed"})
    assert progress.headline().startswith("4 trials: 2 done, 0 running, 0 waiting, 1 failed, 1 blocked")


def test_progress_counts_what_this_run_did_of_a_resumed_trial() -> None:
    spec = fake.make(1, steps=10)
    progress, _, clock = screen([spec], terminal=False)
    progress({"event": "launch", "trial_id": spec.trial_id})
    clock.now = 8.0
    progress({"event": "epoch", "trial_id": spec.trial_id, "epoch": 9, "epochs": 10})  # began at 8
    # one epoch, 0.08 of the trial, in 8 s; 1 - 0.72 is left
    assert progress.seconds_left() == pytest.approx(0.28 / 0.01)


def test_a_trial_that_was_trained_elsewhere_counts_as_its_evaluation() -> None:
    specs = [fake.make(seed, steps=10) for seed in range(3)]
    progress, _, clock = screen(specs, terminal=False)
    trained = [specs[0].trial_id, specs[1].trial_id]
    progress({"event": "plan", "skipped": [], "trained": trained})
    progress({"event": "launch", "trial_id": specs[0].trial_id})
    clock.now = 10.0
    progress({"event": "done", "trial_id": specs[0].trial_id})
    # 0.2 of a trial in 10 s; another such and a whole one are left
    assert progress.seconds_left() == pytest.approx(1.2 / 0.02)


def test_progress_table() -> None:
    specs = [fake.make(seed, "absld") for seed in range(2)]
    progress, file, _ = screen(specs, terminal=True)
    with progress:
        progress({"event": "launch", "trial_id": specs[0].trial_id})
        progress(
            {"event": "epoch", "trial_id": specs[0].trial_id, "epoch": 3, "epochs": 10}
            | {"val_robust_avg": 0.625, "val_robust_worst": 0.2}
        )
        progress(
            {"event": "attack", "trial_id": specs[0].trial_id, "attack": "pgd20", "checkpoint": "last", "chunk": 2}
            | {"chunks": 5}
        )
        console = Console(file=io.StringIO(), width=120)
        console.print(progress.picture().render())
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "2 trials: 0 done, 1 running, 1 waiting" in text
    line = next(line for line in text.splitlines() if "absld cnn seed 0" in line)
    assert line.split()[4:] == ["3/10", "62.5", "%", "20.0", "%", "pgd20", "on", "last", "2/5"]
    assert "absld cnn seed 0" in file.getvalue()


def test_progress_without_a_terminal_is_a_line_per_trial() -> None:
    specs = [fake.make(seed) for seed in range(3)]
    progress, file, clock = screen(specs, terminal=False)
    with progress:
        progress({"event": "launch", "trial_id": specs[0].trial_id})
        progress({"event": "start", "trial_id": specs[0].trial_id, "device": "cpu"})
        progress({"event": "epoch", "trial_id": specs[0].trial_id, "epoch": 1, "epochs": 1, "val_robust_avg": 0.5})
        clock.now = 70.0
        progress({"event": "done", "trial_id": specs[0].trial_id})
        progress({"event": "failed", "trial_id": specs[1].trial_id, "error": "ValueError: [no] markup"})
        progress({"event": "something new", "trial_id": specs[1].trial_id})
        progress({"event": "stopping", "reason": "SIGINT", "live": 1, "grace_s": 10})
    lines = file.getvalue().splitlines()
    assert lines[0] == "[1/3] good cnn seed 0: done in 70 s, validation 50.0 % average"
    assert lines[1] == "[2/3] good cnn seed 1: FAILED: ValueError: [no] markup"
    assert lines[2].startswith("stopping (SIGINT): 1 running trials save their state")
    assert len(lines) == 3


def test_without_a_terminal_a_long_trial_is_a_line_a_minute_with_the_time_left() -> None:
    teacher = fake.make(0, steps=10)
    progress, file, clock = screen([teacher, fake.make(1, steps=10)], terminal=False)
    progress({"event": "launch", "trial_id": teacher.trial_id})
    for epoch in range(1, 11):
        clock.now = 25.0 * epoch
        progress({"event": "epoch", "trial_id": teacher.trial_id, "epoch": epoch, "epochs": 10, "val_robust_avg": 0.25})
    clock.now = 340.0
    progress(
        {"event": "attack", "trial_id": teacher.trial_id, "attack": "pgd20", "checkpoint": "last", "chunk": 2}
        | {"chunks": 5}
    )
    lines = file.getvalue().splitlines()
    # at 75, 150 and 225 s; 0.24 of a trial is done of two after 75 s, and 0.8 after 340 s
    assert [line.split(": ", 1)[1] for line in lines] == [
        "epoch 3/10, validation 25.0 % average; about 9 min left in all",
        "epoch 6/10, validation 25.0 % average; about 8 min left in all",
        "epoch 9/10, validation 25.0 % average; about 7 min left in all",
        "pgd20 on last 2/5; about 8 min left in all",
    ]


def test_the_bar_is_the_part_of_the_whole_run_that_is_done() -> None:
    specs = [fake.make(seed, steps=10) for seed in range(4)]
    progress, _, _ = screen(specs, terminal=True)
    progress({"event": "plan", "skipped": [specs[3].trial_id], "trained": []})
    progress({"event": "launch", "trial_id": specs[0].trial_id})
    progress({"event": "epoch", "trial_id": specs[0].trial_id, "epoch": 5, "epochs": 10})
    assert progress.picture().done == pytest.approx((1 + 0.4) / 4)
    console = Console(file=io.StringIO(), width=80)
    console.print(progress.picture().render())
    bar = console.file.getvalue().splitlines()[1]  # type: ignore[attr-defined]
    assert bar.count("━") == 14  # of 40


def test_a_run_is_followed_from_elsewhere_until_it_ends(tmp_path: Path) -> None:
    spec = fake.make(0, steps=10)
    store = Store(tmp_path / "store")
    progress = Progress([spec], Console(file=io.StringIO()), store_root=store.root)
    command = [sys.executable, str(ROOT / "run_bench.py"), "status", "quickstart", "--results", str(store.root)]
    with StoreLock(store.prepare().root), progress:
        progress_file(store.root).parent.mkdir()
        progress({"event": "warning", "text": "before the plan nothing is shown"})
        assert shared_picture(store.root) is None
        progress({"event": "plan", "skipped": [], "trained": []})
        assert shared_picture(store.root) == progress.picture()
        watching = subprocess.Popen([*command, "--watch"], cwd=tmp_path, stdout=subprocess.PIPE, text=True)
        assert watching.stdout is not None
        assert watching.stdout.readline() == "1 trials: 0 done, 0 running, 1 waiting\n"
        assert watching.poll() is None
    rest = watching.communicate(timeout=60)[0]
    assert rest.splitlines()[-1] == "7 trials: 7 missing"
    assert watching.returncode == 0
    assert shared_picture(store.root) is None


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(4.4, "4 s"), (99, "99 s"), (150, "2 min"), (7900, "2.2 h"), (500_000, "139 h"), (float("nan"), "–")],
)
def test_durations(seconds: float, words: str) -> None:
    assert duration(seconds) == words
