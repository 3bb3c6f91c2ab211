"""Folders of images: what is read and how it is named by its content, the decoded copy, every fault in one line."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from harness.data import decoded, pictures
from harness.data.augment import augmented
from harness.data.counts import class_counts
from harness.data.folder import folder_sha256, list_images
from harness.data.registry import DATASETS
from harness.data.sources import load
from harness.data.splits import split
from harness.errors import InputError
from harness.evaluation.given import given_dataset
from harness.inputs import Data, read_data
from harness.seeds import seeded
from harness.spec import AugmentSpec, TrialSpec
from harness.suites.plan import plan
from harness.suites.suite import load_suite
from harness.training.trainer import EpochBatches
from tests.own_data import CLASSES, hub_file, one_line, picture, pictures_of, suite
from tests.pages import blocks
from tests.small import SUITE

pytestmark = pytest.mark.usefixtures("data_directory")


@pytest.mark.parametrize(("suffix", "mode"), [(".png", "RGB"), (".png", "L"), (".JPEG", "RGB"), (".jpg", "L")])
def test_images_of_a_folder_are_those_that_pillow_decodes(tmp_path: Path, suffix: str, mode: str):
    folder = pictures_of(tmp_path / "pets", suffix=suffix, mode=mode)
    (folder / "README.txt").write_text("not an image, and not in a class")
    (folder / "train" / "cat" / ".hidden").write_text("passed over")
    train, test = (load("folder", split, path=folder) for split in ("train", "test"))
    assert train.class_names == test.class_names == CLASSES
    assert train.images.shape == (12, 1 if mode == "L" else 3, 8, 8)
    assert test.labels.tolist() == [0, 0, 1, 1, 2, 2]
    for number, name in ((0, "cat/000"), (5, "dog/001"), (11, "owl/003")):
        pixels = np.asarray(Image.open(folder / "train" / f"{name}{suffix}"))
        expected = pixels[None] if mode == "L" else pixels.transpose(2, 0, 1)
        assert np.array_equal(train.images[number].numpy(), expected)


def test_the_hash_is_the_one_that_sha256sum_gives(tmp_path: Path):
    folder = pictures_of(tmp_path / "pets")
    (command,) = blocks("docs/data.md", "bash")
    shown = subprocess.run(["bash", "-c", command], cwd=folder, capture_output=True, text=True, check=True).stdout
    assert folder_sha256(folder) == shown.split()[0]


def test_the_hash_is_of_content_and_names_alone(tmp_path: Path):
    folder = pictures_of(tmp_path / "pets")
    digest = folder_sha256(folder)
    shutil.copytree(folder, tmp_path / "elsewhere")
    assert folder_sha256(tmp_path / "elsewhere") == digest
    (folder / "train/cat/000.png").rename(folder / "train/cat/zzz.png")
    assert folder_sha256(folder) != digest
    (folder / "train/cat/zzz.png").rename(folder / "train/cat/000.png")
    assert folder_sha256(folder) == digest
    picture(folder / "train/cat/000.png", 999)
    assert folder_sha256(folder) != digest


def test_a_second_plan_reads_no_image_and_leaves_nothing_in_the_folder(
    tmp_path: Path, data_directory: Path, monkeypatch
):
    folder = pictures_of(tmp_path / "pets")
    before = sorted(folder.rglob("*"))
    digest = folder_sha256(folder)
    monkeypatch.setattr("harness.data.folder._read_file", None)  # reading would fail
    assert folder_sha256(folder) == digest
    assert sorted(folder.rglob("*")) == before
    (known,) = (data_directory / "hashes").iterdir()
    known.write_text("damaged")
    monkeypatch.undo()
    assert folder_sha256(folder, data_directory / "hashes") == digest


def test_a_folder_is_decoded_once_and_then_not_looked_at(tmp_path: Path, monkeypatch):
    folder = pictures_of(tmp_path / "pets")
    digest = folder_sha256(folder)
    first = load("folder", "train", path=folder, sha256=digest)
    moved = folder.rename(tmp_path / "gone") / ".." / "nowhere"
    again = load("folder", "train", path=moved, sha256=digest)
    assert np.array_equal(again.images.numpy(), first.images.numpy())
    assert again.class_names == CLASSES
    with pytest.raises(InputError, match="there is no folder"):
        load("folder", "train", path=moved, sha256=digest[::-1])


def test_a_data_directory_that_cannot_be_written_to_is_merely_slower(tmp_path: Path):
    folder = pictures_of(tmp_path / "pets")
    (tmp_path / "file").write_text("")
    assert len(load("folder", "test", path=folder, root=tmp_path / "file" / "below").labels) == 6
    assert folder_sha256(folder, tmp_path / "file" / "below") == folder_sha256(folder)


def test_a_folder_that_changes_between_plan_and_run_is_refused(tmp_path: Path):
    folder = pictures_of(tmp_path / "pets")
    digest = folder_sha256(folder)
    picture(folder / "test/owl/000.png", 999)
    with pytest.raises(InputError, match=f"not {digest} as planned"):
        load("folder", "train", path=folder, sha256=digest)


def test_classes_without_parts_give_a_sixth_of_each_class_to_the_test_images(tmp_path: Path):
    for label, name in enumerate(CLASSES):
        for number in range(12 * (label + 1)):
            picture(tmp_path / "pets" / name / f"{number}.png", 100 * label + number)
    train, test = (load("folder", split, path=tmp_path / "pets") for split in ("train", "test"))
    assert test.labels.bincount().tolist() == [2, 4, 6]
    assert train.labels.bincount().tolist() == [10, 20, 30]
    both = {image.numpy().tobytes() for image in (*train.images, *test.images)}
    assert len(both) == 72
    other = load("folder", "test", path=tmp_path / "pets", split_seed=1)
    assert other.labels.bincount().tolist() == [2, 4, 6]
    assert not np.array_equal(other.images.numpy(), test.images.numpy())


def test_the_fewest_images_of_a_class_give_one_to_the_test_images(tmp_path: Path):
    for label, name in enumerate(CLASSES):
        for number in range(4):
            picture(tmp_path / "pets" / name / f"{number}.png", 100 * label + number)
    train, test = (load("folder", split, path=tmp_path / "pets") for split in ("train", "test"))
    assert (train.labels.bincount().tolist(), test.labels.bincount().tolist()) == ([3, 3, 3], [1, 1, 1])
    spec = plan(load_suite(suite(tmp_path, path="pets")))[0].dataset
    assert class_counts(spec).test.tolist() == [1, 1, 1]


def test_images_are_resized_when_asked(tmp_path: Path):
    folder = pictures_of(tmp_path / "pets")
    picture(folder / "train/cat/000.png", 7, size=(40, 20))
    with pytest.raises(InputError, match=r"train/cat/000.png is 40 x 20 pixels and test/cat/000.png 8 x 8.*resize: 32"):
        load("folder", "train", path=folder)
    train = load("folder", "train", path=folder, resize=4)
    assert train.images.shape == (12, 3, 4, 4)
    whole = Image.open(folder / "train/cat/000.png").resize((4, 4), Image.Resampling.BILINEAR)
    assert np.array_equal(train.images[0].numpy(), np.asarray(whole).transpose(2, 0, 1))


def spoiled(folder: Path, fault: str) -> str:
    """Spoils a folder; what the message must say."""
    victim = folder / "train" / "dog" / "001.png"
    if fault == "empty":
        shutil.rmtree(folder)
        folder.mkdir()
        return "holds no images"
    if fault == "absent":
        shutil.rmtree(folder)
        return "there is no folder"
    if fault == "no test":
        shutil.rmtree(folder / "test")
        return "has train/ and no test/"
    if fault == "one class":
        for name, part in ((name, part) for name in CLASSES[1:] for part in ("train", "test")):
            shutil.rmtree(folder / part / name)
        return "has one class, 'cat'"
    if fault == "one image":
        for number in range(1, 4):
            (folder / "train" / "dog" / f"{number:03d}.png").unlink()
        return "train/dog has 1 images; 3 are needed"
    if fault == "class without test":
        shutil.rmtree(folder / "test" / "dog")
        return "class 'dog' has no image in test/"
    if fault == "class without training":
        picture(folder / "test" / "yak" / "0.png")
        return "class 'yak' has no image in train/"
    if fault == "nested":
        picture(folder / "train" / "dog" / "puppies" / "0.png")
        return "puppies is a folder inside a class"
    if fault == "text":
        (folder / "train" / "dog" / "labels.txt").write_text("")
        return "labels.txt is no image"
    if fault == "leaving link":
        victim.unlink()
        victim.symlink_to("/etc/hostname")
        return "001.png is a link that leaves"
    if fault == "leaving class":
        shutil.move(folder / "train" / "dog", folder.parent / "dog")
        (folder / "train" / "dog").symlink_to(folder.parent / "dog")
        return "dog is a link that leaves"
    if fault == "broken link":
        victim.unlink()
        victim.symlink_to(folder / "nothing.png")
        return "cannot read .*001.png"
    assert fault == "fifo"
    victim.unlink()
    os.mkfifo(victim)
    return "001.png is no regular file"


@pytest.mark.parametrize(
    "fault",
    ["empty", "absent", "no test", "one class", "one image", "class without test", "class without training", "nested",
     "text", "leaving link", "leaving class", "broken link", "fifo"],
)  # fmt: skip
def test_faults_of_a_folder_are_one_line_when_it_is_planned(tmp_path: Path, fault: str):
    folder = pictures_of(tmp_path / "pets")
    message = spoiled(folder, fault)
    with pytest.raises(InputError, match=message) as excinfo:
        folder_sha256(folder)
    assert str(folder) in one_line(excinfo)


def content(folder: Path, fault: str) -> str:
    """Puts a wrong image into a folder; what the message must say."""
    victim = folder / "train" / "dog" / "001.png"
    if fault == "text":
        victim.write_text("no image")
        return "damaged or neither PNG nor JPEG"
    if fault == "cut":
        victim.write_bytes(victim.read_bytes()[:80])
        return "damaged or neither PNG nor JPEG"
    if fault == "bmp":
        Image.new("RGB", (8, 8)).save(victim, format="BMP")
        return "damaged or neither PNG nor JPEG"
    if fault == "bomb":
        Image.new("1", (20_000, 20_000)).save(victim)
        return "more than 50,000,000 pixels"
    if fault == "large":
        Image.new("L", (10_000, 6_000)).save(victim)
        return "10000 x 6000 pixels; 50,000,000"
    if fault == "grey":
        picture(victim, mode="L")
        return "is L and test/cat/000.png is RGB"
    picture(victim, mode=fault)
    return f"is of mode {fault}"


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("fault", ["text", "cut", "bmp", "bomb", "large", "grey", "P", "RGBA", "1", "LA"])
def test_faulty_images_are_one_line_that_names_the_file(tmp_path: Path, fault: str):
    folder = pictures_of(tmp_path / "pets")
    message = content(folder, fault)
    with pytest.raises(InputError, match=message) as excinfo:
        load("folder", "train", path=folder)
    assert str(folder / "train/dog/001.png") in one_line(excinfo)


def test_a_link_inside_the_folder_is_read(tmp_path: Path):
    folder = pictures_of(tmp_path / "pets")
    (folder / "train/dog/linked.png").symlink_to(folder / "train/dog/000.png")
    train = load("folder", "train", path=folder)
    assert len(train.labels) == 13
    (tmp_path / "alias").symlink_to(folder)
    assert folder_sha256(tmp_path / "alias") == folder_sha256(folder)


def test_an_image_size_is_bounded_before_it_is_decoded(tmp_path: Path, monkeypatch):
    folder = pictures_of(tmp_path / "pets")
    monkeypatch.setattr(pictures, "MOST_PIXELS", 63)
    monkeypatch.setattr(Image.Image, "load", None)  # decoding would fail otherwise
    with pytest.raises(InputError, match="8 x 8 pixels; 63"):
        load("folder", "train", path=folder)


# In suites


def test_a_suite_names_a_folder_from_its_own_place_and_knows_it_by_its_hash(tmp_path: Path, monkeypatch):
    folder = pictures_of(tmp_path / "pets")
    monkeypatch.chdir("/")
    specs = plan(load_suite(suite(tmp_path, path="pets")))
    assert {(spec.dataset.path, spec.dataset.sha256) for spec in specs} == {(str(folder), folder_sha256(folder))}
    shutil.copytree(folder, tmp_path / "copy")
    copies = plan(load_suite(suite(tmp_path, path="copy")))
    assert [spec.trial_id for spec in copies] == [spec.trial_id for spec in specs]
    monkeypatch.chdir(tmp_path)
    overridden = plan(load_suite(suite(tmp_path, path="nowhere"), ["dataset.path=copy"]))
    assert [spec.trial_id for spec in overridden] == [spec.trial_id for spec in specs]
    picture(folder / "train/cat/000.png", 999)
    assert not {spec.trial_id for spec in plan(load_suite(suite(tmp_path, path="pets")))} & {
        spec.trial_id for spec in specs
    }


def test_a_hash_in_the_suite_is_compared_where_the_folder_is_and_is_enough_where_it_is_not(tmp_path: Path):
    folder = pictures_of(tmp_path / "pets")
    digest = folder_sha256(folder)
    specs = plan(load_suite(suite(tmp_path, path="pets", sha256=digest)))
    with pytest.raises(InputError, match=f"has the sha256 {digest}, the suite names 0000"):
        load_suite(suite(tmp_path, path="pets", sha256="0" * 64))
    shutil.rmtree(folder)
    absent = plan(load_suite(suite(tmp_path, path="pets", sha256=digest)))
    assert [spec.trial_id for spec in absent] == [spec.trial_id for spec in specs]


def test_an_npz_file_must_have_the_hash_that_the_suite_names(tmp_path: Path):
    generator = np.random.default_rng(0)
    arrays = {f"x_{split}": generator.integers(0, 256, (8, 5, 4, 3), dtype=np.uint8) for split in ("train", "test")}
    np.savez(tmp_path / "own.npz", **arrays, y_train=np.arange(8) % 2, y_test=np.arange(8) % 2)
    digest = hashlib.sha256((tmp_path / "own.npz").read_bytes()).hexdigest()
    own = {"name": "npz", "path": "own.npz"}
    (tmp_path / "npz.yaml").write_text(yaml.safe_dump({**SUITE, "dataset": {**own, "sha256": digest}}))
    assert plan(load_suite(str(tmp_path / "npz.yaml")))[0].dataset.sha256 == digest
    (tmp_path / "npz.yaml").write_text(yaml.safe_dump({**SUITE, "dataset": {**own, "sha256": "0" * 64}}))
    with pytest.raises(InputError, match="the suite names 0000"):
        load_suite(str(tmp_path / "npz.yaml"))
    with pytest.raises(InputError, match=r"not 0{64} as planned"):
        load("npz", "train", path=tmp_path / "own.npz", sha256="0" * 64)


def augmentation(folder: Path, **dataset) -> tuple:
    spec = plan(load_suite(suite(folder, **dataset)))[0]
    return spec.dataset.augment, spec.trial_id


def test_an_augmentation_is_part_of_the_identity_and_the_own_one_is_left_out(tmp_path: Path):
    pictures_of(tmp_path / "pets")
    own = augmentation(tmp_path, path="pets")
    assert own[0] is None
    for same in ({"crop": 0}, {"flip": False}, {}, {"crop": 0, "flip": False, "pad": "reflect"}):
        assert augmentation(tmp_path, path="pets", augment=same) == own
    asked = {"crop": 2, "flip": True, "pad": "reflect"}
    found = augmentation(tmp_path, path="pets", augment=asked)
    assert found[0] == AugmentSpec(**asked)
    assert found[1] != own[1]
    assert augmentation(tmp_path, path="pets", augment={"crop": 2, "flip": True}) == augmentation(
        tmp_path, path="pets", augment={"crop": 2, "flip": True, "pad": "zero"}
    )


@pytest.mark.parametrize("name", ["cifar10", "fashion_mnist", "digits"])
def test_what_an_augmentation_leaves_out_is_the_data_set_s_own(tmp_path: Path, name: str):
    plain = plan(load_suite(suite(tmp_path, name=name)))[0]
    own = {"crop": DATASETS[name].crop_padding, "flip": DATASETS[name].flip}
    assert plan(load_suite(suite(tmp_path, name=name, augment=own)))[0].trial_id == plain.trial_id
    other = plan(load_suite(suite(tmp_path, name=name, augment={"pad": "reflect"})))[0].dataset.augment
    assert other == AugmentSpec(**own, pad="reflect")


@pytest.mark.parametrize(
    ("augment", "fault"),
    [
        ({"crops": 4}, "did you mean crop"),
        ({"crop": -1}, "augment: crop"),
        ({"pad": "mirror"}, "augment: pad"),
        ({"crop": 8}, "crop 8 must be less than the 8 pixels of a side"),
        ("flip", "dataset: augment"),
    ],
)
def test_faults_of_an_augmentation_are_one_line(tmp_path: Path, augment, fault: str):
    with pytest.raises(InputError, match=fault) as excinfo:
        plan(load_suite(suite(tmp_path, name="digits", augment=augment)))
    one_line(excinfo)


def test_a_crop_as_large_as_the_images_of_a_folder_is_refused_when_they_are_read(tmp_path: Path):
    pictures_of(tmp_path / "pets")
    spec = plan(load_suite(suite(tmp_path, path="pets", augment={"crop": 8})))[0]
    with pytest.raises(InputError, match="crop 8 must be less than the 8 pixels"):
        read(spec)


def read(spec: TrialSpec) -> Data:
    return read_data(spec.dataset, 0, torch.device("cpu"), second=False, root=None, download=False)


def test_training_images_vary_as_the_suite_says(tmp_path: Path):
    pictures_of(tmp_path / "pets")
    asked = AugmentSpec(crop=2, flip=True, pad="reflect")
    spec = plan(load_suite(suite(tmp_path, path="pets", augment=asked.model_dump())))[0]
    data = read(spec)
    assert data.augment == asked
    batches = EpochBatches(data.train.images, data.train.labels, 4, augment=data.augment, coordinates=("a",), epoch=0)
    images, _ = next(iter(batches))
    expected = augmented(data.train.images[batches.order[:4]], asked, seeded("augmentation", "a", 0))
    assert torch.equal(images, expected)
    resized = read(plan(load_suite(suite(tmp_path, path="pets", resize=6)))[0])
    assert resized.train.images.shape[1:] == (3, 6, 6)


def test_a_title_is_no_part_of_the_identity(tmp_path: Path):
    digest = folder_sha256(pictures_of(tmp_path / "pets"))
    plain, titled = (plan(load_suite(suite(tmp_path, path="pets", **more)))[0] for more in ({}, {"title": "Pets"}))
    assert plain.trial_id == titled.trial_id
    assert (plain.dataset.label, titled.dataset.label) == (f"pets {digest[:8]}", "Pets")
    assert plan(load_suite(suite(tmp_path, name="digits")))[0].dataset.label == "digits"


def test_evaluate_takes_the_path_of_a_folder(tmp_path: Path, monkeypatch):
    folder = pictures_of(tmp_path / "pets")
    monkeypatch.chdir(tmp_path)
    for name in ("pets", "./pets", str(folder)):
        assert given_dataset(name).sha256 == folder_sha256(folder)
    with pytest.raises(InputError, match="there is no folder"):
        given_dataset("./petz")


@pytest.mark.parametrize(
    ("dataset", "fault"),
    [
        ({"name": "folder"}, "'path' goes with 'name: npz or folder or parquet'"),
        ({"name": "digits", "path": "x"}, "'path' goes with"),
        ({"name": "digits", "sha256": "x"}, "'sha256' goes with"),
        ({"name": "folder", "path": 3}, "dataset: path"),
        ({"name": "npz", "path": "absent.npz", "sha256": "../x"}, "sha256 must be 64 hexadecimal digits"),
        ({"name": "digits", "resize": 32}, "'resize' goes with 'name: folder or parquet'"),
        ({"name": "digits", "title": ""}, "dataset: title"),
    ],
)
def test_misplaced_keys_of_a_data_set_are_refused(tmp_path: Path, dataset: dict, fault: str):
    (tmp_path / "own.yaml").write_text(yaml.safe_dump({**SUITE, "dataset": dataset}))
    with pytest.raises(InputError, match=fault):
        plan(load_suite(str(tmp_path / "own.yaml")))


def test_planning_a_folder_imports_neither_torch_nor_pillow(tmp_path: Path):
    pictures_of(tmp_path / "pets")
    code = (
        f"import sys; from harness.suites.suite import load_suite; from harness.suites.plan import plan\n"
        f"plan(load_suite({suite(tmp_path, path='pets')!r})); print({{'torch', 'PIL', 'ray'}} & sys.modules.keys())"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown.strip() == "set()"


def test_decoded_names_of_classes_survive(tmp_path: Path):
    decoded.write_class_names(tmp_path, "own", ("ä", "b c"))
    assert decoded.read_class_names(tmp_path, "own") == ("ä", "b c")
    assert decoded.read_class_names(tmp_path, "other") is None


def test_class_names_must_be_text(tmp_path: Path):
    folder = pictures_of(tmp_path / "pets")
    bad = os.fsencode(folder / "train") + b"/\xff\xfe"
    os.mkdir(bad)
    shutil.copy(folder / "train/cat/000.png", bad + b"/0.png")
    with pytest.raises(InputError, match="is not UTF-8"):
        list_images(folder)


# Long tails


def test_a_long_tail_falls_from_class_to_class_and_leaves_validation_alone():
    labels = torch.arange(10).repeat_interleave(1100)
    plain, tail = (split(labels, 0, imbalance=factor) for factor in (None, 0.1))
    assert torch.equal(plain.validation, tail.validation)
    expected = [int(1000 * 0.1 ** (place / 9) + 1e-9) for place in range(10)]
    assert labels[tail.train].bincount().tolist() == expected
    assert expected[0] == 1000
    assert expected[-1] == 100
    assert set(tail.train.tolist()) <= set(plain.train.tolist())
    subset = split(labels, 0, imbalance=0.1, train_images=500, second=True)
    assert set(subset.train.tolist()) | set(subset.held_out.tolist()) <= set(tail.train.tolist())
    assert len(subset.train) + len(subset.held_out) == 500


def test_a_class_gives_no_more_to_a_long_tail_than_it_has_and_keeps_one():
    labels = torch.tensor([0] * 40 + [1] * 9 + [2] * 40)
    assert labels[split(labels, 0, imbalance=0.001).train].bincount().tolist() == [36, 1, 1]
    assert labels[split(labels, 0, imbalance=0.9).train].bincount().tolist() == [36, 8, 32]


def test_an_imbalance_is_part_of_the_identity_unless_it_is_none(tmp_path: Path):
    ids = [plan(load_suite(suite(tmp_path, name="digits", **more)))[0].trial_id
           for more in ({}, {"imbalance": 1}, {"imbalance": 0.1})]  # fmt: skip
    assert ids[0] == ids[1] != ids[2]
    with pytest.raises(InputError, match="dataset: imbalance"):
        plan(load_suite(suite(tmp_path, name="digits", imbalance=10)))


def test_the_data_sets_of_the_page_are_read(tmp_path: Path, monkeypatch):
    """From the reader's home and beside the suite; `train_images` asks for what a real set has."""
    monkeypatch.setenv("HOME", str(tmp_path))
    pictures_of(tmp_path / "cifar10_jpeg", suffix=".jpg")
    images, labels = np.zeros((12, 8, 8), np.uint8), np.arange(12) % 3
    np.savez(tmp_path / "mine.npz", x_train=images, y_train=labels, x_test=images[:3], y_test=labels[:3])
    rows = [0, 1, 2] * 4
    hub_file(tmp_path / "hub/cifar100/train.parquet", rows, column="fine_label", coarse_label=[0, 1] * 6)
    hub_file(tmp_path / "hub/cifar100/test.parquet", rows, column="fine_label", coarse_label=[0, 1] * 6)
    (block,) = blocks("docs/data.md", "yaml")
    for line in block.splitlines():
        dataset = {**yaml.safe_load(line)["dataset"], "train_images": 9}
        spec = plan(load_suite(suite(tmp_path, **dataset)))[0]
        assert class_counts(spec.dataset).train.tolist() == [4, 4, 4]
        assert read(spec).test.labels.tolist()[:3] == ([0, 0, 1] if spec.dataset.name == "folder" else [0, 1, 2])
