"""Convolutions of a frozen network on the CPU, each with the addition and the ReLU that follow it.

Three quarters of a training step are forwards and input gradients of one network whose weights stand still meanwhile.
There the ReLU is part of oneDNN's convolution, or works in place on its output, its gradient is a mask over integers,
and maps too small for oneDNN's direct convolution become matrix products.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.fx import GraphModule, Node, symbolic_trace

# with the one or three channels of images, oneDNN's convolution with a ReLU is slower than the two apart
_FEWEST_CHANNELS = 16
# Few pixels to go over, much to sum up: the largest maps, by precision, on which the other forms win from so many
# channels on.
_MANY_CHANNELS = 256
_SMALL_MAP = {torch.float32: 8, torch.bfloat16: 4}
_BITS = {torch.bfloat16: torch.int16, torch.float32: torch.int32}


def fuse(network: nn.Module) -> GraphModule:
    """The frozen network (float32 or bfloat16) as a graph of `FusedConvolution` and what else it has; the convolutions
    are shared with `network`. Raises whatever torch.fx raises for a network it cannot trace."""
    traced = symbolic_trace(network)
    modules = dict(traced.named_modules())
    for node in list(traced.graph.nodes):
        if node.op == "call_module" and isinstance(modules[node.target], nn.Identity):
            node.replace_all_uses_with(node.args[0])
            traced.graph.erase_node(node)
    for node in list(traced.graph.nodes):
        if node.op == "call_module" and _is_usual(modules[node.target]):
            _fuse_one(traced, node, modules[node.target])
    traced.graph.eliminate_dead_code()
    traced.recompile()
    return traced


def trained(network: nn.Module) -> GraphModule:
    """The network in training, its modules shared, with the convolutions of small maps done as `SmallMaps` does them,
    weight gradients included. Raises whatever torch.fx raises for a network it cannot trace."""
    traced = symbolic_trace(network)
    for node in traced.graph.nodes:
        if node.op == "call_module":
            module = traced.get_submodule(node.target)
            if isinstance(module, nn.Conv2d) and SmallMaps.apply_to(module):
                traced.set_submodule(node.target, TrainedConvolution(module))
    return traced


def _is_usual(module: object) -> bool:
    """Whether it is a convolution that pads with zeros, and says with how many."""
    return isinstance(module, nn.Conv2d) and module.padding_mode == "zeros" and not isinstance(module.padding, str)


def _fuse_one(traced: GraphModule, node: Node, convolution: nn.Conv2d) -> None:
    """Put the convolution, an addition of something known before it, and a ReLU into one module."""
    chain, residual = [node], None
    addition = _only_user(node)
    if addition is not None and _adds(addition):
        others = [other for other in addition.args if isinstance(other, Node) and other is not node]
        if len(others) == 1 and others[0] < node:
            residual = others[0]
            chain.append(addition)
    relu = _only_user(chain[-1])
    has_relu = relu is not None and relu.op == "call_function" and relu.target in (F.relu, torch.relu)
    if relu is not None and has_relu:
        chain.append(relu)
    name = "fused_" + str(node.target).replace(".", "_")
    traced.add_module(name, FusedConvolution(convolution, has_relu))
    with traced.graph.inserting_after(node):
        fused = traced.graph.call_module(name, (node.args[0], *([residual] if residual is not None else [])))
    chain[-1].replace_all_uses_with(fused)
    for old in reversed(chain):
        traced.graph.erase_node(old)


def _adds(node: Node) -> bool:
    """Whether it is a sum of two, without the factor (`alpha`) that torch.add can have."""
    return node.op == "call_function" and node.target in (operator.add, torch.add) and not node.kwargs


def _only_user(node: Node) -> Node | None:
    return next(iter(node.users)) if len(node.users) == 1 else None


class FusedConvolution(nn.Module):
    """relu(convolution(x) + residual), where the addition and the ReLU are optional; gradients to x and residual only.

    Values and gradients are bit for bit those of the separate operations, but for small maps (`SmallMaps`).
    """

    def __init__(self, convolution: nn.Conv2d, relu: bool) -> None:
        super().__init__()
        self.convolution, self.relu = convolution, relu
        self.small_maps = SmallMaps(convolution) if SmallMaps.apply_to(convolution) else None

    def refresh(self) -> None:
        """The weights have changed."""
        if self.small_maps is not None:
            self.small_maps.forget()

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        if residual is not None and residual.shape != self._shape(x):  # one of them is broadcast
            out = self.convolution(x) + residual
            return F.relu(out) if self.relu else out
        return _Fused.apply(x, residual, self)

    def _shape(self, x: Tensor) -> tuple[int, ...]:
        """Of the convolution's output."""
        conv: Any = self.convolution  # whose padding is numbers
        each = zip(x.shape[2:], conv.padding, conv.dilation, conv.kernel_size, conv.stride, strict=True)
        sizes = (
            (size + 2 * pad - dilation * (kernel - 1) - 1) // step + 1 for size, pad, dilation, kernel, step in each
        )
        return (len(x), conv.out_channels, *sizes)

    def answer(self, x: Tensor, residual: Tensor | None) -> Tensor:
        """The forward, on plain tensors."""
        conv = self.convolution
        if self.small_maps is not None and self.small_maps.take(x):
            out = self.small_maps(x)
        elif self.relu and residual is None and _relu_joins(conv, x.dtype):
            return torch.ops.mkldnn._convolution_pointwise(
                x, conv.weight, conv.bias, conv.padding, conv.stride, conv.dilation, conv.groups, "relu", [], ""
            )
        else:
            out = F.conv2d(x, conv.weight, conv.bias, conv.stride, conv.padding, conv.dilation, conv.groups)
        if residual is not None:
            out.add_(residual)
        return out.relu_() if self.relu else out

    def input_gradient(self, gradient: Tensor, x: Tensor) -> Tensor:
        """The gradient at x, from the one at the convolution's output."""
        conv = self.convolution
        if self.small_maps is not None and self.small_maps.take(x):
            return self.small_maps.transposed(gradient)
        return torch.ops.aten.convolution_backward(
            gradient, x, conv.weight, None, conv.stride, conv.padding, conv.dilation, False, (0, 0), conv.groups,
            (True, False, False),
        )[0]  # fmt: skip


