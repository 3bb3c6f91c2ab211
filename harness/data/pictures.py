"""Images of the user's own that Pillow decodes, once per node: of one size and one mode, bounded before they are
decoded."""

from __future__ import annotations

import contextlib
import hashlib
import io
import pkgutil
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from itertools import islice
from pathlib import Path

import numpy as np

from harness.data import decoded
from harness.data.decoded import Arrays
from harness.data.encoded import Encoded, drawn_as_test
from harness.data.folder import list_images
from harness.data.hashes import threads
from harness.data.parquet import list_rows
from harness.data.registry import OWN, Content
from harness.data.splits import drawn_test_images
from harness.errors import InputError

MOST_PIXELS = 50_000_000  # of one image: a camera's; more is a mistake or an attack on memory
MOST_BYTES = 16 << 30  # of all images, decoded
CHANNELS = {"L": 1, "RGB": 3}
_AT_ONCE = 1000  # images that wait in memory, encoded and decoded

_LISTED: dict[str, Callable[[Content], Encoded]] = {
    "folder": lambda content: list_images(content.path),
    "parquet": lambda content: list_rows(content.path, content.label_column),
}


@dataclass(frozen=True)
class _Picture:
    mode: str
    pixels: np.ndarray  # (C, H, W) uint8


def _read_split(kind: str, content: Content, split: str, data_root: Path) -> tuple[Arrays, tuple[str, ...]]:
    """One split of encoded images and the names of the classes; where the data has no test images, the split seed draws
    a sixth of each class as such. Raises InputError as its listing and `decode`."""
    sha256 = content.sha256 or pkgutil.resolve_name(OWN[kind].sha256)(content.path)
    return _known_split(kind, replace(content, sha256=sha256), split, data_root)


read_folder, read_parquet = partial(_read_split, "folder"), partial(_read_split, "parquet")


@lru_cache(maxsize=4)
def _known_split(kind: str, content: Content, split: str, root: Path) -> tuple[Arrays, tuple[str, ...]]:
    parts, class_names = _all_parts(kind, replace(content, split_seed=0), root)
    if split in parts:
        return parts[split], class_names
    images, labels = parts["all"]
    chosen = drawn_test_images(labels, drawn_as_test(np.bincount(labels)), content.split_seed)
    chosen = chosen if split == "test" else ~chosen
    return (images[chosen], labels[chosen]), class_names


@lru_cache(maxsize=2)
def _all_parts(kind: str, content: Content, root: Path) -> tuple[dict[str, Arrays], tuple[str, ...]]:
    """The parts of a data set and its classes, decoded by the first process of a node for all others.

    The decoded copy is named by the content: where it is there, the data itself is not looked at.
    """
    name = _decoded_name(kind, content)
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):  # a data directory that cannot be written to is merely slower
            stack.enter_context(decoded.locked(root, name))
        if found := _decoded_parts(root, name):
            return found
        listed = _LISTED[kind](content)
        parts = decode(listed, str(content.sha256), content.resize)
        with contextlib.suppress(OSError):
            for part, arrays in parts.items():
                decoded.write(root, name, part, arrays)
            decoded.write_class_names(root, name, listed.class_names)
        return _decoded_parts(root, name) or (parts, listed.class_names)


def _decoded_name(kind: str, content: Content) -> str:
    """What the decoded copy of a content is called."""
    words = [kind, str(content.sha256)[:32]]
    if content.resize:
        words.append(str(content.resize))
    if content.label_column:
        words.append(hashlib.sha256(content.label_column.encode()).hexdigest()[:8])
    return "-".join(words)


def _decoded_parts(root: Path, name: str) -> tuple[dict[str, Arrays], tuple[str, ...]] | None:
    class_names = decoded.read_class_names(root, name)
    found = {part: decoded.read(root, name, part) for part in ("train", "test", "all")}
    parts = {part: arrays for part, arrays in found.items() if arrays is not None}
    if not class_names or tuple(parts) not in (("train", "test"), ("all",)):
        return None
    named = all(labels.max() < len(class_names) for _, labels in parts.values())
    return (parts, class_names) if named else None


