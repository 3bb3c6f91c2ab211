"""What an acceptance is made of: works, each of which answers some lines; a line is a figure and its threshold."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

_SIGNS: dict[str, Callable[[Any, Any], bool]] = {
    "<=": operator.le, ">=": operator.ge, ">": operator.gt, "==": operator.eq
}  # fmt: skip


class NotRun(Exception):
    """A work cannot be done here; why."""


@dataclass(frozen=True)
class Threshold:
    """What a figure must be: `<= 0.01`. NaN is nothing that it must be."""

    sign: str
    limit: float | str

    def holds(self, value: Any) -> bool:
        return bool(_SIGNS[self.sign](value, self.limit))

    def __str__(self) -> str:
        return f"{self.sign} {self.limit:g}" if isinstance(self.limit, float) else f"{self.sign} {self.limit}"


@dataclass(frozen=True)
class Work:
    """One piece of work. lines: what it answers, each with its threshold, None for a figure to note. measure: the
    figures by line; raises NotRun where there can be none, anything else where something is wrong."""

    lines: Mapping[str, Threshold | None]
    measure: Callable[[], Mapping[str, Any]]


@dataclass(frozen=True)
class Setting:
    """Where the acceptance runs. folder: for all that it leaves. tiny: as small as it gets, and any speed will do.
    data: the given images."""

    device: torch.device
    folder: Path
    tiny: bool = False
    data: Path | None = None

    def speed(self, sign: str, limit: float) -> Threshold:
        """A threshold of a figure that tells of speed."""
        return Threshold(">", 0.0) if self.tiny else Threshold(sign, limit)

    def synchronize(self) -> None:
        """Wait for the GPU, if there is one."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
