"""Sharing the teachers' logits: bit for bit what each trial would have computed, computed once."""

from __future__ import annotations

import os

import pytest
import torch
from small import assert_same_weights, run_to_end, suite_file, weights

from harness.config import load_suite
from harness.plan import plan
from harness.scheduler import Options, run
from harness.store import Store
from harness.teacher_logits import SharedLogits, shared_bytes, shared_folder, sharing
from harness.train import Trainer


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


def test_an_answer_is_computed_once_and_read_by_whoever_has_the_same_facts(tmp_path):
    torch.manual_seed(0)
    batches = [torch.randn(8, 3), torch.randn(8, 3), torch.randn(5, 3)]
    first = SharedLogits(tmp_path, {"seed": 0}, 8, 3)
    for number in (1, 0, 2):  # in any order; the last batch is smaller
        assert answer(first, number, batches[number])[1]
    first.close()
    second = SharedLogits(tmp_path, {"seed": 0}, 8, 3)
    for number, values in enumerate(batches):
        found, computed = answer(second, number, torch.full_like(values, torch.nan))
        assert not computed
        assert torch.equal(found, values)
    second.close()
    assert answer(SharedLogits(tmp_path, {"seed": 1}, 8, 3), 0, batches[0])[1]


def test_a_batch_that_was_never_written_is_computed(tmp_path):
    shared = SharedLogits(tmp_path, {}, 8, 3)
    answer(shared, 2, torch.ones(8, 3))
    for number in (0, 1, 3):
        values = torch.full((8, 3), float(number))
        found, computed = answer(shared, number, values)
        assert computed
        assert torch.equal(found, values)


@pytest.mark.parametrize("position", [0, 40, 8 * 3 * 4 + 1])
def test_a_damaged_record_is_computed_again_and_mended(tmp_path, position):
    shared, values = SharedLogits(tmp_path, {}, 8, 3), torch.rand(8, 3)
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
    shared, values = SharedLogits(tmp_path, {}, 8, 3), torch.rand(8, 3)
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
        size = sum(file.stat().st_size for file in shared_folder(together).iterdir())
    assert_same_weights(weights(alone, by_seed["rslad", 0]), weights(together, by_seed["rslad", 0]))
    assert size == 2 * 2 * (200 * 10 * 4 + 4 * 4)  # seeds x epochs x (images x classes x float32, a checksum a batch)
    assert size == shared_bytes(list(by_seed.values()))
    assert not shared_folder(together).exists()
    assert set(Store(together).statuses().values()) == {"done"}


def test_only_trials_with_the_same_questions_share(tmp_path):
    def specs(**changes):
        return plan(load_suite(suite_file(tmp_path, **changes)))

    assert shared_bytes(specs(methods=["at", "trades", "rslad"])) == 0  # only one asks
    assert shared_bytes(specs(methods=["rslad"], seeds=[0, 1])) == 0  # each seed asks for itself
    pair = shared_bytes(specs(methods=["rslad", "absld"]))
    assert pair == 2 * (200 * 10 * 4 + 4 * 4)
    assert shared_bytes(specs(methods=["rslad", "absld", "ard"], seeds=[0, 1])) == 2 * pair
    with sharing(tmp_path / "store", specs(methods=["rslad"])):
        assert not shared_folder(tmp_path / "store").exists()


def test_a_run_says_what_sharing_takes_and_clears_up(tmp_path, asked):
    suite = load_suite(suite_file(tmp_path, methods=["rslad", "absld"]))
    events, root = [], tmp_path / "store"
    outcome = run(plan(suite), Store(root), options=Options(serial=True), on_event=events.append)
    assert outcome.exit_code == 0
    assert len(asked) == 2 * 4
    assert next(event for event in events if event["event"] == "plan")["shared_bytes"] == 2 * (200 * 10 * 4 + 4 * 4)
    assert not shared_folder(root).exists()
