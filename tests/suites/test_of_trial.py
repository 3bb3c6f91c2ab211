"""From a stored trial to a suite that makes it: the same identity, whatever the trial is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import methods
from harness.errors import InputError
from harness.spec import TrialSpec
from harness.suites.machine import for_this_machine
from harness.suites.of_trial import suite_of, suite_text
from harness.suites.plan import plan
from harness.suites.suite import load_suite, suite_names
from tests.small import SUITE, suite_file

TEACHERS: dict[str, Any] = {
    "natural_teacher": {"model": "cnn", "method": "natural", "training": {"lr": 0.03}, "variant": "plain"},
    "init": {"method": {"method": "trades", "beta": 3.0}, "seed": 4},
    "teacher": {"model": {"name": "wrn", "depth": 10, "normalization": "dataset"}, "training": {"nesterov": True}},
}
ODD: list[dict[str, Any]] = [
    {"methods": sorted(methods.METHODS), **TEACHERS},
    {
        "methods": [
            {"method": "absld", "temperature_rate": 0.3, "variant": "absld"},
            {"method": "absld", "weights": {"name": "kappa", "beta": 3}, "margins": "ccm"},
            {"method": "at", "training": {"weight_average": {"kind": "ema", "start_epoch": 0.5}, "momentum": 0}},
        ],
        "dataset": {"name": "digits", "train_images": 300, "imbalance": 0.5, "augment": {"crop": 2}, "title": "Mine"},
        "evaluation": {"attacks": ["clean", {"name": "pgd20", "steps": 7, "restarts": 2, "checkpoints": ["last"]}]},
        "seeds": [3],
        "split_seed": 5,
        "engine": "plain",
        "keep": ["last"],
        "resources": {"cpu": 2},
        "eps": "8/255",
    },
    {"teacher": {"model": "cnn", "file": "teacher.pt", "sha256": "ab" * 32, "weights": "ema"}, "methods": ["rslad"]},
    {"teacher": {"model": "cnn", "seeds": [0, 1]}, "methods": ["ard"]},
    {
        "methods": ["at"],
        "seeds": [0, 1],
        "evaluation": {"attacks": ["clean", {"name": "pgd20", "seeds": [1]}], "gradient_precision": "bfloat16"},
    },
    {"training": {**SUITE["training"], "running_statistics": "adversarial"}, "methods": ["at", "rslad"]},
]


def check(trials: list[TrialSpec], folder: Path) -> None:
    """Every trial is one of those that its suite makes, and what it learns from is trained by it."""
    known = {trial.trial_id: trial for trial in trials}
    for trial in trials:
        (folder / "again.yaml").write_text(suite_text(trial, trial.trial_id, known.get))
        made = {each.trial_id: each for each in plan(load_suite(str(folder / "again.yaml")))}
        assert trial.trial_id in made, (folder / "again.yaml").read_text()
        learnt = {source.training for source in trial.sources if source.training}
        assert learnt <= {each.training_id for each in made.values()}
        if trial.role == "student":
            again = made[trial.trial_id]
            assert (again.variant, again.resources, again.keep) == (trial.variant, trial.resources, trial.keep)
            assert again.dataset.label == trial.dataset.label


@pytest.mark.parametrize("name", sorted(suite_names()))
def test_every_trial_of_a_suite_that_comes_with_the_package(name: str, tmp_path: Path):
    suite = for_this_machine(load_suite(name, absent=[]), tmp_path)  # some have a teacher whose hash a user gives
    check(plan(suite, seeds=[suite.seeds[-1]]), tmp_path)


@pytest.mark.parametrize("changes", ODD)
def test_every_trial_of_an_odd_suite(changes: dict[str, Any], tmp_path: Path):
    check(plan(load_suite(suite_file(tmp_path, **changes))), tmp_path)


def test_what_else_is_to_be_known_stands_above(tmp_path: Path):
    teacher, student = plan(load_suite(suite_file(tmp_path, methods=["rslad"])))
    text = suite_text(student, "0123", {teacher.trial_id: teacher}.get)
    assert text.startswith("# Makes trial 0123: rslad, seed 0.\n# It was stored under an older numerics version")
    assert "# A teacher is made by a suite with a student" in suite_text(teacher, teacher.trial_id, lambda _: None)
    foreign = student.model_copy(update={"code": {"method:mine": "ab" * 32}})
    assert "# Needs code of others, --plugin FILE, by its sha256: method:mine abababababab.\n" in suite_text(
        foreign, foreign.trial_id, {teacher.trial_id: teacher}.get
    )


@pytest.mark.parametrize(
    "foreign", [{"name": "mine"}, {"weights": {"name": "mine", "rate": 2.0}}], ids=["method", "policy"]
)
def test_a_method_that_is_not_loaded_is_written_in_full(foreign: dict[str, Any], tmp_path: Path):
    teacher, student = plan(load_suite(suite_file(tmp_path, methods=["rslad"])))
    trial = student.model_copy(update={"method": {**student.method, **foreign}})
    (entry,) = suite_of(trial, {teacher.trial_id: teacher}.get)["methods"]
    kinds = {kind: trial.method[kind] for kind in ("labels", "weights", "margins")}
    expected = {"method": trial.method["name"], "variant": "rslad", **trial.method["settings"], **kinds}
    assert entry == expected


def test_what_no_suite_makes_is_said(tmp_path: Path):
    _, student = plan(load_suite(suite_file(tmp_path, methods=["rslad"])))
    with pytest.raises(InputError, match="the store has no row of trial"):
        suite_text(student, student.trial_id, lambda _: None)
    given = plan(load_suite(suite_file(tmp_path, **ODD[2])))[0].model_copy(update={"role": "evaluation"})
    with pytest.raises(InputError, match="no suite makes it"):
        suite_text(given, given.trial_id, lambda _: None)


def test_the_suite_is_as_short_as_defaults_allow(tmp_path: Path):
    teacher, student = plan(load_suite(suite_file(tmp_path, methods=["rslad"])))
    (tmp_path / "again.yaml").write_text(suite_text(student, student.trial_id, {teacher.trial_id: teacher}.get))
    again = load_suite(str(tmp_path / "again.yaml"))
    for key in ("dataset", "student", "teacher", "eps", "evaluation"):
        assert getattr(again, key) == SUITE[key]
    assert again.methods == ["rslad"]
