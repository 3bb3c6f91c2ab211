"""The folded twin against the plain network: every network of the registry, values and gradients."""

from __future__ import annotations

import copy
import functools
import platform
import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import methods
from harness.attacks.ascent import Steps, ascend, normal_start, uniform_start
from harness.data.augment import to_float
from harness.data.sources import load
from harness.engine.convolution import FusedConvolution
from harness.engine.forwards import FoldedTwin, PlainForward, evaluation_forward, frozen, mode, training_forward
from harness.engine.process import tuned_convolutions
from harness.models.build import build
from harness.models.registry import MODELS
from harness.spec import AugmentSpec, TrainingSpec
from harness.training.trainer import EpochBatches, Trainer
from tests.fake_cuda import CUDA, fake_cuda
from tests.rounding import images_off_the_kinks, relative_error
from tests.small import assert_same_weights

SMALL = {
    "cnn": {"width": 8},
    "resnet18": {"width": 8},
    "preact_resnet18": {"width": 8},
    "wrn": {"depth": 10, "widen": 1},
    "dm_wrn": {"depth": 10, "widen": 1},
    "resnet56": {"width": 8},
    "vit": {"width": 24, "depth": 2},
}  # others as they are
FOLDS = {"cnn": (6, 6), "resnet18": (20, 20), "mobilenet_v2": (57, 57), "resnet56": (57, 57), "vit": (0, 0)}


def network(name: str, **facts) -> torch.nn.Module:
    """A network whose running statistics and affine parameters are not the initial ones, so that folding wrongly
    shows."""
    torch.manual_seed(0)
    model = build(name, SMALL.get(name, {}), in_channels=3, num_classes=5, image_size=16, **facts)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 2)
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias, 0, 0.3)
    return model


def answers(forward: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    """The logits, and the gradient at the images of a smooth function of them."""
    point = x.clone().requires_grad_()
    logits = forward(point)
    return logits.detach(), torch.autograd.grad(logits.logsumexp(1).sum(), point)[0]


def in_dtype(model: torch.nn.Module, dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    """The plain network, computing in `dtype`."""
    plain = PlainForward(copy.deepcopy(model).to(dtype))
    return lambda images: plain(images.to(dtype)).to(torch.promote_types(dtype, torch.float32))


def assert_as_exact(twin: FoldedTwin, model: torch.nn.Module, size: int = 8) -> None:
    """The twin's logits and input gradients are as near to those of float64 as the plain network's in its dtype.

    In bfloat16 some ReLUs are decided by rounding in either form; over many images that is a part of its error.
    """
    many = torch.rand(16, 3, 16, 16)
    few = images_off_the_kinks(model, (1, 3, size, size)) if twin.dtype == torch.float32 else many
    for part, x in enumerate((many, few)):
        exact = answers(in_dtype(model, torch.float64), x.double())[part]
        ours, plain = (
            relative_error(answers(forward, x)[part], exact) for forward in (twin, in_dtype(model, twin.dtype))
        )
        # folding, and other forms of a convolution, round at other places: either may be somewhat nearer, none far
        assert ours <= 2 * plain


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_network_with_small_maps_is_as_exact_as_the_plain_one_also_with_new_weights(dtype):
    """ResNet-18 in its usual width: the maps of its last stages are done in another form."""
    torch.manual_seed(0)
    model = build("resnet18", {"width": 64}, in_channels=3, num_classes=5).eval()
    twin = FoldedTwin(model, dtype)
    rearranged = [layer for layer in twin.forward.modules() if isinstance(layer, FusedConvolution) and layer.small_maps]
    taken = [
        layer.small_maps.take(torch.zeros(1, 1, size, size, dtype=dtype)) for layer in rearranged for size in (4, 8)
    ]
    assert len(rearranged) == 6
    assert taken == [True, dtype == torch.float32] * 6
    for _ in range(2):
        assert_as_exact(twin, model, size=16)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(1 + 0.2 * torch.rand_like(parameter))
        twin.refresh()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", MODELS)
def test_the_twin_is_as_exact_as_the_plain_network(name, dtype):
    model = network(name, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.25))
    assert_as_exact(FoldedTwin(model, dtype), model, size=16 if MODELS[name].sized else 8)


class Asking(torch.nn.Module):
    """A network that torch.fx cannot trace."""

    def __init__(self) -> None:
        super().__init__()
        self.network = network("cnn")

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x) if len(x) else x


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_cannot_be_traced_runs_unfolded_in_the_same_precision_and_says_so(dtype):
    model = Asking()
    twin = FoldedTwin(model, dtype)
    assert (twin.pairs, twin.norms, twin.forward) == ([], 6, twin.twin)
    assert twin.description == "nothing folded, since torch.fx cannot trace the network"
    assert_as_exact(twin, model)
    with torch.no_grad():
        model.network.fc.bias.add_(1)
    twin.refresh()
    assert_as_exact(twin, model)
    assert training_forward(model, "fast") is model


@pytest.mark.parametrize(("name", "counts"), FOLDS.items())
def test_networks_whose_norms_follow_convolutions_fold_fully(name, counts):
    twin = FoldedTwin(network(name))
    assert (len(twin.pairs), twin.norms) == counts


