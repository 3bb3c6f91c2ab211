"""The benchmarks run at a tiny size and give their rows; the page is made of them."""

from __future__ import annotations

import functools
import io
import json
import re
import sys

import numpy as np
import pytest
import torch
from rich.console import Console

from benchmarks import __main__ as command
from benchmarks import (
    autoattack,
    calibration,
    compiled,
    evaluate,
    plain_forms,
    report,
    results,
    robust,
    sweep,
    teacher_logits,
    train_step,
)
from benchmarks.evaluate import agreement
from benchmarks.many_trials import many_trials, suite_file
from benchmarks.measure import Pair, in_turn, peak_memory_mb, run_python
from harness.api import plan_suite
from harness.attacks.autoattack import Effort
from harness.cli.listings import trial_states
from harness.report.results import read_results
from harness.report.write import Form, write_report
from harness.store.provenance import processor
from harness.store.verify import verify

PAIR = {"plain_s", "fast_s", "ratio", "ratio_range"}
MEMORY = {"plain_mb", "fast_mb"}
AGREEMENT = {"robust", "verdicts_differ", "accuracy_difference", "verdicts_differ_other_seed"}
TINY = robust.Recipe("digits", width=8, eps=0.02, epochs=4, train_images=600, images=40)


@pytest.fixture(scope="module")
def student(tmp_path_factory):
    folder = tmp_path_factory.mktemp("students")
    first, again = robust.robust_student(TINY, folder), robust.robust_student(TINY, folder)
    assert len(list(folder.iterdir())) == 1
    same = zip(first.student.state_dict().values(), again.student.state_dict().values(), strict=True)
    assert all(torch.equal(one, other) for one, other in same)
    return first


def test_pairs_by_hand():
    pair = Pair([4.0, 2.0, 9.0], [2.0, 2.0, 3.0])
    assert pair.columns == {"plain_s": 4.0, "fast_s": 2.0, "ratio": 2.0, "ratio_range": [1.0, 3.0]}
    order = []
    in_turn(lambda: order.append("plain"), lambda: order.append("fast"), 2)
    assert order == ["plain", "fast"] * 3


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_peak_memory_is_of_the_work_alone():
    large = peak_memory_mb(lambda: torch.ones(64 * 2**20, dtype=torch.uint8))
    small = peak_memory_mb(lambda: torch.ones(8 * 2**20, dtype=torch.uint8))
    assert large == pytest.approx(64, abs=4)
    assert small == pytest.approx(8, abs=4)


def test_code_that_fails_says_why():
    with pytest.raises(RuntimeError, match="no such luck"):
        run_python("raise SystemExit('no such luck')")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_the_peak_of_a_process_is_its_own():
    held = torch.ones(300 * 2**20, dtype=torch.uint8)
    wall, empty = run_python("pass")
    _, full = run_python("import sys; x = b'1' * (int(sys.argv[1]) << 20)", ["100"])
    assert 0 < wall < 60
    assert 1 < empty < 100 < len(held) >> 20
    assert full - empty == pytest.approx(100, abs=4)


def test_the_plain_form_judges_as_the_harness_does(student):
    for name in evaluate.ATTACKS:
        verdicts = evaluate.Verdicts(student, name)
        plain, fast = verdicts.plain(), verdicts.fast()
        assert 0 < plain.mean() < 1
        assert (plain != fast).sum() <= 1


def test_agreement_by_hand():
    one, two, three = (np.array(values, dtype=bool) for values in ([1, 1, 0, 0], [1, 0, 1, 0], [1, 1, 1, 0]))
    assert agreement(one, two, three) == {
        "robust": 0.5, "verdicts_differ": 0.5, "accuracy_difference": 0.0,
        "verdicts_differ_other_seed": 0.25, "accuracy_difference_other_seed": 0.25,
    }  # fmt: skip


