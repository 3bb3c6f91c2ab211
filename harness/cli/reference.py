"""What can be set in a suite: every key, setting of a method, policy and network, and key of an attack, as their
declarations say it. `docs/suites.md` and `list` show the same. Imports neither torch nor Ray."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

import methods
from harness.attacks.registry import ATTACKS, OVERRIDES, Attack, attack_info
from harness.errors import InputError, one_of
from harness.models.registry import LARGEST, ModelInfo, model_info
from harness.spec import (
    POINT,
    AugmentSpec,
    DatasetSpec,
    InSuites,
    TrainingSpec,
    WeightAverageSpec,
    WeightPerturbationSpec,
)
from harness.suites.keys import AttackKeys, EvaluationKeys, MethodKeys, NetworkKeys, ResourceKeys, SourceKeys
from harness.suites.suite import PrimaryComparison, Suite
from harness.tuning.options import TuneOptions


@dataclass(frozen=True)
class Key:
    """One key. kind: its type and range. default, example: as YAML has them. owner: which part of a method has it."""

    name: str
    kind: str
    default: str
    meaning: str
    example: str
    owner: str = ""


@dataclass(frozen=True)
class Block:
    """Keys that stand in one mapping, and what the mapping is."""

    name: str
    text: str
    keys: tuple[Key, ...]


RECORDS: dict[str, type[BaseModel]] = {
    "suite": Suite,
    "dataset": DatasetSpec,
    "dataset.augment": AugmentSpec,
    "student": NetworkKeys,
    "teacher": SourceKeys,
    "methods": MethodKeys,
    "training": TrainingSpec,
    "training.weight_average": WeightAverageSpec,
    "training.weight_perturbation": WeightPerturbationSpec,
    "evaluation": EvaluationKeys,
    "evaluation.attacks": AttackKeys,
    "resources": ResourceKeys,
    "primary": PrimaryComparison,
    "tune": TuneOptions,
}


def key_block(name: str) -> Block:
    """The keys of one block of a suite, or of the suite itself. InputError for an unknown name."""
    record = RECORDS[one_of("block of a suite", name, RECORDS)]
    keys = (_key(key, field) for key, field in record.model_fields.items())
    return Block(name, sentences(record), tuple(keys))


def method_block(name: str) -> Block:
    """The settings that an entry of a method takes: its own, and those of the policies of its preset."""
    cls = methods.METHODS[one_of("method", name, methods.METHODS)]
    keys, said = [*_settings(cls, {}, name)], []
    for kind, policies in methods.POLICIES.items():
        preset = getattr(cls, kind)
        preset = {"name": preset} if isinstance(preset, str) else preset
        owner = f"{kind}: {preset['name']}"
        keys += _settings(policies[preset["name"]], preset, owner)
        said.append(owner)
    said += [f"training: {_yaml(cls.training)}"] if cls.training else []
    source = cls.reference or sentences(cls).rstrip(".")
    return Block(name, f"{source}; {', '.join(said)}", tuple(keys))


def policy_blocks(name: str) -> list[Block]:
    """The settings of the policies of that name, one on each axis that has it."""
    found = [(kind, table[name]) for kind, table in methods.POLICIES.items() if name in table]
    if not found:
        one_of("policy", name, {each for table in methods.POLICIES.values() for each in table})
    return [Block(f"{kind}: {name}", sentences(cls), tuple(_settings(cls, {}, ""))) for kind, cls in found]


def network_block(name: str) -> Block:
    """The settings of a network."""
    info = model_info(name)
    keys = [
        Key(
            key,
            _network_kind(info, default),
            _yaml(default),
            info.meanings.get(key, ""),
            _example(key, default, _other(default)),
        )
        for key, default in info.params.items()
    ]
    return Block(name, info.description, (*keys, _key("normalization", NetworkKeys.model_fields["normalization"])))


def attack_block(name: str) -> Block:
    """The keys of an attack, with what they are where a suite leaves them out."""
    info = attack_info(name)
    own = {"name": None, "checkpoints": _yaml(list(info.checkpoints)), **_own_settings(info)}
    keys = (
        dataclasses.replace(_key(key, field), **_shown_of(key, own, info.name))
        for key, field in AttackKeys.model_fields.items()
        if (key not in OVERRIDES or info.ascent) and key != "settings"
    )
    settings = (
        Key(key, _PLAIN[type(default)], _yaml(default), "", _example(key, default, _other(default)))
        for key, default in info.settings.items()
    )
    return Block(info.name, info.description, (*keys, *settings))


def all_attacks() -> list[Block]:
    """The keys of every attack, those of any number of steps at their own."""
    return [attack_block(info.with_steps().name) for info in ATTACKS.values()]


# By the name of a list what it says of one of its names.
DETAILS: dict[str, Callable[[str], list[Block]]] = {
    "methods": lambda name: [method_block(name)],
    "policies": policy_blocks,
    "models": lambda name: [network_block(name)],
    "attacks": lambda name: [attack_block(name)],
    "keys": lambda name: [key_block(name)],
}


def details(what: str, name: str) -> list[Block]:
    """What `list WHAT NAME` shows. InputError for a list of which no more is known, and for an unknown name."""
    if what not in DETAILS:
        raise InputError(f"list {what} takes no name; more is known of each of the {', '.join(DETAILS)}")
    return DETAILS[what](name)


def _own_settings(info: Attack) -> dict[str, str]:
    if info.ascent is None:
        return {}
    own = {key: _yaml(getattr(info.ascent, key)) for key in OVERRIDES}
    share = info.ascent.step_share
    return own | {"step_size": "eps" if share == 1 else f"eps / {1 / share:g}"}


def _shown_of(key: str, own: Mapping[str, str | None], name: str) -> dict[str, str]:
    if key == "name":
        return {"example": f"name: {name}"}
    return {"default": str(own[key])} if key in own else {}


def _key(name: str, field: FieldInfo) -> Key:
    """A field of a record. It has a description; an example where its default is none."""
    in_suites = next((mark for mark in field.metadata if isinstance(mark, InSuites)), InSuites())
    default = None if field.is_required() else field.get_default(call_default_factory=True)
    if isinstance(default, BaseModel):
        default = default.model_dump(exclude_none=True)
    if in_suites.default is not None:
        shown = in_suites.default
    else:
        shown = "required" if field.is_required() else "none" if default in (None, [], (), {}, "") else _yaml(default)
    kind = in_suites.written or _kind(field.annotation, field.metadata)
    example = field.examples[0] if field.examples else _other(default, _choices(field.annotation))
    return Key(name, kind, shown, str(field.description), _example(name, default, example))


def _settings(cls: type[Any], preset: Mapping[str, Any], owner: str) -> Iterator[Key]:
    """The settings of a method or policy; preset: values that a method gives its policy."""
    hints = get_type_hints(cls.Settings)
    for field in dataclasses.fields(cls.Settings):
        facts, default = field.metadata, preset.get(field.name, field.default)
        example = facts.get("example", _other(default, facts["choices"]))
        yield Key(
            field.name, _setting_kind(hints[field.name], facts), _yaml(default), facts["help"],
            _example(field.name, default, example), owner,
        )  # fmt: skip


def _setting_kind(hint: Any, facts: Mapping[str, Any]) -> str:
    if facts["choices"]:
        return _one_of(facts["choices"])
    low, high = facts["low"], facts["high"]
    limits = f"from {low:g}" if low is not None else ""
    limits += f"{' ' if limits else 'up '}to {high:g}" if high is not None else ""
    if facts["epoch"]:
        return str(POINT.written)
    if get_origin(hint) is tuple:
        return " ".join(filter(None, [f"a rising list of {len(get_args(hint))} numbers", limits]))
    return " ".join(filter(None, [_PLAIN[hint], limits]))


def _network_kind(info: ModelInfo, default: Any) -> str:
    own = type(default) is int and not info.foreign
    return f"a whole number from 1 to {LARGEST}" if own else _PLAIN[type(default)]


_PLAIN = {int: "a whole number", float: "a number", bool: "true or false", str: "text", dict: "a mapping"}
_TEXT_OR_MAPPING = {str, dict}


def _kind(annotation: Any, metadata: Any = ()) -> str:
    """A type and its range in words."""
    origin, inside = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        marks = [each for mark in annotation.__metadata__ for each in getattr(mark, "metadata", [mark])]
        return _kind(inside[0], marks)
    if origin is Literal:
        return _one_of(inside)
    if origin in (Union, UnionType):
        parts = [part for part in inside if part is not NoneType]
        if {get_origin(part) or part for part in parts} == _TEXT_OR_MAPPING:
            return "a name or a mapping"
        return " or ".join(_kind(part, metadata) for part in parts)
    if origin in (list, tuple):
        return f"a list, each {_kind(inside[0])}"
    if origin is dict or (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
        return "a mapping"
    return " ".join(filter(None, [_PLAIN[annotation], _limits(metadata)]))


def _limits(metadata: Any) -> str:
    """The range that pydantic's marks stand for; the length of a text has none."""
    words = {"ge": "from", "gt": "above", "le": "up to", "lt": "below"}
    found = {name: getattr(mark, name) for mark in metadata for name in words if hasattr(mark, name)}
    if {"ge", "le"} <= found.keys():
        return f"from {_number(found['ge'])} to {_number(found['le'])}"
    return ", ".join(f"{words[name]} {_number(found[name])}" for name in words if name in found)