@pytest.mark.parametrize("name", ["preact_resnet18", "wrn"])
def test_pre_activation_networks_fold_what_they_can_and_say_so(name):
    twin = FoldedTwin(network(name))
    assert 0 < len(twin.pairs) < twin.norms
    assert twin.description == f"{len(twin.pairs)} of {twin.norms} batch norms folded"


def test_refresh_follows_the_live_network():
    model, x = network("cnn"), torch.rand(2, 3, 16, 16)
    twin, before = FoldedTwin(model), copy.deepcopy(model)
    model.train()
    model(torch.rand(8, 3, 16, 16))  # moves the running statistics
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.1)
    assert_as_exact(twin, before)
    twin.refresh()
    assert_as_exact(twin, model)
    exact = [in_dtype(each, torch.float64)(x.double()) for each in (before, model)]
    assert relative_error(exact[1], exact[0]) > 0.01


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["cnn", "preact_resnet18", "mobilenet_v2"])
def test_on_a_gpu_all_layers_are_folded_together_and_alike(name, dtype):
    model = network(name)
    model.train()
    with torch.no_grad():
        model(torch.rand(8, 3, 16, 16))
    expected = FoldedTwin(model, dtype).twin.state_dict()
    with fake_cuda() as gpu:
        twin = FoldedTwin(network(name).to(CUDA), dtype)
        twin.live.load_state_dict(model.state_dict())
        gpu.forget()
        twin.refresh()
        assert not gpu.waits
        assert not gpu.uploads
        found = {key: value.cpu() for key, value in twin.twin.state_dict().items()}
    assert_same_weights(found, expected)


@pytest.mark.parametrize("deterministic", [False, True])
def test_convolutions_are_tuned_where_results_may_differ(deterministic, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", deterministic)
    with tuned_convolutions():
        assert torch.backends.cudnn.benchmark is not deterministic
    assert not torch.backends.cudnn.benchmark


def test_bfloat16_answers_in_float32():
    assert FoldedTwin(network("cnn"), torch.bfloat16)(torch.rand(8, 3, 16, 16)).dtype == torch.float32


def test_mode_and_frozen_give_back_what_they_found():
    model = network("cnn")
    model.train()
    first = next(module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d))
    first.eval()
    before = {id(module): module.training for module in model.modules()}
    with mode(model, training=False), frozen(model):
        assert not any(module.training for module in model.modules())
        assert not any(parameter.requires_grad for parameter in model.parameters())
    assert {id(module): module.training for module in model.modules()} == before
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_freed_memory_stays_with_the_process():
    """Page faults of a process that allocates and frees the same 36 MiB again and again, without and with it."""
    program = """
import resource, sys, torch
from harness.engine.process import keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory()
faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    torch.ones(9 * 2**20)
before = faults()
for _ in range(10):
    torch.ones(9 * 2**20)
print(faults() - before)
"""
    counts = {
        how: int(
            subprocess.run([sys.executable, "-c", program, how], capture_output=True, text=True, check=True).stdout
        )
        for how in ("give back", "keep")
    }
    assert counts["keep"] < 100
    assert counts["keep"] < counts["give back"] / 10


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("start", ["uniform", "normal"])
def test_the_fast_attack_is_as_strong_as_the_plain_one(precision, start):
    """Mean loss, in float32 on the plain network, at the points that both reach from the same start: at least 99 %."""
    student, x, labels = trained_student()
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    begin = normal_start(x, noise) if start == "normal" else uniform_start(x, 0.1, noise.clamp(-1, 1))
    losses = []
    for forward in (evaluation_forward(student, "plain"), evaluation_forward(student, "fast", precision)):
        with frozen(student):
            point = ascend(
                forward,
                x,
                lambda z, _: F.cross_entropy(z, labels, reduction="none"),
                Steps(eps=0.1, size=0.025, number=10),
                start=begin,
            ).point
        with torch.no_grad(), mode(student, training=False):
            losses.append([float(F.cross_entropy(student(images), labels)) for images in (x, point)])
    assert losses[0][1] > 1.5 * losses[0][0]  # there is something to attack
    assert losses[1][1] >= 0.99 * losses[0][1]


@functools.cache
def trained_student() -> tuple[torch.nn.Module, torch.Tensor, torch.Tensor]:
    """A student after a few epochs of AT on digits, and the test images it did not see."""
    train, test = load("digits", "train"), load("digits", "test")
    torch.manual_seed(0)
    student = build("cnn", {"width": 8}, in_channels=1, num_classes=10)
    trainer = Trainer(
        student,
        methods.build(methods.resolve("at", 10), 10),
        {},
        TrainingSpec(epochs=3, lr=0.05, batch_size=64),
        eps=0.1,
    )
    for epoch in range(3):
        batches = EpochBatches(
            train.images, train.labels, 64, augment=AugmentSpec(), coordinates=("strength",), epoch=epoch
        )
        trainer.train_epoch(batches, batches.noise)
    return student, to_float(test.images), test.labels
