"""A network in a folder of its own: its card says what the store says, and it computes what it did."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from harness.data.registry import DATASETS
from harness.evaluation.export import CARD, WEIGHTS, _command, _loading
from harness.evaluation.given import evaluation_trial
from harness.inputs import network_of
from harness.spec import DatasetSpec, TrialSpec
from harness.store.store import Store
from harness.suites.plan import plan
from harness.suites.suite import load_suite
from tests.command import bench, refused
from tests.pages import runnable
from tests.small import run_to_end, small_specs, weights


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, TrialSpec]:
    """A folder with a store, and a trial of it."""
    folder = tmp_path_factory.mktemp("ran")
    attacks = ["clean", "pgd3", {"name": "pgd2", "step_size": 0.05}, {"name": "fgsm", "images": 30}]
    spec = small_specs(
        folder, dataset={"name": "digits", "train_images": 200, "test_images": 60}, eps="8/255", methods=["at"],
        teacher=None, student={"name": "cnn", "width": 4, "normalization": "dataset"},
        evaluation={"attacks": attacks, "gradient_precision": "bfloat16"},
    )["at"]  # fmt: skip
    run_to_end(spec, folder / "store")
    return folder, spec


def text(folder: Path) -> str:
    return (folder / CARD).read_text()


def block(folder: Path, language: str) -> str:
    (found,) = re.findall(f"```{language}\n(.*?)```", text(folder), re.DOTALL)
    return found


def test_an_exported_network_loads_and_computes_what_it_did(ran, tmp_path, monkeypatch):
    folder, spec = ran
    _, printed = runnable("docs/results.md")
    out, places = tmp_path / "out", {"TRIAL": spec.trial_id[:6], "FOLDER": str(tmp_path / "out")}
    bench(*[places.get(word, word) for word in printed], "--results", "store", cwd=folder)
    assert sorted(path.name for path in out.iterdir()) == [CARD, WEIGHTS]
    kept, found = weights(folder / "store", spec, "best_validation"), load_file(out / WEIGHTS)
    assert found.keys() == kept.keys()
    assert all(torch.equal(found[name], kept[name]) for name in kept)
    monkeypatch.chdir(out)
    names: dict = {}
    exec(block(out, "python"), names)
    assert names["network"](torch.rand(2, 1, 8, 8)).shape == (2, 10)
    assert names["network"].mean.flatten().tolist() == pytest.approx(list(spec.student.mean))
    bench(*shlex.split(block(out, "bash"))[1:], "--serial", "--results", "again", cwd=out)
    before, after = (Store(root).read("class_accuracy") for root in (folder / "store", out / "again"))
    before = before[(before["checkpoint"] == "best_validation") & before["attack"].isin(["clean", "pgd3"])]
    assert set(after["attack"]) == {"clean", "pgd3"}  # as their names say, on the same images
    assert "--gradient-precision bfloat16" in block(out, "bash")
    columns = ["attack", "class_index", "n", "correct"]
    same = [
        each[columns].astype({"attack": str}).sort_values(columns[:2]).to_numpy().tolist() for each in (before, after)
    ]
    assert same[0] == same[1]


def test_the_card_says_what_the_store_says(ran, tmp_path):
    folder, spec = ran
    for checkpoint in ("best_validation", "last"):
        into = tmp_path / checkpoint
        bench(
            "export", spec.trial_id, "--results", "store", "--into", str(into), "--checkpoint", checkpoint, cwd=folder
        )
        rows = Store(folder / "store").read("class_accuracy")
        rows = rows[(rows["checkpoint"] == checkpoint) & (rows["attack"] == "pgd3")].sort_values("class_index")
        lines = [line.split(" | ") for line in text(into).splitlines() if line.startswith("| ")]
        assert [word.strip(" |") for word in lines[0]] == ["class", "Clean", "FGSM", "PGD-2", "PGD-3"]
        shown = [float(line[4].strip(" |")) for line in lines[2:13]]
        accuracy = 100 * rows["accuracy"].to_numpy()
        assert shown == pytest.approx([*accuracy, accuracy.mean()], abs=0.051)
        assert float(lines[13][4].strip(" |")) == pytest.approx(accuracy.min(), abs=0.051)
        for said in (
            f"trial: {spec.trial_id}",
            "# at on digits, seed 0",
            "torch ",
            checkpoint,
            "cnn(width=4)",
            "L-inf eps 8/255",
        ):
            assert said in text(into)
    (tmp_path / "again.yaml").write_text(block(into, "yaml"))
    assert [each.trial_id for each in plan(load_suite(str(tmp_path / "again.yaml")))] == [spec.trial_id]
    assert yaml.safe_load(block(into, "yaml"))["seeds"] == [0]


def test_a_network_that_was_given_is_exported_with_the_normalisation_of_its_file(ran, tmp_path):
    folder, spec = ran
    state = weights(folder / "store", spec)
    buffers = {"mu": torch.tensor(spec.student.mean), "sigma": torch.tensor(spec.student.std)}
    torch.save({"net": {**buffers, **{f"model.{name}": value for name, value in state.items()}}}, tmp_path / "given.pt")
    words = ["--model", "cnn", "--param", "width=4", "--dataset", "digits", "--attacks", "clean", "--serial"]
    bench("evaluate", "given.pt", *words, "--images", "50", "--results", "store", cwd=tmp_path)
    (trial,) = Store(tmp_path / "store").trials()["trial_id"]
    bench("export", trial, "--results", "store", "--into", "out", cwd=tmp_path)
    assert load_file(tmp_path / "out" / WEIGHTS).keys() == state.keys()
    assert "trained elsewhere" in text(tmp_path / "out")
    done = bench(
        *shlex.split(block(tmp_path / "out", "bash"))[1:], "--serial", "--results", "../again", cwd=tmp_path / "out"
    )
    accuracy = [Store(tmp_path / root).read("class_accuracy")["correct"].tolist() for root in ("store", "again")]
    assert accuracy[0] == accuracy[1], done.stdout


def test_the_command_of_a_card_splits_and_names_what_the_trial_did(ran):
    spec = ran[1].model_copy(update={"dataset": DatasetSpec(name="folder", path="/data/pets"), "split_seed": 3})
    assert "--split-seed 3" in _command(spec, {})
    coded = spec.model_copy(update={"code": {"attack:mine": "ab12", "method:mine": "cd34"}})
    loading = _loading(coded, {"in_channels": 1, "num_classes": 10, "image_size": 8})
    assert "Code of others: attack mine, sha256 ab12. `--plugin FILE`" in loading
    trial = evaluation_trial(network_of(spec, "last"), spec.dataset,
                             {"attacks": ["clean"]}, "8/255", "pets", split_seed=3)  # fmt: skip
    assert trial.split_seed == 3


def test_what_cannot_be_exported_is_one_line(ran, tmp_path, monkeypatch):
    folder, spec = ran
    into, here = str(tmp_path / "out"), ("--results", "store")
    assert "no trial 'ffff' in store" in refused("export", "ffff", *here, "--into", into, cwd=folder)
    told = refused("export", spec.trial_id, *here, "--into", into, "--checkpoint", "lst", cwd=folder)
    assert "unknown checkpoint of this trial 'lst': did you mean last" in told
    assert "it is not a folder" in refused("export", spec.trial_id, *here, "--into", "small.yaml", cwd=folder)
    assert "holds other files (small.yaml, store)" in refused("export", spec.trial_id, *here, "--into", ".", cwd=folder)
    assert not (tmp_path / "out").exists()
    bench("export", spec.trial_id, *here, "--into", into, cwd=folder)
    bench("export", spec.trial_id, *here, "--into", into, cwd=folder)  # the same again
    other = ("export", spec.trial_id, *here, "--into", into, "--checkpoint", "last")
    assert f"holds other files ({CARD}, {WEIGHTS})" in refused(*other, cwd=folder)
    with monkeypatch.context() as without:
        without.delitem(DATASETS, "digits")
        told = refused("export", spec.trial_id, *here, "--into", str(tmp_path / "new"), cwd=folder)
    assert "unknown dataset 'digits'" in told
    assert "--plugin" in told
    path = folder / "store" / "work" / spec.training_id / "last.pt"
    content = path.read_bytes()
    path.unlink()
    try:
        told = refused(*other[:-3], str(tmp_path / "new"), *other[-2:], cwd=folder)
    finally:
        path.write_bytes(content)
    assert f"checkpoint store/work/{spec.training_id}/last.pt cannot be read: No such file" in told
