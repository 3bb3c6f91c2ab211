"""The attacks by name, and what a request for one means. A new attack is an entry of `ATTACKS`. Torch-free."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any, TypeVar, get_args

from harness.errors import InputError, one_of, unknown
from harness.spec import CHECKPOINTS, Checkpoint, Start
from methods import plugins
from methods.settings import YOURS, SettingsError, read_values

AnyFunction = TypeVar("AnyFunction", bound=plugins.Part)
AUTOATTACK_STAGES = ("apgd-ce", "apgd-t", "fab-t", "square")
STARTS = get_args(Start)
OVERRIDES = ("steps", "step_size", "restarts", "start", "clamp_start", "every_iterate")


@dataclass(frozen=True)
class AscentSettings:
    """One gradient attack: FGSM, PGD, CW and what is like them. Pixels in [0, 1].

    objective: "module:function", from labels (B,) to what is maximised (`ascent.Objective`).
    direction: "module:function", from a gradient to where to step (`ascent.Direction`).
    step_size: in pixels; None means `step_share` of eps.
    start: clean (the image), uniform (in the eps ball) or normal (image + 0.001 * standard normal noise, not clamped).
    clamp_start: whether a uniform start is clipped to [0, 1]; later iterates always are.
    every_iterate: robust means right on every iterate, the last and a start inside [0, 1] included; otherwise on the
        last one only.
    """

    objective: str = "harness.attacks.pgd:cross_entropy"
    direction: str = "harness.attacks.ascent:gradient_sign"
    steps: int = 20
    step_size: float | None = None
    step_share: float = 0.25
    restarts: int = 1
    start: str = "uniform"
    clamp_start: bool = True
    every_iterate: bool = True

    def step(self, eps: float) -> float:
        """The step size in pixels."""
        return eps * self.step_share if self.step_size is None else self.step_size

    @property
    def start_is_an_image(self) -> bool:
        """Whether the start is surely inside [0, 1] and the ball, so that it can count as an adversarial point."""
        return self.start == "clean" or (self.start == "uniform" and self.clamp_start)


@dataclass(frozen=True)
class Attack:
    """The declaration of an attack: gradient ascent has `ascent`, AutoAttack has `stages`, a plugin's has `function`,
    its `module:name`, and `settings`, with their defaults; clean has none of them.

    name: with `{N}` in it, of every number of steps: pgd{N} declares pgd20 and pgd50. title: how tables call it.
    checkpoints: those it is run on where a suite does not say. headline: of several attacks, that with the smallest is
    shown where there is room for one. The place in `ATTACKS` is that in tables.
    """

    name: str
    title: str
    description: str
    ascent: AscentSettings | None = None
    stages: tuple[str, ...] = ()
    function: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    checkpoints: tuple[Checkpoint, ...] = CHECKPOINTS
    headline: int = 7

    def with_steps(self, steps: int | None = None) -> Attack:
        """The attack of so many steps, by default its own number; itself where the name has no `{N}`."""
        if self.ascent is None or "{N}" not in self.name:
            return self
        steps = steps or self.ascent.steps
        name, title = (text.replace("{N}", str(steps)) for text in (self.name, self.title))
        return replace(self, name=name, title=title, ascent=replace(self.ascent, steps=steps))


def _autoattack(name: str, title: str, description: str, *stages: str, headline: int = Attack.headline) -> Attack:
    """AutoAttack is the longest job of a trial, so it is run on one checkpoint unless the suite names more."""
    return Attack(
        name, title, description, stages=stages or (name,), checkpoints=("best_validation",), headline=headline
    )


ATTACKS: dict[str, Attack] = {
    attack.name: attack
    for attack in (
        Attack("clean", "Clean", "no attack: accuracy on the images as they are", headline=8),
        Attack(
            "fgsm",
            "FGSM",
            "one signed gradient step of eps from the image",
            AscentSettings(steps=1, step_share=1.0, start="clean", every_iterate=False),
            headline=6,
        ),
        Attack(
            "pgd{N}",
            "PGD-{N}",
            "PGD, N steps of eps/4, such as pgd20: robust only if every iterate is classified right",
            AscentSettings(),
            headline=1,
        ),
        Attack(
            "pgd{N}_last",
            "PGD-{N} (last)",
            "the same, such as pgd20_last, judged on the last iterate only",
            AscentSettings(every_iterate=False),
            headline=2,
        ),
        Attack(
            "cw{N}",
            "CW-{N}",
            "PGD on the margin, N steps, such as cw20: every iterate (CW-inf)",
            AscentSettings(objective="harness.attacks.pgd:margin"),
            headline=5,
        ),
        Attack(
            "mifgsm{N}",
            "MI-FGSM-{N}",
            "N steps of eps/10 along a momentum from the image, such as mifgsm10: every iterate",
            AscentSettings(direction="harness.attacks.momentum:momentum", steps=10, step_share=0.1, start="clean"),
        ),
        _autoattack("aa_short", "AA (short)", "AutoAttack's apgd-ce and apgd-t", *AUTOATTACK_STAGES[:2], headline=4),
        _autoattack("aa_standard", "AA", "AutoAttack standard: all four stages", *AUTOATTACK_STAGES, headline=3),
        _autoattack("apgd-ce", "APGD-CE", "AutoAttack stage: APGD on cross-entropy"),
        _autoattack("apgd-t", "APGD-T", "AutoAttack stage: targeted APGD on the DLR loss"),
        _autoattack("fab-t", "FAB-T", "AutoAttack stage: targeted FAB"),
        _autoattack("square", "Square", "AutoAttack stage: Square, 5000 queries"),
    )
}

_GIVEN = ("forward", "images", "labels", "eps", "generator")
_RESERVED = ("name", "images", "checkpoints", "seeds", "settings")  # keys of every attack


def attack(
    name: str, title: str | None = None, description: str = "", checkpoints: tuple[Checkpoint, ...] = CHECKPOINTS
) -> Callable[[AnyFunction], AnyFunction]:
    """Decorator of a plugin: a function `(forward, images, labels, eps, generator, ...)` that gives adversarial images.
    Its other parameters are settings, of the type of their defaults.

    forward: from images (B, C, H, W) in [0, 1] to logits (B, K), with gradients to the images. labels: (B,). eps: in
    pixels. generator: for what is random, on the CPU. The images are those that are still classified right; as many
    must come back, float32, in the L-infinity ball and in [0, 1]. What is robust, the harness judges.
    """

    def add(function: AnyFunction) -> AnyFunction:
        if declared(name):
            raise SettingsError(f"attack '{name}' is registered already; give yours another name")
        settings = plugins.settings_of(function, _GIVEN, f"attack {name}")
        if taken := sorted(settings.keys() & set(_RESERVED)):
            raise SettingsError(f"attack {name}: a setting cannot be called '{taken[0]}', a key of every attack")
        said, place = description or plugins.summary(function), plugins.place_of(function)
        own = Attack(name, title or name, said, function=place, settings=settings, checkpoints=checkpoints)
        plugins.declare("attack", ATTACKS, name, own, function)
        return function

    return add


_NUMBER = re.compile(r"[1-9][0-9]*")
_MOST = 1_000_000  # steps, or restarts


def declared(name: object) -> str | None:
    """The name under which an attack is declared in `ATTACKS`: pgd{N} for pgd20; None for what is no attack."""
    text = str(name)
    if "{N}" not in text and text in ATTACKS:
        return text
    if "{N}" not in text and (found := _NUMBER.sub("{N}", text, count=1)) in ATTACKS:
        return found
    return None


def attack_info(name: object) -> Attack:
    """The attack of that name, with the steps that are in it. InputError: an unknown name."""
    family, found = declared(name), _NUMBER.search(str(name))
    steps = int(found[0]) if found and len(found[0]) <= len(str(_MOST)) else None
    if family and "{N}" in family and found and (steps is None or steps > _MOST):
        raise InputError(f"attack {name!s:.40}: {_MOST:,} steps are the most")
    if family is None:
        raise unknown("attack", name, [info.with_steps(steps).name for info in ATTACKS.values()], YOURS)
    return ATTACKS[family].with_steps(steps)


def attack_place(name: str) -> tuple[int, int, str]:
    """Sorts attacks as tables list them: as `ATTACKS` does; fewer steps first; unknown ones last."""
    family = declared(name)
    place = list(ATTACKS).index(family) if family else len(ATTACKS)
    steps = _NUMBER.search(name) if family else None
    return place, int(steps[0]) if steps else 0, name


def headline(names: Iterable[str]) -> str | None:
    """The attack to show where there is room for one: PGD where it was run, of the fewest steps; None of none."""

    def place(name: str) -> float:
        family = declared(name)
        return ATTACKS[family].headline if family else math.inf

    return min(sorted(names, key=attack_place), key=place, default=None)


def check_request(request: Mapping[str, Any]) -> Attack:
    """The attack that a request names; an override that is None counts as not given.

    InputError: an unknown name, a key the attack does not have, a bad value.
    """
    info = attack_info(request.get("name"))
    own = OVERRIDES if info.ascent else ("settings",) if info.function else ()
    allowed = ("name", "images", "checkpoints", *own)
    for key, value in request.items():
        if key not in allowed and not (key in (*OVERRIDES, "settings") and value is None):
            raise unknown(f"key of attack {info.name}", key, (*allowed, *info.settings))
    if info.ascent:
        _overridden(info, request)
    if info.function:
        own_settings(request)
    return info


def own_settings(request: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a plugin's attack, those of the request over its own. SettingsError for what it does not have."""
    info = attack_info(request["name"])
    return read_values(info.settings, request.get("settings") or {}, f"attack {info.name}")


