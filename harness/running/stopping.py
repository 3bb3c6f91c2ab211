"""How a run is told to stop: signals reach the driver, a small file in the store reaches the workers."""

from __future__ import annotations

import json
import signal
import threading
import time
import uuid
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

from harness.files import make_folder, write_bytes
from harness.store.work import control_file

GRACE_S = 10.0  # from the first signal until trials that have not saved their state are ended
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # that end a run in order
_POLL_S = 0.5


class RunControl:
    """The driver's side of the store's `control_file`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.path = control_file(root)
        make_folder(self.path.parent, inside=root)
        self.nonce = uuid.uuid4().hex
        self._write(stop=False)

    def stop(self) -> None:
        """Asks every trial of this run to save its state at the next step and to return."""
        if self._is_ours():
            try:
                self._write(stop=True)
            except OSError:  # perhaps the very disk that is full; a file that is missing means the same
                self.close()

    def close(self) -> None:
        """Removes the file, so that whatever still runs stops."""
        if self._is_ours():
            self.path.unlink(missing_ok=True)

    def _is_ours(self) -> bool:
        """Whether no other run has taken the store over meanwhile."""
        return read_control(self.path).get("nonce") == self.nonce

    def _write(self, stop: bool) -> None:
        write_bytes(self.path, json.dumps({"nonce": self.nonce, "stop": stop}).encode())


def read_control(path: Path) -> dict[str, Any]:
    """What the control file says; empty when there is none."""
    try:
        values = json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}


class StopSignal:
    """The worker's side: true once the run is over, asked to stop, or replaced by another driver.

    Cheap enough to ask at every step: the file is read at most every half second. It is opened rather than looked up,
    because network file systems answer a mere look-up from a cache that is up to a minute old.
    """

    def __init__(self, path: str, nonce: str) -> None:
        self._path = Path(path)
        self._nonce = nonce
        self._next_look = 0.0
        self._stop = False

    def __call__(self) -> bool:
        now = time.monotonic()
        if not self._stop and now >= self._next_look:
            self._next_look = now + _POLL_S
            self._stop = self._look()
        return self._stop

    def _look(self) -> bool:
        try:
            values = read_control(self._path)
        except OSError:  # a file system that hiccups is no order to stop
            return False
        return values.get("nonce") != self._nonce or bool(values.get("stop"))


def by_signal(stop_reason: str | None) -> bool:
    """Whether a run ended early because of a signal."""
    return stop_reason in [number.name for number in SIGNALS]


class StopRequest:
    """While entered, the first SIGINT, SIGTERM or SIGHUP only sets `signal_name`; the second raises KeyboardInterrupt.

    A SIGHUP that is ignored (`nohup`) stays so. Outside the main thread (some notebooks) Python has no signal handlers,
    and signals keep their usual effect.
    """

    def __init__(self) -> None:
        self.signal_name: str | None = None
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                if number == signal.SIGHUP and signal.getsignal(number) == signal.SIG_IGN:
                    continue
                self._previous[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.signal_name is not None:
            raise KeyboardInterrupt
        self.signal_name = signal.Signals(number).name
