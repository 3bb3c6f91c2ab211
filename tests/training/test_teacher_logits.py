"""Sharing the teachers' logits: bit for bit what each trial would have computed, computed once."""

from __future__ import annotations

import os
import shutil

import pytest
import torch

import methods
from harness.files import make_folder
from harness.models.build import build
from harness.running.run import Options, run
from harness.spec import AugmentSpec, NetworkSpec
from harness.store.store import Store
from harness.store.work import shared_logits
from harness.suites.plan import plan
from harness.suites.suite import load_suite
from harness.training.teacher_logits import (
    SharedLogits,
    digest,
    network_digest,
    shared_bytes,
    shared_names,
    sharing,
)
from harness.training.trainer import EpochBatches, Trainer
from tests.fake_cuda import fake_cuda
from tests.small import assert_same_weights, run_to_end, small_specs, suite_file, weights


@pytest.fixture
def asked(monkeypatch):
    """How often a teacher's network was run on a clean batch."""
    calls = []
    teach = Trainer._teach

    def counting(self, name, images):
        calls.append(name)
        return teach(self, name, images)

    monkeypatch.setattr(Trainer, "_teach", counting)
    return calls


def answer(shared, batch, values, labels=None):
    """One answer, and whether it had to be computed."""
    computed = []

    def compute():
        computed.append(True)
        return values

    labels = torch.zeros(len(values), dtype=torch.int64) if labels is None else labels
    return shared.answer("teacher", batch, labels, compute), bool(computed)


def test_an_answer_is_computed_once_and_read_by_whoever_has_the_same_name(tmp_path):
    torch.manual_seed(0)
    batches = [torch.randn(8, 3), torch.randn(8, 3), torch.randn(5, 3)]
    first = SharedLogits(tmp_path, {"teacher": "one"}, 8, 3)
    for number in (1, 0, 2):  # in any order; the last batch is smaller
        assert answer(first, number, batches[number])[1]
    first.close()
    second = SharedLogits(tmp_path, {"teacher": "one"}, 8, 3)
    for number, values in enumerate(batches):
        found, computed = answer(second, number, torch.full_like(values, torch.nan))
        assert not computed
        assert torch.equal(found, values)
    second.close()
    assert answer(SharedLogits(tmp_path, {"teacher": "other"}, 8, 3), 0, batches[0])[1]


def test_answers_of_a_gpu_are_written_without_waiting(tmp_path):
    torch.manual_seed(0)
    batches = [torch.randn(8, 3), torch.randn(8, 3), torch.randn(5, 3)]
    for name, device in (("processor", "cpu"), ("gpu", "cuda")):
        with fake_cuda() as gpu:
            asked = [
                (values.to(device), torch.zeros(len(values), dtype=torch.int64, device=device)) for values in batches
            ]
            shared = SharedLogits(tmp_path, {"teacher": name}, 8, 3)
            gpu.forget()
            answers = [answer(shared, index, *each) for index, each in enumerate(asked)]
            assert not gpu.waits
            shared.close()
            again = SharedLogits(tmp_path, {"teacher": name}, 8, 3)
            read = [answer(again, index, *each) for index, each in enumerate(asked)]
            again.close()
            assert not gpu.uploads
            for (values, computed), (from_disk, computed_again), expected in zip(answers, read, batches, strict=True):
                assert computed
                assert not computed_again
                assert values.device == from_disk.device
                assert torch.equal(values.cpu(), expected)
                assert torch.equal(from_disk.cpu(), expected)
    assert (tmp_path / "gpu").read_bytes() == (tmp_path / "processor").read_bytes()


def test_a_batch_that_was_never_written_is_computed(tmp_path):
    shared = SharedLogits(tmp_path, {"teacher": "one"}, 8, 3)
    answer(shared, 2, torch.ones(8, 3))
    for number in (0, 1, 3):
        values = torch.full((8, 3), float(number))
        found, computed = answer(shared, number, values)
        assert computed
        assert torch.equal(found, values)


@pytest.mark.parametrize("position", [0, 40, 8 * 3 * 4 + 1])
def test_a_damaged_record_is_computed_again_and_mended(tmp_path, position):
    shared, values = SharedLogits(tmp_path, {"teacher": "one"}, 8, 3), torch.rand(8, 3)
    answer(shared, 0, values)
    (path,) = tmp_path.iterdir()
    with open(path, "r+b") as file:
        file.seek(position)
        byte = file.read(1)
        file.seek(position)
        file.write(bytes([byte[0] ^ 1]))
    assert answer(shared, 0, values)[1]
    assert not answer(shared, 0, values)[1]


def test_a_truncated_file_is_computed_again(tmp_path):
    shared, values = SharedLogits(tmp_path, {"teacher": "one"}, 8, 3), torch.rand(8, 3)
    answer(shared, 0, values)
    (path,) = tmp_path.iterdir()
    os.truncate(path, 50)
    found, computed = answer(shared, 0, values)
    assert computed
    assert torch.equal(found, values)


