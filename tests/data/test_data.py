"""Data sets against their sources, splits and subsets against their rules, augmentation against a plain loop."""

from __future__ import annotations

import gzip
import hashlib
import importlib.util
import pickle
import shutil
import struct
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from harness.data import decoded, sources
from harness.data.augment import augmented, to_float
from harness.data.class_names import TINY_IMAGENET
from harness.data.counts import ClassCounts, class_counts
from harness.data.readers import DEBIAN_FASHION_MNIST
from harness.data.registry import DATASETS, OWN, Content, DatasetInfo, Own
from harness.data.sources import data_root, load
from harness.data.splits import split, split_sizes, stratified_order, stratified_subset
from harness.errors import InputError
from harness.evaluation.given import given_dataset
from harness.running.run import Options, check_inputs
from harness.spec import AugmentSpec
from harness.store.store import Store
from harness.suites.blocks import dataset_spec
from tests.own_data import one_line
from tests.small import run_to_end, small_specs

needs_fashion_mnist = pytest.mark.skipif(
    not DEBIAN_FASHION_MNIST.is_dir(), reason="needs Debian's package dataset-fashion-mnist"
)


@pytest.fixture(autouse=True)
def _fresh_process():
    """Nothing loaded by another test is found again."""
    sources._load.cache_clear()


