"""Whole trials on real digits: rows, determinism, resuming bit for bit, honesty of the selection, failures."""

from __future__ import annotations

import itertools
import json
import math
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from harness.data.remarks import short_last_batch
from harness.engine.process import deterministic_algorithms
from harness.errors import InputError
from harness.inputs import Images, check_readable, new_network, read_data
from harness.models.checkpoints import write_state
from harness.running.run import Options, run
from harness.spec import CHECKPOINTS, AugmentSpec
from harness.store.provenance import trial_columns
from harness.store.store import Store
from harness.store.verify import verify
from harness.store.work import WorkingFolder
from harness.training.trainer import EpochBatches, NonFiniteLossError
from harness.trial import class_accuracy_rows, run_trial
from tests.small import assert_same_weights, run_to_end, small_specs, spoil, weights

TABLES = ("class_accuracy", "outcomes", "epochs", "class_state")


def rows(root, spec, table):
    frame = Store(root).read(table, [spec.trial_id]).drop(columns=["seconds"], errors="ignore")
    return frame.sort_values(
        [name for name in frame if frame[name].dtype.kind in "iOUb" or frame[name].dtype == "category"],
        ignore_index=True,
    )


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """Teacher and students run without interruption."""
    root = tmp_path_factory.mktemp("straight")
    specs = small_specs(root)
    events = {name: run_to_end(spec, root) for name, spec in specs.items()}
    return root, specs, events


def test_a_trial_announces_its_epochs_and_attacks_and_ends_done(straight):
    _, specs, events = straight
    kinds = [event["event"] for event in events["absld_reweight"]]
    # 60 images in chunks of 25 are 3, two attacks, two checkpoints
    assert kinds == ["start", "epoch", "epoch", "evaluation", *["attack"] * 12, "done"]
    assert {event["trial_id"] for event in events["absld_reweight"]} == {specs["absld_reweight"].trial_id}


def test_rows_agree_with_each_other(straight):
    root, specs, _ = straight
    store = Store(root)
    assert set(store.trials()["status"]) == {"done"}
    assert verify(store.root).broken == {}
    spec = specs["absld_reweight"]
    outcomes, accuracy = rows(root, spec, "outcomes"), rows(root, spec, "class_accuracy")
    assert len(outcomes) == 60 * 2 * 2
    for (checkpoint, attack), part in outcomes.groupby(["checkpoint", "attack"], observed=True):
        for label, samples in part.groupby("label"):
            row = accuracy[
                (accuracy.checkpoint == checkpoint) & (accuracy.attack == attack) & (accuracy.class_index == label)
            ].iloc[0]
            assert (row["n"], row["correct"]) == (len(samples), samples["robust"].sum())
            assert row["accuracy"] == row["correct"] / row["n"]
    clean, robust = (
        outcomes[outcomes.attack == name].set_index(["checkpoint", "sample_index"])["robust"]
        for name in ("clean", "pgd3")
    )
    assert not (robust & ~clean.reindex(robust.index)).any()  # nobody is robust who is wrong unattacked


def test_the_trials_row_says_what_ran(straight):
    root, specs, _ = straight
    trial = Store(root).read("trials", [specs["absld_reweight"].trial_id]).iloc[0]
    assert (trial["label_policy"], trial["weight_policy"], trial["margin_policy"]) == (
        "class_temperature",
        "kappa",
        "none",
    )
    assert (trial["train_images"], trial["epochs"], trial["seed"], trial["precision"]) == (200, 2, 0, "float32")
    assert json.loads(trial["spec"])["method"]["labels"]["temperature_rate"] == 0.1
    assert specs["teacher"].training_id[:8] in trial["teacher"]
    assert trial["train_s"] > 0
    assert trial["eval_s"] > 0
    assert trial["peak_memory_mb"] > 50


