"""The fused and rearranged convolutions against the separate operations, and against exact arithmetic."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from harness.convolution import FusedConvolution, SmallMaps, fuse, trained
from harness.engine import FoldedTwin, training_forward
from harness.models import MODELS
from harness.models.build import build

DTYPES = (torch.float32, torch.bfloat16)
SMALL = {
    "cnn": {"width": 16},
    "resnet18": {"width": 16},
    "preact_resnet18": {"width": 16},
    "wrn": {"depth": 10, "widen": 1},
}


def convolution(channels: int, out_channels: int, dtype: torch.dtype, bias: bool = True, **how) -> nn.Conv2d:
    torch.manual_seed(0)
    layer = nn.Conv2d(channels, out_channels, 3, padding=1, bias=bias, **how).requires_grad_(False)
    return layer.to(dtype).to(memory_format=torch.channels_last)


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
    network = build(name, SMALL[name], in_channels=3, num_classes=5).eval().requires_grad_(False)
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


def test_a_block_ends_in_one_operation():
    network = build("resnet18", {"width": 16}, in_channels=3, num_classes=5).eval().requires_grad_(False)
    code = fuse(FoldedTwin(network).twin).code
    assert "relu" not in code
    assert code.count("fused_layer1_0_conv2(") == 1
    assert " + " not in code


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-6), (torch.bfloat16, 6e-3)])
@pytest.mark.parametrize(("height", "width"), [(4, 4), (2, 4), (2, 2)])
def test_small_maps_are_the_convolution(dtype, tolerance, height, width):
    layer, x = convolution(256, 320, dtype), maps(3, 256, height, width, dtype)
    form = SmallMaps(layer)
    assert SmallMaps.apply_to(layer)
    assert form.take(x)
    exact = x.double().requires_grad_()
    expected = F.conv2d(exact, layer.weight.double(), layer.bias.double(), padding=1)
    gradient = maps(3, 320, height, width, dtype)
    (expected_gradient,) = torch.autograd.grad(expected, exact, gradient.double())
    for ours, theirs in ((form(x), expected), (form.transposed(gradient), expected_gradient)):
        assert ours.dtype == dtype
        assert ours.is_contiguous(memory_format=torch.channels_last)
        assert (ours.double() - theirs).abs().max() <= tolerance * theirs.abs().max()


def test_winograd_is_at_least_as_exact_as_the_direct_convolution():
    layer, x = convolution(512, 512, torch.float32), maps(8, 512, 4, 4, torch.float32)
    exact = F.conv2d(x.double(), layer.weight.double(), layer.bias.double(), padding=1)
    errors = [(form(x).double() - exact).abs().max() for form in (SmallMaps(layer), layer)]
    assert errors[0] <= 1.5 * errors[1]


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
    before = fused(x)
    layer.weight.mul_(2)
    torch.testing.assert_close(fused(x), before)
    fused.refresh()
    torch.testing.assert_close(fused(x), layer(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 2e-5), ("bfloat16", 2e-2)])
def test_training_on_small_maps_has_the_gradients_of_the_network(precision, tolerance):
    torch.manual_seed(0)
    network = build("resnet18", {"width": 32}, in_channels=3, num_classes=5).train()
    network.to(memory_format=torch.channels_last)
    x = torch.rand(4, 3, 32, 32)
    gradients = []
    for form in (training_forward(network, "fast"), training_forward(network, "plain")):
        network.zero_grad(set_to_none=True)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bfloat16"):
            logits = form(x)
        logits.float().logsumexp(1).sum().backward()
        gradients.append({name: parameter.grad.clone() for name, parameter in network.named_parameters()})
    wide = [name for name, gradient in gradients[0].items() if gradient.shape[:2] == (256, 256) and gradient.dim() == 4]
    assert len(wide) == 6 / 2
    for name in (*wide, "conv1.weight"):
        ours, theirs = gradients[0][name], gradients[1][name]
        assert (ours - theirs).norm() <= tolerance * theirs.norm(), name


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
    network = (
        build(name, {}, in_channels=3, num_classes=5)
        if name == "mobilenet_v2"
        else build(name, SMALL[name], in_channels=3, num_classes=5)
    )
    x = torch.rand(2, 3, 16, 16)
    assert torch.equal(training_forward(network, "fast").train()(x), network.train()(x))
