"""Small records beside the tables of a store: what its suites registered, what machine it was planned for."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from harness.errors import InputError
from harness.files import write_bytes

COMPARISONS_FILE = "primary.json"
MACHINE_FILE = "machine.json"


def registered(root: Path) -> dict[str, Any]:
    """The comparisons that suites have registered in the store at `root`, by the suite's name."""
    return recorded(root / COMPARISONS_FILE, "registered comparisons")


def save_registered(root: Path, found: Mapping[str, Any]) -> None:
    write_bytes(root / COMPARISONS_FILE, json.dumps(found, indent=1).encode())


def adopt_comparisons(sources: Iterable[Path], root: Path) -> None:
    """Add what other stores have registered to the store at `root`; what it has itself stays."""
    if missing := new_comparisons(sources, root):
        save_registered(root, {**missing, **registered(root)})


def new_comparisons(sources: Iterable[Path], root: Path) -> dict[str, Any]:
    """What other stores have registered and the one at `root` has not; of one suite, what the first of them has."""
    known, found = registered(root), dict[str, Any]()
    for source in sources:
        found = {**registered(source), **found}
    return {suite: comparisons for suite, comparisons in found.items() if suite not in known}


def recorded(path: Path, what: str) -> dict[str, Any]:
    """A small record that stands beside the tables of a store; empty where there is none."""
    try:
        known = json.loads(path.read_text())
        if not isinstance(known, dict):
            raise ValueError("not a mapping")
        return known
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is damaged; it records {what} ({error})") from error
