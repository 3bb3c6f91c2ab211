"""Writes into docs/methods.md what the methods and policies say of themselves: python docs/write_methods.py"""

from __future__ import annotations

import dataclasses
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import methods
from methods.base import DistillationSettings, Method, Part

PAGE = Path(__file__).with_name("methods.md")


def written(page: str) -> str:
    """The page with what stands between its marks, `<!-- name -->` and `<!-- /name -->`, written anew."""
    for name, text in blocks().items():
        begin, end = f"<!-- {name} -->\n", f"<!-- /{name} -->"
        page = page[: page.index(begin)] + begin + text + page[page.index(end) :]
    return page


def blocks() -> dict[str, str]:
    """The text for each pair of marks; methods in the order of their years."""
    teachers = {name: methods.teachers_of(methods.resolve(name, 100)) for name in methods.METHODS}
    files: dict[str, list[type[Method]]] = {}
    for cls in sorted(methods.METHODS.values(), key=lambda cls: (bool(teachers[cls.name]), year(cls))):
        files.setdefault(cls.__module__, []).append(cls)
    head = ["| method | labels | weights | margins | teachers | starts from |\n|---|---|---|---|---|---|\n"]
    return {
        "all methods": "".join(head + [row(cls, teachers[cls.name]) for each in files.values() for cls in each]),
        "methods without a teacher": "\n".join(section(each) for each in files.values() if not teachers[each[0].name]),
        "methods with a teacher": "\n".join(section(each) for each in files.values() if teachers[each[0].name]),
        **{f"{kind} policies": "".join(map(policy, table.values())) for kind, table in methods.POLICIES.items()},
    }


def year(cls: type[Method]) -> int:
    """The year of the paper, 0 without one."""
    found = re.search(r"\d{4}", cls.reference)
    return int(found[0]) if found else 0


def row(cls: type[Method], teachers: Iterable[str]) -> str:
    """A method's line of the table."""
    labels, *others = (
        each if isinstance(each, str) else each["name"] for each in (cls.labels, cls.weights, cls.margins)
    )
    start = "a robust network" if cls.needs_init else "new weights"
    cells = [cls.name, "own" if cls.fixed_labels else labels, *others, ", ".join(teachers), start]
    return f"| {' | '.join(cells)} |\n"


def section(classes: list[type[Method]]) -> str:
    """The methods of one file: its docstring with their settings before the papers."""
    text, fence, papers = (sys.modules[classes[0].__module__].__doc__ or "").partition("```bibtex")
    options = dict.fromkeys(line for cls in classes for line in settings(cls, besides=DistillationSettings))
    parts = [text, "".join(options), fence + papers]
    return f"### {', '.join(cls.name for cls in classes)}\n" + "\n\n".join(filter(None, map(str.strip, parts))) + "\n"


def policy(cls: type[Part]) -> str:
    """A policy's docstring and settings."""
    text = " ".join((cls.__doc__ or "").split())
    return f"- **{cls.name}**: {text}\n" + "".join(f"  {line}" for line in settings(cls))


def settings(cls: type[Part], besides: type | None = None) -> Iterator[str]:
    """A line for each setting that differs from those of `besides`."""
    known = {(field.name, field.default) for field in dataclasses.fields(besides)} if besides else set()
    for field in dataclasses.fields(cls.Settings):
        if (field.name, field.default) not in known:
            yield f"- `{field.name}` ({shown(field.default)}): {field.metadata['help']}\n"


def shown(value: object) -> str:
    """A default as YAML has it, to three digits."""
    if isinstance(value, tuple):
        return f"[{', '.join(map(shown, value))}]"
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.3g}" if isinstance(value, float) else str(value) or '""'


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text()))
