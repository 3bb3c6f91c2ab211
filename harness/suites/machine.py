"""What a suite leaves to the machine: `precision: auto` and `threads: auto`, resolved once per store and kept there,
and `gpu: auto`, which changes no number and is resolved whenever the suite is planned."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from harness.engine.gpu import gpus_here, models
from harness.errors import InputError
from harness.files import write_bytes
from harness.store.provenance import processor_precision
from harness.store.records import MACHINE_FILE, recorded
from harness.suites.keys import ResourceKeys
from harness.suites.suite import Suite

MACHINE = ("precision", "threads")  # what `auto` leaves to the machine

CountThreads = Callable[[Suite], int]


def for_this_machine(suite: Suite, root: Path, count_threads: CountThreads | None = None) -> Suite:
    """The suite without `auto`: its precision and threads as the store at `root` was first planned, else for this
    machine, which is then remembered there.

    What changes numbers is fixed before anything runs, so that a run that goes on elsewhere has the same trials.
    count_threads: measures how many threads a trial should have, given the suite without `auto`, seldom called; one
    thread without it, and beside a GPU, on which this process is not to compute.
    """
    suite = suite.model_copy(update={"resources": with_gpu(suite.resources)})
    known = _machine(root) if "auto" in (suite.precision, suite.threads) else {}
    if suite.precision == "auto":
        ask = _gpu_precision if suite.resources.gpu else processor_precision
        suite = suite.model_copy(update={"precision": known.get("precision") or ask()})
    if suite.threads == "auto":
        single = suite.model_copy(update={"threads": 1})
        threads = known.get("threads") or (count_threads(single) if count_threads and not suite.resources.gpu else 1)
        suite = suite.model_copy(update={"threads": threads, "resources": with_cores(suite.resources, threads)})
    return suite


def with_cores(resources: ResourceKeys, threads: int) -> ResourceKeys:
    """The resources with a core for each thread at least."""
    return resources.model_copy(update={"cpu": max(resources.cpu, float(threads))})


def with_gpu(resources: ResourceKeys) -> ResourceKeys:
    """The resources with `gpu: auto` resolved for this machine. InputError where it has a GPU that torch cannot use:
    whoever counts on it would wait for a processor."""
    if resources.gpu != "auto":
        return resources
    found = gpus_here()
    if found and not found.names and models():
        raise InputError(
            f"resources: gpu: auto would take this machine's {models()[0]}, and torch cannot use it: {found.problem}; "
            "gpu: 0 computes on the CPU"
        )
    return resources.model_copy(update={"gpu": 1.0 if found and found.names else 0.0})


def _gpu_precision() -> str:
    """The precision that pays on this machine's GPUs. Without any, on the head node of a cluster: that of those which
    are built today; its nodes are asked before a run starts."""
    found = gpus_here()
    return "float32" if found and found.names and not found.bfloat16 else "bfloat16"


def remember_machine(root: Path, facts: Mapping[str, Any]) -> None:
    """Write down what `for_this_machine` resolved, every fact once per store."""
    known = _machine(root)
    if facts.keys() - known.keys():
        write_bytes(root / MACHINE_FILE, json.dumps({**facts, **known}).encode())


def _machine(root: Path) -> dict[str, Any]:
    """What the store at `root` was planned for; empty for a new one."""
    path, what = root / MACHINE_FILE, "the precision and the threads this store was planned for"
    found = recorded(path, what)
    threads = found.get("threads", 1)
    if type(threads) is not int or threads < 1:
        raise InputError(f"{path} is damaged; it records {what} (threads: {threads!r})")
    return found
