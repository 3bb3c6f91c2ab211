"""The user's mistakes, told in one line."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable
from typing import Any

_LONGEST_NAME = 100  # characters that are compared with the valid names


class InputError(ValueError):
    """Something the user wrote cannot be used: what is wrong, where, what is allowed. The command exits with 2."""


class InfrastructureError(RuntimeError):
    """The process that a trial runs in is not what was planned; another one may do."""


def unknown(what: str, name: object, allowed: Iterable[str]) -> InputError:
    """An InputError for a name that is not in a list: the nearest valid names, or all of them where few are or none
    is near."""
    names, name = sorted(allowed), str(name)[:_LONGEST_NAME]
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    if not near or len(names) <= 4:
        hint += f"allowed: {', '.join(names)}"
    hint = hint.strip()
    return InputError(f"unknown {what} '{name}': {hint}")


def one_of(what: str, name: Any, allowed: Collection[str]) -> Any:
    """The name, where it is text and among those allowed; else the InputError of `unknown`."""
    if not isinstance(name, str) or name not in allowed:
        raise unknown(what, name, allowed)
    return name


def named(what: str, names: Iterable[str], entries: Iterable[tuple[str, str]]) -> dict[int, None]:
    """Positions of the entries (variant, method) that some names mean, in the order of the names: a variant's exact
    name means that variant alone, a method's name all its variants. InputError for a name that means none."""
    listed = list(entries)
    found: dict[int, None] = {}
    for name in names:
        meant = [place for place, (variant, _) in enumerate(listed) if variant == name]
        meant = meant or [place for place, (_, method) in enumerate(listed) if method == name]
        if not meant:
            raise unknown(what, name, {each for entry in listed for each in entry})
        found.update(dict.fromkeys(meant))
    return found
