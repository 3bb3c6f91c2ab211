"""Ray's control process (the GCS, on a cluster's head node): does it still answer? Free of Ray.

Ray itself waits a minute for it, without a word, and then ends the process.
"""

from __future__ import annotations

import socket
import time
from contextlib import suppress

_ASKED_EVERY_S = 2.0
_LONGEST_ANSWER_S = 1.0
SILENCE_S = 10.0  # of nobody to run anything, until a run ends


class Head:
    """The control process at an address, HOST:PORT."""

    def __init__(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        self.address = address
        self._place = (host.strip("[]"), int(port))
        self._asked = self._answered = time.monotonic()

    def answers(self) -> bool:
        """Whether it does, asked now: before anything that needs it, which would hang."""
        self._asked = time.monotonic()
        with suppress(OSError), socket.create_connection(self._place, timeout=_LONGEST_ANSWER_S):
            self._answered = self._asked
        return self._answered == self._asked

    def trouble(self) -> str | None:
        """Why no run can go on; None while it answers, or has not been silent for long. Asks every other second."""
        if time.monotonic() - self._asked > _ASKED_EVERY_S:
            self.answers()
        if self._asked - self._answered < SILENCE_S:
            return None
        return f"Ray's control process at {self.address} no longer answers"