def test_class_state_is_logged_each_epoch(straight):
    root, specs, _ = straight
    state = rows(root, specs["absld_reweight"], "class_state")
    quantities = {
        "temperature_adversarial", "temperature_clean", "class_loss_adversarial", "class_loss_clean", "weight", "kappa",
        "mean_weight_adversarial", "mean_weight_clean", "val_clean", "val_robust",
    }  # fmt: skip
    assert set(state["quantity"].astype(str)) == quantities
    assert len(state) == len(quantities) * 2 * 10
    first = state[(state.epoch == 1) & (state.quantity == "temperature_adversarial")]["value"].to_numpy()
    losses = state[(state.epoch == 1) & (state.quantity == "class_loss_adversarial")]["value"].to_numpy()
    gap = losses - losses.mean()
    np.testing.assert_allclose(
        first, 1 - 0.01 * gap / np.abs(gap).max(), rtol=1e-5
    )  # the milestone after epoch 1 cut the rate


def test_best_validation_is_the_best_epoch_and_ties_go_to_the_later(straight):
    root, specs, _ = straight
    for spec in specs.values():
        scores = rows(root, spec, "epochs").sort_values("epoch")["selection_score"].to_numpy()
        sidecar = json.loads((root / "work" / spec.training_id / "best_validation.json").read_text())
        assert sidecar["epoch"] == len(scores) - int(np.argmax(scores[::-1]))


def test_running_twice_gives_the_same_bits(straight, tmp_path):
    root, specs, _ = straight
    run_to_end(specs["at"], tmp_path)
    for table in TABLES:
        pd.testing.assert_frame_equal(rows(tmp_path, specs["at"], table), rows(root, specs["at"], table))
    assert_same_weights(weights(tmp_path, specs["at"]), weights(root, specs["at"]))


@pytest.mark.parametrize("after", [1, 4, 6])
def test_an_interrupted_trial_goes_on_bit_for_bit(straight, tmp_path, after):
    """Interrupted after the first step, at an epoch's last step, and inside the second epoch (4 steps each)."""
    root, specs, _ = straight
    spec = specs["absld_reweight"]
    run_to_end(specs["teacher"], tmp_path)
    calls = itertools.count(1)
    first = run_to_end(spec, tmp_path, should_stop=lambda: next(calls) == after)
    assert first[-1]["event"] == "interrupted"
    assert not Store(tmp_path).has(spec.trial_id)
    second = run_to_end(spec, tmp_path)
    assert second[-1]["event"] == "done"
    for table in TABLES:
        pd.testing.assert_frame_equal(rows(tmp_path, spec, table), rows(root, spec, table))
    taken = Store(tmp_path).read("epochs", [spec.trial_id])["seconds"].sum()
    assert taken == pytest.approx(Store(tmp_path).row(spec.trial_id)["train_s"]), "before the interruption and after"
    for checkpoint in CHECKPOINTS:
        assert_same_weights(weights(tmp_path, spec, checkpoint), weights(root, spec, checkpoint))
    assert not (tmp_path / "work" / spec.training_id / "state.pt").exists()


