"""The fingerprint of the code that computes: equal for two versions of this package that compute the same way."""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).resolve().parents[2]
_OWN = ("harness", "methods", "__future__")
NUMERIC = (
    "methods",
    "harness/attacks",
    "harness/data",
    "harness/engine",
    "harness/evaluation",
    "harness/models",
    "harness/training",
    "harness/inputs.py",
    "harness/seeds.py",
    "harness/statistics/metrics.py",
    "harness/trial.py",
)


@cache
def code_fingerprint() -> str:
    """The fingerprint of everything in this checkout that computes: methods, attacks, data, models, training,
    evaluation."""
    places = [_ROOT / name for name in NUMERIC]
    files = [file for place in places for file in (place.rglob("*.py") if place.is_dir() else [place])]
    return fingerprint(file.read_bytes() for file in files)


def fingerprint(sources: Iterable[bytes]) -> str:
    """12 hexadecimal digits of Python files, given by their content.

    It is made of the syntax trees of their top-level statements, in no order: comments, docstrings, formatting, and the
    file in which a definition stands, with the imports that lead to it, do not count.
    """
    parts = {text for source in sources for statement in _kept(ast.parse(source).body) for text in _texts(statement)}
    return hashlib.sha256("\n".join(sorted(parts)).encode()).hexdigest()[:12]


def _kept(statements: Iterable[ast.stmt]) -> Iterator[ast.stmt]:
    """Without docstrings and imports of this package's own modules."""
    return (each for each in statements if not _is_docstring(each) and not _is_own_import(each))


def _is_docstring(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _is_own_import(node: ast.stmt) -> bool:
    if isinstance(node, ast.ImportFrom):
        return node.level > 0 or (node.module or "").partition(".")[0] in _OWN
    return isinstance(node, ast.Import) and all(name.name.partition(".")[0] in _OWN for name in node.names)


def _texts(statement: ast.stmt) -> Iterator[str]:
    """A top-level statement as text; an import of several names as one of each, however files share them."""
    if isinstance(statement, (ast.Import, ast.ImportFrom)):
        place = getattr(statement, "module", None)
        yield from (repr([type(statement).__name__, place, alias.name, alias.asname]) for alias in statement.names)
    else:
        yield repr(_tree(statement))


def _tree(node: Any) -> Any:
    """A syntax tree as nested lists, without empty fields: Python's versions differ in those."""
    if isinstance(node, list):
        return [_tree(each) for each in (_kept(node) if all(isinstance(each, ast.stmt) for each in node) else node)]
    if not isinstance(node, ast.AST):
        return node
    fields = ((name, value) for name, value in ast.iter_fields(node) if name != "kind")
    return [type(node).__name__, *((name, _tree(value)) for name, value in fields if value is not None and value != [])]
