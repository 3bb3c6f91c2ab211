"""`show`: one trial in full, on a terminal of 80 columns."""

from __future__ import annotations

import re

import pytest
import yaml
from rich.console import Console

from harness.cli.listings import found_trial, show_trial
from harness.errors import InputError
from harness.evaluation.export import export
from harness.store.store import Store
from harness.store.work import WorkingFolder
from tests.damage import damage
from tests.synthetic_store import CLOTHES, failed_row, fill_store, trial_spec

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


def test_of_several_stores_one_is_shown_that_has_the_trial_done_and_its_network(tmp_path):
    spec = trial_spec("absld", 0)
    names = ("bare", "failed", "whole", "z")
    roots = [tmp_path / name for name in names]
    for root in (roots[0], roots[2], roots[3]):
        fill_store(root, [spec], per_class=20)
    Store(roots[1]).commit(failed_row(spec))
    work = WorkingFolder(roots[2], Store(roots[2]).row(spec.trial_id)["training_id"])
    work.make()
    work.weights("last").touch()
    store, trial_id, others = found_trial(spec.trial_id[:6], roots)
    assert (store.root, trial_id) == (roots[2], spec.trial_id)
    assert others == [str(root) for root in (roots[0], roots[3], roots[1])]
    (roots[3] / "compacted.json").write_text("damaged")
    assert found_trial(spec.trial_id[:6], roots)[2] == [str(root) for root in roots[:2]]
    with pytest.raises(InputError, match="damaged"):
        found_trial(spec.trial_id[:6], roots[3:])


def test_a_trial_whose_row_is_damaged_is_told_in_a_line(tmp_path):
    spec = trial_spec("absld", 0)
    store = fill_store(tmp_path, [spec], per_class=20)
    damage(tmp_path / "trials" / f"{spec.trial_id}.parquet")
    told = f"the row of trial {spec.trial_id} is damaged; see `run-bench verify"
    with pytest.raises(InputError, match=told):
        show_trial(store, spec.trial_id, Console())
    with pytest.raises(InputError, match=told):
        export(store, spec.trial_id, None, tmp_path / "out", None)


def test_the_specification_is_yaml_without_nulls(tmp_path):
    spec = trial_spec("absld", 0)
    store = fill_store(tmp_path, [spec], per_class=20)
    console = Console(width=80, record=True)
    show_trial(store, spec.trial_id, console)
    written = console.export_text().split("specification, without what is null:")[1]
    found = yaml.safe_load(written)
    assert found["training"]["epochs"] == 20
    assert "null" not in written