@pytest.mark.parametrize(("after", "epochs"), [(1, [1, 2]), (6, [2])])
def test_an_epoch_that_was_begun_on_another_kind_of_device_starts_over_and_says_so(
    straight, tmp_path, device, after, epochs
):
    root, specs, _ = straight
    other = {"cpu": "cuda", "cuda": "cpu"}[device]
    spec, calls = specs["at"], itertools.count(1)
    run_to_end(spec, tmp_path, should_stop=lambda: next(calls) == after)
    folder = WorkingFolder(tmp_path, spec.training_id)
    assert [*folder.parts()] == [device]
    folder.part(device).rename(folder.part(other))
    said = f"epoch {epochs[0]} was begun on {other} and starts over on {device}"
    calls = itertools.count(1)
    first = run_to_end(spec, tmp_path, should_stop=lambda: next(calls) == 2)  # still within that epoch
    assert [event["event"] for event in first] == ["start", "remark", "interrupted"]
    second = run_to_end(spec, tmp_path)
    assert [event["epoch"] for event in second if event["event"] == "epoch"] == epochs
    for table in TABLES:
        pd.testing.assert_frame_equal(rows(tmp_path, spec, table), rows(root, spec, table))
    assert_same_weights(weights(tmp_path, spec), weights(root, spec))
    notes = Store(tmp_path).read("notes", [spec.trial_id])
    assert [first[1]["text"], *notes[notes.source == "device"].text] == [said, said]
    assert folder.parts() == {}


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_the_note_says_in_which_precision_the_attack_ran(tmp_path, mode):
    methods = f'methods=[{{"method": "at", "attack_mode": "{mode}", "variant": "at"}}]'
    spec = small_specs(tmp_path, methods, "precision=bfloat16", "training.epochs=1")["at"]
    run_to_end(spec, tmp_path)
    notes = Store(tmp_path).read("notes", [spec.trial_id])
    expected = {
        "eval": "fast, bfloat16 attack and update, 6 of 6 batch norms folded",
        "train": "fast, bfloat16 update, float32 attack in train mode on the unfolded network",
    }
    assert list(notes[notes.source == "engine"].text) == [expected[mode]]


@pytest.mark.parametrize(
    ("images", "batch_size", "sizes"),
    [
        (101, 50, [50, 50]), (51, 50, [50]), (100, 50, [50, 50]), (102, 50, [50, 50, 2]),
        (1, 50, [1]), (3, 1, [1, 1, 1]), (3, 2, [2]),
    ],
)  # fmt: skip
def test_a_last_batch_of_one_image_is_left_out(images, batch_size, sizes):
    values = torch.zeros(images, 1, 4, 4, dtype=torch.uint8), torch.zeros(images, dtype=torch.int64)
    batches = EpochBatches(*values, batch_size, augment=AugmentSpec(crop=1), coordinates=("digits", 0), epoch=0)
    assert [len(labels) for _, labels in batches] == sizes
    assert len(batches) == len(sizes)
    assert sum(sizes) + batches.dropped == images


@pytest.mark.parametrize("network", ["cnn", "resnet18", "mobilenet_v2"])
def test_one_image_too_many_is_noted_and_trains_with_maps_of_one_pixel(tmp_path, network):
    """The deep networks halve digits of 8x8 pixels to one, which no batch norm takes from a single image."""
    training = {"epochs": 1, "batch_size": 50, "attack_steps": 1, "validation_steps": 1}
    dataset = {"name": "digits", "train_images": 101, "test_images": 10}
    given = {"student": network, "training": training, "dataset": dataset, "evaluation": {"attacks": ["clean"]}}
    spec = small_specs(tmp_path, methods=["natural"], teacher=None, **given)["natural"]
    run_to_end(spec, tmp_path)
    notes = Store(tmp_path).read("notes", [spec.trial_id])
    text = "a last batch of one image is left out of each epoch, which has 101 images"
    assert list(notes[notes.source == "batches"].text) == [text]


@pytest.mark.parametrize(
    ("images", "batch_size", "left"),
    [(10_000, 64, 16), (52, 50, 2), (101, 50, 0), (100, 50, 0), (50_000, 128, 0), (16, 64, 0), (5, 4, 0), (113, 50, 0)],
)
def test_a_last_batch_of_a_quarter_or_less_is_warned_of(images, batch_size, left):
    text = short_last_batch(images, batch_size)
    assert (text or "").startswith(f"the last batch of an epoch has {left} of {batch_size} images" if left else "")
    assert (text is not None) == (left > 0)
    if text:
        (other,) = re.findall(r"(\d+) training images, or another", text)
        assert int(other) % batch_size == 0


