"""A data set of Parquet files in the Hugging Face layout, a column of image bytes and one of labels: what it holds,
checked, and the hash of its content. Free of torch and Pillow, for plans."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from harness.data.class_names import LONGEST_CLASS, is_class_name
from harness.data.counts import ClassCounts
from harness.data.encoded import FEWEST, PARTS, check_sha256, counts_of_parts
from harness.data.hashes import combined_sha256, kept_sha256
from harness.data.registry import Content
from harness.errors import AbsentError, InputError, unknown
from harness.files import file_sha256

_SPLITS = {
    "train": "train", "training": "train", "test": "test", "testing": "test",
    "validation": "validation", "valid": "validation", "val": "validation", "dev": "validation",
}  # fmt: skip
_AT_ONCE = 256  # rows whose bytes wait in memory


@dataclass(frozen=True)
class Files:
    """The files that are read. names: relative, with `/`, in order. stamps: size and time of change of each. splits:
    `train` or `test`, or `all`, of each."""

    root: Path
    names: tuple[str, ...]
    stamps: tuple[tuple[int, int], ...]
    splits: tuple[str, ...]

    @property
    def path(self) -> Path:
        """What messages about all of them name: the folder, or the only file."""
        return self.root / self.names[0] if len(self.names) == 1 else self.root

    @property
    def sha256(self) -> str:
        """As the files are now."""
        return combined_sha256(self.names, [self.digest_of(name) for name in self.names])

    def digest_of(self, name: str) -> str:
        """The hash of one file."""
        return file_sha256(self.root / name, "parquet")


@dataclass(frozen=True)
class Rows:
    """The images of such files. starts: the number of the first row of each file, and of all rows."""

    files: Files
    starts: np.ndarray
    image_column: str
    labels: np.ndarray
    class_names: tuple[str, ...]
    kind = "parquet"

    @property
    def root(self) -> Path:
        """See `Encoded`."""
        return self.files.root

    @property
    def path(self) -> Path:
        """See `Encoded`."""
        return self.files.path

    @property
    def parts(self) -> np.ndarray:
        """See `Encoded`."""
        return np.repeat(self.files.splits, np.diff(self.starts))

    def where(self, place: int) -> str:
        """The file and the row, counted from 0."""
        file = int(np.searchsorted(self.starts, place, "right")) - 1
        return f"{self.files.names[file]}, row {place - self.starts[file]}"

    def contents(self, sha256: str) -> Iterator[bytes]:
        """See `Encoded`."""
        check_sha256(self, self.files.sha256, sha256)
        found = (content for name in self.files.names for content in _contents(self.root, name, self.image_column))
        for place, content in enumerate(found):
            if content is None:
                raise InputError(f"parquet: {self.root / self.where(place)} has no image bytes")
            yield content


def list_rows(path: Path, label_column: str | None = None) -> Rows:
    """The rows of a Parquet file, or of the files below a folder: of those whose names have `train` and `test` in them
    (`validation` where there is no `test`), else of all. Only labels are read.

    label_column: where they stand; by default in `label`, or in the only column that holds class labels. Whole numbers
    from 0, named as the files' metadata say, or text, whose classes are in order of their characters. InputError for
    anything else, and for classes that are too small or too few.
    """
    files = list_files(path)
    schema = _schema(files)
    image, label = _image_column(files, schema), _label_column(files, schema, label_column)
    columns = [_read_labels(files, name, label) for name in files.names]
    starts = np.cumsum([0, *map(len, columns)])
    labels, class_names = _classes(files, label, columns, _names_of_classes(files, label))
    rows = Rows(files, starts, image, labels, class_names)
    _check_classes(rows)
    return rows


def list_files(path: Path) -> Files:
    """The Parquet files of a path and the splits that their names tell. InputError where there are none, or which split
    one is of cannot be told."""
    root = path.expanduser().absolute()
    if not os.path.exists(root):  # unlike Path.exists, no error for a name that is too long
        raise AbsentError(f"parquet: there is no file or folder {root}")
    if not root.is_dir():
        return _of_names(root.parent, {root.name: "all"})
    found = sorted(each.relative_to(root).as_posix() for each in root.rglob("*.parquet"))
    names = [name for name in found if not any(part.startswith(".") for part in name.split("/"))]
    if not names:
        raise InputError(f"parquet: {root} holds no .parquet file")
    if len(sets := {_configuration(name) or "." for name in names}) > 1:
        raise InputError(f"parquet: {root} holds several sets: name the folder of one, {' or '.join(sorted(sets))}")
    splits = {name: _split_of(name) for name in names}
    if not any(splits.values()) or set(splits.values()) == {"train"}:
        return _of_names(root, dict.fromkeys(names, "all"))
    for name, split in splits.items():
        if split is None:
            raise InputError(f"parquet: {root / name}: of which split? Names have train, test or validation in them")
    tested = "test" if "test" in splits.values() else "validation"
    if "train" not in splits.values():
        raise InputError(f"parquet: {root} has {tested} files and none with train in their names")
    parts = {"train": "train", tested: "test"}
    return _of_names(root, {name: parts[split] for name, split in splits.items() if split in parts})


def parquet_sha256(path: Path) -> str:
    """The hash of a Parquet file, or of the files of a folder; see `kept_sha256`. InputError as `list_files`."""
    files = list_files(path)
    return kept_sha256(files, files.digest_of)


def parquet_counts(content: Content) -> ClassCounts:
    """Images of each class, from the labels alone. InputError as `list_rows`."""
    return counts_of_parts(list_rows(content.path, content.label_column))


def usual_label_column(path: Path) -> str | None:
    """The column that labels are read from where none is named; None where one must be. InputError as `list_files`."""
    files = list_files(path)
    return _usual_label(_schema(files))


def _of_names(root: Path, splits: dict[str, str]) -> Files:
    try:
        stamps = tuple((status.st_size, status.st_mtime_ns) for status in ((root / name).stat() for name in splits))
    except OSError as error:
        raise InputError(f"parquet: cannot read {error.filename}: {error.strerror}") from error
    return Files(root, tuple(splits), stamps, tuple(splits.values()))


def _configuration(name: str) -> str:
    """The folder of one of several sets in a repository; `data/` and folders of a split are none."""
    return "/".join(part for part in name.split("/")[:-1] if _split_of(part) is None)


def _split_of(name: str) -> str | None:
    """Which split the last telling word of a name says."""
    words = reversed(re.split("[^a-z]+", name.lower()))
    return next((_SPLITS[word] for word in words if word in _SPLITS), None)


def _opened(root: Path, name: str) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(root / name)
    except Exception as error:  # a damaged file makes its parser raise almost anything
        raise _damaged(root / name) from error


def _contents(root: Path, name: str, column: str) -> Iterator[bytes | None]:
    """The values of a column of bytes of a file."""
    with _opened(root, name) as file:
        try:
            for batch in file.iter_batches(_AT_ONCE, columns=[column]):
                found = batch.column(0)
                yield from (pc.struct_field(found, "bytes") if pa.types.is_struct(found.type) else found).to_pylist()
        except (pa.ArrowException, OSError) as error:
            raise _damaged(root / name) from error


def _damaged(path: Path) -> InputError:
    return InputError(f"parquet: {path} is damaged or no Parquet file")


def _schema(files: Files) -> pa.Schema:
    """What all files have in common."""
    first: pa.Schema | None = None
    for name in files.names:
        with _opened(files.root, name) as file:
            schema = file.schema_arrow
        first = first if first is not None else schema
        if schema.names != first.names:
            raise InputError(f"parquet: {files.root / name} has other columns than {files.names[0]}")
    assert first is not None  # there are files
    return first


def _image_column(files: Files, schema: pa.Schema) -> str:
    found = [field.name for field in schema if _holds_bytes(field.type)]
    named = [name for name in found if name in ("image", "img")] if len(found) > 1 else found
    if len(named) != 1:
        fault = f"several columns of bytes, {', '.join(found)}: call the images `image`" if found else _no(schema)
        raise InputError(f"parquet: {files.path} has {fault}")
    return named[0]


def _no(schema: pa.Schema) -> str:
    return f"no column of image bytes (binary, or a struct with `bytes`); it has {', '.join(schema.names)}"


def _holds_bytes(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return any(field.name == "bytes" and _holds_bytes(field.type) for field in kind)
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def _label_column(files: Files, schema: pa.Schema, named: str | None) -> str:
    possible = _possible_labels(schema)
    if named is not None and named not in possible:
        raise unknown(f"label_column in {files.path}", named, possible)
    label = named or _usual_label(schema)
    if label is None:
        several = f"several columns of labels, {', '.join(possible)}: the suite names one, as `label_column`"
        none = f"no column of labels (whole numbers or text); it has {', '.join(schema.names)}"
        raise InputError(f"parquet: {files.path} has {several if possible else none}")
    return label


def _usual_label(schema: pa.Schema) -> str | None:
    possible = _possible_labels(schema)
    declared = [name for name in possible if _declared_names(schema, name)]
    if "label" in possible:
        return "label"
    return next((names[0] for names in (declared, possible) if len(names) == 1), None)


def _possible_labels(schema: pa.Schema) -> list[str]:
    return [field.name for field in schema if _is_text(field.type) or pa.types.is_integer(field.type)]


def _is_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _names_of_classes(files: Files, column: str) -> tuple[str, ...]:
    """What the metadata of the files call the classes; none where they do not say. InputError where two call one number
    differently."""
    found: dict[tuple[str, ...], str] = {}
    for name in files.names:
        with _opened(files.root, name) as file:
            if declared := _declared_names(file.schema_arrow, column):
                found.setdefault(declared, name)
    if len(found) > 1:
        (first, one), (other, two) = list(found.items())[:2]
        raise InputError(
            f"parquet: {files.root / two} calls its classes {_listed(other)}, and {one} {_listed(first)}: one number "
            "would be two classes"
        )
    return next(iter(found), ())


def _listed(names: tuple[str, ...]) -> str:
    return f"{', '.join(names[:4])}{', ...' if len(names) > 4 else ''}"


def _declared_names(schema: pa.Schema, column: str) -> tuple[str, ...]:
    """What the metadata that `datasets` writes call the classes; none where they do not say."""
    try:
        found: Any = json.loads((schema.metadata or {})[b"huggingface"])
        names = found["info"]["features"][column]["names"]
    except (KeyError, TypeError, ValueError):
        return ()
    good = isinstance(names, list) and all(isinstance(name, str) and is_class_name(name) for name in names)
    return tuple(names) if good and len(set(names)) == len(names) else ()


def _read_labels(files: Files, name: str, column: str) -> np.ndarray:
    """The labels of a file, int64 or text."""
    path = files.root / name
    with _opened(files.root, name) as file:
        try:
            labels = file.read(columns=[column]).column(0).combine_chunks()
            labels = labels.dictionary_decode() if pa.types.is_dictionary(labels.type) else labels
        except (pa.ArrowException, OSError) as error:
            raise _damaged(path) from error
    if labels.null_count:
        row = labels.is_null().to_numpy(zero_copy_only=False).argmax()
        raise InputError(f"parquet: {path}, row {row} has no `{column}`")
    try:
        return np.array(labels.to_pylist(), str if _is_text(labels.type) else np.int64)
    except OverflowError as error:
        raise InputError(f"parquet: {path}: `{column}` has a number beyond those of classes, from 0 on") from error


def _classes(
    files: Files, column: str, columns: list[np.ndarray], declared: tuple[str, ...]
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Labels (N,) int64 of all files, and what the classes are called."""
    if len(kinds := {found.dtype.kind for found in columns}) > 1:
        raise InputError(f"parquet: {files.path}: `{column}` is text in some files and whole numbers in others")
    found = np.concatenate(columns)
    if not len(found):
        raise InputError(f"parquet: {files.path} has no rows")
    if kinds == {"U"}:
        names, labels = np.unique(found, return_inverse=True)
        if not all(map(is_class_name, names.tolist())):
            raise InputError(f"parquet: {files.path}: a class in `{column}` has 1 to {LONGEST_CLASS} characters")
        return labels.astype(np.int64), tuple(names.tolist())
    most = len(declared) or len(found)
    if found.min() < 0 or found.max() >= most:
        known = f"0 to {most - 1}, the classes that are named" if declared else "0..K-1"
        raise InputError(
            f"parquet: {files.path}: `{column}` runs from {found.min()} to {found.max()}; labels are {known}"
        )
    return found, declared or tuple(str(label) for label in range(found.max() + 1))


def _check_classes(rows: Rows) -> None:
    labels, parts = rows.labels, rows.parts
    if len(rows.class_names) > len(labels):
        raise InputError(f"parquet: {rows.path} names {len(rows.class_names):,} classes of {len(labels):,} images")
    for part in dict.fromkeys(rows.files.splits):
        counts = np.bincount(labels[parts == part], minlength=len(rows.class_names))
        if part != "test" and (counts > 0).sum() < 2:
            raise InputError(f"parquet: {rows.path} has images of one class only to train on; two or more are needed")
        few = np.flatnonzero((counts > 0) & (counts < FEWEST[part]))
        if len(few):
            where = f"class '{rows.class_names[few[0]]}' has {counts[few[0]]} images"
            inside = f" in {part}" if part in PARTS else ""
            raise InputError(f"parquet: {rows.path}: {where}{inside}; {FEWEST[part]} are needed")
