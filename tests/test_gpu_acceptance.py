"""The acceptance of a GPU: what it counts, that it runs on a processor, and that each check can fail."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from benchmarks import measure, train_step
from benchmarks.gpu import acceptance, attacks, first_run, fractions, machine, memory, speed, training, waiting
from benchmarks.gpu.acceptance import PARTS, Acceptance, Line, Part, judge
from benchmarks.gpu.check import NotRun, Setting, Threshold, Work
from benchmarks.gpu.suites import drawn_images, planned
from harness.engine.forwards import FoldedTwin
from harness.running.run import Options
from harness.training.trainer import Trainer
from harness.training.weight_average import WeightAverage
from tests.fake_cuda import fake_cuda

CPU = torch.device("cpu")
ROOT = Path(__file__).parents[1]


@pytest.fixture
def setting(tmp_path: Path) -> Setting:
    return Setting(CPU, tmp_path, tiny=True)


def lines_of(works: Sequence[Work], beginning: str) -> dict[str, Line]:
    """The judged lines of the works that have one with this beginning."""
    found = {}
    for work in works:
        if any(line.startswith(beginning) for line in work.lines):
            lines = [Line("part", check, threshold) for check, threshold in work.lines.items()]
            judge(work, lines)
            found |= {line.check: line for line in lines}
    assert found
    return found


def statuses(works: Sequence[Work], beginning: str) -> list[str]:
    return [line.status for line in lines_of(works, beginning).values()]


# What is counted


def planted_works(setting: Setting) -> list[Work]:
    """One of each outcome, then an interruption."""

    def stop() -> dict[str, Any]:
        raise KeyboardInterrupt

    def cannot() -> dict[str, Any]:
        raise NotRun("needs --data DIR")

    return [
        Work({"good": Threshold("<=", 0.01), "bad": Threshold(">=", 8.0), "figure": None},
             lambda: {"good": 0.01, "bad": 7.9, "figure": 3}),
        Work({"nothing": Threshold("<=", 1.0)}, lambda: {"nothing": float("nan")}),
        Work({"left out": None}, dict),
        Work({"impossible": Threshold("==", "none")}, cannot),
        Work({"stopped": None}, stop),
        Work({"after it": Threshold("==", 0)}, lambda: {"after it": 0}),
    ]  # fmt: skip


@pytest.fixture
def planted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PARTS, "planted", Part("tests.test_gpu_acceptance:planted_works"))
    monkeypatch.setitem(PARTS, "foreign", Part("nowhere:at_all", ("torch", "no_such_package", "nor_this")))


def test_what_did_not_run_never_counts_as_passed(
    planted: None, setting: Setting, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Acceptance(setting, {"device": "cpu"})
    run.run(["foreign", "planted"], 60)
    assert [(line.check, line.status) for line in run.lines] == [
        ("all of the part", "not run"), ("good", "passed"), ("bad", "failed"), ("figure", "noted"),
        ("nothing", "failed"), ("left out", "failed"), ("impossible", "not run"), ("stopped", "not run"),
        ("after it", "not run"),
    ]  # fmt: skip
    assert [line.why for line in run.lines if line.status == "not run"] == [
        "not installed: no_such_package, nor_this", "needs --data DIR", "interrupted", "interrupted"
    ]  # fmt: skip
    assert capsys.readouterr().out.splitlines()[-1] == "1 passed, 3 failed, 4 not run"
    found = json.loads((setting.folder / "acceptance.json").read_text())
    assert (found["device"], found["counts"]) == ("cpu", "1 passed, 3 failed, 4 not run")
    assert [line["value"] for line in found["lines"]] == [None, 0.01, 7.9, 3, "nan", None, None, None, None]
    assert found["lines"][1]["threshold"] == "<= 0.01"
    text = (setting.folder / "acceptance.txt").read_text().splitlines()
    assert (len(text), text[-1]) == (10, found["counts"])


def sleeping_works(setting: Setting) -> list[Work]:
    return [Work({"quick": None}, lambda: {"quick": 1}), Work({"slow": None}, lambda: {"slow": time.sleep(60)})]


def test_time_that_runs_out_ends_a_work_and_keeps_what_was_found(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(PARTS, "planted", Part("tests.test_gpu_acceptance:sleeping_works"))
    before = signal.getsignal(signal.SIGTERM)
    run = Acceptance(setting)
    run.run(["planted"], 0.3)
    assert [(line.status, line.why) for line in run.lines] == [("noted", ""), ("not run", "0.005 minutes were over")]
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_killed_acceptance_leaves_what_it_found(tmp_path: Path) -> None:
    code = (
        "import sys; from benchmarks.gpu.acceptance import PARTS, Part, main;"
        "PARTS['planted'] = Part('tests.test_gpu_acceptance:sleeping_works');"
        f"main(['--device', 'cpu', '--parts', 'planted', '--out', {str(tmp_path)!r}])"
    )
    path = os.pathsep.join(filter(None, [os.getcwd(), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": path}
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, env=environment)
    assert process.stdout is not None
    assert b"quick" in process.stdout.readline()
    process.kill()
    process.wait()
    found = json.loads((tmp_path / "acceptance.json").read_text())
    assert [line["status"] for line in found["lines"]] == ["noted", "not run"]


def test_bad_input_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = (["--parts", "fact"], "no part fact; allowed: facts"), (["--minutes", "0"], "a number above 0")
    for words, said in bad:
        with pytest.raises(SystemExit, match="2"):
            acceptance.main(words)
        assert said in capsys.readouterr().err


def places(setting: Setting) -> list[Work]:
    return [Work({"device": None}, lambda: {"device": str(setting.device)})]


def test_the_gpu_has_a_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Torch limits the memory of no other."""
    monkeypatch.setitem(PARTS, "planted", Part("tests.test_gpu_acceptance:places"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert acceptance.main(["--parts", "planted", "--out", str(tmp_path)]) == 0
    assert json.loads((tmp_path / "acceptance.json").read_text())["lines"][0]["value"] == "cuda:0"
    assert acceptance.main(["--data", str(tmp_path / "nowhere")]) == 2
    assert capsys.readouterr().err.endswith("nowhere: there is no such folder or file\n")


@pytest.mark.skipif(torch.cuda.is_available(), reason="is about a machine without a GPU")
def test_without_a_gpu_nothing_starts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert acceptance.main(["--out", str(tmp_path / "out")]) == 2
    assert "sees no GPU" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_it_starts_where_little_but_torch_is_installed(tmp_path: Path) -> None:
    """As on a bare machine: what a part lacks is named."""
    code = (
        "import sys; sys.modules.update(dict.fromkeys(('pydantic', 'ray', 'pandas', 'yaml', 'rich')));"
        "import importlib.util as util; find = util.find_spec;"
        "util.find_spec = lambda name: None if name in sys.modules and sys.modules[name] is None else find(name);"
        "from benchmarks.__main__ import main;"
        f"sys.exit(main(['gpu', '--device', 'cpu', '--tiny', '--out', {str(tmp_path)!r}]))"
    )
    path = os.pathsep.join(filter(None, [os.getcwd(), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path}
    )
    assert done.returncode == 1, done.stderr
    lines = done.stdout.splitlines()
    assert lines[-1] == f"0 passed, 0 failed, {len(PARTS)} not run"
    assert "not installed: pydantic, yaml, pandas, ray" in next(line for line in lines if " fractions " in line)


# Each check can fail


def test_engine_finds_weights_that_are_folded_wrongly(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    assert statuses(machine.engine(setting), "cnn, fast float32") == ["passed"] * 2
    refresh = FoldedTwin.refresh

    def wrong(self: FoldedTwin) -> None:
        refresh(self)
        self.folds[0][0].weight.mul_(1.05)

    monkeypatch.setattr(FoldedTwin, "refresh", wrong)
    assert statuses(machine.engine(setting), "cnn, fast float32") == ["failed"] * 2
    assert statuses(machine.engine(setting), "cnn, plain float32") == ["passed"] * 2
    monkeypatch.setattr(FoldedTwin, "refresh", lambda self: None)
    assert statuses(machine.engine(setting), "cnn, fast bfloat16") == ["failed"] * 2


def test_methods_finds_numbers_that_are_wrong_on_the_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with fake_cuda():
        works = partial(training.losses, Setting(torch.device("cuda"), tmp_path, tiny=True))
        assert statuses(works(), "absld_reweight:") == ["passed"]
        refresh = FoldedTwin.refresh

        def wrong(self: FoldedTwin) -> None:
            refresh(self)
            if self.folds[0][0].weight.device.type == "cuda":
                self.folds[0][0].bias.add_(0.5)

        monkeypatch.setattr(FoldedTwin, "refresh", wrong)
        assert statuses(works(), "absld_reweight:") == ["failed"]


@pytest.mark.parametrize("wait", [torch.Tensor.item, torch.Tensor.nonzero, lambda loss: loss[loss > 0]])
def test_waits_finds_a_wait_and_where(
    setting: Setting, monkeypatch: pytest.MonkeyPatch, wait: Callable[[torch.Tensor], object]
) -> None:
    assert statuses(training.waits(setting), "at:") == ["passed"]
    mean_loss = Trainer._mean_loss

    def waiting_loss(self: Trainer, step: Any) -> torch.Tensor:
        loss = mean_loss(self, step)
        wait(loss.detach())
        return loss

    monkeypatch.setattr(Trainer, "_mean_loss", waiting_loss)
    (line,) = lines_of(training.waits(setting), "at:").values()
    assert line.status == "failed"
    assert line.value.startswith("tests/test_gpu_acceptance.py:")


def test_a_gpu_is_asked_to_refuse_waits_and_only_then(monkeypatch: pytest.MonkeyPatch) -> None:
    modes: list[str] = []
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", modes.append)

    def synchronize() -> None:
        raise RuntimeError("called a synchronizing CUDA operation")

    assert waiting.first_wait(torch.device("cuda"), lambda: None) == "none"
    assert waiting.first_wait(torch.device("cuda"), synchronize).startswith("tests/test_gpu_acceptance.py:")
    with pytest.raises(ZeroDivisionError):
        waiting.first_wait(torch.device("cuda"), lambda: 1 / 0)
    assert modes == ["error", "default"] * 3


def test_resume_finds_what_a_resumed_training_has_forgotten(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    assert statuses(training.resume(setting), "at: float32") == ["passed"]
    load = Trainer.load_state_dict

    def forgetful(self: Trainer, state: Any) -> None:
        load(self, state)
        self.optimizer.state.clear()

    monkeypatch.setattr(Trainer, "load_state_dict", forgetful)
    assert statuses(training.resume(setting), "at: float32") == ["failed"]


def test_resume_finds_an_average_that_is_left_on_the_processor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a device that passes for a GPU."""
    monkeypatch.setattr("harness.training.train.origin", lambda device: {})
    monkeypatch.setattr("harness.training.train.peak_memory", lambda device: {})
    with fake_cuda():
        works = partial(training.resume, Setting(torch.device("cuda"), tmp_path, tiny=True))
        assert statuses(works(), "at, EMA: float32") == ["passed"]
        load = WeightAverage.load_state_dict
        monkeypatch.setattr(WeightAverage, "load_state_dict", lambda self, state, device: load(self, state, CPU))
        assert statuses(works(), "at, EMA: float32") == ["failed"]


def test_verdicts_finds_a_device_that_judges_otherwise(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("pgd20:", "aa_standard:")
    assert [statuses(attacks.verdicts(setting), name) for name in names] == [["passed", "noted"]] * 2
    made, forward = itertools.count(), attacks.evaluation_forward

    def second_one_is_wrong(*arguments: Any) -> Callable[[torch.Tensor], torch.Tensor]:
        right = forward(*arguments)
        return right if next(made) % 2 == 0 else lambda images: right(images).roll(1, 1)

    monkeypatch.setattr(attacks, "evaluation_forward", second_one_is_wrong)
    assert [statuses(attacks.verdicts(setting), name) for name in names] == [["failed", "noted"]] * 2


def test_memory_finds_an_evaluation_that_gives_up_and_a_failure_that_is_not_one(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert statuses(memory.memory(setting), "") == ["passed"] * 4
    monkeypatch.setattr("harness.engine.memory.kind_of", lambda error: "method")
    monkeypatch.setattr(memory, "NOTHING", (2**40, 10**6))
    assert statuses(memory.memory(setting), "") == ["failed"] * 4


def test_a_gpu_gets_little_memory_and_all_of_it_back(monkeypatch: pytest.MonkeyPatch) -> None:
    class Properties:
        total_memory = 2**34

    given: list[float] = []
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: Properties)
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", lambda share, device: given.append(share))
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    with pytest.raises(ZeroDivisionError), memory._little_memory(torch.device("cuda"), 2**30, 1):
        _ = 1 / 0
    assert given == [1 / 16, 1.0]


def test_speed_finds_what_is_slow_but_for_a_rehearsal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = {"fast_s": 0.02, "share_of_peak": 0.37, "ratio": 7.9}
    monkeypatch.setattr(train_step, "row", lambda *arguments: rows)
    monkeypatch.setattr(speed, "seconds", lambda work, device: 26.0)
    monkeypatch.setattr(speed, "IMAGES", 2)
    for tiny, judged in ((False, "failed"), (True, "passed")):
        works = speed.speed(Setting(CPU, tmp_path, tiny=tiny))[:6]  # the last one is noted
        found = [line.status for work in works for line in lines_of([work], "").values()]
        assert found == ["noted", judged, "noted", *["noted", "noted", judged] * 3, judged, judged]


def test_the_device_keeps_its_own_time(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []

    class Event:
        def __init__(self, enable_timing: bool) -> None:
            assert enable_timing

        def record(self) -> None:
            told.append("record")

        def synchronize(self) -> None:
            told.append("wait")

        def elapsed_time(self, end: Event) -> float:
            return 1500.0

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: told.append("idle"))
    assert measure.seconds(lambda: told.append("work"), torch.device("cuda")) == 1.5
    assert told == ["idle", "record", "work", "record", "wait"]


class Rows:
    """Of a store."""

    def __init__(self, devices: list[str], statuses: list[str], epochs: int) -> None:
        self.tables = {
            "trials": pd.DataFrame({"status": statuses, "device": devices}),
            "epochs": pd.DataFrame({"epoch": range(epochs)}),
        }

    def trials(self, columns: list[str]) -> pd.DataFrame:
        return self.tables["trials"]

    def read(self, table: str, columns: list[str]) -> pd.DataFrame:
        return self.tables[table]


def event(kind: str, trial: str, **more: Any) -> dict[str, Any]:
    return {"event": kind, "trial_id": trial, **more}


def watched(events: Sequence[dict[str, Any]]) -> tuple[fractions.Sharing, list[int]]:
    killed: list[int] = []
    watch = fractions.Sharing("a", kill=lambda pid, number: killed.append(pid))
    for each in events:
        watch(each)
    return watch, killed


def test_fractions_sees_who_is_at_work_and_kills_one() -> None:
    launches = [event("launch", name, pid=pid, devices="0") for name, pid in (("a", 7), ("b", 8))]
    epoch, again = event("epoch", "a"), event("launch", "a", pid=9, devices="0")
    ends = [event("done", "b"), event("done", "a")]
    good = Rows(["H100", "H100"], ["done", "done"], 24)

    watch, killed = watched([*launches, epoch, event("retry", "a"), again, epoch, *ends])
    assert killed == [7]
    assert fractions.seen(watch, good) == (2, 1, 2, 2, 24, "H100")
    watch, killed = watched([launches[0], epoch, ends[1], launches[1], ends[0]])  # one after the other
    assert killed == []
    assert fractions.seen(watch, good)[:3] == (1, 1, 0)
    elsewhere = event("launch", "b", pid=7, devices="1")  # in one process, on another GPU
    watch, _ = watched([launches[0], elsewhere, epoch, *ends])  # and never started again
    bad = Rows(["H100", "AMD EPYC"], ["done", "failed"], 25)
    assert fractions.seen(watch, bad) == (1, 2, 1, 1, 25, "AMD EPYC, H100")


def test_fractions_finds_processes_that_are_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fractions, "GONE_WITHIN_S", 0.0)
    assert fractions._left({os.getpid()}) == 1
    assert fractions._left({2**31 - 1}) == 0


@pytest.mark.slow
def test_fractions_finds_trials_that_do_not_share(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    """On Ray, with room for one trial at a time; and what they leave behind."""
    monkeypatch.setattr(fractions, "run", partial(fractions.run, options=Options(workers=1)))
    monkeypatch.setattr(fractions, "device_name", lambda device: "another")
    monkeypatch.setattr(fractions, "_left", len)
    free = iter((2**31, 2**30))
    monkeypatch.setattr(fractions, "_free", lambda setting: next(free))
    assert statuses(fractions.fractions(setting), "trials at work") == [
        "failed", "passed", "failed", "passed", "passed", "failed", "failed", "failed"
    ]  # fmt: skip


def curves(*losses: list[float], robust: float = 0.4) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {"trial_id": str(number), "epoch": epoch, "loss": loss, "val_robust_avg": robust / (1 + number)}
            for number, curve in enumerate(losses)
            for epoch, loss in enumerate(curve, 1)
        ]
    )


def test_plateau_and_robustness_by_hand() -> None:
    flat, falling, rising = [2.0, 1.5, 1.1, 1.0, 1.0], [2.0, 1.75, 1.5, 1.25, 1.0], [1.0, 1.0, 1.0, 1.0, 2.0]
    assert first_run.falling(curves(flat)) == pytest.approx(0.1)
    assert first_run.falling(curves(flat, falling)) == pytest.approx(0.5)
    assert pd.isna(first_run.falling(curves(flat, rising)))
    assert first_run.least_robust(curves(flat, falling)) == 0.2


def test_a_first_run_takes_the_given_images(tmp_path: Path) -> None:
    (line, *_) = lines_of(first_run.first_run(Setting(CPU, tmp_path)), "trials").values()
    assert (line.status, line.why) == ("not run", "needs --data DIR")
    entry = drawn_images(tmp_path)
    for data, dataset, root in (
        (tmp_path, {"name": "cifar10", "train_images": 20_000}, tmp_path),
        (tmp_path / "drawn.npz", entry, None),
    ):
        (tmp_path / "cifar-10-batches-py").mkdir(exist_ok=True)
        setting = Setting(CPU, tmp_path, data=data)
        suite, found = first_run._given(setting)
        assert (suite["dataset"], found) == (dataset, root)
        specs = planned(setting, 1, methods=list(first_run.METHODS), **suite)
        assert [spec.variant for spec in specs] == ["teacher", "at", "rslad", "absld"]
        assert {(spec.student.name, spec.precision) for spec in specs} == {("resnet18", "bfloat16")}


@pytest.mark.slow
def test_first_run_finds_a_training_that_learns_nothing_and_starts_over(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was saved is not taken up."""
    monkeypatch.setattr(first_run, "METHODS", ("at", "rslad"))
    monkeypatch.setitem(first_run.TINY["training"], "lr", 1e-30)
    monkeypatch.setattr("harness.training.train._Run.resume", lambda self, saved: None)
    lines = lines_of(first_run.first_run(setting), "trials").values()
    assert [line.check for line in lines if line.status == "failed"] == [
        "first epoch of the interrupted one when it goes on",
        "plateau: part of the loss's fall that is in the last three epochs",
        "least robust accuracy on held-out images, times chance",
    ]


@pytest.mark.slow
def test_every_part_runs_on_a_processor(tmp_path: Path) -> None:
    """As a command: in this process other tests may hold a Ray, whose processes outlive a trial."""
    words = ["gpu", "--device", "cpu", "--tiny", "--minutes", "20", "--out", str(tmp_path)]
    status = subprocess.run(
        [sys.executable, "-m", "benchmarks", *words], cwd=Path(__file__).parents[1], check=False
    ).returncode
    found = json.loads((tmp_path / "acceptance.json").read_text())
    bad = [line for line in found["lines"] if line["status"] not in ("passed", "noted")]
    assert (bad, status) == ([], 0)
    assert {line["part"] for line in found["lines"]} == set(PARTS)
    assert (tmp_path / "leaderboard.md").read_text().count("| rslad") >= 1


def test_what_a_gpu_has_shown_is_told_as_it_was_found() -> None:
    """The counts, and the times of steps, of docs/gpu.md."""
    found = json.loads((ROOT / "benchmarks/gpu/seen/h200.json").read_text())
    page = (ROOT / "docs/gpu.md").read_text()
    works = {(line["part"], line["check"].partition(":")[0], line["status"]) for line in found["lines"]}
    for part in {part for part, _, _ in works} - {"facts"}:
        statuses = [line["status"] for line in found["lines"] if line["part"] == part]
        not_run = len({check for of, check, status in works if (of, status) == (part, "not run")})
        counts = statuses.count("passed"), statuses.count("failed"), not_run
        assert f"| `{part}` | {' | '.join(map(str, counts))} |" in page
    assert f"took {found['at_once']['epoch_s']} s an epoch each" in page
    for step in found["steps"]:
        told, recorded = step["told_ms"], step["recorded_ms"]
        row = f"| {step['method']} | {told:.1f} | {recorded:.1f} | {told / recorded:.1f}"
        assert row in page, row
