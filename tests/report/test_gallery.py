"""The gallery and the published page: whole, modest in size, and what the published stores give today."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import typer.main

from harness.cli.commands import app
from harness.report.figures import gallery as module
from harness.report.figures.draw import FIGURES
from harness.report.figures.gallery import ENTRIES, Entry, gallery
from harness.store.store import Store
from tests.synthetic_store import fill_store, trial_spec

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
TEXT = (DOCS / "gallery.md").read_text("utf-8")


@pytest.mark.parametrize("name", sorted(path.parent.name for path in (ROOT / "results").glob("*/trials")))
def test_published_stores_are_whole_also_for_later_versions(name):
    """They were written when `trials` had fewer columns; what nobody wrote then is null now."""
    store = Store(ROOT / "results" / name)
    trials = store.trials()
    assert len(trials) >= 8
    assert (trials["status"] == "done").all()
    assert store.problems == []


def test_every_figure_of_the_harness_is_in_the_gallery():
    assert sorted(entry.figure for entry in ENTRIES) == sorted(FIGURES)
    assert set(re.findall(r"^`(\w+)`", TEXT, re.MULTILINE)) == set(FIGURES)


def test_every_picture_is_there_and_together_they_are_modest():
    linked = re.findall(r"!\[[^\]]+\]\((gallery/[^)]+)\)", TEXT)
    assert {DOCS / name for name in linked} == set((DOCS / "gallery").iterdir())
    assert len(linked) >= len(FIGURES) - 2, "two wait for a tuning run"
    assert sum((DOCS / name).stat().st_size for name in linked) < 1_500_000


def test_its_commands_are_commands():
    options = {name for parameter in typer.main.get_command(app).commands["report"].params for name in parameter.opts}
    commands = re.findall(r"^run-bench report .*$", TEXT, re.MULTILINE)
    assert commands == [entry.command for entry in ENTRIES]
    for command in commands:
        words = shlex.split(command)
        assert {word for word in words if word.startswith("--")} <= options
        assert (ROOT / words[2] / "trials").is_dir() or f"{words[2]} is not published yet" in TEXT.replace("\\", "")


def test_a_store_that_comes_later_drops_in(tmp_path, monkeypatch):
    """Before there is a tuning run its figure has a place and a reason, and then the same command draws it."""
    monkeypatch.setattr(module, "ENTRIES", (Entry("hyperparameter_response", "tuned", "How much does it matter?"),))
    assert [path.name for path in gallery(tmp_path, tmp_path)] == ["gallery.md"]
    assert "not drawn here, results/tuned is not published yet" in (tmp_path / "gallery.md").read_text()
    rates = [trial_spec(f"absld-{rate}", 0, settings={"temperature_rate": rate}, epochs=4) for rate in (0.1, 0.3, 1.0)]
    fill_store(tmp_path / "tuned", rates, per_class=20)
    assert [path.name for path in gallery(tmp_path, tmp_path)] == ["gallery.md", "hyperparameter_response.png"]
    assert "](gallery/hyperparameter_response.png)" in (tmp_path / "gallery.md").read_text()


@pytest.mark.slow
def test_the_gallery_is_what_the_published_results_give(tmp_path):
    gallery(ROOT / "results", tmp_path)
    assert (tmp_path / "gallery.md").read_text("utf-8") == TEXT
    assert {path.name for path in (tmp_path / "gallery").iterdir()} == {
        path.name for path in (DOCS / "gallery").iterdir()
    }


def test_the_published_page_stands_and_is_linked():
    page = ROOT / "results" / "fashion_mnist_matrix" / "report" / "index.html"
    assert 50_000 < page.stat().st_size < 3_000_000
    for place in (ROOT / "README.md", ROOT / "results" / "README.md"):
        links = re.findall(r"\]\(([^)#]+)\)", place.read_text("utf-8"))
        local = {(place.parent / link).resolve() for link in links if "://" not in link}
        assert page in local, place
        assert all(path.exists() for path in local), [path for path in local if not path.exists()]