class _Fused(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, residual: Tensor | None, layer: FusedConvolution) -> Tensor:
        out = layer.answer(x, residual)
        ctx.layer, ctx.has_residual = layer, residual is not None
        ctx.save_for_backward(x, out)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x, out = ctx.saved_tensors
        if ctx.layer.relu:
            gradient = _where_positive(gradient, out)
        return (
            ctx.layer.input_gradient(gradient, x) if ctx.needs_input_grad[0] else None,
            gradient if ctx.has_residual else None,
            None,
        )


class TrainedConvolution(nn.Module):
    """A convolution without bias whose weights are in training."""

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        self.convolution = convolution

    def forward(self, x: Tensor) -> Tensor:
        dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
        if self.convolution.bias is None and _is_small(x.shape, dtype):
            return _Trained.apply(x.to(dtype), self.convolution.weight.to(dtype))
        return self.convolution(x)


class _Trained(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _convolve(x, _FORMS[x.dtype][0](weight), None)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor]:
        x, weight = ctx.saved_tensors
        at_x = _convolve(gradient, _FORMS[x.dtype][0](_turned(weight)), None) if ctx.needs_input_grad[0] else None
        rows = gradient.permute(0, 2, 3, 1).reshape(-1, weight.shape[0])
        at_weight = (rows.t() @ _neighbours(x)).view(weight.shape[0], 3, 3, weight.shape[1]).permute(0, 3, 1, 2)
        return at_x, at_weight


def _relu_joins(convolution: nn.Conv2d, dtype: torch.dtype) -> bool:
    """Whether oneDNN does the convolution with its ReLU, and faster than the two apart. It has bfloat16 on processors
    with AVX-512 or AVX-NE-CONVERT only; PyTorch's own convolution, without a ReLU, has it on all."""
    known = dtype != torch.bfloat16 or torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return known and convolution.groups == 1 and convolution.in_channels >= _FEWEST_CHANNELS


def _where_positive(gradient: Tensor, out: Tensor) -> Tensor:
    """The gradient where out > 0, else 0. Positive floats are positive integers, and those need no conversion."""
    bits = _BITS[gradient.dtype]
    return torch.ops.aten.threshold_backward(gradient.view(bits), out.view(bits), 0).view(gradient.dtype)


class SmallMaps:
    """A 3x3 convolution of stride 1 on small maps, channels last: by Winograd's minimal filtering in float32 (Lavin and
    Gray, CVPR 2016), as one matrix product in bfloat16, whose rounding Winograd's differences would enlarge. Sums run
    in another order than oneDNN's."""

    def __init__(self, convolution: nn.Conv2d) -> None:
        self.convolution = convolution
        self.forget()

    @staticmethod
    def apply_to(convolution: nn.Conv2d) -> bool:
        """Whether the convolution can be done this way, on maps that are small enough."""
        return (
            convolution.kernel_size == (3, 3)
            and convolution.padding == convolution.stride == convolution.dilation == (1, 1)
            and convolution.groups == 1
            and convolution.padding_mode == "zeros"
            and min(convolution.in_channels, convolution.out_channels) >= _MANY_CHANNELS
        )

    def take(self, x: Tensor) -> bool:
        """Whether it pays on these maps (B, C, H, W)."""
        return _is_small(x.shape, x.dtype)

    def forget(self) -> None:
        """The weights have changed: what was made of them is made again when it is needed."""
        self._prepared: dict[bool, Tensor] = {}

    def __call__(self, x: Tensor) -> Tensor:
        """The convolution."""
        return self._apply(x, self.convolution.bias, transposed=False)

    def transposed(self, gradient: Tensor) -> Tensor:
        """The gradient of the input: the same with the kernel turned around."""
        return self._apply(gradient, None, transposed=True)

    def _apply(self, x: Tensor, bias: Tensor | None, transposed: bool) -> Tensor:
        if transposed not in self._prepared:
            weight = self.convolution.weight
            self._prepared[transposed] = _FORMS[x.dtype][0](_turned(weight) if transposed else weight)
        return _convolve(x, self._prepared[transposed], bias)


