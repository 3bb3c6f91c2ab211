"""Which forwards of a step batch norms' running statistics are of, method by method."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import methods
from methods.base import ADVERSARIAL, ADVERSARIAL_AGAIN, CLEAN, Method
from tests.small import assert_same_weights
from tests.training.test_no_waiting import BATCH, Training

KINDS = ("all", "adversarial")
BESIDE: dict[str, dict[str, Any]] = {
    **{name: {"method": name} for name in methods.METHODS},
    "plain": {"method": "rslad", "engine": "plain"},
    "fair_tat, forward without a loss": {"method": "fair_tat", "unused_forward": True},
    "csr, once": {"method": "csr", "repeated_forwards": False},
    "awp": {"method": "trades", "training": {"weight_perturbation": {}}},
}


def stepped(entry: dict[str, Any], counted: str) -> tuple[Training, Tensor, nn.BatchNorm2d, list[Tensor]]:
    """A training after one step, the step's loss, its first batch norm, and what this has seen in training mode."""
    entry = {**entry, "training": {**entry.get("training", {}), "running_statistics": counted}}
    training = Training(entry, torch.device("cpu"))
    norm = next(module for module in training.trainer.student.modules() if isinstance(module, nn.BatchNorm2d))
    seen: list[Tensor] = []
    norm.register_forward_pre_hook(lambda module, given: seen.append(given[0].detach()) if module.training else None)
    batches = training.begin_epoch()
    images, labels = next(iter(batches))
    loss = training.trainer.step(images, labels, batches.noise)
    return training, loss, norm, seen


@pytest.mark.parametrize("counted", KINDS)
@pytest.mark.parametrize("name", BESIDE)
def test_the_running_mean_is_of_the_forwards_that_count(name: str, counted: str) -> None:
    training, _, norm, seen = stepped(BESIDE[name], counted)
    forwards = training.trainer.method.forwards
    adversarial = [forward in (ADVERSARIAL, ADVERSARIAL_AGAIN) for forward in forwards]
    assert len(seen) in (len(forwards), 2 * len(forwards))  # those at perturbed weights leave no trace
    expected = torch.zeros(seen[0].shape[1])
    for values, attacked in zip(seen, adversarial, strict=False):
        assert len(values) == BATCH
        if attacked or counted == "all" or not any(adversarial):
            expected = 0.9 * expected + 0.1 * values.mean((0, 2, 3))
    torch.testing.assert_close(norm.running_mean, expected, rtol=1e-5, atol=1e-7)


def test_forwards_that_a_method_chooses_as_it_is_set_up(monkeypatch: pytest.MonkeyPatch) -> None:
    def setup(method: Method) -> None:
        method.forwards = (CLEAN, ADVERSARIAL)

    monkeypatch.setattr(methods.METHODS["at"], "setup", setup)
    _, _, norm, seen = stepped({"method": "at"}, "adversarial")
    _, attacked = seen
    torch.testing.assert_close(norm.running_mean, 0.1 * attacked.mean((0, 2, 3)), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", ["rslad", "trades", "absld"])
def test_the_first_step_learns_the_same_weights(name: str) -> None:
    (one, first, norm, _), (other, second, unlike, _) = (stepped({"method": name}, counted) for counted in KINDS)
    assert torch.equal(first, second)
    assert_same_weights(*(dict(training.trainer.student.named_parameters()) for training in (one, other)))
    assert not torch.equal(norm.running_mean, unlike.running_mean)


def test_batch_norms_track_again_after_a_step() -> None:
    training, _, _, _ = stepped({"method": "rslad"}, "adversarial")
    norms = [module for module in training.trainer.student.modules() if isinstance(module, nn.BatchNorm2d)]
    assert norms
    assert all(norm.track_running_stats for norm in norms)
