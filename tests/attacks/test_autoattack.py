"""The AutoAttack adapter against direct calls of `pyautoattack`."""

from __future__ import annotations

import logging
import sys

import pytest
import torch
from pyautoattack import AutoAttack, checks
from torch import Tensor

from harness.attacks import autoattack
from harness.attacks.autoattack import attack_stage, few_classes, one_of_each, square_warnings
from harness.attacks.conditions import Conditions
from harness.attacks.pgd import predict
from harness.attacks.registry import AUTOATTACK_STAGES, stage_names
from tests import small

EPS = 0.08


class Network(torch.nn.Module):
    """A small frozen convolutional net; its own predictions, but for every eighth image, serve as labels. It computes
    in float64, so that which images are asked about together changes no bit of its float32 answers."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(5)
            self.conv = torch.nn.Conv2d(1, 6, 3, padding=1)
            self.fc = torch.nn.Linear(6 * 64, num_classes)
        self.num_classes = num_classes
        self.double().to(small.DEVICE).eval().requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return (4 * self.fc(torch.tanh(2 * self.conv(x.double())).flatten(1))).float()

    def problem(self, count: int = 24) -> tuple[Tensor, Tensor]:
        x = torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(1)).to(small.DEVICE)
        labels = self(x).argmax(1)
        labels[::8] = (labels[::8] + 1) % self.num_classes
        return x, labels


def conditions(num_classes: int = 4, seed: int = 0, batch_size: int = 24) -> Conditions:
    return Conditions({"name": "aa_standard"}, EPS, seed, batch_size, num_classes)


def run_stages(network, x: Tensor, labels: Tensor, stages, num_classes: int, batch_size: int = 10):
    prediction, warnings = predict(network, x, batch_size), []
    for stage in stages:
        prediction, texts = attack_stage(stage, network, x, labels, prediction, conditions(num_classes, 3, batch_size))
        warnings += texts
    return prediction, warnings


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Square with 50 queries in place of 5000."""
    build = autoattack._build

    def built(*arguments, **options):
        attack = build(*arguments, **options)
        attack.square.n_queries = 50
        return attack

    monkeypatch.setattr(autoattack, "_build", built)


@pytest.mark.parametrize(
    ("num_classes", "stages"),
    [
        (10, AUTOATTACK_STAGES[:2]),
        (4, AUTOATTACK_STAGES[:3]),
        pytest.param(10, AUTOATTACK_STAGES, marks=pytest.mark.slow),
    ],
)
def test_same_verdicts_as_a_direct_call(num_classes: int, stages: tuple[str, ...]) -> None:
    network = Network(num_classes)
    x, labels = network.problem()
    direct = AutoAttack(network, device=small.DEVICE, eps=EPS, seed=3, version="standard")
    direct.attacks_to_run = list(stages)
    direct.apgd_targeted.n_target_classes = direct.fab.n_target_classes = min(9, num_classes - 1)
    with torch.random.fork_rng(devices=[]):
        _, expected = direct.run_standard_evaluation(x, labels, batch_size=10)
    found, _ = run_stages(network, x, labels, stages, num_classes)
    assert torch.equal(found, expected)
    assert 0 < (found == labels).sum() < (predict(network, x, 10) == labels).sum()


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("num_classes", [2, 3, 4])
def test_few_classes(num_classes: int) -> None:
    network = Network(num_classes)
    x, labels = network.problem()
    stages = stage_names("aa_standard", num_classes)
    assert ("apgd-t" in stages) == (num_classes == 4)
    found, warnings = run_stages(network, x, labels, stages, num_classes)
    assert (found == labels).sum() < (predict(network, x, 10) == labels).sum()
    assert not any("classes" in text for text in warnings)  # AutoAttack itself finds no fault with the targets
    remarks = few_classes(stages, num_classes)
    assert len(remarks) == (num_classes < 4)
    assert all(text.startswith("not the standard AutoAttack:") for text in remarks)


