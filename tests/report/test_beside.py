"""Published numbers beside measured ones: which belong together, what is said to differ, and that nothing is ranked."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from harness.published.papers import published, read_paper
from harness.report.figures.draw import draw
from harness.report.published import NOTE, TITLE, lines
from harness.report.results import read_results
from harness.report.scores.leaderboard import leaderboard
from harness.report.write import Form, write_report
from tests.command import bench
from tests.synthetic_store import fill_store, frames_of, trial_spec

CLASSES = tuple(f"class {index}" for index in range(10))
PAPER = """
cite: Doe et al., 2025
title: A paper
link: https://example.org/paper
year: 2025
own: [trades]
others: {ham: HAM}
tables:
  - source: {link: https://example.org/code, place: table 2, second_hand: a blog}
    dataset: cifar10
    network: {name: cnn, width: 16}
    eps: 8/255
    seeds: 5
    checkpoint: last epoch
    remark: with more <data>
    rows:
      - method: trades
        results: {pgd20_last: {average: 51.5, worst: 30.5, deviation: [0.5, 1.5]}, aa_standard: {average: 49.2}}
      - {method: ham, results: {pgd20: {average: 50, worst: 29, nsd: 0.25}}}
      - {method: trades, variant: with AWP, results: {pgd20: {average: 55}}}
  - source: {link: https://example.org/code, place: table 3}
    dataset: cifar10
    network: {name: cnn, width: 16}
    eps: 4/255
    rows: [{method: trades, results: {pgd20: {average: 60}}}]
  - source: {link: https://example.org/code, place: table 4}
    dataset: cifar10
    network: {name: cnn, width: 8}
    eps: 8/255
    rows: [{method: trades, results: {pgd20: {average: 61}}}]
  - source: {link: https://example.org/code, place: table 5}
    dataset: {name: cifar10, imbalance: 0.1}
    network: {name: cnn, width: 16}
    eps: 8/255
    rows: [{method: trades, results: {pgd20: {average: 62}}}]
"""


@pytest.fixture
def stated(monkeypatch) -> pd.DataFrame:
    paper = read_paper(PAPER, "doe.yaml")
    monkeypatch.setattr("harness.published.papers.papers", lambda: {"doe": paper})
    return published()


@pytest.fixture(scope="module")
def results():
    cifar = {"dataset": "cifar10", "eps": 8 / 255, "attacks": ("clean", "pgd20")}
    specs = [trial_spec(name, seed, **cifar) for name in ("at", "trades") for seed in (0, 1)]
    specs.append(trial_spec("trades", 0, attacks=("pgd20",)))  # on Fashion-MNIST: of another data set
    return read_results(frames_of(specs, classes=CLASSES))


def test_only_the_same_data_network_threat_model_and_attack_stand_beside(results, stated):
    board = leaderboard(results)
    found = {setting: lines(board, setting, "best_validation", stated) for setting in board.settings}
    assert [len(each) for each in found.values()] == [4, 0]
    (setting, listed), _ = found.items()
    assert setting[0] == "cifar10"
    # never the table at 4/255, of the narrower network or of the long tail; no AutoAttack, which was not measured
    assert [(line.attack, line.called, line.measured) for line in listed] == [
        ("pgd20", "ham", False), ("pgd20", "trades", True), ("pgd20", "trades", False),
        ("pgd20", "trades (with AWP)", False),
    ]  # fmt: skip
    assert [line.numbers for line in listed if not line.measured] == [
        ["50.00", "29.00", "0.250"], ["51.50 ± 0.50", "30.50 ± 1.50", "–"], ["55.00", "–", "–"],
    ]  # fmt: skip
    measured = board.scores.set_index(["row", "checkpoint", "attack", "metric"])["value"]
    row = board.rows.index[(board.rows["variant"] == "trades") & (board.rows["dataset"] == "cifar10")][0]
    assert listed[1].numbers[0] == f"{100 * measured[row, 'best_validation', 'pgd20', 'average']:.2f}"


def test_what_differs_in_the_protocol_is_said(results, stated):
    board = leaderboard(results)
    ham, here, last, awp = lines(board, board.settings[0], "best_validation", stated)
    assert here.protocol == (
        "attack: 20 steps of eps/4, 1 random start, robust on every iterate; seeds: 2; checkpoint: best on held-out "
        "images; epochs: 20; training images: 12,000; test images: 2,000"
    )
    assert last.protocol == (
        "attack: 20 steps of eps/4, 1 random start, judged on the last iterate, here 20 steps of eps/4, 1 random "
        "start, robust on every iterate; seeds: 5, here 2; checkpoint: last epoch, here best on held-out images; "
        "training images: all, here 12,000; test images: all, here 2,000; not said: epochs; by its own "
        "paper; with more <data>; after a blog"
    )
    assert "attack:" not in awp.protocol
    assert "not measured here; by another paper" in ham.protocol
    assert last.name == "Doe et al., 2025: table 2, second hand"
    at_last = lines(board, board.settings[0], "last", stated)
    assert "checkpoint" not in at_last[2].protocol


def test_seeds_are_those_that_the_attack_was_run_on(stated):
    """Often one alone of the slowest attack, of a row with more."""
    cifar = {"dataset": "cifar10", "eps": 8 / 255}
    attacks = {0: ("pgd20", "aa_standard"), 1: ("pgd20",)}
    specs = [trial_spec("trades", seed, attacks=own, **cifar) for seed, own in attacks.items()]
    board = leaderboard(read_results(frames_of(specs, classes=CLASSES)))
    found = [line for line in lines(board, board.settings[0], "best_validation", stated) if line.called == "trades"]
    said = [(line.attack, line.measured, re.search("seeds: ([^;]*)", line.protocol)[1]) for line in found]
    assert said == [
        ("pgd20", True, "2"), ("pgd20", False, "5, here 2"),
        ("aa_standard", True, "1"), ("aa_standard", False, "5, here 1"),
    ]  # fmt: skip


def test_the_reports_have_them_beside_and_rank_nothing(results, stated, tmp_path):
    without = write_report(results, tmp_path / "without", Form(figures=[], html=True), published=stated)
    console = Console(width=200, record=True)
    form = Form(figures=[], html=True, published=True)
    written = write_report(results, tmp_path / "with", form, published=stated, console=console)
    assert [path.name for path in written] == ["leaderboard.md", "leaderboard.csv", "leaderboard.tex", "index.html"]
    old, new = (path.read_text() for path in (without[0], written[0]))
    assert TITLE not in old
    section = new[new.index(f"### {TITLE}") : new.index(NOTE) + len(NOTE)]
    assert new.replace(f"\n\n{section}", "") == old, "ranks and every other number are as without"
    assert "| PGD-20 | trades | 51.50 ± 0.50 | 30.50 ± 1.50 | – | [Doe et al., 2025: table 2, second hand]" in section
    assert "with more &lt;data&gt;" in section
    assert not re.search(r"\*\*|<ins>|↑|↓", section)
    assert without[1].read_text() == written[1].read_text()
    printed = console.export_text()
    assert TITLE in printed
    assert "51.50 ± 0.50" in printed
    assert "1 more methods are published that are not measured here" in printed
    page = written[3].read_text()
    assert page == without[3].read_text(), "the page has them anyway"
    assert page.count('<a href="https://example.org/code" rel="noreferrer">') == 3
    assert "with more &lt;data&gt;" in page


def test_the_figure_has_open_marks_for_them_and_the_same_front(results, stated):
    part = results.select(results.rows[results.rows["dataset"] == "cifar10"])
    alone, with_papers = (draw(part, ["average_worst"], published=each)["average_worst"] for each in (None, stated))
    assert not _open(alone)
    assert "published" not in alone.says
    assert "Open marks" in with_papers.says
    assert "(Doe et al., 2025)" in with_papers.says
    (point,) = _open(with_papers)  # not of HAM, which nobody measured, nor without a worst class
    assert (point.get_xdata()[0], point.get_ydata()[0]) == (51.5, 30.5)
    measured = next(bars for bars in with_papers.axes[0].containers if bars.get_label() == "trades")[0]
    assert (point.get_marker(), point.get_markeredgecolor()) == (measured.get_marker(), measured.get_color())
    fronts = [_front(figure) for figure in (alone, with_papers)]
    assert np.array_equal(*[front[1:-1] for front in fronts]), "but for the ends, which lie on the axes"
    assert "published" in [text.get_text() for text in with_papers.legends[0].get_texts()]


def test_where_papers_know_nothing_of_the_usual_attack_the_figure_shows_theirs(stated):
    specs = [trial_spec("trades", 0, dataset="cifar10", eps=8 / 255, attacks=("clean", "pgd20", "aa_standard"))]
    measured = read_results(frames_of(specs, classes=CLASSES))
    strong = stated[stated["attack"] == "aa_standard"].assign(worst=24.0)
    weak = stated[stated["attack"] == "pgd20_last"]
    for papers, attack in ((weak, "PGD-20"), (pd.concat([strong, weak]), "PGD-20"), (strong, "AA")):
        axis = draw(measured, ["average_worst"], published=papers)["average_worst"].axes[0]
        assert axis.get_xlabel() == f"average accuracy, {attack} (%)"


def _open(figure):
    lines = figure.axes[0].lines
    return [line for line in lines if line.get_markerfacecolor() == "none" and len(line.get_xdata())]


def _front(figure):
    (line,) = [line for line in figure.axes[0].lines if line.get_label() == "Pareto front"]
    return line.get_xydata()


def test_where_nothing_is_published_the_terminal_says_so(results, stated, tmp_path):
    part = results.select(results.rows[results.rows["dataset"] == "fashion_mnist"])
    console = Console(width=200, record=True)
    write_report(part, tmp_path, Form(figures=[], published=True), published=stated, console=console)
    assert "Nothing is published here" in console.export_text()


def test_data_of_ones_own_have_nothing_beside_them(stated):
    from harness.report.published import alike

    spec = {"dataset": {"name": "cifar10", "path": "mine"}, "student": {"name": "cnn", "params": {"width": 16}}}
    assert alike(stated, spec | {"norm": "linf", "eps": 8 / 255}, ["pgd20"]).empty
    assert alike(stated, {}, ["pgd20"]).empty


def test_the_command_knows_them(tmp_path):
    of = {"dataset": "cifar10", "student": "resnet18", "width": 64, "eps": 8 / 255, "attacks": ("aa_standard",)}
    fill_store(tmp_path / "store", [trial_spec("absld", 0, **of)], per_class=20)
    done = bench("report", "store", "--published", "--figures", "", cwd=tmp_path)
    assert "49.00 ± 0.24" in done.stdout
    assert "| AA | absld | 49.00 ± 0.24 | 31.22 ± 0.30 |" in (tmp_path / "store/report/leaderboard.md").read_text()
