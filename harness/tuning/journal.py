"""What a search has decided so far, kept on disk: its settings in order, and what became of each. Free of Ray.

The numbers are in the store; here is what no trial knows: which settings belong to the search, what it was told of
them, and where they were stopped.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypedDict

from harness.errors import InputError, Kind
from harness.files import make_folder, write_bytes
from harness.tuning.space import Setting, Values

Status = Literal["open", "done", "stopped", "failed"]
SETTLED = ("done", "stopped", "failed")


class Entry(TypedDict):
    """What became of a setting. epochs: reported so far. curve: after each of them the metric and the validation
    average, means over seeds. reused: epochs of all its seeds that were there before. reason: of a stop or a failure.
    """

    method: str
    values: Values
    status: Status
    epochs: int
    curve: list[list[float]]
    reused: int | None
    reason: str | None


class Report(TypedDict, total=False):
    """What a setting tells the search after an epoch.

    metrics: each metric's mean over the seeds. by_seed: the search's own metric, as `seed_1000` and so on. objective:
    its mean, or the worst possible. reused: epochs of all seeds that were there before. failed: of a setting of which a
    seed raised, in a line; kind: whose fault that is. interrupted: stands alone, in place of the first report.
    """

    epoch: int
    objective: float
    metrics: dict[str, float]
    by_seed: dict[str, float]
    reused: int
    failed: str | None
    kind: Kind
    interrupted: bool


class Journal:
    """`<folder>/journal.json`: what is searched, how long it took, and the entries."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "journal.json"
        found = _load(self.path)
        self.entries: list[Entry] = found.get("settings", [])
        self._wall_before = float(found.get("wall_s", 0.0))
        self._since: float | None = None

    @property
    def wall_s(self) -> float:
        """Seconds that drivers have spent on this search, all of them together."""
        return self._wall_before + (time.monotonic() - self._since if self._since is not None else 0.0)

    def begin(self, facts: dict[str, Any], settings: Sequence[Setting]) -> None:
        """A driver takes up the search. facts: what is searched, for people who read the file. settings: those that are
        known beforehand."""
        self._since = time.monotonic()
        self._facts = facts
        make_folder(self.path.parent)
        for setting in settings:
            self.entry(setting)
        self.save()

    def entry(self, setting: Setting) -> Entry:
        """The entry of a setting, a new one at the end if there is none."""
        for entry in self.entries:
            if setting_of(entry).key == setting.key:
                return entry
        name, values = setting
        new: Entry = {"method": name, "values": values, "status": "open", "epochs": 0, "curve": [], "reused": None,
                      "reason": None}  # fmt: skip
        self.entries.append(new)
        return new

    def first(self, tries: Mapping[str, int]) -> list[Entry]:
        """The first entries of every method, so many of each; a search that was made longer has more."""
        return [
            entry
            for method, count in tries.items()
            for entry in [each for each in self.entries if each["method"] == method][:count]
        ]

    def is_settled(self, tries: Mapping[str, int]) -> bool:
        """Whether so many settings of every method are decided."""
        settled = [entry for entry in self.first(tries) if entry["status"] in SETTLED]
        return len(settled) == sum(tries.values())

    def forget_failures(self) -> None:
        """Failed settings are open again."""
        for entry in self.entries:
            if entry["status"] == "failed":
                entry.update({"status": "open", "epochs": 0, "curve": [], "reason": None})

    def note(self, entry: Entry, report: Report) -> None:
        """One report of a setting."""
        if entry["reused"] is None:
            entry["reused"] = report["reused"]
        if "failed" in report:
            return
        entry["epochs"] = max(entry["epochs"], report["epoch"])
        if report["epoch"] > len(entry["curve"]):  # else told again
            entry["curve"].append([report["objective"], report["metrics"]["val_robust_avg"]])

    def settle(self, entry: Entry, status: Status, reason: str | None) -> None:
        """A setting is decided: written to disk at once."""
        entry.update({"status": status, "reason": reason})
        self.save()

    def save(self) -> None:
        content = {**self._facts, "wall_s": round(self.wall_s, 1), "settings": self.entries}
        write_bytes(self.path, json.dumps(content, indent=1).encode())


def setting_of(entry: Entry) -> Setting:
    """The setting that an entry is about."""
    return Setting(entry["method"], entry["values"])


def line(entry: Entry, place: int, count: int, metric: str, epochs: int) -> str:
    """A settled setting in one line, for a terminal."""
    found = f", {metric} {entry['curve'][-1][0]:.4f}" if entry["curve"] else ""
    reason = f": {entry['reason']}" if entry["status"] == "failed" else ""
    reached = f"epoch {entry['epochs']}/{epochs}"
    return f"[{place}/{count}] {setting_of(entry)}: {entry['status']}, {reached}{found}{reason}"


def _load(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text())
        if not isinstance(found, dict):
            return {}
        if not all(Entry.__required_keys__ <= each.keys() for each in found.get("settings", [])):
            raise ValueError("a setting is incomplete")
        float(found.get("wall_s", 0.0))
        return found
    except FileNotFoundError:
        return {}
    except (ValueError, TypeError, AttributeError) as error:
        raise InputError(f"{path} is damaged ({error}); it can be removed: finished trials are in the store") from error
