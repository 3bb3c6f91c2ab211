"""Where numbers come from: the fingerprint of the code, and what a trial's row says of machine, code and teacher."""

from __future__ import annotations

import ast
import hashlib
import itertools
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest
import torch

from harness.cli import listings
from harness.cli.listings import trial_states
from harness.models.checkpoints import write_state
from harness.report.results import read_results
from harness.report.scores.leaderboard import leaderboard
from harness.running.teachers import _seen
from harness.running.worker import Job, Workplace, trial_events
from harness.spec import TrialSpec
from harness.store import fingerprint, provenance, tables
from harness.store.compaction import compact
from harness.store.fingerprint import NUMERIC
from harness.store.lock import StoreLock
from harness.store.provenance import gpu_versions, joined, origin, training_columns
from harness.store.store import Store
from harness.store.tables import TABLES
from harness.store.verify import verify
from harness.store.work import WorkingFolder
from harness.tuning.setting import history
from tests.small import run_to_end, small_specs
from tests.synthetic_store import trial_spec, trial_tables

STEP = b'''
"""A module."""
import torch
from torch import Tensor, nn

from harness.engine.forwards import forward
from methods.lazy import torch as lazy

FACTOR = 0.25


def step(x: Tensor, eps: float = 8 / 255) -> Tensor:
    """One step."""
    from harness.seeds import seeded

    return x + FACTOR * eps * x.sign()  # up


class Other(nn.Module):
    """A class."""

    def forward(self, x):
        """Its forward."""
        return forward(x)
'''
REST = b"def rest(x):\n    return -x\n"


def changed(old: bytes, new: bytes) -> bytes:
    assert old in STEP
    return STEP.replace(old, new)


SAME = {
    "comment": [changed(b"# up", b"# upwards, along the gradient"), REST],
    "docstrings": [
        changed(b'"""One step."""', b'"""Words.\n\n    More words."""').replace(b'"""A module."""', b""),
        REST,
    ],
    "formatting": [
        changed(b"x + FACTOR * eps * x.sign()", b"(\n        x\n        + FACTOR * eps * x.sign()\n    )"),
        REST,
    ],
    "another order of files": [REST, STEP],
    "one file": [STEP + REST],
    "a split file": [
        b"import torch\nfrom torch import Tensor\n" + STEP[STEP.index(b"FACTOR") : STEP.index(b"class")],
        b"from torch import nn\nfrom harness.other import forward\n" + STEP[STEP.index(b"class") :],
        REST,
    ],
    "imports from other places": [
        changed(b"from harness.engine.forwards import", b"from harness.engine.forwards.forwards import")
        .replace(b"from harness.seeds", b"from harness.words.seeds")
        .replace(b"from methods.lazy", b"import harness.x\nfrom methods.words.lazy"),
        REST,
    ],
}
OTHER = {
    "constant": [changed(b"0.25", b"0.26"), REST],
    "eps": [changed(b"8 / 255", b"9 / 255"), REST],
    "operator": [changed(b"eps * x", b"eps / x"), REST],
    "order of operands": [changed(b"x + FACTOR * eps", b"FACTOR * eps + x"), REST],
    "default": [changed(b"eps: float = 8 / 255", b"eps: float = 4 / 255"), REST],
    "name": [changed(b"x.sign", b"x.sin"), REST],
    "another package": [changed(b"import torch\n", b"import numpy as torch\n"), REST],
    "a definition less": [STEP],
}


@pytest.mark.parametrize("sources", SAME.values(), ids=SAME)
def test_the_fingerprint_survives(sources):
    assert fingerprint.fingerprint(sources) == fingerprint.fingerprint([STEP, REST])


@pytest.mark.parametrize("sources", OTHER.values(), ids=OTHER)
def test_the_fingerprint_changes_with(sources):
    assert fingerprint.fingerprint(sources) != fingerprint.fingerprint([STEP, REST])


def test_the_fingerprint_reads_everything_that_it_names():
    root = fingerprint._ROOT
    assert [name for name in NUMERIC if not (root / name).exists()] == []
    numeric = {name.removesuffix(".py") for name in NUMERIC}
    assert {"methods", "harness/attacks", "harness/evaluation", "harness/training", "harness/trial"} <= numeric
    assert len(fingerprint.code_fingerprint()) == 12


WITHOUT_NUMBERS = (
    "harness/errors.py", "harness/events.py", "harness/files.py", "harness/spec.py", "harness/store",
    "harness/suites/code.py",
)  # fmt: skip


