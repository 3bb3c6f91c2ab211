"""What can be set: each declaration says it in full, its example works, and page and lists show it."""

from __future__ import annotations

import dataclasses
import runpy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

import methods
from harness.attacks.registry import ATTACKS, canonical_request
from harness.cli.listings import LISTS, in_full
from harness.cli.reference import (
    DETAILS,
    RECORDS,
    Block,
    all_attacks,
    key_block,
    method_block,
    network_block,
    policy_blocks,
)
from harness.models.registry import MODELS, resolve_params
from harness.suites.blocks import network_spec, read
from harness.suites.machine import for_this_machine
from harness.suites.plan import plan
from harness.suites.suite import load_suite
from harness.tuning.options import read_options
from tests.own_code import forgotten_afterwards, page_examples
from tests.pages import blocks

PAGE = Path(__file__).parents[2] / "docs" / "suites.md"
SUITE: dict[str, Any] = {
    "name": "small",
    "dataset": {"name": "digits"},
    "student": {"name": "cnn"},
    "teacher": {"model": "cnn"},
    "eps": 0.1,
    "training": {"epochs": 20},
    "methods": ["rslad", "absld", {"method": "absld", "variant": "other"}],
    "seeds": [0, 1, 2],
    "evaluation": {"attacks": ["pgd20"]},
    "tune": {"methods": ["absld"], "space": {"temperature_rate": "uniform(0, 1)"}},
}
FILE = {"file": "teacher.pt", "sha256": "ab" * 32}
OWN_DATA = ("path", "sha256", "resize", "label_column")


def test_the_page_is_what_the_declarations_say():
    written = runpy.run_path(str(PAGE.with_name("write_suites.py")))["written"]
    assert PAGE.read_text() == written(PAGE.read_text()), "docs/suites.md is stale: run python docs/write_suites.py"


def test_the_suite_on_the_page_is_complete(tmp_path):
    (suite,) = blocks("docs/suites.md", "yaml")
    (tmp_path / "mine.yaml").write_text(suite)
    specs = plan(load_suite(str(tmp_path / "mine.yaml")))
    own = "absld-temperature_rate=0.3"
    assert [spec.variant for spec in specs] == ["teacher", "rslad", "rslad", own, own]
    assert specs[-1].method["labels"]["temperature_rate"] == 0.3


def all_blocks() -> Iterator[Block]:
    yield from map(key_block, RECORDS)
    yield from map(method_block, methods.METHODS)
    yield from (block for table in methods.POLICIES.values() for name in table for block in policy_blocks(name))
    yield from map(network_block, MODELS)
    yield from all_attacks()


@pytest.mark.parametrize("block", [*all_blocks()], ids=lambda block: block.name)
def test_every_key_says_all_of_itself(block):
    assert block.text
    for key in block.keys:
        assert all((key.name, key.kind, key.default, key.meaning)), key
        assert key.meaning not in ("None", key.name), key
        assert yaml.safe_load(key.example).get(key.name, None) is not None, key


def placed(block: str, example: dict[str, Any]) -> dict[str, Any]:
    """What of the small suite is another with the example of a key of that block."""
    file = FILE if example.keys() & {*FILE, "weights"} else {}
    entries: dict[str, dict[str, Any]] = {
        "suite": example,
        "dataset.augment": {"dataset": {"name": "digits", "augment": example}},
        "teacher": {"teacher": {"model": "cnn", **file, **example}},
        "methods": {"methods": [{"method": "absld", **example}]},
        "training.weight_average": {"training": {"epochs": 20, "weight_average": {"kind": "ema", **example}}},
        "training.weight_perturbation": {"training": {"epochs": 20, "weight_perturbation": example}},
        "evaluation.attacks": {"evaluation": {"attacks": ["clean", {"name": "pgd20", **example}]}},
        "an attack of a plugin": {"plugins": ["mine.py"], "evaluation": {"attacks": [{"name": "corners", **example}]}},
        "primary": {"primary": [{"variant": "absld", "against": "rslad", "metrics": ["nsd"], **example}]},
    }
    return entries.get(block) or {block: {**SUITE.get(block, {}), **example}}


