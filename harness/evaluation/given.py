"""Networks that were trained elsewhere: the trial that evaluates one, and its clean accuracy, before anything is
stored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from harness.attacks.pgd import predict
from harness.data.augment import to_float
from harness.data.registry import DATASETS, OWN, own_name
from harness.data.splits import stratified_order
from harness.engine.forwards import evaluation_forward
from harness.errors import InputError
from harness.files import file_sha256
from harness.inputs import read_data, trained_network
from harness.spec import DatasetSpec, GivenSpec, Source
from harness.suites.blocks import dataset_spec, evaluation_spec, network_spec, radius, read
from harness.suites.code import with_code
from harness.suites.keys import ResourceKeys
from harness.suites.machine import with_cores, with_gpu
from harness.suites.notation import read_yaml

LOW = 50.0  # percent: below, a reader is told what usually explains it
ALLOWED = 0.5  # points between the clean accuracy that is expected and ours
USUALLY = (
    "the normalization that its own code applies (--normalization), inputs that its code scales, shifts or pads, the "
    "order of colour channels or classes, or another arrangement of the same layers (pre-activation, where branches "
    "join): weights load without a fault all the same"
)

OFTEN = (
    "Look at --normalization, at how its own code scales, shifts or pads inputs, at the order of channels and classes, "
    "and at its layers (pre-activation, where branches join)"
)


def given_dataset(text: str) -> DatasetSpec:
    """A data set by name, by the path of a folder, an .npz or a Parquet file, or as a suite writes it, {name: ...}.
    Raises InputError."""
    if text.startswith("{"):
        return dataset_spec(read_yaml(text, "--dataset"))
    own = own_name(text)
    is_file = bool(OWN[own].suffix) and text.endswith(OWN[own].suffix)
    is_path = is_file or "/" in text or (text not in DATASETS and Path(text).is_dir())
    return dataset_spec({"name": own, "path": text} if is_path else text)


def given_network(
    checkpoint: Path, model: str, parameters: Sequence[str], normalization: str, weights: str | None, data: DatasetSpec
) -> Source:
    """A network from a file. Raises InputError.

    parameters: texts such as width=16, or YAML mappings. normalization: YAML, what a suite's network may say. weights:
    which to take of a file with averaged and raw ones, ema or raw.
    """
    normalized = {"normalization": read_yaml(normalization, "--normalization")}
    network = network_spec({"name": model, **_parameters(parameters), **normalized}, "--model", data)
    sha256 = file_sha256(checkpoint, "checkpoint")
    file = {"network": network, "file": str(checkpoint.absolute()), "sha256": sha256, "weights": weights}
    return read(Source, file, "--weights")


def evaluation_trial(
    network: Source,
    data: DatasetSpec,
    evaluation: Mapping[str, Any],
    eps: str,
    variant: str,
    *,
    resources: Mapping[str, Any] | None = None,
    threads: int = 1,
    split_seed: int = 0,
) -> GivenSpec:
    """The trial that evaluates a network, without training. evaluation, resources: a suite's blocks. split_seed: of
    the test images of a folder that has none apart. Raises InputError."""
    size = radius(eps, "--eps")
    taken = with_gpu(read(ResourceKeys, resources or {}, "evaluate"))
    values = {
        "role": "evaluation",
        "variant": variant,
        "dataset": data,
        "student": network.network,
        "init": network,
        "evaluation": evaluation_spec(evaluation, size, data, given=True),
        "eps": size,
        "split_seed": split_seed,
        "threads": threads,
        "resources": with_cores(taken, threads).model_dump(),
    }
    return with_code(read(GivenSpec, values, "evaluate"))


def check_clean_accuracy(spec: GivenSpec, expected: float | None, root: Path | None) -> list[str]:
    """What there is to say of the clean accuracy of the network that the trial evaluates, a line each.

    On all test images where an accuracy is expected, in percent, else on those of the evaluation. InputError where it
    is more than half a point off.
    """
    accuracy, images = _clean_accuracy(spec, root, every=expected is not None)
    said = f"clean accuracy: {accuracy:.2f} % on {images:,} test images"
    if expected is not None and abs(accuracy - expected) > ALLOWED:
        raise InputError(f"{said}, not {expected:g} % as expected; nothing was stored. {OFTEN}")
    return [said, f"If that is less than it should be: usually it is {USUALLY}."] if accuracy < LOW else [said]


def check_expected(percent: float | None) -> None:
    """Raises InputError for what is no percentage."""
    if percent is not None and not 0 <= percent <= 100:
        raise InputError(f"--expect-clean must be a percentage from 0 to 100, such as 94.1, not {percent:g}")


@torch.no_grad()
def _clean_accuracy(spec: GivenSpec, root: Path | None, every: bool) -> tuple[float, int]:
    """In percent, and on how many test images."""
    data = read_data(spec.dataset, spec.split_seed, torch.device("cpu"), second=False, root=root, download=False)
    network = trained_network(spec.init, data, Path()).eval().requires_grad_(False)
    images = None if every else spec.evaluation.attacks[0].images
    chosen = stratified_order(data.test.labels, 0)[:images]
    forward, labels = evaluation_forward(network, spec.engine), data.test.labels[chosen]
    parts = (predict(forward, to_float(data.test.images[part]), len(part)) for part in chosen.split(500))
    return 100 * float((torch.cat(list(parts)) == labels).double().mean()), len(labels)


def _parameters(texts: Sequence[str]) -> dict[str, Any]:
    """The network's parameters: width=16, or a YAML mapping."""
    found: dict[str, Any] = {}
    for text in texts:
        key, sign, value = text.partition("=")
        if sign and key.strip().isidentifier():
            given: Any = {key.strip(): read_yaml(value, f"--param {text}: the value")}
        else:
            given = read_yaml(text, f"--param {text}")
        if not isinstance(given, Mapping):
            raise InputError(f"--param {text}: write key=value, such as width=16, or a mapping, {{width: 16}}")
        if twice := given.keys() & found.keys():
            raise InputError(f"--param: '{min(twice)}' is given twice")
        found |= given
    return found
