"""Attacks done from a recording: the bits of attacks that are told in full, for every method; what is recorded."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import methods
from benchmarks.gpu import training
from benchmarks.gpu.check import Setting
from harness.attacks.ascent import Steps, Toward, ascend
from harness.attacks.pgd import attack_chunk, seeded_noise
from harness.attacks.registry import ascent_settings
from harness.engine import recorded
from harness.engine.forwards import FoldedTwin
from harness.engine.memory import Fitting
from harness.models.build import build
from harness.spec import Resources, TrialSpec
from methods.base import Adversary, View
from methods.losses import cross_entropy
from tests.fake_cuda import CUDA, fake_cuda


@pytest.fixture(autouse=True)
def gpu() -> Iterator[None]:
    with fake_cuda():
        yield


@pytest.fixture
def recordings(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The work that was recorded, as it comes."""
    made: list[Any] = []
    record = recorded.record

    def counted(work: Any, tensors: Any, pool: Any) -> Any:
        made.append(work)
        return record(work, tensors, pool)

    monkeypatch.setattr(recorded, "record", counted)
    return made


@pytest.mark.parametrize("name", sorted(methods.METHODS))
def test_every_method_trains_alike_from_recordings(name: str, recordings: list[Any]) -> None:
    (spec,) = (spec for spec in training._planned([name]) if spec.role == "student")
    found, right = (training.two_epochs(spec, CUDA, record) for record in (True, False))
    assert all(torch.equal(one, other) for one, other in zip(found, right, strict=True))
    confusion = methods.METHODS[name].confusion  # a second attack, before each epoch
    assert bool(recordings) == (name not in training.TOLD or confusion)


def network() -> FoldedTwin:
    torch.manual_seed(0)
    made = build("cnn", {"width": 4}, in_channels=1, num_classes=4, image_size=8)
    return FoldedTwin(made.to(CUDA).eval(), recorded=True)


