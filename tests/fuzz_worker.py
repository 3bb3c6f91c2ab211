"""What the command makes of drawn inputs: in one process of bounded memory, one after the other, each in a folder as
the grammar knows it."""

from __future__ import annotations

import dataclasses
import io
import multiprocessing
import os
import resource
import shutil
import stat
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, redirect_stderr, redirect_stdout
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any
from unittest import mock

from harness.cli.main import main as run_bench
from harness.running.run import check_inputs
from tests.fuzz_inputs import KINDS_OF_INPUT, WRITERS, Input, draw
from tests.synthetic_store import fill_store, trial_spec

LIMIT_S = 10.0
LIMIT_BYTES = 2**30  # more than the worker had when it began
BEGINNINGS = (
    "harness.cli.run.print_calibration",
    "harness.calibration.batch_seconds",
)  # the first thing that a command does after it has planned
LONGEST = 300  # characters of a line that refuses


@dataclasses.dataclass(frozen=True)
class Ending:
    """How an input ended. how: refused or planned where all is well, else what is wrong in a word."""

    how: str
    code: int | None = None
    said: str = ""
    seconds: float = 0.0
    megabytes: float = 0.0

    @property
    def good(self) -> bool:
        return self.how in ("refused", "planned")


def fuzz(seeds: Iterable[int], folder: Path, limit_s: float = LIMIT_S) -> Iterator[tuple[Input, Ending]]:
    """What becomes of the input of each seed, in one process besides this one, which gets another when it hangs or
    dies."""
    worker = None
    for seed in seeds:
        worker = worker or _Worker(folder)
        drawn = draw(seed)
        ending = worker.ending(drawn, limit_s)
        if ending is None:
            worker.end()
            worker, ending = None, Ending("hangs or dies", seconds=limit_s)
        yield drawn, ending
    if worker:
        worker.end()


class _Worker:
    def __init__(self, folder: Path) -> None:
        context = multiprocessing.get_context("fork")  # it shares what a test has replaced
        self._here, there = context.Pipe()
        self._process = context.Process(target=_work, args=(there, folder), daemon=True)
        self._process.start()
        there.close()
        self._here.recv()  # it is ready: what it imports takes longer than an input

    def ending(self, drawn: Input, limit_s: float) -> Ending | None:
        try:
            self._here.send(drawn)
            return self._here.recv() if self._here.poll(limit_s + 2) else None  # its own signal comes first
        except EOFError:
            return None

    def end(self) -> None:
        self._process.kill()
        self._process.join()


def _work(inputs: Connection, folder: Path) -> None:
    os.environ["HOME"] = str(folder)
    where = folder / "here"
    _fresh(where)
    os.chdir(where)
    import harness.evaluation.given  # noqa: F401  torch is loaded before its size counts

    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + LIMIT_BYTES,) * 2)
    with ExitStack() as stack:
        for begins in BEGINNINGS:
            stack.enter_context(mock.patch(begins, _begin))
        stack.enter_context(mock.patch("harness.running.run.check_inputs", partial(_look, check_inputs)))
        inputs.send(None)
        while True:
            drawn = inputs.recv()
            inputs.send(_ended(drawn))
            _fresh(where)


class _Begun(BaseException):
    """An input is right: now it would be read, trained, evaluated."""


def _begin(*arguments: Any) -> Any:
    raise _Begun


def _look(check: Callable[..., list[str]], *arguments: Any, absent: list[str] | None = None) -> list[str]:
    """Inputs are looked at by a plan; where they are looked at again, a run begins."""
    if absent is None:
        raise _Begun
    return check(*arguments, absent=absent)


def _ended(drawn: Input) -> Ending:
    Path("suite.yaml").write_bytes(drawn.suite)
    before, began = _seen(), time.monotonic()
    streams = [io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for _ in range(2)]
    code: int | None = 0
    trace = ""
    with mock.patch("sys.argv", ["run-bench", *drawn.words]), redirect_stdout(streams[0]), redirect_stderr(streams[1]):
        try:
            run_bench()
        except _Begun:
            pass
        except SystemExit as left:
            code = left.code if isinstance(left.code, int) else 1
        except BaseException:
            code, trace = None, traceback.format_exc()
    out, err = (stream.buffer.getvalue().decode() for stream in streams)  # type: ignore[attr-defined]
    ending = Ending("", code, trace or err, time.monotonic() - began,
                    resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)  # fmt: skip
    return dataclasses.replace(ending, how=_judged(drawn, ending, out, bool(trace), before != _seen()))


