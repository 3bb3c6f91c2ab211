"""Reading a golden file, the tiny networks of its entries, and keeping account of what was compared."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

FILES = [Path(__file__).parent / name for name in ("golden.json", "golden_field.json", "golden_at_bsl.json")]


def read_entries() -> list[dict[str, Any]]:
    """The entries of all files, or of the one that GOLDEN_JSON names, arrays as tensors.

    Floating-point arrays come in float64, in which the tiny networks compute too. So an entry's tolerance is for the
    rounding of the code that made it; none is left to the processor that compares.
    """
    named = os.environ.get("GOLDEN_JSON")
    return [entry for path in ([Path(named)] if named else FILES) for entry in read_file(path)]


def read_file(path: Path) -> list[dict[str, Any]]:
    """The entries of one file."""
    content = json.loads(path.read_text())
    assert content["format"] == 2, f"unknown format {content['format']}"
    return [_decoded(entry) for entry in content["entries"]]


def _decoded(value: Any) -> Any:
    if isinstance(value, dict) and set(value) == {"dtype", "shape", "data"}:
        tensor = torch.tensor(_numbers(value["data"]), dtype=getattr(torch, value["dtype"])).reshape(value["shape"])
        return tensor.double() if tensor.is_floating_point() else tensor
    if isinstance(value, dict):
        return {key: _decoded(item) for key, item in value.items()}
    return value


def _numbers(data: Any) -> Any:
    """NaN and infinities are written as strings."""
    if isinstance(data, list):
        return [_numbers(item) for item in data]
    return float(data) if isinstance(data, str) else data


class Entry:
    """One entry, its inputs on the device that computes, and which of its outputs were compared so far."""

    def __init__(self, content: Mapping[str, Any], device: str) -> None:
        self.check: str = content["check"]
        self.device = torch.device(device)
        self.inputs: dict[str, Any] = tree_map_only(Tensor, lambda value: value.to(device), content["inputs"])
        self.outputs: dict[str, Any] = content["outputs"]
        self.settings: dict[str, Any] = content.get("settings") or {}
        self.rtol, self.atol = content["tolerance"]["rtol"], content["tolerance"]["atol"]
        self.compared: dict[str, str] = {}

    def close(self, key: str, value: Any, where: Tensor | None = None) -> None:
        """Compare an output, by its dotted path, with what the project computes. where: only these elements."""
        expected = self._output(key)
        if isinstance(expected, dict):
            for name in expected:
                self.close(f"{key}.{name}", value[name], where)
            return
        if isinstance(expected, (str, bool)) or (
            isinstance(expected, list) and expected and isinstance(expected[0], str)
        ):
            assert value == expected, f"{key}: {value} instead of {expected}"
        else:
            wanted = torch.as_tensor(expected, dtype=torch.float64)
            found = torch.as_tensor(value).detach().cpu().to(torch.float64)
            if where is not None:
                wanted, found = wanted[where.cpu()], found[where.cpu()]
            torch.testing.assert_close(
                found, wanted, rtol=self.rtol, atol=self.atol, equal_nan=True, msg=lambda text: f"{key}: {text}"
            )
        self.compared[key] = "compared"

    def stated(self, key: str, holds: bool, section: str) -> None:
        """An output that documents a defect: our own behaviour, as the reference sheet's section states it, is
        asserted instead."""
        assert holds, f"{key}: not what section {section} states"
        self._output(key)
        self.compared[key] = f"stated behaviour, section {section}"

    def skipped(self) -> list[str]:
        """Outputs that nothing was compared with."""
        return [key for key in _paths(self.outputs) if key not in self.compared]

    def _output(self, key: str) -> Any:
        value: Any = self.outputs
        for name in _split(self.outputs, key):
            value = value[name]
        return value


def _paths(value: Any, prefix: str = "") -> Iterator[str]:
    for key, item in value.items():
        if isinstance(item, dict) and item:
            yield from _paths(item, f"{prefix}{key}.")
        elif not isinstance(item, dict):
            yield prefix + key


def _split(outputs: Mapping[str, Any], path: str) -> list[str]:
    """The keys of a dotted path; keys may hold dots themselves (`state_after.conv.weight`)."""
    if path in outputs:
        return [path]
    for key, item in outputs.items():
        if path.startswith(f"{key}.") and isinstance(item, dict):
            return [key, *_split(item, path[len(key) + 1 :])]
    raise KeyError(path)


class Recorded(nn.Module):
    """A network that keeps a log of its forwards: mode, images, logits, and its state right after."""

    def __init__(self) -> None:
        super().__init__()
        self.log: list[dict[str, Any]] = []

    def forward(self, x: Tensor) -> Tensor:
        logits = self.logits(x)
        state = {name: value.detach().clone() for name, value in self.state_dict().items()}
        mode = "train" if self.training else "eval"
        self.log.append({"mode": mode, "x": x.detach().clone(), "logits": logits.detach().clone(), "state": state})
        return logits

    def logits(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    @property
    def modes(self) -> list[str]:
        return [record["mode"] for record in self.log]


class TinyConv(Recorded):
    """conv 3x3 - batch norm - tanh - linear, of the shapes in its state; normalises its input where a mean is given."""

    def __init__(self, state: Mapping[str, Tensor], mean: Tensor | None = None, std: Tensor | None = None) -> None:
        super().__init__()
        out, channels = state["conv.weight"].shape[:2]
        self.conv = nn.Conv2d(channels, out, 3, padding=1)
        self.bn = nn.BatchNorm2d(out)
        self.fc = nn.Linear(state["fc.weight"].shape[1], len(state["fc.bias"]))
        self.mean, self.std = mean, std
        missing, unexpected = self.load_state_dict(dict(state), strict=False)
        assert missing in ([], ["bn.num_batches_tracked"])
        assert not unexpected

    def normalised(self, x: Tensor) -> Tensor:
        return x if self.mean is None else (x - self.mean) / self.std

    def logits(self, x: Tensor) -> Tensor:
        return self.fc(torch.tanh(self.bn(self.conv(self.normalised(x)))).flatten(1))


class Linear(Recorded):
    """W flatten(x) + b."""

    def __init__(self, state: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.fc = nn.Linear(state["fc.weight"].shape[1], len(state["fc.bias"]))
        self.load_state_dict(dict(state))

    def logits(self, x: Tensor) -> Tensor:
        return self.fc(x.flatten(1))


class Constant(nn.Module):
    """A teacher whose logits (B, C) are given, whatever it is shown."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.answer = logits

    def forward(self, x: Tensor) -> Tensor:
        return self.answer


