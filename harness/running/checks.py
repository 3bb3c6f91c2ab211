"""What is checked before a run starts, so that it cannot fail hours later for a reason that was there at the start.

The rules are plain functions; the caller brings the facts. Each raises an InputError of one line.
"""

from __future__ import annotations

import platform
import socket
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.engine.gpu import GPUs, gpus_here, share_problem
from harness.errors import InputError
from harness.files import free_bytes, temporary_path
from harness.running.stopping import read_control
from harness.spec import Resources, TrialSpec

ON_CPU = "--set resources.gpu=0 (evaluate: --gpu 0) computes on the CPU"


@dataclass(frozen=True)
class Node:
    """A machine of the cluster: its Ray id, its host name, and its resources by Ray's names (CPU, GPU, ...)."""

    node_id: str
    host: str
    resources: Mapping[str, float]


def request_of(resources: Resources) -> dict[str, float]:
    """A trial's request in Ray's names, without zeros."""
    request = {"CPU": resources.cpu, "GPU": resources.gpu, **resources.custom}
    return {name: amount for name, amount in request.items() if amount > 0}


def fits(request: Mapping[str, float], available: Mapping[str, float]) -> bool:
    """Whether every resource of a request is there; a rounding error of fractions does not matter."""
    return all(available.get(name, 0.0) + 1e-6 >= amount for name, amount in request.items())


def check_requests(specs: Iterable[TrialSpec], nodes: Sequence[Node]) -> None:
    """Every trial fits on some node when that node is empty, its threads too."""
    for spec in specs:
        request, gpu = request_of(spec.resources), spec.resources.gpu
        if problem := share_problem(gpu):
            raise InputError(f"trial {spec.trial_id} ({spec.variant}): resources: gpu {problem}, not {gpu:g}")
        fitting = [node for node in nodes if fits(request, node.resources)]
        if not fitting:
            hint = f"; {ON_CPU}" if gpu and not any("GPU" in node.resources for node in nodes) else ""
            raise InputError(
                f"trial {spec.trial_id} ({spec.variant}) asks for {_amounts(request)}, and no node has that: "
                f"the cluster has {describe(nodes)}{hint}"
            )
        cores = max(int(node.resources.get("CPU", 0)) for node in fitting)
        check_threads(spec, max(cores, 1), "the largest node for it")


def check_threads(spec: TrialSpec, cores: int, where: str) -> None:
    """A trial computes with no more threads than its machine has cores: the plan may have been made for another."""
    if spec.threads > cores:
        raise InputError(
            f"trial {spec.trial_id} ({spec.variant}) computes with {spec.threads} threads, and {where} has "
            f"{cores} core{'s' * (cores > 1)}: --set threads={cores} (evaluate: --threads {cores}), or less"
        )


def check_gpus(specs: Iterable[TrialSpec], found: GPUs | None, where: str) -> None:
    """The GPUs of a machine can do what the trials want of them."""
    wanting = [spec for spec in specs if spec.resources.gpu]
    if not wanting:
        return
    if found is None or not found.names:
        reason = "there is no NVIDIA GPU" if found is None else f"torch cannot use one: {found.problem}"
        raise InputError(f"trials ask for a GPU, and on {where} {reason}; {ON_CPU}")
    if not found.bfloat16 and any(spec.wants_bfloat16 for spec in wanting):
        raise InputError(
            f"trials compute in bfloat16, and on {where} there is a GPU without units for it "
            f"({', '.join(dict.fromkeys(found.names))}): --set precision=float32, for the "
            "gradients of attacks evaluation.gradient_precision=float32 (evaluate: --gradient-precision float32), or "
            "keep the trials away from it with resources.custom"
        )


def describe(nodes: Sequence[Node]) -> str:
    """The cluster in words: `2 nodes with CPU 8, GPU 4; 1 node with CPU 16`."""
    shapes = Counter(
        _amounts({name: amount for name, amount in node.resources.items() if _is_requestable(name)}) for node in nodes
    )
    return (
        "; ".join(f"{count} node{'s' * (count > 1)} with {shape}" for shape, count in shapes.most_common())
        or "no node at all"
    )


def check_disk(root: Path, minimum_bytes: int) -> None:
    """The results folder has room for a start."""
    free = free_bytes(root)
    if free < minimum_bytes:
        raise InputError(
            f"only {free / 2**20:.0f} MB are free at {root}; "
            f"a run needs at least {minimum_bytes / 2**20:.0f} MB to start"
        )


def probe(control: str, nonce: str, ray_version: str, gpus: bool = False) -> dict[str, Any]:
    """What one node says about itself: runs there, reads what the driver wrote in the results, and writes beside it.
    gpus: it also looks at its GPUs."""
    answer: dict[str, Any] = {"host": socket.gethostname(), "python": platform.python_version(), "ray": ray_version}
    if gpus:
        answer["gpus"] = gpus_here(hidden=True)
    path = Path(control)
    beside = temporary_path(path.with_name("probe"))
    try:
        answer["sees"] = read_control(path).get("nonce") == nonce
        beside.write_text("")
        beside.unlink()
        answer["writes"] = True
    except OSError as error:
        answer.setdefault("sees", False)
        answer["writes"] = False
        answer["problem"] = error.strerror
    return answer


def check_probe(answer: Mapping[str, Any], root: Path, ray_version: str) -> None:
    """A node sees and can write the results folder, and runs the driver's versions."""
    host = answer["host"]
    if not answer["sees"]:
        raise InputError(f"node {host} does not see the results folder {root}: use a path that all nodes share")
    if not answer["writes"]:
        raise InputError(f"node {host} cannot write to the results folder {root}: {answer['problem']}")
    for name, here in (("python", platform.python_version()), ("ray", ray_version)):
        if answer[name] != here:
            raise InputError(
                f"node {host} runs {name} {answer[name]}, this machine {here}: install the same version on all nodes"
            )


def _amounts(amounts: Mapping[str, float]) -> str:
    order = sorted(amounts, key=lambda name: (name not in ("CPU", "GPU"), name))
    return ", ".join(f"{name} {amounts[name]:g}" for name in order)


def _is_requestable(name: str) -> bool:
    return name not in ("memory", "object_store_memory") and not name.startswith(("node:", "accelerator_type:"))
