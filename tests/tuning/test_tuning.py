"""Searches: the grammar of spaces, the settings drawn, seeds side by side, a real search with Ray Tune, its report."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import subprocess
import sys
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from ray.exceptions import RayTaskError

import methods
from harness.errors import InfrastructureError, InputError
from harness.report import tuning as report
from harness.report.figures import tuning as figures_tuning
from harness.running.run import Options, run
from harness.running.stopping import RunControl, StopRequest
from harness.running.teachers import take_teachers, teachers_beside
from harness.running.worker import Job, Workplace, trial_events
from harness.spec import NUMERICS_VERSION, TrialSpec
from harness.statistics.registry import metric_info
from harness.store.store import Store
from harness.store.verify import verify
from harness.store.work import WorkingFolder
from harness.suites.machine import remember_machine
from harness.suites.plan import plan
from harness.suites.suite import load_suite
from harness.tuning import run as tuning_run
from harness.tuning.halving import rungs, survivors
from harness.tuning.journal import Journal, setting_of
from harness.tuning.listener import Listener
from harness.tuning.method import validation_counts
from harness.tuning.plan import TuningPlan, plan_tuning, snippet
from harness.tuning.ray_tune import _watch
from harness.tuning.report import write_comparison
from harness.tuning.run import run_tuning
from harness.tuning.setting import WORST, SettingJob, kept_row, setting_reports, stored_rows
from harness.tuning.space import Setting, draw, grid, read_space, short, split_entries
from methods.plugins import load_plugin
from tests.command import bench, refused
from tests.own_code import forgotten_afterwards
from tests.small import SUITE, suite_file
from tests.suites.test_earlier import commit
from tests.waiting import processes_of, wait_until

ROOT = Path(__file__).resolve().parents[2]
RATE = "temperature_rate=loguniform(0.01, 1)"


# The grammar


@pytest.mark.parametrize(
    ("text", "corners"),
    [
        ("loguniform(0.01,1)", [0.01, 1]),
        (" loguniform ( 1e-3 , 1 ) ", [0.001, 1]),
        ("uniform(-1, 2.5)", [-1, 2.5]),
        ("randint(2, 5)", [2, 5]),
        ("choice([[0.5,5],[0.25,10]])", [[0.5, 5], [0.25, 10]]),
        ("choice([none, kappa, 1e-2, true])", ["none", "kappa", 0.01, True]),
        ("choice(0.05, 0.1, 2e-1)", [0.05, 0.1, 0.2]),
        ("choice([0.5, 5], [0.25, 10])", [[0.5, 5], [0.25, 10]]),
    ],
)
def test_a_distribution_is_read(text: str, corners: list[Any]) -> None:
    assert read_space({"key": text})["key"].corners == corners


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("loguniform(0, 1)", "above 0"),
        ("loguniform(1, 0.1)", "must be below"),
        ("uniform(1)", "two finite numbers"),
        ("uniform(a, b)", "two finite numbers"),
        ("uniform(1, .inf)", "two finite numbers"),
        ("randint(1, 2.5)", "two whole numbers"),
        ("lognormal(0, 1)", "unknown distribution"),
        ("choice(1)", "or one list"),
        ("choice()", "at least one value"),
        ("choice([])", "at least one value"),
        ("choice([1, 1])", "twice"),
        ("choice([1, 2)", "not valid YAML|cannot read"),
        ("__import__('os').system('true')", "not valid YAML|cannot read"),
        ("choice([!!python/object/apply:os.system [true]])", "not valid YAML|cannot read"),
        ("0.5", "not valid YAML|cannot read"),
        (0.5, "not valid YAML|cannot read"),
    ],
)
def test_what_is_outside_the_grammar_is_refused(text: Any, complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        read_space({"key": text})


def test_draws_repeat_differ_and_begin_alike() -> None:
    space = read_space({"rate": "loguniform(0.01, 1)", "steps": "randint(1, 3)"})
    few, many = draw(space, 5, 0), draw(space, 50, 0)
    assert many[:5] == few
    assert draw(space, 5, 1) != few
    assert len({json.dumps(values) for values in many}) == 50
    assert all(float(f"{values['rate']:.6g}") == values["rate"] for values in many)


def test_of_a_space_with_too_few_settings_all_are_drawn() -> None:
    found = draw(read_space({"a": "randint(1, 3)", "b": "choice([x, y])"}), 7, 0)
    assert len({json.dumps(values) for values in found}) == len(found) == 6


def test_a_space_from_the_command_line_is_that_of_a_suite() -> None:
    texts = ["training.lr=choice(0.1, 0.2)", "absld: temperature_rate = uniform(0, 1)", "absld:training.lr=choice([1])"]
    assert split_entries(texts) == {
        "training.lr": "choice(0.1, 0.2)",
        "absld": {"temperature_rate": "uniform(0, 1)", "training.lr": "choice([1])"},
    }


@pytest.mark.parametrize(
    ("text", "cumulative"),
    [
        ("uniform(2, 6)", lambda x: (x - 2) / 4),
        ("loguniform(0.01, 1)", lambda x: math.log(x / 0.01) / math.log(100)),
    ],
)
def test_draws_follow_their_distribution(text: str, cumulative: Any) -> None:
    count = 2000
    values = np.sort([each["key"] for each in draw(read_space({"key": text}), count, 3)])
    expected = np.array([cumulative(value) for value in values])
    distance = np.abs(expected - np.arange(1, count + 1) / count).max()
    assert distance < 1.63 / math.sqrt(count)  # Kolmogorov-Smirnov, 1 %


def test_whole_numbers_include_both_ends() -> None:
    values = [draw(read_space({"key": "randint(2, 4)"}), 1, seed)[0]["key"] for seed in range(300)]
    counts = np.bincount(values, minlength=5)
    assert counts[:2].sum() == 0
    assert counts[2:].sum() == 300
    assert (abs(counts[2:] - 100) < 40).all()


def test_a_grid_is_even_and_no_larger_than_asked() -> None:
    space = read_space({"rate": "loguniform(0.01, 1)", "range": "choice([[1, 2], [3, 4]])", "steps": "randint(1, 9)"})
    found = grid(space, 20, 0)
    assert len(found) == 18  # 2 choices, and 3 x 3 of the ranges
    assert sorted({values["rate"] for values in found}) == [0.01, 0.1, 1.0]
    assert sorted({values["steps"] for values in found}) == [1, 5, 9]
    assert [values["rate"] for values in found] != sorted(values["rate"] for values in found)
    with pytest.raises(InputError, match="at least 2 settings"):
        grid(space, 1, 0)


# Plans


def tuning_of(folder: Path, *spaces: str, overrides: tuple[str, ...] = (), **given: Any) -> TuningPlan:
    values = {"methods": "absld", "space": list(spaces) or [RATE], "seeds": 2, "trials": 3, **given}
    return plan_tuning(suite_file(folder), values, overrides=overrides, results=folder / "store")


def specs_of(tuning: TuningPlan, rate: float) -> list[TrialSpec]:
    return tuning.specs(Setting("absld", {"temperature_rate": rate}))


def test_settings_are_ordinary_trials_without_test_images(tmp_path: Path) -> None:
    tuning = tuning_of(tmp_path)
    specs = specs_of(tuning, 0.3)
    entry = {"method": "absld", "temperature_rate": 0.3}
    suite = load_suite(suite_file(tmp_path)).model_copy(update={"methods": [entry]})
    whole = [spec for spec in plan(suite, seeds=[1000, 1001]) if spec.role == "student"]
    assert [spec.training_id for spec in specs] == [spec.training_id for spec in whole]
    assert not {spec.trial_id for spec in specs} & {spec.trial_id for spec in whole}
    assert all(spec.evaluation.attacks == () for spec in specs)
    compared = tuning.comparison({"absld": {"temperature_rate": 0.3}})
    assert {spec.seed for spec in compared if spec.role == "student"} == {0, 1, 2}
    assert not {spec.seed for spec in compared} & set(tuning.seeds)


def test_the_command_line_wins_over_the_suite(tmp_path: Path) -> None:
    block = {
        "methods": ["absld"],
        "space": {"temperature_rate": "uniform(0, 1)"},
        "trials": 7,
        "metric": "val_robust_nsd",
    }
    path = suite_file(tmp_path, tune=block)
    tuning = plan_tuning(path, {"trials": 4, "space": None}, results=tmp_path / "store")
    assert (tuning.trials, tuning.options.direction) == (4, "min")
    assert tuning.searched["absld"].keys == ["temperature_rate"]


def test_the_identity_is_of_what_decides_the_trials(tmp_path: Path) -> None:
    first = tuning_of(tmp_path, scheduler="none").tuning_id
    assert tuning_of(tmp_path, scheduler="none", trials=9, compare_seeds=0).tuning_id == first
    assert tuning_of(tmp_path, scheduler="none", overrides=("evaluation.attacks=[clean]",)).tuning_id == first
    others = [
        tuning_of(tmp_path), tuning_of(tmp_path, trials=9), tuning_of(tmp_path, seeds=1), tuning_of(tmp_path, epochs=1),
        tuning_of(tmp_path, search_seed=1), tuning_of(tmp_path, with_default=True),
        tuning_of(tmp_path, methods="absld,rslad"), tuning_of(tmp_path, "temperature_rate=uniform(0.01, 1)"),
        tuning_of(tmp_path, overrides=("training.lr=0.2",)),
    ]  # fmt: skip
    assert len({first, *(tuning.tuning_id for tuning in others)}) == 10


def test_keys_reach_policies_and_variants_are_a_base(tmp_path: Path) -> None:
    tuning = tuning_of(tmp_path, "labels.temperature_rate=uniform(0, 1)", "weights=choice([none, kappa])")
    spec = tuning.searched["absld"].specs({"labels.temperature_rate": 0.5, "weights": "kappa"})[0]
    assert spec.method is not None
    assert (spec.method["labels"]["temperature_rate"], spec.method["weights"]["name"]) == (0.5, "kappa")
    assert tuning.searched["absld"].defaults == {"labels.temperature_rate": 0.1, "weights": "none"}
    path = suite_file(tmp_path, methods=["at", {"method": "absld", "temperature_init": 2.0, "variant": "warm"}])
    given = {"methods": "warm", "space": [RATE]}
    warm = plan_tuning(path, given, results=tmp_path / "store").searched["warm"].specs({"temperature_rate": 0.5})[0]
    assert warm.method is not None
    assert warm.method["labels"]["temperature_init"] == 2.0


BAD = [
    (["--space", "temperature_rat=uniform(0,1)"], "did you mean temperature_rate"),
    (["--space", "temperature_rate=uniform(-1,1)"], "temperature_rate must be at least 0"),
    (["--space", "temperature_rate=choice([fast])"], "temperature_rate must be a float, not 'fast'"),
    (["--space", "temperature_range=choice([1, 2])"], "temperature_range must be a list of 2 numbers"),
    (["--space", "trainin.lr=uniform(0.1,1)"], "a key is a hyper-parameter of the method"),
    (["--space", "training.lrr=uniform(0.1,1)"], "did you mean lr"),
    (["--space", "training.epochs=choice(1,2)"], "the same number of epochs"),
    (["--space", "absld: kd_reductio=choice(a, b)"], "did you mean kd_reduction"),
    (["--space", "abslt: temperature_rate=uniform(0,1)"], "did you mean absld"),
    (["--space", ": temperature_rate=uniform(0,1)"], "write key=loguniform"),
    (["--space", "labels=choice([class_temperature, hard])"], "learns from other teachers"),
    (["--space", "temperature_rate"], "write key=loguniform"),
    (["--space", RATE, "--space", RATE], "given twice"),
    ([], "space is missing"),
    (["--space", RATE, "--method", "absd"], "did you mean absld"),
    (["--space", RATE, "--metric", "val_robust_wrst"], "did you mean val_robust_worst"),
    (["--space", RATE, "--metric", "overall"], "one of your own: --plugin FILE"),
    (["--space", RATE, "--search", "bayes"], "'random', 'grid', 'list' or 'tpe'"),
    (["--space", RATE, "--scheduler", "pbt"], "'halving', 'asha', 'median' or 'none'"),
    (["--space", RATE, "--search", "tpe", "--scheduler", "halving"], "known beforehand"),
    (["--space", RATE, "--search", "grid", "--with-default"], "goes with search random"),
    (["--space", RATE, "--search", "list"], "goes with 'settings'"),
    (["--space", RATE, "--method", "absld,at,absld"], "absld is listed twice"),
    (["--space", RATE, "--epochs", "1", "--set", "training.milestones=[1]"], "as fractions of training"),
    (["--space", RATE, "--trials", "0"], "trials"),
    (["--space", RATE, "--grace", "9"], "at most the 2 epochs"),
    (["--space", RATE, "--workers", "0"], "greater than or equal to 1"),
    (["--space", "start_epoch=choice([0, 1])", "--trials", "3"], "only 2 different settings"),
]


@pytest.mark.parametrize(("words", "complaint"), BAD)
def test_bad_input_is_one_line_and_writes_nothing(words: list[str], complaint: str, tmp_path: Path) -> None:
    suite_file(tmp_path)
    method = [] if "--method" in words else ["--method", "absld"]
    assert complaint in refused("tune", "small.yaml", *method, *words, cwd=tmp_path)


# Several methods


METHODS = "at,rslad,absld"
SHARED = ("training.lr=choice(0.02, 0.05, 0.1)", "kd_reduction=choice(tenth_sum, class_sum)", f"absld: {RATE}")


def test_every_method_has_as_many_tries_of_what_concerns_it(tmp_path: Path) -> None:
    tuning = tuning_of(tmp_path, *SHARED, methods=METHODS, trials=4, seeds=1)
    keys = {name: method.keys for name, method in tuning.searched.items()}
    assert keys == {
        "at": ["training.lr"],
        "rslad": ["training.lr", "kd_reduction"],
        "absld": ["training.lr", "kd_reduction", "temperature_rate"],
    }
    assert tuning.tries == {"at": 3, "rslad": 4, "absld": 4}  # AT has no more
    assert all(set(setting.values) == set(keys[setting.method]) for setting in tuning.settings)
    for setting in tuning.settings:
        [spec] = tuning.specs(setting)
        assert spec.training is not None
        assert spec.training.lr == setting.values["training.lr"]
    trainings = [spec.training_id for setting in tuning.settings for spec in tuning.specs(setting)]
    assert len(set(trainings)) == 11


def test_a_policys_key_concerns_the_methods_that_have_the_policy(tmp_path: Path) -> None:
    spaces = ("labels.temperature_rate=uniform(0, 1)", "training.lr=choice(0.1, 0.2)")
    tuning = tuning_of(tmp_path, *spaces, methods="at,absld", trials=2)
    assert [method.keys for method in tuning.searched.values()] == [
        ["training.lr"], ["labels.temperature_rate", "training.lr"]
    ]  # fmt: skip
    chosen = tuning_of(tmp_path, "weights=choice([kappa])", "weights.beta=uniform(1, 3)", methods="absld", trials=2)
    assert chosen.searched["absld"].keys == ["weights", "weights.beta"]


def test_a_method_beside_changes_no_draw(tmp_path: Path) -> None:
    alone = tuning_of(tmp_path, *SHARED, methods="absld", trials=4).searched["absld"].settings
    beside = tuning_of(tmp_path, *SHARED, methods=METHODS, trials=4).searched["absld"].settings
    assert alone == beside
    assert tuning_of(tmp_path, *SHARED, methods="absld", trials=6).searched["absld"].settings[:4] == alone


def test_the_first_try_can_be_the_default_and_counts(tmp_path: Path) -> None:
    spaces = ("training.lr=choice(0.02, 0.05, 0.1)", "temperature_rate=choice(0.1, 0.2)")
    lr = ("training.lr=0.05",)
    tuning = tuning_of(tmp_path, *spaces, methods="at,absld", trials=4, with_default=True, overrides=lr)
    assert tuning.tries == {"at": 3, "absld": 4}
    assert tuning.searched["absld"].settings[0] == {"training.lr": 0.05, "temperature_rate": 0.1}
    for method in tuning.searched.values():
        first = method.specs(method.settings[0])
        assert [spec.training_id for spec in first] == [spec.training_id for spec in method.bases]
    drawn = tuning_of(tmp_path, *spaces, trials=4, overrides=lr).searched["absld"].settings
    others = [values for values in drawn if values != tuning.searched["absld"].settings[0]]
    assert list(tuning.searched["absld"].settings[1:]) == others[:3]


def test_settings_can_be_given(tmp_path: Path) -> None:
    settings = {"at": [{}, {"training.lr": 0.02}], "absld": [{"temperature_rate": 0.3}, {"training.lr": 0.02}]}
    path = suite_file(tmp_path, tune={"methods": ["at", "absld"], "settings": settings, "seeds": 1})
    tuning = plan_tuning(path, {}, results=tmp_path / "store")
    assert (tuning.options.search, tuning.tries) == ("list", {"at": 2, "absld": 2})
    assert tuning.specs(tuning.settings[0]) == list(tuning.searched["at"].bases)
    assert tuning.searched["absld"].keys == ["temperature_rate", "training.lr"]
    for wrong, complaint in (
        ({"at": settings["at"]}, "a list for each of at, absld"),
        ({**settings, "at": [{}]}, "as many tries for every method"),
        ({**settings, "at": [{}, {"training.lr": 0.05}]}, "two of at are the same training"),
        ({**settings, "at": [{}, {"kd_reduction": "class_sum"}]}, "kd_reduction"),
    ):
        path = suite_file(tmp_path, tune={"methods": ["at", "absld"], "settings": wrong})
        with pytest.raises(InputError, match=complaint):
            plan_tuning(path, {}, results=tmp_path / "store")


def test_some_of_the_methods_of_a_block_can_be_searched(tmp_path: Path) -> None:
    """What the block says of the others is left aside; a slip in it is one all the same."""
    settings = {"at": [{}, {"training.lr": 0.02}], "absld": [{}, {"temperature_rate": 0.3}]}
    path = suite_file(tmp_path, tune={"methods": ["at", "absld"], "settings": settings, "seeds": 1})
    tuning = plan_tuning(path, {"methods": "absld"}, results=tmp_path / "store")
    assert tuning.tries == {"absld": 2}
    space = {"training.lr": "choice(0.02, 0.1)", "absld": {"temperature_rate": "choice(0.1, 0.3)"}}
    path = suite_file(tmp_path, tune={"methods": ["at", "absld"], "space": space, "search": "grid"})
    assert plan_tuning(path, {"methods": "at"}, results=tmp_path / "store").tries == {"at": 2}
    assert plan_tuning(path, {"methods": "absld"}, results=tmp_path / "store").tries == {"absld": 4}
    texts = [
        "kd_reduction=choice(class_sum, tenth_sum)",
        "training.lr=choice(0.02, 0.1)",
        "absld: temperature_rate=0.3",
    ]
    path = suite_file(tmp_path, tune={"methods": ["at", "absld"], "space": texts, "search": "grid"})
    tuning = plan_tuning(path, {"methods": "at"}, results=tmp_path / "store")
    assert tuning.searched["at"].keys == ["training.lr"]
    with pytest.raises(InputError, match="kd_reduction"):
        plan_tuning(path, {"methods": "at", "space": texts[:2]}, results=tmp_path / "store")
    path = suite_file(
        tmp_path,
        tune={"methods": ["at", "absld"], "space": {**space, "abslt": {"temperature_rate": "choice(0.1, 0.3)"}}},
    )
    with pytest.raises(InputError, match="unknown method in space 'abslt'"):
        plan_tuning(path, {"methods": "at"}, results=tmp_path / "store")
    path = suite_file(tmp_path, tune={"methods": 0.5, "space": space})
    for given, complaint in (({}, "methods"), ({"methods": "at"}, "unknown method in space 'absld'")):
        with pytest.raises(InputError, match=complaint):
            plan_tuning(path, given, results=tmp_path / "store")


def test_seeds_of_a_search_are_its_own(tmp_path: Path) -> None:
    path = suite_file(tmp_path, seeds=[0, 1000], methods=["at", {"method": "rslad", "seeds": [5, 1002]}])
    tuning = plan_tuning(path, {"methods": "at", "space": ["training.lr=choice(0.1, 0.2)"], "trials": 2, "seeds": 3})
    assert tuning.seeds == [1001, 1003, 1004]
    assert tuning.comparison_seeds == [0, 1000, 1002]


def test_shorter_trainings_keep_their_shape_teacher_and_comparison_their_length(tmp_path: Path) -> None:
    overrides = ("training.epochs=12", "training.milestones=[0.5, 0.75]")
    tuning = tuning_of(tmp_path, "training.lr=choice(0.1, 0.2)", trials=2, epochs=4, overrides=overrides)
    spec = tuning.specs(tuning.settings[0])[0]
    assert spec.training is not None
    assert (spec.training.epochs, spec.training.milestones) == (4, (2, 3))
    assert [each.training.epochs for each in tuning.teachers if each.training] == [12]
    compared = tuning.comparison({"absld": tuning.settings[0].values})
    assert {each.training.epochs for each in compared if each.training} == {12}
    assert tuning.teachers[0].trial_id in {each.trial_id for each in compared}


def test_the_default_is_written_as_the_suite_has_it(tmp_path: Path) -> None:
    """Its milestones are fractions there, and were epochs of the shorter search here."""
    overrides = ("training.epochs=12", "training.milestones=[0.5, 0.75]")
    tuning = tuning_of(
        tmp_path,
        "training.milestones=choice([0.5], [0.75])",
        trials=3,
        epochs=4,
        with_default=True,
        overrides=overrides,
    )
    best = tuning.searched["absld"].settings[0]
    assert best == {"training.milestones": [2, 3]}
    (entry,) = yaml.safe_load(snippet(tuning, {"absld": {**best, "training.lr": 0.05}}, []))["methods"]
    assert entry["training"] == {"lr": 0.05}
    again = load_suite(suite_file(tmp_path), [*overrides, f"methods={json.dumps([entry])}"])
    assert {spec.training.milestones for spec in plan(again) if spec.training} == {(6, 9)}


@pytest.mark.parametrize(
    "space",
    ["training.milestones=choice([1], [0.5])", "labels.start_epoch=choice(0, 1)", "weights.start_epoch=choice(1, 0.5)"],
)
def test_a_space_of_epochs_does_not_go_with_shorter_trainings(space: str, tmp_path: Path) -> None:
    spaces, whole = (space, "weights=choice([kappa])"), ("training.epochs=12",)
    with pytest.raises(InputError, match="needs milestones and start epochs as fractions of training"):
        tuning_of(tmp_path, *spaces, epochs=4, trials=2, overrides=whole)
    assert tuning_of(tmp_path, *spaces, trials=2, overrides=whole).tries == {"absld": 2}


def test_a_policy_comes_before_its_settings_in_whatever_order_they_are_asked_for(tmp_path: Path) -> None:
    texts = ("weights.beta=uniform(1, 5)", "weights=choice([kappa])")
    for spaces in (texts, texts[::-1]):
        method = tuning_of(tmp_path, *spaces, search="grid", trials=4).searched["absld"]
        betas = {spec.method["weights"]["beta"] for values in method.settings for spec in method.specs(values)}
        assert len(betas) == len(method.settings) == 4


def test_tries_are_drawn_until_so_many_trainings_differ(tmp_path: Path) -> None:
    """Without a milestone the decay decides nothing."""
    spaces = ("training.milestones=choice([], [0.5])", "training.decay=uniform(0.05, 0.5)")
    tuning = tuning_of(tmp_path, *spaces, trials=10, methods="absld,rslad", overrides=("training.epochs=4",))
    assert tuning.tries == {"absld": 10, "rslad": 10}
    for method in tuning.searched.values():
        assert len({method.training_of(values) for values in method.settings}) == 10
    fewer = tuning_of(tmp_path, *spaces, trials=4, methods="absld", overrides=("training.epochs=4",))
    assert fewer.searched["absld"].settings == tuning.searched["absld"].settings[:4]


def test_a_default_that_is_best_is_said_and_compared_with_nothing(tmp_path: Path) -> None:
    tuning = tuning_of(tmp_path, trials=2, with_default=True)
    best = {"absld": tuning.searched["absld"].defaults}
    assert tuning.comparison(best) == []
    tuning.folder.mkdir(parents=True)
    sentences, [path] = write_comparison(tuning, best, [])
    assert sentences == ["The default of absld is its best setting: nothing to compare."]
    assert sentences[0] in path.read_text()


def test_what_a_search_would_run_is_listed(tmp_path: Path) -> None:
    suite_file(tmp_path)
    spaces = [word for space in SHARED for word in ("--space", space)]
    words = ["--methods", METHODS, *spaces, "--trials", "4", "--seeds", "2", "--dry-run"]
    before = sorted(tmp_path.rglob("*"))
    lines = bench("tune", "small.yaml", *words, cwd=tmp_path).stdout.splitlines()
    assert sorted(tmp_path.rglob("*")) == before
    assert sum(line.endswith("2 missing") for line in lines) == 11
    assert any("temperature_rate=0." in line for line in lines)
    assert any("11 settings (at 3, rslad 4, absld 4), 22 trials" in line for line in lines)


# Halving


@pytest.mark.parametrize("epochs", [1, 2, 3, 4, 5, 10, 20, 25, 50, 100, 200, 300])
def test_by_default_halving_cuts_once_after_a_third(tmp_path: Path, epochs: int) -> None:
    tuning = tuning_of(tmp_path, overrides=(f"training.epochs={epochs}", "training.milestones=[]"))
    assert len(tuning.rungs) == (epochs > 1)
    assert all(0 <= 3 * rung - epochs < 3 for rung in tuning.rungs)


def test_rungs_are_three_times_apart_and_before_the_end() -> None:
    assert rungs(1, 9) == [1, 3]
    assert rungs(3, 30) == [3, 9, 27]
    assert rungs(9, 9) == []


def curves(*ends: tuple[float, float]) -> dict[str, list[tuple[float, float]]]:
    """One epoch of settings a, b, .. with these metrics and averages."""
    return {chr(ord("a") + place): [end] for place, end in enumerate(ends)}


@pytest.mark.parametrize(
    ("ends", "mode", "kept"),
    [
        ([(0.1 * place, 0.5) for place in range(9)], "max", "ghi"),
        ([(0.1 * place, 0.5) for place in range(9)], "min", "abc"),
        ([(0.1 * place, 0.5) for place in range(5)], "max", "de"),  # two where a third is less
        ([(0.0, 0.01 * place) for place in range(9)], "max", "ghi"),  # the average decides between equals
        ([(0.0, 0.2)] * 9, "max", "abcdefghi"),  # nothing is told yet, nobody is cut
        ([(0.3, 0.1), (0.2, 0.1), (0.1, 0.1), (0.1, 0.1)], "max", "ab"),
        ([(0.3, 0.1), (0.1, 0.1), (0.1, 0.1), (0.0, 0.1)], "max", "abc"),  # equals at the cut stay
    ],
)
def test_the_best_third_goes_on(ends: list[tuple[float, float]], mode: str, kept: str) -> None:
    found = curves(*ends)
    assert survivors(found, 1, mode) == set(kept)
    assert survivors(dict(reversed(found.items())), 1, mode) == set(kept)


def test_those_that_were_cut_before_are_not_counted() -> None:
    found = curves(*[(0.1 * place, 0.5) for place in range(9)])
    longer = {key: found[key] * 3 for key in "ghi"}
    assert survivors({**found, **longer}, 3, "max") == {"h", "i"}


def test_tpe_without_optuna_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.tuning.ray_tune.find_spec", lambda name: None)
    with pytest.raises(InputError, match="pip install"):
        run_tuning(tuning_of(tmp_path, search="tpe"))
    assert not (tmp_path / "store").exists()


# Seeds side by side


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[TuningPlan, list[dict[str, Any]]]:
    """A setting trained to its end without Ray, and its reports."""
    tuning = tuning_of(tmp_path_factory.mktemp("trained"))
    run(tuning.teachers, tuning.store, options=Options(serial=True, minimum_free_bytes=0))
    return tuning, list(setting_reports(job_of(tuning), at_rate(0.3), lambda: False))


def job_of(tuning: TuningPlan, until: int = 2, plugins: tuple[str, ...] = (), **changes: Any) -> SettingJob:
    options = tuning.options
    return SettingJob(
        Workplace(tuning.store.root, plugins=plugins), tuning.searched, until, options.metric, options.direction,
        tuning.tuning_id, **changes,
    )  # fmt: skip


def at_rate(rate: float) -> Setting:
    return Setting("absld", {"temperature_rate": rate})


def test_a_report_is_the_mean_of_the_seeds(trained: tuple[TuningPlan, list[dict[str, Any]]]) -> None:
    tuning, reports = trained
    specs = specs_of(tuning, 0.3)
    assert [each["epoch"] for each in reports] == [1, 2]
    rows = {spec.seed: stored_rows(tuning.store, spec.trial_id) for spec in specs}
    for each in reports:
        kept = {seed: kept_row(found[: each["epoch"]]) for seed, found in rows.items()}
        by_seed = {f"seed_{seed}": kept[seed]["selection_score"] for seed in (1000, 1001)}
        assert each["by_seed"] == by_seed
        assert each["objective"] == pytest.approx(sum(by_seed.values()) / 2)
        assert each["metrics"]["val_robust_nsd"] == pytest.approx(
            np.mean([row["val_robust_nsd"] for row in kept.values()]), nan_ok=True
        )


COUNTED = """
from harness.statistics.registry import metric


