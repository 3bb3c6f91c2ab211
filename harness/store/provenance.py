"""Where numbers come from: the code, the versions, the machine. Imports neither torch nor Ray."""

from __future__ import annotations

import os
import platform
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.spec import NUMERICS_VERSION, TrialSpec
from harness.store.fingerprint import code_fingerprint

if TYPE_CHECKING:
    import torch

_ROOT = Path(__file__).resolve().parents[2]
_PACKAGES = ("torch", "torchvision", "pillow", "numpy", "pyautoattack", "ray", "pandas", "pyarrow")
_OF_TRAINING = ("train_s", "train_cpu_s", "peak_memory_mb", "peak_reserved_mb", "init_sha256")


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
        "dataset": spec.dataset.label,
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
        "teacher_seed": spec.teachers["teacher"].seed if "teacher" in spec.teachers else None,
        "epochs": spec.training.epochs if spec.training else None,
        "precision": spec.precision,
        "spec": spec.model_dump(mode="json"),
        "numerics_version": NUMERICS_VERSION,
        **_code(),
    }


def training_columns(history: Mapping[str, Any]) -> dict[str, Any]:
    """What the `trials` table says of a training, from its record (`WorkingFolder.history`); of an older one less."""
    places = joined(history["origins"]) if "origins" in history else {}
    teachers = history.get("teacher_sha256") or {}
    return {
        **{name: history.get(name) for name in _OF_TRAINING},
        **{f"train_{name}": value for name, value in places.items()},
        "teacher_sha256": "+".join(teachers[name] for name in sorted(teachers)) or None,
    }


def origin(device: torch.device) -> dict[str, Any]:
    """What computes here, as the `trials` table has it: `git_commit`, `code_fingerprint`, `versions`, `device`."""
    return {**_code(), "versions": {**versions(), **gpu_versions(device)}, "device": device_name(device)}


def _code() -> dict[str, Any]:
    return {"git_commit": git_commit(), "code_fingerprint": code_fingerprint(), "versions": versions()}


def joined(origins: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Several origins as one: what they do not share stands side by side, separated by commas."""
    origins = list(origins)
    packages = dict.fromkeys(name for each in origins for name in each["versions"])
    plain = ("git_commit", "code_fingerprint", "device")
    return {
        **{name: _listed(each[name] for each in origins) for name in plain},
        "versions": {name: _listed(each["versions"].get(name) for each in origins) for name in packages},
    }


def _listed(values: Iterable[str | None]) -> str | None:
    return ", ".join(dict.fromkeys(value for value in values if value is not None)) or None


def device_name(device: torch.device) -> str:
    """The processor's or the GPU's name."""
    if device.type == "cpu":
        return processor()
    import torch

    return torch.cuda.get_device_name(device)


def gpu_versions(device: torch.device, driver: Path = Path("/proc/driver/nvidia/version")) -> dict[str, str]:
    """Versions of CUDA and cuDNN, as torch brings them, and of NVIDIA's driver; none for a processor."""
    if device.type == "cpu":
        return {}
    import torch

    found = {"cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()}
    with suppress(OSError):  # NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue Mar  5 ...
        found["driver"] = next(iter(re.findall(r"\b\d{3,}(?:\.\d+)+\b", driver.read_text())), None)
    return {name: str(value) for name, value in found.items() if value}


def cpu_seconds() -> float:
    """Processor seconds that this process has used so far, and its children that have ended."""
    times = os.times()
    return time.process_time() + times.children_user + times.children_system


def command(words: Sequence[str] | None = None) -> str:
    """This process's command line, or `words`, for a shell; every path is shortened to its last component."""
    return shlex.join(_shortened(word) for word in (sys.argv if words is None else words))


# what can be a path inside of a longer word, such as --set 'teacher={file: /home/me/a.pt}'
_PATH = re.compile(r"[^\s'\"=,;:{}\[\]()]*/[^\s'\"=,;:{}\[\]()]*")
_FRACTION = re.compile(r"[\d.]+/[\d.]+")


def _shortened(word: str) -> str:
    """A word whose paths have lost their folders: whole ones (spaces included), and those inside of it."""
    start, sign, value = word.partition("=")
    if value.startswith(("/", "~", "./", "../")):
        return start + sign + _last(value)
    return _last(word) if word.startswith(("/", "~", "./", "../")) else _PATH.sub(lambda found: _last(found[0]), word)


def _last(path: str) -> str:
    return path if _FRACTION.fullmatch(path) else path.rstrip("/").rpartition("/")[2]


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
    """The precision that pays on this machine's CPU: bfloat16 where it has units for it, else float32."""
    return "bfloat16" if bfloat16_units() else "float32"


# Flags of /proc/cpuinfo, the fastest first: Intel's tiles, vectors (Intel and AMD), Arm's.
_BFLOAT16_UNITS = {"amx_bf16": "AMX", "avx512_bf16": "AVX-512", "bf16": "Arm"}


def bfloat16_units(cpuinfo: Path = Path("/proc/cpuinfo")) -> str | None:
    """The processor's fastest units for bfloat16, `AMX`, `AVX-512` or `Arm`; None where none are known."""
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:
        return None
    flags = {flag for line in lines if line.startswith(("flags", "Features")) for flag in line.split()}
    return next((units for flag, units in _BFLOAT16_UNITS.items() if flag in flags), None)
