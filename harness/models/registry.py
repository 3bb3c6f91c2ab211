"""The networks by name, and their settings. Free of torch, for `list` and plans."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from harness.errors import InputError, one_of, unknown
from methods import plugins
from methods.settings import YOURS, read_values

AnyPart = TypeVar("AnyPart", bound=plugins.Part)
Setting = int | bool | float | str

LARGEST = 1024  # of a width or a depth: sixteen times the widest in use
_WIDTH = "channels of the first stage"


def _any(params: Mapping[str, Any]) -> str | None:
    return None


def _wide_depth(params: Mapping[str, Any]) -> str | None:
    depth = params["depth"]
    return None if depth >= 10 and depth % 6 == 4 else f"depth must be 6n+4 (10, 16, 22, 28, 34, ...), not {depth}"


def _heads(params: Mapping[str, Any]) -> str | None:
    width, heads = params["width"], params["heads"]
    return f"width must be a multiple of the {heads} heads, not {width}" if width % heads else None


@dataclass(frozen=True)
class ModelInfo:
    """One network; `params` are its settings with their defaults
    (whole numbers of at least 1, or true/false; of a plugin's also other numbers and text).

    meanings: what each of them is.
    network: `module:name` of what gives a module, called with channels, number of classes and settings; sized: and with
        `image_size`, the pixels of a side; called_with: and with these. Images may lie in memory channels last:
        `reshape` or `flatten`, not `view`. A module that is no `Network` gets its normalisation put before it.
    fault: what is wrong with settings that are in range each by itself; None for nothing.
    introduced: of settings that came after specifications had been stored, the default they had then. Specifications
    leave them out at that value, so that a new setting changes neither identity nor name.
    """

    name: str
    description: str
    network: str
    params: dict[str, Setting] = field(default_factory=dict)
    meanings: dict[str, str] = field(default_factory=dict)
    sized: bool = False
    fault: Callable[[Mapping[str, Any]], str | None] = _any
    introduced: dict[str, Setting] = field(default_factory=dict)
    called_with: dict[str, str] = field(default_factory=dict)

    @property
    def foreign(self) -> bool:
        """Whether it is not this package's own, and seen to be a network only once it is built."""
        return bool(self.called_with) or not self.network.startswith("harness.")

    @property
    def where(self) -> str:
        """What messages call it; one of a plugin with its file."""
        file = "" if self.network.startswith("harness.") else f"{plugins.file_of(self.network)}: "
        return f"{file}model {self.name}"


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
    ModelInfo(
        "dm_wrn",
        "DeepMind's Wide ResNet, depth 6n+4, in the layout of its checkpoints and of many in RobustBench",
        "harness.models.dm_wrn:DMWideResNet",
        {"depth": 28, "widen": 10, "silu": True},
        {
            "depth": "layers, 6n+4: 28, 34, 70, 106, ...",
            "widen": "channels of the first stage over 16",
            "silu": "SiLU (Swish), as the files say that have `swish` in their names, or ReLU",
        },
        fault=_wide_depth,
    ),
    ModelInfo(
        "resnet56",
        "ResNet-56 for CIFAR, in the layout of pytorch-cifar-models",
        "harness.models.resnet:ResNet56",
        {"width": 16},
        {"width": _WIDTH},
    ),
    ModelInfo(
        "vit",
        "small vision transformer, patches of 4 pixels; without batch norms, so that nothing is folded",
        "harness.models.vit:ViT",
        {"width": 192, "depth": 6, "heads": 3},
        {"width": "channels of a token", "depth": "blocks", "heads": "of attention, which share the width"},
        sized=True,
        fault=_heads,
    ),
)

MODELS: dict[str, ModelInfo] = {info.name: info for info in _ALL}


_OF_TORCHVISION = "torchvision:"
_IN_FILE = re.compile(r"(?P<file>.*\.py):(?P<function>[A-Za-z_]\w*)", re.DOTALL)