@metric("counted", percent=False, up=False)
def counted(accuracy, counts):
    return (counts * accuracy).sum() + 1000 * len(counts)
"""


@pytest.mark.parametrize("metric", ["gini", "worst_3", "counted"])
def test_a_search_goes_by_any_metric_of_the_classes(
    trained: tuple[TuningPlan, list[dict[str, Any]]], metric: str, tmp_path: Path
) -> None:
    """Of what is stored, and of what is trained just now."""
    (tmp_path / "mine.py").write_text(COUNTED)
    with forgotten_afterwards():
        load_plugin(str(tmp_path / "mine.py"))
        tuning = tuning_of(trained[0].store.root.parent, metric=metric)
        assert tuning.options.direction == ("max" if metric == "worst_3" else "min")
        counts = validation_counts(tuning.bases[0])
        assert counts is not None
        assert counts.tolist() == [14] * 10
        fresh = {"gini": 0.31, "worst_3": 0.32, "counted": 0.33}[metric]
        for rate in (0.3, fresh):
            reports = list(setting_reports(job_of(tuning), at_rate(rate), lambda: False))
            specs = specs_of(tuning, rate)
            state = tuning.store.read("class_state", [spec.trial_id for spec in specs])
            robust = state[state["quantity"].astype(str) == "val_robust"]
            for each in reports:
                wanted = {}
                for spec in specs:
                    epoch = kept_row(stored_rows(tuning.store, spec.trial_id)[: each["epoch"]])["epoch"]
                    at = robust[(robust["trial_id"].astype(str) == spec.trial_id) & (robust["epoch"] == epoch)]
                    accuracy = at.sort_values("class_index")["value"].to_numpy()
                    wanted[f"seed_{spec.seed}"] = float(metric_info(metric).values(accuracy, counts))
                assert each["by_seed"] == pytest.approx(wanted)
                assert each["objective"] == pytest.approx(np.mean(list(wanted.values())))
        epochs = tuning.store.read("epochs", [spec.trial_id for spec in specs])
        found = report.with_metric(epochs, state, metric, counts)
        assert found[metric].notna().all()
        runs = pd.DataFrame({"trial_id": [spec.trial_id for spec in specs], "seed": [spec.seed for spec in specs]})
        runs = runs.assign(setting=0, status="done", epochs=2, cpu_s=1.0)
        table = report.settings_table(runs, found, metric, tuning.options.direction)
        assert table["mean"].iloc[0] == pytest.approx(reports[-1]["objective"])
        before = tuning.tuning_id
    (tmp_path / "mine.py").write_text(COUNTED + "# edited\n")
    with forgotten_afterwards():
        load_plugin(str(tmp_path / "mine.py"))
        again = tuning_of(trained[0].store.root.parent, metric=metric)
        assert (again.tuning_id != before) == (metric == "counted")


def test_its_trials_are_done_and_have_no_class_rows(trained: tuple[TuningPlan, list[dict[str, Any]]]) -> None:
    tuning, _ = trained
    ids = [spec.trial_id for spec in specs_of(tuning, 0.3)]
    rows = tuning.store.read("trials", ids)
    assert list(rows["status"]) == ["done", "done"]
    assert set(rows["tuning_id"]) == {tuning.tuning_id}
    assert tuning.store.read("class_accuracy", ids).empty
    assert tuning.store.read("outcomes", ids).empty
    assert len(tuning.store.read("epochs", ids)) == 4
    assert verify(tuning.store.root).broken == {}
    assert not tuning.store.trials(["tuning_id"])["tuning_id"].isna().all()
    assert bench("report", str(tuning.store.root), cwd=tuning.store.root).returncode == 0


def test_what_is_there_is_reported_again_and_not_trained(trained: tuple[TuningPlan, list[dict[str, Any]]]) -> None:
    tuning, reports = trained
    again = list(setting_reports(job_of(tuning), at_rate(0.3), lambda: True))
    assert [{**each, "reused": 0} for each in again] == reports
    assert {each["reused"] for each in again} == {4}


def test_a_setting_that_is_stopped_goes_on_where_it_was(trained: tuple[TuningPlan, list[dict[str, Any]]]) -> None:
    tuning, _ = trained
    setting = at_rate(0.7)
    [first] = setting_reports(job_of(tuning, until=1), setting, lambda: False)
    stopped = {"status": "stopped", "epochs": 1}
    replayed = list(setting_reports(job_of(tuning, settled={setting.key: stopped}), setting, lambda: True))
    assert replayed == [{**first, "reused": 2}]
    half = setting_reports(job_of(tuning), at_rate(0.8), lambda: False)
    next(half)
    half.close()  # what a scheduler's decision does
    reports = list(setting_reports(job_of(tuning), setting, lambda: False))
    assert [each["epoch"] for each in reports] == [1, 2]
    assert {**reports[0], "reused": 0} == first


def test_a_failure_is_stored_and_reported(
    trained: tuple[TuningPlan, list[dict[str, Any]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    tuning, _ = trained
    specs = specs_of(tuning, 0.9)
    original = setting_reports.__globals__["run_trial"]

    def failing(spec: Any, *arguments: Any, **options: Any) -> Any:
        if spec.trial_id == specs[1].trial_id:
            raise FloatingPointError("the loss is nan")
        return original(spec, *arguments, **options)

    monkeypatch.setattr("harness.tuning.setting.run_trial", lambda *a, **o: (yield from failing(*a, **o)))
    reports = list(setting_reports(job_of(tuning), at_rate(0.9), lambda: False))
    assert reports[-1]["failed"] == "seed 1001: FloatingPointError: the loss is nan"
    assert reports[-1]["objective"] == WORST["max"] < -1e6, "no metric is as low"
    rows = tuning.store.read("trials", [spec.trial_id for spec in specs]).set_index("trial_id")
    assert rows.loc[specs[1].trial_id, "status"] == "failed"
    assert "Traceback" in rows.loc[specs[1].trial_id, "error"]
    assert rows.loc[specs[0].trial_id, "status"] == "stopped"
    assert len(tuning.store.read("epochs", [specs[0].trial_id])) == 1


def test_a_worker_with_other_code_settles_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its setting is raised for another process; where none can run it, it stays open and the search ends."""
    tuning, setting = tuning_of(tmp_path), at_rate(0.4)
    tuning.store.prepare()
    monkeypatch.setattr(methods, "code_of", lambda resolved: {"method:absld": "edited"})
    with pytest.raises(InfrastructureError, match="the plugin was edited") as raised:
        list(setting_reports(job_of(tuning), setting, lambda: False))
    assert tuning.store.statuses() == {}
    journal = Journal(tuning.folder)
    journal.begin(tuning.facts, [setting])
    listener = Listener(tuning, journal, lambda: False, lambda text: None, None)
    control = RunControl(tuning.store.root)
    with StopRequest() as request:
        listener.heed(request, control)
        listener.started("trial", {"setting": setting._asdict()})
        error = RayTaskError("setting", "Traceback", raised.value)
        trial = SimpleNamespace(trial_id="trial", get_pickled_error=lambda: error)
        _watch(listener).on_trial_error(0, [], trial)
    control.close()
    assert [entry["status"] for entry in Journal(tuning.folder).entries] == ["open"]
    assert "the plugin was edited" in str(listener.stop_reason)
    assert "failed" not in tuning.store.statuses().values()


