"""Parquet files in the Hugging Face layout: which files and columns are read, how labels become classes, every fault in
one line."""

from __future__ import annotations

import hashlib
import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from harness.data.counts import class_counts
from harness.data.parquet import list_rows, parquet_sha256
from harness.data.sources import load
from harness.errors import InputError
from harness.evaluation.given import given_dataset
from harness.store.store import Store
from harness.suites.blocks import dataset_spec
from harness.suites.plan import plan
from harness.suites.suite import load_suite
from tests.own_data import CLASSES, encoded, hub_file, one_line, pets, suite
from tests.small import run_to_end, small_specs

pytestmark = pytest.mark.usefixtures("data_directory")


def decoded_pixels(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content))).transpose(2, 0, 1)


def test_images_and_labels_are_those_of_the_rows(tmp_path: Path):
    folder = pets(tmp_path / "pets")
    train, test = (load("parquet", split, path=folder) for split in ("train", "test"))
    assert train.class_names == test.class_names == CLASSES
    assert train.labels.tolist() == [0, 1, 2, 0, 1, 2, 2, 1, 0, 2, 1, 0]
    assert test.labels.tolist() == [2, 0, 1]
    for images, row, value in ((train, 0, 0), (train, 6, 10), (train, 11, 15), (test, 2, 22)):
        assert np.array_equal(images.images[row].numpy(), decoded_pixels(encoded(value)))


def test_the_decoded_copy_is_enough(tmp_path: Path):
    folder = pets(tmp_path / "pets")
    digest = parquet_sha256(folder)
    first = load("parquet", "train", path=folder, sha256=digest)
    folder.rename(tmp_path / "gone")
    again = load("parquet", "train", path=tmp_path / "nowhere", sha256=digest)
    assert np.array_equal(again.images.numpy(), first.images.numpy())
    assert again.class_names == CLASSES


@pytest.mark.parametrize(
    ("names", "read"),
    [
        (["train.parquet", "test.parquet"], {"train": "train", "test": "test"}),
        (["train/0000.parquet", "test/0000.parquet"], {"train/0000": "train", "test/0000": "test"}),
        (["default/train/0.parquet", "default/test/0.parquet"], {"default/train/0": "train", "default/test/0": "test"}),
        (["train.parquet", "validation.parquet"], {"train": "train", "validation": "test"}),
        (["data/train-0.parquet", "data/valid-0.parquet"], {"data/train-0": "train", "data/valid-0": "test"}),
        (["train.parquet", "test.parquet", "validation.parquet"], {"train": "train", "test": "test"}),
        (["train.parquet"], {"train": "all"}),
        (["a.parquet", "b.parquet"], {"a": "all", "b": "all"}),
    ],
)
def test_the_names_of_files_tell_their_splits(tmp_path: Path, names: list[str], read: dict[str, str]):
    for place, name in enumerate(names):
        hub_file(tmp_path / "set" / name, [0, 1, 2] * 4, 100 * place)
    (tmp_path / "set" / "README.md").write_text("passed over")
    hub_file(tmp_path / "set" / ".hidden" / "train.parquet", [0])
    files = list_rows(tmp_path / "set").files
    assert {name.removesuffix(".parquet"): split for name, split in zip(files.names, files.splits, strict=True)} == read


def test_the_links_of_a_download_cache_are_read(tmp_path: Path):
    folder = pets(tmp_path / "pets")
    for path in folder.rglob("*.parquet"):
        blob = tmp_path / "blobs" / path.name
        blob.parent.mkdir(exist_ok=True)
        path.rename(blob)
        path.symlink_to(blob)
    assert len(load("parquet", "train", path=folder).labels) == 12


def test_one_file_gives_a_sixth_of_each_class_to_the_test_images(tmp_path: Path):
    path = hub_file(tmp_path / "mine.parquet", [0, 1, 2] * 12)
    train, test = (load("parquet", split, path=path) for split in ("train", "test"))
    assert test.labels.bincount().tolist() == [2, 2, 2]
    assert train.labels.bincount().tolist() == [10, 10, 10]
    assert len({image.numpy().tobytes() for image in (*train.images, *test.images)}) == 36
    other = load("parquet", "test", path=path, split_seed=1)
    assert not np.array_equal(other.images.numpy(), test.images.numpy())