def _number(value: float) -> str:
    return "2^63" if value == 2**63 else f"{value:g}" if value < 1e4 else f"{value:,}"


def _one_of(choices: Any) -> str:
    *others, last = map(str, choices)
    return f"{', '.join(others)} or {last}" if others else last


def _choices(annotation: Any) -> tuple[Any, ...]:
    if get_origin(annotation) is Literal:
        return get_args(annotation)
    return next((found for part in get_args(annotation) if (found := _choices(part))), ())


def _other(default: Any, choices: Any = ()) -> Any:
    """An example: what else it can be where that is known, or else the default."""
    if isinstance(default, bool):
        return not default
    return next((each for each in choices or () if each != default), default)


def _example(name: str, default: Any, example: Any) -> str:
    return f"{name}: {_yaml(default if example is None else example)}"


def _yaml(value: Any) -> str:
    """A value as YAML has it, in one line; numbers that are no short decimals to four digits."""
    if isinstance(value, tuple):
        return _yaml(list(value))
    if isinstance(value, float):
        value = int(value) if value == int(value) else float(f"{value:.4g}")
    return yaml.safe_dump([value], default_flow_style=True, width=10**6, sort_keys=False).strip()[1:-1]


def sentences(cls: type[Any]) -> str:
    """The first paragraph of a docstring."""
    return " ".join((cls.__doc__ or "").split("\n\n")[0].split())
