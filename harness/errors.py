"""The user's mistakes, told in one line."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """Something the user wrote cannot be used: what is wrong, where, what is allowed. The command exits with 2."""


def unknown(what: str, name: object, allowed: Iterable[str]) -> InputError:
    """An InputError for a name that is not in a list: the nearest valid names, or all of them where few are or none
    is near."""
    names = sorted(allowed)
    near = difflib.get_close_matches(str(name), names, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    if not near or len(names) <= 4:
        hint += f"allowed: {', '.join(names)}"
    hint = hint.strip()
    return InputError(f"unknown {what} '{name}': {hint}")