def test_the_hash_is_the_one_that_sha256sum_gives(tmp_path: Path):
    path = hub_file(tmp_path / "mine.parquet", [0, 1, 2] * 4)
    assert parquet_sha256(path) == hashlib.sha256(path.read_bytes()).hexdigest()
    folder = pets(tmp_path / "pets")
    command = "find * -name '*.parquet' -print0 | LC_ALL=C sort -z | xargs -0 sha256sum | sha256sum"
    shown = subprocess.run(["bash", "-c", command], cwd=folder, capture_output=True, text=True, check=True).stdout
    assert parquet_sha256(folder) == shown.split()[0]
    hub_file(folder / "data/validation-0.parquet", [0])  # not read
    assert parquet_sha256(folder) == shown.split()[0]


@pytest.mark.parametrize("coded", [False, True])
def test_labels_as_text_are_classes_in_the_order_of_their_characters(tmp_path: Path, coded: bool):
    texts = pa.array(["owl", "cat", "dog", "owl", "cat", "dog"] * 2)
    path = hub_file(tmp_path / "mine.parquet", texts.dictionary_encode() if coded else texts, names=None)
    rows = list_rows(path)
    assert rows.class_names == CLASSES
    assert rows.labels.tolist() == [2, 0, 1, 2, 0, 1] * 2
    own = {"name": "parquet", "path": str(path)}
    spec = small_specs(tmp_path, "training.epochs=1", "training.batch_size=2", dataset=own, methods=["at"])["at"]
    run_to_end(spec, tmp_path / "store")
    rows = Store(tmp_path / "store").read("class_accuracy", [spec.trial_id])
    assert set(zip(rows["class_index"], rows["class_name"], strict=True)) == set(enumerate(CLASSES))


def test_whole_numbers_without_names_are_called_by_themselves(tmp_path: Path):
    path = hub_file(tmp_path / "mine.parquet", pa.array([3, 1, 3, 1] * 4, pa.uint8()), names=None)
    assert list_rows(path).class_names == ("0", "1", "2", "3")


def test_plain_bytes_and_jpeg_are_read(tmp_path: Path):
    contents = [encoded(value, form="JPEG") for value in range(8)]
    pq.write_table(pa.table({"jpg": contents, "y": [0, 1] * 4}), tmp_path / "mine.parquet")
    train, test = (load("parquet", split, path=tmp_path / "mine.parquet") for split in ("train", "test"))
    found = {image.numpy().tobytes() for image in (*train.images, *test.images)}
    assert found == {decoded_pixels(content).tobytes() for content in contents}


def two_columns(tmp_path: Path) -> Path:
    """As CIFAR-100 is on the Hub: fine and coarse labels."""
    return hub_file(tmp_path / "mine.parquet", [0, 1, 2, 0, 1, 2] * 2, column="fine_label", coarse_label=[0, 0, 1] * 4)


def test_of_several_columns_of_labels_the_suite_names_one(tmp_path: Path):
    path = two_columns(tmp_path)
    assert list_rows(path).class_names == CLASSES  # the only column with names
    coarse = load("parquet", "train", path=path, label_column="coarse_label")
    assert coarse.class_names == ("0", "1")
    plain, named, other = (
        dataset_spec({"name": "parquet", "path": str(path), **more})
        for more in ({}, {"label_column": "fine_label"}, {"label_column": "coarse_label"})
    )
    assert plain == named
    assert class_counts(plain).train.tolist() == [3, 3, 3]
    assert class_counts(other).train.tolist() == [7, 3]
    assert len(load("parquet", "train", path=path).class_names) == 3
    with pytest.raises(InputError, match=r"unknown label_column in .* 'fin_label': did you mean fine_label"):
        list_rows(path, "fin_label")