def ascent_settings(request: Mapping[str, Any]) -> AscentSettings:
    """The settings of a gradient attack with the request's overrides applied."""
    info = check_request(request)
    if info.ascent is None:
        raise ValueError(f"{info.name} is not a gradient attack")
    return _overridden(info, request)


def canonical_request(request: Mapping[str, Any], eps: float) -> dict[str, Any]:
    """The one way to write a request, whatever its words: the name that fits best, and the overrides left beside it.

    It follows from what the attack does with this eps: {"name": "pgd20", "steps": 50} is {"name": "pgd50"}. InputError
    as `check_request`.
    """
    info = check_request(request)
    if info.ascent is None:
        own = own_settings(request)
        return {"name": info.name, **({"settings": own} if own else {})}
    wanted = _overridden(info, request)
    if wanted.start != "uniform":  # nothing else is clamped
        wanted = replace(wanted, clamp_start=AscentSettings.clamp_start)
    if wanted.start == "clean":  # from one start, one path
        wanted = replace(wanted, restarts=AscentSettings.restarts)
    forms = []
    for each in ATTACKS.values():
        form = each.with_steps(wanted.steps)
        if form.ascent and (form.ascent.objective, form.ascent.direction) == (wanted.objective, wanted.direction):
            forms.append({"name": form.name, **_differences(form.ascent, wanted, eps)})
    return min(forms, key=len)


