"""Methods that draw random numbers: the same in every run, wherever a training is taken up again, whatever else the
process has drawn."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import methods
from harness.seeds import globally_seeded
from harness.spec import TrainingSpec, TrialSpec, WeightPerturbationSpec
from harness.training.trainer import Trainer
from methods.at import AT
from methods.base import Adversary, Step, View
from methods.registry import register
from tests.methods.test_plugins import _registry_as_before, documented_example  # noqa: F401
from tests.small import assert_same_weights, run_to_end, small_specs, weights

UNASKED = """
import torch
from methods.at import AT
from methods.registry import register

@register("unasked")
class Unasked(AT):
    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.scale = 0.5 + torch.rand(())

    def observe(self, step):
        torch.rand(3)

    def end_epoch(self, end):
        self.state["drawn"] = torch.rand(self.num_classes)

    def terms(self, step):
        loss, _ = super().terms(step)
        return self.scale * loss * torch.rand(loss.shape), 0.0
"""
FILES = {"at_random_target": documented_example("at_random_target"), "unasked": UNASKED}


@pytest.fixture(params=FILES)
def spec(request, tmp_path: Path) -> TrialSpec:
    """The trial of a plugin's method: the documented one, and one that draws from torch's own generator throughout."""
    path = tmp_path / "random_method.py"
    path.write_text(FILES[request.param])
    methods.load_plugin(str(path))
    return small_specs(tmp_path, methods=[request.param], teacher=None)[request.param]


def test_random_draws_are_the_same_in_every_run_and_after_an_interruption(spec, tmp_path):
    roots = [tmp_path / name for name in ("first", "second", "third")]
    for seed, root in enumerate(roots[:2]):
        torch.manual_seed(seed)
        run_to_end(spec, root)
    calls = itertools.count(1)
    stopped = run_to_end(spec, roots[2], should_stop=lambda: next(calls) == 6)  # in the second epoch of four steps
    assert stopped[-1]["event"] == "interrupted"
    torch.manual_seed(2)
    run_to_end(spec, roots[2])
    for root in roots[1:]:
        assert_same_weights(weights(root, spec), weights(roots[0], spec))


def test_the_documented_attack_leads_to_wrong_classes_and_to_others_each_time(tmp_path):
    path = tmp_path / "random_method.py"
    path.write_text(FILES["at_random_target"])
    methods.load_plugin(str(path))
    method = methods.build(methods.resolve("at_random_target", 1), 3)
    labels = torch.arange(300) % 3

    def targets(seed: int) -> Tensor:
        view = View(labels, 0, {}, lambda: torch.zeros(300, 3), lambda _: torch.Generator().manual_seed(seed))
        adversary = method.adversary(view)
        assert adversary is not None
        logits = torch.zeros(300, 3, requires_grad=True)
        assert adversary.target is not None
        adversary.objective(logits, adversary.target()).sum().backward()
        return logits.grad.argmax(1)

    first = targets(0)
    assert torch.equal(first, targets(0))
    assert not torch.equal(first, targets(1))
    assert not (first == labels).any()
    assert (((first - labels) % 3 == 1).double().mean() - 0.5).abs() < 0.15


@pytest.fixture
def seen() -> list[tuple[str, int, int, list[float]]]:
    """What a method drew: where, epoch, number in that place, values."""
    drawn: list[tuple[str, int, int, list[float]]] = []

    @register("draws")
    class Draws(AT):
        def note(self, place: str, batch: View | Step) -> None:
            for purpose in ("a", "b"):
                values = torch.rand(2, generator=batch.generator(purpose)).tolist()
                drawn.append((f"{place} {purpose}", batch.epoch, len(batch.labels), values))

        def adversary(self, view: View) -> Adversary | None:
            self.note("view", view)
            return super().adversary(view)

        def loss(self, step: Step) -> Tensor:
            self.note("step", step)
            return super().loss(step)

    return drawn


def drawn_in_training(seen, coordinates, awp: bool = False) -> list:
    training = TrainingSpec(epochs=2, weight_perturbation=WeightPerturbationSpec() if awp else None, attack_steps=1)
    network = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    method = methods.build(methods.resolve("draws", 2), 3)
    trainer = Trainer(network, method, {}, training, eps=0.1, engine="plain", coordinates=coordinates)
    batches = [(torch.rand(3, 1, 4, 4), torch.arange(3)) for _ in range(2)]
    seen.clear()
    for _ in range(2):
        trainer.train_epoch(batches, lambda start, x: torch.zeros_like(x))
    return list(seen)


def test_draws_depend_on_trial_epoch_batch_and_purpose_and_on_nothing_else(seen):
    first = drawn_in_training(seen, ("digits", 0, 0, "cnn"))
    assert first == drawn_in_training(seen, ("digits", 0, 0, "cnn"))
    assert [values for *_, values in first] != [
        values for *_, values in drawn_in_training(seen, ("digits", 0, 1, "cnn"))
    ]
    views = [values for place, *_, values in first if place.startswith("view")]
    steps = [values for place, *_, values in first if place.startswith("step")]
    assert views == steps  # one batch, one sequence for each purpose
    assert len({tuple(values) for values in views}) == 2 * 2 * 2  # epochs, batches, purposes


def test_both_losses_of_a_weight_perturbation_draw_the_same(seen):
    drawn = drawn_in_training(seen, ("digits", 0, 0, "cnn"), awp=True)
    steps = [values for place, *_, values in drawn if place == "step a"]
    assert steps[::2] == steps[1::2]
    assert len(steps) == 2 * 2 * 2


def test_a_batch_made_by_hand_has_no_random_numbers():
    with pytest.raises(RuntimeError, match="'noise': this batch was not made by the training loop"):
        View(torch.zeros(1), 0, {}, lambda: torch.zeros(1)).generator("noise")


def test_seeding_the_process_leaves_its_generator_as_it_was():
    torch.manual_seed(3)
    before = torch.get_rng_state()
    with globally_seeded("dropout", 1):
        first = torch.rand(4)
    assert torch.equal(torch.get_rng_state(), before)
    with globally_seeded("dropout", 1):
        assert torch.equal(torch.rand(4), first)
    with globally_seeded("dropout", 2):
        assert not torch.equal(torch.rand(4), first)