def test_the_column_of_labels_is_part_of_the_identity(tmp_path: Path):
    path = two_columns(tmp_path)
    specs = [
        small_specs(tmp_path, dataset={"name": "parquet", "path": str(path), **more}, methods=["at"])["at"]
        for more in ({}, {"label_column": "coarse_label"})
    ]
    assert specs[0].trial_id != specs[1].trial_id


@pytest.mark.parametrize("place", ["mine.parquet", "pets", "deep", "{name: parquet, path: pets, resize: 4}"])
def test_evaluate_takes_a_file_a_folder_or_what_a_suite_writes(tmp_path: Path, monkeypatch, place: str):
    hub_file(tmp_path / "mine.parquet", [0, 1, 2] * 4)
    pets(tmp_path / "pets")
    pets(tmp_path / "deep" / "default")
    monkeypatch.chdir(tmp_path)
    spec = given_dataset(place)
    assert spec.name == "parquet"
    assert spec.sha256 == parquet_sha256(tmp_path / ("pets" if "pets" in place else place))
    assert spec.resize == (4 if "resize" in place else None)


def spoiled(folder: Path, fault: str) -> str:
    """Spoils a set of files; what the message must say."""
    train, test = folder / "data/train-00000-of-00002.parquet", folder / "data/test-00000-of-00001.parquet"
    if fault == "absent":
        folder.rename(folder.with_name("gone"))
        return "there is no file or folder"
    if fault == "empty":
        for path in folder.rglob("*.parquet"):
            path.unlink()
        return "holds no .parquet file"
    if fault == "no train":
        for path in folder.rglob("train*"):
            path.unlink()
        return "has test files and none with train"
    if fault == "stray":
        hub_file(folder / "data/more.parquet", [0])
        return "more.parquet: of which split"
    if fault == "several sets":
        hub_file(folder / "plain/train.parquet", [0])
        hub_file(folder / "fancy/train.parquet", [0])
        return "holds several sets: name the folder of one, data or fancy or plain|, fancy or plain"
    if fault == "cut":
        train.write_bytes(train.read_bytes()[:200])
        return "00000-of-00002.parquet is damaged or no Parquet file"
    if fault == "text":
        train.write_text("no table")
        return "00000-of-00002.parquet is damaged or no Parquet file"
    if fault == "other columns":
        hub_file(test, [0, 1, 2], more=[1, 2, 3])
        return "train-00000-of-00002.parquet has other columns than data/test-00000-of-00001.parquet"
    if fault == "no label":
        for path in folder.rglob("*.parquet"):
            pq.write_table(pq.read_table(path).drop_columns(["label"]), path)
        return "has no column of labels .*it has image$"
    if fault == "no image":
        for path in folder.rglob("*.parquet"):
            pq.write_table(pq.read_table(path).drop_columns(["image"]), path)
        return "has no column of image bytes .*it has label$"
    if fault == "two labels":
        for path in folder.rglob("*.parquet"):
            table = pq.read_table(path).replace_schema_metadata(None)
            pq.write_table(
                table.append_column("fine", table["label"]).rename_columns(["image", "coarse", "fine"]), path
            )
        return "has several columns of labels, coarse, fine: the suite names one, as `label_column`"
    if fault == "two images":
        for path in folder.rglob("*.parquet"):
            table = pq.read_table(path)
            pq.write_table(table.append_column("mask", table["image"]).rename_columns(["a", "label", "b"]), path)
        return "several columns of bytes, a, b: call the images `image`"
    if fault == "null label":
        hub_file(train, [0, 1, None, 0, 1, 2])
        return "00000-of-00002.parquet, row 2 has no `label`"
    if fault == "unlabelled":
        hub_file(test, [-1, -1, -1])
        return "`label` runs from -1 to 2; labels are 0 to 2, the classes that are named"
    if fault == "beyond the names":
        hub_file(test, [0, 1, 7])
        return "`label` runs from 0 to 7; labels are 0 to 2"
    if fault == "other names":
        hub_file(test, [0, 1, 2], names=("owl", "dog", "cat"))
        return "train-00000-of-00002.parquet calls its classes .*test-00000-of-00001.parquet owl, dog, cat: one number"
    if fault == "huge label":
        hub_file(test, pa.array([0, 1, 2**63 + 5], pa.uint64()))
        return "00000-of-00001.parquet: `label` has a number beyond those of classes"
    if fault == "one image":
        hub_file(train, [0, 1] * 3)
        hub_file(folder / "data/train-00001-of-00002.parquet", [0, 1, 2] + [0] * 3)
        return "class 'owl' has 1 images in train; 3 are needed"
    assert fault == "one class"
    for path in folder.rglob("*.parquet"):
        hub_file(path, [1] * 6)
    return "has images of one class only"


