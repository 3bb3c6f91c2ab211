"""The files under clusters/: valid shell and YAML, and every run-bench command in them is one that the program
understands."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess

import pytest
import yaml
from typer.main import get_command

from harness.cli.main import app
from harness.store.store import Store
from tests.command import bench
from tests.pages import ROOT, commands

SLURM = ROOT / "clusters" / "slurm.sh"
DIGITS = [word for change in (
    "dataset={name: digits, train_images: 100, test_images: 40}", "students=[{name: cnn, width: 4}]",
    "teacher={model: {name: cnn, width: 4}, method: at}", "eps=0.1", "methods=[rslad]", "training.epochs=1",
    "training.milestones=[]", "training.attack_steps=1", "evaluation.attacks=[clean]", "resources={cpu: 1}",
    "precision=float32", "threads=1",
) for word in ("--set", change)]  # fmt: skip
RAYJOB = ROOT / "clusters" / "rayjob.yaml"


def options_of(command: str) -> set[str]:
    """The options that a command of the program takes."""
    return {name for parameter in get_command(app).commands[command].params for name in parameter.opts}


def check(line: str) -> None:
    """A `run-bench COMMAND ...` line names a command and options that exist."""
    program, command, *words = shlex.split(line)
    assert program == "run-bench"
    assert {word.split("=")[0] for word in words if word.startswith("--")} <= options_of(command)


def test_the_slurm_script_is_valid_shell_and_calls_the_command():
    subprocess.run(["bash", "-n", str(SLURM)], check=True)
    text = SLURM.read_text().replace("\\\n", " ")
    (line,) = re.findall(r"run-bench run .*", text)
    check(line)
    assert "ray symmetric-run" in text
    assert "export RAY_AUTH_MODE=token\n" in text
    assert "export RAY_AUTH_TOKEN\n" in text


def test_the_rayjob_is_valid_and_calls_the_command():
    job = yaml.safe_load(RAYJOB.read_text())
    assert (job["kind"], job["apiVersion"]) == ("RayJob", "ray.io/v1")
    check(job["spec"]["entrypoint"])
    assert job["spec"]["rayClusterSpec"]["authOptions"] == {"mode": "token"}
    groups = [job["spec"]["rayClusterSpec"]["headGroupSpec"], *job["spec"]["rayClusterSpec"]["workerGroupSpecs"]]
    for group in groups:
        pod = group["template"]["spec"]
        mounts = {mount["name"] for container in pod["containers"] for mount in container["volumeMounts"]}
        assert mounts == {volume["name"] for volume in pod["volumes"]} == {"shared"}


@pytest.mark.slow
def test_two_machines_without_a_shared_folder(tmp_path):
    """The page's three commands, each where it says, with digits in place of the paper's data and teacher."""
    here, there = tmp_path / "here", tmp_path / "there"
    first, second, merged = (words for words in commands("docs/clusters.md") if "--address" not in words)
    for folder, (command, *words) in ((here, first), (there, second)):
        folder.mkdir()
        if folder == there:
            shutil.copytree(here / "results" / "a", there / "results" / "a")
        bench(command, *words, *DIGITS, "--serial", cwd=folder)
    shutil.copytree(there / "results" / "b", here / "results" / "b")
    bench(*merged, cwd=here)
    trials = Store(here / "results" / "all").trials()
    students = trials[trials["role"] == "student"]
    assert sorted(students["seed"]) == [0, 1, 2]
    assert students["teacher_sha256"].nunique() == 1
    assert (trials["role"] == "teacher").sum() == 1
