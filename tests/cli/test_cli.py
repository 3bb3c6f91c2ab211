"""The commands as a user calls them: what they print, what they write, how they refuse."""

from __future__ import annotations

import json
import os
import pickle
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from harness.models.build import build
from harness.models.checkpoints import write_state
from harness.store.store import Store
from harness.suites.plan import plan
from harness.suites.suite import load_suite
from tests.command import bench, refused
from tests.small import suite_file

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def _wide_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A directory in which the small suite has run, serially."""
    folder = tmp_path_factory.mktemp("finished")
    bench("run", suite_file(folder), "--serial", "--results", "store", cwd=folder)
    return folder


def test_a_run_prints_the_leaderboard_and_the_paths_of_what_it_wrote(finished):
    done = bench("run", "small.yaml", "--serial", "--results", "store", cwd=finished)
    assert "absld_reweight" in done.stdout
    paths = [Path(line) for line in done.stdout.splitlines() if line.startswith("store/")]
    assert {path.suffix for path in paths} >= {".md", ".csv", ".tex", ".png", ".pdf"}
    assert all((finished / path).stat().st_size > 100 for path in paths)


def test_a_finished_suite_is_only_reported_and_without_torch(finished):
    attempts = Store(finished / "store").trials()["finished"].tolist()
    code = "import sys, harness.cli.main as c; sys.argv[1:] = sys.argv[1:]\ntry: c.main()\nexcept SystemExit: pass\n"
    code += "print([n for n in ('torch', 'ray') if n in sys.modules])"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    for words in (
        ["report", "small.yaml", "--results", "store", "--published"],
        ["status", "small.yaml", "--results", "store"],
        ["list", "methods"],
    ):
        done = subprocess.run(
            [sys.executable, "-c", code, *words],
            cwd=finished,
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.strip().splitlines()[-1] == "[]", words
    assert Store(finished / "store").trials()["finished"].tolist() == attempts


def test_where_a_suite_has_its_results_says_nothing_of_a_store(finished):
    assert "what is named here are stores" in refused("report", "store", "--results", "elsewhere", cwd=finished)


def test_status_counts_and_marks(finished):
    assert "4 trials: 4 done" in bench("status", "small.yaml", "--results", "store", cwd=finished).stdout
    other = bench("status", "small.yaml", "--results", "elsewhere", cwd=finished)
    assert "4 trials: 4 missing" in other.stdout
    assert not (finished / "elsewhere").exists()


def test_dry_run_lists_every_trial_and_starts_nothing(tmp_path):
    done = bench(
        "run",
        suite_file(tmp_path),
        "--dry-run",
        "--methods",
        "rslad",
        "--seeds",
        "0,1",
        "--results",
        "store",
        cwd=tmp_path,
    )
    specs = plan(load_suite(str(tmp_path / "small.yaml")), only=["rslad"], seeds=[0, 1])
    assert len(specs) == 3
    for spec in specs:
        assert f"{spec.trial_id}  {spec.role}" in done.stdout
    assert not (tmp_path / "store").exists()


def published(finished: Path, folder: Path) -> Path:
    """The finished store, as somebody else has it."""
    return Path(shutil.copytree(finished / "store", folder / "published"))


def test_a_run_adds_seeds_and_methods_to_a_store_with_its_own_teacher(finished, tmp_path):
    store = Store(published(finished, tmp_path))
    before = store.trials().set_index("trial_id")
    words = ["run", suite_file(tmp_path, methods=["rslad", "ard"]), "--serial", "--into", "published", "--seeds", "0,6"]
    bench(*words, cwd=tmp_path)
    after = Store(store.root).trials().set_index("trial_id")
    new = after.drop(before.index)
    assert sorted(zip(new["variant"], new["seed"], strict=True)) == [("ard", 0), ("ard", 6), ("rslad", 6)]
    assert (after.loc[before.index, "finished"] == before["finished"]).all()
    (teacher,) = before["teacher_sha256"].dropna().unique()
    assert set(new["teacher_sha256"]) == {teacher}
    assert not (tmp_path / "results").exists()


def test_a_run_adds_nothing_where_the_teacher_is_not_the_same_or_not_there(finished, tmp_path):
    root, path = published(finished, tmp_path), suite_file(tmp_path)
    words = ["run", path, "--serial", "--seeds", "6"]
    other = [*words, "--set", "teacher.seed=9", "--into", str(root)]
    assert "has no trained 'teacher' of this specification" in refused(*other, cwd=tmp_path)
    assert "is not a result store" in refused(*words, "--into", "absent", cwd=tmp_path)
    assert "--into is the store" in refused(*words, "--into", str(root), "--results", "other", cwd=tmp_path)
    for weights in root.glob("work/*/best_validation.pt"):
        weights.unlink()
    assert "has no trained 'teacher', only its rows" in refused(*words, "--into", str(root), cwd=tmp_path)


def test_the_version(tmp_path):
    assert re.match(r"run-bench \d+\.\d+\.\d+, numerics version 2", bench("--version", cwd=tmp_path).stdout)
    done = subprocess.run([sys.executable, "-m", "harness", "--version"], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.startswith("run-bench ")


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("run-bench sta", ["status"]),
        ("run-bench run quick", ["quickstart"]),
        ("run-bench run sm", ["small.yaml"]),
        ("run-bench run sub", ["sub/"]),
        ("run-bench run ./sub/", ["./sub/other.yml"]),
        ("run-bench run quickstart --dry", ["--dry-run"]),
    ],
)
def test_a_shell_completes_commands_options_and_suites(tmp_path, monkeypatch, typed, offered):
    suite_file(tmp_path)
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "other.yml").write_text("")
    (tmp_path / "sub" / "other.txt").write_text("")
    monkeypatch.setenv("_RUN_BENCH_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", typed)
    monkeypatch.setenv("COMP_CWORD", str(typed.count(" ")))
    assert bench(cwd=tmp_path).stdout.split() == offered


def test_a_report_of_part_of_a_suite_or_a_store(finished):
    """In the order asked for; what is not there is refused and writes nothing."""
    for what in (["small.yaml", "--results", "store"], ["store"]):
        for names in (["rslad", "absld_reweight"], ["absld_reweight", "rslad"]):
            words = ("--methods", ",".join(names), "--figures", "", "--into", "part")
            told = bench("report", *what, *words, cwd=finished).stdout
            assert told.index(f"{names[0]} ") < told.index(f"{names[1]} ")
        assert "unknown seed '7': allowed: 0" in refused("report", *what, "--seeds", "0,7", cwd=finished)
        assert "did you mean rslad" in refused("report", *what, "--methods", "rslat", cwd=finished)


def test_show_prints_a_trial_by_the_beginning_of_its_id(finished):
    trial = Store(finished / "store").trials().iloc[0]
    shown = bench("show", trial["trial_id"][:6], "--results", "store", cwd=finished).stdout
    assert trial["trial_id"] in shown
    assert json.loads(trial["spec"])["student"]["name"] in shown
    assert "accuracy per class" in shown
    assert "no trial" in refused("show", "zzzz", "--results", "store", cwd=finished)


@pytest.mark.parametrize(
    ("what", "name"),
    [
        ("methods", "absld_reweight"),
        ("policies", "kappa"),
        ("datasets", "svhn"),
        ("models", "wrn"),
        ("attacks", "aa_short"),
        ("suites", "quickstart"),
    ],
)
def test_lists(tmp_path, what, name):
    assert name in bench("list", what, cwd=tmp_path).stdout


def test_show_prints_a_suite_that_makes_the_trial(finished):
    trials = Store(finished / "store").trials()
    for trial_id in trials["trial_id"]:
        done = bench("show", trial_id, "--suite", "--results", "store", cwd=finished)
        (finished / "again.yaml").write_text(done.stdout)
        assert f"{trial_id}  " in bench("status", "again.yaml", "--results", "store", cwd=finished).stdout


def test_a_failing_trial_is_a_stored_failure_and_the_others_go_on(tmp_path):
    """A learning rate that diverges for one method: its row has the traceback, the rest is done, the exit code
    tells."""
    methods = ["at", {"method": "rslad", "kd_reduction": "class_sum", "variant": "rslad"}]
    path = suite_file(tmp_path, methods=methods, dataset={"name": "digits", "train_images": 100, "test_images": 30})
    done = bench("run", path, "--serial", "--results", "store", "--set", "training.lr=1e25", cwd=tmp_path, check=1)
    assert "failed" in done.stderr
    trials = Store(tmp_path / "store").trials().set_index("variant")
    assert trials.loc["teacher", "status"] == "failed"
    assert "NonFiniteLossError" in trials.loc["teacher", "error"]
    listed = bench("status", path, "--results", "store", "--set", "training.lr=1e25", cwd=tmp_path).stdout
    assert "NonFiniteLossError" in listed


@pytest.mark.parametrize(
    "entry", ["frl_reweight", "frl_remargin", "wat", "cfa_at", {"method": "absld", "weights": "frl"}], ids=str
)
def test_too_few_images_to_learn_from_are_refused_before_anything_is_written(tmp_path, entry):
    """A class with one held-out image or none: no error rate to learn from, a division by zero, an empty slice."""
    small = {"name": "digits", "train_images": 100, "test_images": 30}
    path = suite_file(tmp_path, methods=[entry], dataset=small, init={"method": "at"})
    done = bench("run", path, "--serial", "--results", "store", cwd=tmp_path, check=2)
    assert "needs 2 of each class" in done.stderr
    assert done.stderr.strip().endswith("train_images must be at least 110")
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "store").exists()


def test_evaluate_a_network_trained_elsewhere(tmp_path):
    torch.manual_seed(0)
    write_state(tmp_path / "mine.pt", build("cnn", {"width": 4}, in_channels=1, num_classes=10), {})
    words = [
        "evaluate",
        "mine.pt",
        "--model",
        "cnn",
        "--param",
        "width=4",
        "--dataset",
        "digits",
        "--attacks",
        "clean,pgd20",
        "--images",
        "40",
    ]
    done = bench(*words, "--eps", "0.1", "--serial", cwd=tmp_path)
    assert "mine" in done.stdout
    rows = Store(tmp_path / "results/runs/evaluations").read("class_accuracy")
    assert set(rows["attack"].astype(str)) == {"clean", "pgd20"}
    assert rows.groupby("attack", observed=True)["n"].sum().tolist() == [40, 40]
    assert set(rows["checkpoint"].astype(str)) == {"given"}


class Bomb:
    """A pickle that would leave a file behind if it were executed."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_bad_checkpoints_are_refused_in_one_line(tmp_path):
    write_state(tmp_path / "narrow.pt", build("cnn", {"width": 4}, in_channels=1, num_classes=10), {})
    (tmp_path / "bomb.pt").write_bytes(pickle.dumps({"state_dict": Bomb(tmp_path / "executed")}))
    words = ["--model", "cnn", "--param", "width=5", "--dataset", "digits", "--attacks", "clean"]
    assert "of another shape" in refused("evaluate", "narrow.pt", *words, cwd=tmp_path)
    assert "bomb.pt" in refused("evaluate", "bomb.pt", *words, cwd=tmp_path)
    assert not (tmp_path / "executed").exists()
    assert "absent.pt" in refused("evaluate", "absent.pt", *words, cwd=tmp_path)
    assert "did you mean cnn" in refused("evaluate", "narrow.pt", "--model", "cnm", "--dataset", "digits", cwd=tmp_path)


