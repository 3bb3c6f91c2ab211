"""Fast forwards: a folded twin of a network, memory layout and precision. The plain network stays the reference that
tests compare with."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import symbolic_trace
from torch.nn.modules.batchnorm import _BatchNorm

from harness.engine.convolution import FusedConvolution, fuse, trained
from harness.engine.recorded import Recorder

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def is_traceable(model: nn.Module) -> bool:
    """Whether torch.fx can follow the forward: it cannot where that asks what the images are like."""
    try:
        symbolic_trace(model)
    except Exception:  # the stand-ins for tensors make a forward raise almost anything
        return False
    return True


def foldable_pairs(model: nn.Module) -> list[tuple[str, str]]:
    """(convolution, batch norm) pairs by module name, where the norm is the only reader of the convolution's output.
    Pre-activation norms follow an addition and do not fold. Raises whatever torch.fx raises for a network it cannot
    trace."""
    modules = dict(model.named_modules())
    pairs = []
    for node in symbolic_trace(model).graph.nodes:
        if node.op != "call_module" or not isinstance(modules[node.target], nn.BatchNorm2d):
            continue
        source = node.args[0]
        norm: Any = modules[node.target]
        if not (norm.affine and norm.track_running_stats):
            continue
        if source.op == "call_module" and isinstance(modules[source.target], nn.Conv2d) and len(source.users) == 1:
            pairs.append((str(source.target), str(node.target)))
    return pairs


class FoldedTwin:
    """The evaluation-mode network with its batch norms folded into the convolutions before them, in one dtype,
    channels last, frozen. Of a network that torch.fx cannot trace nothing is folded.

    Built once; `refresh()` copies the live weights in. Calling it on images (B, C, H, W) float32 gives logits (B, K)
    float32, with gradients to the images only. recorded: on a GPU, attacks on it are done from recordings; for batches
    of few sizes.
    """

    def __init__(self, model: nn.Module, dtype: torch.dtype = torch.float32, recorded: bool = False) -> None:
        self.live = model
        self.dtype = dtype
        self.traceable = is_traceable(model)
        self.pairs = foldable_pairs(model) if self.traceable else []
        self.norms = sum(isinstance(module, nn.BatchNorm2d) for module in model.modules())
        self.twin = copy.deepcopy(model).eval().requires_grad_(False)
        for conv, norm in self.pairs:
            module = self.twin.get_submodule(conv)
            if module.bias is None:
                module.bias = nn.Parameter(
                    torch.zeros(module.out_channels, device=module.weight.device), requires_grad=False
                )
            _replace(self.twin, norm, nn.Identity())
        self.twin.to(dtype).to(memory_format=torch.channels_last)
        self.forward = fuse(self.twin) if self.traceable and _fuses(self.twin) else self.twin
        self._plan_copies()
        self.recorder = Recorder() if recorded and self.on_gpu else None
        self.refresh()

    @property
    def description(self) -> str:
        """What was folded: `6 of 6 batch norms folded`."""
        if not self.traceable:
            return "nothing folded, since torch.fx cannot trace the network"
        if not self.norms:
            return "nothing folded, since the network has no batch norms"
        return f"{len(self.pairs)} of {self.norms} batch norms folded"

    def _plan_copies(self) -> None:
        live = dict(self.live.named_parameters()) | dict(self.live.named_buffers())
        twin = dict(self.twin.named_parameters()) | dict(self.twin.named_buffers())
        folded = {f"{conv}.{kind}" for conv, _ in self.pairs for kind in ("weight", "bias")}
        self.on_gpu = any(tensor.is_cuda for tensor in live.values())
        self.plain_copies = [(twin[name], live[name]) for name in twin if name not in folded]
        self.folds: list[tuple[Any, Any, Any]] = [
            (self.twin.get_submodule(conv), self.live.get_submodule(conv), self.live.get_submodule(norm))
            for conv, norm in self.pairs
        ]
        self.fused = [layer for layer in self.forward.modules() if isinstance(layer, FusedConvolution)]

    @torch.no_grad()
    def refresh(self) -> None:
        """Take the live network's weights and running statistics."""
        if self.on_gpu:
            self._take_together()
        else:
            self._take_in_turn()
        for layer in self.fused:
            layer.refresh()

    def _take_in_turn(self) -> None:
        for target, source in self.plain_copies:
            target.copy_(source)
        for target, conv, norm in self.folds:
            scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
            shift = norm.bias - norm.running_mean * scale
            target.weight.copy_(conv.weight * scale.view(-1, 1, 1, 1))
            target.bias.copy_(shift if conv.bias is None else shift + conv.bias * scale)

    def _take_together(self) -> None:
        """The same, an operation of all layers at a time: a GPU is told of few."""
        if self.plain_copies:
            targets, sources = zip(*self.plain_copies, strict=True)
            torch._foreach_copy_(targets, sources)
        if not self.folds:
            return
        twins, convs, norms = zip(*self.folds, strict=True)
        scales = torch._foreach_add([norm.running_var for norm in norms], [norm.eps for norm in norms])
        scales = torch._foreach_mul([norm.weight for norm in norms], torch._foreach_rsqrt(scales))
        shifts = torch._foreach_mul([norm.running_mean for norm in norms], scales)
        shifts = torch._foreach_sub([norm.bias for norm in norms], shifts)
        each = list(zip(convs, scales, shifts, strict=True))
        weights = [conv.weight * scale.view(-1, 1, 1, 1) for conv, scale, _ in each]
        biases = [shift if conv.bias is None else shift + conv.bias * scale for conv, scale, shift in each]
        torch._foreach_copy_([twin.weight for twin in twins], weights)
        torch._foreach_copy_([twin.bias for twin in twins], biases)

    def __call__(self, images: Tensor) -> Tensor:
        return self.forward(images.to(dtype=self.dtype, memory_format=torch.channels_last)).float()