def tiny_network(arch: str, state: Mapping[str, Tensor], source: Mapping[str, Any] | None = None) -> Any:
    """The network that an entry's arch text names. source: where `input_mean` and `input_std` may be."""
    device = state["fc.bias"].device
    if arch.startswith("linear"):
        return Linear(state).double().to(device)
    assert arch.startswith("tinyconv: conv2d("), f"unknown architecture {arch}"
    if source and "input_mean" in source:
        mean, std = (torch.tensor(source[key]).view(1, -1, 1, 1).to(device) for key in ("input_mean", "input_std"))
        return TinyConv(state, mean, std).double().to(device)
    return TinyConv(state).double().to(device)


def gradients(loss: Tensor, **leaves: Tensor) -> dict[str, Tensor]:
    """The gradient of a loss for each leaf, zero where it does not depend on it."""
    found = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
    return {
        name: torch.zeros_like(leaf) if grad is None else grad
        for (name, leaf), grad in zip(leaves.items(), found, strict=True)
    }


Check = Callable[[Entry], None]
CHECKS: list[tuple[re.Pattern[str], Check]] = []


def check(pattern: str) -> Callable[[Check], Check]:
    """Register a function for every `check` that the pattern matches in full."""

    def add(function: Check) -> Check:
        CHECKS.append((re.compile(pattern), function))
        return function

    return add
