"""Every method of the registry, and combinations of policies that no paper has, through the whole line: two epochs on
real digits, once straight through and once interrupted in the second epoch. The two must not differ in a bit."""

from __future__ import annotations

import itertools
import shutil

import pandas as pd
import pytest

import methods
from harness.store.store import Store
from tests.small import assert_same_weights, run_to_end, small_specs, weights

COMBINATIONS = {
    "absld+kappa": {"method": "absld", "weights": "kappa"},
    "absld+ccm": {"method": "absld", "margins": "ccm"},
    "absld+frl": {"method": "absld", "weights": "frl"},
    "absld+wat": {"method": "absld", "weights": "wat"},
    "absld+dafa": {"method": "absld", "weights": "dafa", "margins": "dafa"},
    "absld+kappa+ccm": {"method": "absld", "weights": "kappa", "margins": "ccm"},
    "absld+frl+ccm": {"method": "absld", "weights": "frl", "margins": "ccm"},
    "absld+bat_stop": {"method": "absld", "margins": "bat_stop"},
}
ENTRIES = {**{name: {"method": name} for name in methods.METHODS}, **COMBINATIONS}
SUITE = {
    "dataset": {"name": "digits", "train_images": 120, "test_images": 20},
    "natural_teacher": {"model": {"name": "cnn", "width": 4}, "method": "natural"},
    "init": {"method": "at", "training": {"epochs": 1}},
    "evaluation": {"attacks": ["clean"]},
    "methods": [{**entry, "variant": name} for name, entry in ENTRIES.items()],
}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A store in which the teachers and the starting network are done."""
    root = tmp_path_factory.mktemp("prepared")
    specs = small_specs(root, "training.batch_size=40", **SUITE)
    for spec in specs.values():
        if spec.role == "teacher":
            run_to_end(spec, root)
    return root, specs


def table(root, spec, name):
    frame = Store(root).read(name, [spec.trial_id]).drop(columns="seconds", errors="ignore")
    return frame.sort_values(
        ["epoch", *[key for key in ("quantity", "class_index") if key in frame]], ignore_index=True
    )


@pytest.mark.parametrize("name", ENTRIES)
def test_it_trains_logs_its_classes_and_resumes_bit_for_bit(prepared, tmp_path, name):
    root, specs = prepared
    spec = specs[name]
    shutil.copytree(root / "work", tmp_path / "work")
    run_to_end(spec, root)
    calls = itertools.count(1)
    assert run_to_end(spec, tmp_path, should_stop=lambda: next(calls) == 4)[-1]["event"] == "interrupted"
    run_to_end(spec, tmp_path)
    for kind in ("epochs", "class_state"):
        pd.testing.assert_frame_equal(table(tmp_path, spec, kind), table(root, spec, kind))
    assert_same_weights(weights(tmp_path, spec), weights(root, spec))
    epochs = table(root, spec, "epochs")
    assert epochs["loss"].notna().all()
    logged = set(table(root, spec, "class_state")["quantity"].astype(str)) - {"val_clean", "val_robust"}
    assert logged if COMBINATIONS.get(name) else True
    assert (spec.method["labels"]["name"] == "class_temperature") == ("temperature_adversarial" in logged)