def images(count: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(count, 1, 8, 8, generator=generator).to(CUDA)
    return x, torch.randint(0, 4, (count,), generator=generator).to(CUDA)


FACTORS = [1.0]


def by_global(logits: Tensor, labels: Tensor) -> Tensor:
    return FACTORS[0] * cross_entropy(logits, labels)


def climbed(
    forward: FoldedTwin, function: Callable[..., Tensor], seed: int, count: int = 6, eps: float = 0.1
) -> Tensor:
    x, labels = images(count, seed)
    return ascend(forward, x, Toward(function, labels), Steps(eps, eps / 4, 3), start=x).point


@pytest.mark.parametrize("settings", ["pgd5", "cw5", "mifgsm5", "fgsm"])
def test_evaluation_decides_alike(settings: str, recordings: list[Any]) -> None:
    """Batches that shrink included."""
    forward, (x, labels) = network(), images(300, 1)
    asked = ascent_settings({"name": settings})

    def decided() -> Tensor:
        return attack_chunk(forward, x, labels, labels, asked, eps=0.2, noise=seeded_noise(x, asked, 0), batch_size=150)

    from_recordings = [decided() for _ in range(2)]
    assert recordings
    forward.recorder = None
    right = decided()
    assert 0 < (right == labels).sum() < len(labels)
    assert all(torch.equal(one, right) for one in from_recordings)


def test_recorded_when_it_comes_again_and_only_then(recordings: list[Any]) -> None:
    forward = network()
    for seed in range(4):
        climbed(forward, cross_entropy, seed)
        assert len(recordings) == (seed > 0)
    climbed(forward, cross_entropy, 0, count=7)
    assert len(recordings) == 1, "another shape is other work"
    climbed(forward, cross_entropy, 0, eps=0.2)
    assert len(recordings) == 1, "a radius is a tensor of the work"


def test_radius_and_weights_are_those_of_the_call() -> None:
    """A recording is of memory, not of what stood in it."""
    one, other = network(), network()
    other.recorder = None
    for eps in (0.1, 0.1, 0.3):
        assert torch.equal(climbed(one, cross_entropy, 3, eps=eps), climbed(other, cross_entropy, 3, eps=eps))
    for forward in (one, other):
        torch.manual_seed(5)
        for parameter in forward.live.parameters():
            parameter.data.copy_(torch.randn(parameter.shape).to(CUDA))
        forward.refresh()
    assert torch.equal(climbed(one, cross_entropy, 3), climbed(other, cross_entropy, 3))
    assert not torch.equal(climbed(one, cross_entropy, 3), climbed(network(), cross_entropy, 3))


def test_what_closes_over_a_batch_is_never_recorded(recordings: list[Any]) -> None:
    forward = network()
    for seed in range(3):
        weights = torch.full((6,), float(seed)).to(CUDA)

        def weighted(logits: Tensor, labels: Tensor) -> Tensor:
            return weights * cross_entropy(logits, labels)  # noqa: B023

        def by_default(logits: Tensor, labels: Tensor, weights: Tensor = weights) -> Tensor:
            return weights * cross_entropy(logits, labels)

        for objective in (weighted, by_default, partial(cross_entropy), by_global):
            climbed(forward, objective, seed)
    assert not recordings
    assert forward.recorder is not None
    assert not forward.recorder._met, "what a batch leaves behind would stay"


def test_what_is_made_anew_and_closes_over_nothing_is_recorded(recordings: list[Any]) -> None:
    forward = network()
    for seed in range(4):
        climbed(forward, lambda logits, labels: -cross_entropy(logits, labels), seed)
        climbed(forward, lambda logits, labels: cross_entropy(logits, labels), seed)
    assert len(recordings) == 2


def test_what_cannot_be_recorded_is_done_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*given: Any) -> Any:
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    right = climbed(network(), cross_entropy, 1)
    monkeypatch.setattr(recorded, "record", refuse)
    forward = network()
    assert all(torch.equal(climbed(forward, cross_entropy, 1), right) for _ in range(3))
    assert forward.recorder is not None
    assert forward.recorder.problems == ["RuntimeError: operation not permitted when stream is capturing"]
    (spec,) = (spec for spec in training._planned(["at"]) if spec.role == "student")
    with pytest.raises(RuntimeError, match="nothing was recorded; RuntimeError: operation not permitted"):
        training.two_epochs(spec, CUDA, record=True)


def test_recordings_are_given_up_where_memory_is_short(recordings: list[Any]) -> None:
    """Before batches become smaller, or a share of a GPU gives up; and are made again: the same bits all along."""
    forward, right = network(), climbed(network(), cross_entropy, 1)
    for share, enough_for in ((1, 8), (1, 4), (0.5, 8)):
        asked, tries = Fitting(TrialSpec.model_construct(resources=Resources(gpu=share)), 8), []

        def work(size: int) -> Tensor:
            tries.append(size)  # noqa: B023
            if size > enough_for or not tries[1:]:  # noqa: B023
                raise torch.OutOfMemoryError("CUDA out of memory")
            return [climbed(forward, cross_entropy, 1) for _ in range(2)][-1]

        [climbed(forward, cross_entropy, 1) for _ in range(2)]
        assert torch.equal(asked.run(work), right)
        assert tries == ([8, 8] if enough_for == 8 else [8, 8, 4])
    assert len(recordings) == 4


def test_the_acceptance_finds_a_stale_recording(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Of objectives that pass for one and are not."""

    class Turning:
        sign = 1

        def __init__(self) -> None:
            Turning.sign = -Turning.sign
            self.own_sign = Turning.sign

        def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
            return self.own_sign * cross_entropy(logits, labels)

    def adversary(method: Any, view: View) -> Adversary:
        return Adversary(Turning(), "uniform", target=lambda: view.labels)

    monkeypatch.setattr("harness.attacks.ascent.code_of", lambda function: type(function))
    monkeypatch.setattr(methods.METHODS["at"], "adversary", adversary)
    works = training.recorded(Setting(CUDA, tmp_path, tiny=True))
    (at, _) = (work for work in works if next(iter(work.lines)).startswith("at:"))
    (difference,) = at.measure().values()
    assert difference > 0
