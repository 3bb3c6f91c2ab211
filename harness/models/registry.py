"""The networks by name, and their settings. Free of torch, for `list` and plans."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from harness.errors import InputError, one_of, unknown

LARGEST = 1024  # of a width or a depth: sixteen times the widest in use
_WIDTH = "channels of the first stage"


def _any(params: Mapping[str, Any]) -> str | None:
    return None


def _wide_depth(params: Mapping[str, Any]) -> str | None:
    depth = params["depth"]
    return None if depth >= 10 and depth % 6 == 4 else f"depth must be 6n+4 (10, 16, 22, 28, 34, ...), not {depth}"


@dataclass(frozen=True)
class ModelInfo:
    """One network; `params` are its settings with their defaults (whole numbers of at least 1, or true/false).

    meanings: what each of them is.
    network: `module:class`, a `Network`, called with channels, number of classes and settings; sized: and with
        `image_size`, the pixels of a side. Images may lie in memory channels last: `reshape` or `flatten`, not `view`.
    fault: what is wrong with settings that are in range each by itself; None for nothing.
    introduced: of settings that came after specifications had been stored, the default they had then. Specifications
    leave them out at that value, so that a new setting changes neither identity nor name.
    """

    name: str
    description: str
    network: str
    params: dict[str, int | bool] = field(default_factory=dict)
    meanings: dict[str, str] = field(default_factory=dict)
    sized: bool = False
    fault: Callable[[Mapping[str, Any]], str | None] = _any
    introduced: dict[str, int | bool] = field(default_factory=dict)


_ALL = (
    ModelInfo(
        "cnn",
        "three stages of two 3x3 convolutions with batch norm",
        "harness.models.cnn:CNN",
        {"width": 32},
        {"width": _WIDTH},
    ),
    ModelInfo(
        "resnet18",
        "ResNet-18 with the CIFAR stem",
        "harness.models.resnet:ResNet18",
        {"width": 64},
        {"width": _WIDTH},
    ),
    ModelInfo(
        "preact_resnet18",
        "pre-activation ResNet-18 with the CIFAR stem",
        "harness.models.resnet:PreActResNet18",
        {"width": 64, "final_norm": True},
        {"width": _WIDTH, "final_norm": "batch norm before pooling"},
    ),
    ModelInfo("mobilenet_v2", "MobileNetV2 with CIFAR strides", "harness.models.mobilenet:MobileNetV2"),
    ModelInfo(
        "wrn",
        "Wide ResNet, depth 6n+4, in the layout of TRADES' checkpoints",
        "harness.models.wrn:WideResNet",
        {"depth": 34, "widen": 10},
        {"depth": "layers, 6n+4: 10, 16, 22, 28, 34, ...", "widen": "channels of the first stage over 16"},
        fault=_wide_depth,
    ),
)

MODELS: dict[str, ModelInfo] = {info.name: info for info in _ALL}


def resolve_params(name: str, params: Mapping[str, object]) -> dict[str, int | bool]:
    """The settings of a network, the given ones over the defaults, without those that stand as they were introduced.
    InputError for a wrong name, type or range."""
    one_of("model", name, MODELS)
    resolved = dict(MODELS[name].params)
    for key, value in params.items():
        if key not in resolved:
            raise (
                unknown(f"setting of model {name}", key, resolved)
                if resolved
                else InputError(f"model {name} has no settings, so no '{key}'")
            )
        resolved[key] = _checked(name, key, value, wants_bool=isinstance(resolved[key], bool))
    if fault := MODELS[name].fault(resolved):
        raise InputError(f"model {name}: {fault}")
    later = MODELS[name].introduced
    return {key: value for key, value in resolved.items() if key not in later or value != later[key]}


def _checked(name: str, key: str, value: object, wants_bool: bool) -> int | bool:
    if wants_bool:
        if not isinstance(value, bool):
            raise InputError(f"model {name}: {key} must be true or false, not {value!r}")
        return value
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= LARGEST:
        raise InputError(f"model {name}: {key} must be a whole number of at least 1, {LARGEST} at most, not {value!r}")
    return value