def test_a_short_last_batch_is_told_before_training_and_noted(tmp_path):
    training = {"epochs": 1, "batch_size": 50, "attack_steps": 1, "validation_steps": 1}
    dataset = {"name": "digits", "train_images": 110, "test_images": 10}
    given = {"training": training, "dataset": dataset, "evaluation": {"attacks": ["clean"]}}
    spec = small_specs(tmp_path, methods=["natural"], teacher=None, **given)["natural"]
    text = short_last_batch(110, 50)
    assert check_readable([spec], None, False) == [f"digits: {text}"]
    run_to_end(spec, tmp_path)
    notes = Store(tmp_path).read("notes", [spec.trial_id])
    assert list(notes[notes.source == "batches"].text) == [text]


def test_float32_means_float32_in_a_trial(tmp_path):
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True
    assert next(run_trial(small_specs(tmp_path)["at"], tmp_path))["event"] == "start"
    assert not torch.backends.cudnn.allow_tf32
    assert not torch.backends.cuda.matmul.allow_tf32


@pytest.mark.parametrize(
    ("device", "asked", "on"), [("cuda", True, True), ("cuda", False, False), ("cpu", True, False)]
)
def test_a_gpu_computes_the_same_bits_where_the_suite_says_so(tmp_path, monkeypatch, device, asked, on):
    monkeypatch.setattr("harness.trial.device_of", lambda spec: torch.device(device))
    monkeypatch.setattr("harness.trial.reset_peak_memory", lambda device: None)
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    spec, plain = (small_specs(tmp_path, f"deterministic={value}")["at"] for value in (asked, False))
    assert (spec.trial_id, spec.deterministic) == (plain.trial_id, asked)
    try:
        assert next(run_trial(spec, tmp_path))["device"] == device
        assert (torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.deterministic) == (on, on)
        assert os.environ.get("CUBLAS_WORKSPACE_CONFIG") == (":4096:8" if on else None)
    finally:
        deterministic_algorithms(False)


def test_trainings_in_turn_in_one_process_leave_its_switches_as_they_were(tmp_path):
    """As the seeds of one setting of a search."""
    specs = [small_specs(tmp_path, "evaluation.attacks=[clean]", f"seeds=[{seed}]")["at"] for seed in (0, 1)]
    trials = [run_trial(spec, tmp_path) for spec in specs]
    before = torch.backends.cudnn.benchmark
    for trial in trials:
        assert next(event for event in trial if event["event"] == "epoch")
        assert torch.backends.cudnn.benchmark == before
    for trial in trials:
        assert list(trial)[-1]["event"] == "done"
    assert torch.backends.cudnn.benchmark == before


def test_an_interrupted_evaluation_goes_on_at_its_chunk(straight, tmp_path):
    root, specs, _ = straight
    spec = specs["at"]
    calls = itertools.count(1)
    first = run_to_end(spec, tmp_path, should_stop=lambda: next(calls) == 8 + 5)  # 8 training steps, then 5 chunks
    assert [event["event"] for event in first][-2:] == ["attack", "interrupted"]
    second = run_to_end(spec, tmp_path)
    assert "epoch" not in [event["event"] for event in second]
    pd.testing.assert_frame_equal(rows(tmp_path, spec, "outcomes"), rows(root, spec, "outcomes"))


def test_another_attack_does_not_train_again(straight, tmp_path):
    root, _, _ = straight
    more = small_specs(tmp_path, evaluation={"attacks": ["clean", "fgsm"]})["at"]
    events = run_to_end(more, root)
    assert "epoch" not in [event["event"] for event in events]
    assert set(rows(root, more, "class_accuracy")["attack"].astype(str)) == {"clean", "fgsm"}


