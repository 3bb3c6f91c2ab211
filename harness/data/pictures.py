"""The images of a folder, decoded by Pillow, once per node: of one size and one mode, bounded before they are
decoded."""

from __future__ import annotations

import contextlib
import hashlib
import io
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from harness.data import decoded
from harness.data.decoded import Arrays
from harness.data.folder import TEST_SHARE, Listing, combined_sha256, folder_sha256, list_images, read_file, threads
from harness.data.registry import Content
from harness.data.splits import drawn_test_images
from harness.errors import InputError

MOST_PIXELS = 50_000_000  # of one image: a camera's; more is a mistake or an attack on memory
MOST_BYTES = 16 << 30  # of all images, decoded
CHANNELS = {"L": 1, "RGB": 3}
_AT_ONCE = 1000  # files whose decoded images wait in memory


@dataclass(frozen=True)
class _Picture:
    digest: str
    mode: str
    pixels: np.ndarray  # (C, H, W) uint8


def read_split(content: Content, split: str, data_root: Path) -> tuple[Arrays, tuple[str, ...]]:
    """One split of a folder and the names of the classes; where it has no test/, the split seed draws a sixth of each
    class as test images. Raises InputError as `list_images` and `decode`."""
    sha256 = content.sha256 or folder_sha256(content.path)
    return _folder_split(content.path, sha256, content.resize, data_root, split, content.split_seed)


@lru_cache(maxsize=4)
def _folder_split(
    path: Path, sha256: str, resize: int | None, root: Path, split: str, split_seed: int
) -> tuple[Arrays, tuple[str, ...]]:
    parts, class_names = _read_folder(path, sha256, resize, root)
    if split in parts:
        return parts[split], class_names
    images, labels = parts["all"]
    chosen = drawn_test_images(labels, len(labels) // TEST_SHARE, split_seed)
    chosen = chosen if split == "test" else ~chosen
    return (images[chosen], labels[chosen]), class_names


@lru_cache(maxsize=2)
def _read_folder(path: Path, sha256: str, resize: int | None, root: Path) -> tuple[dict[str, Arrays], tuple[str, ...]]:
    """The parts of a folder and its classes, decoded by the first process of a node for all others.

    The decoded copy is named by the content: where it is there, the folder itself is not looked at.
    """
    name = f"folder-{sha256[:32]}" + (f"-{resize}" if resize else "")
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):  # a data directory that cannot be written to is merely slower
            stack.enter_context(decoded.locked(root, name))
        if found := _decoded_folder(root, name):
            return found
        listing = list_images(path)
        parts = decode(listing, sha256, resize)
        with contextlib.suppress(OSError):
            for part, arrays in parts.items():
                decoded.write(root, name, part, arrays)
            decoded.write_class_names(root, name, listing.class_names)
        return _decoded_folder(root, name) or (parts, listing.class_names)


def _decoded_folder(root: Path, name: str) -> tuple[dict[str, Arrays], tuple[str, ...]] | None:
    class_names = decoded.read_class_names(root, name)
    found = {part: decoded.read(root, name, part) for part in ("train", "test", "all")}
    parts = {part: arrays for part, arrays in found.items() if arrays is not None}
    if not class_names or tuple(parts) not in (("train", "test"), ("all",)):
        return None
    counts = [np.bincount(labels, minlength=len(class_names)) for _, labels in parts.values()]
    whole = all(len(each) == len(class_names) and each.all() for each in counts)  # a folder has each class in each part
    return (parts, class_names) if whole else None


def decode(listing: Listing, sha256: str, resize: int | None) -> dict[str, Arrays]:
    """Images (N, C, H, W) uint8 and labels (N,) int64 of each part, in the listing's order.

    resize: the pixels a side to which every image is brought, whole, by Pillow's bilinear filter; null: all images have
    one size. InputError, which names the file, for what is no PNG or JPEG, neither grey nor RGB, too large, or unlike
    the first; and where the content does not have the hash.
    """
    digests: list[str] = []
    images: np.ndarray | None = None
    with warnings.catch_warnings(), ThreadPoolExecutor(threads()) as pool:
        warnings.simplefilter("ignore")  # Pillow's bomb warning comes before our own bound, which is lower
        for start in range(0, len(listing.names), _AT_ONCE):
            names = listing.names[start : start + _AT_ONCE]
            for place, picture in enumerate(pool.map(lambda name: _picture(listing, name, resize), names), start):
                if images is None:
                    first = picture
                    _check_size(listing, first)
                    images = np.empty((len(listing.names), *first.pixels.shape), np.uint8)
                _check_alike(listing, first, picture, place)
                images[place] = picture.pixels
                digests.append(picture.digest)
    assert images is not None  # a listing has images
    found = combined_sha256(listing, digests)
    if found != sha256:
        raise InputError(f"folder: {listing.root} has the sha256 {found}, not {sha256} as planned")
    labels = np.array(listing.labels, np.int64)
    parts = np.array([listing.part_of(name) for name in listing.names])
    return {part: (images[parts == part], labels[parts == part]) for part in listing.parts}


def _check_size(listing: Listing, first: _Picture) -> None:
    size = len(listing.names) * first.pixels.size
    if size > MOST_BYTES:
        raise InputError(
            f"folder: {listing.root} would take {size / 2**20:,.0f} MB decoded, {MOST_BYTES >> 20:,} at most are read: "
            "make its images smaller, resize: 64"
        )


def _picture(listing: Listing, name: str, resize: int | None) -> _Picture:
    from PIL import Image

    content, path = read_file(listing, name), listing.root / name
    try:
        with Image.open(io.BytesIO(content), formats=("PNG", "JPEG")) as image:
            width, height = image.size
            if width * height > MOST_PIXELS:
                raise InputError(f"folder: {path} has {width} x {height} pixels; {MOST_PIXELS:,} are the most")
            if image.mode not in CHANNELS:
                raise InputError(f"folder: {path} is of mode {image.mode}; grey (L) and RGB are read: convert it")
            whole = image if resize is None else image.resize((resize, resize), Image.Resampling.BILINEAR)
            pixels = np.asarray(whole).reshape(whole.height, whole.width, -1).transpose(2, 0, 1)
            return _Picture(hashlib.sha256(content).hexdigest(), image.mode, pixels)
    except InputError:
        raise
    except Image.DecompressionBombError as error:
        raise InputError(f"folder: {path} has more than {MOST_PIXELS:,} pixels, the most that are read") from error
    except Exception as error:  # a damaged file makes Pillow raise almost anything
        raise InputError(f"folder: {path} is damaged or neither PNG nor JPEG") from error


def _check_alike(listing: Listing, first: _Picture, picture: _Picture, place: int) -> None:
    if picture.mode != first.mode:
        fault = f"{picture.mode} and {listing.names[0]} is {first.mode}; all are grey (L) or all RGB"
    elif picture.pixels.shape != first.pixels.shape:
        sizes = [f"{one.pixels.shape[2]} x {one.pixels.shape[1]}" for one in (picture, first)]
        fault = f"{sizes[0]} pixels and {listing.names[0]} {sizes[1]}; `resize: 32` brings all to one size"
    else:
        return
    raise InputError(f"folder: {listing.root / listing.names[place]} is {fault}")
