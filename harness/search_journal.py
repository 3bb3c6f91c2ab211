"""What a search has decided so far, kept on disk: its settings in order, and what became of each. Free of Ray.

The numbers are in the store; here is only what no trial knows: which settings belong to the search, and where its
scheduler stopped them.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.errors import InputError
from harness.files import make_folder, write_bytes
from harness.space import Values, key_of, short

Entry = dict[str, Any]
SETTLED = ("done", "stopped", "failed")


class Journal:
    """`<folder>/journal.json`. Entries: `values`; `status`, of open, done, stopped, failed; `epochs` reported;
    `reused`, epochs of all its seeds that were there before; `reason` of a stop or a failure."""

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

    def begin(self, facts: dict[str, Any], settings: Sequence[Values]) -> None:
        """A driver takes up the search. facts: what is searched, for people who read the file. settings: those that are
        known beforehand."""
        self._since = time.monotonic()
        self._facts = facts
        make_folder(self.path.parent)
        for values in settings:
            self.entry(values)
        self.save()

    def entry(self, values: Values) -> Entry:
        """The entry of a setting, a new one at the end if there is none."""
        key = key_of(values)
        for entry in self.entries:
            if key_of(entry["values"]) == key:
                return entry
        self.entries.append({"values": values, "status": "open", "epochs": 0, "reused": None, "reason": None})
        return self.entries[-1]

    def settled(self, count: int | None = None) -> dict[str, Entry]:
        """The entries that are decided, of all or of the first `count`, by the key of their setting."""
        return {key_of(entry["values"]): entry for entry in self.entries[:count] if entry["status"] in SETTLED}

    def forget_failures(self) -> None:
        """Failed settings are open again."""
        for entry in self.entries:
            if entry["status"] == "failed":
                entry.update(status="open", epochs=0, reason=None)

    def note(self, entry: Entry, report: dict[str, Any]) -> None:
        """One report of a setting (see `harness.lockstep`)."""
        if entry["reused"] is None:
            entry["reused"] = report["reused"]
        entry["epochs"] = max(entry["epochs"], report["epoch"] if "failed" not in report else 0)

    def settle(self, entry: Entry, status: str, reason: str | None) -> None:
        """A setting is decided: written to disk at once."""
        entry.update(status=status, reason=reason)
        self.save()

    def save(self) -> None:
        content = {**self._facts, "wall_s": round(self.wall_s, 1), "settings": self.entries}
        write_bytes(self.path, json.dumps(content, indent=1).encode())


def line(entry: Entry, place: int, count: int, metric: str, value: float | None, epochs: int) -> str:
    """A settled setting in one line, for a terminal."""
    found = "" if value is None else f", {metric} {value:.4f}"
    reason = f": {entry['reason']}" if entry["status"] == "failed" else ""
    reached = f"epoch {entry['epochs']}/{epochs}"
    return f"[{place}/{count}] {short(entry['values'])}: {entry['status']}, {reached}{found}{reason}"


def _load(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text())
        return found if isinstance(found, dict) else {}
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise InputError(f"{path} is damaged ({error}); it can be removed: finished trials are in the store") from error
