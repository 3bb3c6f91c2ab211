"""The blocks of a suite (data set, network, training, evaluation), read into records. Imports neither torch nor Ray."""

from __future__ import annotations

import math
import os
import pkgutil
import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

import methods
from harness.attacks.registry import attack_info, attack_place, canonical_request
from harness.data.counts import class_counts
from harness.data.registry import DATASETS, OWN, DatasetInfo
from harness.data.splits import most_train_images
from harness.errors import InputError, one_of, unknown
from harness.models.registry import in_loaded_file, model_info, resolve_params
from harness.spec import (
    CHECKPOINTS,
    MOST_EPOCHS,
    AttackRequest,
    AugmentSpec,
    DatasetSpec,
    EvaluationSpec,
    NetworkSpec,
    TrainingSpec,
    WeightAverageSpec,
    is_of_unit_pixels,
)
from harness.suites.keys import MOST_SEEDS, Entry
from harness.suites.notation import number
from methods.settings import YOURS

_LEAST_DEVIATION = 1e-6  # of a normalization: what is divided by much less overflows


def network_spec(entry: Entry, where: str, dataset: DatasetSpec) -> NetworkSpec:
    """A network from `cnn` or `{name: cnn, width: 16, normalization: dataset}`."""
    values = dict(entry) if isinstance(entry, Mapping) else {"name": entry}
    name = model_info(in_loaded_file(values.pop("name", None)), f"model in {where}").name
    mean, std = _normalization(values.pop("normalization", "none"), where, dataset)
    values = {"name": name, "params": resolve_params(name, values), "mean": mean, "std": std}
    return read(NetworkSpec, values, f"{where}: normalization")


def dataset_spec(entry: Entry) -> DatasetSpec:
    """A data set from `digits` or `{name: npz, path: mine.npz, train_images: 1000}`.

    A hash that is given is trusted here: `own_data` compares it with the content, and so does whoever reads the data.
    An augmentation that is the data set's own is null: however it is written, it is the same.
    """
    values = dict(entry) if isinstance(entry, Mapping) else {"name": entry}
    one_of("dataset", values.get("name"), DATASETS, YOURS)
    values["augment"] = _augmentation(values.get("augment"), DATASETS[values["name"]])
    spec = read(DatasetSpec, values, "dataset")
    own = OWN.get(spec.name)
    if (own is None) != (spec.path is None):
        raise InputError(f"dataset: 'path' goes with 'name: {' or '.join(OWN)}', and they need it")
    if spec.path is None and spec.sha256 is not None:
        raise InputError(f"dataset: 'sha256' goes with 'name: {' or '.join(OWN)}', not with {spec.name}")
    if spec.sha256 is not None and not re.fullmatch("[0-9a-f]{64}", spec.sha256):
        raise InputError(
            f"dataset: sha256 must be 64 hexadecimal digits, as sha256sum prints them, not '{spec.sha256}'"
        )
    if spec.imbalance == 1:  # as they are
        spec = spec.model_copy(update={"imbalance": None})
    if spec.resize is not None and not (own and own.resizes):
        resizing = [name for name, each in OWN.items() if each.resizes]
        raise InputError(f"dataset: 'resize' goes with 'name: {' or '.join(resizing)}', not with {spec.name}")
    if spec.label_column is not None and not (own and own.label_column):
        having = [name for name, each in OWN.items() if each.label_column]
        raise InputError(f"dataset: 'label_column' goes with 'name: {' or '.join(having)}', not with {spec.name}")
    if spec.path is not None and not spec.sha256:
        placed = own_data(values, Path())
        spec = spec.model_copy(update={name: placed[name] for name in ("path", "sha256")})
    return _whole_where_all(_unnamed_where_usual(spec))


def _unnamed_where_usual(spec: DatasetSpec) -> DatasetSpec:
    """A column of labels that would be read anyway needs no name: null, where the data is there."""
    if spec.label_column is None or spec.path is None or not os.path.exists(spec.path):
        return spec
    usual = pkgutil.resolve_name(OWN[spec.name].label_column)(Path(spec.path))
    return spec.model_copy(update={"label_column": None}) if usual == spec.label_column else spec


def _whole_where_all(spec: DatasetSpec) -> DatasetSpec:
    """A subset of all images is none: null, where the images are known."""
    counts = class_counts(spec)
    if counts is None:
        return spec
    everything = {"test_images": int(counts.test.sum())}
    if spec.train_images is not None:
        everything["train_images"] = most_train_images(counts.train, spec.imbalance)
    return spec.model_copy(update={key: None for key, all_of in everything.items() if getattr(spec, key) == all_of})