def test_a_worker_that_cannot_load_a_plugin_settles_nothing(tmp_path: Path) -> None:
    """Be it as a try of a search or as a trial of a run."""
    tuning, gone = tuning_of(tmp_path), str(tmp_path / "gone.py")
    tuning.store.prepare()
    with pytest.raises(InfrastructureError, match=r"gone\.py cannot be read: .*nothing was computed"):
        list(setting_reports(job_of(tuning, plugins=(gone,)), at_rate(0.4), lambda: False))
    assert tuning.store.statuses() == {}
    job = Job(tuning.teachers[0], Workplace(tuning.store.root, plugins=(gone,)))
    *_, error = trial_events(job, lambda: False)
    assert (error["event"], error["kind"]) == ("error", "infrastructure")


@pytest.mark.parametrize("rows", [True, False])
def test_a_finished_teacher_is_taken_over(
    trained: tuple[TuningPlan, list[dict[str, Any]]], tmp_path: Path, rows: bool
) -> None:
    tuning, _ = trained
    spec, target = tuning.teachers[0], Store(tmp_path / "target").prepare()
    source = tmp_path / "source"
    shutil.copytree(tuning.store.root, source)
    if not rows:  # trained, and never evaluated
        shutil.rmtree(source / "trials")
    (found,) = teachers_beside(tuning.teachers, [tmp_path / "nowhere", source, tuning.store.root], target)
    assert (found.origin.root, found.evaluated) == (source, rows)
    take_teachers([found], target)
    assert target.has(spec.trial_id) is rows
    assert teachers_beside(tuning.teachers, [tuning.store.root], target) == []
    if not rows:
        return
    assert target.has(spec.trial_id)
    pd.testing.assert_frame_equal(
        target.read("class_accuracy", [spec.trial_id]), tuning.store.read("class_accuracy", [spec.trial_id])
    )
    weights = [store.root / "work" / spec.training_id / "best_validation.pt" for store in (target, tuning.store)]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    assert verify(target.root).broken == {}


