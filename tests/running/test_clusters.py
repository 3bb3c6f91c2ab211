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
from tests.pages import ROOT, runnable

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
    (line,) = re.findall(r"run-bench run .*", SLURM.read_text().replace("\\\n", " "))
    check(line)


STAND_INS = {
    "scontrol": "echo node-a; echo node-b",
    "srun": 'while [ "${1#--}" != "$1" ]; do echo "srun $1"; shift; done; exec "$@"',
    "ray": 'echo "ray $*"; echo "$RAY_AUTH_MODE $RAY_AUTH_TOKEN"',
    "run-bench": "",
}


@pytest.mark.parametrize("installed", [True, False])
def test_the_slurm_script_hands_on_environment_cpus_and_a_free_port(installed, tmp_path):
    """With stand-ins for SLURM and Ray that say what they are called with; the environment comes by its folder."""
    folder = tmp_path / "venv" / "bin"
    folder.mkdir(parents=True)
    for name, text in STAND_INS.items():
        if installed or name != "run-bench":
            (folder / name).write_text(f"#!/bin/bash\n{text}\n")
            (folder / name).chmod(0o755)
    (folder / "activate").write_text(f"PATH={folder}:$PATH")
    job = {"SLURM_JOB_NODELIST": "node-[a-b]", "SLURM_JOB_NUM_NODES": "2", "SLURM_CPUS_PER_TASK": "32"}
    environment = {"PATH": "/usr/bin:/bin", "ENVIRONMENT": str(tmp_path / "venv"), **job}
    words = ["bash", str(SLURM), "mine.yaml", "/shared/it is", "--seeds", "0,1"]
    done = subprocess.run(words, env=environment, capture_output=True, text=True)
    if not installed:
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith("run-bench is not installed here: ")
        return
    assert done.returncode == 0, done.stderr
    *of_srun, ray, token = done.stdout.splitlines()
    assert of_srun == [f"srun --{each}" for each in ("nodes=2", "ntasks=2", "cpus-per-task=32")]
    began = re.fullmatch(r"ray symmetric-run --address node-a:(\d+) --min-nodes 2 --num-cpus 32 -- (.*)", ray)
    assert began
    assert 1024 <= int(began[1]) <= 65535
    assert began[2] == "run-bench run mine.yaml --address auto --results /shared/it is --seeds 0,1"
    assert re.fullmatch("token [0-9a-f]{64}", token)


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
    first, second, merged = runnable("docs/clusters.md")
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
