"""Every code block of the documents runs as printed, with a tiny budget where it trains; what nobody runs is on one
list, with the reason. A room's tests run the blocks about it: they read them with `blocks` or `runnable`."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from typer.main import get_command

from harness.cli.main import CommandLineError, app
from harness.data.registry import DEBIAN_FASHION_MNIST
from harness.models.build import build
from harness.suites.suite import load_suite
from harness.tuning.options import read_options
from tests.command import bench
from tests.own_code import forgotten_afterwards, page_examples
from tests.pages import NOT_RUN, PAGES, ROOT, blocks, commands, languages, lines, mentioned, runnable
from tests.small import SUITE

NOT_READ = {("docs/networks.md", "python"): "needs RobustBench"}
NO_CODE = {"": "a drawing of folders", "bibtex": "a reference"}

TINY = [
    "training.epochs=1", "training.milestones=[]", "dataset.train_images=100", "dataset.test_images=40",
    "training.attack_steps=1", "training.validation_steps=1", "evaluation={attacks: [clean, pgd20]}", "primary=[]",
]  # fmt: skip
SETS = [word for each in TINY for word in ("--set", each)]
BUDGETS = {
    "run": [*SETS, "--serial"],
    "status": SETS,
    "report": SETS,
    "tune": ["--dry-run"],
    "evaluate": ["--dataset", "digits", "--images", "10", "--param", "width=4", "--serial"],
}
needs_fashion_mnist = pytest.mark.skipif(
    not DEBIAN_FASHION_MNIST.exists(), reason="needs Debian's dataset-fashion-mnist"
)


def read_in_tests(call: str) -> set[tuple[str, ...]]:
    """What the tests hand to a function of `tests.pages`."""
    texts = [path.read_text("utf-8") for path in (ROOT / "tests").rglob("*.py")]
    return {tuple(re.findall(r'"([^"]+)"', given)) for text in texts for given in re.findall(call, text)}


def test_every_block_is_run_or_on_the_list():
    whole = read_in_tests(r'\bblocks\(("[\w/.-]+", "\w+")\)')
    run = {*RUN_IN_ORDER, *(page for (page,) in read_in_tests(r'\brunnable\(("[\w/.-]+")\)'))}
    assert not whole & NOT_READ.keys()
    for page in PAGES:
        unread = {language for language in languages(page) if (page, language) not in {*whole, *NOT_READ}}
        assert unread <= {"bash", *NO_CODE}, f"{page}: no test reads its blocks in {unread}"
        for line in lines(page):
            known = line.startswith("run-bench ") and page in run
            listed = line.startswith(tuple(NOT_RUN))
            assert known or listed or (page, "bash") in whole, f"{page}: who runs `{line}`, or why does nobody?"
    for beginning in NOT_RUN:
        assert any(line.startswith(beginning) for page in PAGES for line in lines(page)), f"`{beginning}` has gone"


@pytest.mark.parametrize("page", PAGES)
def test_every_command_of_a_page_is_one_with_options_that_it_takes(page):
    known = get_command(app).commands
    for name, *words in commands(page):
        known[name].make_context(name, words)
    for name, *words in mentioned(page):  # in a sentence, which may leave out what a command must have
        try:
            known[name].make_context(name, [word for word in words if word != "..."])
        except CommandLineError as error:
            if not error.format_message().startswith("Missing "):
                raise


def test_the_tune_block_of_the_page_is_one_of_a_suite(tmp_path):
    (block,) = blocks("docs/tuning.md", "yaml")
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump({**SUITE, "training": {"epochs": 20}}) + block)
    options = read_options(load_suite(str(tmp_path / "mine.yaml")), {})
    assert (options.methods, options.trials, options.epochs) == (["at", "rslad", "absld"], 4, 10)


# What runs in order, page by page


def with_results(folder: Path) -> None:
    shutil.copytree(ROOT / "results", folder / "results", ignore=shutil.ignore_patterns("runs"))


def with_plugins(folder: Path) -> None:
    (suite,) = blocks("docs/plugins.md", "yaml")
    (folder / "mine.py").write_text(page_examples())
    (folder / "suite.yaml").write_text(yaml.safe_dump(SUITE) + suite)


def with_a_method(folder: Path) -> None:
    (folder / "mine.py").write_text(blocks("docs/add-a-method.md", "python")[0])


def with_a_network(folder: Path) -> None:
    network = build("resnet18", {"width": 4}, in_channels=1, num_classes=10, image_size=8)
    for name in ("my_resnet18.pt", "net.pt"):
        torch.save(network.state_dict(), folder / name)


RUN_IN_ORDER: dict[str, list[Callable[[Path], None]]] = {
    "README.md": [with_results, with_a_network],
    "docs/add-a-method.md": [with_a_method],
    "docs/gallery.md": [with_results],
    "docs/plugins.md": [with_plugins],
    "docs/published.md": [with_results, with_a_network],
    "docs/tuning.md": [],
}


def with_a_tiny_budget(words: list[str]) -> list[str]:
    """Later options win over those that a command is printed with; what is published is reported as it is."""
    published = words[1].startswith("results/")
    drawn = ["--figures", ""] if words[0] == "report" and published and "--figures" not in words else []
    return [*words, *drawn] if published or "--dry-run" in words else [*words, *BUDGETS.get(words[0], [])]


@pytest.mark.slow
@needs_fashion_mnist
@pytest.mark.parametrize("page", RUN_IN_ORDER)
def test_the_commands_run_in_order(page, tmp_path):
    for prepare in RUN_IN_ORDER[page]:
        prepare(tmp_path)
    typed = runnable(page)
    assert len(typed) >= 2
    for words in typed:
        given = ["results/fashion_mnist_small" if word == "STORE" else word for word in words]
        with forgotten_afterwards():
            bench(*with_a_tiny_budget(given), cwd=tmp_path)
    if page == "README.md":
        assert (tmp_path / "results" / "runs" / "fashion_mnist" / "report" / "index.html").is_file()


@pytest.mark.slow
@needs_fashion_mnist
def test_the_suite_and_the_python_of_the_readme_run(tmp_path):
    (suite,) = blocks("README.md", "yaml")
    assert len(yaml.safe_load(suite)["methods"]) >= 3
    (tmp_path / "mine.yaml").write_text(suite)
    bench(*with_a_tiny_budget(["run", "mine.yaml", "--seeds", "0"]), cwd=tmp_path)
    (code,) = blocks("README.md", "python")
    short = code.replace('run_suite("quickstart",', f'run_suite("quickstart", overrides={TINY},')
    assert short != code
    guarded = "if __name__ == '__main__':\n" + "".join(f"    {line}\n" for line in short.splitlines())
    (tmp_path / "mine.py").write_text(guarded + "    assert len(store.read('trials')) == 3\n")
    subprocess.run([sys.executable, "mine.py"], cwd=tmp_path, check=True, env=os.environ | {"PYTHONPATH": str(ROOT)})
