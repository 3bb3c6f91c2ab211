"""Spaces to search: a small grammar, read and never evaluated, and the settings that are drawn from it. Free of torch
and Ray.

    temperature_rate=loguniform(0.01, 1)    weight_decay=uniform(0, 0.001)
    steps=randint(5, 20)                    temperature_range=choice([0.5, 5], [0.25, 10])
"""

from __future__ import annotations

import json
import math
import random
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from harness.errors import InputError, unknown
from harness.suites.notation import read_yaml

Values = dict[str, Any]  # of one setting: a value for each key of the space

_EXAMPLE = "write key=loguniform(0.01, 1), uniform(a, b), randint(a, b) or choice(a, b, ...)"
_FORM = re.compile(r"\s*([A-Za-z_]\w*)\s*\((.*)\)\s*", re.DOTALL)
_DIGITS = 6  # significant digits of a drawn number, so that it can be written down and typed again
_FRUITLESS = 1000  # draws in a row that were there already: the space is exhausted


@dataclass(frozen=True)
class Domain(ABC):
    """What one key may be. text: as the user wrote it."""

    text: str

    logarithmic = False

    @abstractmethod
    def draw(self, numbers: random.Random) -> Any:
        """One value at random."""

    @abstractmethod
    def grid(self, count: int) -> list[Any]:
        """At most `count` values, evenly spread; of a choice, all of them."""

    @property
    @abstractmethod
    def corners(self) -> list[Any]:
        """The extreme values: where these are valid, all are."""

    def encode(self, value: Any) -> Any:
        """A value as a searcher knows it."""
        return value

    def decode(self, code: Any) -> Any:
        """The value that a searcher means."""
        return code


@dataclass(frozen=True)
class Uniform(Domain):
    """Real numbers from low to high, evenly, or evenly in their logarithm."""

    low: float
    high: float
    logarithmic: bool = False

    def draw(self, numbers: random.Random) -> float:
        return self._at(numbers.random())

    def grid(self, count: int) -> list[float]:
        return [self._at(place / (count - 1)) for place in range(count)] if count > 1 else [self._at(0.5)]

    @property
    def corners(self) -> list[float]:
        return [self.low, self.high]

    def _at(self, share: float) -> float:
        if self.logarithmic:
            value = math.exp(math.log(self.low) + share * (math.log(self.high) - math.log(self.low)))
        else:
            value = self.low + share * (self.high - self.low)
        return self.decode(value)

    def decode(self, code: float) -> float:
        """The value in as many digits as a setting has."""
        return min(max(float(f"{code:.{_DIGITS}g}"), self.low), self.high)


@dataclass(frozen=True)
class Whole(Domain):
    """Whole numbers from low to high, both included."""

    low: int
    high: int

    def draw(self, numbers: random.Random) -> int:
        return numbers.randint(self.low, self.high)

    def grid(self, count: int) -> list[int]:
        places = Uniform(self.text, self.low, self.high).grid(count)
        return sorted({round(place) for place in places})

    @property
    def corners(self) -> list[int]:
        return [self.low, self.high]

    def decode(self, code: Any) -> int:
        return int(code)


@dataclass(frozen=True)
class Choice(Domain):
    """One of a list of values."""

    choices: tuple[Any, ...]

    def draw(self, numbers: random.Random) -> Any:
        return numbers.choice(self.choices)

    def grid(self, count: int) -> list[Any]:
        return list(self.choices)

    @property
    def corners(self) -> list[Any]:
        return list(self.choices)

    def encode(self, value: Any) -> int:
        """Its place: searchers know no lists."""
        return self.choices.index(value)

    def decode(self, code: int) -> Any:
        return self.choices[code]


Space = dict[str, Domain]


def split_entries(texts: Sequence[str]) -> dict[str, Any]:
    """A space from the command line as it stands in a suite: `key=distribution(...)` for every method that has the key,
    `method: key=distribution(...)` for one of them, which becomes a mapping of its own. Raises InputError."""
    found: dict[str, Any] = {}
    for text in texts:
        left, sign, distribution = text.partition("=")
        method, colon, key = (part.strip() for part in left.rpartition(":"))
        if not sign or not key or (colon and not method):
            raise InputError(f"space '{text}': {_EXAMPLE}")
        part = found.setdefault(method, {}) if method else found
        if key in part:
            raise InputError(f"space '{text}': the key is given twice")
        part[key] = distribution.strip()
    return found


def read_space(entries: Mapping[str, Any]) -> Space:
    """A space from a mapping of keys to distributions as text. Raises InputError for anything outside the grammar."""
    return {key: _domain(f"space {key}", text) for key, text in entries.items()}