class PlainForward:
    """The live network as it stands, in evaluation mode: the form of the papers' scripts."""

    description = "plain: batch norms in the graph"
    recorder: Recorder | None = None

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def refresh(self) -> None:
        """Nothing to copy: it is the live network."""

    def __call__(self, images: Tensor) -> Tensor:
        with mode(self.model, training=False):
            return self.model(images)


def evaluation_forward(
    model: nn.Module, engine: str, precision: str = "float32", recorded: bool = False
) -> FoldedTwin | PlainForward:
    """The network as a function of images, in evaluation mode: folded (`fast`), or as it is (`plain`)."""
    return FoldedTwin(model, DTYPES[precision], recorded) if engine == "fast" else PlainForward(model)


def training_forward(model: nn.Module, engine: str) -> nn.Module:
    """The network as the update runs it: with its weights in training, and faster where `fast` knows how."""
    return trained(model) if engine == "fast" and _fuses(model) and is_traceable(model) else model


def update_precision(device: torch.device, precision: str) -> AbstractContextManager[object]:
    """Autocast for the update's forwards; master weights stay float32."""
    return nullcontext() if precision == "float32" else torch.autocast(device.type, dtype=DTYPES[precision])


@contextmanager
def mode(model: nn.Module, training: bool) -> Iterator[None]:
    """Put every module into one mode and give each its own back."""
    before = {module: module.training for module in model.modules()}
    if any(value != training for value in before.values()):
        model.train(training)
        try:
            yield
        finally:
            for module, value in before.items():
                module.training = value
    else:
        yield


@contextmanager
def statistics_kept(model: nn.Module) -> Iterator[None]:
    """In training mode, batch norms standardise by the batch as ever, and their running statistics stay as they are."""
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    tracking = [norm for norm in norms if norm.track_running_stats]
    for norm in tracking:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm in tracking:
            norm.track_running_stats = True


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """No gradients for the parameters: the attack needs the one of the images only."""
    wanted = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in wanted:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in wanted:
            parameter.requires_grad_(True)


def _fuses(network: nn.Module) -> bool:
    """Whether the processor's library has the fused convolutions; on GPUs cuDNN's own are used as they are."""
    on_cpu = all(parameter.device.type == "cpu" for parameter in network.parameters())
    return on_cpu and torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_convolution_pointwise")


def _replace(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)
