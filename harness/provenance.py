"""Where numbers come from: the code, the versions, the machine. Imports neither torch nor Ray."""

from __future__ import annotations

import platform
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from harness.fingerprint import code_fingerprint
from harness.spec import NUMERICS_VERSION, TrialSpec

_ROOT = Path(__file__).resolve().parent.parent
_PACKAGES = ("torch", "torchvision", "numpy", "pyautoattack", "ray", "pandas", "pyarrow")


def trial_columns(spec: TrialSpec) -> dict[str, Any]:
    """What the `trials` table says of a trial before it has run: its coordinates, its specification, and the code in
    use."""
    method = spec.method or {
        "name": "given",
        "labels": {"name": None},
        "weights": {"name": None},
        "margins": {"name": None},
    }
    return {
        "trial_id": spec.trial_id,
        "training_id": spec.training_id,
        "role": spec.role,
        "dataset": spec.dataset.name,
        "student": spec.student.label,
        "teacher": "+".join(source.label for source in spec.teachers.values()) or None,
        "method": method["name"],
        "variant": spec.variant,
        "label_policy": method["labels"]["name"],
        "weight_policy": method["weights"]["name"],
        "margin_policy": method["margins"]["name"],
        "norm": spec.norm,
        "eps": spec.eps,
        "seed": spec.seed,
        "split_seed": spec.split_seed,
        "epochs": spec.training.epochs if spec.training else None,
        "precision": spec.precision,
        "spec": spec.model_dump(mode="json"),
        "numerics_version": NUMERICS_VERSION,
        "git_commit": git_commit(),
        "code_fingerprint": code_fingerprint(),
        "versions": versions(),
    }


@cache
def git_commit() -> str | None:
    """The commit of the checkout the code runs from, with a + when it has uncommitted changes; None outside a
    checkout."""
    try:
        commit = _git("rev-parse", "HEAD")
        return commit + ("+" if _git("status", "--porcelain", "--", "harness", "methods") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _git(*words: str) -> str:
    done = subprocess.run(["git", "-C", str(_ROOT), *words], capture_output=True, text=True, check=True, timeout=10)
    return done.stdout.strip()


@cache
def versions() -> dict[str, str]:
    """Versions of Python and of the packages that numbers may depend on."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


@cache
def processor() -> str:
    """The processor's name."""
    try:
        with open("/proc/cpuinfo") as file:
            names = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()


def processor_precision() -> str:
    """The precision that pays on this machine's CPU: bfloat16 where it has matrix units for it (AMX), else float32."""
    try:
        with open("/proc/cpuinfo") as file:
            return "bfloat16" if "amx_bf16" in file.read() else "float32"
    except OSError:
        return "float32"