def test_every_module_that_a_trial_runs_is_fingerprinted_or_makes_no_number():
    """A module that computes and is imported from `harness.trial`, however far down, cannot be forgotten."""
    root, seen, left = fingerprint._ROOT, set(), ["harness.trial"]
    while left:
        name = left.pop()
        place = root / name.replace(".", "/")
        file = next((each for each in (place.with_suffix(".py"), place / "__init__.py") if each.is_file()), None)
        if file is None or file in seen:
            continue
        seen.add(file)
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] in ("harness", "methods"):
                left += [str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)]
    names = {file.relative_to(root).as_posix() for file in seen if ast.parse(file.read_text()).body[1:]}
    known = (*NUMERIC, *WITHOUT_NUMBERS)
    assert sorted(name for name in names if not any(name == one or name.startswith(f"{one}/") for one in known)) == []
    assert "harness/trial.py" in names


ROOT = Path(__file__).resolve().parents[2]


def row(root: Path, trial_id: str) -> pd.Series:
    return Store(root).read("trials", [trial_id]).iloc[0]


def moved(monkeypatch: pytest.MonkeyPatch, device: str, torch: str, commit: str) -> None:
    """From here on this process says that it runs on another machine, with another torch and other code."""
    monkeypatch.setattr(provenance, "processor", lambda: device)
    monkeypatch.setattr(provenance, "versions", lambda: {"python": "3", "torch": torch})
    monkeypatch.setattr(provenance, "git_commit", lambda: commit * 40)
    monkeypatch.setattr(provenance, "code_fingerprint", lambda: commit * 12)


def test_a_student_names_the_weights_of_its_teacher(tmp_path):
    specs = small_specs(tmp_path, "training.epochs=1", methods=["at", "rslad"])
    for spec in specs.values():
        run_to_end(spec, tmp_path)
    teacher = tmp_path / "work" / specs["teacher"].training_id / "best_validation.pt"
    assert row(tmp_path, specs["rslad"].trial_id)["teacher_sha256"] == hashlib.sha256(teacher.read_bytes()).hexdigest()
    assert pd.isna(row(tmp_path, specs["at"].trial_id)["teacher_sha256"])
    assert pd.isna(row(tmp_path, specs["teacher"].trial_id)["teacher_sha256"])


def test_several_teachers_are_joined(tmp_path):
    natural = {"model": {"name": "cnn", "width": 4}, "method": "natural"}
    specs = small_specs(tmp_path, "training.epochs=1", methods=["mtard"], natural_teacher=natural)
    for spec in specs.values():
        run_to_end(spec, tmp_path)
    hashes = [
        hashlib.sha256((tmp_path / "work" / source.training / "best_validation.pt").read_bytes()).hexdigest()
        for _, source in sorted(specs["mtard"].teachers.items())
    ]
    assert len(set(hashes)) == 2
    assert row(tmp_path, specs["mtard"].trial_id)["teacher_sha256"] == "+".join(hashes)


def test_training_and_evaluation_say_apart_where_they_ran(tmp_path, monkeypatch):
    spec = small_specs(tmp_path)["at"]
    moved(monkeypatch, "first machine", "1.0", "a")
    stop = itertools.count()
    events = run_to_end(spec, tmp_path, should_stop=lambda: next(stop) == 5)  # in the second epoch
    assert [event["event"] for event in events][-2:] == ["epoch", "interrupted"]
    moved(monkeypatch, "second machine", "2.0", "b")
    trained = tmp_path / "work" / spec.training_id / "training.json"
    events = run_to_end(spec, tmp_path, should_stop=trained.exists)
    assert [event["event"] for event in events][-2:] == ["attack", "interrupted"]
    moved(monkeypatch, "third machine", "3.0", "c")
    run_to_end(spec, tmp_path)
    trial = row(tmp_path, spec.trial_id)
    assert trial["train_device"] == "first machine, second machine"
    assert trial["train_git_commit"] == f"{'a' * 40}, {'b' * 40}"
    assert trial["train_code_fingerprint"] == f"{'a' * 12}, {'b' * 12}"
    assert json.loads(trial["train_versions"]) == {"python": "3", "torch": "1.0, 2.0"}
    assert trial["device"] == "second machine, third machine"
    assert trial["git_commit"] == f"{'b' * 40}, {'c' * 40}"
    assert trial["code_fingerprint"] == f"{'b' * 12}, {'c' * 12}"
    assert json.loads(trial["versions"]) == {"python": "3", "torch": "2.0, 3.0"}


DRIVERS = {
    "535.104.05": "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.104.05  Sat Aug 19 01:15:15 UTC 2023\n",
    "550.54.15": "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  550.54.15  Release Build  (dvs-builder)\n",
}