def test_trials_of_one_seed_share_and_lose_no_bit(tmp_path, asked):
    """rslad alone, and after absld in one store: the same weights, and no question asked twice."""
    suite = load_suite(suite_file(tmp_path, methods=["rslad", "absld"], seeds=[0, 1]))
    by_seed = {(spec.variant, spec.seed): spec for spec in plan(suite)}
    teacher = next(spec for spec in by_seed.values() if spec.role == "teacher")
    alone, together = tmp_path / "alone", tmp_path / "together"
    for root in (alone, together):
        run_to_end(teacher, root)
    asked.clear()
    run_to_end(by_seed["rslad", 0], alone)
    questions = len(asked)
    assert questions == 2 * 4  # epochs x batches of 50
    asked.clear()
    with sharing(together, list(by_seed.values())):
        run_to_end(by_seed["absld", 0], together)
        assert len(asked) == questions
        run_to_end(by_seed["rslad", 0], together)
        assert len(asked) == questions
        run_to_end(by_seed["rslad", 1], together)
        assert len(asked) == 2 * questions  # another seed, other batches
        size = sum(file.stat().st_size for file in shared_logits(together).iterdir())
    assert_same_weights(weights(alone, by_seed["rslad", 0]), weights(together, by_seed["rslad", 0]))
    assert size == 2 * 2 * (200 * 10 * 4 + 4 * 4)  # seeds x epochs x (images x classes x float32, a checksum a batch)
    assert size == shared_bytes(list(by_seed.values()))
    assert not shared_logits(together).exists()
    assert set(Store(together).statuses().values()) == {"done"}


# Alone and beside the others: every method and every policy that can ask a teacher

ENTRIES = {
    **{name: {"method": name} for name in methods.METHODS if methods.teachers_of(methods.resolve(name, 1))},
    **{
        f"rslad+{name}": {"method": "rslad", kind: name}
        for kind, table in methods.POLICIES.items()
        for name in table
        if name not in ("none", "hard", "teacher")
    },
}
TINY = {
    "dataset": {"name": "digits", "train_images": 120, "test_images": 20},
    "natural_teacher": {"model": {"name": "cnn", "width": 2}, "method": "natural"},
    "teacher": {"model": {"name": "cnn", "width": 2}, "method": "at"},
    "student": {"name": "cnn", "width": 2},
    "training": {"epochs": 2, "batch_size": 60, "attack_steps": 1, "validation_steps": 1},
    "evaluation": {"attacks": ["clean"]},
}


@pytest.fixture(scope="module")
def beside(tmp_path_factory):
    """All trials one after the other in one store, in this order and in the opposite one; and a store with the teachers
    alone."""
    folder = tmp_path_factory.mktemp("beside")
    specs = small_specs(folder, **TINY, methods=[{**entry, "variant": name} for name, entry in ENTRIES.items()])
    teachers = [spec for spec in specs.values() if spec.role == "teacher"]
    students = [specs[name] for name in ENTRIES]
    for spec in teachers:
        run_to_end(spec, folder / "teachers")
    for name, order in (("forward", students), ("backward", students[::-1])):
        shutil.copytree(folder / "teachers", folder / name)
        with sharing(folder / name, students):
            for spec in order:
                run_to_end(spec, folder / name)
    return folder, specs


@pytest.mark.parametrize("name", ENTRIES)
def test_a_trial_does_not_depend_on_the_trials_beside_it(beside, tmp_path, name):
    folder, specs = beside
    shutil.copytree(folder / "teachers", tmp_path / "alone")
    run_to_end(specs[name], tmp_path / "alone")
    for order in ("forward", "backward"):
        assert_same_weights(weights(folder / order, specs[name]), weights(tmp_path / "alone", specs[name]))


@pytest.mark.parametrize("order", [("plain", "frl"), ("frl", "plain")])
def test_a_method_that_holds_images_out_has_answers_of_its_own(tmp_path, asked, order):
    entries = [{"method": "rslad", "variant": "plain"}, {"method": "rslad", "weights": "frl", "variant": "frl"}]
    specs = small_specs(tmp_path, **TINY, methods=entries)
    run_to_end(specs["teacher"], tmp_path)
    shared_logits(tmp_path).mkdir()
    asked.clear()
    for name in order:
        run_to_end(specs[name], tmp_path)
    assert len(asked) == 2 * 2 * 2  # trials, epochs, batches: 120 and 100 images in batches of 60
    assert shared_bytes(list(specs.values())) == 0


def recipe(**changes):
    values = {"batch_size": 4, "augment": AugmentSpec(crop=1), "coordinates": ("digits", 0, 0, "cnn"), "epoch": 0}
    return EpochBatches(torch.zeros(8, 1, 4, 4, dtype=torch.uint8), torch.arange(8), **values | changes)