@pytest.mark.slow
def test_evaluate_rows(student):
    rows = evaluate.measure(1, student)
    assert [(row["gradients"], row["attack"]) for row in rows] == [
        (gradients, attack) for attack in ("pgd20", "cw20") for gradients in ("float32", "bfloat16")
    ]
    assert all(row.keys() > PAIR | MEMORY | AGREEMENT | {"share_of_peak"} for row in rows)
    assert all(row["verdicts_differ"] <= 1 / row["images"] for row in rows)


@pytest.mark.slow
def test_autoattack_rows(student):
    efforts = dict.fromkeys(autoattack.EFFORTS, Effort(iterations=3, targets=1, queries=5))
    rows = autoattack.measure(1, student, efforts)
    assert [row["attack"] for row in rows] == ["apgd-ce", "apgd-t", "fab-t", "square"]
    assert all(row.keys() > PAIR | MEMORY | AGREEMENT | {"share_of_peak", "effort"} for row in rows)
    assert all(row["verdicts_differ"] <= 1 / row["images"] for row in rows)


def test_the_direct_call_goes_as_far_as_it_is_told(student, monkeypatch):
    seen = []
    monkeypatch.setattr(
        plain_forms.AutoAttack, "run_standard_evaluation", lambda self, x, y, **_: seen.append(self) or (x, y)
    )
    x = torch.zeros(2, 1, 8, 8)
    effort = Effort(iterations=7, targets=2, queries=9)
    plain_forms.autoattack(student.student, x, torch.zeros(2), "fab-t", eps=0.1, seed=0, batch_size=2, effort=effort)
    attack = seen[0]
    assert (attack.attacks_to_run, attack.fab.n_iter, attack.fab.n_target_classes) == (["fab-t"], 7, 2)
    assert (attack.apgd_targeted.n_iter, attack.square.n_queries) == (7, 9)


@pytest.mark.parametrize("compacted", [True, False])
def test_drawn_stores_are_real_ones(tmp_path, compacted):
    suite = suite_file(tmp_path, 6, seeds=3)
    store = many_trials(suite, tmp_path / "store", 4, compacted=compacted)
    planned = plan_suite(str(suite), results=tmp_path / "store")
    assert len(planned.specs) == 6
    assert {state for state, _ in trial_states(store, planned.specs).values()} == {"done"}
    assert len(store.read("class_accuracy")) == 6 * 2 * 6 * 4
    assert verify(store.root).broken == {}
    assert len(store.compacted()) == (6 if compacted else 0)


def test_a_long_leaderboard_is_printed_in_part_and_written_whole(tmp_path):
    store = many_trials(suite_file(tmp_path, 102, seeds=1), tmp_path / "store", 4)
    console = Console(file=io.StringIO(), width=100)
    write_report(read_results(store), tmp_path / "report", Form(figures=[]), console=console)
    printed, written = console.file.getvalue(), (tmp_path / "report" / "leaderboard.md").read_text()
    assert "2 more rows" in printed
    assert len(set(re.findall(r"trades-\d{5}", printed))) == 100
    assert len(set(re.findall(r"trades-\d{5}", written))) == 102


@pytest.mark.slow
def test_report_rows(tmp_path):
    rows = report.measure(1, growth=(4, 6), paired=3, many_classes=(2, 12), distinct=3)
    assert rows[0].keys() > PAIR | MEMORY
    assert [(row["command"], row["trials"], row["classes"], row["variants"]) for row in rows[1:-1]] == [
        (name + alone, *facts)
        for *facts, alone in ((4, 10, 1, ""), (6, 10, 1, ""), (2, 12, 1, ""), (3, 10, 3, ", every trial a variant"))
        for name in ("report", "status")
    ]
    assert all(row["seconds"] > 0 and row["peak_mb"] > 1 for row in rows[1:-1])


def test_growth_by_hand():
    points = ((1000, 2.0, 1.0), (2000, 2.5, 1.1), (10_000, 5.0, 20.0))
    rows = [
        {"command": name, "trials": trials, "seconds": seconds}
        for trials, *both in points
        for name, seconds in zip(("report", "status"), both, strict=True)
    ]
    assert report._growth(rows) == {"what": "growth", "report_over_trials": 0.25, "status_over_trials": 2.0}