def _differences(own: AscentSettings, wanted: AscentSettings, eps: float) -> dict[str, Any]:
    """The overrides that make `wanted` of `own`."""
    keys = [key for key in OVERRIDES if key != "step_size" and getattr(own, key) != getattr(wanted, key)]
    changes = {key: getattr(wanted, key) for key in keys}
    if own.step(eps) != wanted.step(eps):
        changes["step_size"] = wanted.step(eps)
    return changes


def stage_names(name: str, num_classes: int) -> tuple[str, ...]:
    """The stages that the attack runs one by one: AutoAttack's own, otherwise the attack itself.

    The targeted DLR loss needs four logits, so with fewer classes apgd-t is left out; alone it is an InputError.
    """
    stages = attack_info(name).stages or (name,)
    possible = tuple(stage for stage in stages if stage != "apgd-t" or num_classes > 3)
    if not possible:
        raise InputError(f"attack {name} needs at least 4 classes, the data has {num_classes}")
    return possible


def _overridden(info: Attack, request: Mapping[str, Any]) -> AscentSettings:
    changes = {key: request[key] for key in OVERRIDES if request.get(key) is not None}
    for key in ("steps", "restarts"):
        if key in changes and (type(changes[key]) is not int or not 1 <= changes[key] <= _MOST):
            raise InputError(
                f"attack {info.name}: {key} must be a whole number from 1 to {_MOST:,}, not {changes[key]!r}"
            )
    if "start" in changes:
        one_of(f"start of attack {info.name}", changes["start"], STARTS)
    for key in ("clamp_start", "every_iterate"):
        if not isinstance(changes.get(key, True), bool):
            raise InputError(f"attack {info.name}: {key} must be true or false, not {changes[key]!r}")
    if "step_size" in changes:
        changes["step_size"] = _pixels(info.name, changes["step_size"])
    assert info.ascent is not None
    return replace(info.ascent, **changes)


def _pixels(name: str, value: object) -> float:
    """A step size as a float in (0, 1], from a number or a fraction such as '2/255'."""
    try:
        if isinstance(value, bool) or not isinstance(value, (int, float, str)):
            raise ValueError
        pixels = float(Fraction(value.replace(" ", "") if isinstance(value, str) else value))
    except (ValueError, ZeroDivisionError, OverflowError):
        pixels = 0.0
    if not 0 < pixels <= 1:
        raise InputError(f"attack {name}: step_size must be a number or fraction in (0, 1], not {value!r}")
    return pixels
