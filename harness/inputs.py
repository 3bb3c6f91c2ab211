"""What a trial reads: its data set in parts, and networks with their initial or trained weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from harness.attacks.function import check_function
from harness.attacks.registry import attack_info, stage_names
from harness.data.registry import DATASETS
from harness.data.remarks import remarks, short_last_batch
from harness.data.sources import load
from harness.data.splits import check_attacked, split, stratified_subset, wants_second_split
from harness.errors import AbsentError, InputError
from harness.models.build import build
from harness.models.checkpoints import check_finite, load_into, read_state
from harness.models.layers import Network
from harness.models.outside import check_network
from harness.models.registry import model_info
from harness.spec import UNKNOWN_SHA256, AugmentSpec, DatasetSpec, GivenSpec, NetworkSpec, Source, TrialSpec
from harness.store.work import WorkingFolder


@dataclass(frozen=True)
class Images:
    """uint8 images (N, C, H, W) and int64 labels (N,) on the training device."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Data:
    """The parts of a data set that a trial works with. test_index: positions of the test images in the whole test
    set. remarks: what is odd about the data set."""

    train: Images
    validation: Images
    held_out: Images
    test: Images
    test_index: Tensor
    class_names: tuple[str, ...]
    augment: AugmentSpec
    remarks: tuple[str, ...] = ()

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def channels(self) -> int:
        return self.test.images.shape[1]

    @property
    def image_size(self) -> int:
        """Pixels of the shorter side."""
        return min(self.test.images.shape[2:])


def data_of(spec: TrialSpec, device: torch.device, *, root: Path | None, download: bool) -> Data:
    """What a trial reads, on its device. Raises InputError as `read_data`."""
    second = wants_second_split(spec)
    return read_data(spec.dataset, spec.split_seed, device, second=second, root=root, download=download)


def read_data(
    spec: DatasetSpec, split_seed: int, device: torch.device, *, second: bool, root: Path | None, download: bool
) -> Data:
    """Load, split and subset. second: some training images are held out for the method to learn from. Raises
    InputError, also where those would be fewer than two of a class."""
    path = Path(spec.path).expanduser() if spec.path else None
    whole, test = (
        load(
            spec.name,
            half,
            root=root,
            download=download,
            path=path,
            sha256=spec.sha256,
            resize=spec.resize,
            split_seed=split_seed,
            label_column=spec.label_column,
        )
        for half in ("train", "test")
    )
    try:
        splits = split(
            whole.labels, split_seed, train_images=spec.train_images, second=second, imbalance=spec.imbalance
        )
        test_index = (
            torch.arange(len(test.labels))
            if spec.test_images is None
            else stratified_subset(test.labels, spec.test_images, 0)
        )
    except ValueError as error:
        raise InputError(f"dataset {spec.name}: {error}") from error

    def part(source: Any, index: Tensor) -> Images:
        return Images(
            source.images[index].to(device, non_blocking=True), source.labels[index].to(device, non_blocking=True)
        )

    return Data(
        part(whole, splits.train),
        part(whole, splits.validation),
        part(whole, splits.held_out),
        part(test, test_index),
        test_index,
        whole.class_names,
        _augmentation(spec, min(whole.images.shape[2:])),
        tuple(remarks(whole, test)) if DATASETS[spec.name].own else (),
    )


def _augmentation(spec: DatasetSpec, side: int) -> AugmentSpec:
    """What the suite asks for, else the data set's own. side: the shorter one of the images, in pixels."""
    facts = DATASETS[spec.name]
    augment = spec.augment or AugmentSpec(crop=facts.crop_padding, flip=facts.flip)
    if augment.crop >= side:
        raise InputError(f"dataset: augment: crop {augment.crop} must be less than the {side} pixels of a side")
    return augment


class Shape(NamedTuple):
    """What a network needs to know of the images: channels, classes, pixels of the shorter side."""

    channels: int
    num_classes: int
    image_size: int


def new_network(network: NetworkSpec, data: Data | Shape, seed: int) -> nn.Module:
    """A network with initial weights from `seed`, for the channels and classes of a data set."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build(
            network.name,
            network.params,
            in_channels=data.channels,
            num_classes=data.num_classes,
            image_size=data.image_size,
            mean=network.mean,
            std=network.std,
        )


def trained_network(source: Source, data: Data | Shape, store_root: Path) -> nn.Module:
    """The network a source names, with its trained weights. Raises InputError where the file is missing, foreign or
    of another shape."""
    path, sha256 = weights_path(source, store_root), source.sha256
    try:
        if source.file is None:
            sha256 = _folder(source, store_root).noted_sha256(source.checkpoint)
        state = read_state(path, sha256, source.weights)
    except InputError as error:
        if source.trial is None:
            raise
        raise InputError(f"{error}; `run --redo {source.trial[:8]} --retry-failed` trains it again") from error
    network = new_network(source.network, data, 0)
    load_into(network, state, source=str(path))
    if source.file is not None:
        check_finite(network.state_dict(), source=str(path))
    return network


def network_of(spec: TrialSpec, checkpoint: str) -> Source:
    """A trial's network at a checkpoint, to be read: the one that it trained, or was given."""
    if isinstance(spec, GivenSpec):
        return spec.init
    return Source(network=spec.student, training=spec.training_id, checkpoint=checkpoint)


