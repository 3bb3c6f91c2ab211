"""The code that the documents print, as tests read it."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGES = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "results/README.md"]
PAGES += [f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^ *```(\w*)\n(.*?)^ *```$", re.DOTALL | re.MULTILINE)


def blocks(page: str, language: str) -> list[str]:
    """The fenced blocks of a page in one language; "" for those that name none."""
    found = [code for named, code in BLOCK.findall((ROOT / page).read_text("utf-8")) if named == language]
    assert found, f"{page} has no {language} block"
    return found


def languages(page: str) -> set[str]:
    return {language for language, _ in BLOCK.findall((ROOT / page).read_text("utf-8"))}


def lines(page: str) -> list[str]:
    """What a reader types, a line each, without comments and with continued lines joined."""
    if "bash" not in languages(page):
        return []
    joined = "\n".join(blocks(page, "bash")).replace("\\\n", " ").splitlines()
    return [line for line in joined if line.strip() and not line.startswith("#")]


def commands(page: str) -> list[list[str]]:
    """The words of every `run-bench` line, as a shell reads them, without the first."""
    return [shlex.split(line, comments=True)[1:] for line in lines(page) if line.startswith("run-bench ")]


def mentioned(page: str) -> Iterator[list[str]]:
    """The words of every `run-bench COMMAND ...` in a sentence, or within another command."""
    text = (ROOT / page).read_text("utf-8")
    for found in re.findall(r"`run-bench ([a-z]+ [^`]+)`|'run-bench ([^'\n]+)'", BLOCK.sub("", text)):
        yield shlex.split("".join(found))
