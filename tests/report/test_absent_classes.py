"""A data set whose last class has no test image: from its file through training and store to every table and figure."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from harness.api import Planned, run_planned
from harness.cli.listings import show_trial
from harness.cli.progress import Progress
from harness.data.remarks import remarks
from harness.data.sources import load
from harness.report.figures.classes import confusion
from harness.report.figures.data import class_names
from harness.report.page.data import page_data
from harness.report.results import read_results
from harness.report.scores.leaderboard import leaderboard
from harness.report.tables.tables import markdown
from harness.report.write import Form, write_report
from harness.running.run import Options
from harness.statistics import metrics
from harness.store.store import Store
from harness.store.verify import verify
from harness.suites.plan import plan
from harness.suites.suite import load_suite
from tests.small import run_to_end, small_specs

NAMES = ["ant", "bee", "cat", "dog"]
OPTIONS = {
    "dataset": {"name": "npz", "path": "own.npz", "title": "Animals"},
    "methods": ["at", "absld"],
    "evaluation": {"attacks": ["clean", {"name": "pgd20", "steps": 2}], "chunk_size": 25},
}


def own_file(folder: Path, train_labels: list[int], test_labels: list[int], names: list[str] | None = None) -> Path:
    """Random 8 x 8 images of some classes."""
    generator = np.random.default_rng(0)
    arrays = {"y_train": np.array(train_labels), "y_test": np.array(test_labels)}
    arrays |= {f"x_{part}": generator.integers(0, 256, (len(arrays[f"y_{part}"]), 8, 8), dtype=np.uint8)
               for part in ("train", "test")}  # fmt: skip
    np.savez(folder / "own.npz", **arrays, **({"class_names": np.array(names)} if names else {}))
    return folder / "own.npz"


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Store:
    """Two methods and a teacher, trained on four classes and tested on three."""
    folder = tmp_path_factory.mktemp("animals")
    own_file(folder, [0, 1, 2, 3] * 20, [0, 1, 2] * 8, NAMES)
    for spec in small_specs(folder, **OPTIONS).values():
        run_to_end(spec, folder / "store")
    return Store(folder / "store")


@pytest.fixture(params=["every class has a row", "rows of tested classes only"])
def either(request, store: Store, tmp_path: Path) -> Store:
    """The store as it is, and as earlier versions wrote it."""
    if request.param == "every class has a row":
        return store
    older = Store(tmp_path / "older")
    older.prepare()
    for line in store.trials()["trial_id"]:
        tables = {name: store.read(name, [line]) for name in ("outcomes", "epochs", "class_state", "notes")}
        rows = store.read("class_accuracy", [line])
        trial = store.read("trials", [line]).iloc[0].dropna().to_dict()
        older.commit(trial, {**tables, "class_accuracy": rows[rows["n"] > 0]})
    return older


def test_every_class_of_the_data_set_has_a_row(store: Store):
    rows = store.read("class_accuracy")
    for _, part in rows.groupby(["trial_id", "checkpoint", "attack"], observed=True):
        assert list(part["class_index"]) == [0, 1, 2, 3]
        assert list(part["class_name"]) == NAMES
        assert list(part["n"]) == [8, 8, 8, 0]
        assert np.isnan(part["accuracy"].iloc[3])
        assert part["correct"].iloc[3] == 0
    assert verify(store.root).broken == {}


def test_averages_are_over_classes_with_images_as_the_outcomes_have_them(either: Store):
    board = leaderboard(read_results(either))
    outcomes = either.read("outcomes")
    trials = board_trials(either)
    for score in board.scores[board.scores["metric"].isin(["average", "worst", "nsd"])].itertuples():
        part = outcomes[
            (outcomes["trial_id"] == trials[score.row])
            & (outcomes["checkpoint"] == score.checkpoint)
            & (outcomes["attack"] == score.attack)
        ]
        accuracy = part.groupby("label")["robust"].mean().to_numpy()
        expected = {"average": metrics.average, "worst": metrics.worst, "nsd": metrics.nsd}[score.metric](accuracy)
        assert score.value == pytest.approx(float(expected), nan_ok=True)


def board_trials(store: Store) -> dict[int, str]:
    trials = read_results(store).trials
    return dict(zip(trials["row"], trials["trial_id"], strict=True))


def test_the_number_of_classes_is_the_data_set_s(store: Store):
    assert set(leaderboard(read_results(store)).scores["classes"]) == {4}


def test_every_table_figure_and_the_page_are_written(either: Store, tmp_path: Path):
    left: list[str] = []
    written = write_report(
        read_results(either), tmp_path / "report", Form(formats=["svg"], html=True), left_out=left.append
    )
    names = {path.stem for path in written}
    assert {"leaderboard", "index", "confusion", "class_accuracy", "attack_ladder", "temperatures", "nsd"} <= names
    assert not [text for text in left if "confusion" in text or "class" in text]


def test_the_confusion_matrix_has_every_class(either: Store):
    results = read_results(either)
    rows = results.class_accuracy.assign(role="student")
    outcomes = results.outcomes(list(results.done["trial_id"]))
    variant = results.rows["variant"].reindex(outcomes["row"]).to_numpy()
    outcomes.loc[outcomes.index[0], ["prediction", "robust"]] = [3, False]  # a network may see the absent class
    figure = confusion(outcomes.assign(variant=variant, role="student"), names=class_names(rows), attack="clean")
    assert figure is not None
    for axis in [axis for axis in figure.axes if axis.images]:
        assert axis.images[0].get_array().shape == (4, 4)
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert labels[:3] == NAMES[:3]
    assert len(labels) == 4


def test_the_page_names_every_class_and_has_no_number_for_the_absent_one(store: Store):
    results = read_results(store)
    data = page_data(results, leaderboard(results), "best_validation")
    assert [setting["classes"] for setting in data["settings"]] == [NAMES]
    for row in data["rows"]:
        for attacks in row["classes"].values():
            for classes in attacks.values():
                assert len(classes) == 4
                assert classes[3] == [None, None, None]
                assert None not in [value for value, _, _ in classes[:3]]
    json.dumps(data, allow_nan=False)


def test_show_has_a_dash_for_the_absent_class(store: Store, tmp_path: Path):
    console = Console(record=True, width=120)
    show_trial(store, store.trials()["trial_id"].iloc[0], console)
    text = console.export_text()
    line = next(line for line in text.splitlines() if line.startswith(NAMES[3]))
    assert set(line.removeprefix(NAMES[3]).split()) == {"–"}
    assert "nan" not in text.split("specification")[0]


# Oddities of data sets


def oddities(path: Path) -> list[str]:
    return remarks(*(load("npz", part, path=path) for part in ("train", "test")))


def test_oddities_of_a_data_set_are_told(tmp_path: Path):
    assert oddities(own_file(tmp_path, [0, 1, 2] * 5, [0, 1, 2])) == []
    assert oddities(own_file(tmp_path, [1, 2, 3] * 5, [1, 2, 3])) == [
        "labels start at 1: class 0 has no image and counts as a class"
    ]
    assert oddities(own_file(tmp_path, [0, 3] * 5, [0, 3])) == [
        "no image of classes 1, 2: the network has outputs for 4 classes all the same"
    ]
    assert oddities(own_file(tmp_path, [0, 1, 2] * 5, [0, 1, 2], NAMES)) == [
        "no image of class dog: the network has outputs for 4 classes all the same"
    ]
    assert oddities(own_file(tmp_path, [0, 1] * 5, [0, 1, 2, 3], NAMES)) == [
        "the test images show classes cat, dog, of which there is no training image"
    ]
    assert oddities(own_file(tmp_path, [0, 1, 2] * 5, [0, 1], NAMES[:3])) == [
        "no test image of class cat: not in any average, worst class or NSD"
    ]
    black = {f"x_{part}": np.ones((8, 4, 4), np.uint8) for part in ("train", "test")}
    np.savez(tmp_path / "own.npz", **black, y_train=np.arange(8) % 2, y_test=np.arange(8) % 2)
    assert ["hold only 0 and 1" in text for text in oddities(tmp_path / "own.npz")] == [True]


def test_an_oddity_is_told_once_stored_with_each_trial_and_printed_beside_the_table(tmp_path: Path):
    own_file(tmp_path, [1, 2, 3] * 20, [1, 2, 3] * 8)
    suite = load_suite_of(tmp_path)
    planned = Planned(suite, plan(suite), Store(tmp_path / "store"))
    console = Console(record=True, width=120)
    with Progress(planned.specs, console) as progress:
        assert run_planned(planned, Options(serial=True), progress).exit_code == 0
    sentence = "Animals: labels start at 1: class 0 has no image and counts as a class"
    assert console.export_text().count(f"warning: {sentence}") == 1
    notes = planned.store.read("notes")
    assert (notes["source"] == "data").sum() == len(planned.specs) == 2
    board = leaderboard(read_results(planned.store))
    assert board.notes.count(f"{sentence}.") == 1
    assert markdown(board).count(sentence) == 1


def load_suite_of(folder: Path):
    small_specs(folder, **{**OPTIONS, "methods": ["natural", "at"]})  # writes the suite's file
    return load_suite(str(folder / "small.yaml"))


def test_a_class_without_test_images_is_told_beside_the_table(store: Store):
    sentence = "Animals: no test image of class dog: not in any average, worst class or NSD."
    assert sentence in leaderboard(read_results(store)).notes
