"""The code of the README and the commands of docs/tuning.md run as printed, in order; only their budgets are made tiny.
Code of the other pages runs where what it is about is tested."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from harness.data.registry import DEBIAN_FASHION_MNIST

ROOT = Path(__file__).resolve().parents[1]
TINY = [
    "training.epochs=1", "training.milestones=[]", "dataset.train_images=100", "dataset.test_images=40",
    "training.attack_steps=1", "evaluation={attacks: [clean, pgd20]}", "primary=[]",
]  # fmt: skip
SETS = [word for each in TINY for word in ("--set", each)]
BUDGETS = {"run": [*SETS, "--serial"], "status": SETS, "report": SETS, "tune": ["--dry-run"]}
READERS_OWN = {"evaluate"}  # the network is the reader's, the data CIFAR-10


def blocks(document: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", (ROOT / document).read_text(), re.DOTALL | re.MULTILINE)


def commands(document: str) -> list[list[str]]:
    """The words of every run-bench command, as a shell reads them, but for those of readers' own networks."""
    lines = "\n".join(blocks(document, "bash")).replace("\\\n", " ").splitlines()
    found = [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("run-bench ")]
    return [words for words in found if words[0] not in READERS_OWN]


def run(words: list[str], folder: Path) -> None:
    """One command, with a tiny budget: later options win over those that it is printed with."""
    full = "--dry-run" in words or words[1].startswith("results/")  # what is published is reported as it is
    short = words if full else [*words, *BUDGETS.get(words[0], [])]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(ROOT / "run_bench.py"), *short]
    ended = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment, timeout=600)
    assert ended.returncode == 0, f"{shlex.join(short)}\n{ended.stdout[-2000:]}\n{ended.stderr[-2000:]}"


@pytest.fixture
def clone(tmp_path):
    shutil.copytree(ROOT / "results", tmp_path / "results", ignore=shutil.ignore_patterns("runs"))
    return tmp_path


@pytest.mark.slow
@pytest.mark.skipif(not DEBIAN_FASHION_MNIST.exists(), reason="needs Debian's dataset-fashion-mnist")
@pytest.mark.parametrize("document", ["README.md", "docs/tuning.md"])
def test_the_commands_run_in_order(document, clone):
    found = commands(document)
    assert len(found) >= 2
    for words in found:
        run(words, clone)
    if document == "README.md":
        assert (clone / "results" / "runs" / "fashion_mnist" / "report" / "index.html").is_file()


@pytest.mark.slow
@pytest.mark.skipif(not DEBIAN_FASHION_MNIST.exists(), reason="needs Debian's dataset-fashion-mnist")
def test_the_suite_and_the_python_of_the_readme_run(tmp_path):
    (suite,) = blocks("README.md", "yaml")
    assert len(yaml.safe_load(suite)["methods"]) >= 3
    (tmp_path / "mine.yaml").write_text(suite)
    run(["run", "mine.yaml", "--seeds", "0"], tmp_path)
    (code,) = blocks("README.md", "python")
    short = code.replace('run_suite("quickstart",', f'run_suite("quickstart", overrides={TINY},')
    assert short != code
    guarded = "if __name__ == '__main__':\n" + "".join(f"    {line}\n" for line in short.splitlines())
    (tmp_path / "mine.py").write_text(guarded + "    assert len(store.read('trials')) == 3\n")
    subprocess.run([sys.executable, "mine.py"], cwd=tmp_path, check=True, env=os.environ | {"PYTHONPATH": str(ROOT)})
