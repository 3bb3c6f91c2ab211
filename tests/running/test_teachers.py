"""Teachers trained elsewhere: taken with their rows, never retrained, and never mixed with others of the same name."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.api import run_suite
from harness.errors import InputError
from harness.files import file_sha256
from harness.models.checkpoints import write_state
from harness.running.run import Options
from harness.running.teachers import find_teachers, take_teachers
from harness.spec import TrialSpec
from harness.store.compaction import compact
from harness.store.merge import merge
from harness.store.store import Store
from harness.store.verify import verify
from harness.suites.plan import plan
from harness.suites.suite import load_suite
from harness.tuning.plan import plan_tuning
from tests.command import bench, refused
from tests.small import suite_file, weights


@pytest.fixture(autouse=True)
def _wide_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "300")


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the suite and a store that trained the teacher and the student of seed 0."""
    folder = tmp_path_factory.mktemp("first")
    run(folder, "store", 0)
    return folder


def run(folder: Path, store: str, seed: int, teachers_from: Path | None = None, **changes: Any) -> list[dict[str, Any]]:
    """The events of RSLAD's trial of one seed and what it needs."""
    events: list[dict[str, Any]] = []
    outcome = run_suite(
        suite_file(folder, methods=["rslad"], **changes), results=folder / store, seeds=[seed],
        teachers_from=teachers_from, options=Options(serial=True, minimum_free_bytes=0), on_event=events.append,
    )  # fmt: skip
    assert not outcome.failed
    return events


def specs(folder: Path, seed: int = 1, **changes: Any) -> list[TrialSpec]:
    return plan(load_suite(suite_file(folder, methods=["rslad"], **changes)), seeds=[seed])


def trained(events: list[dict[str, Any]]) -> set[str]:
    return {event["trial_id"] for event in events if event["event"] == "epoch"}


def published(first: Path, folder: Path) -> Path:
    """The part of a store that a published set carries: its tables, and the teacher's weights with their hash."""
    shutil.copytree(first / "store", folder / "set", ignore=shutil.ignore_patterns("work", "driver", "attempts"))
    teacher = specs(folder)[0].training_id
    (folder / "set" / "work" / teacher).mkdir(parents=True)
    for name in ("best_validation.pt", "best_validation.json"):
        shutil.copy(first / "store" / "work" / teacher / name, folder / "set" / "work" / teacher)
    return folder / "set"


def with_another_teacher(folder: Path, store: str) -> None:
    """A store whose teacher differs in its last bits, as another processor's would, and its student of seed 2."""
    teacher = specs(folder)[0]
    run(folder, store, 2)
    state = {name: value * (1 + 1e-6) for name, value in weights(folder / store, teacher, "best_validation").items()}
    write_state(folder / store / "work" / teacher.training_id / "best_validation.pt", state, {})
    run(folder, store, 3)


@pytest.mark.parametrize("form", ["store", "published", "compacted"])
def test_a_teacher_is_taken_with_its_rows_and_not_trained_again(first: Path, tmp_path: Path, form: str) -> None:
    source = first / "store"
    if form != "store":
        source = published(first, tmp_path)
    if form == "compacted":
        compact(Store(source))
    events = run(tmp_path, "second", 1, source)
    teacher, student = specs(tmp_path)
    assert trained(events) == {student.trial_id}
    here, there = Store(tmp_path / "second"), Store(source)
    for table in ("class_accuracy", "epochs", "outcomes"):
        one, other = (store.arrow(table, [teacher.trial_id]).to_pylist() for store in (here, there))
        assert one == other != []
    name = f"work/{teacher.training_id}/best_validation.pt"
    sha256 = file_sha256(first / "store" / name, name)
    assert file_sha256(here.root / name, name) == sha256
    rows = here.trials().set_index("trial_id")
    assert rows.loc[student.trial_id, "teacher_sha256"] == sha256
    assert verify(here.root).broken == {}
    assert trained(run(tmp_path, "second", 1, source)) == set()
    if form == "store":
        assert merge([first / "store", here.root], tmp_path / "all") == {
            "added": 3, "replaced": 0, "same": 0, "differing": 0,
        }  # fmt: skip


