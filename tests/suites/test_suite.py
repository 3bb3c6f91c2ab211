"""Suites, overrides, plans and identities; everything wrong is one line that names the place and what is allowed."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import yaml

from harness.errors import InputError
from harness.spec import TrialSpec, read_spec
from harness.store.provenance import bfloat16_units, processor_precision
from harness.suites.machine import for_this_machine, remember_machine
from harness.suites.plan import plan
from harness.suites.suite import load_suite, suite_names
from methods import SettingsError

SUITE = {
    "dataset": "digits",
    "student": {"name": "cnn", "width": 4},
    "teacher": {"model": {"name": "cnn", "width": 6}, "method": "at"},
    "eps": "8/255",
    "training": {"epochs": 10, "milestones": [0.5, 0.8]},
    "methods": ["at", "rslad", {"method": "absld", "temperature_rate": 0.3}],
    "evaluation": {"attacks": ["clean", "pgd20", "aa_short"]},
}
PAPER = ("precision=float32", "teacher.sha256=" + "ab" * 32)


@pytest.fixture
def suite_file(tmp_path):
    def write(**changes):
        path = tmp_path / "mine.yaml"
        path.write_text(yaml.safe_dump({**SUITE, **changes}))
        return str(path)

    return write


def specs(path, *overrides, **options) -> list[TrialSpec]:
    return plan(load_suite(path, overrides), **options)


def test_a_plan_has_the_teacher_first_and_once_and_resolves_fractions(suite_file):
    teacher, *students = specs(suite_file(seeds=[0, 1]))
    assert (teacher.role, teacher.method["name"]) == ("teacher", "at")
    assert [(spec.variant, spec.seed) for spec in students] == [
        ("at", 0), ("at", 1), ("rslad", 0), ("rslad", 1),
        ("absld-temperature_rate=0.3", 0), ("absld-temperature_rate=0.3", 1),
    ]  # fmt: skip
    assert teacher.eps == 8 / 255
    assert teacher.training.milestones == (5, 8)
    assert students[0].depends_on == []
    assert students[2].depends_on == [teacher.trial_id]
    assert students[2].teachers["teacher"].training == teacher.training_id


def test_identity_ignores_names_paths_resources_and_keeps_what_decides_numbers(suite_file):
    def rslad(*overrides):
        return next(spec for spec in specs(suite_file(), *overrides) if spec.method["name"] == "rslad")

    base = rslad()
    assert rslad("resources.cpu=2", "keep=[last]").trial_id == base.trial_id
    renamed = next(
        s for s in specs(suite_file(methods=[{"method": "rslad", "variant": "mine"}])) if s.role == "student"
    )
    assert renamed.trial_id == base.trial_id
    for change in (
        "eps=0.1",
        "training.epochs=11",
        "precision=bfloat16",
        "threads=2",
        "engine=plain",
        "split_seed=1",
        "teacher.model.width=7",
    ):
        assert rslad(change).training_id != base.training_id, change
    fewer = rslad("evaluation.attacks=[clean]")
    assert (fewer.training_id, fewer.trial_id != base.trial_id) == (base.training_id, True)


def test_a_teachers_evaluation_does_not_change_its_students_training(suite_file):
    one = {spec.variant: spec for spec in specs(suite_file())}
    other = {spec.variant: spec for spec in specs(suite_file(), "evaluation.attacks=[clean]")}
    assert one["teacher"].trial_id != other["teacher"].trial_id
    assert one["rslad"].training_id == other["rslad"].training_id


def test_a_specification_survives_json(suite_file):
    for spec in specs(suite_file()):
        again = read_spec(json.loads(spec.model_dump_json()))
        assert (again, again.trial_id) == (spec, spec.trial_id)


def test_selection_of_methods_and_seeds(suite_file):
    path = suite_file(methods=["at", {"method": "rslad", "seeds": [3, 4]}])
    assert [(s.variant, s.seed) for s in specs(path, only=["rslad"]) if s.role == "student"] == [
        ("rslad", 3),
        ("rslad", 4),
    ]
    assert [s.seed for s in specs(path, only=["rslad"], seeds=[7]) if s.role == "student"] == [7]


def test_a_variant_s_exact_name_selects_it_alone_and_the_order_is_kept(suite_file):
    faster = {"method": "rslad", "coef_adv": 0.5, "variant": "fast"}
    path = suite_file(methods=["at", "rslad", faster, {"method": "absld", "variant": "one"}, "absld_reweight"])

    def chosen(*names):
        return [spec.variant for spec in specs(path, only=names) if spec.role == "student"]

    assert chosen("rslad") == ["rslad"]
    assert chosen("fast", "at") == ["fast", "at"]
    assert chosen("absld") == ["one"], "a method's name where no variant has it"
    assert chosen("at", "absld", "at") == ["at", "one"]
    with pytest.raises(InputError, match="did you mean fast"):
        chosen("fasd")


def test_a_teacher_from_a_file_is_evaluated_and_not_trained(suite_file):
    teacher = {"model": {"name": "cnn", "width": 6}, "file": "t.pt", "sha256": "ab" * 32}
    first, student = specs(suite_file(teacher=teacher, methods=["rslad"]))
    assert (first.role, first.training, first.init.sha256) == ("teacher", None, "ab" * 32)
    assert (student.depends_on, student.teachers["teacher"].sha256) == ([], "ab" * 32)
    asked = [{"name": name, "checkpoints": ["last"]} for name in ("clean", "pgd20", "aa_short")]
    again, other = specs(suite_file(teacher=teacher, methods=["rslad"], evaluation={"attacks": asked}))
    assert again.trial_id == first.trial_id  # a file has no checkpoints to choose from
    assert other.trial_id != student.trial_id


@pytest.mark.parametrize("name", suite_names())
def test_every_shipped_suite_plans(name):
    assert specs(name, *(PAPER if name.endswith("_paper") else PAPER[:1]))


@pytest.mark.parametrize("name", suite_names())
def test_no_shipped_suite_leaves_what_changes_numbers_to_the_machine(name):
    suite = load_suite(name)
    assert "auto" not in (suite.precision, suite.threads)


@pytest.mark.parametrize(
    ("flags", "units"),
    [
        ("flags : fpu avx512_bf16 amx_bf16", "AMX"),
        ("flags : fpu avx512_bf16", "AVX-512"),
        ("Features : fp asimd bf16 i8mm", "Arm"),
        ("flags : fpu avx512f\nbugs : bf16", None),
    ],
)
def test_precision_auto_knows_every_kind_of_bfloat16_units(tmp_path, flags, units):
    (tmp_path / "cpuinfo").write_text(f"processor : 0\n{flags}\n")
    assert bfloat16_units(tmp_path / "cpuinfo") == units
    assert bfloat16_units(tmp_path / "absent") is None


def test_the_paper_suite_is_the_published_protocol():
    student = specs("cifar10_paper", *PAPER)[-1]
    training = student.training
    assert (training.epochs, training.batch_size, training.lr, training.momentum, training.weight_decay) == (
        300,
        128,
        0.1,
        0.9,
        2e-4,
    )
    assert training.milestones == (215, 260, 285)
    assert (student.eps, training.step_size, training.attack_steps) == (8 / 255, None, 10)  # null: eps / 4, so 2/255
    tuned = next(spec for spec in specs("cifar10_paper", *PAPER) if spec.variant == "csr")
    assert (tuned.training.epochs, tuned.training.lr, tuned.training.milestones) == (2, 0.001, ())


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("trainin.epochs=3", "did you mean training"),
        ("training.epoch=3", "'epoch': did you mean epochs"),
        ("training.epochs=many", "epochs must be a whole number"),
        ("training.lr=-1", "greater than 0"),
        ("training.milestones=soon", "milestones must be a list"),
        ("methods=[abslt]", "did you mean absld"),
        ("methods=[{method: absld, temperature_rat: 1}]", "did you mean temperature_rate"),
        ("methods=[{method: absld, temperature_rate: fast}]", "must be a float"),
        ("methods=[{method: absld, temperature_rate: -1}]", "at least 0"),
        ("methods=[{method: absld, temperature_range: [5, 1]}]", "rising list"),
        ("methods=[{method: absld, weights: kapa}]", "did you mean kappa"),
        ("methods=[at, at]", "two entries are called 'at'"),
        ("student=cnnn", "did you mean cnn"),
        ("student.widht=3", "did you mean width"),
        ("student.width=0", "whole number of at least 1"),
        ("dataset=digit", "did you mean digits"),
        ("evaluation.attacks=[pdg20]", "did you mean pgd20"),
        ("evaluation.attacks=[]", "at least one attack"),
        ("norm=l2", "linf"),
        ("eps=8/0", "fraction such as 8/255"),
        ("eps=-1", "at least 0"),
        ("precision=float16", "float32"),
        ("teacher=null", "learns from a teacher"),
        ("teacher.method=rslad", "trains alone"),
        ("methods=[mtard]", "no 'natural_teacher'"),
        ("methods=[frl_reweight]", "no 'init'"),
        ("methods=[{method: trades, labels: teacher}]", "has labels of its own"),
        ("methods=[{method: at, weights: ccr}]", "has no clean one"),
        ("methods=[{method: natural, margins: ccm}]", "without an attack"),
        ("seeds=[a]", "seeds"),
        ("training.milestones=[0.5, 11]", "training: milestones: epoch 11 is after the end of a training of 10 epochs"),
        ("training.milestones=[1.5]", "neither a whole number of epochs nor a fraction"),
        ("training.weight_average={kind: ema, start_epoch: 12}", "start_epoch: epoch 12 is after the end"),
        (
            "methods=[{method: rslad, weights: {name: kappa, start_epoch: 12}}]",
            "start_epoch: epoch 12 is after the end",
        ),
        ("dataset={name: digits, train_images: 1300}", "dataset digits: train_images must be 10 to 1207 images"),
        ("dataset={name: svhn, train_images: 5}", "dataset svhn: train_images must be 10 to 71783 images"),
        ("dataset={name: digits, test_images: 451}", "dataset digits: test_images must be 10 to 450 images"),
        ("evaluation.images=9", "evaluation: clean: images must be at least 10, one of each class, not 9"),
        ("eps=8", "eps must be below 1, since pixels are in [0, 1], not 8: 8/255?"),
        ("training.step_size=2", "training: step_size must be below 1, since pixels are in [0, 1], not 2: 2/255?"),
        ("evaluation.attacks=[{name: pgd20, step_size: 300}]", "pgd20: step_size must be below 1"),
        ("name=a/b", "name: must be one path component"),
        ("name=..", "name: must be one path component"),
        ("name=' '", "name: must be one path component"),
        ("methods=[{method: absld, training: 3}]", "training of absld must be a mapping"),
        (
            "methods=[{method: absld, training: {l: 3}}]",
            "unknown key in methods: training of absld 'l': did you mean lr",
        ),
        ("methods=[{method: absld, training: {epochs: 0}}]", "training of absld: epochs must be a whole number"),
        ("methods=[{method: absld, training: {epochs: 5, milestones: [6]}}]", "training of absld: milestones: epoch 6"),
        ("teacher.seeds=[]", "teacher: seeds must be a list of whole numbers"),
        ("teacher.seeds=1", "teacher: seeds must be a list of whole numbers"),
        ("teacher={model: cnn, seed: 0, seeds: [1]}", "does not go with 'seed'"),
        ("teacher={model: cnn, file: t.pt, sha256: ab, seeds: [1]}", "does not go with 'file'"),
        ("teacher={model: cnn, file: t.pt, sha256: ab, training: {}}", "unknown key in teacher 'training'"),
        ("teacher={model: cnn, sha256: ab}", "seed, training, variant (a network that is trained)"),
        ("primary=[{variant: rslat, against: at, metrics: [nsd]}]", "did you mean rslad"),
        ("primary=[{variant: rslad, against: rslad, metrics: [nsd]}]", "compared with itself"),
        (
            "primary=[{variant: rslad, against: at, metrics: [nsdd]}]",
            "primary: 0: metrics: 0: Input should be 'average'",
        ),
        ("primary=[{variant: rslad, against: at, metrics: []}]", "primary: 0: metrics"),
        ("primary=[{variant: rslad, metrics: [nsd]}]", "against: Field required"),
        ("nonsense", "key.path=value"),
    ],
)
def test_a_wrong_suite_is_refused_in_one_line(suite_file, override, says):
    with pytest.raises((InputError, SettingsError)) as caught:
        specs(suite_file(), override)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_unknown_suites_offer_the_nearest():
    with pytest.raises(InputError, match="did you mean quickstart"):
        load_suite("quikstart")


def test_a_teacher_file_needs_its_hash():
    with pytest.raises(InputError, match="needs its sha256"):
        specs("cifar10_paper", "precision=float32")


def test_the_precision_of_a_machine_is_decided_once_per_store(tmp_path, suite_file):
    suite = load_suite(suite_file(precision="auto"))
    first = for_this_machine(suite, tmp_path)
    assert first.precision == processor_precision()
    other = {"float32": "bfloat16", "bfloat16": "float32"}[first.precision]
    remember_machine(tmp_path, {"precision": other})
    assert for_this_machine(suite, tmp_path).precision == other  # what the store was planned for wins over this machine
    (tmp_path / "machine.json").write_text("{")
    with pytest.raises(InputError, match="damaged"):
        for_this_machine(suite, tmp_path)


WRITTEN = [
    ["clean", "pgd20", "cw20", "aa_short"],
    ["aa_short", "cw20", "pgd20", "clean"],
    ["clean", {"name": "pgd20", "steps": 20}, {"name": "cw50", "steps": 20}, "aa_short"],
    ["clean", {"name": "pgd20", "restarts": 1, "start": "uniform", "step_size": 0.025}, "cw20", "aa_short"],
    [{"name": "clean", "checkpoints": ["last", "best_validation"]}, {"name": "pgd7", "steps": 20}, "cw20", "aa_short"],
    ["clean", {"name": "pgd20_last", "every_iterate": True}, "cw20", {"name": "aa_short", "steps": None}],
    ["clean", "pgd20", "cw20", {"name": "aa_short", "checkpoints": ["best_validation"]}],
    [{"name": "clean", "images": 30}, {"name": "pgd20", "images": 300}, "cw20", "aa_short"],
]


@pytest.mark.parametrize("attacks", WRITTEN)
def test_the_same_evaluation_in_other_words_is_the_same_trial(suite_file, attacks):
    dataset = {"name": "digits", "test_images": 30}
    first, found = (
        specs(suite_file(eps=0.1, dataset=dataset, evaluation={"attacks": each})) for each in (WRITTEN[0], attacks)
    )
    assert [spec.trial_id for spec in found] == [spec.trial_id for spec in first]
    assert found[0].evaluation == first[0].evaluation


def test_other_attacks_are_other_trials(suite_file):
    pgd = [{"steps": 50}, {"step_size": 0.01}, {"restarts": 2}, {"start": "clean"}, {"clamp_start": False}]
    pgd += [{"every_iterate": False}, {"images": 100}, {"checkpoints": ["last"]}, {}]
    found = [specs(suite_file(evaluation={"attacks": [{"name": "pgd20", **change}]}))[0] for change in pgd]
    assert len({spec.trial_id for spec in found}) == len(pgd)
    assert [spec.evaluation.attacks[0].name for spec in found[:2]] == ["pgd50", "pgd20"]


@pytest.mark.parametrize(
    ("attacks", "says"),
    [
        (["pgd20", "pgd20"], "pgd20 is asked for twice; each attack can be listed once"),
        (["pgd50", "clean", {"name": "pgd20", "steps": 50}], "pgd50 is asked for twice; each"),
        (
            [{"name": "pgd20", "images": 100}, {"name": "pgd20_last", "every_iterate": True, "images": 200}],
            "pgd20 is asked for twice, with images 100 and 200;",
        ),
        ([{"name": "pgd20", "restarts": 5}, "pgd20"], "pgd20 is asked for twice, with restarts 5 and None;"),
        ([{"name": "pgd20", "checkpoints": []}], "pgd20: checkpoints must name at least one"),
        ([{"name": "pgd20", "images": 9}], "pgd20: images must be at least 10, one of each class, not 9"),
    ],
)
def test_attacks_that_cannot_stand_beside_each_other(suite_file, attacks, says):
    with pytest.raises(InputError, match=says):
        specs(suite_file(evaluation={"attacks": attacks}))


def test_planning_imports_neither_torch_nor_ray():
    code = "import sys; from harness.suites.suite import load_suite; from harness.suites.plan import plan; "
    code += "plan(load_suite('quickstart')); "
    code += "import harness.cli.main, harness.store.store, harness.cli.listings; "
    code += "print([name for name in ('torch', 'ray') if name in sys.modules])"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    )


def test_the_methods_can_stand_in_a_file_of_their_own(suite_file, tmp_path):
    found = [{"method": "absld", "training": {"lr": 0.2}, "variant": "absld"}, "at"]
    folder = tmp_path / "tuning"
    folder.mkdir()
    (folder / "best.yaml").write_text(yaml.safe_dump({"methods": found}))
    assert load_suite(suite_file(methods="tuning/best.yaml")).methods == found
    assert load_suite(suite_file(), [f"methods={folder / 'best.yaml'}"]).methods == found
    (folder / "best.yaml").write_text("absld")
    with pytest.raises(InputError, match="must be a file with a list 'methods'"):
        load_suite(suite_file(), [f"methods={folder / 'best.yaml'}"])
    with pytest.raises(InputError, match=r"^methods \S*none.yaml cannot be read: "):
        load_suite(suite_file(), ["methods=none.yaml"])
