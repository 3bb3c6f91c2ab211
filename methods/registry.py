"""Names of methods and policies, the presets behind them, and how a suite's entry becomes one."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from methods import plugins
from methods.base import TEACHER, LabelPolicy, MarginPolicy, Method, Part, WeightPolicy, asked, clean_among
from methods.settings import SettingsError, introduced, read_settings, registered, unknown_name

KINDS: dict[str, type[Part]] = {"labels": LabelPolicy, "weights": WeightPolicy, "margins": MarginPolicy}
METHODS: dict[str, type[Method]] = {}
POLICIES: dict[str, dict[str, type[Part]]] = {kind: {} for kind in KINDS}

AnyPart = TypeVar("AnyPart", bound=type[Part])


def register(name: str) -> Callable[[AnyPart], AnyPart]:
    """Class decorator: make a method, or a label, weight or margin policy, known by `name`. A name can be taken
    once."""

    def add(cls: AnyPart) -> AnyPart:
        table: dict[str, Any] = METHODS if issubclass(cls, Method) else _policy_table(cls)
        plugins.declare("method" if table is METHODS else "policy", table, name, cls, cls)
        cls.name = name
        return cls

    return add


def _policy_table(cls: type[Part]) -> dict[str, type[Part]]:
    for kind, base in KINDS.items():
        if issubclass(cls, base):
            return POLICIES[kind]
    raise SettingsError(f"{cls.__name__} is neither a Method nor a label, weight or margin policy")


def resolve(entry: str | Mapping[str, Any], epochs: int, num_classes: int | None = None) -> dict[str, Any]:
    """A suite's method entry, `absld` or `{method: absld, temperature_rate: 0.3, weights: kappa}`, as a full
    specification in plain values: {"name", "settings", "labels": {"name", ...}, "weights": {...}, "margins": {...}}.
    Presets filled in, types and ranges checked, fractions of training turned into epochs; combinations without a
    meaning refused. num_classes: of the data, where it is known. Left out are settings that stand as they were
    introduced (`completed`). Raises SettingsError.
    """
    given = dict(entry) if isinstance(entry, Mapping) else {"method": entry}
    cls: type[Method] = registered("method", given.pop("method", None), METHODS)
    name = cls.name
    policies = {kind: _policy_entry(kind, given.pop(kind, None), getattr(cls, kind)) for kind in KINDS}
    own = {key: given.pop(key) for key in list(given) if key in _fields(cls)}
    _route_flat_keys(name, given, policies)
    resolved: dict[str, Any] = {"name": name, "settings": read_settings(cls.Settings, own, f"method {name}", epochs)}
    for kind, values in policies.items():
        policy = POLICIES[kind][values.pop("name")]
        resolved[kind] = {"name": policy.name} | read_settings(
            policy.Settings, values, f"{kind} policy {policy.name}", epochs, num_classes
        )
    _check_combination(cls, resolved)
    later = _introduced(resolved)
    return resolved | {
        part: {key: value for key, value in resolved[part].items() if key not in values or value != values[key]}
        for part, values in later.items()
    }


def completed(resolved: Mapping[str, Any]) -> dict[str, Any]:
    """A resolved specification with the settings that it leaves out."""
    return {**resolved, **{part: values | resolved[part] for part, values in _introduced(resolved).items()}}


def build(resolved: Mapping[str, Any], num_classes: int) -> Method:
    """The method that a resolved specification describes, in its first state."""
    resolved = completed(resolved)
    parts = [
        POLICIES[kind][resolved[kind]["name"]](
            {key: value for key, value in resolved[kind].items() if key != "name"}, num_classes
        )
        for kind in KINDS
    ]
    return METHODS[resolved["name"]](resolved["settings"], *parts, num_classes)  # type: ignore[arg-type, call-arg]


def teachers_of(resolved: Mapping[str, Any]) -> tuple[str, ...]:
    """The names of the teachers that a resolved method needs: none, "teacher", "natural_teacher"."""
    taught = getattr(POLICIES["labels"][resolved["labels"]["name"]], "teacher", False)
    names = {teacher for teacher, _ in asked(METHODS[resolved["name"]].asks, taught)}
    return tuple(sorted(names, key=lambda name: (name != TEACHER, name)))


def clean_passes_of(resolved: Mapping[str, Any]) -> frozenset[str]:
    """The forwards of clean images that a resolved method has beside adversarial ones."""
    cls = METHODS[resolved["name"]]
    return clean_among(cls.forwards_of(cls.Settings(**completed(resolved)["settings"])))


def code_of(resolved: Mapping[str, Any]) -> dict[str, str]:
    """The hash of the code from outside this package that defines a resolved method and its policies, by role such as
    `method:mine` (`plugins.code_of`); empty where all of it is this package's own. KeyError for a name that is not
    registered."""
    parts = {"method": METHODS[resolved["name"]], **{kind: POLICIES[kind][resolved[kind]["name"]] for kind in KINDS}}
    found = {f"{role}:{cls.name}": plugins.code_of(cls) for role, cls in parts.items()}
    return {role: code for role, code in found.items() if code}


def held_out_of(resolved: Mapping[str, Any]) -> frozenset[str]:
    """The held-out statistics that a resolved method learns from: none, "pgd", "trades" (see `Part.held_out`)."""
    parts = [METHODS[resolved["name"]], *(POLICIES[kind][resolved[kind]["name"]] for kind in KINDS)]
    return frozenset().union(*(part.held_out for part in parts))


def points_of(resolved: Mapping[str, Any]) -> dict[str, list[str]]:
    """The settings of a resolved method that are points in training, by part: "settings" or a kind of policy."""
    return {
        part: [field.name for field in dataclasses.fields(kind) if field.metadata.get("epoch")]
        for part, kind in _settings(resolved).items()
    }


def _introduced(resolved: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """What a specification of these parts leaves out (`settings.introduced`), by part."""
    return {part: introduced(kind) for part, kind in _settings(resolved).items()}


def _settings(resolved: Mapping[str, Any]) -> dict[str, type]:
    policies = {kind: POLICIES[kind][resolved[kind]["name"]].Settings for kind in KINDS}
    return {"settings": METHODS[resolved["name"]].Settings, **policies}


def _policy_entry(kind: str, entry: Any, preset: str | Mapping[str, Any]) -> dict[str, Any]:
    preset = {"name": preset} if isinstance(preset, str) else dict(preset)
    if entry is None:
        return preset
    entry = dict(entry) if isinstance(entry, Mapping) else {"name": entry}
    name = entry.setdefault("name", preset["name"])
    registered(f"{kind} policy", name, POLICIES[kind])
    return (preset if name == preset["name"] else {}) | entry


def _fields(cls: type[Part]) -> set[str]:
    return {field.name for field in dataclasses.fields(cls.Settings)}


def _route_flat_keys(name: str, given: Mapping[str, Any], policies: dict[str, dict[str, Any]]) -> None:
    """Give a key of the entry that is no setting of the method itself to the one policy that has it."""
    fields = {kind: _fields(POLICIES[kind][values["name"]]) for kind, values in policies.items()}
    for key, value in given.items():
        owners = [kind for kind in fields if key in fields[kind]]
        if not owners:
            raise unknown_name(f"setting of method {name}", key, _fields(METHODS[name]).union(*fields.values(), KINDS))
        if len(owners) > 1:
            raise SettingsError(
                f"method {name}: '{key}' belongs to {' and '.join(owners)}; write {owners[0]}: {{{key}: ...}}"
            )
        policies[owners[0]][key] = value


def _check_combination(cls: type[Method], resolved: Mapping[str, Any]) -> None:
    """Refuse what has no meaning, with the reason."""
    name = resolved["name"]
    label = POLICIES["labels"][resolved["labels"]["name"]]
    weight = POLICIES["weights"][resolved["weights"]["name"]]
    margin = POLICIES["margins"][resolved["margins"]["name"]]
    preset = cls.labels if isinstance(cls.labels, str) else cls.labels["name"]
    assert issubclass(weight, WeightPolicy)
    assert issubclass(margin, MarginPolicy)
    if cls.teacher_labels and not getattr(label, "teacher", False):
        raise SettingsError(f"method {name} learns from a teacher; labels: {label.name} has none")
    if cls.fixed_labels and label.name != preset:
        raise SettingsError(
            f"method {name} has labels of its own ('{preset}'); labels: {label.name} cannot replace them"
        )
    if cls.fixed_weights and weight.name != "none":
        raise SettingsError(f"method {name} has weights of its own; weights: {weight.name} cannot be added to them")
    coef_adv, coef_clean = cls.coefficients(cls.Settings(**resolved["settings"]))
    if weight.needs_clean_term and not (coef_adv and coef_clean):
        missing = "clean" if coef_adv else "adversarial"
        raise SettingsError(
            f"weights: {weight.name} balances an adversarial and a clean term, and method {name} has no {missing} one"
        )
    if weight.weighs_cross_entropy and not coef_clean and label.name != "hard":
        raise SettingsError(
            f"weights: {weight.name} weighs the clean term or a plain cross-entropy, and method {name} has neither"
        )
    if not cls.attacks and (weight.needs_attack or margin.name != "none"):
        raise SettingsError(
            f"method {name} trains without an attack; weights: {weight.name}, margins: {margin.name} need one"
        )
    if margin.stop_points and "clean" not in cls.forwards:
        raise SettingsError(f"margins: {margin.name} trains on two points, and method {name} uses only one")