def test_the_registries_do_not_import_torch():
    code = (
        "import sys, harness.data.registry, harness.models.registry; "
        "print({'torch', 'torchvision', 'ray', 'numpy'} & set(sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


def test_registry_facts_are_consistent():
    for name, info in DATASETS.items():
        assert info.name == name
        if name not in OWN:
            assert len(set(info.class_names)) == info.num_classes
            assert len(info.mean) == len(info.std) == info.channels
            assert len(info.train_counts) == len(info.test_counts) == info.num_classes
    assert not DATASETS["digits"].flip
    assert not DATASETS["svhn"].flip
    assert list(DATASETS["cifar100"].class_names) == sorted(DATASETS["cifar100"].class_names)


# Sources


def test_digits_are_scikit_learns_with_a_quarter_held_as_test():
    from sklearn.datasets import load_digits

    train, test = load("digits", "train"), load("digits", "test")
    assert train.images.dtype == torch.uint8
    assert train.images.shape == (1347, 1, 8, 8)
    assert test.images.shape == (450, 1, 8, 8)
    source = load_digits()
    together = {
        (row.numpy().tobytes(), int(y)) for s in (train, test) for row, y in zip(s.images, s.labels, strict=True)
    }
    expected = {
        (bytes(round(v * 255 / 16) for v in row), int(y)) for row, y in zip(source.data, source.target, strict=True)
    }
    assert together == expected
    share = np.bincount(source.target) * 450 / 1797
    assert np.all(np.abs(test.labels.bincount().numpy() - share) < 1)
    assert (train.num_classes, train.channels) == (10, 1)


def test_a_data_set_is_loaded_once_per_process():
    assert load("digits", "train").images.data_ptr() == load("digits", "train").images.data_ptr()


@pytest.fixture(scope="module")
def fashion_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


@needs_fashion_mnist
def test_fashion_mnist_from_debian_is_the_real_one(fashion_root: Path):
    test = load("fashion_mnist", "test", root=fashion_root)
    assert test.images.shape == (10_000, 1, 28, 28)
    assert test.labels.bincount().tolist() == [1000] * 10
    folder = Path(importlib.util.find_spec("foolbox").submodule_search_locations[0]) / "data"
    pictures = sorted(folder.glob("fashionMNIST_*.png"))
    assert len(pictures) == 20
    for picture in pictures:
        index, label = map(int, picture.stem.split("_")[1:])
        assert int(test.labels[index]) == label
        assert np.array_equal(test.images[index, 0].numpy(), np.asarray(Image.open(picture)))


@needs_fashion_mnist
def test_registry_mean_and_std_are_those_of_the_training_images(fashion_root: Path):
    for name in ("digits", "fashion_mnist"):
        images = load(name, "train", root=fashion_root).images.double().div(255)
        assert [images.mean().item()] == pytest.approx(DATASETS[name].mean, abs=1e-4)
        assert [images.std(correction=0).item()] == pytest.approx(DATASETS[name].std, abs=1e-4)


@needs_fashion_mnist
def test_the_decoded_copy_is_mapped_and_a_damaged_one_is_made_again(fashion_root: Path, monkeypatch):
    first = load("fashion_mnist", "test", root=fashion_root).images
    names = {path.name for path in (fashion_root / "decoded").iterdir()}
    assert {"fashion_mnist-test-images.npy", "fashion_mnist-test-labels.npy"} <= names
    assert not [name for name in names if name.endswith(".tmp")]
    sources._load.cache_clear()
    with monkeypatch.context() as patch:
        patch.setattr("harness.data.sources._read_source", lambda *_: pytest.fail("read the source again"))
        again = load("fashion_mnist", "test", root=fashion_root).images
    assert torch.equal(first, again)
    again[0, 0, 0, 0] += 1  # a slip in one process stays in it
    assert torch.equal(torch.from_numpy(decoded.read(fashion_root, "fashion_mnist", "test")[0]), first)
    path = fashion_root / "decoded" / "fashion_mnist-test-images.npy"
    whole = path.read_bytes()
    damaged = path.with_name("half")
    damaged.write_bytes(whole[: len(whole) // 2])
    damaged.replace(path)
    sources._load.cache_clear()
    assert torch.equal(load("fashion_mnist", "test", root=fashion_root).images, first)
    assert path.read_bytes() == whole


@needs_fashion_mnist
@pytest.mark.parametrize("layout", ["gz in the directory", "plain in torchvision's folder"])
def test_fashion_mnist_from_the_data_directory(tmp_path: Path, monkeypatch, layout: str):
    folder = tmp_path if "gz" in layout else tmp_path / "FashionMNIST" / "raw"
    folder.mkdir(parents=True, exist_ok=True)
    for packed in DEBIAN_FASHION_MNIST.glob("t10k-*.gz"):
        if "gz" in layout:
            shutil.copy(packed, folder)
        else:
            (folder / packed.stem).write_bytes(gzip.decompress(packed.read_bytes()))
    monkeypatch.setattr("harness.data.readers.DEBIAN_FASHION_MNIST", tmp_path / "absent")
    test = load("fashion_mnist", "test", root=tmp_path)
    raw = gzip.decompress((DEBIAN_FASHION_MNIST / "t10k-images-idx3-ubyte.gz").read_bytes())
    assert test.images.numpy().tobytes() == raw[16:]
    with pytest.raises(InputError) as excinfo:
        load("fashion_mnist", "train", root=tmp_path)
    message = one_line(excinfo)
    assert str(tmp_path) in message
    assert all(way in message for way in ("ROBUST_FAIRNESS_DATA", "dataset-fashion-mnist", "download"))


@needs_fashion_mnist
def test_a_data_directory_that_cannot_be_written_to_still_works(tmp_path: Path):
    (tmp_path / "file").write_text("no directory can be made under a file")
    assert load("fashion_mnist", "test", root=tmp_path / "file" / "data").images.shape == (10_000, 1, 28, 28)


def idx_file(path: Path, values: np.ndarray) -> None:
    header = struct.pack(f">HBB{values.ndim}I", 0, 8, values.ndim, *values.shape)
    path.write_bytes(header + values.astype(np.uint8).tobytes())


def test_files_that_are_not_fashion_mnist_are_refused(tmp_path: Path):
    idx_file(tmp_path / "t10k-images-idx3-ubyte", np.zeros((10_000, 28, 28)))
    labels = np.arange(10_000) % 10
    labels[0] = 1  # MNIST's classes are not equally frequent
    idx_file(tmp_path / "t10k-labels-idx1-ubyte", labels)
    with pytest.raises(InputError, match="other than Fashion-MNIST") as excinfo:
        load("fashion_mnist", "test", root=tmp_path)
    one_line(excinfo)
    (tmp_path / "t10k-labels-idx1-ubyte").write_bytes(b"\0\0\x08\x01short")
    with pytest.raises(InputError, match="damaged") as excinfo:
        load("fashion_mnist", "test", root=tmp_path)
    one_line(excinfo)


@needs_fashion_mnist
def test_a_truncated_gz_is_refused(tmp_path: Path):
    for packed in DEBIAN_FASHION_MNIST.glob("t10k-*.gz"):
        (tmp_path / packed.name).write_bytes(packed.read_bytes()[:3000])
    with pytest.raises(InputError, match="damaged"):
        load("fashion_mnist", "test", root=tmp_path)
    assert not (tmp_path / "decoded").exists()


@pytest.fixture
def served(tmp_path: Path) -> Iterator[str]:
    """The address under which this machine serves tmp_path/origin to itself."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path / "origin"))) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture
def cifar10(tmp_path: Path, monkeypatch, served: str) -> tuple[Path, np.ndarray]:
    """A folder in CIFAR-10's own format with random images, known to torchvision by its checksums; the pixels."""
    from torchvision.datasets import CIFAR10

    folder = tmp_path / "origin" / CIFAR10.base_folder
    folder.mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 256, (6, 4, 3072), dtype=np.uint8)

    def entry(name: str, content: dict) -> str:
        (folder / name).write_bytes(pickle.dumps(content))
        return hashlib.md5((folder / name).read_bytes()).hexdigest()

    names = [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]
    files = [[n, entry(n, {"data": pixels[i], "labels": [i, 1, 2, 9]})] for i, n in enumerate(names)]
    monkeypatch.setattr(CIFAR10, "train_list", files[:5])
    monkeypatch.setattr(CIFAR10, "test_list", files[5:])
    md5 = entry("batches.meta", {"label_names": list(DATASETS["cifar10"].class_names)})
    monkeypatch.setattr(CIFAR10, "meta", {"filename": "batches.meta", "key": "label_names", "md5": md5})
    archive = tmp_path / "origin" / CIFAR10.filename
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(folder, CIFAR10.base_folder)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(CIFAR10, "url", f"{served}/{archive.name}")
    monkeypatch.setattr(CIFAR10, "tgz_md5", hashlib.md5(archive.read_bytes()).hexdigest())
    return tmp_path / "origin", pixels


def test_cifar10_from_torchvisions_folder(cifar10: tuple[Path, np.ndarray]):
    root, pixels = cifar10
    train = load("cifar10", "train", root=root)
    assert np.array_equal(train.images.numpy(), pixels[:5].reshape(20, 3, 32, 32))
    assert train.labels.tolist() == [y for i in range(5) for y in (i, 1, 2, 9)]
    assert load("cifar10", "test", root=root).images.numpy().tobytes() == pixels[5].tobytes()


def test_a_changed_cifar10_file_is_refused(cifar10: tuple[Path, np.ndarray]):
    root, _ = cifar10
    with (root / "cifar-10-batches-py" / "data_batch_3").open("ab") as file:
        file.write(b"x")
    with pytest.raises(InputError, match="damaged") as excinfo:
        load("cifar10", "train", root=root)
    one_line(excinfo)


def test_missing_data_is_downloaded_only_when_allowed(cifar10: tuple[Path, np.ndarray], tmp_path: Path):
    root = tmp_path / "new"
    with pytest.raises(InputError) as excinfo:
        load("cifar10", "test", root=root)
    message = one_line(excinfo)
    assert all(part in message for part in (str(root), "cifar-10-batches-py", "ROBUST_FAIRNESS_DATA", "download"))
    assert not root.exists()
    test = load("cifar10", "test", root=root, download=True)
    assert test.images.numpy().tobytes() == cifar10[1][5].tobytes()
    assert {path.name for path in root.iterdir()} == {"decoded", ".cifar10.lock"}
    assert load("cifar10", "train", root=root).images.shape == (20, 3, 32, 32)


def test_a_failed_download_is_one_line_and_leaves_nothing(
    cifar10: tuple[Path, np.ndarray], tmp_path: Path, monkeypatch
):
    from torchvision.datasets import CIFAR10

    monkeypatch.setattr(CIFAR10, "tgz_md5", "0" * 32)
    with pytest.raises(InputError, match=r"download into .* failed") as excinfo:
        load("cifar10", "test", root=tmp_path / "new", download=True)
    one_line(excinfo)
    assert [path.name for path in (tmp_path / "new").iterdir()] == [".cifar10.lock"]


def test_svhn_from_its_mat_files(tmp_path: Path, monkeypatch):
    from scipy.io import savemat
    from torchvision.datasets import SVHN

    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3, 4), dtype=np.uint8)
    savemat(tmp_path / "test_32x32.mat", {"X": pixels, "y": np.array([[10], [1], [9], [10]], dtype=np.uint8)})
    md5 = hashlib.md5((tmp_path / "test_32x32.mat").read_bytes()).hexdigest()
    monkeypatch.setattr(SVHN, "split_list", {**SVHN.split_list, "test": ["", "test_32x32.mat", md5]})
    test = load("svhn", "test", root=tmp_path)
    assert test.labels.tolist() == [0, 1, 9, 0]
    assert np.array_equal(test.images[2].numpy(), pixels[..., 2].transpose(2, 0, 1))
    with pytest.raises(InputError, match=r"train_32x32\.mat"):
        load("svhn", "train", root=tmp_path)


