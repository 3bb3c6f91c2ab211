"""The same trial, however a suite writes it, has one id; and no normal form changes the id of a stored trial."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from harness.errors import InputError
from harness.spec import TrialSpec, read_spec
from harness.store.store import Store
from harness.suites.blocks import dataset_spec, evaluation_spec, training_spec
from harness.suites.plan import plan
from harness.suites.suite import load_suite

PUBLISHED = sorted(path.parent for path in (Path(__file__).parents[2] / "results").glob("*/trials"))
SUITE = {
    "name": "small",
    "dataset": "digits",
    "student": {"name": "cnn", "width": 4},
    "eps": 0.1,
    "training": {"epochs": 10, "milestones": [4, 8]},
    "methods": ["at"],
    "evaluation": {"attacks": ["clean", "pgd20"]},
}


def planned(tmp_path: Path, *overrides: str, **changes) -> TrialSpec:
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump({**SUITE, **changes}))
    return plan(load_suite(str(path), overrides))[-1]


SAME = [
    ("training.step_size=0.025", "training.step_size=null"),
    ("training.step_size=1/40", "training.step_size=null"),
    ("training.milestones=[8, 4]", "training.milestones=[4, 8]"),
    ("training.milestones=[0.4, 0.8]", "training.milestones=[4, 8]"),
    ("training.milestones=[4, 8, 10]", "training.milestones=[4, 8]"),
    ("training.milestones=[8, 4] training.decay_rule=restart", "training.milestones=[4]"),
    ("training.milestones=[] training.decay=0.5 training.decay_rule=restart", "training.milestones=[]"),
    ("training.decay=1", "training.milestones=[]"),
    ("training.lr=1", "training.lr=1.0"),
    ("training.running_statistics=all", "training.lr=0.1"),
    ("training.running_statistics=adversarial", "training.lr=0.1"),  # at passes no clean images
    ("training.weight_average={kind: ema, threshold: 0.5}", "training.weight_average={kind: ema}"),
    ("training.weight_average={kind: ema, start_epoch: 10}", "training.weight_average=null"),
    ("training.weight_perturbation={start_epoch: 10}", "training.weight_perturbation=null"),
    ("dataset.train_images=1207", "dataset.train_images=null"),
    ("dataset.imbalance=0.1 dataset.train_images=495", "dataset.imbalance=0.1"),
    ("dataset.imbalance=1", "dataset.imbalance=null"),
    ("dataset.test_images=450", "dataset.test_images=null"),
    ("dataset.augment={crop: 1, flip: false, pad: zero}", "dataset.augment=null"),
    ("evaluation.images=450", "evaluation.images=null"),
    ("dataset.test_images=100 evaluation.images=100", "dataset.test_images=100"),
    ("evaluation.batch_size=2000", "evaluation.batch_size=500"),
    (
        "evaluation.attacks=[{name: pgd20, start: clean, restarts: 5}]",
        "evaluation.attacks=[{name: pgd20, start: clean}]",
    ),
    ("evaluation.attacks=[{name: fgsm, restarts: 3}]", "evaluation.attacks=[fgsm]"),
    ("student.normalization={mean: [0], std: [1]}", "student.normalization=none"),
]


@pytest.mark.parametrize(("first", "second"), SAME)
def test_the_same_written_otherwise_is_one_trial(tmp_path, first, second):
    one, other = (planned(tmp_path, *_sets(text)) for text in (first, second))
    assert one == other
    assert one.trial_id == other.trial_id


OTHER = [
    "training.step_size=0.02",
    "training.milestones=[4, 9]",
    "training.weight_average={kind: fawa, start_epoch: 10}",
    "training.weight_average={kind: ema}",
    "methods=[trades]",
    "methods=[trades] training.running_statistics=adversarial",
    "dataset.train_images=1206",
    "dataset.test_images=449",
    "evaluation.images=449",
    "evaluation.batch_size=250",
    "evaluation.attacks=[clean, {name: pgd20, restarts: 2}]",
]


def test_what_computes_otherwise_is_another_trial(tmp_path):
    specs = [planned(tmp_path), *(planned(tmp_path, *_sets(text)) for text in OTHER)]
    assert len({spec.trial_id for spec in specs}) == len(specs)


def _sets(text: str) -> list[str]:
    """Overrides that stand in one line, each beginning with its key."""
    starts = [
        place
        for place in range(len(text))
        if text.startswith(("training.", "dataset.", "eval", "stud", "methods"), place)
    ]
    return [text[start:end].strip() for start, end in zip(starts, [*starts[1:], None], strict=True)]


@pytest.mark.parametrize("folder", PUBLISHED, ids=lambda path: path.name)
def test_what_is_stored_stands_in_the_form_that_is_planned(folder):
    for text in Store(folder).trials()["spec"]:
        spec = read_spec(json.loads(text))
        assert dataset_spec(json.loads(text)["dataset"]) == spec.dataset
        if spec.training is not None:
            assert training_spec(spec.training.model_dump(), spec.eps) == spec.training
        if spec.evaluation.attacks:  # a search has none
            requests = [attack.model_dump(exclude_none=True) for attack in spec.evaluation.attacks]
            rest = spec.evaluation.model_dump(exclude={"attacks"})
            assert evaluation_spec({"attacks": requests, **rest}, spec.eps, spec.dataset) == spec.evaluation


def test_nesterov_without_momentum_is_refused(tmp_path):
    with pytest.raises(InputError, match="training: nesterov needs a momentum above 0"):
        planned(tmp_path, "training.nesterov=true", "training.momentum=0")


def test_a_clean_pass_is_not_counted_and_left_out(tmp_path):
    with pytest.raises(InputError, match="training: batch_norm_pass counts clean images, and running_statistics"):
        planned(tmp_path, "training.batch_norm_pass=true", "training.running_statistics=adversarial")


@pytest.fixture
def npz(tmp_path) -> dict:
    """Three classes of 40 training images and 10 test images."""
    arrays = {
        f"{kind}_{part}": values
        for part, count in (("train", 40), ("test", 10))
        for kind, values in (("x", np.zeros((3 * count, 8, 8), np.uint8)), ("y", np.repeat(np.arange(3), count)))
    }
    np.savez_compressed(tmp_path / "mine.npz", **arrays)
    return {"name": "npz", "path": str(tmp_path / "mine.npz")}


@pytest.fixture
def folder(tmp_path) -> dict:
    """Three classes of 60 images, ten of which are drawn as test images."""
    for name in "abc":
        (tmp_path / "mine" / name).mkdir(parents=True)
        for place in range(60):
            Image.new("L", (8, 8), place).save(tmp_path / "mine" / name / f"{place}.png")
    return {"name": "folder", "path": str(tmp_path / "mine")}


@pytest.mark.parametrize(("kind", "train", "test"), [("npz", 108, 30), ("folder", 135, 30)])
def test_sizes_of_own_data_are_known_to_the_plan(tmp_path, request, kind, train, test):
    data = request.getfixturevalue(kind)
    whole = planned(tmp_path, dataset=data)
    asked = {"dataset": {**data, "train_images": train, "test_images": test}}
    evaluation = {**SUITE["evaluation"], "images": 1000}
    assert planned(tmp_path, **asked, evaluation=evaluation).trial_id == whole.trial_id
    for key, most in (("train_images", train), ("test_images", test)):
        with pytest.raises(InputError, match=rf"dataset {kind}: {key} must be 3 to {most} images"):
            planned(tmp_path, dataset={**data, key: most + 1})
    with pytest.raises(InputError, match="evaluation: pgd20: images must be at least 3"):
        planned(tmp_path, dataset=data, evaluation={"attacks": [{"name": "pgd20", "images": 2}]})
    with pytest.raises(InputError, match="learns from held-out training images needs 2 of each class"):
        planned(tmp_path, dataset={**data, "train_images": 9}, methods=["wat"])


def test_labels_that_the_reader_refuses_are_left_to_it(tmp_path, npz):
    arrays = dict(np.load(npz["path"]))
    np.savez(npz["path"], **{**arrays, "y_test": arrays["y_test"] - 1})
    assert planned(tmp_path, dataset={**npz, "train_images": 108}).dataset.train_images == 108
