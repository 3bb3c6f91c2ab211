"""Files that are either there in full or not there: temporary name, fsync, rename."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import socket
import stat
import time
import uuid
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from harness.errors import FULL, AbsentError, InputError

_TEMPORARY = re.compile(r"^\..+\.\d+\.(\d+\.)?[0-9a-f]{8}\.tmp$")  # see `temporary_path`
_NOT_OURS = {
    errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.ENOENT, errno.EINVAL,
    errno.ENAMETOOLONG, errno.ELOOP,
}  # fmt: skip


def open_plain(path: Path, what: str) -> BinaryIO:
    """A file, opened to be read. InputError where it cannot be or is no plain file: a pipe can keep its reader waiting
    for ever, and a device need not end. what: the kind of file, which messages put before its path."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise InputError(f"{what} {path} cannot be read: no plain file")
        return path.open("rb")
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        if isinstance(error, InputError):
            raise
        kind = AbsentError if isinstance(error, FileNotFoundError) else InputError
        reason = error.strerror if isinstance(error, OSError) else "not the name of a file"
        raise kind(f"{what} {path} cannot be read: {reason}") from error


def file_sha256(path: Path, what: str) -> str:
    """The hash of a file's content, 64 hexadecimal digits. InputError as `open_plain`."""
    with open_plain(path.expanduser(), what) as file:
        return sha256_of(file)


def sha256_of(file: BinaryIO) -> str:
    """The hash of what is left to read of a file, 64 hexadecimal digits."""
    digest = hashlib.sha256()
    while block := file.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


@contextmanager
def replacing(path: Path, attempt: int = 0) -> Iterator[Path]:
    """A temporary path beside `path` to write to; on leaving it is fsynced and renamed, on an error it is removed.

    Two writers of one file never share it.
    """
    temporary = temporary_path(path, attempt)
    try:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno and error.filename is None:
            error.filename = str(path)  # a full disk says so without it
        raise
    sync_folder(path.parent)


def temporary_path(path: Path, attempt: int = 0) -> Path:
    """A hidden name beside `path` that carries host, process and attempt: `remove_leftovers` sees whose it was."""
    return path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}.{attempt}.{uuid.uuid4().hex[:8]}.tmp")


def write_bytes(path: Path, content: bytes, attempt: int = 0) -> None:
    """Writes a whole file atomically and durably; OSError (disk full, ...) leaves what stood there before."""
    with replacing(path, attempt) as temporary:
        temporary.write_bytes(content)


def to_checked_json(record: Mapping[str, Any]) -> bytes:
    """A record with names for keys as JSON that carries a hash of its content: see `from_checked_json`."""
    return json.dumps({**record, "sha256": _content_sha256(record)}).encode()


def from_checked_json(content: bytes) -> dict[str, Any]:
    """The record that `to_checked_json` wrote; one without a hash, of an earlier version, as it is. ValueError where it
    is no record, or other than was written."""
    found = json.loads(content)
    if not isinstance(found, dict):
        raise ValueError("is not a record")
    if (noted := found.pop("sha256", None)) is not None and noted != _content_sha256(found):
        raise ValueError("holds other values than were written")
    return found


def _content_sha256(record: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


def sync_folder(folder: Path) -> None:
    """Makes renames and removals in a folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network file systems have no fsync for folders
            raise
    finally:
        os.close(descriptor)


def make_folder(folder: Path, inside: Path | None = None) -> Path:
    """The folder, made if it is missing; InputError where a folder cannot be made or is a file.

    inside: a folder above it that must be there: FileNotFoundError where somebody moved or deleted it in mid-run.
    """
    if inside is not None:
        inside.stat()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if error.errno in _NOT_OURS:
            raise InputError(f"cannot write to {folder}: {error.strerror}") from error
        raise
    return folder


def check_writable(folder: Path) -> None:
    """Makes the folder and a small file in it for a moment; InputError says why that is not possible."""
    probe = temporary_path(folder / "probe")
    try:
        make_folder(folder)
        probe.write_bytes(bytes(4096))
    except OSError as error:
        if error.errno in _NOT_OURS | FULL:
            raise InputError(f"cannot write to {folder}: {error.strerror}") from error
        raise
    finally:
        with suppress(OSError):
            probe.unlink(missing_ok=True)


def free_bytes(path: Path) -> int:
    """Free disk space in bytes at `path`, or at its nearest parent that exists."""
    path = Path(path).absolute()
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free


def remove_leftovers(root: Path, own: Collection[str], older_than: float = 3600.0) -> int:
    """Removes temporary files that a dead writer left in `root` or, at any depth, in its folders of the names in `own`;
    returns how many.

    Only names as `temporary_path` makes them count. A writer of this host is dead when its process is gone; one of
    another host when its file is `older_than` seconds old.
    """
    removed = 0
    for parent, folders, names in os.walk(root):
        if Path(parent) == root:
            folders[:] = [name for name in folders if name in own]
        for name in filter(_TEMPORARY.match, names):
            path = Path(parent, name)
            if _abandoned(path, older_than):
                path.unlink(missing_ok=True)
                removed += 1
    return removed


def _abandoned(path: Path, older_than: float) -> bool:
    try:
        if time.time() - path.stat().st_mtime > older_than:
            return True
    except FileNotFoundError:
        return False
    match = re.search(rf"\.{re.escape(socket.gethostname())}\.(\d+)\.", path.name)
    if match is None:
        return False
    try:
        os.kill(int(match.group(1)), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False
