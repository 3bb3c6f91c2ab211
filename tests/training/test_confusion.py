"""Class-by-class counts on training images under attack, which the loop takes before an epoch."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor, nn

import methods
from harness.spec import TrainingSpec
from harness.training.trainer import Trainer
from methods.at import AT
from tests.small import assert_same_weights, run_to_end, small_specs, weights

LABELS = torch.tensor([0, 0, 1, 2, 2, 2])
IMAGES = torch.tensor([0.9, 0.2, 0.6, 0.4, 0.9, 0.1]).view(6, 1, 1, 1)


class Learns(AT):
    confusion = True

    def taken_for(self, logits: Tensor, labels: Tensor) -> Tensor:
        return super().taken_for(logits, labels) if self.num_classes == 3 else labels

    def learn_confusion(self, counts: Tensor) -> None:
        self.counts = counts


class Thresholds(nn.Module):
    """Class 0 above 0.7, class 1 above 0.3, else class 2, with a slope for the attack."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        x = self.scale * x.flatten(1)
        return torch.cat([2 * x - 1, x - 0.3, 0 * x], 1)


def counted(eps: float, batch_size: int) -> tuple[Tensor, nn.Module]:
    built = methods.build(methods.resolve("at", 1), 3)
    method = Learns(vars(built.settings), *built.parts[1:], 3)  # type: ignore[arg-type]
    network = Thresholds().train()
    trainer = Trainer(network, method, {}, TrainingSpec(epochs=1), eps=eps, engine="plain")
    batches = zip(IMAGES.split(batch_size), LABELS.split(batch_size), strict=True)
    assert list(trainer.count_confusion(batches, lambda start, x: torch.zeros_like(x))) == list(
        range(1, 6 // batch_size + 1)
    )
    assert network.training
    assert network.scale == 1
    return method.counts, network


@pytest.mark.parametrize("batch_size", [2, 3, 6])
def test_images_of_a_class_are_counted_by_what_they_are_taken_for(batch_size: int) -> None:
    counts, _ = counted(0.0, batch_size)
    assert counts.dtype == torch.float64
    assert counts.tolist() == [[1, 0, 1], [0, 1, 0], [1, 1, 1]]


def test_they_are_counted_under_attack() -> None:
    """Up to 0.25 to where the label's loss rises: 0.9 -> 0.65 is no longer class 0, 0.6 -> 0.35 or 0.85 no longer 1."""
    counts, _ = counted(0.25, 3)
    assert counts.sum(1).tolist() == [2, 1, 3]
    assert counts.diagonal().tolist() == [0, 0, 0]


def test_a_training_stopped_anywhere_in_or_after_the_pass_goes_on_bit_for_bit(tmp_path) -> None:
    """Two epochs of four batches to count and four steps each."""
    changes = {"init": {"method": "trades", "training": {"epochs": 1}}, "teacher": None}
    entry = {"method": "csr", "margins": "frl", "variant": "csr"}  # frl learns before the first epoch, once
    specs = small_specs(tmp_path, methods=[entry], **changes)
    (start,) = (spec for spec in specs.values() if spec.role == "teacher")
    straight, root = tmp_path / "straight", tmp_path / "stopped"
    for where in (straight, root):
        run_to_end(start, where)
    run_to_end(specs["csr"], straight)
    for stop in (1, 3, 5, 2, 3):
        calls = itertools.count(1)
        run_to_end(specs["csr"], root, should_stop=lambda calls=calls, stop=stop: next(calls) == stop)
    run_to_end(specs["csr"], root)
    assert_same_weights(weights(root, specs["csr"]), weights(straight, specs["csr"]))