@pytest.mark.parametrize(
    "fault",
    ["absent", "empty", "no train", "stray", "several sets", "cut", "text", "other columns", "no label", "no image",
     "two labels", "two images", "null label", "unlabelled", "beyond the names", "other names", "huge label",
     "one image", "one class"],
)  # fmt: skip
def test_faults_are_one_line_when_the_suite_is_planned(tmp_path: Path, fault: str):
    folder = pets(tmp_path / "pets")
    says = spoiled(folder, fault)
    path = suite(tmp_path, name="parquet", path="pets")
    with pytest.raises(InputError, match=says) as excinfo:
        plan(load_suite(path))
    assert str(folder) in one_line(excinfo)


def test_faults_of_one_file_name_it(tmp_path: Path):
    path = hub_file(tmp_path / "mine.parquet", [0, 0, 0, 0])
    with pytest.raises(InputError, match="has images of one class only") as excinfo:
        list_rows(path)
    assert one_line(excinfo).startswith(f"parquet: {path} ")
    hub_file(path, [0, 1, 2] * 4)
    with pytest.raises(InputError, match="not 0000 as planned") as excinfo:
        load("parquet", "train", path=path, sha256="0000")
    assert one_line(excinfo).startswith(f"parquet: {path} ")


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "row 3 has no image bytes"),
        (b"no image", "row 3 is damaged or neither PNG nor JPEG"),
        (encoded(1, mode="L"), r"row 3 is L and data/test-00000-of-00001.parquet, row 0 is RGB"),
        (encoded(1, size=(9, 9)), "row 3 is 9 x 9 pixels .* `resize: 32`"),
        (encoded(1, mode="P"), "row 3 is of mode P"),
    ],
)
def test_faulty_images_are_one_line_that_names_file_and_row(tmp_path: Path, content: bytes | None, says: str):
    folder = pets(tmp_path / "pets")
    path = folder / "data/train-00001-of-00002.parquet"
    rows = pq.read_table(path).to_pylist()
    rows[3]["image"]["bytes"] = content
    pq.write_table(pa.Table.from_pylist(rows, pq.read_schema(path)), path)
    with pytest.raises(InputError, match=f"train-00001-of-00002.parquet, {says}") as excinfo:
        load("parquet", "train", path=folder)
    assert one_line(excinfo).startswith(f"parquet: {folder}")


def test_files_that_change_between_plan_and_run_are_refused(tmp_path: Path):
    folder = pets(tmp_path / "pets")
    digest = parquet_sha256(folder)
    hub_file(folder / "data/test-00000-of-00001.parquet", [2, 0, 1], 90)
    with pytest.raises(InputError, match=f"not {digest} as planned"):
        load("parquet", "train", path=folder, sha256=digest)


def test_planning_imports_neither_torch_nor_pillow(tmp_path: Path):
    pets(tmp_path / "pets")
    path = suite(tmp_path, name="parquet", path="pets")
    code = (
        f"import sys; from harness.suites.suite import load_suite; from harness.suites.plan import plan\n"
        f"plan(load_suite({path!r})); print({{'torch', 'PIL', 'ray'}} & sys.modules.keys())"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown.strip() == "set()"
