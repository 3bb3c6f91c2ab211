"""Networks that know nothing of this package: what makes them fit, and what is seen to before one is trained."""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from harness.engine.forwards import FoldedTwin, PlainForward, mode, training_forward
from harness.errors import InputError, unknown
from harness.models.layers import Network
from harness.seeds import globally_seeded

_IMAGES = 4
_SAME = 1e-3  # of the largest logit, how far two forms of one network may be apart
_NOISE = 0.05  # on weights of which all are zero, as of a last layer that is to begin with even odds


class Outside(Network):
    """A module behind a normalisation. Its checkpoints are the module's own: no name gets a prefix."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> Tensor:
        return self.module(self.normalise(x))

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        return self.module.state_dict(*args, **kwargs)

    def load_state_dict(self, state_dict: Any, *args: Any, **kwargs: Any) -> Any:
        return self.module.load_state_dict(state_dict, *args, **kwargs)


def of_torchvision(in_channels: int, num_classes: int, *, name: str) -> nn.Module:
    """A classifier of torchvision, with new weights. InputError for a name that it does not have, and for images of
    other than three channels."""
    import torchvision.models

    names = torchvision.models.list_models(module=torchvision.models)
    if name not in names:
        raise unknown("network of torchvision", name, names)
    if in_channels != 3:
        raise InputError(f"model torchvision:{name} takes images of 3 channels, the data has {in_channels}")
    return torchvision.models.get_model(name, weights=None, num_classes=num_classes)


def check_network(
    network: nn.Module, where: str, shape: tuple[int, ...], num_classes: int, engine: str, *, bfloat16: bool = False
) -> None:
    """Try a network on random images of a shape (C, H, W). InputError, `where` in it, where it raises, where its logits
    are of another shape or not finite, where no gradient reaches the images, and where the engine's form of it answers
    otherwise than the network itself. bfloat16: the fast form is asked for in that too."""
    if any(is_lazy(parameter) for parameter in network.parameters()):  # has no weights to seed, copy or average yet
        raise InputError(f"{where} has lazy parameters (as of nn.LazyLinear), which have no shape before it runs")
    try:
        with globally_seeded("network check"):
            images = torch.rand(_IMAGES, *shape)
            _try(copy.deepcopy(network), where, images, num_classes, engine)
            if engine == "fast" and bfloat16:
                _try_bfloat16(network, where, images, num_classes)
    except InputError:
        raise
    except Exception as error:  # a user's network may fail in any way
        raise InputError(f"{where} fails on {_IMAGES} images of {tuple(shape)}: {_said(error)}") from error


def _try(network: nn.Module, where: str, images: Tensor, num_classes: int, engine: str) -> None:
    plain = PlainForward(network)
    with torch.no_grad():
        _check_logits(plain(images), where, num_classes)
        for parameter in network.parameters():
            if not parameter.any():
                parameter.normal_(0, _NOISE)
    point = images.clone().requires_grad_()
    logits = plain(point)
    if not logits.requires_grad:
        raise InputError(f"{where} gives no gradient to its images, which attacks need")
    loss = F.cross_entropy(logits, torch.arange(len(images)) % num_classes)
    gradient = torch.autograd.grad(loss, point, allow_unused=True)[0]
    if gradient is None or not gradient.flatten(1).any(1).all():
        raise InputError(f"{where} ignores its input: no gradient reaches the images, which attacks need")
    if not gradient.isfinite().all():
        raise InputError(f"{where} has gradients that are not finite")
    if engine == "fast":
        with torch.no_grad():
            _check_same(FoldedTwin(network)(images), plain(images), where, "evaluation")
    with mode(network, training=True), torch.no_grad():
        fast = _drawn_alike(training_forward(copy.deepcopy(network), engine), images)
        own = _drawn_alike(network, images)
        _check_logits(own, where, num_classes)
        _check_same(fast, own, where, "training")


def _try_bfloat16(network: nn.Module, where: str, images: Tensor, num_classes: int) -> None:
    point = images.requires_grad_()
    try:
        logits = FoldedTwin(network, torch.bfloat16)(point)
        torch.autograd.grad(logits.sum(), point)
    except Exception as error:
        raise InputError(
            f"{where} fails in bfloat16: {_said(error)}; a tensor of its own is cast with it where it is a buffer "
            "(register_buffer) or a parameter; or ask for float32: precision, gradient_precision"
        ) from error
    _check_logits(logits, f"{where}, in bfloat16,", num_classes)


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"


def _drawn_alike(form: nn.Module, images: Tensor) -> Tensor:
    with globally_seeded("network check", "dropout"):
        return form(images)


def _check_logits(logits: object, where: str, num_classes: int) -> None:
    wanted = (_IMAGES, num_classes)
    if not isinstance(logits, Tensor):
        raise InputError(f"{where} must give logits {wanted} for {_IMAGES} images, not a {type(logits).__name__}")
    if logits.shape != wanted or not logits.is_floating_point():
        kind = str(logits.dtype).removeprefix("torch.")
        raise InputError(f"{where} must give logits {wanted} for {_IMAGES} images, not {tuple(logits.shape)} {kind}")
    if not logits.isfinite().all():
        raise InputError(f"{where} gives logits that are not finite for random images, with its first weights")


def _check_same(fast: Tensor, plain: Tensor, where: str, when: str) -> None:
    apart = float((fast - plain).abs().max() / plain.abs().max().clamp_min(1))
    if not apart <= _SAME:
        raise InputError(
            f"{where}: in {when} its fast form gives logits that are {apart:.2g} apart from its own: engine: plain"
        )