@pytest.fixture
def tiny_imagenet(tmp_path: Path, monkeypatch) -> Path:
    """A directory with Tiny ImageNet's own layout: an image of each class to train on, the first of them grey, and two
    to test, listed in the opposite order."""
    folder = tmp_path / "tiny-imagenet-200"
    facts = replace(DATASETS["tiny_imagenet"], train_counts=(1,) * 200, test_counts=(2,) * 200)
    monkeypatch.setitem(DATASETS, "tiny_imagenet", facts)

    def photograph(path: Path, value: int) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(value).integers(0, 256, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).convert("L" if value == 0 else "RGB").save(path, format="JPEG")

    for label, wnid in enumerate(TINY_IMAGENET):
        photograph(folder / "train" / wnid / "images" / f"{wnid}_0.JPEG", label)
        (folder / "train" / wnid / f"{wnid}_boxes.txt").write_text("passed over")
    rows = []
    for place, wnid in enumerate([*TINY_IMAGENET, *TINY_IMAGENET][::-1]):
        photograph(folder / "val" / "images" / f"val_{place}.JPEG", 1000 + place)
        rows.append(f"val_{place}.JPEG\t{wnid}\t0\t0\t63\t63\n")
    (folder / "val" / "val_annotations.txt").write_text("".join(rows))
    return tmp_path