def _judged(drawn: Input, ending: Ending, out: str, raised: bool, wrote: bool) -> str:
    said, command = ending.said, drawn.words[0]
    if raised or "Traceback" in out + said:
        return "a traceback"
    if ending.code == 0:
        if drawn.never:
            return "accepted"
        return "planned, but wrote" if wrote and command not in WRITERS else "planned"
    if command == "verify" and ending.code == 1:
        return "planned"
    if ending.code != 2:
        return f"exit code {ending.code}"
    if wrote:
        return "wrote"
    lines = said.split("\n")[:-1]  # of a plan that is right, one for each thing that is not there
    one = len(lines) == 1 and said.startswith("error: ")
    if not one and not (lines and all(line.startswith("missing: ") for line in lines)):
        return "not one line"
    if max(map(len, lines)) > LONGEST:
        return "a long line"
    if not all(line.isprintable() for line in lines):
        return "characters that act"
    names = ["".join(filter(str.isprintable, name)).lower().rstrip("s") or "''" for name in drawn.names]
    if names and not any(name in said.lower() for name in names):
        return "names nothing"
    return "refused"


def _seen() -> dict[str, tuple[int, int, int]]:
    """All files below the current folder, as they are."""
    found = {}
    for parent, folders, files in os.walk("."):
        for name in (*folders, *files):
            status = os.lstat(os.path.join(parent, name))
            changed = 0 if stat.S_ISDIR(status.st_mode) else status.st_mtime_ns  # a probe for a moment is no result
            found[os.path.join(parent, name)] = status.st_mode, status.st_size, changed
    return found


def _fresh(where: Path) -> None:
    """The folder in which commands run, as the grammar knows it."""
    for path in where.iterdir() if where.is_dir() else ():
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    where.mkdir(parents=True, exist_ok=True)
    kept = where.parent / "store"
    if not kept.is_dir():
        fill_store(kept, [trial_spec(variant, 0, attacks=("clean", "pgd20"), epochs=2) for variant in ("at", "rslad")])
    shutil.copytree(kept, where / "store")
    (where / "folder").mkdir()
    (where / "foreign").mkdir()
    (where / "foreign" / "thesis.doc").write_text("mine")
    (where / "binary").write_bytes(bytes(range(256)))
    (where / "weights.pt").write_bytes(b"no weights")
    (where / "page.md").write_text("<!-- from store: scores attack=pgd20 -->\n<!-- end -->\n")
    (where / "dangling").symlink_to("nowhere")
    (where / "loop").symlink_to("loop")
    for name in ("pipe", "pipe.yaml", "pipe.npz", "pipe.py"):
        os.mkfifo(where / name)


def table(found: Sequence[tuple[Input, Ending]]) -> str:
    """How many inputs of each kind ended how."""
    ways = sorted({ending.how for _, ending in found}, key=lambda how: (how != "refused", how != "planned", how))
    rows = [["kind of input", *ways]]
    for kind in KINDS_OF_INPUT:
        ends = [ending.how for drawn, ending in found if drawn.kind == kind]
        rows.append([kind, *(str(ends.count(way)) for way in ways)])
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def main() -> None:
    """`python -m tests.fuzz_worker FIRST COUNT`: how the inputs of these seeds end; each that ends badly."""
    first, count = map(int, sys.argv[1:3])
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for drawn, ending in fuzz(range(first, first + count), Path(folder)):
            found.append((drawn, ending))
            if not ending.good:
                print(f"{drawn}\n  {ending.how}: {ending.said[-1500:]}\n")
    print(table(found))
    print(f"slowest {max(ending.seconds for _, ending in found):.1f} s, most memory "
          f"{max(ending.megabytes for _, ending in found):.0f} MB")  # fmt: skip


if __name__ == "__main__":
    main()
