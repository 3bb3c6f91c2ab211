"""The numbers of the papers' released code, entry by entry: losses, gradients, attacks, class states, and whole
training runs.

The files are those of `FILES`, or the one that GOLDEN_JSON names. An entry is dispatched on its
`check`; all values come from its inputs and settings. Sections are those of the project's reference sheets.
"""

from __future__ import annotations

import functools
from dataclasses import fields
from typing import Any

import pytest

import methods
from tests.golden import at_bsl as golden_at_bsl
from tests.golden import attacks as golden_attacks
from tests.golden import csr as golden_csr
from tests.golden import fair_tat as golden_fair_tat
from tests.golden import losses as golden_losses
from tests.golden import states as golden_states
from tests.golden import traces as golden_traces
from tests.golden import trix as golden_trix
from tests.golden.file import CHECKS, FILES, Entry, read_entries, read_file

# Importing them registers their checks.
CHECKING = (
    golden_losses, golden_attacks, golden_states, golden_traces, golden_trix, golden_csr, golden_fair_tat,
    golden_at_bsl,
)  # fmt: skip
ENTRIES = read_entries()


def examined(content: dict[str, Any], device: str) -> Entry:
    """Run the check of an entry. Raises where a number differs, no check is known, or an output was left out."""
    entry = Entry(content, device)
    matching = [function for pattern, function in CHECKS if pattern.fullmatch(entry.check)]
    assert len(matching) == 1, f"{len(matching)} functions for check '{entry.check}'"
    matching[0](entry)
    assert not entry.skipped(), f"outputs not compared: {entry.skipped()}"
    return entry


@functools.cache
def examine(index: int, device: str) -> Entry:
    return examined(ENTRIES[index], device)


@pytest.mark.parametrize("index", range(len(ENTRIES)), ids=[entry["name"] for entry in ENTRIES])
def test_entry(index: int, device: str) -> None:
    examine(index, device)


def test_every_entry_and_output_is_compared(device: str, capsys: pytest.CaptureFixture[str]) -> None:
    entries = [examine(index, device) for index in range(len(ENTRIES))]
    outputs = sum(len(entry.compared) for entry in entries)
    stated = sum(how != "compared" for entry in entries for how in entry.compared.values())
    with capsys.disabled():
        print(f"\ngolden: {len(entries)} entries, {outputs} outputs, {stated} of them by a stated behaviour of ours")
    assert len(entries) == len(ENTRIES) > 0


def test_unknown_check_and_skipped_output_and_wrong_number_fail() -> None:
    content = next(entry for entry in read_file(FILES[0]) if entry["check"] == "frl_in_class_accuracy")
    accuracy = content["outputs"]["class_accuracy"]
    with pytest.raises(AssertionError, match="0 functions for check"):
        examined(content | {"check": "another_accuracy"}, "cpu")
    with pytest.raises(AssertionError, match=r"outputs not compared: \['more'\]"):
        examined(content | {"outputs": {"class_accuracy": accuracy, "more": 1.0}}, "cpu")
    with pytest.raises(AssertionError, match="class_accuracy"):
        examined(content | {"outputs": {"class_accuracy": accuracy + 1e-3}}, "cpu")


def test_settings_that_the_entries_rely_on_exist() -> None:
    """`method_of` passes an entry's settings by name; a renamed field would silently become the neutral value."""
    names = {field.name for cls in methods.METHODS.values() for field in fields(cls.Settings)}
    names |= {
        field.name for table in methods.POLICIES.values() for cls in table.values() for field in fields(cls.Settings)
    }
    assert {"kd_reduction", "target_log_eps", "alias_teacher", "attack_mode"} <= names