def test_tiny_imagenet_from_its_own_layout(tiny_imagenet: Path):
    train, test = (load("tiny_imagenet", split, root=tiny_imagenet) for split in ("train", "test"))
    assert train.labels.tolist() == list(range(200))
    assert test.labels.tolist() == [*range(200), *range(200)][::-1]
    assert (train.class_names[0], train.class_names[-1]) == ("goldfish", "acorn")
    folder = tiny_imagenet / "tiny-imagenet-200"
    for images, place, path in (
        (train, 0, "train/n01443537/images/n01443537_0.JPEG"),
        (train, 199, "train/n12267677/images/n12267677_0.JPEG"),
        (test, 0, "val/images/val_0.JPEG"),
    ):
        pixels = np.asarray(Image.open(folder / path).convert("RGB")).transpose(2, 0, 1)
        assert np.array_equal(images.images[place].numpy(), pixels)


def test_tiny_imagenet_with_missing_images_is_refused(tiny_imagenet: Path):
    (tiny_imagenet / "tiny-imagenet-200/train/n12267677/images/n12267677_0.JPEG").unlink()
    with pytest.raises(InputError, match=r"damaged or incomplete .*lacks train images") as excinfo:
        load("tiny_imagenet", "train", root=tiny_imagenet)
    one_line(excinfo)