@pytest.mark.slow
def test_sweep_rows():
    suite, overhead = sweep.measure(1, epochs=1, sleep_s=0.2, cores=2)
    assert suite.keys() > PAIR | MEMORY | {"plain_trials_per_hour", "fast_trials_per_hour"}
    # once in each, however many Ray starts; not at all in those that a Ray of earlier tests has warm
    assert 0 <= overhead["torch_imports"] <= overhead["workers"]
    assert 0 < overhead["share_of_60_s_trials"] < overhead["wall_s"] / (8 * 60)


def test_gaps_leave_out_the_first_trial_of_a_worker():
    clock = sweep.Clock(launches={1: [0.0, 9.0, 11.0, 14.0], 2: [0.0, 5.0]})
    assert clock.gaps() == [2.0, 3.0]


def rows_of_everything(ratio: float):
    growth = [
        {
            "command": name,
            "trials": trials,
            "variants": trials // 20,
            "classes": 10,
            "seconds": trials / 5000,
            "peak_mb": 9.0,
        }
        for trials in (1000, 10_000)
        for name in ("report", "status")
    ]
    evaluated = {"attack": "pgd20", "ratio": ratio, "verdicts_differ": 0.001, "accuracy_difference": -0.003}
    return {"evaluate": [evaluated | {"gradients": "float32"}], "report": growth}


def test_the_page_of_results(tmp_path):
    for name, rows in reversed(rows_of_everything(1.8).items()):
        results.record(name, rows, threads=2, rounds=3, folder=tmp_path)
    page = (tmp_path / "RESULTS.md").read_text()
    assert 0 < page.index("## Evaluation") < page.index("## Store and report")
    assert "| evaluate | pgd20, float32 | ratio | >= 1.7 | 1.8 | yes |" in page
    assert "| evaluate | all | accuracy_difference | <= 0.002 | 0.003 | no |" in page
    assert "| report | report | seconds | <= 6 | 2 | yes |" in page
    assert "## Sweep" not in page
    assert (tmp_path / "growth.svg").read_text().startswith("<?xml")
    assert "(growth.svg)" in page


def test_a_section_measured_again_leaves_the_others_when_and_where_they_were(tmp_path, monkeypatch):
    for name, rows in rows_of_everything(1.8).items():
        results.record(name, rows, threads=2, rounds=3, folder=tmp_path)
    before = results.read(tmp_path)
    monkeypatch.setattr(results, "git_commit", lambda: "5" * 40 + "+")
    again = [row | {"ratio": 1.9, "device": "a GPU"} for row in before["evaluate"]["rows"]]
    results.record("evaluate", again, threads=4, rounds=1, folder=tmp_path)
    after = results.read(tmp_path)
    assert after["report"] == before["report"]
    told = after["evaluate"]["measured"]
    assert (told["commit"], told["threads"], told["rounds"]) == ("5555555+", 4, 1)
    assert set(told["devices"].split(", ")) == {"a GPU", processor()}
    page = (tmp_path / "RESULTS.md").read_text()
    lines = {line.split(" | ")[0]: line for line in page.splitlines() if " | 20" in line}
    assert lines["| Evaluation"] != lines["| Store and report"].replace("Store and report", "Evaluation")
    assert f"| {told['date']} | 5555555+ | " in lines["| Evaluation"]
    assert "| evaluate | pgd20, float32 | ratio | >= 1.7 | 1.9 | yes |" in page


def test_the_published_page_is_made_of_the_published_rows():
    page = (results.FOLDER / results.PAGE).read_text()
    assert page == results.document(results.read(), plot=True)
    assert set(results.read()) == set(command.NAMES) == set(results.SECTIONS)


def test_a_missed_target_is_said():
    met = {
        (row["benchmark"], row["rows"], row["what"]): row["met"] for row in results.target_rows(rows_of_everything(1.2))
    }
    assert met["evaluate", "pgd20, float32", "ratio"] == "no"
    growth = ("report", "growth", "report_over_trials")
    others = [("evaluate", "bfloat16", "ratio"), ("autoattack", "all", "ratio"), growth]
    assert [met[row] for row in others] == ["not measured"] * 3