def network(name: str, description: str = "") -> Callable[[AnyPart], AnyPart]:
    """Decorator of a plugin: a function `(in_channels, num_classes, image_size, ...)`, or a class, that gives a module
    from images (B, in_channels, H, W) in [0, 1] to logits (B, num_classes). Its other parameters are settings, of the
    type of their defaults; without `image_size` it takes images of any size."""

    def add(part: AnyPart) -> AnyPart:
        plugins.declare("network", MODELS, name, _declared(name, part, description), part)
        return part

    return add


def _declared(name: str, part: Any, description: str = "") -> ModelInfo:
    where = f"network {name}"
    if not callable(part) or not hasattr(part, "__qualname__"):
        raise InputError(f"{where} is no function that gives a module, but a {type(part).__name__}")
    sized = "image_size" in inspect.signature(part).parameters
    given = ("in_channels", "num_classes", *(["image_size"] if sized else []))
    params = plugins.settings_of(part, given, where)
    plugins.remember(part)  # a file may hand on what another defines
    return ModelInfo(
        name, description or plugins.summary(part), plugins.place_of(part), params, dict.fromkeys(params, ""), sized
    )


def model_info(name: object, what: str = "model") -> ModelInfo:
    """The declaration of a network: of `MODELS`, `torchvision:NAME` for a classifier of torchvision, or
    `FILE.py:FUNCTION` for one of a plugin's file that is loaded. InputError, with `what` in it, for any other name."""
    if isinstance(name, str) and name.startswith(_OF_TORCHVISION):
        called = name.removeprefix(_OF_TORCHVISION)
        place = "harness.models.outside:of_torchvision"
        return ModelInfo(name, "torchvision's, with new weights", place, called_with={"name": called})
    if isinstance(name, str) and _IN_FILE.fullmatch(name):
        return _declared(name, plugins.in_file(name))
    also = f"{YOURS}, {_OF_TORCHVISION}NAME or FILE.py:FUNCTION"
    return MODELS[one_of(what, name, MODELS, also)]


def in_folder(name: object, folder: Path) -> object:
    """`mine.py:build` with the path of its file in full, taken from `folder`; any other name as it is."""
    found = _IN_FILE.fullmatch(name) if isinstance(name, str) else None
    return f"{folder.absolute() / Path(found['file']).expanduser()}:{found['function']}" if found else name


def in_loaded_file(name: object) -> object:
    """`path/to/mine.py:build` as `mine.py:build`, by which `model_info` knows it: the file is loaded as a plugin, once
    per process. Any other name as it is."""
    found = _IN_FILE.fullmatch(name) if isinstance(name, str) else None
    if found is None:
        return name
    file, function = found.group("file", "function")
    if "/" in file or not any(path.endswith(f"/{file}") for path in plugins.loaded()):
        plugins.load_plugin(file)
    return f"{file.rpartition('/')[2]}:{function}"


def resolve_params(name: str, params: Mapping[str, object]) -> dict[str, Setting]:
    """The settings of a network, the given ones over the defaults, without those that stand as they were introduced.
    InputError for a wrong name, type or range."""
    info = model_info(name)
    if info.foreign and info.params:
        return read_values(info.params, params, f"model {name}")
    resolved = dict(info.params)
    for key, value in params.items():
        if key not in resolved:
            raise (
                unknown(f"setting of model {name}", key, resolved)
                if resolved
                else InputError(f"model {name} has no settings, so no '{key}'")
            )
        resolved[key] = _checked(name, key, value, wants_bool=isinstance(resolved[key], bool))
    if fault := info.fault(resolved):
        raise InputError(f"model {name}: {fault}")
    later = info.introduced
    return {key: value for key, value in resolved.items() if key not in later or value != later[key]}


def _checked(name: str, key: str, value: object, wants_bool: bool) -> int | bool:
    if wants_bool:
        if not isinstance(value, bool):
            raise InputError(f"model {name}: {key} must be true or false, not {value!r}")
        return value
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= LARGEST:
        raise InputError(f"model {name}: {key} must be a whole number of at least 1, {LARGEST} at most, not {value!r}")
    return value
