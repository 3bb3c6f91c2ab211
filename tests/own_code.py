"""Plugins in tests: the page's examples, and tables of declarations that are afterwards as they were before."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import methods
from harness.attacks.registry import ATTACKS
from harness.data.registry import DATASETS, OWN
from harness.models.registry import MODELS
from harness.statistics.registry import METRICS
from tests.pages import blocks

TABLES: list[dict[str, Any]] = [methods.METHODS, *methods.POLICIES.values(), MODELS, ATTACKS, METRICS, DATASETS, OWN]


@contextmanager
def forgotten_afterwards() -> Iterator[None]:
    """What plugins declare inside, and that they are loaded, is forgotten."""
    before, modules = [dict(table) for table in TABLES], set(sys.modules)
    try:
        yield
    finally:
        for table, entries in zip(TABLES, before, strict=True):
            table.clear()
            table.update(entries)
        for name in set(sys.modules) - modules:
            if name.startswith("plugin_"):
                del sys.modules[name]


def page_blocks() -> list[str]:
    """The Python of docs/plugins.md: a network, an attack, a metric, a data set."""
    return blocks("docs/plugins.md", "python")


def page_examples() -> str:
    """The same as one file."""
    return "\n".join(page_blocks())
