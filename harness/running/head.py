"""Ray's control process (the GCS, on a cluster's head node): is there one at an address, and does it still answer?

Ray itself waits for it for minutes, without a word, and then ends the process. This one stays free of Ray.
"""

from __future__ import annotations

import os
import socket
import time
from contextlib import suppress

from harness.errors import InputError

_ASKED_EVERY_S = 2.0
_LONGEST_ANSWER_S = 1.0
SILENCE_S = 10.0  # of nobody to run anything, until a run ends
_CONNECT_TIMEOUT_S = 5.0


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


def check_address(address: str) -> None:
    """InputError where nothing answers that could be a cluster. Ray itself takes minutes to find that out, and then
    ends the process."""
    if "://" in address:
        raise InputError(
            f"address '{address}': give HOST:PORT or auto; a driver must run inside its cluster (ray job submit)"
        )
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_TIMEOUT_S) as connection:
            answered = "RAY_USE_TLS" in os.environ or _speaks_grpc(connection)
    except (OSError, ValueError, OverflowError) as error:
        raise InputError(
            f"no Ray cluster answers at '{address}' ({error}); start one with: ray start --head"
        ) from error
    if not answered:
        raise InputError(f"what answers at '{address}' is not a Ray cluster")


def _speaks_grpc(connection: socket.socket) -> bool:
    """Whether the other side begins as every HTTP/2 server must: with a frame of settings (RFC 9113, section 3.4)."""
    connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0]))
    head = b""
    while len(head) < 4 and (more := connection.recv(4 - len(head))):
        head += more
    return head[3:] == b"\x04"