def _augmentation(values: Any, facts: DatasetInfo) -> Any:
    """The augmentation of a suite, what it leaves out taken from the data set's own; null where it is that."""
    own = AugmentSpec(crop=facts.crop_padding, flip=facts.flip)
    if not isinstance(values, Mapping):
        return values
    asked = read(AugmentSpec, {**own.model_dump(), **values}, "dataset: augment")
    if facts.image_size is not None and asked.crop >= facts.image_size:
        raise InputError(
            f"dataset: augment: crop {asked.crop} must be less than the {facts.image_size} pixels of a side"
        )
    asked = asked if asked.crop else asked.model_copy(update={"pad": "zero"})  # nothing is added
    return None if asked == own else asked.model_dump()


def own_data(values: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The entry of a data set of the user's own with its path in full, taken from `folder`, and its content's hash.

    A hash that the entry names is compared with the content where that is there. InputError where it differs, and
    where there is neither.
    """
    path, named = folder.absolute() / Path(values["path"]).expanduser(), values.get("sha256")
    if named is not None and not os.path.exists(path):
        return {**values, "path": str(path)}
    found = pkgutil.resolve_name(OWN[values["name"]].sha256)(path)
    if named is not None and named != found:
        raise InputError(f"dataset: {path} has the sha256 {found}, the suite names {named}")
    return {**values, "path": str(path), "sha256": found}


def evaluation_spec(
    values: Mapping[str, Any], eps: float, dataset: DatasetSpec, seed: int = 0, *, given: bool = False
) -> EvaluationSpec:
    """The evaluation block of one seed's trial: attacks as names or mappings, `images` as their common default; one
    with `seeds` is for those only. given: of a network from a file, for which `checkpoints` mean nothing.

    However they are written, and in whichever order: the same attacks at this eps, on these images, make the same
    specification.
    """
    values = dict(values)
    images = values.pop("images", None)
    entries = [_of_seed(entry, seed) for entry in attack_entries(values)]
    values.pop("attacks", None)
    attacks = [_attack(entry, images, eps, dataset) for entry in entries if entry is not None]
    if not attacks:
        raise InputError("evaluation: attacks must name at least one attack")
    if given:
        attacks = [attack.model_copy(update={"checkpoints": CHECKPOINTS}) for attack in attacks]
    attacks.sort(key=lambda attack: attack_place(attack.name))
    for first, second in pairwise(attacks):
        if first.name == second.name:
            raise InputError(f"evaluation: attacks: {_twice(first, second)}; each attack can be listed once")
    spec = read(EvaluationSpec, {"attacks": attacks, **values}, "evaluation")
    return spec.model_copy(update={"batch_size": min(spec.batch_size, spec.chunk_size)})  # a batch is within a chunk


def attack_names(values: Mapping[str, Any], eps: float, dataset: DatasetSpec) -> set[str]:
    """What the attacks of an evaluation block are called in the results, those of some seeds only included."""
    return {_attack(_without_seeds(entry), None, eps, dataset).name for entry in attack_entries(values)}


def attack_entries(values: Mapping[str, Any]) -> list[Entry]:
    """The attacks as an evaluation block lists them; InputError for what is no list of names and mappings."""
    entries = values.get("attacks", [])
    if not isinstance(entries, list) or not all(isinstance(entry, (str, Mapping)) for entry in entries):
        raise InputError(f"evaluation: attacks must be a list such as [clean, pgd20], not {entries!r}")
    return entries


def _of_seed(entry: Entry, seed: int) -> Entry | None:
    """The entry of an attack without its `seeds`; None where they leave this one out."""
    if not isinstance(entry, Mapping) or "seeds" not in entry:
        return entry
    seeds = seed_list(entry["seeds"], f"evaluation: {entry.get('name')}: seeds")
    return _without_seeds(entry) if seed in seeds else None


def _without_seeds(entry: Entry) -> Entry:
    return {key: item for key, item in entry.items() if key != "seeds"} if isinstance(entry, Mapping) else entry


def _attack(entry: Entry, images: int | None, eps: float, dataset: DatasetSpec) -> AttackRequest:
    """One attack in its canonical form."""
    values: dict[str, Any] = dict(entry) if isinstance(entry, Mapping) else {"name": entry}
    info = attack_info(values.get("name"))
    where = f"evaluation: {info.name}"
    if info.function:
        own = {key: values.pop(key) for key in info.settings if key in values}
        values["settings"] = {**(values.get("settings") or {}), **own}
    values.setdefault("checkpoints", info.checkpoints)
    if values.get("step_size") is not None:
        values["step_size"] = radius(values["step_size"], f"{where}: step_size")
    request = read(AttackRequest, {"images": images} | values, where)
    if not request.checkpoints:
        raise InputError(f"{where}: checkpoints must name at least one of {', '.join(CHECKPOINTS)}")
    checkpoints = tuple(name for name in CHECKPOINTS if name in request.checkpoints)
    classes, images = DATASETS[dataset.name].num_classes, request.images
    if images is not None and classes is not None and images < classes:
        raise InputError(f"{where}: images must be at least {classes}, one of each class, not {images}")
    counts = class_counts(dataset)
    there = dataset.test_images or (int(counts.test.sum()) if counts else None)
    if images is not None and there and images >= there:
        images = None
    return AttackRequest(images=images, checkpoints=checkpoints, **canonical_request(request.overrides, eps))


def seed_list(seeds: Any, where: str) -> list[int]:
    """A list of seeds, whole numbers from 0 to 2^63 - 1; InputError for anything else."""
    if not isinstance(seeds, list) or not seeds or not all(type(seed) is int and 0 <= seed < 2**63 for seed in seeds):
        raise InputError(f"{where} must be a list of whole numbers of at least 0, below 2^63, not {seeds!r}")
    if len(seeds) > MOST_SEEDS:
        raise InputError(f"{where} lists {len(seeds):,} seeds; {MOST_SEEDS:,} are the most")
    return seeds


def _twice(first: AttackRequest, second: AttackRequest) -> str:
    """What two requests of one name have in common and where they differ."""
    pairs = zip(first, second, strict=True)
    differs = [f"{key} {one} and {other}" for (key, one), (_, other) in pairs if one != other]
    return f"{first.name} is asked for twice" + (f", with {', '.join(differs)}" if differs else "")


def training_spec(values: Mapping[str, Any], eps: float, where: str = "training") -> TrainingSpec:
    """The training block; milestones and start epochs below 1 are fractions of training.

    However it is written: the same training at this eps makes the same specification.
    """
    values = dict(values)
    epochs = epochs_of(values, where)
    if values.get("step_size") is not None:
        values["step_size"] = radius(values["step_size"], f"{where}: step_size")
    milestones = values.get("milestones", [])
    if not isinstance(milestones, (list, tuple)):
        raise InputError(
            f"{where}: milestones must be a list of epochs or of fractions of training, not {milestones!r}"
        )
    values["milestones"] = tuple(_epoch(point, epochs, f"{where}: milestones") for point in milestones)
    for option in ("weight_average", "weight_perturbation"):
        if isinstance(values.get(option), Mapping) and "start_epoch" in values[option]:
            start = _epoch(values[option]["start_epoch"], epochs, f"{where}: {option}: start_epoch")
            values[option] = {**values[option], "start_epoch": start}
    spec = read(TrainingSpec, values, where)
    if spec.nesterov and not spec.momentum:
        raise InputError(f"{where}: nesterov needs a momentum above 0")
    if spec.running_statistics == "adversarial" and spec.batch_norm_pass:
        raise InputError(f"{where}: batch_norm_pass counts clean images, and running_statistics: adversarial does not")
    return spec.model_copy(update={**_schedule(spec), **_options(spec), **_own_step(spec, eps)})


def _schedule(spec: TrainingSpec) -> dict[str, Any]:
    """The milestones that change the rate, in order; without one there is no decay. `restart` decays once, so it is
    `cumulative` with the first milestone only."""
    reached = tuple(sorted(point for point in spec.milestones if point < spec.epochs)) if spec.decay < 1 else ()
    reached = reached[:1] if spec.decay_rule == "restart" else reached
    default = {key: TrainingSpec.model_fields[key].default for key in ("decay", "decay_rule")}
    return {"milestones": reached, **default, **({"decay": spec.decay} if reached else {})}


def _options(spec: TrainingSpec) -> dict[str, Any]:
    """Without what would start after the last epoch; EMA has no threshold."""
    average, perturbation = spec.weight_average, spec.weight_perturbation
    if average is not None and average.kind == "ema":  # fawa holds images out, whether it ever takes a network or not
        average = average.model_copy(update={"threshold": WeightAverageSpec.model_fields["threshold"].default})
        average = average if average.start_epoch < spec.epochs else None
    if perturbation is not None and perturbation.start_epoch >= spec.epochs:
        perturbation = None
    return {"weight_average": average, "weight_perturbation": perturbation}


def _own_step(spec: TrainingSpec, eps: float) -> dict[str, Any]:
    return {"step_size": None if spec.step_size == eps / 4 else spec.step_size}


def training_block(values: Any, where: str) -> Mapping[str, Any]:
    """Training settings that stand over the suite's; InputError for what is no mapping."""
    if not isinstance(values, Mapping):
        raise InputError(f"{where} must be a mapping such as {{lr: 0.2}}, not {values!r}")
    return values


def epochs_of(training: Mapping[str, Any], where: str) -> int:
    """How long a training block trains."""
    epochs = training.get("epochs")
    if type(epochs) is not int or not 1 <= epochs <= MOST_EPOCHS:
        raise InputError(f"{where}: epochs must be a whole number from 1 to {MOST_EPOCHS:,}, not {epochs!r}")
    return epochs


def _epoch(value: Any, epochs: int, where: str) -> int:
    """A point in training, written as a number of epochs or as a fraction of training: 215, 0.7 or 215/300."""
    point = number(value, where)
    if point >= 1 and point != int(point):
        raise InputError(f"{where}: {value} is neither a whole number of epochs nor a fraction of training below 1")
    if point > epochs:
        raise InputError(
            f"{where}: epoch {value} is after the end of a training of {epochs} epochs; a fraction such as 0.7 moves "
            f"with the length"
        )
    return methods.resolve_epoch(point, epochs)


def radius(value: Any, where: str) -> float:
    """An L-inf radius or step on pixels in [0, 1], written as 0.1 or as a fraction, 8/255."""
    result = number(value, where)
    if result >= 1:
        meant = f": {result:g}/255?" if result == int(result) < 255 else ""
        raise InputError(f"{where} must be below 1, since pixels are in [0, 1], not {result:g}{meant}")
    return result


def read(kind: type[BaseModel], values: Any, where: str) -> Any:
    """A pydantic record from plain values; the first thing wrong becomes a one-line InputError."""
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        inside, place = (": ".join([where, *map(str, parts)]) for parts in (first["loc"][:-1], first["loc"]))
        if first["type"] == "extra_forbidden":
            raise unknown(f"key in {inside}", first["loc"][-1], _keys(kind, first["loc"][:-1])) from None
        raise InputError(
            f"{place}: {first['msg']}" + (f", not {first['input']!r}" if first["type"] != "missing" else "")
        ) from None


def _keys(kind: type, path: Sequence[Any]) -> list[str]:
    for part in path:
        field = getattr(kind, "model_fields", {}).get(part)
        candidates = [field.annotation, *getattr(field.annotation, "__args__", ())] if field else []
        kind = next((item for item in candidates if hasattr(item, "model_fields")), kind)
    return list(getattr(kind, "model_fields", {}))


def _normalization(value: Any, where: str, dataset: DatasetSpec) -> tuple[Any, Any]:
    if value == "none":
        return None, None
    if value == "dataset":
        facts = DATASETS[dataset.name]
        if facts.mean is None:
            raise InputError(
                f"{where}: normalization: dataset {dataset.name} has no known mean and deviation; give them as "
                f"{{mean: [...], std: [...]}}"
            )
        return facts.mean, facts.std
    if isinstance(value, Mapping) and set(value) == {"mean", "std"}:
        mean, std = (tuple(each) if isinstance(each, list) else (each,) for each in (value["mean"], value["std"]))
        channels = DATASETS[dataset.name].channels or len(mean)
        finite = all(_is_finite(each) for each in (*mean, *std))
        if not len(mean) == len(std) == channels or not finite or min(std) < _LEAST_DEVIATION:
            raise InputError(
                f"{where}: normalization: mean and std need one number a channel ({channels}), deviations of "
                f"{_LEAST_DEVIATION:g} at least, not {value!r}"
            )
        if not is_of_unit_pixels(mean, std):
            raise InputError(f"{where}: normalization: mean and std are not of pixels in [0, 1]: {value!r}")
        return (None, None) if set(mean) == {0} and set(std) == {1} else (mean, std)  # inputs as they are
    raise InputError(f"{where}: normalization must be none, dataset or {{mean: [...], std: [...]}}, not {value!r}")


def _is_finite(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