def test_tiny_imagenet_is_downloaded(tiny_imagenet: Path, served: str, tmp_path: Path, monkeypatch):
    archive = Path(shutil.make_archive(str(tmp_path / "origin" / "tiny"), "zip", tiny_imagenet, "tiny-imagenet-200"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr("harness.data.tiny_imagenet._URL", f"{served}/tiny.zip")
    monkeypatch.setattr("harness.data.tiny_imagenet._MD5", hashlib.md5(archive.read_bytes()).hexdigest())
    test = load("tiny_imagenet", "test", root=tmp_path / "new", download=True)
    assert len(test.labels) == 400
    assert {path.name for path in (tmp_path / "new").iterdir()} == {"decoded", ".tiny_imagenet.lock"}


def test_the_data_directory_is_the_argument_or_the_variable_or_the_cache(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("ROBUST_FAIRNESS_DATA", str(tmp_path / "variable"))
    assert data_root(tmp_path / "argument") == tmp_path / "argument"
    assert data_root() == tmp_path / "variable"
    monkeypatch.delenv("ROBUST_FAIRNESS_DATA")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert data_root() == tmp_path / ".cache" / "robust-fairness-bench"


def test_unknown_data_sets_and_misplaced_paths_are_refused(tmp_path: Path):
    with pytest.raises(InputError, match="did you mean cifar10"):
        load("cifar-10", "train")
    with pytest.raises(InputError, match="needs a path"):
        load("npz", "train")
    with pytest.raises(InputError, match="takes no path"):
        load("digits", "train", path=tmp_path)


# A data set of one's own kind


def read_stripes(_root: Path, split: str):
    """Class 0 lies, class 1 stands: four images of each to train on, two to test."""
    labels = np.tile([0, 1], 8 if split == "train" else 2)
    images = np.zeros((len(labels), 1, 8, 8), np.uint8)
    images[labels == 0, :, ::2], images[labels == 1, :, :, ::2] = 255, 255
    return images, labels


def test_a_data_set_is_one_declaration(monkeypatch, tmp_path):
    info = DatasetInfo(
        "stripes", "lying or standing", f"{__name__}:read_stripes", channels=1, image_size=8, num_classes=2,
        class_names=("lying", "standing"), mean=(0.5,), std=(0.5,), train_counts=(8, 8), test_counts=(2, 2),
    )  # fmt: skip
    monkeypatch.setitem(DATASETS, "stripes", info)
    spec = small_specs(tmp_path, "training.epochs=1", dataset="stripes", methods=["at"])["at"]
    assert check_inputs([spec], Store(tmp_path / "new"), Options()) == []  # embedded: nothing to look for
    run_to_end(spec, tmp_path)
    rows = Store(tmp_path).read("class_accuracy", [spec.trial_id])
    assert set(zip(rows["class_name"], rows["n"], strict=True)) == {("lying", 2), ("standing", 2)}


def read_lines(content: Content, split: str, _root: Path):
    """A class and four pixels a line; the fifth lines are the test images."""
    rows = np.loadtxt(content.path, dtype=np.int64, ndmin=2)
    rows = rows[4::5] if split == "test" else np.delete(rows, np.s_[4::5], axis=0)
    return (rows[:, 1:].astype(np.uint8).reshape(-1, 1, 2, 2), rows[:, 0]), ("low", "high")


def lines_sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def lines_counts(content: Content) -> ClassCounts:
    labels = np.loadtxt(content.path, dtype=np.int64, ndmin=2)[:, 0]
    return ClassCounts(np.bincount(np.delete(labels, np.s_[4::5])), np.bincount(labels[4::5]))


def test_a_kind_of_data_of_the_users_own_is_one_declaration(monkeypatch, tmp_path):
    own = Own(f"{__name__}:lines_sha256", f"{__name__}:lines_counts", suffix=".lines")
    info = DatasetInfo("lines", "a class and its pixels a line", f"{__name__}:read_lines", own=own)
    monkeypatch.setitem(DATASETS, "lines", info)
    monkeypatch.setitem(OWN, "lines", own)
    path = tmp_path / "mine.lines"
    path.write_text("".join(f"{k % 2} {k} {k} {k} {200 * (k % 2)}\n" for k in range(20)))
    spec = given_dataset(str(path))
    assert (spec.name, spec.path, spec.sha256) == ("lines", str(path), lines_sha256(path))
    assert class_counts(spec).train.tolist() == [8, 8]
    assert dataset_spec({"name": "lines", "path": str(path), "train_images": 14, "test_images": 4}).test_images is None
    test = load("lines", "test", path=path)
    assert test.images.tolist() == [[[[k, k], [k, 200 * (k % 2)]]] for k in (4, 9, 14, 19)]
    assert (test.labels.tolist(), test.class_names) == ([0, 1, 0, 1], ("low", "high"))
    with pytest.raises(InputError, match="'path' goes with 'name: npz or folder or parquet or lines', and"):
        dataset_spec("lines")
    with pytest.raises(InputError, match="'resize' goes with 'name: folder or parquet', not with lines"):
        dataset_spec({"name": "lines", "path": str(path), "resize": 2})


# Own arrays


def own_arrays(**changes) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    arrays = {
        "x_train": generator.integers(0, 256, (6, 5, 4, 3), dtype=np.uint8),
        "y_train": np.array([0, 1, 2, 0, 1, 2], dtype=np.uint8),
        "x_test": generator.integers(0, 256, (2, 5, 4, 3), dtype=np.uint8),
        "y_test": np.array([2, 0]),
    }
    return {key: value for key, value in {**arrays, **changes}.items() if value is not None}


@pytest.mark.parametrize("layout", ["NHWC", "NCHW", "NHW"])
def test_own_arrays_in_every_layout(tmp_path: Path, layout: str):
    arrays = own_arrays()
    expected = arrays["x_test"].transpose(0, 3, 1, 2)
    if layout == "NCHW":
        arrays.update({key: arrays[key].transpose(0, 3, 1, 2) for key in ("x_train", "x_test")})
    if layout == "NHW":
        arrays.update({key: arrays[key][..., 0] for key in ("x_train", "x_test")})
        expected = expected[:, :1]
    np.savez_compressed(tmp_path / "own.npz", **arrays)
    test = load("npz", "test", path=tmp_path / "own.npz")
    assert np.array_equal(test.images.numpy(), expected)
    assert test.images.is_contiguous()
    assert (test.labels.tolist(), test.labels.dtype, test.class_names) == ([2, 0], torch.int64, ("0", "1", "2"))


def test_own_class_names_may_include_a_class_without_images(tmp_path: Path):
    np.savez(tmp_path / "own.npz", **own_arrays(class_names=np.array(["cat", "dog", "owl", "yak"])))
    assert load("npz", "train", path=tmp_path / "own.npz").class_names == ("cat", "dog", "owl", "yak")


@pytest.mark.parametrize("named", [False, True])
def test_own_labels_as_text_become_classes(tmp_path: Path, named: bool):
    texts = np.array(["owl", "cat", "owl", "cat", "owl", "cat"])
    names = np.array(["yak", "owl", "cat"]) if named else None
    np.savez(tmp_path / "own.npz", **own_arrays(y_train=texts, y_test=texts[:2], class_names=names))
    train = load("npz", "train", path=tmp_path / "own.npz")
    assert train.class_names == (("yak", "owl", "cat") if named else ("cat", "owl"))
    assert train.labels.tolist() == ([1, 2] * 3 if named else [1, 0] * 3)
    counts = class_counts(dataset_spec({"name": "npz", "path": str(tmp_path / "own.npz")}))
    assert counts.train.tolist() == ([0, 3, 3] if named else [3, 3])


def test_a_changed_file_is_read_again(tmp_path: Path):
    np.savez(tmp_path / "own.npz", **own_arrays())
    load("npz", "test", path=tmp_path / "own.npz")
    np.savez(tmp_path / "own.npz", **own_arrays(y_test=np.array([1, 1]), class_names=np.array(["a", "b", "c"])))
    assert load("npz", "test", path=tmp_path / "own.npz").labels.tolist() == [1, 1]


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"y_test": None}, "lacks y_test"),
        ({"x_val": np.zeros(3)}, "did you mean x_train"),
        ({"x_train": np.zeros((6, 5, 4, 3))}, "must be uint8, 0 to 255, not float64"),
        ({"x_train": np.zeros((6, 20), np.uint8)}, "must be .N, H, W."),
        ({"x_train": np.zeros((0, 5, 4, 3), np.uint8)}, "not empty"),
        ({"x_train": np.zeros((6, 5, 4, 2), np.uint8)}, "neither the second nor the last axis"),
        ({"x_train": np.zeros((6, 3, 4, 3), np.uint8)}, "both the second and the last axis"),
        ({"x_test": np.zeros((2, 6, 4, 3), np.uint8)}, "3x5x4 and 3x6x4"),
        ({"y_train": np.zeros(5, np.int64)}, "6 images and y_train has 5 labels"),
        ({"y_train": np.zeros(6)}, "must be integers"),
        ({"y_train": np.zeros((6, 1), np.int64)}, "must be integers of shape"),
        ({"y_test": np.array([0, -1])}, "runs from -1 to 0"),
        ({"y_test": np.array([0, 2**63], dtype=np.uint64)}, "runs from 0 to 9223372036854775808"),
        ({"y_test": np.array([0, 10**12])}, "largest label is 1000000000000"),
        ({"y_train": np.zeros(6, np.int64), "y_test": np.zeros(2, np.int64)}, "two or more classes"),
        ({"y_train": np.array(list("abcabc"))}, "text in both splits"),
        (
            {"y_train": np.array(list("abcabc")), "y_test": np.array(list("bd")), "class_names": np.array(list("abc"))},
            "y_test has 'd', which is not in class_names",
        ),
        ({"class_names": np.array(["a", "b"])}, "a label is 2, but class_names names only 0..1"),
        ({"class_names": np.array(["a", "b", "b"])}, "different strings"),
        ({"class_names": np.arange(3)}, "different strings"),
        ({"class_names": np.array(["a", "b", None], dtype=object)}, "pickled objects are refused"),
        ({"x_train": np.array([object()] * 6)}, "pickled objects are refused"),
    ],
)
def test_faults_of_own_arrays_are_one_clear_line(tmp_path: Path, changes: dict, fault: str):
    path = tmp_path / "own.npz"
    np.savez(path, **own_arrays(**changes))
    with pytest.raises(InputError, match=fault) as excinfo:
        load("npz", "train", path=path)
    assert str(path) in one_line(excinfo)


