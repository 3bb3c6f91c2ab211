"""The data sets by name, and what is known of them before a file is opened. Free of torch, for `list` and plans."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

from harness.data.class_names import CIFAR10, CIFAR100, CLOTHES, DIGITS, TINY_IMAGENET
from methods import plugins
from methods.settings import SettingsError

Reader = TypeVar("Reader", bound=plugins.Part)

DEBIAN_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")  # where Debian's package dataset-fashion-mnist puts it


@dataclass(frozen=True)
class Files:
    """The files of a public data set. download: `module:function`, called with a directory, fetches both splits into
    it, checksums compared. content: what belongs into the data directory. hint: another way to get it, if there is
    one."""

    download: str
    content: str
    hint: str = ""


@dataclass(frozen=True)
class Own:
    """Data of the user's own, which come with a path and are known by the hash of their content.

    sha256: `module:function`, called with the path, gives that hash.
    counts: the same, called with a `Content`, gives `ClassCounts`; None, or InputError, where the data is not what
        its reader asks for; reads no image.
    suffix: what ends a path of such data; empty for a folder.
    in_folders: whether a folder with such files is such data too.
    label_column: `module:function`, called with the path, gives the column that labels are read from where the suite
        names none, or None; empty where the data has no columns.
    resizes: whether it takes `resize`.
    may_draw_test: whether the split seed draws test images where the data has none.
    """

    sha256: str
    counts: str
    suffix: str = ""
    in_folders: bool = False
    label_column: str = ""
    resizes: bool = False
    may_draw_test: bool = False


@dataclass(frozen=True)
class Content:
    """Which data of the user's own a reader is asked for. sha256: what their content must have; of any where None."""

    path: Path
    sha256: str | None
    resize: int | None
    split_seed: int
    label_column: str | None = None


@dataclass(frozen=True)
class DatasetInfo:
    """One data set, with facts that are None where they are known only once the user's own file is read.

    reader: `module:function`, whose arrays are images (N, C, H, W) uint8 and labels (N,). Without `own` it is called
        with a directory and the split, `train` or `test`, and gives the arrays, or None if no file is there; any error
        if files are there and are not right. With `own`, with a `Content`, the split and the data directory; it gives
        the arrays and the names of the classes, and raises InputError.
    files: what is read and fetched; None where the reader needs no files, or the user has them.
    own: of data of the user's own.
    image_size: pixels a side. mean, std: per channel of the training images, pixel scale [0, 1].
    flip, crop_padding: the augmentation that suits it (mirror images; zero pixels added a side before a random crop).
    train_counts, test_counts: images of each class.
    """

    name: str
    description: str
    reader: str
    files: Files | None = None
    own: Own | None = None
    channels: int | None = None
    image_size: int | None = None
    num_classes: int | None = None
    flip: bool = False
    crop_padding: int = 0
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    class_names: tuple[str, ...] | None = None
    train_counts: tuple[int, ...] | None = None
    test_counts: tuple[int, ...] | None = None

    @property
    def foreign(self) -> bool:
        """Whether its reader is not this package's own."""
        return not self.reader.startswith("harness.")

    @property
    def embedded(self) -> bool:
        """Whether it is always there, and as it should be."""
        return self.files is None and self.own is None


_READERS = "harness.data.readers"

