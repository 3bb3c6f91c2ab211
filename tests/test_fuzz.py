"""Some hundred drawn inputs: each is refused in one line, or right and only planned. And the fuzzer itself finds faults
that were mended once, when they are put back."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import pytest
import typer.main
import yaml

import methods
from harness.cli.main import app
from harness.models.registry import MODELS
from methods.registry import POLICIES
from tests.fuzz_inputs import COMMANDS, KINDS_OF_INPUT, draw, parameters, suite_places
from tests.fuzz_worker import Ending, Input, fuzz, table

pytestmark = pytest.mark.slow


def failures(found: list[tuple[Input, Ending]]) -> str:
    return "\n".join(f"{drawn}\n  {ending.how}: {ending.said[-1000:]}" for drawn, ending in found if not ending.good)


def test_drawn_inputs_are_refused_in_one_line_or_only_planned(tmp_path: Path) -> None:
    found = list(fuzz(range(300), tmp_path))  # others: python -m tests.fuzz_worker FIRST COUNT
    print(table(found))
    assert not failures(found), failures(found)
    assert sum(ending.how == "refused" for _, ending in found) > 200
    assert sum(ending.how == "planned" for _, ending in found) > 5


def test_the_grammar_knows_every_declaration() -> None:
    drawn = [draw(seed) for seed in range(12_000)]
    texts = {kind: "\n".join(f"{each.words} {each.suite!r}" for each in drawn if each.kind == kind)
             for kind in KINDS_OF_INPUT}  # fmt: skip
    for place in suite_places():
        assert place[-1] in texts["suite key"], place
    for name in (*methods.METHODS, *(policy for known in POLICIES.values() for policy in known)):
        assert name in texts["hyper-parameter"]
    for info in MODELS.values():
        assert all(f"{key}:" in texts["network"] or f".{key}=" in texts["network"] for key in info.params)
    assert set(COMMANDS) == set(typer.main.get_command(app).commands)  # type: ignore[attr-defined]
    options = {(each.words[0], each.names[0]) for each in drawn if each.kind == "option"}
    assert options == {(command, each.name) for command in COMMANDS for each in parameters(command)}


def test_a_seed_is_one_input() -> None:
    assert [draw(seed) for seed in range(50)] == [draw(seed) for seed in range(50)]


def twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """A key that stands twice is taken, the last one, as PyYAML does."""
    reader = importlib.import_module("harness.suites.notation")._Reader
    monkeypatch.setattr(reader, "construct_mapping", yaml.SafeLoader.construct_mapping)


def huge(monkeypatch: pytest.MonkeyPatch) -> None:
    """Exponents of any size are computed with, exactly."""
    reader = importlib.import_module("harness.suites.notation")._Reader
    monkeypatch.setitem(
        reader.yaml_constructors, "tag:yaml.org,2002:float", lambda _, node: float(Fraction(node.value))
    )


def digits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole numbers may have thousands of digits."""
    reader = importlib.import_module("harness.suites.notation")._Reader
    monkeypatch.setitem(reader.yaml_constructors, "tag:yaml.org,2002:int", lambda _, node: int(node.value))


def unnamed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that is a list is looked up as it is."""

    def registered(what: str, name: object, table: dict[object, object]) -> object:
        return table[name]

    monkeypatch.setattr("methods.registry.registered", registered)


def long(monkeypatch: pytest.MonkeyPatch) -> None:
    """An error line repeats all of what was given."""
    monkeypatch.setattr("harness.cli.messages.shortened", str)


@pytest.mark.parametrize(
    ("plant", "finds"),
    [
        (twice, "names nothing"),
        (huge, "hangs or dies"),
        (digits, "a traceback"),
        (unnamed, "a traceback"),
        (long, "a long line"),
    ],
)
def test_faults_that_were_mended_are_found_when_they_are_back(
    plant: Callable[[pytest.MonkeyPatch], None], finds: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch)
    for _, ending in fuzz(range(1000), tmp_path, limit_s=3):
        if ending.how == finds:
            return
    pytest.fail("not found in 1000 inputs")