def test_files_that_are_no_npz_are_refused(tmp_path: Path):
    path = tmp_path / "own.npz"
    with pytest.raises(InputError, match="there is no file"):
        load("npz", "train", path=path)
    np.savez(path, **own_arrays())
    whole = path.read_bytes()
    for content in (b"", b"hello", whole[:200], pickle.dumps([1, 2])):
        path.write_bytes(content)
        with pytest.raises(InputError, match="damaged or no archive") as excinfo:
            load("npz", "train", path=path)
        one_line(excinfo)
    with path.open("wb") as file:
        np.save(file, np.zeros(3))
    with pytest.raises(InputError, match="is one array"):
        load("npz", "train", path=path)


# Splits and subsets

UNEQUAL = torch.tensor([0] * 6000 + [2] * 730 + [3] * 45 + [4] * 3 + [5] * 2 + [6])


def digest(indices: torch.Tensor) -> str:
    return hashlib.sha256(indices.numpy().astype("<i8").tobytes()).hexdigest()[:16]


def test_validation_has_the_right_sizes_and_partitions_the_data_with_the_rest():
    shuffled = UNEQUAL[torch.randperm(len(UNEQUAL), generator=torch.Generator().manual_seed(0))]
    splits = split(shuffled, 0)
    # 2 % of 6000; ten per cent of 730 is under 100; the smallest classes keep what they have.
    assert shuffled[splits.validation].bincount(minlength=7).tolist() == [120, 0, 73, 5, 1, 0, 0]
    assert not len(splits.held_out)
    assert torch.equal(torch.cat([splits.train, splits.validation]).sort().values, torch.arange(len(shuffled)))


@pytest.mark.parametrize("train_images", [None, 3000])
def test_the_second_part_is_taken_out_of_what_other_methods_train_on(train_images: int | None):
    labels = torch.tensor([0] * 6000 + [2] * 730 + [3] * 45)
    plain, learning = (split(labels, 0, train_images=train_images, second=second) for second in (False, True))
    assert torch.equal(learning.validation, plain.validation)
    assert torch.equal(torch.cat([learning.train, learning.held_out]).sort().values, plain.train)
    chosen = labels[plain.train].bincount().tolist()
    assert chosen == ([5880, 0, 657, 40] if train_images is None else [2682, 0, 300, 18])
    held_out = [118, 0, 66, 4] if train_images is None else [100, 0, 30, 2]
    assert labels[learning.held_out].bincount().tolist() == held_out
    parts = (learning.train, learning.validation, learning.held_out)
    assert all(torch.equal(part, part.sort().values) and part.dtype == torch.int64 for part in parts)
    sizes = split_sizes(labels.bincount(), train_images=train_images, second=True)
    for part, size in zip(parts, (sizes.train, sizes.validation, sizes.held_out), strict=True):
        assert labels[part].bincount().tolist() == size.tolist()


