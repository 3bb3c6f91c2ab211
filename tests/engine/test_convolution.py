"""The fused and rearranged convolutions against the separate operations, and against exact arithmetic."""

from __future__ import annotations

import copy
import os
import platform
import subprocess
import sys

import pytest
import rounding
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.engine.convolution import FusedConvolution, SmallMaps, TrainedConvolution, fuse, trained
from harness.engine.forwards import FoldedTwin, training_forward, update_precision
from harness.models.build import build
from harness.models.registry import MODELS
from tests.rounding import relative_error

DTYPES = (torch.float32, torch.bfloat16)
SMALL = {
    "cnn": {"width": 16},
    "resnet18": {"width": 16},
    "preact_resnet18": {"width": 16},
    "wrn": {"depth": 10, "widen": 1},
    "dm_wrn": {"depth": 10, "widen": 1},
    "resnet56": {"width": 8},
    "vit": {"width": 24, "depth": 2},
}


def convolution(channels: int, out_channels: int, dtype: torch.dtype, bias: bool = True, **how) -> nn.Conv2d:
    torch.manual_seed(0)
    layer = nn.Conv2d(channels, out_channels, 3, padding=1, bias=bias, **how).requires_grad_(False)
    return layer.to(dtype).to(memory_format=torch.channels_last)


def answers(form: nn.Module, x: Tensor, gradient: Tensor) -> tuple[Tensor, ...]:
    """The output at x, and what `gradient` at it gives at x and at the parameters in training."""
    point = x.clone().requires_grad_()
    out = form(point)
    at = [point, *(parameter for parameter in form.parameters() if parameter.requires_grad)]
    return out, *torch.autograd.grad(out, at, gradient)


def maps(batch: int, channels: int, height: int, width: int, dtype: torch.dtype) -> torch.Tensor:
    torch.manual_seed(1)
    return torch.randn(batch, channels, height, width).to(dtype).to(memory_format=torch.channels_last)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("channels", [3, 16, 40])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(("relu", "with_residual"), [(True, False), (True, True), (False, True), (False, False)])
def test_fused_is_bit_for_bit_the_separate_operations(dtype, channels, stride, relu, with_residual):
    layer = convolution(channels, 24, dtype, stride=stride)
    x = maps(4, channels, 8, 8, dtype)
    residual = maps(4, 24, 8 // stride, 8 // stride, dtype) if with_residual else None
    weights = maps(4, 24, 8 // stride, 8 // stride, dtype)

    def separate(x, residual=None):
        out = layer(x) if residual is None else layer(x) + residual
        return F.relu(out) if relu else out

    results = []
    for form in (FusedConvolution(layer, relu), separate):
        inputs = [tensor.clone().requires_grad_() for tensor in (x, residual) if tensor is not None]
        out = form(*inputs)
        results.append([out, *torch.autograd.grad((out * weights).sum(), inputs)])
    assert len(results[0]) == 2 + with_residual
    for ours, theirs in zip(*results, strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_fused_network_is_bit_for_bit_the_network(name, dtype):
    torch.manual_seed(0)
    network = build(name, SMALL[name], in_channels=3, num_classes=5, image_size=16).eval().requires_grad_(False)
    network.to(dtype).to(memory_format=torch.channels_last)
    fused, x = fuse(network), maps(4, 3, 16, 16, dtype)
    results = []
    for form in (fused, network):
        point = x.clone().requires_grad_()
        logits = form(point)
        results.append((logits, torch.autograd.grad(logits.float().logsumexp(1).sum(), point)[0]))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])
    layers = [module for module in fused.modules() if isinstance(module, FusedConvolution)]
    assert len(layers) == sum(isinstance(module, nn.Conv2d) for module in network.modules())


class _Odd(nn.Module):
    """What the fast form does not join: sums that are broadcast or have a factor, norms without weights or statistics,
    padding in words and of another kind."""

    def __init__(self, norm: dict[str, bool]) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 1)
        self.norm, self.wide = nn.BatchNorm2d(8, **norm), nn.Conv2d(8, 8, 3, padding="same")
        self.round = nn.Conv2d(8, 8, 3, padding=1, padding_mode="circular")

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.first(x)))
        gate = x + self.second(F.adaptive_avg_pool2d(x, 1))
        scaled = self.round(torch.add(gate, self.wide(gate), alpha=0.5))
        return (self.second(F.adaptive_avg_pool2d(scaled, 1)) + F.relu(scaled)).mean((2, 3))