def test_a_search_does_not_mix_with_an_older_numerics_version_unasked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tuning = tuning_of(tmp_path)
    commit([*tuning.teachers, *tuning.bases], tuning.store.root, NUMERICS_VERSION - 1)
    with pytest.raises(InputError, match="finished trials of these variants from an older numerics version"):
        run_tuning(tuning)
    words = ("small.yaml", "--method", "absld", "--space", RATE, "--results", "store")
    assert "--again makes them again" in bench("tune", *words, cwd=tmp_path, check=2).stderr
    assert bench("tune", *words, "--again", "--dry-run", cwd=tmp_path).returncode == 0

    def reached(*words: Any) -> Any:
        raise InputError("reached")

    monkeypatch.setattr("harness.tuning.run.check_inputs", reached)
    with pytest.raises(InputError, match="reached"):
        run_tuning(tuning, Options(again=True))


@pytest.mark.parametrize("search", ["random", "tpe"])
@pytest.mark.parametrize("status", ["done", "stopped"])
def test_tries_of_an_older_numerics_version_are_not_made_again_unasked(
    tmp_path: Path, search: str, status: str
) -> None:
    """Those of a tpe search, which are not known beforehand, by their method and seed."""
    tuning = tuning_of(tmp_path, search=search)
    tries = tuning_of(tmp_path).known_tries[:2]
    stored = commit([*tuning.teachers, *tries], tuning.store.root, NUMERICS_VERSION - 1, status, tuning_id="0" * 12)
    (tuning.store.root / "trials" / f"{stored[0]}.parquet").unlink()  # the tries alone are left
    with pytest.raises(InputError, match="has 2 finished trials of these variants from an older numerics version"):
        run_tuning(tuning)