KEYS = [(name, key) for name in RECORDS for key in key_block(name).keys]


@pytest.mark.parametrize(("block", "key"), KEYS, ids=[f"{name}-{key.name}" for name, key in KEYS])
def test_the_example_of_a_key_makes_a_suite(block, key, tmp_path):
    example = yaml.safe_load(key.example)
    if block == "dataset" and key.name in OWN_DATA:  # which are not there
        assert read(RECORDS[block], {"name": "folder", **example}, block)
        return
    own = block == "evaluation.attacks" and key.name == "settings"
    changes = placed("an attack of a plugin" if own else block, example)
    (tmp_path / "mine.py").write_text(page_examples())
    if block == "tune" and ("settings" in example or example.get("search") == "list"):  # in place of a space
        changes["tune"] = {"methods": ["absld"], "settings": {"absld": [{}]}, **example}
    (tmp_path / "small.yaml").write_text(yaml.safe_dump({**SUITE, **changes}))
    with forgotten_afterwards():
        suite = load_suite(str(tmp_path / "small.yaml"))
        assert plan(for_this_machine(suite, tmp_path))
        assert read_options(suite, {})


@pytest.mark.parametrize("name", sorted(methods.METHODS))
def test_the_examples_of_a_method_are_settings_of_it(name):
    plain = methods.completed(methods.resolve(name, 100))
    for key in method_block(name).keys:
        part, example = key.owner.partition(":")[0], yaml.safe_load(key.example)
        entry = {"method": name, **(example if part == name else {part: example})}
        resolved = methods.completed(methods.resolve(entry, 100))
        assert key.name in resolved["settings" if part == name else part]
        assert resolved.keys() == plain.keys()
    shown = {key.name for key in method_block(name).keys}
    parts = ("settings", *methods.POLICIES)
    assert shown == {key for part in parts for key in plain[part]} - {"name"}


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind, table in methods.POLICIES.items() for name in table])
def test_a_policy_shows_every_setting(kind, name):
    block = next(block for block in policy_blocks(name) if block.name.startswith(kind))
    fields = dataclasses.fields(methods.POLICIES[kind][name].Settings)
    assert [key.name for key in block.keys] == [field.name for field in fields]


@pytest.mark.parametrize("name", MODELS)
def test_the_examples_of_a_network_are_settings_of_it(name):
    suite = plan(for_this_machine(load_suite("quickstart"), Path("absent")))[0]
    for key in network_block(name).keys:
        assert network_spec({"name": name, **yaml.safe_load(key.example)}, "student", suite.dataset).name == name
    assert [key.name for key in network_block(name).keys] == [*resolve_params(name, {}), "normalization"]


@pytest.mark.parametrize("name", [info.with_steps().name for info in ATTACKS.values()])
def test_what_an_attack_shows_as_its_default_changes_nothing(name):
    block = next(block for block in all_attacks() if block.name == name)
    for key in block.keys:
        if key.name not in ("name", "images", "checkpoints", "seeds", "step_size"):
            asked = {"name": name, **yaml.safe_load(f"{key.name}: {key.default}")}
            assert canonical_request(asked, 0.1) == {"name": name}


def printed(shown: Any) -> str:
    console = Console(width=4000)
    with console.capture() as capture:
        console.print(shown)
    return capture.get()


@pytest.mark.parametrize(
    ("what", "name"),
    [("methods", "absld"), ("policies", "kappa"), ("models", "wrn"), ("attacks", "pgd50"), ("keys", "training")],
)
def test_a_list_shows_one_name_in_full(what, name):
    text = printed(in_full(what, name))
    for key in DETAILS[what](name)[0].keys:
        assert f"{key.kind}; default: {key.default}" in text
        assert key.meaning in text
        assert key.example in text


def test_the_list_of_keys_is_all_blocks():
    text = printed(LISTS["keys"]())
    assert all(f"{name}: " in text for name in RECORDS)
    assert text.count("; default: ") == sum(len(key_block(name).keys) for name in RECORDS)