def test_weights_alone_are_enough_where_the_evaluation_is_another(first: Path, tmp_path: Path) -> None:
    other = {"evaluation": {"attacks": ["clean", "fgsm"], "chunk_size": 25}}
    events = run(tmp_path, "second", 1, first / "store", **other)
    teacher, student = specs(tmp_path, **other)
    assert teacher.trial_id not in Store(first / "store").statuses()
    assert trained(events) == {student.trial_id}
    assert set(Store(tmp_path / "second").statuses()) == {teacher.trial_id, student.trial_id}
    with pytest.raises(InputError, match=r"no rows of 'teacher' under this evaluation.* lacks last.pt, training.json"):
        find_teachers(specs(tmp_path, **other), published(first, tmp_path), Store(tmp_path / "third"))


def test_what_this_store_had_begun_of_a_teacher_goes(first: Path, tmp_path: Path) -> None:
    teacher = specs(tmp_path)[0]
    folder = tmp_path / "second" / "work" / teacher.training_id
    folder.mkdir(parents=True)
    (folder / "state.pt").write_bytes(b"half trained")
    target = Store(tmp_path / "second")
    take_teachers(find_teachers(specs(tmp_path), first / "store", target), target)
    assert target.has(teacher.trial_id)
    assert not (folder / "state.pt").exists()
    assert find_teachers(specs(tmp_path), first / "store", target) == []


def test_a_teacher_of_other_bits_is_refused_before_anything_is_written(first: Path, tmp_path: Path) -> None:
    with_another_teacher(tmp_path, "other")
    target = tmp_path / "other"
    before = {path: path.stat().st_mtime_ns for path in target.rglob("*")}
    with pytest.raises(
        InputError, match=r"rslad \(seed 3\) in .*/other learnt from a 'teacher' of sha256 [0-9a-f]{12}"
    ):
        run(tmp_path, "other", 1, first / "store")
    students = Store(target).trials().query("role == 'student'")["trial_id"]
    for trial_id in students:
        for table in ("trials", "class_accuracy", "epochs", "outcomes", "class_state", "notes"):
            (target / table / f"{trial_id}.parquet").unlink(missing_ok=True)
    with pytest.raises(InputError, match=r"has trained a 'teacher' of its own, sha256 [0-9a-f]{12}"):
        run(tmp_path, "other", 1, first / "store")
    assert before.keys() >= set(target.rglob("*"))
    assert len(trained(run(tmp_path, "third", 1, first / "store"))) == 1


def test_a_teacher_that_this_store_has_trained_stays_whatever_its_evaluation(first: Path, tmp_path: Path) -> None:
    other = {"evaluation": {"attacks": ["clean", "fgsm"], "chunk_size": 25}}
    run(tmp_path, "second", 2, **other)
    teacher = specs(tmp_path)[0]
    path = tmp_path / "second" / "work" / teacher.training_id / "best_validation.pt"
    state = {name: value * 2 for name, value in weights(tmp_path / "second", teacher, "best_validation").items()}
    write_state(path, state, {})
    content = path.read_bytes()
    with pytest.raises(InputError, match="has trained a 'teacher' of its own"):
        find_teachers(specs(tmp_path), first / "store", Store(tmp_path / "second"))
    assert path.read_bytes() == content


def test_a_source_that_contradicts_itself_is_refused(first: Path, tmp_path: Path) -> None:
    source, teacher = published(first, tmp_path), specs(tmp_path)[0]
    path = source / "work" / teacher.training_id / "best_validation.pt"
    whole, record = path.read_bytes(), path.with_suffix(".json").read_text()
    words = ["run", "small.yaml", "--seeds", "1", "--serial", "--results", "second", "--teachers-from", "set"]
    for says, change in (
        ("damaged or was exchanged", lambda: path.write_bytes(whole[:-1] + b"x")),
        ("does not say the sha256", lambda: path.with_suffix(".json").write_text("{}")),
        ("learnt from a 'teacher'", lambda: write_state(path, {"weight": torch.zeros(2)}, {})),
        ("no trained 'teacher'", path.unlink),
    ):
        change()
        assert says in refused(*words, cwd=tmp_path)
        path.write_bytes(whole)
        path.with_suffix(".json").write_text(record)
    assert "not a result store" in refused(*words[:-1], "nowhere", cwd=tmp_path)
    assert "training.epochs=2" in refused(*words, "--set", "training.epochs=3", cwd=tmp_path)
    done = bench(*words, "--dry-run", cwd=tmp_path)
    assert f"trained, from set (sha256 {json.loads(record)['sha256'][:12]})" in done.stderr
    assert not (tmp_path / "second").exists()