def test_what_a_search_left_to_the_machine_stays(tmp_path: Path) -> None:
    """Threads were measured by a run of the suite; the search notes them beside the precision."""
    path = suite_file(tmp_path, precision="auto", threads="auto")
    home = tmp_path / "home"
    home.mkdir()
    (home / "machine.json").write_text(json.dumps({"precision": "float32", "threads": 2}))
    given = {"methods": "absld", "space": [RATE], "trials": 2}
    first = plan_tuning(path, given, results=home / "tuning")
    first.store.prepare()
    remember_machine(first.store.root, first.machine)
    again = plan_tuning(path, given, results=home / "tuning")
    assert (again.tuning_id, again.machine) == (first.tuning_id, {"precision": "float32", "threads": 2})
    (home / "tuning" / "machine.json").write_text('{"threads": "two"}')
    with pytest.raises(InputError, match=r"machine.json is damaged; .*threads: 'two'"):
        plan_tuning(path, given, results=home / "tuning")


@pytest.mark.parametrize(
    "content", ['{"settings": 5}', '{"settings": [{}]}', '{"wall_s": null}', "[", '{"settings": [5]}']
)
def test_a_journal_that_is_none_is_told(tmp_path: Path, content: str) -> None:
    (tmp_path / "journal.json").write_text(content)
    with pytest.raises(InputError, match=r"journal.json is damaged .*it can be removed"):
        Journal(tmp_path)


