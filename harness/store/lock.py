"""One driver per store, wherever it runs.

The lock is a file `<store>/driver/<generation>.json`; the highest generation counts. Whoever finds it released, or its
holder dead, creates the next generation, which only one process can do: creating a file that must not exist is atomic
on every POSIX file system. A generation is never used twice, so a process that was slow to act on an old observation
fails to create its file and looks again. The heartbeat is the file's modification time, compared with the
modification time of a file made now: both are the file server's clock, so hosts may disagree about the time.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import threading
import time
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path
from types import TracebackType
from typing import Any

from harness.errors import InputError
from harness.files import check_writable, make_folder, temporary_path, write_bytes

HEARTBEAT_S = 5.0
STALE_S = 60.0


class StoreLock:
    """Context manager: this process is the store's one driver. InputError, saying who it is, if another one lives.

    A dead holder on this machine is taken over at once, one elsewhere when it has shown no heartbeat for STALE_S.
    """

    def __init__(self, root: Path | str, *, heartbeat: float = HEARTBEAT_S, stale: float = STALE_S) -> None:
        self.folder = Path(root) / "driver"
        self._heartbeat, self._stale = heartbeat, stale
        self._path: Path | None = None
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        self._lost = False

    @property
    def lost(self) -> bool:
        """Whether another driver took over, because this one could not show a heartbeat for too long."""
        return self._lost

    def acquire(self) -> None:
        """Takes the lock, or raises InputError; needs the store's folder to be writable."""
        check_writable(self.folder)
        while self._path is None:
            self._path = self._try()
        self._lost = False
        self._ended.clear()
        self._thread = threading.Thread(target=self._beat, args=(self._path,), name="store-lock", daemon=True)
        self._thread.start()

    def release(self) -> None:
        """Gives the lock back; harmless when it is not held or was lost."""
        path, self._path = self._path, None
        self._ended.set()
        if self._thread is not None:
            self._thread.join()
        if path is not None and path == _newest(self.folder)[1]:
            # Marked, not removed: a removed generation could be created again by someone who was slow.
            try:
                write_bytes(path, json.dumps({**_identity(), "released": True}).encode())
            except OSError:  # a full disk, perhaps: then in place, which takes no more room
                with suppress(OSError), open(path, "r+b") as file:
                    file.write(json.dumps({"released": True}).encode().ljust(path.stat().st_size))

    def __enter__(self) -> StoreLock:
        self.acquire()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.release()

    def _try(self) -> Path | None:
        """The new lock file; None if someone else was quicker and we must look again."""
        generation, current = _newest(self.folder)
        if current is not None:
            self._refuse_if_alive(current)
        path = self.folder / f"{generation + 1:08d}.json"
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        except FileExistsError:
            return None
        with os.fdopen(descriptor, "w") as file:
            json.dump(_identity(), file)
            file.flush()
            os.fsync(file.fileno())
        if _newest(self.folder)[1] != path:  # the listing above had missed a newer one
            path.unlink(missing_ok=True)
            return None
        for old in self.folder.glob("*.json"):
            if old.name < path.name:
                old.unlink(missing_ok=True)
        return path

    def _refuse_if_alive(self, path: Path) -> None:
        try:
            silent = _file_server_time(self.folder) - path.stat().st_mtime
            holder = json.loads(path.read_text())
        except FileNotFoundError:
            return  # released or replaced in this moment: creating the next one will tell
        except ValueError:
            holder = {}  # created a moment ago and not written yet, or its writer died in between
        if holder.get("released"):
            return
        if holder.get("machine") == _machine():
            alive = process_start(holder["pid"]) == holder["process_start"]
        else:
            alive = silent < self._stale
        if alive:
            raise InputError(
                f"{self.folder.parent} is in use by process {holder.get('pid', '?')} on {holder.get('host', '?')} "
                f"since {holder.get('since', '?')} (last seen {max(0.0, silent):.0f} s ago); "
                "wait for it, stop it, or give another results directory"
            )

    def _beat(self, path: Path) -> None:
        while not self._ended.wait(self._heartbeat):
            with suppress(OSError):  # a file system that hiccups: the next beat may get through
                if _newest(self.folder)[1] != path:
                    self._lost = True
                    return
                os.utime(path)


def holder(root: Path | str) -> dict[str, Any] | None:
    """Who drives a store at the moment: host, pid, since; None if nobody does. Only looks, so it works on a store
    that cannot be written."""
    path = _newest(Path(root) / "driver")[1]
    try:
        facts = json.loads(path.read_text()) if path else {"released": True}
        if facts.get("released"):
            return None
        if facts.get("machine") == _machine():
            return facts if process_start(facts["pid"]) == facts["process_start"] else None
        return facts if path and time.time() - path.stat().st_mtime < STALE_S else None
    except (FileNotFoundError, ValueError):
        return None


def process_start(pid: int) -> str | None:
    """When a process of this machine started, in a form that no later process with its number shares; None if dead."""
    try:
        # The command's name may hold spaces and brackets; the state and the start time come after the last bracket.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return None if fields[0] in "ZX" else fields[19]
    except (FileNotFoundError, ProcessLookupError):
        if Path("/proc/self").exists():
            return None
    found = subprocess.run(["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return found.stdout.strip() or None


def _machine() -> str:
    """What must agree before a process number means the same thing: the host, its boot, and the container."""
    parts = [socket.gethostname()]
    with suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts.append(os.readlink("/proc/self/ns/pid"))
    return " ".join(parts)


def _identity() -> dict[str, Any]:
    return {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "process_start": process_start(os.getpid()),
        "machine": _machine(),
        "since": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def _newest(folder: Path) -> tuple[int, Path | None]:
    """The highest generation and its file; (0, None) when the store was never locked."""
    found = sorted(path for path in folder.glob("*.json") if path.stem.isdigit())
    return (int(found[-1].stem), found[-1]) if found else (0, None)


def _file_server_time(folder: Path) -> float:
    probe = temporary_path(make_folder(folder) / "now")
    try:
        probe.write_bytes(b"")
        return probe.stat().st_mtime
    finally:
        probe.unlink(missing_ok=True)