def test_a_search_takes_the_teachers_of_another_store(first: Path, tmp_path: Path) -> None:
    source, teacher = published(first, tmp_path), specs(tmp_path)[0]
    space = ("--space", "training.lr=choice(0.05, 0.1)", "--trials", "2")
    words = ["tune", "small.yaml", "--method", "rslad", *space, "--results", "tried"]
    told = bench(*words, "--dry-run", "--teachers-from", "set", cwd=tmp_path).stderr
    assert "teacher: trained, from set (sha256 " in told
    assert "not a result store" in refused(*words, "--teachers-from", "nowhere", cwd=tmp_path)
    tuning = plan_tuning(
        str(tmp_path / "small.yaml"),
        {"methods": "rslad", "space": ["training.lr=choice(0.05, 0.1)"], "trials": 2},
        results=tmp_path / "tried",
    )
    (found,) = find_teachers([*tuning.teachers, *tuning.bases], source, tuning.store)
    assert found.spec.training_id == teacher.training_id
    shutil.copytree(first / "store" / "work", tmp_path / "bare" / "work")  # never evaluated: its work alone will do
    (bare,) = find_teachers([*tuning.teachers, *tuning.bases], tmp_path / "bare", tuning.store)
    assert (bare.sha256, bare.evaluated) == (found.sha256, False)


def test_merged_stores_of_two_processors(first: Path, tmp_path: Path) -> None:
    """The reason is told as the rows have it, and the first store's rows stay whole."""
    shutil.copytree(first / "store", tmp_path / "b")
    teacher, student = specs(tmp_path, 0)
    other = Store(tmp_path / "b")
    change(other, teacher.trial_id, device="Another Processor 9000", train_device="Another Processor 9000")
    folder = f"work/{teacher.training_id}"
    (tmp_path / "b" / folder / "extra.txt").touch()
    (device,) = set(Store(first / "store").trials()["device"])
    with pytest.raises(InputError) as excinfo:
        merge([tmp_path / "b"], first / "store")
    text = str(excinfo.value)
    assert f"same specification and code, other processor ({device}, Another Processor 9000)" in text
    assert "--keep first" in text
    assert "damaged" not in text
    bench("merge", str(first / "store"), "b", "--into", "all", "--keep", "first", cwd=tmp_path)
    kept = Store(tmp_path / "all")
    for table in ("outcomes", "class_accuracy"):
        rows = kept.arrow(table, [teacher.trial_id]).to_pylist()
        assert rows == Store(first / "store").arrow(table, [teacher.trial_id]).to_pylist()
    assert set(kept.trials()["device"]) == {device}
    assert verify(kept.root).broken == {}
    bench("merge", "b", str(first / "store"), "--into", "reverse", "--keep", "first", cwd=tmp_path)
    assert Store(tmp_path / "reverse").trials().set_index("trial_id")["device"][teacher.trial_id] != device
    assert "did you mean first" in refused("merge", "b", "--into", "all", "--keep", "frist", cwd=tmp_path)
    assert student.trial_id in kept.statuses()


def change(store: Store, trial_id: str, **columns: Any) -> None:
    """Rewrite a trial with other columns and with one image more lost."""
    row = store.arrow("trials", [trial_id]).to_pylist()[0] | columns
    tables = {name: store.read(name, [trial_id]) for name in ("class_accuracy", "outcomes", "epochs")}
    for name in ("trials", *tables):
        store.path(name, trial_id).unlink()
    accuracy, outcomes = tables["class_accuracy"], tables["outcomes"]
    lost = outcomes.index[outcomes["robust"]][0]
    outcomes.loc[lost, "robust"] = False
    of = outcomes.loc[lost]
    at = (accuracy["attack"] == of["attack"]) & (accuracy["checkpoint"] == of["checkpoint"])
    at &= accuracy["class_index"] == of["label"]
    accuracy.loc[at, "correct"] -= 1
    accuracy["accuracy"] = accuracy["correct"] / accuracy["n"]
    store.commit(row, tables)