def test_failures_that_are_tried_again_need_their_teacher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tuning = tuning_of(tmp_path, trials=2, seeds=1)
    [teacher] = tuning.teachers
    options = Options(serial=True, minimum_free_bytes=0)
    run([teacher], tuning.store, options=options)
    weights = WorkingFolder(tuning.store.root, teacher.training_id).weights("best_validation")
    weights.unlink()
    journal = Journal(tuning.folder)
    journal.begin(tuning.facts, tuning.settings)
    for setting in tuning.settings:
        journal.settle(journal.entry(setting), "failed", "boom")

    def reached(*words: Any, **more: Any) -> Any:
        raise InputError("reached")

    monkeypatch.setattr("harness.tuning.run.run_search", reached)
    monkeypatch.setattr("harness.tuning.run.connected", lambda address: nullcontext())
    for again in (False, True):
        with pytest.raises(InputError, match="reached"):
            run_tuning(tuning, replace(options, retry_failed=again))
        assert weights.exists() == again


def test_a_teacher_whose_weights_are_gone_is_trained_again_before_a_search_goes_on(tmp_path: Path) -> None:
    tuning = tuning_of(tmp_path)
    [teacher] = tuning.teachers
    options, told = Options(serial=True, minimum_free_bytes=0), list[str]()

    @contextmanager
    def follow(specs: Any) -> Any:
        yield lambda event: told.append(event.get("text", event["event"]))

    def teach(wanted: set[str]) -> None:
        told.clear()
        assert tuning_run._run(tuning.teachers, tuning.store, options, follow, wanted).exit_code == 0

    teach({teacher.trial_id})
    weights = WorkingFolder(tuning.store.root, teacher.training_id).weights("best_validation")
    before = weights.read_bytes()
    for damage in (weights.unlink, lambda: weights.write_bytes(b"no weights")):
        damage()
        teach(set())
        assert told == [], "a search that is over needs none"
        teach({teacher.trial_id})
        assert any("its weights are damaged; it is trained again" in text for text in told)
        assert weights.read_bytes() == before
        teach({teacher.trial_id})
        assert told == []


# With Ray Tune


LEARNS = ("dataset.train_images=600", "training.epochs=3", "training.lr=0.1", "training.batch_size=50")


@pytest.mark.usefixtures("ray_session")
def test_a_search_with_asha(tmp_path: Path) -> None:
    spaces = ("temperature_init=choice([1.0, 20.0, 40.0, 80.0])", "temperature_range=choice([[0.5, 100.0]])")
    tuning = tuning_of(tmp_path, *spaces, overrides=LEARNS, search="grid", trials=4, scheduler="asha",
                       grace=1, compare_seeds=0)  # fmt: skip
    lines: list[str] = []
    tuned = run_tuning(tuning, Options(workers=1, minimum_free_bytes=0), say=lines.append)
    assert tuned.exit_code == 0
    entries = Journal(tuning.folder).entries
    assert len(entries) == len(lines) == 4
    assert {entry["status"] for entry in entries} <= {"done", "stopped"}
    for entry in entries:
        ids = [spec.trial_id for spec in tuning.specs(Setting(entry["method"], entry["values"]))]
        rows = tuning.store.read("trials", ids)
        assert set(rows["status"]) == {entry["status"]}
        assert len(tuning.store.read("epochs", ids)) == 2 * entry["epochs"]
        assert entry["epochs"] == 3 if entry["status"] == "done" else entry["epochs"] < 3
        if entry["status"] == "stopped":
            assert set(rows["stop_reason"]) == {f"asha after epoch {entry['epochs']}"}
            assert (tuning.store.root / "work" / rows["training_id"][0] / "state.pt").exists()
    snippet = yaml.safe_load((tuning.folder / "best.yaml").read_text())
    assert load_suite(suite_file(tmp_path, methods=snippet["methods"])).methods[0]["variant"] == "absld"
    assert plan(load_suite(suite_file(tmp_path, methods=snippet["methods"])))
    assert {path.name for path in tuned.written} == {
        "settings.csv", "settings.md", "cost.json", "best.yaml", "response_absld.png", "response_absld.pdf",
        "pareto_absld.png", "pareto_absld.pdf",
    }  # fmt: skip
    assert not list(tuning.folder.glob("ray-*"))
    before = {path: path.stat().st_mtime_ns for path in (tuning.store.root / "trials").glob("*")}
    assert run_tuning(tuning, Options(minimum_free_bytes=0)).best == tuned.best
    assert {path: path.stat().st_mtime_ns for path in (tuning.store.root / "trials").glob("*")} == before


