"""Runs that lose workers, drivers and nodes: real processes, real kills. Each driver is a process of its own."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import fake_driver
import fake_trials as fake
import pytest

from harness.spec import TrialSpec
from harness.store.store import Store
from tests.running.test_scheduler import check_devices, ids
from tests.waiting import wait_until

pytestmark = pytest.mark.slow

HERE = Path(__file__).resolve().parents[1]


def start_driver(scenario: str, root: Path) -> subprocess.Popen[str]:
    """A driver that was started elsewhere, and that alone is told where the package is: workers learn it from it."""
    path = [str(HERE.parent), str(HERE)]
    code = f"import sys; sys.path[:0] = {path!r}; import fake_driver; fake_driver.main()"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, "-c", code, scenario, str(root)]
    return subprocess.Popen(
        command, cwd=root, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def outcome_of(driver: subprocess.Popen[str], timeout: float = 400.0) -> dict[str, Any]:
    """The outcome that a driver printed; its standard error is kept under `stderr`."""
    out, err = driver.communicate(timeout=timeout)
    assert out, err
    return json.loads(out.splitlines()[-1]) | {"stderr": err}


def steps_done(root: Path, spec: TrialSpec) -> int:
    path = root / "work" / spec.training_id / "step"
    return int(path.read_text() or 0) if path.exists() else 0


def assert_clean(root: Path, specs: Sequence[TrialSpec]) -> None:
    """Everything is done, once, and nothing is left behind: no process, no temporary file, no control file."""
    assert Store(root).statuses() == dict.fromkeys(ids(list(specs)), "done")
    assert len(Store(root).trials()) == len(specs)
    assert not list(root.rglob("*.tmp"))
    assert not (root / "work" / "control.json").exists()
    wait_until(lambda: not living(root, specs))


def living(root: Path, specs: Sequence[TrialSpec]) -> list[int]:
    """The processes that a trial ran in and that have not ended."""
    pids = {entry["pid"] for spec in specs for entry in fake.journal(root, spec)}
    return [pid for pid in pids if Path(f"/proc/{pid}").exists()]


@pytest.mark.parametrize(
    ("process", "reason"),
    [
        ("raylet", "Ray has no node left: its processes were ended"),
        ("gcs_server", r"Ray's control process at [\d.:]+ no longer answers"),
    ],
)
def test_a_local_ray_whose_processes_were_ended_ends_the_run(process: str, reason: str, tmp_path: Path) -> None:
    specs = fake_driver.long_trials()
    driver = start_driver("plain", tmp_path)
    wait_until(lambda: driver.poll() is not None or sum(steps_done(tmp_path, spec) >= 2 for spec in specs) >= 2)
    (pid,) = [
        int(path.parent.name)
        for path in Path("/proc").glob("[0-9]*/stat")
        if path.read_text().split("(", 1)[1].startswith(f"{process})") and _parent(path) == driver.pid
    ]
    os.kill(pid, signal.SIGKILL)
    stopped = outcome_of(driver, timeout=120)
    assert stopped["exit_code"] == 1
    assert re.fullmatch(reason, stopped["stop_reason"])
    outcome_of(start_driver("plain", tmp_path))
    assert_clean(tmp_path, specs)


_STRANGER = """
import sys, ray
try:
    ray.init(sys.argv[1], log_to_driver=False, logging_level="ERROR")
    print("let in")
except ConnectionError:
    print("refused")