def test_bad_arrays_are_refused_in_one_line(tmp_path):
    images, labels = np.zeros((20, 8, 8, 1), np.uint8), np.arange(20) % 4
    good = {"x_train": images, "y_train": labels, "x_test": images, "y_test": labels}
    write_state(tmp_path / "net.pt", build("cnn", {"width": 4}, in_channels=1, num_classes=4), {})
    words = ["--model", "cnn", "--param", "width=4", "--attacks", "clean"]
    for name, change in {
        "float": {"x_test": images.astype(np.float32)},
        "label": {"y_test": labels - 1},
        "count": {"y_train": labels[:-1]},
        "object": {"y_test": np.array([None] * 20, dtype=object)},
    }.items():
        np.savez(tmp_path / f"{name}.npz", **{**good, **change})
        assert f"{name}.npz" in refused("evaluate", "net.pt", "--dataset", f"{name}.npz", *words, cwd=tmp_path)


def test_a_missing_data_set_says_where_it_looked(tmp_path):
    line = refused(
        "run", suite_file(tmp_path, dataset="cifar10"), "--serial", "--data", str(tmp_path / "nowhere"), cwd=tmp_path
    )
    assert str(tmp_path / "nowhere") in line
    assert "--download" in line


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["run", "quikstart"], "did you mean quickstart"),
        (["tune", "quickstart", "--method", "at", "--space", "training.lr=choice(0.1, 0.2)", "--results", ""], "empty"),
        (["run", "quickstart", "--methods", "abslt"], "did you mean absld"),
        (["run", "quickstart", "--seeds", "one"], "whole numbers"),
        (["run", "quickstart", "--set", "norm=l2"], "linf"),
        (["run", "quickstart", "--workers", "x"], "workers"),
        (["run", "quickstart", "--workers", "0", "--dry-run"], "greater than or equal to 1"),
        (["run", "quickstart", "--results", "/dev/null/store", "--dry-run"], "/dev/null is not a folder"),
        (["tune", "quickstart", "--space", "training=choice(0.5, 1)", "--methods", "at", "--dry-run"], "training.KEY"),
        (
            ["tune", "quickstart", "--space", "training.lr=choice(0.5, 1)", "--methods", "at", "--seeds", "9" * 12],
            "1000",
        ),
        (["status", "quickstart", "--results", "x" * 300], "File name too long"),
        (["report", "quickstart", "--checkpoint", "best"], "best_validation"),
        (["report", "quickstart"], "nothing to report"),
        (["report", "quickstart", "--methods", ""], "--methods is empty"),
        (["run", "quickstart", "--seeds", ","], "--seeds is empty"),
        (["status", "quickstart", "--results", ""], "--results"),
        (["list", "method"], "did you mean methods"),
        (["list", "methods", "abslx"], "unknown method 'abslx': did you mean absld"),
        (["list", "attacks", "pgd"], "unknown attack 'pgd': did you mean pgd20"),
        (["list", "keys", "trainin"], "unknown block of a suite 'trainin': did you mean training"),
        (["list", "policies", "kapa"], "unknown policy 'kapa': did you mean kappa"),
        (["list", "suites", "quickstart"], "list suites takes no name"),
        (["stauts"], "status"),
        (["run", "quickstart", "--plugin", "absent.py"], "absent.py"),
    ],
)
def test_wrong_words_are_refused_in_one_line(tmp_path, words, says):
    assert says in refused(*words, cwd=tmp_path)