_ALL = (
    DatasetInfo(
        "digits",
        "scikit-learn's 1,797 handwritten digits, 450 of them the test set; embedded, nothing to download",
        f"{_READERS}:read_digits",
        channels=1,
        image_size=8,
        num_classes=10,
        crop_padding=1,
        mean=(0.3051,),
        std=(0.3757,),
        class_names=DIGITS,
        train_counts=(133, 136, 133, 137, 136, 136, 136, 134, 131, 135),
        test_counts=(45, 46, 44, 46, 45, 46, 45, 45, 43, 45),
    ),
    DatasetInfo(
        "fashion_mnist",
        "Fashion-MNIST, 60,000 + 10,000 articles of clothing",
        f"{_READERS}:read_fashion_mnist",
        Files(
            f"{_READERS}:download_fashion_mnist",
            "the four *-ubyte.gz files",
            f"install Debian's package dataset-fashion-mnist (its folder {DEBIAN_FASHION_MNIST} is absent or "
            "incomplete)",
        ),
        channels=1,
        image_size=28,
        num_classes=10,
        flip=True,
        crop_padding=2,
        mean=(0.2860,),
        std=(0.3530,),
        class_names=CLOTHES,
        train_counts=(6000,) * 10,
        test_counts=(1000,) * 10,
    ),
    DatasetInfo(
        "cifar10",
        "CIFAR-10, 50,000 + 10,000 colour photographs",
        f"{_READERS}:read_cifar10",
        Files(f"{_READERS}:download_cifar10", "the folder cifar-10-batches-py"),
        channels=3,
        image_size=32,
        num_classes=10,
        flip=True,
        crop_padding=4,
        mean=(0.4914, 0.4822, 0.4465),
        std=(0.2470, 0.2435, 0.2616),
        class_names=CIFAR10,
        train_counts=(5000,) * 10,
        test_counts=(1000,) * 10,
    ),
    DatasetInfo(
        "cifar100",
        "CIFAR-100 with its 100 fine labels, 50,000 + 10,000 colour photographs",
        f"{_READERS}:read_cifar100",
        Files(f"{_READERS}:download_cifar100", "the folder cifar-100-python"),
        channels=3,
        image_size=32,
        num_classes=100,
        flip=True,
        crop_padding=4,
        mean=(0.5071, 0.4865, 0.4409),
        std=(0.2673, 0.2564, 0.2762),
        class_names=CIFAR100,
        train_counts=(500,) * 100,
        test_counts=(100,) * 100,
    ),
    DatasetInfo(
        "svhn",
        "SVHN, 73,257 + 26,032 cropped house numbers, unequal classes",
        f"{_READERS}:read_svhn",
        Files(f"{_READERS}:download_svhn", "train_32x32.mat and test_32x32.mat"),
        channels=3,
        image_size=32,
        num_classes=10,
        crop_padding=4,
        mean=(0.4377, 0.4438, 0.4728),
        std=(0.1980, 0.2010, 0.1970),
        class_names=DIGITS,
        train_counts=(4948, 13861, 10585, 8497, 7458, 6882, 5727, 5595, 5045, 4659),
        test_counts=(1744, 5099, 4149, 2882, 2523, 2384, 1977, 2019, 1660, 1595),
    ),
    DatasetInfo(
        "tiny_imagenet",
        "Tiny ImageNet, 100,000 + 10,000 photographs of 200 classes; its val/ is the test set",
        "harness.data.tiny_imagenet:read_tiny_imagenet",
        Files("harness.data.tiny_imagenet:download_tiny_imagenet", "the folder tiny-imagenet-200"),
        channels=3,
        image_size=64,
        num_classes=200,
        flip=True,
        crop_padding=4,
        mean=(0.4802, 0.4481, 0.3975),
        std=(0.2770, 0.2691, 0.2821),
        class_names=tuple(TINY_IMAGENET.values()),
        train_counts=(500,) * 200,
        test_counts=(50,) * 200,
    ),
    DatasetInfo(
        "npz",
        "your own arrays: x_train, y_train, x_test, y_test, optional class_names, in one .npz file",
        "harness.data.arrays:read_split",
        own=Own("harness.data.arrays:npz_sha256", "harness.data.arrays:npz_counts", suffix=".npz"),
    ),
    DatasetInfo(
        "folder",
        "your own PNG or JPEG images: train/CLASS/ and test/CLASS/ below one folder, or CLASS/ alone",
        "harness.data.pictures:read_folder",
        own=Own(
            "harness.data.folder:folder_sha256",
            "harness.data.folder:folder_counts",
            resizes=True,
            may_draw_test=True,
        ),
    ),
    DatasetInfo(
        "parquet",
        "your own images in Parquet files, as Hugging Face has them: a column of PNG or JPEG bytes, one of labels",
        "harness.data.pictures:read_parquet",
        own=Own(
            "harness.data.parquet:parquet_sha256",
            "harness.data.parquet:parquet_counts",
            suffix=".parquet",
            in_folders=True,
            label_column="harness.data.parquet:usual_label_column",
            resizes=True,
            may_draw_test=True,
        ),
    ),
)

DATASETS: dict[str, DatasetInfo] = {info.name: info for info in _ALL}

OWN: dict[str, Own] = {info.name: info.own for info in _ALL if info.own}


def dataset(name: str, description: str = "", **facts: Any) -> Callable[[Reader], Reader]:
    """Decorator of a plugin: a reader with the facts of its data set, both as `DatasetInfo` says; without `files` and
    `own` its data are always there."""

    def add(reader: Reader) -> Reader:
        known = facts
        if "own" not in facts:
            if lacking := [key for key in ("channels", "image_size", "num_classes") if key not in facts]:
                raise SettingsError(f"dataset {name}: {', '.join(lacking)} must be said beforehand")
            known = {"class_names": tuple(map(str, range(facts["num_classes"]))), **facts}
            _check_lengths(name, known)
        info = DatasetInfo(name, description or plugins.summary(reader), plugins.place_of(reader), **known)
        plugins.declare("dataset", DATASETS, name, info, reader)
        if info.own:
            OWN[name] = info.own
        return reader

    return add


_ONE_EACH = {"num_classes": ("class_names", "train_counts", "test_counts"), "channels": ("mean", "std")}


def _check_lengths(name: str, facts: Mapping[str, Any]) -> None:
    """Raises SettingsError where a fact has not one value for each class, or each channel."""
    for count, lists in _ONE_EACH.items():
        for key in lists:
            values = facts.get(key)
            if values is not None and len(values) != facts[count]:
                raise SettingsError(f"dataset {name}: {key} has {len(values)} values, and {count} is {facts[count]}")


def own_name(path: str) -> str:
    """Which data of the user's own a path names, by what ends it or, of a folder, by the files in it and up to three
    levels below: a folder of images where nothing known does."""
    kinds = sorted(OWN.items(), key=lambda kind: -len(kind[1].suffix))
    ending = (name for name, own in kinds if own.suffix and path.endswith(own.suffix))
    holding = (name for name, own in kinds if own.in_folders and _holds(Path(path), own.suffix))
    return next(chain(ending, holding), "folder")


def _holds(folder: Path, suffix: str) -> bool:
    return any(any(folder.glob(f"{'*/' * level}*{suffix}")) for level in range(4))
