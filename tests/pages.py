"""The code that the documents print, as tests read it."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGES = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "results/README.md"]
PAGES += [f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md"))]
NOT_RUN = {  # the beginnings of lines that no test runs, and why
    "pip install": "needs the network: .ci/run does it",
    "pytest ": "the checks themselves: .ci/run does them",
    "ruff ": "the checks themselves: .ci/run does them",
    "python -m benchmarks gpu": "takes minutes, or a GPU: tests/test_gpu_acceptance.py",
    "zip ": "needs wheels that were downloaded",
    "ray ": "starts processes on all interfaces: tests/running/test_ray_faults.py has such a cluster",
    "export RAY_AUTH_MODE": "belongs to a cluster",
    "sbatch ": "needs SLURM: tests/running/test_clusters.py runs the script with stand-ins",
    "ENVIRONMENT=~/venv sbatch ": "the same",
    "CUDA_VISIBLE_DEVICES=": "needs GPUs",
    "run-bench run cifar10_paper --results": "needs GPUs",
    "run-bench run cifar10_paper --set resources": "needs GPUs",
    "run-bench run cifar10_evening --serial": "needs a GPU and images",
    "run-bench run cifar10_paper --dry-run": "ends with what is missing: tests/cli/test_refused_files.py",
    "run-bench run cifar10_paper --address auto": "needs a cluster",
    "run-bench evaluate model_cifar_wrn.pt": "needs a file and images of others",
    "run-bench report results/runs/evaluations": "of what those two lines leave",
}
BLOCK = re.compile(r"^ *```(\w*)\n(.*?)^ *```$", re.DOTALL | re.MULTILINE)


def blocks(page: str, language: str) -> list[str]:
    """The fenced blocks of a page in one language; "" for those that name none."""
    found = [code for named, code in BLOCK.findall((ROOT / page).read_text("utf-8")) if named == language]
    assert found, f"{page} has no {language} block"
    return found


def languages(page: str) -> set[str]:
    """Those of its fenced blocks."""
    text = (ROOT / page).read_text("utf-8")
    found = [language for language, _ in BLOCK.findall(text)]
    assert 2 * len(found) == len(re.findall(r"^ *(?:```|~~~)", text, re.MULTILINE)), (
        f"{page} has a fence of another form"
    )
    return set(found)


def lines(page: str) -> list[str]:
    """What a reader types, a line each, without comments and with continued lines joined."""
    if "bash" not in languages(page):
        return []
    joined = "\n".join(blocks(page, "bash")).replace("\\\n", " ").splitlines()
    return [line for line in joined if line.strip() and not line.startswith("#")]


def commands(page: str) -> list[list[str]]:
    """The words of every `run-bench` line, as a shell reads them, without the first."""
    return [shlex.split(line, comments=True)[1:] for line in lines(page) if line.startswith("run-bench ")]


def runnable(page: str) -> list[list[str]]:
    """Those that a test has to run."""
    return [words for words in commands(page) if not " ".join(["run-bench", *words]).startswith(tuple(NOT_RUN))]


def mentioned(page: str) -> Iterator[list[str]]:
    """The words of every `run-bench COMMAND ...` in a sentence, or behind or within another command."""
    sentences = re.findall(r"`run-bench ([a-z]+ [^`]+)`", BLOCK.sub("", (ROOT / page).read_text("utf-8")))
    others = [line for line in lines(page) if not line.startswith("run-bench ")]
    for found in [*sentences, *(each for line in others for each in re.findall(r"run-bench ([^'#]+)", line))]:
        yield shlex.split(found)
