"""What users write: the same scalars as they look, bounded, and one short line for everything else."""

from __future__ import annotations

import os

import pytest

from harness.errors import InputError
from harness.suites.notation import number, read_text, read_yaml
from harness.suites.suite import load_suite, suite_names


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("10", 10), ("-3", -3), ("010", 10), ("0x10", "0x10"), ("0o17", "0o17"), ("1_000", "1_000"),
        ("1:30", "1:30"), ("190:20:30", "190:20:30"), ("2024-01-01", "2024-01-01"),
        ("1e-1", 0.1), ("1e3", 1000.0), (".5", 0.5), ("1.", 1.0), (".inf", ".inf"), (".nan", ".nan"),
        ("yes", "yes"), ("no", "no"), ("on", "on"), ("true", True), ("False", False), ("y", "y"),
        ("~", None), ("null", None), ("", None), ("=", "="), ("<<", "<<"), ("8/255", "8/255"), ("'1'", "1"),
    ],
)  # fmt: skip
def test_scalars_are_what_they_look_like(text, value):
    found = read_yaml(f"key: {text}", "here")["key"]
    assert (found, type(found)) == (value, type(value))


LAUGHS = "a: &a [x, x]\n" + "\n".join(f"b{n}: &b{n} [*a, *a]" for n in range(5))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a: 1\nb: 2\na: 3", "the key 'a' stands twice (line 3, column 1)"),
        ("training: {lr: 1, lr: 2}", "the key 'lr' stands twice"),
        (LAUGHS, "anchors"),
        ("a: *nowhere", "anchors"),
        ("a: !!python/object/apply:os.system [ls]", "tags"),
        ("a: !!binary aaaa", "tags"),
        ("1: 2", "a key is not text"),
        ("? {a: b}\n: 1", "a key is not text"),
        ("[" * 5000, "inside one another"),
        ("{a: " * 5000, "inside one another"),
        ("[" + "1, " * 30_000 + "]", "20,000 values"),
        ("x" * 300_000, "200,000 characters"),
        ("a: " + "9" * 30, "64 bits"),
        ("a: " + "9" * 100_000, "64 bits"),
        ("a: 1e400", "beyond"),
        ("a: 0." + "1" * 1000, "40 digits"),
        ("a: 1\n---\nb: 2", "another document"),
        ("a: {b", "line 1"),
        ("a: \x00", "not allowed"),
        ("\ta: 1", "cannot start"),
    ],
    ids=range(20),
)
def test_what_is_refused_is_told_in_one_short_line(text, says):
    with pytest.raises(InputError, match=r"^suite mine") as caught:
        read_yaml(text, "suite mine")
    line = str(caught.value)
    assert says in line
    assert "\n" not in line
    assert len(line) < 300


@pytest.mark.parametrize(
    ("value", "wanted"),
    [("8/255", 8 / 255), (" 8 / 255 ", 8 / 255), ("1e-1", 0.1), (0.25, 0.25), (1, 1.0), (".5", 0.5), ("0.5/2", 0.25)],
)
def test_numbers(value, wanted):
    assert number(value, "eps") == wanted


@pytest.mark.parametrize(
    "value",
    ["1e99999999", "9" * 100_000, "1/0", "-1", "-8/255", "nan", "inf", ".inf", True, None, [8], {"a": 1}, "8/255/3", "",
     "0x10", "8:255"],
    ids=str,
)  # fmt: skip
def test_what_is_no_number_is_refused(value):
    with pytest.raises(InputError, match="eps must be a") as caught:
        number(value, "eps")
    assert len(str(caught.value)) < 150


def test_suites_that_are_no_plain_files_are_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe.yaml")
    (tmp_path / "folder.yaml").mkdir()
    (tmp_path / "latin.yaml").write_bytes("name: caf\u00e9".encode("latin-1"))
    for name, says in {
        "pipe": "plain file",
        "folder": "plain file",
        "latin": "utf-8",
        "absent": "No such file",
    }.items():
        with pytest.raises(InputError, match=says):
            load_suite(str(tmp_path / f"{name}.yaml"))
    with pytest.raises(InputError, match="plain file"):
        read_text(tmp_path / "pipe.yaml", "it")


def test_every_suite_of_the_package_reads_as_before():
    import yaml

    for name in suite_names():
        suite = load_suite(name)
        assert suite.name == name
        assert yaml.safe_dump(suite.model_dump(mode="json"))