def test_a_loss_is_not_a_gain():
    """Only a difference from what was expected counts either way."""
    rows = {row["what"]: row["met"] for row in results.target_rows({
        "teacher_logits": [{"saved": -0.2}], "calibration": [{"method": "total", "error": -0.3}], "report": [
            {"command": "report", "seconds": 1.0, "peak_mb": None}, {"what": "growth", "report_over_trials": 0.5},
        ],
    })}  # fmt: skip
    assert (rows["saved"], rows["error"], rows["peak_mb"]) == ("no", "no", "not measured")
    assert rows["report_over_trials"] == "yes"


def test_the_command_prints_json(monkeypatch, capsys):
    monkeypatch.setattr(evaluate, "measure", lambda rounds: [{"attack": "pgd20", "ratio": float(rounds)}])
    before = torch.get_num_threads()
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    command.main(["evaluate", "--json", "--rounds", "4", "--threads", str(before)])
    assert not torch.backends.cudnn.allow_tf32
    assert json.loads(capsys.readouterr().out) == [{"attack": "pgd20", "ratio": 4.0}]


def test_the_command_writes_one_section_where_it_is_told_to_or_all_as_they_end(monkeypatch, capsys):
    written = []
    monkeypatch.setattr(results, "record", lambda name, *given: written.append((name, *given)))
    for name in command.NAMES:
        monkeypatch.setattr(f"benchmarks.{name}.measure", lambda rounds, name=name: [{"what": name}])
    threads = torch.get_num_threads()
    words = ["--threads", str(threads), "--rounds", "2"]
    command.main(["sweep", *words])
    assert written == []
    command.main(["sweep", "--write", *words])
    command.main(["all", *words])
    assert written == [(name, [{"what": name}], threads, 2) for name in ("sweep", *command.NAMES)]


def test_compiled_rows(monkeypatch):
    case = ("cnn", {"width": 4}, (1, 8, 8), 4, {"width": 2})
    monkeypatch.setattr(compiled, "CASES", (case,))
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    monkeypatch.setattr(compiled.shutil, "which", lambda name: name)
    parts = compiled.parts(*case[:4])
    for ours, theirs in parts.values():
        assert torch.equal(ours(), theirs())
    rows = compiled.measure(1)
    assert [(row["model"], row["part"]) for row in rows] == [("cnn", "attack gradient"), ("cnn", "update")]
    monkeypatch.setattr(compiled.shutil, "which", lambda name: None)
    assert compiled.measure(1) == []


@pytest.mark.slow
def test_train_step_rows(monkeypatch):
    monkeypatch.setattr(train_step, "CASES", (("cnn", {"width": 4}, (1, 8, 8), 4, {"width": 2}),))
    monkeypatch.setattr(train_step, "processor_precision", lambda: "bfloat16")
    rows = train_step.measure(1)
    assert [(row["model"], row["precision"], row["method"], row["batch"], row["instructions"]) for row in rows] == [
        ("cnn", "float32", "absld", 4, "all"),
        ("cnn", "bfloat16", "absld", 4, "all"),
        ("cnn", "float32", "absld", 4, "AVX2"),
    ]
    assert all(row.keys() > PAIR | MEMORY | {"share_of_peak"} for row in rows)
    assert {row["device"] for row in rows} == {processor()}


@pytest.mark.slow
def test_teacher_logits_rows():
    rows = teacher_logits.measure(1, steps=1)
    assert [row["precision"] for row in rows] == ["float32", "bfloat16"]
    for row in rows:
        assert row["bytes_per_image"] >= 4 * 10
        assert row["saved"] < 1


@pytest.mark.slow
def test_calibration_rows():
    *rows, total = calibration.measure(1, epochs=1)
    assert total["expected_s"] == pytest.approx(sum(row["expected_s"] for row in rows))
    for row in (*rows, total):
        assert row["expected_s"] > 0
        assert row["error"] == pytest.approx(row["expected_s"] / row["taken_s"] - 1)
