"""Typed hyper-parameters: frozen dataclasses whose fields know their range, read from plain YAML values."""

from __future__ import annotations

import dataclasses
import difflib
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, get_args, get_origin, get_type_hints

S = TypeVar("S", covariant=True)


class Declares(Protocol[S]):
    """A part whose class says `Settings = S`: type checkers know the names in its `settings`."""

    _settings: Any

    @property
    def Settings(self) -> type[S]: ...


@dataclass(frozen=True)
class NoSettings:
    """Of a method or policy without hyper-parameters."""


class SettingsError(ValueError):
    """A method, policy or hyper-parameter that cannot be used: one line, what is wrong and what is allowed."""


def setting(
    default: Any,
    help: str,
    *,
    low: float | None = None,
    high: float | None = None,
    choices: Iterable[str] | None = None,
    epoch: bool = False,
    example: Any = dataclasses.MISSING,
    introduced: Any = dataclasses.MISSING,
    classes: bool = False,
) -> Any:
    """A dataclass field with its meaning and its inclusive range. `epoch` marks a point in training: a fraction of it
    below 1, or a number of epochs. `example` shows how it is written where the default does not.
    `classes` marks a text of class indices.

    introduced: of a setting that came after specifications had been stored, the default it had then (a list for a
    tuple). Specifications leave it out at that value, so that it changes no trial's identity.
    """
    if epoch and introduced is not dataclasses.MISSING and introduced != resolve_epoch(introduced, 1_000_000):
        raise ValueError(f"a point in training is introduced as a number of epochs, not {introduced}")
    facts = {"help": help, "low": low, "high": high, "choices": tuple(choices) if choices else None, "epoch": epoch}
    facts |= {"classes": True} if classes else {}
    facts |= {} if example is dataclasses.MISSING else {"example": example}
    facts |= {} if introduced is dataclasses.MISSING else {"introduced": introduced}
    return dataclasses.field(default=default, metadata=facts)


YOURS = "; one of your own: --plugin FILE"  # what an unknown name of something that plugins declare is told


def unknown_name(what: str, name: object, allowed: Iterable[str], hint: str = "") -> SettingsError:
    """An error for a name that is not in the list, with the nearest ones."""
    names, name = sorted(allowed), str(name)[:100]
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    return SettingsError(
        f"unknown {what} '{name}': "
        + (f"did you mean {' or '.join(near)}?" if near else f"allowed: {', '.join(names) or 'none'}")
        + hint
    )


def registered(what: str, name: Any, table: Mapping[str, Any]) -> Any:
    """What a table has under a name; the error of `unknown_name` where the name is no text or not in it."""
    if not isinstance(name, str) or name not in table:
        raise unknown_name(what, name, table, YOURS)
    return table[name]


def read_settings(
    kind: type, values: Mapping[str, Any], where: str, epochs: int, num_classes: int | None = None
) -> dict[str, Any]:
    """Every field of the settings dataclass `kind` as plain values: defaults filled in, types and ranges checked,
    epochs resolved. num_classes: of the data, where it is known.

    Raises SettingsError that names `where` and the key.
    """
    fields = {field.name: field for field in dataclasses.fields(kind)}
    for key in values:
        if key not in fields:
            raise unknown_name(f"setting of {where}", key, fields)
    hints = get_type_hints(kind)
    resolved = {}
    for name, field in fields.items():
        value = _typed(values.get(name, field.default), hints[name], f"{where}: {name}")
        _check_range(value, field, f"{where}: {name}")
        if field.metadata.get("classes"):
            class_indices(value, f"{where}: {name}", num_classes)
        resolved[name] = _point(value, epochs, f"{where}: {name}") if field.metadata.get("epoch") else value
    return resolved


def read_values(defaults: Mapping[str, Any], values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Settings that are known by their defaults alone, filled in, each of its default's type. SettingsError that names
    `where` and the key."""
    for key in values:
        if key not in defaults:
            raise unknown_name(f"setting of {where}", key, defaults)
    return {
        key: _typed(values.get(key, default), type(default), f"{where}: {key}") for key, default in defaults.items()
    }


def class_indices(text: str, where: str, num_classes: int | None = None) -> list[int]:
    """The class indices in a text, separated by commas. SettingsError for anything else, and for those of no class."""
    parts = [part.strip() for part in text.split(",") if part.strip()]
    for part in parts:
        if not re.fullmatch("[0-9]{1,9}", part) or (num_classes is not None and int(part) >= num_classes):
            last = "" if num_classes is None else f" from 0 to {num_classes - 1}"
            raise SettingsError(f"{where}: '{part[:40]}' is not a class index{last}")
    return [int(part) for part in parts]


def introduced(kind: type) -> dict[str, Any]:
    """The settings of `kind` that specifications leave out, with the value that they stand at then."""
    fields = dataclasses.fields(kind)
    return {field.name: field.metadata["introduced"] for field in fields if "introduced" in field.metadata}


def resolve_epoch(value: float, epochs: int) -> int:
    """A point in training as a number of completed epochs: a fraction (below 1) of `epochs`, or that number itself."""
    return round(value * epochs) if 0 < value < 1 else int(value)


def _point(value: float, epochs: int, where: str) -> int:
    point = resolve_epoch(value, epochs)
    if point > epochs:
        raise SettingsError(
            f"{where}: epoch {point} is after the end of a training of {epochs} epochs; a fraction such as 0.7 moves "
            f"with the length"
        )
    return point


def _typed(value: Any, hint: Any, where: str) -> Any:
    if get_origin(hint) is tuple:
        parts = get_args(hint)
        if not isinstance(value, (list, tuple)) or len(value) != len(parts):
            raise SettingsError(f"{where} must be a list of {len(parts)} numbers, not {value!r}")
        return [_typed(item, part, where) for item, part in zip(value, parts, strict=True)]
    if hint is bool and isinstance(value, bool):
        return value
    if hint is str and isinstance(value, str):
        return value
    if hint is float and isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
        return float(value)
    if hint is int and isinstance(value, int) and not isinstance(value, bool):
        return value
    raise SettingsError(f"{where} must be a {getattr(hint, '__name__', hint)}, not {value!r}")


def _check_range(value: Any, field: dataclasses.Field[Any], where: str) -> None:
    choices, low, high = (field.metadata.get(key) for key in ("choices", "low", "high"))
    if choices and value not in choices:
        raise unknown_name(where.replace(": ", " "), value, choices)
    for item in value if isinstance(value, list) else [value]:
        if (low is not None and item < low) or (high is not None and item > high):
            limits = (
                f"at least {low}"
                if high is None
                else f"between {low} and {high}"
                if low is not None
                else f"at most {high}"
            )
            raise SettingsError(f"{where} must be {limits}, not {value}")
    if isinstance(value, list) and value != sorted(value):
        raise SettingsError(f"{where} must be a rising list, not {value}")
