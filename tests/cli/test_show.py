"""`show`: one trial in full, on a terminal of 80 columns."""

from __future__ import annotations

import re

import pytest
import yaml
from rich.console import Console

from harness.cli.listings import show_trial
from tests.synthetic_store import CLOTHES, fill_store, trial_spec

MANY = tuple(f"a class of some longer name, {place}" for place in range(100))


@pytest.mark.parametrize("classes", [CLOTHES, MANY], ids=["10", "100"])
def test_classes_are_lines_and_attacks_columns_and_nothing_is_wider_than_the_terminal(tmp_path, classes):
    attacks = ("clean", "fgsm", "pgd20", "cw20", "mifgsm10", "aa_short", "aa_standard")
    spec = trial_spec("absld", 0, attacks=attacks, eps=8 / 255)
    store = fill_store(tmp_path, [spec], classes=classes, per_class=20)
    console = Console(width=80, record=True)
    show_trial(store, spec.trial_id, console)
    text = console.export_text()
    assert max(map(len, text.splitlines())) <= 80
    counts = store.read("class_accuracy", [spec.trial_id])
    for checkpoint in ("best_validation", "last"):
        part = text.split(f"accuracy per class, %, checkpoint {checkpoint}:")[1]
        assert re.search(r"class +Clean +FGSM", part)
        clean = counts.query(f"checkpoint == '{checkpoint}' and attack == 'clean' and class_index == 3")
        line = next(line for line in part.splitlines() if line.startswith(classes[3][:20]))
        assert f" {100 * clean['accuracy'].iloc[0]:.1f} " in line
    assert re.search(r"^eps +8/255 *$", text, re.M)
    assert re.search(r"^peak_memory_mb +900 *$", text, re.M)


def test_the_specification_is_yaml_without_nulls(tmp_path):
    spec = trial_spec("absld", 0)
    store = fill_store(tmp_path, [spec], per_class=20)
    console = Console(width=80, record=True)
    show_trial(store, spec.trial_id, console)
    written = console.export_text().split("specification, without what is null:")[1]
    found = yaml.safe_load(written)
    assert found["training"]["epochs"] == 20
    assert "null" not in written
