"""Files that are not what they claim to be end the command in one short line and exit code 2: bounded before they are
read, through the command's own plan."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import pickle
import re
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image

from harness.data import arrays, decoded
from harness.data.sources import load
from harness.errors import InputError
from harness.models.build import build
from harness.suites.plan import plan
from harness.suites.suite import load_suite
from tests.cli.test_refused import refused, refused_suite  # noqa: F401
from tests.command import bench
from tests.small import suite_file


@pytest.fixture(autouse=True)
def data_directory(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("ROBUST_FAIRNESS_DATA", str(tmp_path_factory.mktemp("data")))


# Arrays


def header(shape: str, descr: str = "'|u1'", order: str = "False") -> bytes:
    text = f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


def own_arrays(**changes: Any) -> dict[str, np.ndarray]:
    numbers = np.random.default_rng(0)
    return {
        "x_train": numbers.integers(0, 256, (60, 8, 8), dtype=np.uint8),
        "y_train": np.arange(60) % 3,
        "x_test": numbers.integers(0, 256, (12, 8, 8), dtype=np.uint8),
        "y_test": np.arange(12) % 3,
        **changes,
    }


def npz(path: Path, members: dict[str, bytes] | None = None, **changes: Any) -> None:
    """An archive of those arrays; members: the bytes that stand in the place of some."""
    with zipfile.ZipFile(path, "w") as archive:
        for key, value in own_arrays(**changes).items():
            whole = io.BytesIO()
            np.save(whole, value)
            archive.writestr(f"{key}.npy", (members or {}).get(key, whole.getvalue()))


LIES = {
    "huge": header("(10000000000000, 8, 8)"),
    "negative": header("(-1, 8, 8)"),
    "objects": header("(60, 8, 8)", "'|O'"),
    "inner objects": header("(60,)", "[('a', '|u1'), ('b', '|O')]"),
    "no order": header("(60, 8, 8)", order="7"),
    "nothing many times": header("(1000000000000,)", "'|V0'"),
    "one large item": header("(1,)", "'|V9999999999'"),
    "beyond an index": header("(0, 99999999999999999999)"),
    "thousands of digits": header(f"({'9' * 5000},)"),
    "nested": b"\x93NUMPY\x01\x00" + struct.pack("<H", 9000) + b"(" * 9000,
    "long header": b"\x93NUMPY\x02\x00" + struct.pack("<I", 1 << 20) + b" " * (1 << 20),
    "of the future": b"\x93NUMPY\x09\x09" + bytes(100),
    "too short": header("(60, 8, 8)") + bytes(100),
    "too long": header("(60, 8, 8)") + bytes(10_000),
    "empty": b"",
    "pickled": pickle.dumps([1]),
}


@pytest.mark.parametrize("key", ["x_train", "y_test"])
@pytest.mark.parametrize("lie", LIES)
def test_headers_that_lie(tmp_path, key, lie):
    npz(tmp_path / "own.npz", {key: LIES[lie]})
    with pytest.raises(InputError, match="damaged or no archive of plain arrays"):
        load("npz", "train", path=tmp_path / "own.npz")


def test_an_array_in_fortran_order_is_read(tmp_path):
    npz(tmp_path / "own.npz", x_train=np.asfortranarray(own_arrays()["x_train"]))
    assert np.array_equal(load("npz", "train", path=tmp_path / "own.npz").images[:, 0], own_arrays()["x_train"])


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"y_train": np.zeros(60, int)}, "y_train has images of one class only"),
        ({"class_names": np.array(["a", "b", "\ud800"])}, "UTF-8"),
        ({"class_names": np.array(["a", "b", ""])}, "of 1 to 255"),
        ({"class_names": np.array(["a", "b", "c" * 300])}, "of 1 to 255"),
        ({"class_names": np.array([str(number) for number in range(100)])}, "100 names for 72 images"),
    ],
)
def test_classes_that_cannot_be(tmp_path, changes, says):
    npz(tmp_path / "own.npz", **changes)
    with pytest.raises(InputError, match=says):
        load("npz", "train", path=tmp_path / "own.npz")


def test_an_archive_that_unpacks_to_much_more_than_it_is(tmp_path, monkeypatch):
    monkeypatch.setattr(arrays, "_SMALL", 1 << 20)
    np.savez_compressed(tmp_path / "own.npz", **own_arrays(x_train=np.zeros((2000, 32, 32), np.uint8)))
    with pytest.raises(InputError, match="would unpack to 2 MB: at most"):
        load("npz", "train", path=tmp_path / "own.npz")


def test_archives_damaged_anywhere(tmp_path):
    npz(tmp_path / "whole.npz")
    whole = (tmp_path / "whole.npz").read_bytes()
    entry = whole.index(b"PK\x01\x02")
    for place, value in (
        (8, b"\x01"),
        (10, b"\x0c"),
        (10, b"\x0e"),
        (10, b"\x63"),
        (24, b"\xff\xff\xff\x7f"),
        (28, b"\xff"),
    ):
        damaged = bytearray(whole)  # encrypted, another compression, another size, another name
        damaged[entry + place : entry + place + len(value)] = value
        (tmp_path / "own.npz").write_bytes(damaged)
        with pytest.raises(InputError, match=r"npz|array in"):
            load("npz", "train", path=tmp_path / "own.npz")


DATA = {"name": "npz", "path": "own.npz"}
WIDE = {"name": "cnn", "width": 4, "normalization": {"mean": [0.5] * 3, "std": [0.5] * 3}}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"dataset": {**DATA, "train_images": 1000}}, "train_images must be 3 to"),
        ({"dataset": {**DATA, "train_images": 2}}, "train_images must be 3 to"),
        ({"dataset": {**DATA, "test_images": 13}}, "must be 3 to 12"),
        ({"dataset": {**DATA, "augment": {"crop": 8}}}, "crop 8 must be less than the 8 pixels"),
        ({"evaluation": {"attacks": ["clean", {"name": "pgd3", "images": 2}]}}, "images must be at least 3"),
        ({"evaluation": {"attacks": ["clean", "apgd-t"]}}, "needs at least 4 classes"),
        ({"student": WIDE}, "normalisation needs 1 means"),
        ({"teacher": {"model": WIDE}}, "normalisation needs 1 means"),
        ({"methods": ["wat"], "dataset": {**DATA, "train_images": 9}}, "needs 2 of each class"),
        ({"dataset": {**DATA, "path": "a" * 5000}}, "no file|too long"),
        ({"dataset": {**DATA, "path": "a\0b"}}, "not the name of a file|no file"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("options", [("--dry-run",), ("--serial",)])
def test_what_the_data_do_not_allow_is_refused_by_the_plan(refused_suite, tmp_path, changes, says, options):  # noqa: F811
    npz(tmp_path / "own.npz")
    assert re.search(says, refused_suite(options=options, **{"dataset": DATA, **changes}))


def test_a_plan_can_be_made_of_what_is_not_there(tmp_path):
    given = {"model": "cnn", "file": "absent.pt", "sha256": "ab" * 32}
    path = suite_file(tmp_path, dataset={"name": "npz", "path": "absent.npz", "sha256": "ab" * 32}, teacher=given)
    done = bench("run", path, "--dry-run", cwd=tmp_path, check=2)
    assert "4 trials: 4 missing" in done.stdout
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("missing: npz: there is no file")
    assert lines[1].startswith(f"missing: checkpoint {tmp_path / 'absent.pt'} cannot be read")
    assert "put the cnn(width=32) of sha256 abababababab there" in lines[1]


def test_a_plan_is_shown_where_data_and_files_are_neither_here_nor_named_by_hash(tmp_path):
    words = ["run", "cifar10_paper", "--dry-run", "--data", str(tmp_path), "--methods", "natural,rslad"]
    done = bench(*words, cwd=tmp_path, check=2)
    assert "13 trials: 13 missing" in done.stdout
    assert all(spec.trial_id in done.stdout for spec in plan(load_suite("cifar10_paper"), only=["natural"]))
    assert done.stdout.count("unknown ") == 7  # the teacher, and those that learn from it
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 2
    assert "--set teacher.file=PATH --set teacher.sha256=$(sha256sum PATH | cut -d' ' -f1)" in lines[0]
    assert re.search("^missing: cifar10: not found in .*--download$", lines[1])
    assert not list(tmp_path.iterdir())


def test_a_plan_is_shown_without_data_of_ones_own(tmp_path):
    path = suite_file(tmp_path, dataset={"name": "folder", "path": "absent"})
    done = bench("run", path, "--dry-run", cwd=tmp_path, check=2)
    assert done.stdout.count("unknown ") == 4
    assert done.stderr == f"missing: folder: there is no folder {tmp_path / 'absent'}\n"


def test_a_plan_says_the_hash_that_a_suite_leaves_out(tmp_path):
    network = build("cnn", {"width": 4}, in_channels=1, num_classes=10, image_size=8)
    torch.save(network.state_dict(), tmp_path / "teacher.pt")
    digest = hashlib.sha256((tmp_path / "teacher.pt").read_bytes()).hexdigest()
    path = suite_file(tmp_path, teacher={"model": {"name": "cnn", "width": 4}, "file": "teacher.pt"}, methods=["rslad"])
    for more, code, says in (([], 2, f"--set teacher.sha256={digest}"), ([f"--set=teacher.sha256={digest}"], 0, "")):
        done = bench("run", path, "--dry-run", *more, cwd=tmp_path, check=code)
        assert says in done.stderr
        assert str(plan(load_suite(path, [f"teacher.sha256={digest}"]))[-1].trial_id) in done.stdout


# What is no plain file


@pytest.mark.parametrize("kind", ["pipe", "endless", "folder", "loop"])
def test_what_is_no_plain_file_is_never_waited_for(refused, tmp_path, kind):  # noqa: F811
    make: dict[str, Callable[[Path], None]] = {
        "pipe": os.mkfifo,
        "endless": lambda path: path.symlink_to("/dev/zero"),
        "folder": Path.mkdir,
        "loop": lambda path: path.symlink_to(path.name),
    }
    for name in ("odd", "odd.npz", "odd.yaml"):
        make[kind](tmp_path / name)
    own = suite_file(tmp_path, dataset={"name": "npz", "path": "odd.npz"})
    Path(own).rename(tmp_path / "own.yaml")
    given = {"model": {"name": "cnn", "width": 4}, "file": "odd", "sha256": "ab" * 32}
    Path(suite_file(tmp_path, teacher=given)).rename(tmp_path / "given.yaml")
    path = suite_file(tmp_path)
    network = ("--model", "cnn", "--dataset", "digits", "--serial")
    for words in (
        ("run", "odd.yaml", "--dry-run"), ("run", path, "--dry-run", "--plugin", "odd"),
        ("run", path, "--dry-run", "--set", "methods=odd.yaml"), ("run", "own.yaml", "--dry-run"),
        ("run", "given.yaml", "--dry-run"), ("evaluate", "odd", *network), ("quote", "odd"), ("verify", "odd"),
        ("evaluate", path, "--model", "cnn", "--dataset", "odd.npz", "--serial"), ("merge", "odd", "--into", "new"),
    ):  # fmt: skip
        assert refused(*words).count("odd") == 1, words


# Checkpoints


def small_state(**changes: Callable[[torch.Tensor], torch.Tensor]) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    state = build("cnn", {"width": 4}, in_channels=1, num_classes=10).state_dict()
    chosen = {
        "weight": next(key for key, value in state.items() if value.ndim == 4),
        "matrix": next(key for key, value in state.items() if value.ndim == 2),
        "variance": next(key for key in state if key.endswith("running_var")),
    }
    return {**state, **{chosen[what]: change(state[chosen[what]].clone()) for what, change in changes.items()}}


def saved(state: Any, **options: Any) -> bytes:
    content = io.BytesIO()
    torch.save(state, content, **options)
    return content.getvalue()


def packed() -> bytes:
    """A checkpoint whose archive is compressed, as torch's own never are."""
    content = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(saved(small_state()))) as plain, zipfile.ZipFile(content, "w", 8) as archive:
        for entry in plain.infolist():
            archive.writestr(entry.filename, bytes(10**6) if "/data/" in entry.filename else plain.read(entry))
    return content.getvalue()


