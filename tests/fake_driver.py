"""A driver in a process of its own, for tests that kill it or take its nodes away."""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import fake_trials as fake

from harness.events import Event
from harness.running import run as scheduler
from harness.running.run import Options, Outcome, connected, run
from harness.spec import TrialSpec
from harness.store.store import Store
from harness.store.tables import TABLES
from harness.suites.plan import plan
from harness.suites.suite import load_suite
from tests.small import small_specs, spoil, suite_file


def long_trials() -> list[TrialSpec]:
    """Two finish soon, four take a while; two run at a time."""
    return [fake.make(seed, steps=4, step_s=0.05, role="teacher") for seed in range(2)] + [
        fake.make(seed, steps=12, step_s=0.3) for seed in range(2, 6)
    ]


def movable_trials() -> list[TrialSpec]:
    """All four have time to reach their second step before the first ends."""
    return [fake.make(seed, steps=20, step_s=0.5) for seed in range(4)]


def gpu_trials() -> list[TrialSpec]:
    """64 trials on whole GPUs, halves and quarters; larger shares tend to take longer, as larger networks do."""
    numbers = random.Random(0)
    specs = []
    for seed in range(64):
        share = numbers.choice([1, 0.5, 0.25])
        seconds = round(numbers.uniform(6, 18) * share**0.5, 2)
        specs.append(fake.make(seed, "quiet", gpu=share, cpu=1, steps=1, step_s=seconds))
    return specs


def soak_trials() -> list[TrialSpec]:
    return [fake.make(seed, steps=5, step_s=0.03, cpu=1) for seed in range(80)]


def real_trials() -> list[TrialSpec]:
    """A teacher and three students on digits, some seconds each."""
    overrides = ("training.epochs=8", "dataset.train_images=1000", "training.attack_steps=10")
    with TemporaryDirectory() as folder:
        return list(small_specs(Path(folder), *overrides).values())


def execute(
    specs: list[TrialSpec],
    root: Path,
    on_event: Callable[[Event], None] = lambda event: None,
    run_trial: str = "fake_trials:run",
) -> Outcome:
    return run(specs, Store(root), options=Options(run_trial=run_trial, minimum_free_bytes=0), on_event=on_event)


def plain(root: Path) -> Outcome:
    """On two logical CPUs of this machine."""
    with connected(num_cpus=2):
        return execute(long_trials(), root)


def real(root: Path) -> Outcome:
    """Real trials on two logical CPUs of this machine, which can be held; says with which epoch each begins."""
    begun = set()

    def on_event(event: Event) -> None:
        if event["event"] == "epoch" and event["trial_id"] not in begun:
            begun.add(event["trial_id"])
            print(event["trial_id"], event["epoch"], file=sys.stderr)

    with connected(num_cpus=2):
        return execute(real_trials(), root, on_event, "real_trials:held_in_training")


def killer(root: Path) -> Outcome:
    """Kills a random worker at every 15th epoch; one that could not finish an epoch since it was killed is spared."""
    numbers, pids, spared, epochs = random.Random(1), {}, set(), 0

    def on_event(event: Event) -> None:
        nonlocal epochs
        name = event.get("trial_id")
        if event["event"] == "launch":
            pids[name] = event["pid"]
        elif event["event"] in ("done", "retry"):
            pids.pop(name, None)
        elif event["event"] == "epoch":
            spared.discard(name)
            epochs += 1
            if epochs % 15 == 0:
                victim = numbers.choice(sorted(pids.keys() - spared))
                spared.add(victim)
                with suppress(ProcessLookupError):
                    os.kill(pids.pop(victim), signal.SIGKILL)
                    print("killed", victim, file=sys.stderr)

    with connected(num_cpus=4):
        return execute(soak_trials(), root, on_event)


def soak_of_real_trials() -> list[TrialSpec]:
    """So many short trials on digits as SOAK_TRIALS says, 16 by default."""
    wanted = int(os.environ.get("SOAK_TRIALS", "16"))
    overrides = ("training.epochs=3", f"seeds={list(range(wanted))}")
    with TemporaryDirectory() as folder:
        specs = plan(load_suite(suite_file(Path(folder), methods=["at"]), overrides))
    return [spec for spec in specs if spec.role == "student"]


