"""Numbers of papers: what a file states is read as it stands there, and one with a fault is refused by its name."""

from __future__ import annotations

import re
import runpy
from importlib import resources
from pathlib import Path

import pytest

import methods
from harness.errors import InputError
from harness.published.papers import COLUMNS, papers, published, read_paper

ROOT = Path(__file__).resolve().parents[2]
GOOD = """
cite: Doe et al., 2025
title: A paper
link: https://example.org/paper
year: 2025
own: [dafa]
others: {other: Another method}
tables:
  - source: {link: https://example.org/code, place: table 2, file: R.pdf, commit: 0123abc}
    dataset: cifar10
    network: resnet18
    eps: 8/255
    attacks: [{name: pgd100, step_size: 2/255, every_iterate: false}]
    seeds: 3
    checkpoint: last epoch
    remark: of the table
    rows:
      - method: trades
        results:
          aa_standard: {average: 49.2, worst: 23.8, nsd: 0.3, deviation: [0.7, 1.4]}
      - method: dafa
        variant: small
        checkpoint: best
        remark: of the row
        results: {pgd100: {worst: 30}}
      - method: other
        results: {clean: {average: 80}}
"""


def test_a_file_is_read_as_it_stands(monkeypatch):
    paper = read_paper(GOOD, "doe.yaml")
    monkeypatch.setattr("harness.published.papers.papers", lambda: {"doe": paper})
    trades, dafa, other = published().to_dict("records")
    assert list(trades) == list(COLUMNS)
    assert (trades["average"], trades["worst"], trades["nsd"]) == (49.2, 23.8, 0.3)
    assert (trades["average_deviation"], trades["worst_deviation"]) == (0.7, 1.4)
    assert (trades["dataset"], trades["network"], trades["eps"]) == ("cifar10", "resnet18(width=64)", 8 / 255)
    assert (trades["seeds"], trades["checkpoint"], trades["remark"]) == (3, "last epoch", "of the table")
    assert [each["by"] for each in (trades, dafa, other)] == ["another paper", "its own paper", "another paper"]
    assert (dafa["checkpoint"], dafa["remark"]) == ("best", "of the table; of the row")
    # what the table says of an attack: a step of 2/255 is the quarter of 8/255 that the name stands for anyway
    assert (dafa["attack"], dafa["request"]) == ("pgd100_last", {"name": "pgd100_last"})
    assert (other["title"], trades["title"], other["worst"]) == ("Another method", None, None)


@pytest.mark.parametrize(
    ("good", "bad", "told"),
    [
        (r"  - source: .*\n    dataset", "  - dataset", r"tables: 0: source: Field required"),
        (r"place: table 2, ", "", r"source: place: Field required"),
        (r"https://example.org/code", "example.org/code", r"source: link: .* not 'example.org/code'"),
        (r"commit: 0123abc", "commit: main", r"source: commit: .* not 'main'"),
        (r"average: 49.2", "average: 149.2", r"rows: 0: results: aa_standard: average: .* 100, not 149.2"),
        (r"worst: 23.8", "worst: -1", r"worst: .* greater than or equal to 0, not -1"),
        (r"worst: 23.8", "worst: 50", r"aa_standard: has a worst class above its average"),
        (r"nsd: 0.3", "nsd: 3.2", r"trades, aa_standard: nsd 3.2 is above 3$"),
        (r"average: 80", "nsd: 0.2", r"clean: must have an average or a worst class"),
        (r"method: trades", "method: tradse", r"unknown method in .* 'tradse': did you mean trades"),
        (r"clean: {", "claen: {", r"other: unknown attack 'claen'"),
        (r"dataset: cifar10", "dataset: cifar", r"unknown dataset 'cifar': did you mean cifar10"),
        (r"network: resnet18", "network: resnet20", r"unknown model .* 'resnet20'"),
        (r"eps: 8/255", "eps: 8", r"eps must be below 1"),
        (r"seeds: 3", "seeds: 0", r"seeds: .* greater than or equal to 1, not 0"),
        (r"cite: .*", "citation: Doe", r"cite"),
        (r"year: 2025", "year: 2025\nyear: 2026", r"the key 'year' stands twice"),
    ],
)
def test_a_fault_is_told_by_the_name_of_its_file(good, bad, told):
    text, count = re.subn(good, bad, GOOD, count=1)
    assert count == 1
    with pytest.raises(InputError, match=told) as error:
        read_paper(text, "doe.yaml")
    assert "doe.yaml" in str(error.value)
    assert "\n" not in str(error.value)


def test_what_comes_with_the_package():
    frame = published()
    files = [entry.name for entry in resources.files("harness.published").iterdir() if entry.name.endswith(".yaml")]
    assert sorted(f"{name}.yaml" for name in papers()) == sorted(files)
    assert len(frame) >= 320
    assert {"absld", "at", "bat", "cfa_trades", "dafa", "faal", "fair_tat", "mart", "trades", "trix", "wat"} <= set(
        frame["method"]
    ) & set(methods.METHODS)
    assert {"ferd", "rslad"} <= set(frame.loc[frame["second_hand"].notna(), "paper"])
    assert not {"cfa", "trix"} & set(frame.loc[frame["second_hand"].notna(), "paper"])
    table = frame[(frame["paper"] == "trix") & (frame["place"] == "table 1") & (frame["attack"] == "aa_standard")]
    row = table[table["method"] == "absld"].iloc[0]
    assert (row["average"], row["worst"], row["average_deviation"], row["seeds"]) == (49.0, 31.22, 0.24, 5)
    assert row["commit"].startswith("cdeb435")


def test_the_files_are_data_of_the_package():
    text = (ROOT / "pyproject.toml").read_text()
    assert '"harness.published" = ["*.yaml"]' in text


def test_the_page_is_written_from_the_files():
    page = ROOT / "docs" / "published.md"
    written = runpy.run_path(str(page.with_name("write_published.py")))["written"]
    assert page.read_text() == written(page.read_text()), "docs/published.md is stale: run docs/write_published.py"