@pytest.mark.usefixtures("ray_session")
@pytest.mark.slow
def test_several_methods_with_halving_to_a_methods_list(tmp_path: Path) -> None:
    spaces = ("training.lr=choice(0.001, 0.03, 0.1)", "temperature_rate=choice(0.1, 0.5)")
    tuning = tuning_of(tmp_path, *spaces, methods="at,absld", overrides=LEARNS, trials=3, seeds=1, grace=1,
                       metric="val_robust_worst", compare_seeds=1)  # fmt: skip
    lines: list[str] = []
    tuned = run_tuning(tuning, Options(minimum_free_bytes=0), say=lines.append)
    assert (tuned.trouble, tuned.stop_reason, tuned.exit_code) == ([], None, 0)
    journal = Journal(tuning.folder)
    assert len(lines) == len(journal.entries) == 6
    for name in ("at", "absld"):
        entries = {setting_of(entry).key: entry for entry in journal.first({name: 3})}
        kept = survivors({key: entry["curve"] for key, entry in entries.items()}, 1, "max")
        assert 2 <= len(kept) <= 3
        for key, entry in entries.items():
            assert (entry["status"], entry["epochs"]) == (("done", 3) if key in kept else ("stopped", 1))
            [spec] = tuning.specs(setting_of(entry))
            rows = tuning.store.read("epochs", [spec.trial_id]).sort_values("epoch")
            assert len(rows) == entry["epochs"]
            kept_rows = [kept_row(rows.to_dict("records")[:epoch]) for epoch in range(1, len(rows) + 1)]
            assert entry["curve"] == [[row["val_robust_worst"], row["val_robust_avg"]] for row in kept_rows]
    snippet = yaml.safe_load((tuning.folder / "best.yaml").read_text())
    assert [entry["variant"] for entry in snippet["methods"]] == ["at", "absld"]
    suite = load_suite(suite_file(tmp_path), [f"methods={tuning.folder / 'best.yaml'}"])
    assert suite.methods == snippet["methods"]
    for spec in plan(suite):
        if spec.role == "student":
            assert spec.training is not None
            assert spec.training.lr == tuned.best[spec.variant]["training.lr"]
    spent = json.loads((tuning.folder / "cost.json").read_text())
    trials = tuning.store.read("trials", [spec.trial_id for each in tuning.settings for spec in tuning.specs(each)])
    assert spent["cpu_s"] == pytest.approx(trials["train_cpu_s"].sum())
    assert spent["epochs_run"] == sum(entry["epochs"] for entry in journal.entries)
    table = pd.read_csv(tuning.folder / "settings.csv")
    assert table.groupby("method")["best"].sum().to_dict() == {"at": 1, "absld": 1}
    assert table.loc[table["method"] == "at", "temperature_rate"].isna().all()
    assert any(line.startswith("absld: 3 settings tried, ") for line in tuned.sentences)
    compared = [line for line in tuned.sentences if "nothing to compare" in line or "On test images" in line]
    assert len(compared) == 2
    assert all(line in (tuning.folder / "comparison.md").read_text() for line in compared)
    decided = [entry["status"] for entry in journal.entries]
    cut_off = json.loads(journal.path.read_text())
    for entry in cut_off["settings"]:
        entry["status"] = "open"  # as if the driver had died just before its decisions
    journal.path.write_text(json.dumps(cut_off))
    again = run_tuning(tuning, Options(minimum_free_bytes=0))
    assert (again.best, again.sentences) == (tuned.best, tuned.sentences)
    assert [entry["status"] for entry in Journal(tuning.folder).entries] == decided


@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
def test_tpe_and_the_comparison(tmp_path: Path) -> None:
    tuning = tuning_of(tmp_path, RATE, "temperature_range=choice([[0.5, 5.0], [0.25, 10.0]])", search="tpe", trials=4,
                       seeds=1, compare_seeds=2, scheduler="median")  # fmt: skip
    tuned = run_tuning(tuning, Options(minimum_free_bytes=0))
    assert tuned.exit_code == 0
    assert len(Journal(tuning.folder).entries) == 4
    compared = tuning.store.read("trials", [spec.trial_id for spec in tuned.compared if spec.role == "student"])
    assert sorted(zip(compared["variant"], compared["seed"], strict=True)) == [
        ("absld-default", 0), ("absld-default", 1), ("absld-tuned", 0), ("absld-tuned", 1)
    ]  # fmt: skip


def command(folder: Path, *words: str) -> subprocess.Popen[str]:
    """`run-bench tune` on the small suite in a process of its own."""
    base = [sys.executable, str(ROOT / "run_bench.py"), "tune", "small.yaml", "--method", "absld", "--space", RATE]
    options = ["--trials", "4", "--seeds", "2", "--scheduler", "none", "--compare-seeds", "0", *words]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen([*base, *options], cwd=folder, env=environment, stderr=subprocess.PIPE, text=True)