class Havoc:
    """Kills a random worker for every eight epochs that were done, whatever a machine takes for them, and damages
    files: once of each trial that was killed or interrupted one that it works with, and of every fourth that is
    finished one with its rows.

    A trial that could not finish a further epoch since it was killed is spared. `counts`: what was done.
    """

    def __init__(self, root: Path, specs: list[TrialSpec]) -> None:
        self.root, self.training_ids = root, {spec.trial_id: spec.training_id for spec in specs}
        self.half = sum(spec.training.epochs for spec in specs if spec.training) // 2
        self.numbers = random.Random(2)
        self.pids: dict[str, int] = {}
        self.launched: list[int] = []
        self.reached: dict[str, int] = {}
        self.spared: set[str] = set()
        self.damaged_work: set[str] = set()
        self.damaged_rows: list[str] = []
        self.counts: Counter[str] = Counter()
        self.damages: Counter[str] = Counter()

    def __call__(self, event: Event) -> None:
        name, kind = event.get("trial_id", ""), event["event"]
        if kind == "launch":
            self.pids[name] = event["pid"]
            self.launched.append(event["pid"])
        elif kind == "epoch" and event["epoch"] > self.reached.get(name, 0):
            self.reached[name] = event["epoch"]
            self.spared.discard(name)
            self.counts["epochs"] += 1
            self.kill()
        elif kind in ("retry", "interrupted", "done"):
            self.pids.pop(name, None)
            self.counts[kind] += 1
            self.damage_rows(name) if kind == "done" else self.damage_work(name)

    def kill(self) -> None:
        if self.counts["epochs"] == self.half:
            os.kill(os.getpid(), signal.SIGTERM)  # all are interrupted
        victims = sorted(self.pids.keys() - self.spared)
        if victims and self.counts["epochs"] >= 8 * (self.counts["kills"] + 1):
            victim = self.numbers.choice(victims)
            self.spared.add(victim)
            with suppress(ProcessLookupError):
                os.kill(self.pids.pop(victim), signal.SIGKILL)
                self.counts["kills"] += 1

    def damage_work(self, name: str) -> None:
        folder = self.root / "work" / self.training_ids[name]
        files = sorted(
            path for path in folder.rglob("*") if path.is_file() and not path.name.startswith((".", "damaged"))
        )
        if files and name not in self.damaged_work:
            self.damaged_work.add(name)
            path = self.numbers.choice(files)
            self.damage(path, path.name if path.parent == folder else "of an evaluation")

    def damage_rows(self, name: str) -> None:
        tables = [table for table in TABLES if (self.root / table / f"{name}.parquet").exists()]
        if self.counts["done"] % 4 == 0:
            table = self.numbers.choice(tables)
            self.damaged_rows.append(name)
            self.damage(self.root / table / f"{name}.parquet", table)

    def damage(self, path: Path, what: str) -> None:
        how = self.numbers.choice(["flipped", "truncated", "gone"])
        spoil(path, how, self.numbers.random())
        self.damages[f"{what} {how}"] += 1


def soak(root: Path) -> Outcome:
    """Real trials under `Havoc`, interrupted half-way and started again. Leaves counts in `soak.json`."""
    specs = soak_of_real_trials()
    havoc, began = Havoc(root, specs), time.monotonic()
    try:
        with connected(num_cpus=2):
            interrupted = execute(specs, root, havoc, "harness.trial:run_trial")
            assert interrupted.stop_reason == "SIGTERM"
            return execute(specs, root, havoc, "harness.trial:run_trial")
    finally:
        seconds = round(time.monotonic() - began)
        told = {"pids": havoc.launched, "damaged_rows": havoc.damaged_rows, "damages": havoc.damages}
        (root / "soak.json").write_text(json.dumps({**havoc.counts, **told, "seconds": seconds}))


@contextmanager
def simulated_cluster(nodes: int, **resources: float) -> Iterator[Any]:
    """Nodes on this machine behind a head without resources; inside, this process is connected by address."""
    from ray.cluster_utils import Cluster

    small = {"object_store_memory": 80 * 2**20, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **small})
    try:
        for _ in range(nodes):
            try:
                cluster.add_node(**resources, object_store_memory=80 * 2**20)
            except Exception:  # Ray gives a node half a minute to start, which a busy machine may exceed
                cluster.add_node(**resources, object_store_memory=80 * 2**20)
        cluster.wait_for_nodes()
        with connected(cluster.address):
            yield cluster
    finally:
        cluster.shutdown()


def node_loss(root: Path) -> Outcome:
    """Two nodes; one is taken away as soon as each of four trials has finished its second step."""
    reached: set[str] = set()
    removed: list[str] = []
    with simulated_cluster(2, num_cpus=2) as cluster:

        def on_event(event: Event) -> None:
            if event["event"] == "epoch" and event["epoch"] == 2:
                reached.add(event["trial_id"])
            if len(reached) == 4 and not removed:
                node = cluster.list_all_nodes()[-1]
                removed.append(node.node_id)
                cluster.remove_node(node, allow_graceful=False)

        outcome = execute(movable_trials(), root, on_event)
        print("removed", *removed, file=sys.stderr)
        return outcome


def packing(root: Path) -> Outcome:
    """Two nodes with four GPUs each. Here processes are started beforehand and used again, which a real GPU trial never
    does: 64 starts would measure how fast two cores start Python, and not how well the devices are used."""

    class Reusing(scheduler.RayLauncher):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            self._on_gpu = self._on_cpu

    scheduler.RayLauncher = Reusing  # type: ignore[misc]
    with simulated_cluster(2, num_cpus=16, num_gpus=4):
        with TemporaryDirectory() as folder:
            start_gpu_processes(32, Path(folder))
        return execute(gpu_trials(), root)


def start_gpu_processes(count: int, folder: Path) -> None:
    """Leaves so many idle worker processes behind that Ray gives to tasks with GPUs."""
    import ray

    def start(path: list[str]) -> None:
        import sys

        sys.path[:0] = path
        import fake_trials  # noqa: F401

        (folder / str(os.getpid())).touch()
        while len(list(folder.iterdir())) < count:  # none ends before all are there, so none is used twice
            time.sleep(0.2)

    task = ray.remote(start).options(num_cpus=1, num_gpus=8 / count)
    ray.get([task.remote(sys.path) for _ in range(count)])


SCENARIOS = {"plain": plain, "real": real, "soak": soak, "killer": killer, "node_loss": node_loss, "packing": packing}


def main() -> None:
    """Runs the scenario named by the first argument in the store named by the second; prints the outcome as JSON."""
    found = SCENARIOS[sys.argv[1]](Path(sys.argv[2]))
    print(json.dumps(vars(found) | {"exit_code": found.exit_code}))
    sys.exit(found.exit_code)