@pytest.mark.parametrize("driver", DRIVERS)
def test_rows_of_a_gpu_name_its_model_and_what_drives_it(driver, tmp_path, monkeypatch):
    (tmp_path / "version").write_text(DRIVERS[driver] + "GCC version:  gcc version 12.3.0 (Ubuntu 12.3.0-1ubuntu1)\n")
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert gpu_versions(cpu) == {}
    monkeypatch.setattr("torch.version.cuda", "13.0")
    monkeypatch.setattr("torch.backends.cudnn.version", lambda: 91300)
    assert gpu_versions(gpu, tmp_path / "version") == {"cuda": "13.0", "cudnn": "91300", "driver": driver}
    assert gpu_versions(gpu, tmp_path / "absent") == {"cuda": "13.0", "cudnn": "91300"}
    monkeypatch.setattr("torch.cuda.get_device_name", lambda device: "NVIDIA H100")
    here = origin(gpu)
    assert here["device"] == "NVIDIA H100"
    assert here["versions"].items() >= {"cuda": "13.0", "torch": origin(cpu)["versions"]["torch"]}.items()
    assert joined([origin(cpu), here])["versions"]["cuda"] == "13.0"


def test_processor_seconds_stand_beside_wall_seconds(tmp_path):
    spec = small_specs(tmp_path)["at"]
    run_to_end(spec, tmp_path)
    trial = row(tmp_path, spec.trial_id)
    assert trial["train_cpu_s"] > 0
    assert trial["eval_cpu_s"] > 0


def test_processor_seconds_count_children():
    before = provenance.cpu_seconds()
    subprocess.run([sys.executable, "-c", "sum(range(5_000_000))"], check=True)
    assert provenance.cpu_seconds() - before > 0.02


def test_a_training_starts_over_when_its_teacher_has_other_weights(tmp_path):
    """What learnt from one teacher does not go on with another; the student's row would name but one of them."""
    specs = small_specs(tmp_path, methods=["rslad"])
    run_to_end(specs["teacher"], tmp_path)
    stop = itertools.count()
    run_to_end(specs["rslad"], tmp_path, should_stop=lambda: next(stop) == 5)
    weights = tmp_path / "work" / specs["teacher"].training_id / "best_validation.pt"
    for path in (weights, weights.with_suffix(".json")):  # which has the sha256 of the weights beside it
        path.write_bytes((tmp_path / "work" / specs["rslad"].training_id / path.name).read_bytes())
    epochs = [event["epoch"] for event in run_to_end(specs["rslad"], tmp_path) if event["event"] == "epoch"]
    assert epochs == [1, 2]
    changed = hashlib.sha256(weights.read_bytes()).hexdigest()
    assert row(tmp_path, specs["rslad"].trial_id)["teacher_sha256"] == changed


def test_a_student_names_the_network_it_started_from_and_starts_over_from_another(tmp_path):
    specs = small_specs(tmp_path, methods=["at", "frl_reweight"], init={"method": "at"}, teacher=None)
    student = specs["frl_reweight"]
    assert student.init is not None
    start = next(spec for spec in specs.values() if spec.training_id == student.init.training)
    for spec in (start, specs["at"]):
        run_to_end(spec, tmp_path)
    stop = itertools.count()
    run_to_end(student, tmp_path, should_stop=lambda: next(stop) == 5)
    weights = tmp_path / "work" / start.training_id / "best_validation.pt"
    unfinished = training_columns(history(WorkingFolder(tmp_path, student.training_id)))
    assert unfinished["init_sha256"] == hashlib.sha256(weights.read_bytes()).hexdigest()
    state = torch.load(weights, weights_only=True)
    write_state(weights, {name: value * 2 for name, value in state.items()}, {})
    epochs = [event["epoch"] for event in run_to_end(student, tmp_path) if event["event"] == "epoch"]
    assert epochs == [1, 2]
    changed = hashlib.sha256(weights.read_bytes()).hexdigest()
    assert row(tmp_path, student.trial_id)["init_sha256"] == changed != unfinished["init_sha256"]
    assert pd.isna(row(tmp_path, specs["at"].trial_id)["init_sha256"])
    assert list(_seen(Store(tmp_path), start.training_id)) == [("frl_reweight (seed 0)", "started from", changed)]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["/home/me/bin/run-bench", "run", "small"], "run-bench run small"),
        (["run-bench", "--results", "/home/me/store/"], "run-bench --results store"),
        (["run-bench", "--results=/home/me/my store"], "run-bench '--results=my store'"),
        (["run-bench", "results/runs/x", "~/y.yaml", "../z.yaml"], "run-bench x y.yaml z.yaml"),
        (["run-bench", "--set", "dataset.path=/home/me/x.npz"], "run-bench --set dataset.path=x.npz"),
        (["run-bench", "--eps", "8/255", "--set", "eps=8/255"], "run-bench --eps 8/255 --set eps=8/255"),
        (["run-bench", "--set", "teacher={model: cnn, file: /home/me/t.pt}"], "'teacher={model: cnn, file: t.pt}'"),
    ],
)
def test_the_command_is_kept_without_folders(words, says):
    assert provenance.command(words).endswith(says)
    assert "me/" not in provenance.command(words)


