"""A folder of images, one folder per class: what it holds, checked, and the hash of its content. Free of torch and
Pillow, for plans."""

from __future__ import annotations

import hashlib
import os
import stat
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from harness.data.counts import ClassCounts
from harness.data.encoded import FEWEST, PARTS, check_sha256, counts_of_parts
from harness.data.hashes import combined_sha256, kept_sha256, threads
from harness.data.registry import Content
from harness.errors import AbsentError, InputError

SUFFIXES = (".png", ".jpg", ".jpeg")
_AT_ONCE = 1000  # files whose bytes wait in memory


@dataclass(frozen=True)
class Listing:
    """The image files of a folder. names: relative, with `/`, in order. stamps: size and time of change of each."""

    root: Path
    names: tuple[str, ...]
    stamps: tuple[tuple[int, int], ...]
    class_names: tuple[str, ...]
    kind = "folder"

    @property
    def path(self) -> Path:
        """What a message about all of them names."""
        return self.root

    @property
    def parts(self) -> np.ndarray:
        """Which part each image belongs to: `train` or `test` where the folder has them, else `all`."""
        divided = self.names[0].count("/") == 2
        return np.array([name.partition("/")[0] if divided else "all" for name in self.names])

    @property
    def labels(self) -> np.ndarray:
        """The class of each image: the place of its folder's name among all, in order of their characters."""
        places = {name: label for label, name in enumerate(self.class_names)}
        return np.array([places[class_of(name)] for name in self.names], np.int64)

    def where(self, place: int) -> str:
        """What a message calls an image."""
        return self.names[place]

    def contents(self, sha256: str) -> Iterator[bytes]:
        """The files' bytes. InputError at the end where they do not have the hash."""
        digests = []
        with ThreadPoolExecutor(threads()) as pool:
            for start in range(0, len(self.names), _AT_ONCE):
                for content in pool.map(partial(_read_file, self), self.names[start : start + _AT_ONCE]):
                    digests.append(hashlib.sha256(content).hexdigest())
                    yield content
        check_sha256(self, combined_sha256(self.names, digests), sha256)


def class_of(name: str) -> str:
    """The name of an image's class."""
    return name.rsplit("/", 2)[-2]


def list_images(path: Path) -> Listing:
    """The images below `train/CLASS/` and `test/CLASS/`, or below `CLASS/` where the folder has neither.

    Hidden files are passed over. Nothing is opened. InputError for anything else that is no image file, for links that
    leave the folder, and for classes that are too small, too few, or not the same in both parts.
    """
    root = path.expanduser().absolute()
    if not os.path.isdir(root):  # unlike Path.is_dir, no error for a name that is too long
        raise AbsentError(f"folder: there is no folder {root}")
    root = root.resolve()
    found: dict[str, tuple[int, int]] = {}
    for part in _parts(root):
        for folder in _subfolders(root, root / part):
            for entry in _visible(root, folder):
                found[_relative(root, entry)] = _stamp(root, entry)
    names = tuple(sorted(found))
    if not names:
        raise InputError(f"folder: {root} holds no images: PNG or JPEG files, in one folder per class")
    class_names = tuple(sorted({class_of(name) for name in names}))
    listing = Listing(root, names, tuple(found[name] for name in names), class_names)
    _check_classes(listing)
    return listing


def folder_sha256(path: Path, cache: Path | None = None) -> str:
    """The hash of a folder's images: of one line `SHA256  NAME` per image, in order of the names, as `sha256sum` writes
    them; see `kept_sha256`. InputError as `list_images`, and for unreadable files."""
    listing = list_images(path)
    return kept_sha256(listing, lambda name: hashlib.sha256(_read_file(listing, name)).hexdigest(), cache)


def folder_counts(content: Content) -> ClassCounts:
    """Images of each class, told from the names of the files. InputError as `list_images`."""
    return counts_of_parts(list_images(content.path))


def _read_file(listing: Listing, name: str) -> bytes:
    """The bytes of one image file."""
    try:
        return (listing.root / name).read_bytes()
    except OSError as error:
        raise InputError(f"folder: cannot read {listing.root / name}: {error.strerror}") from error


def _parts(root: Path) -> tuple[str, ...]:
    present = [part for part in PARTS if (root / part).is_dir()]
    if len(present) == 1:
        lacks = next(part for part in PARTS if part not in present)
        raise InputError(
            f"folder: {root} has {present[0]}/ and no {lacks}/; it has both, or one folder per class and neither"
        )
    return tuple(present) or (".",)


def _subfolders(root: Path, folder: Path) -> Iterator[Path]:
    """The class folders of a part, whatever else lies beside them."""
    for entry in _visible(root, folder):
        if entry.is_dir():
            _check_link(root, entry)
            yield Path(entry.path)


def _visible(root: Path, folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return [entry for entry in entries if not entry.name.startswith(".")]
    except OSError as error:
        raise InputError(f"folder: cannot read {folder}: {error.strerror}") from error


def _relative(root: Path, entry: os.DirEntry[str]) -> str:
    name = entry.path[len(str(root)) :].replace(os.sep, "/").lstrip("/")  # pathlib takes a second for 60,000 files
    try:
        name.encode()
        return name
    except UnicodeEncodeError as error:
        raise InputError(f"folder: the name of {os.fsencode(entry.path)!r} is not UTF-8") from error


def _stamp(root: Path, entry: os.DirEntry[str]) -> tuple[int, int]:
    """Size and time of change of one image file, which is a regular file with an image's suffix."""
    _check_link(root, entry)
    try:
        status = entry.stat()
    except OSError as error:
        raise InputError(f"folder: cannot read {entry.path}: {error.strerror}") from error
    if stat.S_ISDIR(status.st_mode):
        raise InputError(f"folder: {entry.path} is a folder inside a class; a class's folder holds its images only")
    if not stat.S_ISREG(status.st_mode):
        raise InputError(f"folder: {entry.path} is no regular file")
    if not entry.name.lower().endswith(SUFFIXES):
        raise InputError(f"folder: {entry.path} is no image: {', '.join(SUFFIXES)} are read")
    return status.st_size, status.st_mtime_ns


def _check_link(root: Path, entry: os.DirEntry[str]) -> None:
    if entry.is_symlink() and not Path(entry.path).resolve().is_relative_to(root):
        raise InputError(f"folder: {entry.path} is a link that leaves {root}")


def _check_classes(listing: Listing) -> None:
    root, names = listing.root, listing.class_names
    if len(names) < 2:
        raise InputError(f"folder: {root} has one class, '{names[0]}'; two or more are needed, a folder each")
    parts = listing.parts
    counts = Counter(zip(parts.tolist(), map(class_of, listing.names), strict=True))
    for part in dict.fromkeys(parts.tolist()):
        for name in names:
            if not counts[part, name]:
                raise InputError(f"folder: {root}: class '{name}' has no image in {part}/; both parts have each class")
            if counts[part, name] < FEWEST[part]:
                where = f"{part}/{name}" if part in PARTS else name
                raise InputError(f"folder: {root}: {where} has {counts[part, name]} images; {FEWEST[part]} are needed")
