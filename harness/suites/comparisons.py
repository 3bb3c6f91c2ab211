"""Comparisons that a suite registers before their results are known, as its store keeps them."""

from __future__ import annotations

from pathlib import Path

from harness.store.records import COMPARISONS_FILE, registered, save_registered
from harness.suites.blocks import read
from harness.suites.suite import PrimaryComparison, Suite


def remember_comparisons(suite: Suite, root: Path) -> None:
    """Write down the comparisons that a suite registers, in the store's `primary.json`, by the suite's name."""
    known = registered(root)
    found = {**known, suite.name: [comparison.model_dump(mode="json") for comparison in suite.primary]}
    if found != known and (suite.primary or suite.name in known):
        save_registered(root, found)


def registered_comparisons(root: Path) -> list[PrimaryComparison]:
    """The comparisons that the suites run into the store at `root` have registered."""
    where = str(root / COMPARISONS_FILE)
    return [read(PrimaryComparison, each, where) for found in registered(root).values() for each in found]