def test_two_methods_with_one_seed_see_the_same_batches(straight, tmp_path):
    spec = small_specs(tmp_path)["at"]
    data = read_data(spec.dataset, 0, torch.device("cpu"), second=False, root=None, download=False)

    def batches(seed, epoch):
        part = EpochBatches(
            data.train.images,
            data.train.labels,
            50,
            augment=AugmentSpec(crop=1),
            coordinates=("digits", 0, seed, "cnn"),
            epoch=epoch,
        )
        return [(x, y, part.noise("normal", x)) for x, y in part]

    for one, other in zip(batches(0, 0), batches(0, 0), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    assert not torch.equal(batches(0, 0)[0][0], batches(0, 1)[0][0])
    assert not torch.equal(batches(0, 0)[0][0], batches(1, 0)[0][0])
    assert torch.equal(torch.cat([y for _, y, _ in batches(0, 0)]).bincount(), data.train.labels.bincount())


def test_the_test_set_never_moves_a_checkpoint(straight, tmp_path, monkeypatch):
    """With the test images replaced by noise, training, selection and weights are the same."""
    root, specs, _ = straight

    def with_noise(*arguments, **options):
        data = read_data(*arguments, **options)
        noise = torch.randint_like(data.test.images, 0, 256)
        return type(data)(**{**vars(data), "test": Images(noise, data.test.labels)})

    monkeypatch.setattr("harness.inputs.read_data", with_noise)
    run_to_end(specs["at"], tmp_path)
    for checkpoint in CHECKPOINTS:
        assert_same_weights(weights(tmp_path, specs["at"], checkpoint), weights(root, specs["at"], checkpoint))


def test_the_peeked_test_curve_is_recorded_under_its_own_name(tmp_path):
    spec = small_specs(tmp_path, "training.record_test_curve=true")["at"]
    run_to_end(spec, tmp_path)
    state = rows(tmp_path, spec, "class_state")
    peeked = state[state.quantity.isin(["peeked_test_robust", "peeked_test_clean"])]
    assert len(peeked) == 2 * 2 * 10
    final = rows(tmp_path, spec, "class_accuracy")
    final = final[(final.checkpoint == "last") & (final.attack == "clean")].sort_values("class_index")["accuracy"]
    last = peeked[(peeked.epoch == 2) & (peeked.quantity == "peeked_test_clean")].sort_values("class_index")["value"]
    np.testing.assert_allclose(last, final)


def test_weights_that_were_not_kept_are_gone_and_trained_again_when_needed(tmp_path):
    spec = small_specs(tmp_path, "keep=[]")["at"]
    run_to_end(spec, tmp_path)
    folder = tmp_path / "work" / spec.training_id
    assert not list(folder.glob("*.pt"))
    more = small_specs(tmp_path, evaluation={"attacks": ["fgsm"]})["at"]
    assert more.training_id == spec.training_id
    assert "epoch" in [event["event"] for event in run_to_end(more, tmp_path)]


def noted(root, spec):
    notes = Store(root).read("notes", [spec.trial_id]).query("source == 'damage'")["text"]
    return [text.split(" ")[0] for text in notes]


@pytest.mark.parametrize("how", ["truncated", "empty", "flipped", "foreign"])
@pytest.mark.parametrize(("spoilt", "epochs"), [(["epoch-{}.pt"], [2]), (["epoch-{}.pt", "state.pt"], [1, 2])])
def test_a_damaged_state_is_set_aside_and_the_training_starts_over_from_what_is_whole(
    straight, tmp_path, device, how, spoilt, epochs
):
    root, specs, _ = straight
    spec, calls, spoilt = specs["at"], itertools.count(1), [name.format(device) for name in spoilt]
    run_to_end(spec, tmp_path, should_stop=lambda: next(calls) == 6)
    folder = tmp_path / "work" / spec.training_id
    for name in spoilt:
        spoil(folder / name, how)
    assert [event["epoch"] for event in run_to_end(spec, tmp_path) if event["event"] == "epoch"] == epochs
    assert_same_weights(weights(tmp_path, spec), weights(root, spec))
    assert all((folder / f"damaged-{name}").exists() for name in spoilt)
    assert noted(tmp_path, spec) == spoilt


@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("training.json", "truncated"),
        ("training.json", "flipped"),
        ("training.json", "foreign"),
        ("last.pt", "flipped"),
    ],
)
def test_what_a_finished_training_left_damaged_is_trained_again(straight, tmp_path, name, how):
    root, specs, _ = straight
    shutil.copytree(root / "work", tmp_path / "work")
    folder = tmp_path / "work" / specs["at"].training_id
    spoil(folder / name, how)
    more = small_specs(tmp_path, evaluation={"attacks": ["fgsm"]})["at"]
    assert [event["epoch"] for event in run_to_end(more, tmp_path) if event["event"] == "epoch"] == [1, 2]
    assert_same_weights(weights(tmp_path, more), weights(root, specs["at"]))
    assert noted(tmp_path, more) == [name]