def _domain(where: str, text: Any) -> Domain:
    found = _FORM.fullmatch(text) if isinstance(text, str) else None
    if found is None:
        raise InputError(f"{where}: cannot read '{text}': {_EXAMPLE}")
    name, arguments = found[1], _arguments(f"{where}: {found[1]}", found[2])
    text = f"{name}({found[2].strip()})"
    if name == "choice":
        return _choice(where, text, arguments)
    if name not in ("loguniform", "uniform", "randint"):
        raise unknown(f"distribution in {where}", name, ["loguniform", "uniform", "randint", "choice"])
    low, high = _bounds(f"{where}: {text}", arguments, whole=name == "randint")
    if name == "randint":
        return Whole(text, int(low), int(high))
    if name == "loguniform" and low <= 0:
        raise InputError(f"{where}: {text}: the lower bound of loguniform must be above 0")
    return Uniform(text, float(low), float(high), logarithmic=name == "loguniform")


def _choice(where: str, text: str, arguments: list[Any]) -> Choice:
    values = arguments[0] if len(arguments) == 1 else arguments
    if not isinstance(values, list) or not values:
        raise InputError(f"{where}: {text}: choice takes at least one value: choice(1, 2, 5), or one list")
    seen = [json.dumps(value, sort_keys=True, default=str) for value in values]
    if len(set(seen)) < len(seen):
        raise InputError(f"{where}: {text}: a value is listed twice")
    return Choice(text, tuple(values))


def _arguments(where: str, text: str) -> list[Any]:
    return read_yaml(f"[{text}]", f"{where}: '{text}'")


def _bounds(where: str, arguments: list[Any], whole: bool) -> tuple[float, float]:
    kinds = (int,) if whole else (int, float)
    sound = all(isinstance(value, kinds) and not isinstance(value, bool) for value in arguments)
    if len(arguments) != 2 or not sound or not all(math.isfinite(value) for value in arguments):
        raise InputError(f"{where}: takes two {'whole' if whole else 'finite'} numbers, the lower bound first")
    low, high = arguments
    if not low < high:
        raise InputError(f"{where}: the lower bound {low:g} must be below the upper one, {high:g}")
    return low, high


class Setting(NamedTuple):
    """One try of a search: a method, as the suite calls it, and the values of its keys; the rest stays as it is."""

    method: str
    values: Values

    @property
    def key(self) -> str:
        """A text that two settings share if and only if they are the same."""
        return json.dumps([self.method, self.values], sort_keys=True)

    def __str__(self) -> str:
        return f"{self.method}: {short(self.values)}"


def written(values: Values) -> str:
    """A text that two settings share if and only if their values are the same."""
    return json.dumps(values, sort_keys=True)


def draw(
    space: Space, count: int, seed: int | str, *, first: Sequence[Values] = (), by: Callable[[Values], str] = written
) -> list[Values]:
    """`count` settings at random, after `first`, that differ by what `by` says of them, or all of a space that has not
    so many; the same for the same seed, and more of them begin with fewer."""
    numbers = random.Random(seed)
    found = {by(values): values for values in first}
    known = set(map(written, first))
    fruitless = 0
    while len(found) < count and fruitless <= _FRUITLESS:
        values = {key: domain.draw(numbers) for key, domain in space.items()}
        before = len(found)
        if written(values) not in known:
            known.add(written(values))
            found.setdefault(by(values), values)
        fruitless = 0 if len(found) > before else fruitless + 1
    return list(found.values())[:count]


def grid(space: Space, count: int, seed: int | str) -> list[Values]:
    """Every combination of evenly spread values, at most `count`, as many values for each range as that allows.

    In an order shuffled by the seed: a scheduler that stops the worst so far would do little on a rising slope. Raises
    InputError where the choices alone are more than `count`.
    """
    fixed = math.prod(len(domain.choices) for domain in space.values() if isinstance(domain, Choice))
    ranges = sum(not isinstance(domain, Choice) for domain in space.values())
    each = _root(count // fixed, ranges) if ranges else 1
    if each < 1 or fixed > count:
        raise InputError(f"the grid has at least {fixed} settings: --trials {fixed} or more")
    settings: list[Values] = [{}]
    for key, domain in space.items():
        settings = [{**values, key: value} for values in settings for value in domain.grid(each)]
    random.Random(seed).shuffle(settings)
    return settings


def _root(number: int, power: int) -> int:
    """The largest whole number whose `power`-th power is at most `number`."""
    found = 0
    while (found + 1) ** power <= number:
        found += 1
    return found


def short(values: Values) -> str:
    """Values in one line: `temperature_rate=0.3, labels=teacher`; `defaults` where there are none."""
    if not values:
        return "defaults"
    return ", ".join(f"{key}={_plain(value)}" for key, value in values.items())


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return "+".join(f"{key}={_plain(item)}" if key != "name" else str(item) for key, item in value.items())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "[" + ", ".join(_plain(item) for item in value) + "]"
    return f"{value:g}" if isinstance(value, float) else str(value)