@pytest.mark.parametrize(
    ("counts", "train_images", "says"),
    [
        ([600, 600], 20, "class 0 has 10: train_images must be at least 22"),
        ([900, 12], None, "class 1 has 10"),
        ([900, 0, 140], 60, "class 2 has 8: train_images must be at least 79"),
    ],
)
def test_a_second_part_that_would_teach_nothing_is_refused_with_the_number_needed(counts, train_images, says):
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    split(labels, 0, train_images=train_images)
    with pytest.raises(ValueError, match="needs 2 of each class, so 11 training images of each") as caught:
        split(labels, 0, train_images=train_images, second=True)
    assert str(caught.value).endswith(says)
    if "at least" in says:
        needed = int(says.split()[-1])
        sizes = split_sizes(counts, train_images=needed, second=True)
        assert (sizes.held_out[sizes.train > 0] >= 2).all()
        with pytest.raises(ValueError, match="at least"):
            split_sizes(counts, train_images=needed - 1, second=True)


def test_cifar10_and_fashion_mnist_hold_out_what_the_protocol_says():
    for per_class, expected in ((5000, 100), (6000, 120), (500, 50), (1000, 100), (1001, 100), (20_000, 400)):
        labels = torch.arange(2).repeat_interleave(per_class)
        assert split(labels, 0).validation.numel() == 2 * expected


def test_validation_depends_on_the_split_seed_alone():
    first = split(UNEQUAL, 0)
    torch.manual_seed(99)
    np.random.seed(99)
    assert torch.equal(first.validation, split(UNEQUAL, 0).validation)
    assert torch.equal(first.validation, split(UNEQUAL, 0, train_images=100).validation)
    assert not torch.equal(first.validation, split(UNEQUAL, 1).validation)


@pytest.mark.parametrize(
    ("labels", "train_images", "seed", "digests"),
    [
        ("digits", 200, 0, ("e43a2c4f84f20aea", "37f61e92e2760422", "040d1a7cc3ca65b5")),
        ("digits", 200, 1, ("98ed2fee3b83d58d", "d98cba90c3361ea1", "6b09e90db4633d3a")),
        ("fashion_mnist", 6000, 0, ("f676d8d8bb30a1b6", "f0e39f9a7355378c", "ee5aea3aed784fad")),
        ("fashion_mnist", 6000, 1, ("32362da618f1697c", "35a563fcf8e907a1", "b4a678bd14b88e91")),
    ],
)
def test_splits_are_the_same_for_ever(labels, train_images, seed, digests):
    """Validation images, the others, and a subset of those; Fashion-MNIST by its sizes."""
    values = load("digits", "train").labels if labels == "digits" else torch.arange(60_000) % 10
    whole, subset = split(values, seed), split(values, seed, train_images=train_images)
    assert (digest(whole.validation), digest(whole.train), digest(subset.train)) == digests


def test_the_draw_is_the_documented_one():
    labels = torch.arange(40) % 2
    order = np.argsort(np.random.PCG64(int(hashlib.sha256(b"held-out:7").hexdigest()[:32], 16)).random_raw(40))
    expected = sorted(int(i) for c in (0, 1) for i in [i for i in order if i % 2 == c][:2])
    assert split(labels, 7, second=True).validation.tolist() == expected == [0, 15, 22, 37]


def test_a_held_out_split_is_a_fair_draw():
    """Every position of a class is drawn about equally often over many split seeds."""
    labels = torch.arange(100) % 2
    drawn = torch.zeros(100)
    for seed in range(400):
        drawn[split(labels, seed).validation] += 1
    assert drawn.sum() == 400 * 10
    assert ((drawn - 40).abs() < 5 * 6).all()  # five standard deviations of a binomial (400, 0.1)


@pytest.mark.parametrize("count", [6, 10, 100, 777, 6780, 6781])
def test_a_subset_is_in_proportion_and_holds_every_class(count: int):
    chosen = stratified_subset(UNEQUAL, count, 3)
    assert chosen.numel() == chosen.unique().numel() == count
    assert torch.equal(chosen, chosen.sort().values)
    drawn, counts = UNEQUAL[chosen].bincount(minlength=7), UNEQUAL.bincount()
    assert ((drawn > 0) == (counts > 0)).all()
    share = counts * count / len(UNEQUAL)
    # Lifting small classes to one image may cost large ones, but never five images in all.
    assert ((drawn - share).abs() < 5).all()
    assert (drawn <= counts).all()


def test_subset_sizes_follow_the_largest_remainder():
    labels = torch.tensor([0] * 50 + [1] * 30 + [2] * 20)
    assert labels[stratified_subset(labels, 7, 0)].bincount().tolist() == [4, 2, 1]  # 3.5, 2.1, 1.4
    assert labels[stratified_subset(labels, 8, 0)].bincount().tolist() == [4, 2, 2]  # 4.0, 2.4, 1.6
    assert labels[stratified_subset(labels, 10, 0)].bincount().tolist() == [5, 3, 2]
    equal = torch.arange(30) % 3
    assert equal[stratified_subset(equal, 10, 0)].bincount().tolist() == [4, 3, 3]