@pytest.mark.parametrize(("num_classes", "targets"), [(2, 1), (4, 3), (10, 9), (100, 9)])
def test_settings_of_the_standard_version_hold(num_classes: int, targets: int) -> None:
    attack = autoattack._build(
        "apgd-ce", Network(2), torch.device("cpu"), conditions(num_classes, seed=9), logging.Logger("x")
    )
    assert attack.version == "standard"
    assert attack.attacks_to_run == ["apgd-ce"]
    assert (attack.apgd.n_restarts, attack.apgd_targeted.n_restarts, attack.fab.n_restarts) == (1, 1, 1)
    assert (attack.apgd.n_iter, attack.apgd_targeted.n_iter, attack.fab.n_iter, attack.square.n_queries) == (
        100,
        100,
        100,
        5000,
    )
    assert (attack.apgd_targeted.n_target_classes, attack.fab.n_target_classes) == (targets, targets)
    assert attack.seed == 9


def test_warnings_arrive_here_and_nowhere_else(capsys: pytest.CaptureFixture[str]) -> None:
    network = Network(4)
    x, labels = network.problem()

    def random_probabilities(point: Tensor) -> Tensor:
        return (network(point) + 0.1 * torch.randn(len(point), 4, device=point.device)).softmax(1)

    prediction = labels.clone()
    _, warnings = attack_stage("apgd-ce", random_probabilities, x, labels, prediction, conditions())
    assert len(warnings) == 2
    assert all(text.startswith("apgd-ce: ") for text in warnings)
    assert "randomized" in warnings[0]
    assert "probability" in warnings[1]
    assert capsys.readouterr() == ("", "")
    assert not logging.getLogger("auto-attack").handlers


def test_zero_gradients_are_told_once() -> None:
    def flat(point: Tensor) -> Tensor:
        return torch.tensor([9.0, 2.0, 1.0, 0.0]).expand(len(point), 4) + 0 * point.flatten(1)[:, :4]

    x, labels = torch.rand(6, 1, 8, 8), torch.zeros(6, dtype=torch.int64)
    prediction, warnings = attack_stage("apgd-t", flat, x, labels, labels.clone(), conditions(batch_size=4))
    assert torch.equal(prediction, labels)
    assert len(warnings) == 1
    assert "points with zero gradient" in warnings[0]
    assert warnings[0].endswith("(6 times)")  # three targets in two batches


def test_a_dynamic_network_is_reported_and_then_forgotten() -> None:
    network = Network(4)
    x, labels = network.problem()

    def backward(point: Tensor) -> Tensor:
        return network(point)

    def stage(forward):
        prediction = predict(network, x, 24)
        return attack_stage("apgd-ce", forward, x, labels, prediction, conditions())[1]

    assert any("dynamic" in text for text in stage(backward))
    assert stage(network) == []


def test_nothing_global_changes() -> None:
    network = Network(4)
    x, labels = network.problem()
    state, before = torch.get_rng_state(), sys.gettrace()

    def trace(frame, event, argument):
        return None

    sys.settrace(trace)
    try:
        run_stages(network, x, labels, ("apgd-ce",), 4)
        assert sys.gettrace() is trace
    finally:
        sys.settrace(before)
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(checks.funcs.values())


def test_a_point_outside_the_ball_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    network = Network(4)
    x, labels = network.problem()
    monkeypatch.setattr(autoattack, "_run", lambda attack, x, labels, batch_size: x + 2 * EPS)
    with pytest.raises(RuntimeError, match="outside the eps ball"):
        run_stages(network, x, labels, ("apgd-ce",), 4)


def test_no_survivors_no_attack() -> None:
    network = Network(4)
    x, labels = network.problem()
    wrong = (labels + 1) % 4
    found, warnings = attack_stage("square", network, x, labels, wrong, conditions(batch_size=8))
    assert torch.equal(found, wrong)
    assert warnings == []


def test_square_alarm() -> None:
    assert square_warnings({"clean": 0.9, "apgd-ce": 0.5, "apgd-t": 0.45, "square": 0.4485}) == []
    assert "5.00%" in square_warnings({"clean": 0.9, "apgd-ce": 0.5, "apgd-t": 0.45, "square": 0.4})[0]
    assert square_warnings({"clean": 0.9, "apgd-ce": 0.5}) == []


def test_one_of_each() -> None:
    assert one_of_each(["3 points", "other", "14 points"], "chunks") == ["3 points (2 chunks)", "other"]