@pytest.mark.parametrize("how", ["flipped", "gone"])
def test_a_training_whose_best_weights_are_damaged_starts_over(straight, tmp_path, how):
    root, specs, _ = straight
    spec, calls = specs["at"], itertools.count(1)
    run_to_end(spec, tmp_path, should_stop=lambda: next(calls) == 6)
    spoil(tmp_path / "work" / spec.training_id / "best_validation.pt", how)
    assert [event["epoch"] for event in run_to_end(spec, tmp_path) if event["event"] == "epoch"] == [1, 2]
    assert_same_weights(weights(tmp_path, spec, "best_validation"), weights(root, spec, "best_validation"))
    assert noted(tmp_path, spec) == ([] if how == "gone" else ["best_validation.pt"])


@pytest.mark.parametrize("how", ["truncated", "flipped"])
def test_students_of_a_damaged_teacher_are_told_how_to_make_it_again(straight, tmp_path, how):
    root, specs, _ = straight
    folder = Path("work") / specs["teacher"].training_id
    shutil.copytree(root / folder, tmp_path / folder)
    spoil(tmp_path / folder / "best_validation.pt", how)
    with pytest.raises(InputError, match=f"--redo {specs['teacher'].trial_id[:8]} --retry-failed` trains it again"):
        run_to_end(specs["rslad"], tmp_path)


@pytest.mark.parametrize("how", ["truncated", "flipped", "gone"])
def test_a_run_trains_a_damaged_teacher_again_by_itself(straight, tmp_path, how):
    root, specs, _ = straight
    specs = [specs["teacher"], specs["rslad"]]
    path = tmp_path / "work" / specs[0].training_id / "best_validation.pt"
    run_to_end(specs[0], tmp_path)
    path.unlink() if how == "gone" else spoil(path, how)
    events = []
    options = Options(serial=True, minimum_free_bytes=0)
    outcome = run(specs, Store(tmp_path), options=options, on_event=events.append)
    assert sorted(outcome.done) == sorted(spec.trial_id for spec in specs)
    assert [event["text"] for event in events if event["event"] == "warning"] == [
        f"teacher ({specs[0].trial_id[:8]}): its weights are damaged; it is trained again"
    ]
    assert list((tmp_path / "set_aside").glob("*/trials/*.parquet"))
    for spec in specs:
        assert_same_weights(weights(tmp_path, spec), weights(root, spec))


def test_students_that_failed_need_their_teacher_where_they_are_tried_again(straight, tmp_path):
    _, specs, _ = straight
    teacher, done, failed = (specs[name] for name in ("teacher", "rslad", "absld_reweight"))
    store, options = Store(tmp_path), Options(serial=True, minimum_free_bytes=0)
    assert run([teacher, done], store, options=options).exit_code == 0
    store.commit({**trial_columns(failed), "status": "failed", "error": "boom", "attempts": 1})
    (tmp_path / "work" / teacher.training_id / "best_validation.pt").unlink()
    outcome = run([teacher, done, failed], store, options=options)
    assert (outcome.done, list(outcome.failed)) == ([], [failed.trial_id])
    with pytest.raises(InputError, match="are damaged or gone"):
        run([teacher, done, failed], store, options=replace(options, retry_failed=True))