def test_results_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    assert "file" in refused("run", suite_file(tmp_path), "--serial", "--results", "file/store", cwd=tmp_path)
    assert "/proc" in refused("run", suite_file(tmp_path), "--serial", "--results", "/proc/store", cwd=tmp_path)


def test_stores_are_merged_and_verified(finished, tmp_path):
    first = bench("merge", str(finished / "store"), "--into", "all", cwd=tmp_path)
    assert "4 added" in first.stdout
    again = bench("merge", str(finished / "store"), "--into", "all", cwd=tmp_path)
    assert "4 same" in again.stdout
    assert "4 trials, 0 broken" in bench("verify", "all", cwd=tmp_path).stdout
    victim = next((finished / "store" / "class_accuracy").glob("*.parquet"), None) or next(
        (finished / "store").rglob("class_accuracy/*.parquet")
    )
    content = victim.read_bytes()
    victim.write_bytes(content[:100])
    try:
        assert "broken" in bench("verify", str(finished / "store"), cwd=tmp_path, check=1).stdout
    finally:
        victim.write_bytes(content)
    assert "no folder 'trials'" in refused("merge", "nothing", "--into", "all", cwd=tmp_path)


def test_a_foreign_file_in_the_store_is_named_and_the_rest_is_read(finished):
    foreign = finished / "store" / "class_accuracy" / "foreign.parquet"
    foreign.write_bytes(b"PAR1 not really")
    try:
        done = bench("report", "store", cwd=finished)
    finally:
        foreign.unlink()
    assert "foreign.parquet" in done.stderr
    assert "absld_reweight" in done.stdout