def names(batches=None, images="images", teachers=None, engine="fast", precision="float32"):
    given = {"teacher": "weights"} if teachers is None else teachers
    where = {"engine": engine, "precision": precision, "device": torch.device("cpu")}
    return shared_names(images, given, batches or recipe(), **where)


@pytest.mark.parametrize(
    "change",
    [
        {"batches": recipe(batch_size=5)},
        {"batches": recipe(augment=AugmentSpec(crop=2))},
        {"batches": recipe(augment=AugmentSpec(crop=1, flip=True))},
        {"batches": recipe(augment=AugmentSpec(crop=1, pad="reflect"))},
        {"batches": recipe(coordinates=("digits", 0, 1, "cnn"))},
        {"batches": recipe(epoch=1)},
        {"images": "others"},
        {"teachers": {"teacher": "other weights"}},
        {"engine": "plain"},
        {"precision": "bfloat16"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_the_name_changes_with_whatever_decides_the_answers(change):
    assert names() == names()
    assert names(**change)["teacher"] != names()["teacher"]


def test_the_name_does_not_depend_on_how_far_an_epoch_is():
    batches = recipe()
    next(iter(batches))
    assert names(batches) == names()


@pytest.mark.parametrize(
    "where",
    ["torch.get_num_threads", "harness.store.provenance.processor", "harness.training.teacher_logits.code_fingerprint"],
)
def test_the_name_changes_with_the_machine(monkeypatch, where):
    before = names()
    monkeypatch.setattr(where, lambda: 7)
    assert names() != before


def test_two_teachers_of_the_same_weights_are_one():
    both = names(teachers={"teacher": "weights", "natural_teacher": "weights"})
    assert both["teacher"] == both["natural_teacher"]


def test_a_network_is_known_by_its_tensors_and_by_what_it_was_built_from():
    def network(mean=0.5, seed=0):
        torch.manual_seed(seed)
        return build("cnn", {"width": 2}, in_channels=1, num_classes=3, mean=(mean,), std=(1.0,))

    spec = NetworkSpec(name="cnn", params={"width": 2})
    first = network_digest(network(), spec)
    assert first == network_digest(network(), spec)
    assert first != network_digest(network(seed=1), spec)
    assert first != network_digest(network(mean=0.4), spec)
    assert first != network_digest(network(), spec.model_copy(update={"params": {"width": 3}}))
    assert first == network_digest(network().to(memory_format=torch.channels_last), spec)
    renamed = dict(network().named_parameters())
    assert digest(renamed) != digest({f"{name}.": value for name, value in renamed.items()})


def test_a_digest_tells_types_shapes_and_values_apart():
    values = [
        torch.zeros(4), torch.zeros(2, 2), torch.zeros(4, dtype=torch.int32), torch.tensor([0, 0, 0, 1.0]), [0, 0], "0",
        torch.zeros(4, dtype=torch.bfloat16), torch.zeros(()),
    ]  # fmt: skip
    assert len({digest({"x": value}) for value in values}) == len(values)


def test_only_trials_with_the_same_questions_share(tmp_path):
    def specs(**changes):
        return plan(load_suite(suite_file(tmp_path, **changes)))

    assert shared_bytes(specs(methods=["at", "trades", "rslad"])) == 0  # only one asks
    assert shared_bytes(specs(methods=["rslad"], seeds=[0, 1])) == 0  # each seed asks for itself
    pair = shared_bytes(specs(methods=["rslad", "absld"]))
    assert pair == 2 * (200 * 10 * 4 + 4 * 4)
    assert shared_bytes(specs(methods=["rslad", "absld", "ard"], seeds=[0, 1])) == 2 * pair
    assert shared_bytes(specs(methods=["rslad", {"method": "rslad", "weights": "frl"}])) == 0  # other images
    alone = {"method": "ard", "seeds": [1]}
    assert shared_bytes(specs(methods=["rslad", "absld", alone])) == 2 * pair  # it writes its own all the same
    with sharing(tmp_path / "store", specs(methods=["rslad"])):
        assert not shared_logits(tmp_path / "store").exists()


def test_a_run_says_what_sharing_takes_and_clears_up(tmp_path, asked):
    suite = load_suite(suite_file(tmp_path, methods=["rslad", "absld"]))
    events, root = [], tmp_path / "store"
    outcome = run(plan(suite), Store(root), options=Options(serial=True), on_event=events.append)
    assert outcome.exit_code == 0
    assert len(asked) == 2 * 4
    assert next(event for event in events if event["event"] == "plan")["shared_bytes"] == 2 * (200 * 10 * 4 + 4 * 4)
    assert not shared_logits(root).exists()


def test_what_a_killed_run_left_is_not_read(tmp_path):
    left = make_folder(shared_logits(tmp_path)) / "old"
    left.write_bytes(b"logits")
    with sharing(tmp_path, []):
        assert not left.exists()
