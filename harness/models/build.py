"""A network by name."""

from __future__ import annotations

import pkgutil
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from harness.errors import InputError
from harness.models.layers import Network
from harness.models.outside import Outside
from harness.models.registry import ModelInfo, model_info, resolve_params


def build(
    name: str,
    params: Mapping[str, object],
    *,
    in_channels: int,
    num_classes: int,
    image_size: int | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> Network:
    """A new network: images (B, in_channels, H, W) in [0, 1] to logits (B, num_classes).

    Its weights are drawn from torch's default generator, which the caller seeds.
    image_size: H and W, for networks that fit one size only.
    mean, std: the normalisation inside it, one number per channel, pixel scale [0, 1]; both None for none.
    InputError for a wrong name, setting or normalisation.
    """
    info = model_info(name)
    later = info.introduced  # where params leave them out
    resolved = {**later, **resolve_params(name, {**later, **params}), **info.called_with}
    if (mean is None) != (std is None):
        raise InputError(f"model {name}: normalisation needs both mean and std")
    size = {"image_size": image_size} if info.sized else {}
    made = _made(info, in_channels, num_classes, **size, **resolved)
    network = made if isinstance(made, Network) else Outside(made)
    if mean is not None and std is not None:
        if len(mean) != in_channels or len(std) != in_channels or min(std) <= 0:
            raise InputError(
                f"model {name}: normalisation needs {in_channels} means and as many positive standard "
                f"deviations, not {list(mean)} and {list(std)}"
            )
        network.set_normalisation(mean, std)
    return network


def _made(info: ModelInfo, *arguments: Any, **settings: Any) -> nn.Module:
    """What the declaration's class or function gives. InputError where a foreign one raises, or gives no module."""
    try:
        made = pkgutil.resolve_name(info.network)(*arguments, **settings)
    except Exception as error:  # a user's function may fail in any way
        if isinstance(error, InputError) or not info.foreign:
            raise
        raise InputError(f"{info.where}: {type(error).__name__}: {(str(error).splitlines() or [''])[0]}") from error
    if info.foreign and not isinstance(made, nn.Module):
        raise InputError(f"{info.where} must give a torch.nn.Module, not a {type(made).__name__}")
    return made
