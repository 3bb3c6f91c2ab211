"""The files under clusters/: valid shell and YAML, and every run-bench command in them is one that the program
understands."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import yaml
from typer.main import get_command

from harness.cli.main import app

ROOT = Path(__file__).resolve().parents[2]
SLURM = ROOT / "clusters" / "slurm.sh"
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


def test_the_commands_in_the_documents_exist():
    for name in ("README.md", "docs/clusters.md", "docs/add-a-method.md", "docs/plugins.md", "docs/results.md"):
        for block in re.findall(r"```bash\n(.*?)```", (ROOT / name).read_text(), re.DOTALL):
            for line in block.replace("\\\n", " ").splitlines():
                if line.startswith("run-bench"):
                    check(line.split("#")[0])
