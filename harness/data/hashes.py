"""The hash of the files of a data set of the user's own, and where it is kept while they stay as they are."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

from harness.data.decoded import data_root
from harness.errors import InputError
from harness.files import make_folder, write_bytes


class Listed(Protocol):
    """Files below a folder. names: relative, with `/`, in order. stamps: size and time of change of each."""

    @property
    def root(self) -> Path: ...
    @property
    def names(self) -> tuple[str, ...]: ...
    @property
    def stamps(self) -> tuple[tuple[int, int], ...]: ...


def kept_sha256(listing: Listed, digest_of: Callable[[str], str], cache: Path | None = None) -> str:
    """The hash of all files. digest_of: gives the one of the file of a name.

    Where every name, size and time of change is as before, the hash is the one that was left in `cache`, by default the
    folder `hashes` of the data directory, and no file is read.
    """
    facts = "\0".join([str(listing.root), *map(str, listing.stamps), *listing.names])
    known = (cache or data_root() / "hashes") / hashlib.sha256(facts.encode()).hexdigest()
    with contextlib.suppress(OSError, UnicodeDecodeError):
        if re.fullmatch("[0-9a-f]{64}", text := known.read_text()):
            return text
    with ThreadPoolExecutor(threads()) as pool:
        digest = combined_sha256(listing.names, list(pool.map(digest_of, listing.names)))
    with contextlib.suppress(OSError, InputError):  # a data directory that cannot be written to is merely slower
        make_folder(known.parent)
        write_bytes(known, digest.encode())
    return digest


def combined_sha256(names: Sequence[str], digests: Sequence[str]) -> str:
    """The hash of one line `SHA256  NAME` per file, as `sha256sum` writes them; of a single file its own."""
    if len(digests) == 1:
        return digests[0]
    lines = (f"{digest}  {name}\n" for digest, name in zip(digests, names, strict=True))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def threads() -> int:
    """How many threads read files: a disk answers several at once, and Pillow decodes outside Python's lock."""
    return min(8, os.cpu_count() or 1)