def statuses(root: Path) -> list[str]:
    """Of the store's students."""
    rows = Store(root).trials(["role", "status"]) if (root / "trials").exists() else pd.DataFrame({"role": []})
    return list(rows.loc[rows["role"] == "student", "status"]) if len(rows) else []


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_search_that_was_killed_is_simply_started_again(
    number: signal.Signals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUN_MARK", str(tmp_path))
    training = {**SUITE["training"], "epochs": 6, "lr": 0.1}
    path = suite_file(tmp_path, training=training, dataset={"name": "digits", "train_images": 1000})
    root = tmp_path / "killed"
    driver = command(tmp_path, "--results", str(root))
    wait_until(lambda: driver.poll() is not None or statuses(root).count("done") >= 2, timeout=500)
    assert driver.poll() is None
    driver.send_signal(number)
    driver.communicate(timeout=400)
    if number == signal.SIGTERM:
        assert driver.returncode == 130
        assert set(statuses(root)) <= {"done", "interrupted"}
    wait_until(lambda: not processes_of(tmp_path))  # workers of a killed driver live on for a moment
    done = [name for name, status in Store(root).statuses().items() if status == "done"]
    before = {name: (root / "trials" / f"{name}.parquet").stat().st_mtime_ns for name in done}
    assert len(done) < 9

    assert command(tmp_path, "--results", str(root)).wait(timeout=500) == 0
    assert command(tmp_path, "--results", str(tmp_path / "whole")).wait(timeout=500) == 0
    assert {name: (root / "trials" / f"{name}.parquet").stat().st_mtime_ns for name in done} == before
    killed, whole = (
        Store(each).read("epochs").sort_values(["trial_id", "epoch"]) for each in (root, tmp_path / "whole")
    )
    pd.testing.assert_frame_equal(
        killed.drop(columns="seconds").reset_index(drop=True), whole.drop(columns="seconds").reset_index(drop=True)
    )
    given = {"methods": "absld", "space": [RATE], "trials": 4, "seeds": 2, "scheduler": "none", "compare_seeds": 0}
    folders = [plan_tuning(path, given, results=each).folder for each in (root, tmp_path / "whole")]
    best = [yaml.safe_load((folder / "best.yaml").read_text()) for folder in folders]
    assert best[0] == best[1]
    assert not list(root.rglob("*.tmp"))


# The report


def example() -> tuple[pd.DataFrame, pd.DataFrame]:
    """Three settings, two seeds, four epochs; the second was stopped after two, the third has the best average."""
    runs, epochs = [], []
    level = {0: (0.5, 0.3), 1: (0.2, 0.1), 2: (0.7, 0.1)}
    for setting, (average, worst) in level.items():
        for seed in (0, 1):
            name = f"{setting}{seed}"
            count = 2 if setting == 1 else 4
            runs.append({"setting": setting, "seed": seed, "trial_id": name, "epochs": count,
                         "status": "stopped" if setting == 1 else "done", "cpu_s": 100.0 * count,
                         "rate": 10.0 ** -setting})  # fmt: skip
            for epoch in range(1, 5):  # a later search went on with the one that was stopped
                gain = 0.01 * epoch + 0.02 * seed if epoch < 4 else -0.1
                epochs.append({"trial_id": name, "epoch": epoch, "seconds": 90.0, "val_robust_avg": average + gain,
                               "val_robust_worst": worst + gain, "val_robust_nsd": 0.5 - gain,
                               "selection_score": (average + worst) / 2 + gain})  # fmt: skip
    return pd.DataFrame(runs), pd.DataFrame(epochs)


def test_the_table_has_the_kept_epoch_of_each_run() -> None:
    table = report.settings_table(*example(), "selection_score", "max").set_index("setting")
    # kept is epoch 3 of four, and epoch 2 where the search saw no more; seeds differ by 0.02
    assert table["mean"].to_dict() == pytest.approx({0: 0.44, 2: 0.44, 1: 0.18})
    assert table["sd"].to_dict() == pytest.approx(dict.fromkeys((0, 1, 2), 0.02 / math.sqrt(2)))
    assert table.loc[0, "seed_1"] == pytest.approx(0.45)
    assert table.loc[1, "average"] == pytest.approx(0.23)
    assert table["hours"].to_dict() == pytest.approx({0: 0.2, 1: 0.1, 2: 0.2})
    assert table["pareto"].to_dict() == {0: True, 1: False, 2: True}
    assert list(table.index)[-1] == 1
    assert (list(table.index[table["best"]]), list(table.index[table["tied"]])) == ([2], [0])  # by the higher average
    sentence = report.winner(report.Found("absld", example()[0], table.reset_index()))
    assert sentence == "absld: 3 settings tried, 2 of them to the end; best: rate=0.01, tied by the metric with rate=1."


@pytest.mark.parametrize(
    ("metric", "mode", "best"),
    [("val_robust_avg", "max", 2), ("val_robust_worst", "max", 0), ("val_robust_worst", "min", 2)],
)
def test_the_best_is_of_settings_that_ran_to_their_end(metric: str, mode: str, best: int) -> None:
    table = report.settings_table(*example(), metric, mode)
    assert list(table.loc[table["best"], "setting"]) == [best]


def test_a_setting_without_a_value_in_one_seed_is_not_the_mean_of_the_others() -> None:
    runs, epochs = example()
    collapsed = epochs["trial_id"] == "21"  # of the setting that would be best
    epochs = epochs.assign(val_robust_nsd=epochs["val_robust_nsd"].where(~collapsed))
    assert report.settings_table(*example(), "val_robust_nsd", "min")["mean"].notna().all()
    table = report.settings_table(runs, epochs, "val_robust_nsd", "min").set_index("setting")
    assert math.isnan(table.loc[2, "mean"])
    assert table.loc[2, "seed_0"] == pytest.approx(0.47)
    assert list(table.index[table["best"]]) == [0]


def test_nothing_is_best_where_nothing_is_whole() -> None:
    runs, epochs = example()
    table = report.settings_table(runs.assign(status="stopped"), epochs, "selection_score", "max")
    assert not table["best"].any()
    assert not table["pareto"].any()


def test_the_cost_counts_what_stopping_saved() -> None:
    runs, epochs = example()
    parts = [runs[runs["setting"] < 2], runs[runs["setting"] == 2]]  # of two methods
    spent = report.cost(parts, epochs, most=4, wall_s=720.0, reused=3)
    assert (spent["epochs_run"], spent["epochs_possible"], spent["epochs_saved"]) == (20, 24, 4)
    assert spent["cpu_s"] == 100.0 * 20
    assert spent["hours"] == pytest.approx(20 * 90 / 3600)
    assert spent["hours_saved"] == pytest.approx(4 * 90 / 3600)
    assert (spent["wall_hours"], spent["settings"], spent["done"], spent["stopped"]) == (0.2, 3, 2, 1)


def test_the_figures_have_a_dot_per_trial_hollow_where_stopped() -> None:
    runs, epochs = example()
    figure = figures_tuning.response(runs, epochs, "selection_score", logarithmic=["rate"], defaults={"rate": 0.1})
    assert figure is not None
    axis = figure.axes[0]
    dots = [line for line in axis.lines if line.get_linestyle() == "None"]
    assert sum(len(line.get_xdata()) for line in dots) == 6
    assert sum(len(line.get_xdata()) for line in dots if line.get_markerfacecolor() == "none") == 2
    assert axis.get_xscale() == "log"
    assert len({line.get_marker() for line in dots}) == 2
    table = report.settings_table(runs, epochs, "selection_score", "max")
    front = figures_tuning.pareto(table)
    assert front is not None
    line = next(line for line in front.axes[0].lines if line.get_label() == "Pareto front")
    assert np.allclose(line.get_xdata()[1:], [54, 74, 74])  # a step down to the edge
    assert figures_tuning.response(runs, epochs[:0], "selection_score") is None


def test_a_choice_of_lists_is_drawn_and_written() -> None:
    runs, epochs = example()
    runs["range"] = [[0.5, 5], [0.5, 5], [1, 2], [1, 2], [0.5, 5], [0.5, 5]]
    figure = figures_tuning.response(runs, epochs, "val_robust_nsd", defaults={"range": [0.5, 5.0]})
    assert figure is not None
    assert [text.get_text() for text in figure.axes[1].get_xticklabels()] == ["[0.5, 5]", "[1, 2]"]
    table = report.settings_table(runs, epochs, "val_robust_nsd", "min")
    facts = {"suite": "s|uite", "metric": "val_robust_nsd", "mode": "min", "search": "random", "scheduler": "asha",
             "grace": 1, "seeds": [1000], "epochs": 4, "trials": 3, "with_default": False,
             "space": {"absld": {"rate": "uniform(0, 1)"}}}  # fmt: skip
    found = [report.Found("absld", runs, table)]
    text = report.markdown(found, facts, report.cost([runs], epochs, 4, 10.0, 2))
    assert "s\\|uite" in text
    assert text.count("**best**") == 1
    read = pd.read_csv(__import__("io").StringIO(report.csv_text(found)))
    assert list(read["range"]) == [json.dumps(value) for value in table["range"]]
    assert short({"range": [0.5, 5]}) == "range=[0.5, 5]"


def test_a_suite_with_registered_comparisons_can_be_tuned(tmp_path: Path) -> None:
    primary = [{"variant": "rslad", "against": "absld_reweight", "metrics": ["nsd"]}]
    given = {"methods": "rslad", "space": ["coef_adv=uniform(0.5, 0.9)"], "trials": 2}
    tuning = plan_tuning(suite_file(tmp_path, primary=primary), given, results=tmp_path / "store")
    values = [spec.method["settings"]["coef_adv"] for spec in tuning.searched["rslad"].specs({"coef_adv": 0.6})]
    assert set(values) == {0.6}
