"""Suite keys that multiply or single out trials: training settings of one method, teacher seeds, registered
comparisons."""

from __future__ import annotations

import pytest
import yaml

from harness.errors import InputError
from harness.spec import TrialSpec
from harness.store.merge import merge
from harness.store.provenance import trial_columns
from harness.store.store import Store
from harness.store.tables import TABLES
from harness.suites.comparisons import registered_comparisons, remember_comparisons
from harness.suites.plan import plan
from harness.suites.suite import PrimaryComparison, load_suite
from harness.tuning.plan import plan_tuning

SUITE = {
    "name": "small",
    "dataset": "digits",
    "student": {"name": "cnn", "width": 4},
    "teacher": {"model": {"name": "cnn", "width": 6}, "seeds": [0, 1]},
    "eps": 0.1,
    "training": {"epochs": 10, "lr": 0.1, "milestones": ["5/10", 0.8]},
    "methods": ["at", "rslad"],
    "seeds": [0, 1],
    "evaluation": {"attacks": ["clean"]},
}


@pytest.fixture
def planned(tmp_path):
    def specs(*overrides: str, **changes) -> list[TrialSpec]:
        path = tmp_path / "small.yaml"
        path.write_text(yaml.safe_dump({**SUITE, **changes}))
        return plan(load_suite(str(path), overrides))

    return specs


def test_training_settings_of_one_entry_are_its_own(planned):
    entries = [{"method": "rslad", "training": {"lr": 0.2}}, {"method": "rslad", "training": {"epochs": 20}}, "rslad"]
    specs = planned("seeds=[0]", "teacher.seeds=[0]", methods=entries)
    trainings = {spec.variant: spec.training for spec in specs}
    assert list(trainings) == ["teacher", "rslad-lr=0.2", "rslad-epochs=20", "rslad"]
    assert trainings["rslad-lr=0.2"] == trainings["rslad"].model_copy(update={"lr": 0.2})
    assert (trainings["rslad-epochs=20"].epochs, trainings["rslad-epochs=20"].milestones) == (20, (10, 16))
    assert trainings["teacher"] == trainings["rslad"]
    weighed = planned("methods=[{method: rslad, weights: {name: kappa, start_epoch: 0.5}, training: {epochs: 20}}]")
    assert weighed[-1].method["weights"]["start_epoch"] == 10


def test_fractions_of_training_keep_a_schedules_shape():
    paper = ["teacher.sha256=" + "ab" * 32, "precision=float32"]
    assert plan(load_suite("cifar10_paper", paper))[-1].training.milestones == (215, 260, 285)
    assert plan(load_suite("cifar10_paper", [*paper, "training.epochs=50"]))[-1].training.milestones == (36, 43, 48)


def test_every_student_is_trained_from_every_teacher_seed(planned):
    specs = planned()
    teachers = {spec.seed: spec for spec in specs if spec.role == "teacher"}
    assert {seed: spec.variant for seed, spec in teachers.items()} == {0: "teacher", 1: "teacher"}
    students = [spec for spec in specs if spec.role == "student"]
    coordinates = [(spec.variant, spec.seed, trial_columns(spec)["teacher_seed"]) for spec in students]
    assert sorted(coordinates, key=str) == sorted(
        [("at", 0, None), ("at", 1, None), ("rslad", 0, 0), ("rslad", 0, 1), ("rslad", 1, 0), ("rslad", 1, 1)], key=str
    )
    for spec in students:
        assert all(source.training == teachers[source.seed].training_id for source in spec.teachers.values())
    assert "teacher_seed" in TABLES["trials"].names


def test_another_teacher_seed_adds_trials_and_changes_none(planned):
    both = {spec.trial_id for spec in planned()}
    assert {spec.trial_id for spec in planned("teacher.seeds=[0]")} < both
    second = {spec.trial_id for spec in planned("teacher.seeds=[1]")}
    assert second < both
    assert len(second & {spec.trial_id for spec in planned("teacher.seeds=[0]")}) == 2  # those without a teacher
    one = planned(teacher={"model": {"name": "cnn", "width": 6}, "seed": 1})
    assert {spec.trial_id for spec in one} == second


def test_a_search_has_one_teacher(planned, tmp_path):
    planned()
    given = {"methods": ["rslad"], "space": {"alpha": "uniform(0.1, 0.9)"}, "seeds": 2, "trials": 2}
    with pytest.raises(InputError, match="several teachers; tune with one"):
        plan_tuning(str(tmp_path / "small.yaml"), given, results=tmp_path / "store")


