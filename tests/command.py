"""`run-bench` as tests call it: in this process, in a folder of its own."""

from __future__ import annotations

import os
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from unittest import mock

from harness.cli.main import main


@dataclass(frozen=True)
class Done:
    """What a command printed and its exit code."""

    stdout: str
    stderr: str
    returncode: int


def bench(*words: str, cwd: Path, check: int | None = 0) -> Done:
    """`run-bench WORDS` in a directory; the exit code is checked."""
    before, code = Path.cwd(), 0
    os.chdir(cwd)
    try:
        with (
            redirect_stdout(StringIO()) as out,
            redirect_stderr(StringIO()) as err,
            mock.patch.object(sys, "argv", ["run-bench", *words]),
        ):
            try:
                main()
            except SystemExit as exit:
                code = exit.code or 0
    finally:
        os.chdir(before)
    if check is not None:
        assert code == check, out.getvalue() + err.getvalue()
    return Done(out.getvalue(), err.getvalue(), code)


def refused(*words: str, cwd: Path) -> str:
    """The one line of a refusal; nothing may have been written."""
    before = sorted(cwd.rglob("*"))
    done = bench(*words, cwd=cwd, check=2)
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("error: ")
    assert not done.stdout
    assert sorted(cwd.rglob("*")) == before
    return lines[0]