def test_a_worker_stores_the_command_of_the_process_that_made_its_job(tmp_path):
    spec = small_specs(tmp_path, "training.epochs=1")["at"]
    assert Workplace(tmp_path).command == provenance.command()
    list(trial_events(Job(spec, Workplace(tmp_path, command="run-bench run small")), lambda: False))
    assert row(tmp_path, spec.trial_id)["command"] == "run-bench run small"


def test_every_column_is_documented():
    text = (ROOT / "docs" / "results.md").read_text()
    for table, schema in TABLES.items():
        part = text.partition(f"### {table}")[2].partition("###")[0]
        missing = set(schema.names) - set(re.findall(r"[a-z][a-z0-9_]*", part)) - {"trial_id"}
        assert not missing, f"{table}: {missing}"


NEW = {
    "train_git_commit", "train_code_fingerprint", "train_versions", "train_device", "teacher_sha256", "train_cpu_s",
    "eval_cpu_s", "command", "init_sha256", "peak_reserved_mb",
}  # fmt: skip


def finished(root: Path, variant: str, seed: int = 0, **columns: Any) -> TrialSpec:
    spec = trial_spec(variant, seed)
    trial, rows = trial_tables(spec, per_class=10)
    Store(root).commit(trial | columns, rows)
    return spec


def test_a_store_without_the_newer_columns_is_read_with_nulls(tmp_path, monkeypatch):
    older = pa.schema([field for field in TABLES["trials"] if field.name not in NEW])
    monkeypatch.setitem(tables.TABLES, "trials", older)
    for seed in range(2):
        finished(tmp_path, "rslad", seed)
    monkeypatch.undo()
    store = Store(tmp_path)
    assert store.trials()[sorted(NEW)].isna().all(axis=None)
    assert verify(store.root).broken == {}
    assert leaderboard(read_results(store)).rows["seeds"].tolist() == [2]
    assert compact(store) == 2
    assert store.trials()[sorted(NEW)].isna().all(axis=None)


def test_a_report_names_other_numeric_code_only_within_a_table(tmp_path):
    finished(tmp_path, "rslad", code_fingerprint="a" * 12)
    finished(tmp_path, "absld", code_fingerprint="a" * 12, train_code_fingerprint="a" * 12)
    other = trial_spec("rslad", 0, eps=0.3)
    trial, rows = trial_tables(other, per_class=10)
    Store(tmp_path).commit(trial | {"code_fingerprint": "b" * 12}, rows)
    assert leaderboard(read_results(Store(tmp_path))).notes == []
    finished(tmp_path, "trades", code_fingerprint="a" * 12, train_code_fingerprint=f"{'a' * 12}, {'c' * 12}")
    (note,) = [text for text in leaderboard(read_results(Store(tmp_path))).notes if "numeric code" in text]
    assert "2 versions" in note
    assert f"{'c' * 12}: trades" in note
    assert "b" * 12 not in note


def test_status_names_other_numeric_code_where_a_run_would_add_to_it(tmp_path, monkeypatch):
    monkeypatch.setattr(listings, "code_fingerprint", lambda: "a" * 12)
    same = finished(tmp_path, "rslad", code_fingerprint="a" * 12, train_code_fingerprint="a" * 12)
    trained = finished(tmp_path, "absld", code_fingerprint="a" * 12, train_code_fingerprint="b" * 12)
    store, missing, elsewhere = Store(tmp_path), trial_spec("trades", 0), trial_spec("trades", 0, eps=0.3)

    def remarks(*specs: TrialSpec) -> list[str]:
        return [trial_states(store, specs)[spec.trial_id][1] for spec in (same, trained)]

    assert remarks(same, trained) == ["", ""]  # nothing would be added
    assert remarks(same, trained, elsewhere) == ["", ""]
    assert remarks(same, trained, missing) == ["", "made by other numeric code than the rest would be"]


def test_status_says_that_an_interrupted_trial_is_under_way_again(tmp_path):
    spec = trial_spec("rslad", 0)
    store, folder = Store(tmp_path), WorkingFolder(tmp_path, spec.training_id).path
    trial, _ = trial_tables(spec, per_class=10)
    store.commit(trial | {"status": "interrupted"}, {})
    folder.mkdir(parents=True)
    long_ago = time.time() - 3600
    os.utime(folder, (long_ago, long_ago))

    def state() -> str:
        return trial_states(store, [spec])[spec.trial_id][0]

    assert state() == "interrupted"
    with StoreLock(tmp_path):
        assert state() == "interrupted", "it waits, or this run is about others"
        (folder / "state.pt").touch()
        assert state() == "running"
    assert state() == "interrupted"
