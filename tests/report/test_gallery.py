"""The gallery and the published page: whole, modest in size, and what the published stores give today."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from harness.report import gallery as module
from harness.report.figures.draw import FIGURES
from harness.report.figures.registry import Example
from harness.report.gallery import command, gallery
from harness.store.store import Store
from tests.pages import ROOT, commands, lines
from tests.synthetic_store import fill_store, trial_spec

DOCS = ROOT / "docs"
TEXT = (DOCS / "gallery.md").read_text("utf-8")
EXAMPLES = {name: info.example for name, info in FIGURES.items() if info.example}


@pytest.mark.parametrize("name", sorted(path.parent.name for path in (ROOT / "results").glob("*/trials")))
def test_published_stores_are_whole_also_for_later_versions(name):
    """They were written when `trials` had fewer columns; what nobody wrote then is null now."""
    store = Store(ROOT / "results" / name)
    trials = store.trials()
    assert len(trials)
    assert (trials["status"] == "done").all()
    assert store.problems == []


def test_every_figure_with_an_example_is_in_the_gallery():
    assert len(EXAMPLES) >= 10
    assert re.findall(r"^`(\w+)`", TEXT, re.MULTILINE) == list(EXAMPLES), (
        "an example was registered: write docs/gallery.md with `python -m harness.report.gallery`"
    )
    for name in EXAMPLES:
        assert f"## {FIGURES[name].question}\n" in TEXT


def test_every_picture_is_there_and_together_they_are_modest():
    linked = re.findall(r"!\[[^\]]+\]\((gallery/[^)]+)\)", TEXT)
    assert {DOCS / name for name in linked} == set((DOCS / "gallery").iterdir())
    assert len(linked) == len(EXAMPLES)
    assert sum((DOCS / name).stat().st_size for name in linked) < 1_500_000


def test_its_commands_are_commands():
    names = {name: f"{name}:{example.quantity}" if example.quantity else name for name, example in EXAMPLES.items()}
    assert lines("docs/gallery.md") == [command(names[name], example) for name, example in EXAMPLES.items()]
    for _, store, *_ in commands("docs/gallery.md"):
        assert (ROOT / store / "trials").is_dir() or f"{store} is not published yet" in TEXT.replace("\\", "")


def test_the_readme_begins_with_a_picture_of_the_gallery_its_caption_and_its_command():
    readme = (ROOT / "README.md").read_text("utf-8")
    first = re.search(r"!\[[^\]]+\]\(([^)]+)\)", readme)
    assert first
    kind = Path(first.group(1)).stem
    assert first.group(1) == f"docs/gallery/{kind}.png"
    caption = re.search(rf"^`{kind}`: .*? eps [\d./]+\. (.*)$", TEXT, re.MULTILINE)
    assert caption
    assert caption.group(1) in readme
    assert command(kind, EXAMPLES[kind]) in readme


def test_a_store_that_comes_later_drops_in(tmp_path, monkeypatch):
    """Before there is a tuning run its figure has a place and a reason, and then the same command draws it."""
    info = replace(FIGURES["hyperparameter_response"], example=Example("tuned"))
    monkeypatch.setattr(module, "FIGURES", {"hyperparameter_response": info})
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
    page = ROOT / "results" / "fashion_mnist_small" / "report" / "index.html"
    assert 50_000 < page.stat().st_size < 3_000_000
    for place in (ROOT / "README.md", ROOT / "results" / "README.md"):
        links = re.findall(r"\]\(([^)#]+)\)", place.read_text("utf-8"))
        local = {(place.parent / link).resolve() for link in links if "://" not in link}
        assert page in local, place
        assert all(path.exists() for path in local), [path for path in local if not path.exists()]
