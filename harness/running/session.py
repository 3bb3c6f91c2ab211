"""The folder of a local Ray, for its sockets and logs: of one process, removed at its end or, where that was killed, at
the next start. Free of Ray."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from harness.errors import InputError

_LONGEST_SOCKET = 103  # bytes; 107 on Linux
_SOCKET = "/ray-12345678/session_2026-01-01_00-00-00_000000_1234567/sockets/plasma_store"
_PREFIX = "ray-"
_OWNER = "run-bench.lock"  # its lock is the kernel's: it falls with the process


@contextmanager
def session_folder() -> Iterator[Path]:
    """A folder of this process alone below RAY_TMPDIR or the folder for temporary files, removed afterwards. InputError
    where Ray could not use it."""
    base = Path(os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()).absolute()
    if len(os.fsencode(base)) + len(_SOCKET) > _LONGEST_SOCKET:
        raise InputError(
            f"the paths of Ray's sockets below {base} would be longer than a socket's may be: "
            "set RAY_TMPDIR to a short folder, such as /tmp; --serial runs without Ray"
        )
    remove_abandoned(base)
    try:
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=base))
        owner = os.open(folder / f".{_OWNER}", os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(owner, fcntl.LOCK_EX)
        os.rename(folder / f".{_OWNER}", folder / _OWNER)  # under its name it is held
    except OSError as error:
        raise InputError(f"Ray needs a folder for its sockets and logs: {error}; set RAY_TMPDIR") from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(owner)


def remove_abandoned(base: Path) -> None:
    """Removes such folders of this user whose process is gone, and every process that Ray had started for it."""
    for folder in base.glob(f"{_PREFIX}*"):
        with suppress(OSError):  # not ours, held, or gone by now
            if folder.is_symlink() or folder.stat().st_uid != os.getuid():
                continue
            descriptor = os.open(folder / _OWNER, os.O_RDONLY | os.O_NOFOLLOW)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if not _in_use(folder):
                    shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(descriptor)


def _in_use(folder: Path) -> bool:
    """Whether a process names a file of the folder or has one open, this one aside."""
    inside = os.fsencode(folder) + b"/"
    for process in Path("/proc").glob("[0-9]*"):
        if process.name == str(os.getpid()):
            continue
        with suppress(OSError):  # somebody else's, or over
            if inside in (process / "cmdline").read_bytes():
                return True
            if any(os.readlink(os.fsencode(link)).startswith(inside) for link in (process / "fd").iterdir()):
                return True
    return False
