"""What users write, read in one place: YAML 1.2 for suites and options, numbers as decimals or fractions. Everything is
bounded before it is built, and nothing is ever executed."""

from __future__ import annotations

import math
import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from harness.errors import InputError
from harness.files import open_plain

MOST_CHARACTERS = 200_000  # of a suite; the longest that comes with the package has 3,000
MOST_NODES = 20_000
DEEPEST = 20  # mappings and lists inside one another
_MOST_DIGITS = 40  # of a number
_LARGEST_WHOLE = 2**63 - 1
_DECIMAL = r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?"
_NUMBER = re.compile(rf"\s*({_DECIMAL})\s*(?:/\s*({_DECIMAL})\s*)?")


class _Reader(yaml.SafeLoader):
    """YAML 1.2's own scalars (its core schema without octal, hexadecimal, infinite and undefined numbers, which stay
    text): yes, 010, 1:30 and 2024-01-01 mean what they look like, 1e-3 is a number."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()
        self.nodes = getattr(self, "nodes", 0) + 1
        self.depth = getattr(self, "depth", 0) + 1
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            raise _refused("anchors (&) and aliases (*) are not read; write the value out", event.start_mark)
        if getattr(event, "tag", None) not in (None, "!"):
            raise _refused("tags (!) are not read", event.start_mark)
        if self.depth > DEEPEST:
            raise _refused(f"more than {DEEPEST} lists and mappings inside one another", event.start_mark)
        if self.nodes > MOST_NODES:
            raise _refused(f"more than {MOST_NODES:,} values", event.start_mark)
        try:
            return super().compose_node(parent, index)
        finally:
            self.depth -= 1

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if key.tag != "tag:yaml.org,2002:str":
                raise _refused("a key is not text", key.start_mark)
            if key.value in seen:
                raise _refused(f"the key '{key.value}' stands twice", key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)

    def whole(self, node: yaml.ScalarNode) -> int:
        if len(node.value) > _MOST_DIGITS or abs(int(node.value)) > _LARGEST_WHOLE:
            raise _refused("a whole number is beyond 64 bits", node.start_mark)
        return int(node.value)

    def real(self, node: yaml.ScalarNode) -> float:
        if len(node.value) > _MOST_DIGITS or not _is_computable(node.value):
            raise _refused(f"a number is beyond what can be computed with, or has over {_MOST_DIGITS} digits",
                           node.start_mark)  # fmt: skip
        return float(node.value)


for _tag, _pattern, _first in (
    ("null", r"(?:~|null|Null|NULL|)", ["~", "n", "N", ""]),
    ("bool", r"(?:true|True|TRUE|false|False|FALSE)", list("tTfF")),
    ("int", r"[-+]?[0-9]+", list("-+0123456789")),
    ("float", _DECIMAL, list("-+.0123456789")),
):
    _Reader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"^{_pattern}$"), _first)
_Reader.add_constructor("tag:yaml.org,2002:int", _Reader.whole)
_Reader.add_constructor("tag:yaml.org,2002:float", _Reader.real)


def read_yaml(text: str, where: str) -> Any:
    """The value that a text stands for: None, bool, int, float, text, lists, and mappings with text as keys.

    where: what the text is, for InputError, raised in one line for text that is no YAML 1.2 or breaks one of the bounds
    above: keys that stand twice, tags, anchors, more than one document.
    """
    if len(text) > MOST_CHARACTERS:
        raise InputError(f"{where} is longer than {MOST_CHARACTERS:,} characters")
    try:
        return yaml.load(text, Loader=_Reader)  # a SafeLoader
    except yaml.YAMLError as error:
        raise InputError(f"{where} is not valid YAML: {_told(error)}") from None


class _Writer(yaml.SafeDumper):
    """Without anchors, which are not read."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def written(values: Any) -> str:
    """Plain values as a text that `read_yaml` reads as them."""
    return yaml.dump(values, Dumper=_Writer, sort_keys=False, default_flow_style=None, width=120, allow_unicode=True)


def read_text(path: Path, what: str) -> str:
    """The text of a file that `read_yaml` can be asked for. InputError where it cannot be read or is no plain file.
    what: as `open_plain` has it."""
    with open_plain(path, what) as file:
        content = file.read(4 * MOST_CHARACTERS + 1)  # a character has at most four bytes
    if len(content) > 4 * MOST_CHARACTERS:
        raise InputError(f"{what} {path} is longer than {MOST_CHARACTERS:,} characters")
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise InputError(f"{what} {path} cannot be read: {error}") from None


def number(value: Any, where: str) -> float:
    """A finite number of at least 0, written as 0.1 or 1e-1 or as a fraction, 8/255. Raises InputError."""
    text = str(value)
    match = _NUMBER.fullmatch(text) if len(text) <= 2 * _MOST_DIGITS and not isinstance(value, bool) else None
    computable = match is not None and all(_is_computable(part) for part in match.groups("1"))
    result = float(match[1]) / (float(match[2] or 1) or math.nan) if match and computable else math.nan
    if not math.isfinite(result) or result < 0:
        shown = text if len(text) <= _MOST_DIGITS else f"{text[:_MOST_DIGITS]}…"
        raise InputError(f"{where} must be a finite number of at least 0 or a fraction such as 8/255, not '{shown}'")
    return result


def _is_computable(text: str) -> bool:
    """Whether a decimal is neither beyond what a float holds nor a number that would become 0."""
    value = float(text)
    return math.isfinite(value) and (value != 0 or not re.match(r"[-+.0]*[1-9]", text))


def _refused(reason: str, mark: Any) -> yaml.YAMLError:
    return yaml.constructor.ConstructorError(None, None, reason, mark)


def _told(error: yaml.YAMLError) -> str:
    """The reason and its place, in one short line."""
    reason = getattr(error, "problem", None) or str(error)
    mark = getattr(error, "problem_mark", None)
    place = f" (line {mark.line + 1}, column {mark.column + 1})" if mark else ""
    return " ".join(str(reason).split())[:200] + place