def _is_small(shape: torch.Size, dtype: torch.dtype) -> bool:
    height, width = shape[2:]
    even = height % 2 == width % 2 == 0 or dtype != torch.float32  # Winograd's tiles give two by two pixels
    return even and max(height, width) <= _SMALL_MAP[dtype]


def _turned(weight: Tensor) -> Tensor:
    """The kernel that takes the output's gradient to the input's."""
    return weight.flip(2, 3).transpose(0, 1)


def _convolve(x: Tensor, prepared: Tensor, bias: Tensor | None) -> Tensor:
    rows = _FORMS[x.dtype][1](x, prepared, bias)
    return rows.view(x.shape[0], x.shape[2], x.shape[3], rows.shape[1]).permute(0, 3, 1, 2)


def _product_weight(weight: Tensor) -> Tensor:
    """(D, C, 3, 3) to (9 C, D)."""
    return weight.permute(2, 3, 1, 0).reshape(-1, weight.shape[0])


def _product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """(B, C, H, W) to (B H W, D)."""
    rows = _neighbours(x)
    return rows @ weight if bias is None else torch.addmm(bias, rows, weight)


def _neighbours(x: Tensor) -> Tensor:
    """(B, C, H, W) to (B H W, 9 C): what each pixel and its neighbours hold."""
    batch, channels, height, width = x.shape
    windows = _windows(x, (batch, height, width, 3, 3), lambda image, row, pixel: (image, row, pixel, row, pixel))
    return windows.reshape(-1, 9 * channels)


# Winograd's F(2x2, 3x3) in one dimension: y = A [(G w) * (B x)], four products for two outputs instead of six. Its
# two-dimensional form is the Kronecker square.
_INPUT = torch.tensor([[1.0, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]])
_WEIGHT = torch.tensor([[1.0, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]])
_OUTPUT = torch.tensor([[1.0, 1, 1, 0], [0, 1, -1, -1]])
_INPUTS, _WEIGHTS, _OUTPUTS = (torch.kron(matrix, matrix) for matrix in (_INPUT, _WEIGHT, _OUTPUT))


def _winograd_weight(weight: Tensor) -> Tensor:
    """(D, C, 3, 3) to (16, C, D)."""
    nine = weight.permute(2, 3, 1, 0).reshape(9, -1)
    return (_WEIGHTS @ nine).view(16, weight.shape[1], weight.shape[0])


def _winograd(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """(B, C, H, W) of even size to (B H W, D), over overlapping tiles of 4x4 that give 2x2 each."""
    batch, channels, height, width = x.shape
    down, across = height // 2, width // 2
    tiles = _windows(
        x, (4, 4, batch, down, across), lambda image, row, pixel: (row, pixel, image, 2 * row, 2 * pixel)
    ).reshape(16, -1)
    products = torch.bmm((_INPUTS @ tiles).view(16, -1, channels), weight)
    squares = (_OUTPUTS @ products.view(16, -1)).view(2, 2, batch, down, across, weight.shape[2])
    rows = squares.permute(2, 3, 0, 4, 1, 5).reshape(batch * height * width, weight.shape[2])
    return rows if bias is None else rows.add_(bias)


_FORMS: dict[torch.dtype, tuple[Callable[[Tensor], Tensor], Callable[[Tensor, Tensor, Tensor | None], Tensor]]] = {
    torch.float32: (_winograd_weight, _winograd),
    torch.bfloat16: (_product_weight, _product),
}


def _windows(x: Tensor, shape: tuple[int, ...], strides: Callable[[int, int, int], tuple[int, ...]]) -> Tensor:
    """Overlapping windows of the map with a border of zeros, channels last: (*shape, C). `strides` of the shape's
    axes, from those of an image, a row and a pixel."""
    batch, channels, height, width = x.shape
    padded = x.new_zeros(batch, height + 2, width + 2, channels)
    padded[:, 1:-1, 1:-1] = x.permute(0, 2, 3, 1)
    image, row, pixel, channel = padded.stride()
    return padded.as_strided((*shape, channels), (*strides(image, row, pixel), channel))
