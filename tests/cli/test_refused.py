"""Bad input ends the command in one short line and exit code 2, before anything is written: one table of inputs for
each kind, through the command itself."""

from __future__ import annotations

from typing import Any

import pytest

from tests import command
from tests.small import suite_file
from tests.synthetic_store import fill_store, trial_spec

NINES = "9" * 5000


@pytest.fixture
def refused(tmp_path):
    """Gives a command line to the command, in an empty folder; its one short line on standard error."""

    def run(*words: str) -> str:
        line = command.refused(*words, cwd=tmp_path)
        assert len(line) < 300
        return line

    return run


@pytest.fixture
def refused_suite(refused, tmp_path):
    """The same for a suite with `--set` options or changed keys."""

    def run(*overrides: str, options: tuple[str, ...] = ("--dry-run",), **changes: Any) -> str:
        path = suite_file(tmp_path, **changes)
        return refused("run", path, *options, *(word for each in overrides for word in ("--set", each)))

    return run


@pytest.mark.parametrize(
    ("override", "says"),
    [
        # names that are no text
        ("dataset={name: [digits]}", "unknown dataset"), ("dataset.name=[[1]]", "unknown dataset"),
        ("dataset.name={a: 1}", "unknown dataset"), ("student={name: [cnn]}", "unknown model in student"),
        ("student.name={a: 1}", "unknown model in student"), ("teacher.model=[cnn]", "unknown model in teacher"),
        ("teacher.model={name: {a: 1}}", "unknown model in teacher"), ("teacher.method=[at]", "unknown method"),
        ("methods=[[at]]", "methods"), ("methods=[{method: [at]}]", "unknown method"),
        ("methods=[{method: absld, weights: {name: [kappa]}}]", "unknown weights policy"),
        ("evaluation.attacks=[[clean]]", "attacks must be a list"),
        ("evaluation.attacks=[{name: [clean]}]", "unknown attack"),
        ("evaluation.attacks=[{name: pgd3, start: [uniform]}]", "start"),
        ("evaluation.attacks=[{name: pgd3, seeds: [[]]}]", "pgd3: seeds must be a list of whole numbers"),
        ("tune={metric: [x], methods: at, space: {training.lr: 'uniform(0.1, 1)'}}", "metric: Input should be a valid"),
        ("resources={name: null}", "resources 'name'"),
        # blocks of another kind
        ("teacher.training=null", "teacher: training must be a mapping"),
        ("teacher.training=8/0", "teacher: training must be a mapping"),
        ("methods=[{method: at, training: [1]}]", "must be a mapping"),
        ("evaluation.attacks=-1", "attacks must be a list"), ("evaluation.attacks=null", "attacks must be a list"),
        ("evaluation.attacks=true", "attacks must be a list"), ("evaluation.attacks=clean", "attacks must be a list"),
        ("init={a: 1}", "unknown key in init"), ("natural_teacher={models: cnn}", "did you mean model"),
        ("teacher={modell: cnn}", "did you mean model"),
        # in blocks that no method of the suite uses
        ("natural_teacher={model: cnn, training: 1}", "natural_teacher: training must be a mapping"),
        ("natural_teacher={model: cnn, seed: 2024-01-01}", "natural_teacher: seed must be"),
        ("init={seed: 2024-01-01}", "init: seed must be"), ("init={method: nosuch}", "unknown method"),
        # what could be written and never be computed
        (f"evaluation.attacks=[pgd{'9' * 30}]", "1,000,000 steps"), (f"evaluation.attacks=[cw{NINES}]", "1,000,000"),
        ("evaluation.attacks=[{name: cw1, restarts: 9223372036854775807}]", "restarts must be a whole number from"),
        ("evaluation.attacks=[{name: pgd3, steps: 1000001}]", "steps must be a whole number from 1 to 1,000,000"),
        ("student={name: cnn, normalization: {mean: 0.1, std: 1e-320}}", "deviations of 1e-06 at least"),
        ("student={name: cnn, normalization: {mean: 128, std: 64}}", "not of pixels in [0, 1]"),
        ("student={name: cnn, normalization: {mean: 0.5, std: 64}}", "not of pixels in [0, 1]"),
        ("student={name: cnn, normalization: {mean: -0.5, std: 0.5}}", "not of pixels in [0, 1]"),
        ("methods=[{method: rslad, labels: {name: fixed_class_temperature, hard_classes: x}}]", "is not a class index"),
        ("methods=[{method: rslad, labels: {name: fixed_class_temperature, hard_classes: '3,10'}}]", "from 0 to 9"),
        # true and false for numbers, and numbers that no float holds
        ("training.lr=true", "must not be true or false"), ("training.attack_steps=true", "must not be true or false"),
        ("dataset.imbalance=true", "must not be true or false"), ("threads=true", "must not be true or false"),
        ("dataset.augment={crop: true}", "must not be true or false"), ("split_seed=true", "must not be true"),
        ("seeds=[true]", "must not be true or false"), ("resources={custom: {a: true}}", "must not be true or false"),
        ("evaluation.chunk_size=true", "must not be true or false"), ("time_limit_hours=true", "must not be true"),
        ("eps=1e-400", "beyond what can be computed with"), ("training.lr=1e-400", "beyond what can be"),
        ("eps='1e-400'", "must be a finite number"),
        # numbers and texts of any length
        ("eps=1e99999999", "beyond"), (f"eps={NINES}", "64 bits"), (f"eps=1/{NINES}", "must be a finite number"),
        (f"training.epochs={NINES}/{NINES}", "training: epochs must be"), (f"training.milestones=[{NINES}]", "64 bits"),
        (f"dataset={'x' * 5000}", "allowed: cifar10"), (f"student.width=[{'x,' * 500}]", "model cnn: width"),
        (f"name={'x' * 300}", "at most 200"), (f"teacher.variant={'x' * 300}", "at most 200"),
        (f"methods=[{{method: at, variant: {'x' * 300}}}]", "at most 200"), ("eps=" + "[" * 3000, "one another"),
        ("student.width=1000000000", "1024 at most"), ("student={name: wrn, depth: 100000000004}", "1024 at most"),
        ("training.epochs=100001", "from 1 to 100,000, not 100001"), ("training.epochs=0", "from 1 to 100,000, not 0"),
        ("teacher.training={epochs: 1000000}", "teacher: training: epochs must be a whole number from 1 to 100,000"),
        ("methods=[{method: at, training: {epochs: 100001}}]", "training of at: epochs must be"),
        # a block that this command does not need
        ("tune={method: [at]}", "did you mean methods"), ("tune={trials: 0}", "tune: trials"),
        ("tune={epochs: 100001}", "tune: epochs: Input should be less than or equal to 100000"),
        ("tune={space: {temperature_rate: 'uniform(2, 1)'}}", "lower bound 2 must be below"),
        ("tune={space: {absld: {temperature_rate: exec(1)}}}", "unknown distribution"),
        ("tune={methods: [at, at], space: {training.lr: 'uniform(0.1, 1)'}}", "at is listed twice"),
        ("tune={metric: speed, methods: at, space: {training.lr: 'uniform(0.1, 1)'}}", "unknown metric"),
        # seeds beyond 63 bits, lists of very many
        ("seeds=[9223372036854775808]", "64 bits"), ("split_seed=-1", "greater than or equal to 0"),
        ("teacher.seed=9223372036854775808", "64 bits"), (f"seeds=[{'1,' * 15_000}2]", "at most 10000"),
        (f"methods=[{{method: at, seeds: [{'1,' * 15_000}2]}}]", "10,000 are the most"),
        # text that cannot be written down
        ('dataset.title="\\ud800"', "UTF-8"),
        ('teacher.variant="\\ud800"', "UTF-8"), ('description="\\udfff"', "UTF-8"),
        ('methods=[{method: at, variant: "\\ud800"}]', "UTF-8"), ("teacher.variant=''", "teacher: variant must be"),
        ("methods=[{method: at, variant: ' '}]", "variant of at must be"), ("teacher.variant=[a]", "variant must be"),
    ],
    ids=lambda text: text[:40],
)  # fmt: skip
def test_what_a_suite_cannot_mean(refused_suite, override, says):
    assert says in refused_suite(override)


def test_seeds_of_the_command(refused, tmp_path):
    path = suite_file(tmp_path)
    for seeds, says in {
        "9223372036854775808": "2^63",
        NINES: "--seeds must be",
        "1,-1": "at least 0",
        "a": "whole numbers",
        ",".join(["1"] * 15_000): "10,000 are the most",
    }.items():
        assert says in refused("run", path, "--dry-run", "--seeds", seeds)


def test_places_that_no_file_system_knows(refused, tmp_path):
    (tmp_path / "loop").symlink_to("loop")
    fill_store(tmp_path / "store", [trial_spec("at", 0)])
    assert "loop" in refused("merge", "store", "--into", "loop")
    assert "plugin" in refused("list", "methods", "--plugin", "\udc80")
    assert "'joined\\udc80' is not UTF-8" in refused("merge", "store", "--into", "joined\udc80")


def test_what_stands_at_both_ends_of_a_long_message_is_told(refused):
    told = refused("run", "quickstart", "--dry-run", "--set", f"training.epochs={'é‮' * 4000}")
    assert told.startswith("error: training: epochs must be a whole number from 1 to 100,000, not 'é\\u202eé")
    assert told.endswith("é\\u202e'")
