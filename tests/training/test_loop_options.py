"""Weight averaging and weight perturbation, the two options of the training loop that any method may use."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from harness.spec import WeightAverageSpec
from harness.training.weight_average import WeightAverage
from harness.training.weight_perturbation import perturbed

CPU = torch.device("cpu")


def network(seed: int) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 3))


def state(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def test_exponential_average_of_every_network_from_its_start() -> None:
    average = WeightAverage(WeightAverageSpec(kind="ema", decay=0.7, start_epoch=1))
    first, second = network(1), network(2)
    second[1].running_mean.fill_(3.0)
    second[1].num_batches_tracked.fill_(7)
    assert not average.update(first, 0)
    assert average.averaged is None
    assert average.update(first, 1)
    assert average.update(second, 2)
    assert average.averaged is not None
    for name, value in average.averaged.items():
        if value.is_floating_point():
            torch.testing.assert_close(value, 0.7 * first.state_dict()[name] + 0.3 * second.state_dict()[name])
    assert average.averaged["1.running_mean"].tolist() == pytest.approx([0.9, 0.9])
    assert average.averaged["1.num_batches_tracked"] == 7


def test_fair_average_takes_only_networks_whose_worst_class_is_good_enough() -> None:
    average = WeightAverage(WeightAverageSpec(kind="fawa", decay=0.5, threshold=0.2))
    nan = float("nan")
    held_out = torch.tensor([[0.1, 0.9], [nan, 0.2], [0.5, 0.19], [nan, nan], [0.5, 0.6]], dtype=torch.float64)
    taken = [average.update(network(k), k, robust) for k, robust in enumerate(held_out)]
    assert taken == [False, True, False, False, True]
    expected = 0.5 * network(1)[0].weight + 0.5 * network(4)[0].weight
    assert average.averaged is not None
    torch.testing.assert_close(average.averaged["0.weight"], expected.detach())
    with pytest.raises(ValueError, match="worst held-out class"):
        average.update(network(0), 5)


def test_average_is_saved_and_restored() -> None:
    options = WeightAverageSpec(kind="ema", decay=0.5)
    average, empty, copy = WeightAverage(options), WeightAverage(options), WeightAverage(options)
    copy.load_state_dict(empty.state_dict(), CPU)
    assert copy.averaged is None
    average.update(network(1), 0)
    copy.load_state_dict(average.state_dict(), CPU)
    for one in (average, copy):
        one.update(network(2), 1)
    assert average.averaged is not None
    assert copy.averaged is not None
    assert all(torch.equal(average.averaged[name], copy.averaged[name]) for name in average.averaged)


@pytest.mark.parametrize("kind", ["ema", "fawa"])
def test_an_average_goes_on_where_it_was_trained(kind: str) -> None:
    """A saved state is read on the CPU, whatever the training's device: here one that has shapes only."""
    average, elsewhere = (WeightAverage(WeightAverageSpec(kind=kind)) for _ in range(2))
    well = torch.ones(3)
    average.update(network(1), 0, well)
    elsewhere.load_state_dict(average.state_dict(), torch.device("meta"))
    assert elsewhere.update(network(2).to("meta"), 1, well)
    assert elsewhere.averaged is not None
    assert {value.device.type for value in elsewhere.averaged.values()} == {"meta"}


def test_average_does_not_follow_the_live_network() -> None:
    average, model = WeightAverage(WeightAverageSpec(kind="ema")), network(1)
    average.update(model, 0)
    before = state(model)
    nn.init.zeros_(model[0].weight)
    assert average.averaged is not None
    assert torch.equal(average.averaged["0.weight"], before["0.weight"])


def test_perturbation_moves_weights_along_the_gradient_and_puts_them_back() -> None:
    model, images = network(3), torch.rand(5, 1, 4, 4)
    loss = model(images).square().mean()
    before = state(model)
    weights = {name: parameter for name, parameter in model.named_parameters() if parameter.dim() > 1}
    gradients = dict(zip(weights, torch.autograd.grad(loss, list(weights.values()), retain_graph=True), strict=True))
    with perturbed(model, loss, 0.01):
        for name, value in model.named_parameters():
            if name in weights:
                expected = before[name] + 0.01 * before[name].norm() * gradients[name] / gradients[name].norm()
                torch.testing.assert_close(value.detach(), expected)
            else:
                assert torch.equal(value, before[name])
        inside = model(images).square().mean()
        inside.backward()
        gradient = model[3].weight.grad.clone()
    assert inside > loss
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(model[3].weight.grad, gradient)


def test_perturbation_is_undone_when_the_update_fails() -> None:
    model, images = network(3), torch.rand(5, 1, 4, 4)
    loss, before = model(images).square().mean(), state(model)
    with pytest.raises(RuntimeError), perturbed(model, loss, 0.5):
        raise RuntimeError("out of memory")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_an_exponential_average_asks_nothing_of_held_out_classes(recwarn: pytest.WarningsRecorder) -> None:
    average = WeightAverage(WeightAverageSpec(kind="ema"))
    assert average.update(network(0), 0, torch.full((3,), torch.nan))
    assert list(recwarn) == []
