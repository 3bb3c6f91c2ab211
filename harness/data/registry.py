"""The data sets by name, and what is known of them before a file is opened. Free of torch, for `list` and plans."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class DatasetInfo:
    """Facts of one data set; None where they are known only once the user's own file is read.

    image_size: pixels a side. mean, std: per channel of the training images, pixel scale [0, 1].
    flip, crop_padding: the augmentation that suits it (mirror images; zero pixels added a side before a random crop).
    train_counts, test_counts: images of each class.
    """

    name: str
    description: str
    channels: int | None
    image_size: int | None
    num_classes: int | None
    flip: bool
    crop_padding: int
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    class_names: tuple[str, ...] | None
    train_counts: tuple[int, ...] | None = None
    test_counts: tuple[int, ...] | None = None


_DIGITS = tuple("0123456789")
_CLOTHES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip
_CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_CIFAR100 = (
    "apple", "aquarium_fish", "baby", "bear", "beaver", "bed", "bee", "beetle", "bicycle", "bottle", "bowl", "boy",
    "bridge", "bus", "butterfly", "camel", "can", "castle", "caterpillar", "cattle", "chair", "chimpanzee",
    "clock", "cloud", "cockroach", "couch", "crab", "crocodile", "cup", "dinosaur", "dolphin", "elephant",
    "flatfish", "forest", "fox", "girl", "hamster", "house", "kangaroo", "keyboard", "lamp", "lawn_mower",
    "leopard", "lion", "lizard", "lobster", "man", "maple_tree", "motorcycle", "mountain", "mouse", "mushroom",
    "oak_tree", "orange", "orchid", "otter", "palm_tree", "pear", "pickup_truck", "pine_tree", "plain", "plate",
    "poppy", "porcupine", "possum", "rabbit", "raccoon", "ray", "road", "rocket", "rose", "sea", "seal", "shark",
    "shrew", "skunk", "skyscraper", "snail", "snake", "spider", "squirrel", "streetcar", "sunflower",
    "sweet_pepper", "table", "tank", "telephone", "television", "tiger", "tractor", "train", "trout", "tulip",
    "turtle", "wardrobe", "whale", "willow_tree", "wolf", "woman", "worm",
)  # fmt: skip

_ALL = (
    DatasetInfo(
        "digits", "scikit-learn's 1,797 handwritten digits, 450 of them the test set; embedded, nothing to download",
        1, 8, 10, False, 1, (0.3051,), (0.3757,), _DIGITS,
        (133, 136, 133, 137, 136, 136, 136, 134, 131, 135), (45, 46, 44, 46, 45, 46, 45, 45, 43, 45),
    ),
    DatasetInfo(
        "fashion_mnist", "Fashion-MNIST, 60,000 + 10,000 articles of clothing",
        1, 28, 10, True, 2, (0.2860,), (0.3530,), _CLOTHES, (6000,) * 10, (1000,) * 10,
    ),
    DatasetInfo(
        "cifar10", "CIFAR-10, 50,000 + 10,000 colour photographs",
        3, 32, 10, True, 4, (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616), _CIFAR10, (5000,) * 10, (1000,) * 10,
    ),
    DatasetInfo(
        "cifar100", "CIFAR-100 with its 100 fine labels, 50,000 + 10,000 colour photographs",
        3, 32, 100, True, 4, (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762), _CIFAR100, (500,) * 100, (100,) * 100,
    ),
    DatasetInfo(
        "svhn", "SVHN, 73,257 + 26,032 cropped house numbers, unequal classes",
        3, 32, 10, False, 4, (0.4377, 0.4438, 0.4728), (0.1980, 0.2010, 0.1970), _DIGITS,
        (4948, 13861, 10585, 8497, 7458, 6882, 5727, 5595, 5045, 4659),
        (1744, 5099, 4149, 2882, 2523, 2384, 1977, 2019, 1660, 1595),
    ),
    DatasetInfo(
        "npz", "your own arrays: x_train, y_train, x_test, y_test, optional class_names, in one .npz file",
        None, None, None, False, 0, None, None, None,
    ),
    DatasetInfo(
        "folder", "your own PNG or JPEG images: train/CLASS/ and test/CLASS/ below one folder, or CLASS/ alone",
        None, None, None, False, 0, None, None, None,
    ),
)  # fmt: skip

DATASETS: dict[str, DatasetInfo] = {info.name: info for info in _ALL}

OWN = ("npz", "folder")  # the user's own: they come with a path and are known by the hash of their content