def test_every_beginning_of_the_order_is_a_stratified_subset():
    """Smaller subsets are parts of larger ones, in proportion to within an image, with every class from the first."""
    order = stratified_order(UNEQUAL, 3)
    assert torch.equal(order.sort().values, torch.arange(len(UNEQUAL)))
    counts = UNEQUAL.bincount()
    for count in (6, 7, 10, 100, 777, 6780):
        drawn = UNEQUAL[order[:count]].bincount(minlength=7)
        assert ((drawn > 0) == (counts > 0)).all()
        assert ((drawn - counts * count / len(UNEQUAL)).abs() < 5).all()
    equal = torch.arange(300) % 3
    for count in (3, 10, 100, 299):
        assert torch.equal(stratified_order(equal, 5)[:count].sort().values, stratified_subset(equal, count, 5))


def test_a_subset_repeats_with_its_seed_and_differs_with_another():
    labels = torch.arange(1000) % 10
    assert torch.equal(stratified_subset(labels, 100, 0), stratified_subset(labels, 100, 0))
    assert not torch.equal(stratified_subset(labels, 100, 0), stratified_subset(labels, 100, 1))


def test_the_known_class_counts_are_those_of_the_data():
    known = {info.name: (info.train_counts, info.test_counts) for info in DATASETS.values() if info.name not in OWN}
    for name in (name for name in known if DATASETS[name].embedded):
        assert known[name] == tuple(tuple(load(name, half).labels.bincount().tolist()) for half in ("train", "test"))
    sums = {name: tuple(sum(part) for part in parts) for name, parts in known.items()}
    assert sums.items() >= {
        "digits": (1347, 450), "fashion_mnist": (60_000, 10_000), "cifar10": (50_000, 10_000),
        "cifar100": (50_000, 10_000), "svhn": (73_257, 26_032),
    }.items()  # fmt: skip


def test_a_subset_that_cannot_be_is_refused():
    for count in (5, 6782):
        with pytest.raises(ValueError, match="6 to 6781"):
            stratified_subset(UNEQUAL, count, 0)


# Augmentation


def test_augmentation_matches_a_plain_loop_over_samples():
    images = torch.randint(256, (16, 3, 9, 7), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    for pad, mode in (("zero", "constant"), ("reflect", "reflect")):
        result = augmented(images, AugmentSpec(crop=2, flip=True, pad=pad), torch.Generator().manual_seed(5))
        draws = torch.Generator().manual_seed(5)
        top, left = torch.randint(5, (2, 16, 1), generator=draws).squeeze(-1).tolist()
        mirrored = torch.randint(2, (16, 1), generator=draws).flatten().tolist()
        for i in range(16):
            padded = F.pad(images[i : i + 1].float(), [2] * 4, mode=mode)[0]
            expected = padded[:, top[i] : top[i] + 9, left[i] : left[i] + 7]
            expected = expected.flip(2) if mirrored[i] else expected
            assert torch.equal(result[i], expected / 255)


def test_augmentation_reaches_every_crop_and_both_sides():
    image = torch.arange(1, 10, dtype=torch.uint8).view(1, 1, 3, 3).expand(4000, 1, 3, 3)
    result = augmented(image, AugmentSpec(crop=1, flip=True), torch.Generator().manual_seed(0))
    kinds, counts = result.flatten(1).unique(dim=0, return_counts=True)
    assert len(kinds) == 18  # 3 x 3 offsets, two sides
    assert (counts - 4000 / 18).abs().max() < 5 * (4000 / 18) ** 0.5


def test_without_augmentation_images_only_change_scale():
    images = torch.randint(256, (4, 1, 8, 8), dtype=torch.uint8)
    before = images.clone()
    generator = torch.Generator().manual_seed(0)
    state = generator.get_state()
    result = augmented(images, AugmentSpec(), generator)
    assert torch.equal(result, before.float() / 255)
    assert torch.equal(to_float(images), result)
    assert result.dtype == torch.float32
    assert torch.equal(images, before)
    assert torch.equal(generator.get_state(), state)


def test_reflection_needs_an_image_larger_than_the_padding():
    with pytest.raises(ValueError, match="larger than 2x2"):
        augmented(torch.zeros(1, 1, 2, 2, dtype=torch.uint8), AugmentSpec(crop=2, pad="reflect"), torch.Generator())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_cpu_generator_gives_the_same_images_on_every_device():
    images = torch.randint(256, (16, 3, 8, 8), dtype=torch.uint8)
    results = [
        augmented(images.to(device), AugmentSpec(crop=2, flip=True), torch.Generator().manual_seed(0)).cpu()
        for device in ("cpu", "cuda")
    ]
    assert torch.equal(*results)