PRIMARY = [{"variant": "rslad", "against": "at", "metrics": ["nsd", "average"]}]


def test_registered_comparisons_change_no_id_and_stand_in_the_store(planned, tmp_path):
    plain = planned()
    assert [spec.trial_id for spec in planned(primary=PRIMARY)] == [spec.trial_id for spec in plain]
    suite = load_suite(str(tmp_path / "small.yaml"))
    comparison = PrimaryComparison(variant="rslad", against="at", metrics=("nsd", "average"))
    assert suite.primary == [comparison]
    first, second, joined = (Store(tmp_path / name).prepare().root for name in ("first", "second", "joined"))
    for root in (first, second, joined):
        (root / "trials").mkdir()
    remember_comparisons(suite.model_copy(update={"primary": []}), first)
    assert (registered_comparisons(first), list(first.glob("*.json"))) == ([], [])
    for _ in range(2):
        remember_comparisons(suite, first)
    remember_comparisons(suite.model_copy(update={"name": "other"}), first)
    assert registered_comparisons(first) == [comparison, comparison]
    merge([first, second], joined)
    assert registered_comparisons(joined) == [comparison, comparison]
    (first / "primary.json").write_text("{")
    with pytest.raises(InputError, match="damaged; it records registered comparisons"):
        registered_comparisons(first)


def test_an_attack_of_some_seeds_is_in_their_trials_only(planned):
    attacks = ["clean", {"name": "aa_short", "images": 20, "seeds": [1]}]
    specs = planned(evaluation={"attacks": attacks})
    asked = {(spec.role, spec.seed): [attack.name for attack in spec.evaluation.attacks] for spec in specs}
    assert asked["student", 0] == ["clean"]
    assert asked["student", 1] == ["clean", "aa_short"]
    plain = planned(evaluation={"attacks": ["clean", {"name": "aa_short", "images": 20}]})
    ids = {(spec.variant, spec.seed): spec.trial_id for spec in plain if spec.role == "student" and spec.seed == 1}
    same = {(spec.variant, spec.seed): spec.trial_id for spec in specs if spec.role == "student" and spec.seed == 1}
    assert same == ids
    with pytest.raises(InputError, match="aa_short: seeds must be a list of whole numbers"):
        planned(evaluation={"attacks": ["clean", {"name": "aa_short", "seeds": 1}]})
    with pytest.raises(InputError, match="at least one attack"):
        planned(evaluation={"attacks": [{"name": "aa_short", "seeds": [1]}]})


def test_the_attack_of_a_registered_comparison_is_one_of_the_suite(planned):
    planned(primary=[{**PRIMARY[0], "attack": "clean"}])
    with pytest.raises(InputError, match="unknown attack in primary 'pgd20'"):
        planned(primary=[{**PRIMARY[0], "attack": "pgd20"}])
    longer = {"attacks": ["clean", {"name": "pgd20", "steps": 50, "seeds": [0]}]}
    planned(primary=[{**PRIMARY[0], "attack": "pgd50"}], evaluation=longer)
    with pytest.raises(InputError, match="unknown attack in primary 'pgd20'"):
        planned(primary=[{**PRIMARY[0], "attack": "pgd20"}], evaluation=longer)


def test_a_teacher_is_trained_as_its_method_says(planned):
    teacher = planned("teacher.method=cfa_at")[0]
    assert teacher.training.weight_average.kind == "fawa"
    assert planned("teacher.method=cfa_at", "training.weight_average=null")[0].training.weight_average is None


def test_an_attack_of_a_seed_that_no_method_has_is_refused(planned):
    with pytest.raises(InputError, match="unknown seed of attack aa_short '7'"):
        planned(evaluation={"attacks": ["clean", {"name": "aa_short", "images": 20, "seeds": [7]}]})


@pytest.mark.parametrize("images", ["450", "5000"])
def test_all_images_of_a_known_test_set_are_all_images(planned, images):
    whole = [spec.trial_id for spec in planned()]
    assert [spec.trial_id for spec in planned(f"evaluation.images={images}")] == whole
    assert [spec.trial_id for spec in planned("dataset={name: digits, test_images: 450}")] == whole


@pytest.mark.parametrize(
    "override",
    [
        "training.lr=.inf", "training.lr=inf", "training.weight_decay=nan", "training.batch_size=1",
        "student.normalization={mean: [nan], std: [1.0]}", "student.normalization={mean: [0.1], std: [.inf]}",
    ],
)  # fmt: skip
def test_numbers_that_cannot_be_meant_are_refused(planned, override):
    with pytest.raises(InputError):
        planned(override)
