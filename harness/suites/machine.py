"""What a suite leaves to the machine (`precision: auto`, `threads: auto`): resolved once per store, kept there."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from harness.files import write_bytes
from harness.store.provenance import processor_precision
from harness.store.records import MACHINE_FILE, recorded
from harness.suites.suite import Suite

MACHINE = ("precision", "threads")  # what `auto` leaves to the machine

CountThreads = Callable[[Suite], int]


def for_this_machine(suite: Suite, root: Path, count_threads: CountThreads | None = None) -> Suite:
    """The suite with `precision: auto` and `threads: auto` resolved: as the store at `root` was first planned, else for
    this machine, which is then remembered there.

    What changes numbers is fixed before anything runs, so that a run that goes on elsewhere has the same trials.
    count_threads: measures how many threads a trial should have, given the suite without `auto`, seldom called; one
    thread without it.
    """
    known = _machine(root) if "auto" in (suite.precision, suite.threads) else {}
    if suite.precision == "auto":
        here = "bfloat16" if suite.resources.gpu else processor_precision()
        suite = suite.model_copy(update={"precision": known.get("precision", here)})
    if suite.threads == "auto":
        single = suite.model_copy(update={"threads": 1})
        threads = known.get("threads") or (count_threads(single) if count_threads else 1)
        cores = suite.resources.model_copy(update={"cpu": max(suite.resources.cpu, float(threads))})
        suite = suite.model_copy(update={"threads": threads, "resources": cores})
    return suite


def remember_machine(suite: Suite, root: Path, facts: Mapping[str, Any] | None = None) -> None:
    """Write down what `for_this_machine` resolved, every fact once per store. facts: by default the precision."""
    known, facts = _machine(root), facts or {"precision": suite.precision}
    if facts.keys() - known.keys():
        write_bytes(root / MACHINE_FILE, json.dumps({**facts, **known}).encode())


def _machine(root: Path) -> dict[str, Any]:
    """What the store at `root` was planned for; empty for a new one."""
    return recorded(root / MACHINE_FILE, "the precision and the threads this store was planned for")