def test_a_further_student_of_a_damaged_teacher_is_refused_with_what_mends_it(straight, tmp_path):
    root, specs, _ = straight
    teacher, first, further = (specs[name] for name in ("teacher", "rslad", "absld_reweight"))
    options = Options(serial=True, minimum_free_bytes=0)
    assert run([teacher, first], Store(tmp_path), options=options).exit_code == 0
    spoil(tmp_path / "work" / teacher.training_id / "best_validation.pt", "flipped")
    assert run([teacher, first], Store(tmp_path), options=options).exit_code == 0  # nothing needs it
    told = rf"teacher \({teacher.trial_id[:8]}\) are damaged.*: rslad \({first.trial_id[:8]}\); name them with --redo"
    with pytest.raises(InputError, match=told):
        run([teacher, first, further], Store(tmp_path), options=options)
    assert set(Store(tmp_path).statuses()) == {teacher.trial_id, first.trial_id}
    again = replace(options, redo=(teacher.trial_id, first.trial_id))
    assert run([teacher, first, further], Store(tmp_path), options=again).exit_code == 0
    for spec in (teacher, first, further):
        assert_same_weights(weights(tmp_path, spec), weights(root, spec))


def test_a_loss_that_is_not_finite_stops_the_trial_and_names_the_step(tmp_path):
    spec = small_specs(tmp_path, "training.lr=1e30")["at"]
    with pytest.raises(NonFiniteLossError, match=r"epoch 1, step \d of 4"):
        run_to_end(spec, tmp_path)


def test_a_missing_teacher_is_named(tmp_path):
    with pytest.raises(InputError, match="best_validation"):
        run_to_end(small_specs(tmp_path)["rslad"], tmp_path)


def test_a_teacher_file_of_another_shape_is_refused(tmp_path):
    spec = small_specs(tmp_path)["rslad"]
    data = read_data(spec.dataset, 0, torch.device("cpu"), second=False, root=None, download=False)
    wide = spec.student.model_copy(update={"params": {"width": 5}})
    write_state(tmp_path / "t.pt", new_network(wide, data, 0), {})
    digest = json.loads((tmp_path / "t.json").read_text())["sha256"]
    teacher = {"model": {"name": "cnn", "width": 4}, "file": str(tmp_path / "t.pt"), "sha256": digest}
    with pytest.raises(InputError, match="of another shape"):
        run_to_end(small_specs(tmp_path, teacher=teacher)["rslad"], tmp_path)
    wrong = {**teacher, "sha256": "0a" * 32}
    with pytest.raises(InputError, match="has sha256"):
        run_to_end(small_specs(tmp_path, teacher=wrong)["rslad"], tmp_path)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_fast_engine_trains_like_the_plain_one(tmp_path, precision):
    """Not the same bits, but the same losses: float32 within rounding, bfloat16 within a few percent. At a low rate: at
    a high one, the sign of one gradient near 0 is enough to lead the two apart."""
    losses = {}
    for engine in ("plain", "fast"):
        wanted = precision if engine == "fast" else "float32"
        spec = small_specs(tmp_path, f"engine={engine}", f"precision={wanted}", "training.lr=0.01")["at"]
        run_to_end(spec, tmp_path)
        losses[engine] = rows(tmp_path, spec, "epochs").sort_values("epoch")["loss"].to_numpy()
    np.testing.assert_allclose(losses["fast"], losses["plain"], rtol=1e-3 if precision == "float32" else 0.05)


def test_class_accuracy_counts_unequal_classes():
    outcomes = pd.DataFrame(
        {
            "checkpoint": "last",
            "attack": "clean",
            "label": [0, 0, 0, 2],
            "prediction": [0, 1, 0, 1],
            "robust": [True, False, True, False],
            "sample_index": range(4),
        }
    )
    table = class_accuracy_rows(outcomes, ("a", "b", "c")).set_index("class_name")
    assert list(table.index) == ["a", "b", "c"]
    assert (table.loc["b", "n"], math.isnan(table.loc["b", "accuracy"])) == (0, True)
    assert math.isclose(table.loc["a", "accuracy"], 2 / 3)
    assert (table.loc["c", "n"], table.loc["c", "correct"]) == (1, 0)
