"""What a store has of a suite under other settings of the machine, or from an older numerics version: found by status
and report, and never made again unasked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from harness.errors import InputError
from harness.report.results import read_results
from harness.report.scores.leaderboard import leaderboard
from harness.spec import NUMERICS_VERSION, TrialSpec, canonical, training_id, trial_id
from harness.store.provenance import trial_columns
from harness.store.store import Store
from harness.suites.earlier import describe, refuse_older, stored_otherwise
from harness.suites.plan import plan
from harness.suites.suite import load_suite
from tests.command import bench

SUITE = {
    "name": "small",
    "dataset": "digits",
    "student": {"name": "cnn", "width": 4},
    "teacher": {"model": {"name": "cnn", "width": 4}},
    "eps": 0.1,
    "training": {"epochs": 1, "batch_size": 256, "attack_steps": 1, "validation_steps": 1},
    "methods": ["at", "rslad"],
    "evaluation": {"attacks": ["clean"]},
}


@pytest.fixture
def suite(tmp_path) -> str:
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(SUITE))
    return str(path)


def commit(
    specs: list[TrialSpec], root: Path, version: int = NUMERICS_VERSION, status: str = "done", **columns: Any
) -> list[str]:
    """Stores the trials as a numerics version would have: ids of students follow those of their teachers."""
    ids, trainings = [], {}
    for spec in specs:
        written = spec.model_dump(mode="json")
        for source in written["teachers"].values():
            source["training"] = trainings[source["training"]]
        written["evaluation"]["chunk_size"] = 1000  # what was asked of the test images may have changed since
        values = canonical(written)
        trainings[spec.training_id] = training_id(values, version)
        row = trial_columns(spec) | {
            "trial_id": trial_id(values, version), "training_id": training_id(values, version), "spec": written,
            "numerics_version": version, "status": status, "attempts": 1, **columns,
        }  # fmt: skip
        ids.append(row["trial_id"])
        counts = {"checkpoint": "best_validation", "attack": "clean", "class_index": [0, 1], "class_name": ["0", "1"],
                  "n": 10, "correct": [9, 4], "accuracy": [0.9, 0.4]}  # fmt: skip
        Store(root).commit(row, {"class_accuracy": pd.DataFrame(counts)})
    return ids


def test_trials_of_another_precision_are_found_with_the_set_that_matches(suite, tmp_path):
    other = plan(load_suite(suite, ["precision=bfloat16", "threads=2"]))
    stored = commit(other, tmp_path / "store")
    specs = plan(load_suite(suite))
    (found,) = stored_otherwise(specs, Store(tmp_path / "store"))
    assert found.trials == dict(zip(stored, ["teacher", "at", "rslad"], strict=True))
    said = "the store has 3 finished trials of these variants with --set precision=bfloat16 --set threads=2"
    assert describe(found, specs) == said
    assert stored_otherwise(plan(load_suite(suite, ["training.lr=0.2"])), Store(tmp_path / "store")) == []
    refuse_older(specs, Store(tmp_path / "store"))
    for words in (["status", suite], ["run", suite, "--dry-run"]):
        assert said in bench(*words, "--results", "store", cwd=tmp_path).stdout
    assert said in bench("report", suite, "--results", "store", cwd=tmp_path, check=2).stderr


def test_trials_of_an_older_numerics_version_are_not_made_again_unasked(suite, tmp_path):
    specs = plan(load_suite(suite))
    stored = commit(specs, tmp_path / "store", NUMERICS_VERSION - 1)
    assert not {spec.trial_id for spec in specs} & set(stored)
    (found,) = stored_otherwise(specs, Store(tmp_path / "store"))
    assert (found.older, set(found.trials)) == (True, set(stored))
    with pytest.raises(InputError, match="has 3 finished trials of these variants from an older numerics version"):
        refuse_older(specs, Store(tmp_path / "store"))
    done = bench("run", suite, "--serial", "--results", "store", cwd=tmp_path, check=2)
    assert "--again makes them again" in done.stderr
    assert (
        f"made under numerics version {NUMERICS_VERSION - 1} (now {NUMERICS_VERSION})"
        in bench("status", suite, "--results", "store", cwd=tmp_path).stdout
    )
    shown = bench("report", suite, "--results", "store", "--figures", "", cwd=tmp_path).stdout
    assert "rslad" in shown


def test_rows_of_two_numerics_versions_stand_under_headings_of_their_own(suite, tmp_path):
    specs = plan(load_suite(suite))
    commit(specs, tmp_path / "store", NUMERICS_VERSION - 1)
    commit(specs, tmp_path / "store")
    results = read_results(Store(tmp_path / "store"))
    rows = results.rows[results.rows["role"] == "student"]
    older = f"digits (numerics version {NUMERICS_VERSION - 1})"
    assert list(zip(rows["dataset"], rows["variant"], strict=True)) == [
        ("digits", "at"), ("digits", "rslad"), (older, "at"), (older, "rslad"),
    ]  # fmt: skip
    assert [setting[0] for setting in leaderboard(results).settings] == ["digits", older]
    assert json.loads(results.trials["spec"][0])["dataset"]["name"] == "digits"


@pytest.mark.slow
def test_again_makes_them_again_beside_the_old_ones(suite, tmp_path):
    specs = plan(load_suite(suite))
    stored = commit(specs, tmp_path / "store", NUMERICS_VERSION - 1)
    bench("run", suite, "--serial", "--results", "store", "--again", cwd=tmp_path)
    assert set(Store(tmp_path / "store").statuses()) == {*stored, *(spec.trial_id for spec in specs)}
    bench("run", suite, "--serial", "--results", "store", cwd=tmp_path)