"""


@pytest.mark.parametrize("stranger", [{"RAY_AUTH_MODE": "disabled"}, {"RAY_AUTH_TOKEN": 64 * "0"}])
def test_a_local_ray_lets_no_stranger_in_and_leaves_no_folder(stranger: dict[str, str]) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:  # a short path
        host = f"""if True:
            import os, subprocess, sys
            from harness.running.on_ray import connected
            with connected(num_cpus=1):
                import ray
                address = ray.get_runtime_context().gcs_address
                environment = dict(os.environ)
                del environment["RAY_AUTH_TOKEN"]
                environment.update({stranger!r})
                subprocess.run([sys.executable, "-c", {_STRANGER!r}, address], env=environment, check=True)
                print(*os.listdir("{folder}"))
            print(len(os.listdir("{folder}")))
        """
        done = subprocess.run(
            [sys.executable, "-c", host],
            env={**environment, "RAY_TMPDIR": folder, "PYTHONPATH": str(HERE.parent)},
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
    said, during, after = done.stdout.splitlines()
    assert said == "refused"
    assert during.startswith("ray-")
    assert after == "0"


def _parent(stat: Path) -> int:
    return int(stat.read_text().rsplit(")", 1)[1].split()[1])


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_driver_that_was_killed_is_simply_started_again(number: signal.Signals, tmp_path: Path) -> None:
    specs = fake_driver.long_trials()
    driver = start_driver("plain", tmp_path)
    wait_until(lambda: driver.poll() is not None or sum(steps_done(tmp_path, spec) >= 2 for spec in specs) >= 4)
    assert driver.poll() is None, driver.communicate()
    driver.send_signal(number)
    if number == signal.SIGTERM:
        stopped = outcome_of(driver)
        assert (stopped["exit_code"], stopped["stop_reason"]) == (130, "SIGTERM")
        assert len(stopped["done"]) + len(stopped["interrupted"]) == len(specs)
        assert set(Store(tmp_path).statuses().values()) == {"done", "interrupted"}
    else:
        driver.communicate()
        wait_until(lambda: not living(tmp_path, specs))  # its workers may still finish a trial
    finished = {name for name, status in Store(tmp_path).statuses().items() if status == "done"}
    started = {spec.trial_id: len(fake.start_steps(tmp_path, spec)) for spec in specs}
    reached = {spec.trial_id: steps_done(tmp_path, spec) for spec in specs}
    assert len(finished) >= 2
    assert len(finished) < len(specs)

    again = outcome_of(start_driver("plain", tmp_path))
    assert again["exit_code"] == 0
    assert set(again["skipped"]) == finished
    for spec in specs:
        name, steps = spec.trial_id, fake.start_steps(tmp_path, spec)
        assert len(steps) == started[name] + (name not in finished)
        assert name in finished or steps[-1] == reached[name]
    assert any(reached[spec.trial_id] > 0 and spec.trial_id not in finished for spec in specs)
    assert_clean(tmp_path, specs)


def test_the_trials_of_a_lost_node_finish_on_another(tmp_path: Path) -> None:
    outcome = outcome_of(start_driver("node_loss", tmp_path))
    specs = fake_driver.movable_trials()
    assert sorted(outcome["done"]) == sorted(ids(specs))
    removed = outcome["stderr"].split("removed ")[1].split()[0]
    moved = 0
    for spec in specs:
        starts = [entry for entry in fake.journal(tmp_path, spec) if entry["what"] == "start"]
        if starts[0]["node"] == removed:
            moved += 1
            assert len(starts) == 2
            assert starts[1]["node"] != removed
            assert starts[1]["step"] >= 2
        else:
            assert len(starts) == 1
    assert moved == 2
    assert_clean(tmp_path, specs)


def test_a_matrix_under_random_kills_is_complete(tmp_path: Path) -> None:
    outcome = outcome_of(start_driver("killer", tmp_path))
    specs = fake_driver.soak_trials()
    kills = outcome["stderr"].count("killed ")
    assert kills >= 10
    assert (len(outcome["done"]), outcome["failed"], outcome["blocked"]) == (len(specs), {}, {})
    starts = [fake.start_steps(tmp_path, spec) for spec in specs]
    assert sum(map(len, starts)) <= len(specs) + kills
    assert all(steps == sorted(steps) for steps in starts)  # each goes on from where it was
    assert_clean(tmp_path, specs)


def test_devices_of_simulated_nodes_are_used_and_never_over_committed(tmp_path: Path) -> None:
    """64 trials that sleep, on eight GPUs of two nodes: where and in which order they were put is at least 90 % as good
    as the best schedule that we know. How long this machine takes to start one does not count."""
    outcome = outcome_of(start_driver("packing", tmp_path))
    specs = fake_driver.gpu_trials()
    assert sorted(outcome["done"]) == sorted(ids(specs))
    check_devices(tmp_path, specs)
    starts = {spec.trial_id: fake.journal(tmp_path, spec)[0] for spec in specs}
    assert len({(start["node"], start["devices"]) for start in starts.values()}) == 8
    placed: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for spec in sorted(specs, key=lambda spec: starts[spec.trial_id]["time"]):
        start = starts[spec.trial_id]
        placed.setdefault((start["node"], start["devices"]), []).append((spec.resources.gpu, fake.seconds(spec)))
    makespan = max(makespan_of(order, devices=1, in_order=True) for order in placed.values())
    best = best_schedule([(spec.resources.gpu, fake.seconds(spec)) for spec in specs], devices=8)
    print(f"{makespan:.1f} s, the best schedule {best:.1f} s: {best / makespan:.1%}")
    assert best / makespan >= 0.9


def best_schedule(trials: list[tuple[float, float]], devices: int) -> float:
    """The shortest makespan of trials (share of a device, seconds) among many orders, each with perfect foresight."""
    numbers = random.Random(0)
    orders = [sorted(trials, key=lambda trial: -trial[1] * numbers.uniform(0.6, 1.4)) for _ in range(1000)]
    return min(makespan_of(order, devices) for order in orders)


def makespan_of(order: list[tuple[float, float]], devices: int, in_order: bool = False) -> float:
    """Each trial on the fullest device that has room for it, as soon as one has, in this order of preference; or
    strictly in this order, none before the one before it."""
    free, waiting, now = [1.0] * devices, list(order), 0.0
    running: list[tuple[float, int, float]] = []
    while waiting or running:
        for trial in list(waiting):
            share, seconds = trial
            room = [device for device in range(devices) if free[device] >= share]
            if room:
                device = min(room, key=lambda device: free[device])
                free[device] -= share
                running.append((now + seconds, device, share))
                waiting.remove(trial)
            elif in_order:
                break
            if max(free) == 0:
                break
        running.sort()
        now, device, share = running.pop(0)
        free[device] += share
    return now