def tensors(header: bytes, length: int | None = None) -> bytes:
    return struct.pack("<Q", len(header) if length is None else length) + header + bytes(16)


WEIGHTS: dict[str, tuple[Callable[[], bytes], str]] = {
    "nan": (lambda: saved(small_state(weight=lambda value: value * float("nan"))), "NaN or infinite"),
    "inf": (lambda: saved(small_state(weight=lambda value: value / 0)), "NaN or infinite"),
    "beyond float32": (lambda: saved(small_state(weight=lambda value: value.double() * 0 + 1e300)), "NaN or infinite"),
    "variance": (lambda: saved(small_state(variance=torch.neg)), "negative variances"),
    "nan variance": (lambda: saved(small_state(variance=lambda value: value * float("nan"))), "NaN or infinite"),
    "complex": (lambda: saved(small_state(weight=lambda value: value + 1j)), "of another kind .*complex64"),
    "sparse": (lambda: saved(small_state(weight=torch.Tensor.to_sparse)), "of another kind .*sparse_coo"),
    "sparse rows": (lambda: saved(small_state(matrix=torch.Tensor.to_sparse_csr)), "of another kind .*sparse_csr"),
    "meta": (lambda: saved(small_state(weight=lambda value: value.to("meta"))), "of another kind .*meta|damaged"),
    "quantized": (
        lambda: saved(small_state(weight=lambda value: torch.quantize_per_tensor(value, 0.1, 0, torch.quint8))),
        "of another kind|damaged|refused",
    ),
    "expanded": (lambda: saved(small_state(weight=lambda value: torch.zeros(1).expand(10**12))), "of another shape"),
    "packed": (packed, "its parts are packed"),
    "half": (lambda: saved(small_state())[:5000], "damaged"),
    "half of old": (lambda: saved(small_state(), _use_new_zipfile_serialization=False)[:3000], "damaged"),
    "list": (lambda: saved([1]), "no state dict"),
    "code": (lambda: pickle.dumps(os.system), "nothing in it was executed"),
    "text": (lambda: b"hello", "damaged"),
    "empty": (lambda: b"", "damaged"),
    "half.safetensors": (lambda: safetensors.torch.save(small_state())[:-5], "not a safetensors file"),
    "longer.safetensors": (lambda: safetensors.torch.save(small_state()) + b"x", "not a safetensors file"),
    "header.safetensors": (lambda: tensors(b"{}", 2**62), "not a safetensors file"),
    "shape.safetensors": (
        lambda: tensors(b'{"a":{"dtype":"F32","shape":[1000000000000],"data_offsets":[0,4000000000000]}}'),
        "not a safetensors file",
    ),
    "type.safetensors": (lambda: tensors(b'{"a":{"dtype":"F99","shape":[4],"data_offsets":[0,16]}}'), "not a safe"),
    "empty.safetensors": (lambda: b"", "not a safetensors file"),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", WEIGHTS)
def test_networks_that_are_none(refused, refused_suite, tmp_path, name):  # noqa: F811
    make, says = WEIGHTS[name]
    content = make()
    (tmp_path / name).write_bytes(content)
    model = {"name": "cnn", "width": 4}
    given = {"model": model, "file": name, "sha256": hashlib.sha256(content).hexdigest()}
    assert re.search(says, refused_suite(teacher=given))
    assert re.search(says, refused("evaluate", name, "--model", "cnn", "--param", "width=4", "--dataset", "digits"))


# Images and the copies of what was read


def png(width: int, height: int, content: bytes = b"") -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    start = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", start) + chunk(b"IDAT", content) + chunk(b"IEND", b"")


def jpeg(width: int, height: int) -> bytes:
    content = io.BytesIO()
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(content, "JPEG")
    damaged = bytearray(content.getvalue())
    place = damaged.index(b"\xff\xc0") + 5
    damaged[place : place + 4] = struct.pack(">HH", height, width)
    return bytes(damaged)


def pictures(folder: Path) -> Path:
    numbers = np.random.default_rng(0)
    for label in "ab":
        (folder / label).mkdir(parents=True)
        for place in range(12):
            Image.fromarray(numbers.integers(0, 256, (8, 8), np.uint8)).save(folder / label / f"{place:02d}.png")
    return folder


def test_images_of_absurd_size(refused_suite, tmp_path, monkeypatch):  # noqa: F811
    folder = pictures(tmp_path / "pictures")
    data = {"name": "folder", "path": "pictures"}
    for content, says in (
        (png(100_000, 100_000), "50,000,000"), (png(2**31 - 1, 2**31 - 1), "50,000,000"), (png(0, 0), "damaged"),
        (png(7000, 7000), "damaged"), (jpeg(65_535, 65_535), "50,000,000"), (b"", "damaged"),
        (png(8, 8, zlib.compress(bytes(72))[:5]), "damaged"),
    ):  # fmt: skip
        (folder / "a" / "00.png").write_bytes(content)
        assert says in refused_suite(dataset=data)
    (folder / "a" / "00.png").write_bytes(png(8, 8, zlib.compress(bytes(72))))
    monkeypatch.setattr("harness.data.pictures.MOST_BYTES", 1000)
    assert "make its images smaller" in refused_suite(dataset=data)


def test_a_damaged_copy_is_made_again(tmp_path):
    folder, root = pictures(tmp_path / "pictures"), tmp_path / "cache"

    def read() -> torch.Tensor:
        from harness.data import pictures

        for cached in (pictures._all_parts, pictures._known_split):
            cached.cache_clear()
        found = load("folder", "train", root=root, path=folder)
        return torch.cat([found.images.flatten().long(), found.labels])

    first = read()
    (path,) = (root / "decoded").glob("*-labels.npy")
    labels = np.load(path)
    images, sums = (Path(str(path).replace("labels", what)) for what in ("images", "sums"))
    (classes,) = (root / "decoded").glob("*-classes.npy")
    whole = {each: each.read_bytes() for each in (path, images, sums)}
    for other in (labels * 0, labels + 9, labels - 1, labels[::-1], labels.astype(float), labels[:, None], labels[:5]):
        np.save(path, other)
        assert torch.equal(read(), first)
        assert path.read_bytes() == whole[path]
    for junk in (b"", b"x" * 100, *LIES.values()):
        for each in (path, images, sums, classes):
            each.write_bytes(junk)
            assert torch.equal(read(), first)
    flipped = bytearray(whole[images])
    flipped[-3] ^= 1
    images.write_bytes(flipped)
    assert torch.equal(read(), first)
    assert {each: each.read_bytes() for each in whole} == whole


def test_a_copy_of_an_earlier_version_has_the_classes_that_are_known(tmp_path):
    counts = (1000,) * 10
    labels = np.repeat(np.arange(10), counts)
    decoded.write(tmp_path, "fashion_mnist", "test", (np.zeros((10_000, 1, 28, 28), np.uint8), labels))
    (tmp_path / "decoded" / "fashion_mnist-test-sums.npy").unlink()
    assert decoded.read(tmp_path, "fashion_mnist", "test") is not None
    np.save(tmp_path / "decoded" / "fashion_mnist-test-labels.npy", np.where(labels == 3, 4, labels))
    assert decoded.read(tmp_path, "fashion_mnist", "test") is None


def test_idx_files_are_read_as_far_as_their_header_may_say(tmp_path, monkeypatch):
    monkeypatch.setattr("harness.data.readers.DEBIAN_FASHION_MNIST", tmp_path / "absent")
    images, labels = (tmp_path / f"t10k-{name}-ubyte.gz" for name in ("images-idx3", "labels-idx1"))

    def idx(path: Path, content: bytes, *shape: int, magic: int = 8) -> None:
        start = struct.pack(f">HBB{len(shape)}I", 0, magic, len(shape), *shape)
        path.write_bytes(gzip.compress(start + content, 1))

    right = bytes(index % 10 for index in range(10_000))
    for write, says in (
        (lambda: idx(images, b"", 10_000, 2**31, 2**31), "something other"),
        (lambda: idx(images, b"", 2**32 - 1, 28, 28), "something other"),
        (lambda: idx(images, b"", 10_000, 28, 28, magic=13), "something other"),
        (lambda: idx(images, b"", 10_000, 28, 28), "shorter than its header"),
        (lambda: images.write_bytes(b"hello"), "damaged"), (lambda: images.write_bytes(b""), "damaged"),
        (lambda: (idx(images, bytes(7_840_000), 10_000, 28, 28), idx(labels, right + bytes(10**6), 10_000)), "longer"),
        (lambda: idx(labels, b"\xff" * 10_000, 10_000), "something other than"),
    ):  # fmt: skip
        idx(labels, right, 10_000)
        write()
        with pytest.raises(InputError, match=f"fashion_mnist: the files .*{says}"):
            load("fashion_mnist", "test", root=tmp_path)
