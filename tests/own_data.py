"""Data of a user's own as files: a folder of images, and Parquet files in the Hugging Face layout."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from PIL import Image

from tests.small import SUITE

CLASSES = ("cat", "dog", "owl")


def one_line(excinfo: Any) -> str:
    """The text of an error that a reader sees whole."""
    text = str(excinfo.value)
    assert "\n" not in text
    return text


def suite(folder: Path, **dataset: Any) -> str:
    """The small suite on that data set, by default a folder."""
    (folder / "own.yaml").write_text(yaml.safe_dump({**SUITE, "dataset": {"name": "folder", **dataset}}))
    return str(folder / "own.yaml")


def encoded(value: int, size: tuple[int, int] = (8, 8), mode: str = "RGB", form: str = "PNG") -> bytes:
    """One image of random pixels."""
    pixels = np.random.default_rng(value).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(file, format=form)
    return file.getvalue()


def picture(path: Path, value: int = 0, size: tuple[int, int] = (8, 8), mode: str = "RGB") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded(value, size, mode, Image.registered_extensions()[path.suffix.lower()]))
    return path


def pictures_of(folder: Path, train: int = 4, test: int = 2, suffix: str = ".png", mode: str = "RGB") -> Path:
    """A folder with train/ and test/, three classes."""
    for part, count in (("train", train), ("test", test)):
        for label, name in enumerate(CLASSES):
            for number in range(count):
                value = 100 * label + number + 50 * (part == "test")
                picture(folder / part / name / f"{number:03d}{suffix}", value, mode=mode)
    return folder


def hub_file(
    path: Path, labels: Any, start: int = 0, names: tuple[str, ...] | None = CLASSES, column: str = "label", **more: Any
) -> Path:
    """A file as `datasets` writes one: images as structs of bytes and path, class names in the metadata."""
    images = [{"bytes": encoded(start + place), "path": None} for place in range(len(labels))]
    columns = {"image": pa.array(images, pa.struct({"bytes": pa.binary(), "path": pa.string()})), column: labels}
    table = pa.table({**columns, **more})
    if names is not None:
        features = {"image": {"_type": "Image"}, column: {"names": list(names), "_type": "ClassLabel"}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=5)
    return path


def pets(folder: Path, **options: Any) -> Path:
    """Two files to train on and one to test, three classes."""
    hub_file(folder / "data/train-00000-of-00002.parquet", [0, 1, 2] * 2, **options)
    hub_file(folder / "data/train-00001-of-00002.parquet", [2, 1, 0] * 2, 10, **options)
    hub_file(folder / "data/test-00000-of-00001.parquet", [2, 0, 1], 20, **options)
    return folder
