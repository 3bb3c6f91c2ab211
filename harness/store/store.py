"""The result store: one folder of Parquet tables, the only truth about what has been run.

`<root>/<table>/<trial_id>.parquet` per trial; the file in `trials` is written last and is the commit mark. Finished
trials may be compacted into larger files (`harness.store.compaction`); a reader (`harness.store.reading`) sees no
difference. The same folder is where trials work (`harness.store.work`).
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pandas as pd

from harness.files import check_writable, make_folder, remove_leftovers, replacing
from harness.store import parquet
from harness.store.folder import FOLDERS, check_results_folder
from harness.store.manifest import Manifest
from harness.store.reading import COMMIT, Reader
from harness.store.tables import STATUSES, TABLES, checked_id, content_hash, to_arrow, trial_row


class Store(Reader):
    """The tables below `root`, to be read and to be added to. Opening it reads and writes nothing; `prepare` makes the
    folder."""

    def __init__(self, root: Path | str, manifest: Manifest | None = None, begun: bool = False) -> None:
        """begun: of a run, which has made the folder: where it is gone it is not made anew."""
        super().__init__(root, manifest)
        self._was_there = begun or self.root.is_dir()

    def prepare(self) -> Store:
        """Makes the folder, and says with an InputError if results cannot or should not be written there."""
        check_results_folder(self.root)
        check_writable(self.root)
        self._was_there = True
        return self

    def commit(self, trial: Mapping[str, Any], tables: Mapping[str, pd.DataFrame] | None = None) -> bool:
        """Stores a trial and its rows; False if it is kept out because the trial is done already.

        `trial` holds columns of the `trials` table, at least trial_id and status; columns that the other tables share
        with it (method, seed, ...) are filled in from it. Committing the same trial again is harmless: the last rename
        wins with equal content, and a failure never replaces a done trial. Until the last file is in place, the trial
        does not count. OSError (disk full) leaves no half-written file.
        """
        trial_id, status = checked_id(trial["trial_id"]), trial["status"]
        if status not in STATUSES:
            raise ValueError(f"status {status!r} is none of {', '.join(STATUSES)}")
        frames = dict(tables or {})
        if set(frames) - (set(TABLES) - {"trials"}):
            raise ValueError(f"no such table: {', '.join(sorted(set(frames) - set(TABLES)))}")
        content = {name: to_arrow(name, frame, trial) for name, frame in frames.items() if len(frame)}
        rows = {name: table.num_rows for name, table in content.items()}
        row = trial_row(trial)
        hashes = {name: content_hash(table) for name, table in {**content, "trials": row}.items()}
        mark = {"status": status, "tables": rows, "sha256": hashes}
        row = row.replace_schema_metadata({COMMIT: json.dumps(mark).encode()})
        attempt = int(trial.get("attempts") or 0)
        with self._committing():
            done = self.has(trial_id)
            if done and status != "done":
                return False
            if not done:  # an earlier, failed attempt goes: its mark first, so that none of its rows counts
                for name in TABLES:
                    self.path(name, trial_id).unlink(missing_ok=True)
            for name, table in [*content.items(), ("trials", row)]:
                self._make_folder(name)
                with replacing(self.path(name, trial_id), attempt) as temporary:
                    parquet.write(table, temporary, write_statistics=False)
        return True

    def record_attempt(self, trial_id: str) -> int:
        """Counts one more attempt at a trial, durably, and returns the number of attempts so far."""
        path = self._attempts_path(trial_id)
        self._make_folder("attempts")
        with open(path, "a") as file:
            file.write(f"{time.time():.3f} {os.uname().nodename} {os.getpid()}\n")
            file.flush()
            os.fsync(file.fileno())
        return self.attempts(trial_id)

    def attempts(self, trial_id: str) -> int:
        """The attempts recorded since the last `reset_attempts`."""
        try:
            return self._attempts_path(trial_id).read_bytes().count(b"\n")
        except FileNotFoundError:
            return 0

    def reset_attempts(self, trial_id: str) -> None:
        """Forgets the attempts of a trial: it made progress, or the user asks for it again."""
        self._attempts_path(trial_id).unlink(missing_ok=True)

    def remove_leftovers(self) -> int:
        """Removes temporary files of writers that are dead, in the store's own folders; returns how many."""
        return remove_leftovers(self.root, FOLDERS)

    def _make_folder(self, name: str) -> Path:
        """A folder of the store. FileNotFoundError where the store is no longer where it was: nothing is made there."""
        return make_folder(self.root / name, inside=self.root if self._was_there else None)

    def _attempts_path(self, trial_id: str) -> Path:
        return self.root / "attempts" / checked_id(trial_id)

    @contextmanager
    def _committing(self) -> Iterator[None]:
        """Keeps two writers from committing at once, so that a late failure cannot slip in behind a success.

        The lock is the kernel's: it falls with its process.
        """
        with open(self._make_folder("") / ".commit", "a") as file:
            with suppress(OSError):  # a file system without locks: what remains is the atomic rename
                fcntl.flock(file, fcntl.LOCK_EX)
            yield