def weights_path(source: Source, store_root: Path) -> Path:
    """The file with a source's trained weights."""
    if source.file is not None:
        return Path(source.file).expanduser()
    return _folder(source, store_root).weights(source.checkpoint)


def _folder(source: Source, store_root: Path) -> WorkingFolder:
    return WorkingFolder(store_root, str(source.training))


def check_readable(
    specs: Sequence[TrialSpec], root: Path | None, download: bool, *, absent: list[str] | None = None
) -> list[str]:
    """Read every data set and checkpoint file that the trials name, once each, split as the trials will, and see that
    networks and attacks go with the data. What is odd about the data sets and what a file brings along; raises
    InputError.

    absent: where it is given, what is not there is noted in it, a line each, instead of refused, and the rest is
    checked all the same.
    """
    found: dict[str, None] = {}
    missing: dict[str, None] = {}
    for dataset, second in {(spec.dataset, wants_second_split(spec)): None for spec in specs}:
        concerned = [spec for spec in specs if (spec.dataset, wants_second_split(spec)) == (dataset, second)]
        try:
            data = read_data(dataset, 0, torch.device("cpu"), second=second, root=root, download=download)
        except AbsentError as error:
            if absent is None:
                raise
            missing |= {str(error): None, **_absent_files(concerned)}
            continue
        found |= {f"{dataset.label}: {text}": None for text in data.remarks}
        _check_networks(concerned, data)
        _check_functions(concerned, data)
        counts = torch.bincount(data.test.labels).numpy()
        for spec in concerned:
            if spec.training and (text := short_last_batch(len(data.train), spec.training.batch_size)):
                found[f"{dataset.label}: {text}"] = None
            check_attacked(spec, counts)
            for attack in spec.evaluation.attacks:
                stage_names(attack.name, data.num_classes)
        for source in _files(concerned):
            try:
                if said := _own_normalisation(source, trained_network(source, data, Path()), data):
                    found[said] = None
                    _check_starts(source, concerned, said)
            except AbsentError as error:
                if absent is None:
                    raise
                missing[_absent_file(source, error)] = None
    if absent is not None:
        absent += missing
    return list(found)


def _files(specs: Sequence[TrialSpec]) -> list[Source]:
    """The files that trials name, each once; not one that a plan does not know the hash of, and so has told."""
    named = [each for spec in specs for each in spec.sources if each.file and each.sha256 != UNKNOWN_SHA256]
    return list({each.model_dump_json(): each for each in named}.values())


def _absent_files(specs: Sequence[TrialSpec]) -> dict[str, None]:
    """A line for each file with weights that is not there; InputError for one that is there and not right. Without the
    data, it is not known whether the weights fit."""
    found: dict[str, None] = {}
    for source in _files(specs):
        try:
            read_state(weights_path(source, Path()), source.sha256, source.weights)
        except AbsentError as error:
            found[_absent_file(source, error)] = None
    return found


def _absent_file(source: Source, error: AbsentError) -> str:
    wanted = f"the {source.network.label} of sha256 {str(source.sha256)[:12]}"
    return f"{error}: put {wanted} there, or name another file and its hash"


def _own_normalisation(source: Source, network: nn.Module, data: Data) -> str | None:
    """What there is to say of a network whose normalisation came with its file. InputError for one of other images."""
    if source.network.mean is not None or not isinstance(network, Network):
        return None
    if network.mean is None or network.std is None:
        return None
    mean, std = ([round(value, 4) for value in each.flatten().tolist()] for each in (network.mean, network.std))
    if len(mean) != data.channels:
        raise InputError(f"{source.file} holds a normalisation of {len(mean)} channels, the data has {data.channels}")
    return f"{source.file}: the normalisation in the file is taken, mean {mean} and deviation {std}"


def _check_starts(source: Source, specs: Sequence[TrialSpec], said: str) -> None:
    """InputError for a student that starts from a file with a normalisation: its own weights are kept without."""
    if any(spec.training and spec.init == source for spec in specs):
        raise InputError(f"{said}; a student that starts from it needs it too: write it as its 'normalization'")


def _check_networks(specs: Sequence[TrialSpec], data: Data) -> None:
    """InputError for a network that cannot be built for the data, and for one from outside this package that is none
    for it; of others no weights are made."""
    networks = [network for spec in specs for network in spec.networks]
    bfloat16 = any(spec.wants_bfloat16 for spec in specs)
    height, width = data.test.images.shape[2:]
    for network in {each.model_dump_json(): each for each in networks}.values():
        info = model_info(network.name)
        if info.sized and height != width:
            raise InputError(f"model {network.label} takes square images, the data's are {height} x {width}")
        if info.foreign:
            made, shape = new_network(network, data, 0), tuple(data.test.images.shape[1:])
            check_network(made, info.where, shape, data.num_classes, specs[0].engine, bfloat16=bfloat16)
            continue
        with torch.device("meta"):
            new_network(network, data, 0)


def _check_functions(specs: Sequence[TrialSpec], data: Data) -> None:
    """InputError for an attack of a plugin that does not give what it must."""
    asked = {repr((each.overrides, spec.eps)): (each, spec.eps) for spec in specs for each in spec.evaluation.attacks}
    for attack, eps in asked.values():
        if attack_info(attack.name).function:
            check_function(attack.overrides, tuple(data.test.images.shape[1:]), data.num_classes, eps)
