"""The command `python -m benchmarks gpu`: every check of every part, within some minutes, on paper as it goes.

Imports little more than torch: what a part needs and this machine lacks is named, and its lines count as not run.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import signal
import sys
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import torch

from benchmarks.gpu.check import NotRun, Setting, Threshold, Work
from harness.errors import ExitCode
from harness.files import write_bytes

_CORE = ("numpy", "pydantic", "yaml")
_STORE = (*_CORE, "pandas", "pyarrow", "pyautoattack")
_DIGITS = (*_STORE, "sklearn")


@dataclass(frozen=True)
class Part:
    """works: `module:function`, from a Setting to the works. needs: packages, by the names they are imported under."""

    works: str
    needs: tuple[str, ...] = _CORE


PARTS = {
    "facts": Part("benchmarks.gpu.machine:facts"),
    "engine": Part("benchmarks.gpu.machine:engine"),
    "methods": Part("benchmarks.gpu.training:losses"),
    "recorded": Part("benchmarks.gpu.training:recorded"),
    "waits": Part("benchmarks.gpu.training:waits"),
    "resume": Part("benchmarks.gpu.training:resume"),
    "verdicts": Part("benchmarks.gpu.attacks:verdicts", _DIGITS),
    "memory": Part("benchmarks.gpu.memory:memory", _STORE),
    "speed": Part("benchmarks.gpu.speed:speed", _STORE),
    "fractions": Part("benchmarks.gpu.fractions:fractions", (*_STORE, "ray")),
    "run": Part("benchmarks.gpu.first_run:first_run", (*_DIGITS, "scipy", "rich", "anyascii")),
}


@dataclass
class Line:
    """One line of the outcome. status: passed, failed, not run, or noted, which is a figure without a threshold."""

    part: str
    check: str
    threshold: Threshold | None = None
    value: Any = None
    status: str = "not run"
    why: str = ""
    seconds: float = 0.0  # of the work that gave it, perhaps with others

    def fill(self, value: Any) -> None:
        """Judge a figure."""
        self.value = value
        good = self.threshold is None or self.threshold.holds(value)
        self.status = "failed" if not good else "passed" if self.threshold else "noted"

    @property
    def record(self) -> dict[str, Any]:
        """As JSON has it, which knows no NaN."""
        finite = not isinstance(self.value, float) or math.isfinite(self.value)
        limit = None if self.threshold is None else str(self.threshold)
        return {**vars(self), "threshold": limit, "value": self.value if finite else str(self.value)}

    def __str__(self) -> str:
        value = "" if self.value is None else f"{self.value:.4g}" if isinstance(self.value, float) else str(self.value)
        limit = self.threshold or ""
        return f"{self.status:8s} {self.part:10s} {self.check:70s} {value:>10s}  {limit!s:10s}  {self.why}".rstrip()


@dataclass
class Acceptance:
    """The lines of the parts. The setting's folder holds them as text and as JSON, written anew after every work:
    whatever ends the process leaves what was found, and the rest as not run."""

    setting: Setting
    about: Mapping[str, Any] = field(default_factory=dict)
    lines: list[Line] = field(default_factory=list)

    def run(self, parts: Sequence[str], seconds: float) -> None:
        """All works of the parts, one after the other, until time is up."""
        planned = [(work, self._lines(part, work)) for part in parts for work in self._works(part)]
        self._write()
        try:
            with _time_limit(seconds):
                for work, lines in planned:
                    judge(work, lines)
                    self._write()
                    print(*lines, sep="\n", flush=True)
        except (_TimeIsUp, KeyboardInterrupt) as end:
            reason = f"{seconds / 60:g} minutes were over" if isinstance(end, _TimeIsUp) else "interrupted"
            for line in self.lines:
                line.why = line.why or (reason if line.status == "not run" else "")
        self._write()
        print(*(line for line in self.lines if line.status == "not run"), self.counts, sep="\n", flush=True)

    @property
    def counts(self) -> str:
        """`3 passed, 0 failed, 1 not run`."""
        return ", ".join(f"{self.count(status)} {status}" for status in ("passed", "failed", "not run"))

    def count(self, status: str) -> int:
        return sum(line.status == status for line in self.lines)

    def _works(self, part: str) -> list[Work]:
        """The works of a part. Where they cannot even be listed, they are one line."""
        missing = [name for name in PARTS[part].needs if importlib.util.find_spec(name) is None]
        if not missing:
            from harness.engine.process import exact_float32  # which needs some of it

            exact_float32()
            return resolve_name(PARTS[part].works)(self.setting)
        self.lines.append(Line(part, "all of the part", why=f"not installed: {', '.join(missing)}"))
        return []

    def _lines(self, part: str, work: Work) -> list[Line]:
        lines = [Line(part, check, threshold) for check, threshold in work.lines.items()]
        self.lines += lines
        return lines

    def _write(self) -> None:
        found = {**self.about, "counts": self.counts, "lines": [line.record for line in self.lines]}
        text = "\n".join([*map(str, self.lines), self.counts]) + "\n"
        write_bytes(self.setting.folder / "acceptance.json", json.dumps(found, indent=1).encode())
        write_bytes(self.setting.folder / "acceptance.txt", text.encode())


def judge(work: Work, lines: Sequence[Line]) -> None:
    """Do a work and judge what it finds; a figure that it does not give, or an error of it, is a failure."""
    begun = time.monotonic()
    try:
        found = work.measure()
        for line in lines:
            line.fill(found[line.check])
    except NotRun as error:
        for line in lines:
            line.why = str(error)
    except Exception as error:
        traceback.print_exc()
        for line in lines:
            line.status, line.why = "failed", " ".join(f"{type(error).__name__}: {error}".split())[:300]
    for line in lines:
        line.seconds = round(time.monotonic() - begun, 3)


class _TimeIsUp(BaseException):
    """Not an Exception: no trial takes it for its own."""


@contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    """Raise _TimeIsUp when the time is up, and KeyboardInterrupt when somebody ends the process."""

    def ring(number: int, frame: object) -> None:
        raise _TimeIsUp

    before = signal.signal(signal.SIGALRM, ring), signal.signal(signal.SIGTERM, signal.default_int_handler)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in zip((signal.SIGALRM, signal.SIGTERM), before, strict=True):
            signal.signal(number, handler)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the acceptance; 0 where everything passed, 1 where something failed or was not run, 2 for bad input."""
    options = _options(arguments)
    device = torch.device("cpu") if options.device == "cpu" else torch.device("cuda", 0)
    if device.type == "cuda" and not torch.cuda.is_available():
        print(
            f"torch {torch.__version__} sees no GPU (built for CUDA {torch.version.cuda or 'none'}); "
            "--device cpu --tiny rehearses every part",
            file=sys.stderr,
        )
        return ExitCode.REFUSED
    if options.data is not None and not options.data.exists():
        print(f"--data {options.data}: there is no such folder or file", file=sys.stderr)
        return ExitCode.REFUSED
    options.out.mkdir(parents=True, exist_ok=True)
    about = {
        "device": str(device), "tiny": options.tiny, "minutes": options.minutes, "parts": options.parts,
        "begun": time.time(),
    }  # fmt: skip
    acceptance = Acceptance(Setting(device, options.out, options.tiny, options.data), about)
    acceptance.run(options.parts, 60 * options.minutes)
    return ExitCode.INCOMPLETE if acceptance.count("failed") or acceptance.count("not run") else ExitCode.DONE


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks gpu", description=__doc__)
    parser.add_argument("--parts", type=_parts, default=list(PARTS), help=f"of {', '.join(PARTS)}; all by default")
    parser.add_argument("--minutes", type=_minutes, default=8.0, help="what is not done by then counts as not run")
    parser.add_argument("--data", type=Path, help="images of the part run: CIFAR-10's folder, one of images, an .npz")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--tiny", action="store_true", help="everything small, and any speed is enough: a rehearsal")
    parser.add_argument("--out", type=Path, default=Path("acceptance"), help="folder of acceptance.txt and .json")
    return parser.parse_args(arguments)


def _parts(text: str) -> list[str]:
    names = text.split(",")
    if wrong := [name for name in names if name not in PARTS]:
        raise argparse.ArgumentTypeError(f"no part {wrong[0]}; allowed: {', '.join(PARTS)}")
    return names


def _minutes(text: str) -> float:
    minutes = float(text)
    if not 0 < minutes < float("inf"):
        raise argparse.ArgumentTypeError(f"a number above 0, not {text}")
    return minutes
