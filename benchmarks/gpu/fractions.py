"""Two trials that share the device by Ray, one of which is killed."""

from __future__ import annotations

import os
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.check import Setting, Threshold, Work
from benchmarks.gpu.suites import drawn_images, planned
from harness.running.run import run
from harness.store.provenance import device_name
from harness.store.store import Store

EPOCHS = 12
GONE_WITHIN_S = 10.0


class Sharing:
    """Watches two trials, and kills one of them after an epoch at which both are at work."""

    def __init__(self, victim: str, kill: Callable[[int, int], None] = os.kill) -> None:
        self.victim, self.kill = victim, kill
        self.at_work: dict[str, int] = {}  # processes by trial
        self.most = 0
        self.pids: set[int] = set()
        self.devices: set[str] = set()
        self.launches: Counter[str] = Counter()
        self.killed = False

    def __call__(self, event: Any) -> None:
        name = event.get("trial_id", "")
        if event["event"] == "launch":
            self.launches[name] += 1
            self.pids.add(event["pid"])
            self.devices.add(event["devices"])
            self.at_work[name] = event["pid"]
            self.most = max(self.most, len(set(self.at_work.values())))
        if event["event"] in ("done", "failed", "retry"):
            self.at_work.pop(name, None)
        if event["event"] == "epoch" and name == self.victim and len(self.at_work) == 2 and not self.killed:
            self.killed = True
            self.kill(self.at_work[name], signal.SIGKILL)


def fractions(setting: Setting) -> list[Work]:
    """One work: half a GPU for each of two trials."""
    lines = {
        "trials at work at once, each in a process of its own": Threshold("==", 2),
        "different devices that they were given": Threshold("==", 1),
        "attempts of the one that was killed": Threshold("==", 2),
        "trials that are done": Threshold("==", 2),
        "their epochs in the store": Threshold("==", 2 * EPOCHS),
        "device in their rows": Threshold("==", device_name(setting.device)),
        "processes that are left": Threshold("==", 0),
        "device memory that is not given back, MiB": Threshold("<=", 64.0),
    }

    def measure() -> dict[str, Any]:
        with tempfile.TemporaryDirectory() as folder:
            specs = planned(
                setting, 0.5, dataset=drawn_images(Path(folder)), student={"name": "cnn", "width": 8},
                methods=["at"], seeds=[0, 1], training={"epochs": EPOCHS, "batch_size": 64, "attack_steps": 2},
                evaluation={"attacks": ["clean", "pgd2"]},
            )  # fmt: skip
            watch, store, before = Sharing(specs[0].trial_id), Store(Path(folder) / "store"), _free(setting)
            run(specs, store, on_event=watch)
            left = _left(watch.pids)
            found = (*seen(watch, store), left, (before - _free(setting)) / 2**20)
        return dict(zip(lines, found, strict=True))

    return [Work(lines, measure)]


def seen(watch: Sharing, store: Store) -> tuple[Any, ...]:
    """The first six lines."""
    rows = store.trials(["status", "device"])
    return (
        watch.most,
        len(watch.devices),
        watch.launches[watch.victim] if watch.killed else 0,
        int((rows["status"] == "done").sum()),
        len(store.read("epochs", columns=["epoch"])),
        ", ".join(sorted(set(map(str, rows["device"])))),
    )


def _left(pids: set[int]) -> int:
    """How many of the processes are still there when there was time to end."""
    end = time.monotonic() + GONE_WITHIN_S
    while (left := sum(Path(f"/proc/{pid}").exists() for pid in pids)) and time.monotonic() < end:
        time.sleep(0.1)
    return left


def _free(setting: Setting) -> int:
    """Bytes of the device that nobody has; of a processor's memory it is not asked."""
    return torch.cuda.mem_get_info(setting.device)[0] if setting.device.type == "cuda" else 0
