"""Evaluation attacks on tensors that pass for CUDA's: the verdicts of the CPU, one wait per step, few batch sizes."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from harness.attacks.pgd import attack_chunk, predict, seeded_noise
from harness.attacks.registry import ATTACKS, ascent_settings
from harness.seeds import seeded
from harness.training.validation import correct_under_pgd, held_out_statistics
from tests.fake_cuda import CUDA, FakeCuda, fake_cuda

REQUESTS: list[dict[str, Any]] = [
    *({"name": attack.with_steps().name} for attack in ATTACKS.values() if attack.ascent),
    {"name": "pgd20", "restarts": 2},
    {"name": "cw20", "start": "normal", "clamp_start": False},
]
COUNT, BATCH, CLASSES, EPS = 330, 150, 5, 0.012


class Network:
    """A curved function in float64, whose margins differ so much that images break in every step; a log of its calls:
    the batch, and how often the host had waited by then."""

    def __init__(self, device: str, gpu: FakeCuda | None = None) -> None:
        draw = torch.Generator().manual_seed(3)
        self.first = (torch.randn(48, 30, generator=draw, dtype=torch.float64) / 2).to(device)
        self.second = torch.randn(30, CLASSES, generator=draw, dtype=torch.float64).to(device)
        self.gpu, self.sizes, self.waits = gpu, list[int](), list[int]()

    def __call__(self, x: Tensor) -> Tensor:
        self.sizes.append(len(x))
        self.waits.append(len(self.gpu.waits) if self.gpu else 0)
        return torch.sin(2 * (x.flatten(1) - 0.5) @ self.first) @ self.second


def problem(device: str) -> tuple[Tensor, Tensor]:
    x = torch.rand(COUNT, 3, 4, 4, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    labels = Network("cpu")(x).argmax(1)
    labels[::5] = (labels[::5] + 1) % CLASSES
    return x.to(device), labels.to(device)


def attacked(
    request: dict[str, Any], device: str, gpu: FakeCuda | None = None, gradients: Network | None = None
) -> tuple[Tensor, Network]:
    x, labels = problem(device)
    network, settings = Network(device, gpu), ascent_settings(request)
    clean, noise = predict(network, x, COUNT), seeded_noise(x, settings, 0)
    if gpu:
        gpu.forget()
    network.sizes.clear()
    network.waits.clear()
    found = attack_chunk(
        network, x, labels, clean, settings, eps=EPS, noise=noise, batch_size=BATCH, gradients=gradients
    )
    return found, network


@pytest.mark.parametrize("request_", REQUESTS, ids=lambda request: "-".join(map(str, request.values())))
def test_evaluation_waits_once_a_step(request_: dict[str, Any]) -> None:
    expected, plain = attacked(request_, "cpu")
    with fake_cuda() as gpu:
        found, network = attacked(request_, "cuda", gpu)
        assert not gpu.uploads
        between = [after - before for before, after in pairwise([0, *network.waits, len(gpu.waits)])]
        assert max(between) <= 1
        assert torch.equal(found.cpu(), expected)
    full = [size for size in network.sizes if size % 64]
    assert len(set(full)) <= 2 * ascent_settings(request_).restarts  # a whole batch and what is left of the chunk
    if ascent_settings(request_).every_iterate:
        assert len(set(plain.sizes)) > len(set(network.sizes)) > 2
        assert {64, 128} <= set(network.sizes)
        assert sum(between) <= len(network.sizes) + 1


def test_gradients_of_another_form_cost_one_more_wait_a_step() -> None:
    expected, _ = attacked({"name": "pgd20"}, "cpu")
    with fake_cuda() as gpu:
        cheaper = Network("cuda", gpu)
        found, network = attacked({"name": "pgd20"}, "cuda", gpu, cheaper)
        assert torch.equal(found.cpu(), expected)
        waits, looked = cheaper.waits[2:], network.sizes[2:]  # after the margins of the chunk, of two batches
        assert max(after - before for before, after in pairwise(waits)) == 2
        assert {size % 64 for size in looked} == {0}


def test_validation_waits_for_nothing_before_its_end() -> None:
    x, labels = problem("cpu")
    images = (x * 255).to(torch.uint8)
    network = Network("cpu")

    def accuracy(network: Network, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        forward = lambda x: network(x.double())  # noqa: E731
        return correct_under_pgd(forward, images, labels, eps=EPS, steps=3, generator=seeded("validation"))

    expected = accuracy(network, images, labels)
    with fake_cuda() as gpu:
        network, images, labels = Network("cuda"), images.to(CUDA), labels.to(CUDA)
        gpu.forget()
        found = accuracy(network, images, labels)
        assert not gpu.waits
        assert not gpu.uploads
        for one, other in zip(found, expected, strict=True):
            assert torch.equal(one.cpu(), other)
        gpu.forget()
        held_out = held_out_statistics(
            lambda x: network(x.double()), images, labels, CLASSES,
            eps=EPS, wanted=frozenset({"pgd", "trades"}), generator=seeded("held-out"),
        )  # fmt: skip
        assert len(gpu.waits) == 5  # one for each statistic
        assert all(not value.is_cuda and value.isfinite().all() for value in vars(held_out).values())