@pytest.mark.parametrize("norm", [{}, {"affine": False}, {"track_running_stats": False}])
def test_a_network_that_adds_and_normalises_in_its_own_way_is_answered_for(norm):
    torch.manual_seed(0)
    model = _Odd(norm).train()
    x = maps(4, 3, 9, 9, torch.float32)
    model(x)
    model.eval()
    twin = FoldedTwin(model)
    assert twin.traceable
    assert len(twin.pairs) == (0 if norm else 1)
    gradient, found = torch.randn(4, 8), []
    for form in (twin, model):
        point = x.clone().requires_grad_()
        out = form(point)
        found.append((out, *torch.autograd.grad(out, point, gradient)))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_a_block_ends_in_one_operation():
    network = build("resnet18", {"width": 16}, in_channels=3, num_classes=5).eval().requires_grad_(False)
    code = fuse(FoldedTwin(network).twin).code
    assert "relu" not in code
    assert code.count("fused_layer1_0_conv2(") == 1
    assert " + " not in code


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="the library's levels are those of x86")
def test_bfloat16_is_the_same_on_processors_where_the_library_lacks_it():
    program = """
import sys, torch
from torch.nn.functional import relu
from harness.engine.convolution import FusedConvolution
layer = torch.nn.Conv2d(16, 24, 3, padding=1).requires_grad_(False).bfloat16().to(memory_format=torch.channels_last)
x = torch.randn(4, 16, 8, 8).bfloat16().to(memory_format=torch.channels_last)
assert not torch.ops.mkldnn._is_mkldnn_bf16_supported()
assert torch.equal(FusedConvolution(layer, relu=True)(x), relu(layer(x)))
"""
    environment = {**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX2"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("channels", "height", "width"), [(256, 4, 4), (256, 2, 4), (256, 2, 2), (512, 4, 4)])
@pytest.mark.parametrize("training", [False, True])
def test_small_maps_are_as_exact_as_the_convolution(dtype, channels, height, width, training):
    """Also by Winograd's filtering: its intermediate values are larger, but it adds up fewer."""
    layer = convolution(channels, 320, dtype, bias=not training).requires_grad_(training)
    x, gradient = maps(3, channels, height, width, dtype), maps(3, 320, height, width, dtype)
    form = TrainedConvolution(layer) if training else FusedConvolution(layer, relu=False)
    assert SmallMaps.apply_to(layer)
    assert SmallMaps(layer).take(x)
    exact = answers(copy.deepcopy(layer).double(), x.double(), gradient.double())
    terms = (9 * channels, 9 * 320, x.shape[0] * height * width)
    both = zip(answers(form, x, gradient), answers(layer, x, gradient), strict=True)
    for (ours, theirs), expected, summed in zip(both, exact, terms[: len(exact)], strict=True):
        assert ours.dtype == dtype
        assert ours.is_contiguous(memory_format=torch.channels_last)
        assert relative_error(ours, expected) <= max(relative_error(theirs, expected), rounding.of_sums(summed, dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("channels", [16, 256])
def test_no_images_have_no_answers(dtype, channels):
    """As an attack asks when none is right any more, of the library's convolution and of that of small maps."""
    form, x = FusedConvolution(convolution(channels, 320, dtype), relu=False), maps(0, channels, 4, 4, dtype)
    out, at_x = answers(form, x, maps(0, 320, 4, 4, dtype))
    assert out.shape == (0, 320, 4, 4)
    assert at_x.shape == x.shape


@pytest.mark.parametrize("change", ["channels", "stride", "kernel", "odd map", "large map"])
def test_other_convolutions_stay_with_the_library(change):
    channels = 128 if change == "channels" else 256
    how = {"stride": 2} if change == "stride" else {}
    layer = convolution(channels, channels, torch.float32, **how)
    if change == "kernel":
        layer = nn.Conv2d(256, 256, 1)
    size = {"odd map": 3, "large map": 10}.get(change, 4)
    assert not (SmallMaps.apply_to(layer) and SmallMaps(layer).take(torch.zeros(1, channels, size, size)))


def test_new_weights_are_taken_at_the_next_refresh():
    layer, x = convolution(256, 256, torch.float32), maps(2, 256, 4, 4, torch.float32)
    fused = FusedConvolution(layer, relu=False)
    exact, allowed = copy.deepcopy(layer).double(), rounding.of_sums(9 * 256, torch.float32)
    before = exact(x.double())
    assert relative_error(fused(x), before) <= allowed
    for network in (layer, exact):
        network.weight.mul_(2)
    assert relative_error(fused(x), before) <= allowed
    fused.refresh()
    assert relative_error(fused(x), exact(x.double())) <= allowed


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_training_on_small_maps_has_the_gradients_of_the_network(precision, monkeypatch):
    """Against float64. The activation is smooth here: at ReLU's kink the last bit of a sum decides about a gradient,
    and no size of rounding says how far two networks are apart then."""
    monkeypatch.setattr(F, "relu", F.silu)
    torch.manual_seed(0)
    network = build("resnet18", {"width": 32}, in_channels=3, num_classes=5).train()
    network.to(memory_format=torch.channels_last)
    x = torch.rand(4, 3, 32, 32)

    def gradients(network: nn.Module, engine: str, x: Tensor, precision: str = "float32") -> dict[str, Tensor]:
        network.zero_grad(set_to_none=True)
        with update_precision(x.device, precision):
            logits = training_forward(network, engine)(x)
        logits.to(torch.promote_types(logits.dtype, torch.float32)).logsumexp(1).sum().backward()
        return {name: parameter.grad for name, parameter in network.named_parameters()}

    exact = gradients(copy.deepcopy(network).double(), "plain", x.double())
    fast, plain = (gradients(network, engine, x, precision) for engine in ("fast", "plain"))
    graph = training_forward(network, "fast")
    assert sum(isinstance(module, TrainedConvolution) for module in graph.modules()) == 3
    for name in (name for name, parameter in network.named_parameters() if parameter.dim() == 4):
        # 17 of 20 convolutions round alike in both; a fifth more than the plain form's is what chance may add
        assert relative_error(fast[name], exact[name]) <= 1.2 * relative_error(plain[name], exact[name]), name


def test_the_graph_in_training_shares_the_networks_modules():
    network = build("cnn", {"width": 8}, in_channels=1, num_classes=3)
    graph, x = trained(network), torch.rand(4, 1, 8, 8)
    network.train()
    before = network.stage1.bn1.running_mean.clone()
    graph(x)
    assert not torch.equal(network.stage1.bn1.running_mean, before)
    assert dict(graph.named_parameters()).keys() == dict(network.named_parameters()).keys()
    network.eval()
    assert torch.equal(graph(x), network(x))


@pytest.mark.parametrize("name", MODELS)
def test_every_network_trains_as_a_graph(name):
    torch.manual_seed(0)
    network = build(name, SMALL.get(name, {}), in_channels=3, num_classes=5, image_size=16)
    x = torch.rand(2, 3, 16, 16)
    assert torch.equal(training_forward(network, "fast").train()(x), network.train()(x))