def decode(listed: Encoded, sha256: str, resize: int | None) -> dict[str, Arrays]:
    """Images (N, C, H, W) uint8 and labels (N,) int64 of each part, in the listing's order.

    resize: the pixels a side to which every image is brought, whole, by Pillow's bilinear filter; null: all images have
    one size. InputError, which names the image, for what is no PNG or JPEG, neither grey nor RGB, too large, or unlike
    the first; and where the content does not have the hash.
    """
    parts, labels = listed.parts, listed.labels
    images: np.ndarray | None = None
    contents = enumerate(listed.contents(sha256))
    with warnings.catch_warnings(), ThreadPoolExecutor(threads()) as pool:
        warnings.simplefilter("ignore")  # Pillow's bomb warning comes before our own bound, which is lower
        while waiting := list(islice(contents, _AT_ONCE)):
            pictures = pool.map(lambda each: _picture(listed, each[0], each[1], resize), waiting)
            for (place, _), picture in zip(waiting, pictures, strict=True):
                if images is None:
                    first = picture
                    images = _room(listed, first, len(labels))
                _check_alike(listed, first, picture, place)
                images[place] = picture.pixels
    assert images is not None  # a listing has images
    return {part: (images[parts == part], labels[parts == part]) for part in dict.fromkeys(parts.tolist())}


def _room(listed: Encoded, first: _Picture, count: int) -> np.ndarray:
    """Memory for all images, which have the shape of the first."""
    size = count * first.pixels.size
    if size > MOST_BYTES:
        raise InputError(
            f"{listed.kind}: {listed.path} would take {size / 2**20:,.0f} MB decoded, {MOST_BYTES >> 20:,} at most are "
            "read: make its images smaller, resize: 64"
        )
    return np.empty((count, *first.pixels.shape), np.uint8)


def _picture(listed: Encoded, place: int, content: bytes, resize: int | None) -> _Picture:
    from PIL import Image

    image_of = f"{listed.kind}: {listed.root / listed.where(place)}"
    try:
        with Image.open(io.BytesIO(content), formats=("PNG", "JPEG")) as image:
            width, height = image.size
            if width * height > MOST_PIXELS:
                raise InputError(f"{image_of} has {width} x {height} pixels; {MOST_PIXELS:,} are the most")
            if image.mode not in CHANNELS:
                raise InputError(f"{image_of} is of mode {image.mode}; grey (L) and RGB are read: convert it")
            whole = image if resize is None else image.resize((resize, resize), Image.Resampling.BILINEAR)
            pixels = np.asarray(whole).reshape(whole.height, whole.width, -1).transpose(2, 0, 1)
            return _Picture(image.mode, pixels)
    except InputError:
        raise
    except Image.DecompressionBombError as error:
        raise InputError(f"{image_of} has more than {MOST_PIXELS:,} pixels, the most that are read") from error
    except Exception as error:  # a damaged file makes Pillow raise almost anything
        raise InputError(f"{image_of} is damaged or neither PNG nor JPEG") from error


def _check_alike(listed: Encoded, first: _Picture, picture: _Picture, place: int) -> None:
    if picture.mode != first.mode:
        fault = f"{picture.mode} and {listed.where(0)} is {first.mode}; all are grey (L) or all RGB"
    elif picture.pixels.shape != first.pixels.shape:
        sizes = [f"{one.pixels.shape[2]} x {one.pixels.shape[1]}" for one in (picture, first)]
        fault = f"{sizes[0]} pixels and {listed.where(0)} {sizes[1]}; `resize: 32` brings all to one size"
    else:
        return
    raise InputError(f"{listed.kind}: {listed.root / listed.where(place)} is {fault}")
