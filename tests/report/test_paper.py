"""What a paper takes from a report without editing: its rows, so ordered and called, one table for two settings."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

from harness.cli.main import app
from harness.errors import InputError
from harness.report.results import read_results
from harness.report.scores.leaderboard import leaderboard
from harness.report.tables.latex import Paper, latex
from harness.store.several import Stores
from harness.store.store import Store
from tests.command import bench
from tests.pages import runnable
from tests.synthetic_store import failed_row, fill_store, frames_of, teacher_spec, trial_spec


@pytest.fixture(scope="module")
def stores(tmp_path_factory) -> tuple[Path, Path]:
    """One store for each eps."""
    roots = (tmp_path_factory.mktemp("small") / "store", tmp_path_factory.mktemp("large") / "store")
    for root, eps in zip(roots, (4 / 255, 8 / 255), strict=True):
        teacher = teacher_spec(eps=eps)
        specs = [trial_spec(name, seed, eps=eps) for name in ("absld", "at", "rslad") for seed in range(3)]
        fill_store(root, [teacher, *specs], per_class=20, absent=["outcomes", "class_state"])
    return roots


def report(stores, into: Path, *options: str):
    done = CliRunner().invoke(app, ["report", *map(str, stores), "--into", str(into), "--figures", "", *options])
    if isinstance(done.exception, InputError):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done


def rows(text: str) -> list[str]:
    """The first cells of the lines of a LaTeX table's body."""
    return [line.split(" & ")[0] for line in text.split("\\midrule")[1].splitlines() if " & " in line]


def test_rows_are_named_and_ordered_as_asked(stores, tmp_path):
    report(stores[:1], tmp_path, "--variants", "rslad=RSLAD,absld=ABSLD (ours)", "--baseline", "rslad")
    text = (tmp_path / "leaderboard.tex").read_text()
    assert rows(text) == ["RSLAD", "ABSLD (ours)"]
    assert "Against RSLAD: " in text
    lines = [line for line in (tmp_path / "leaderboard.md").read_text().splitlines() if re.match(r"\| \d ", line)]
    assert [line.split(" | ")[1] for line in lines] == ["RSLAD", "ABSLD (ours)"], "whatever their ranks"
    assert "Ranked by (average + worst class)/2" in (tmp_path / "leaderboard.md").read_text()


def test_a_teacher_has_a_row_only_if_it_is_asked_for(stores, tmp_path):
    report(stores[:1], tmp_path)
    assert rows((tmp_path / "leaderboard.tex").read_text()) == ["absld", "rslad", "at"]
    assert "teacher" in (tmp_path / "leaderboard.md").read_text()
    report(stores[:1], tmp_path, "--variants", "absld,teacher=WRN")
    text = (tmp_path / "leaderboard.tex").read_text()
    assert "\nWRN & " in text
    assert rows(text) == ["absld"], "teachers below a line of their own"


def test_two_teachers_of_one_name_are_told_apart_by_their_networks():
    teachers = [trial_spec("teacher", 0, role="teacher", width=width, eps=0.1, peeked=False) for width in (32, 64)]
    frames = frames_of([*teachers, *[trial_spec(name, 0) for name in ("at", "absld")]])
    accuracy = frames.tables["class_accuracy"]
    wide = accuracy["trial_id"].astype(str) == teachers[1].trial_id
    accuracy.loc[wide, "correct"] = accuracy.loc[wide, "n"]
    board = leaderboard(read_results(frames, titles={"teacher": "Mine"}))
    lines = [line.split(" & ") for line in latex(board, paper=Paper(teachers=True)).splitlines() if "Mine" in line]
    assert [line[0] for line in lines] == [f"Mine (teacher, cnn(width={width}))" for width in (64, 32)]
    assert [float(line[1]) == 100 for line in lines] == [True, False], "each with its own numbers, the better above"


def test_two_eps_stand_side_by_side_in_one_table(stores, tmp_path):
    options = ("--side-by-side", "eps", "--columns", "aa_short,pgd20", "--captions", "short")
    report(stores, tmp_path, *options, "--variants", "at=AT,rslad=RSLAD,absld=ABSLD")
    text = (tmp_path / "leaderboard.tex").read_text()
    assert text.count("\\begin{table*}") == text.count("\\begin{tabular}") == 1
    groups, attacks, heads = (line for line in text.splitlines() if line.startswith(" & \\multi") or "Method &" in line)
    assert re.findall(r"multicolumn\{(\d)\}\{c\}\{(.*?)\}", groups) == [("6", "eps 4/255"), ("6", "eps 8/255")]
    assert re.findall(r"\{c\}\{(.*?)\}", attacks) == ["AA (short)", "PGD-20"] * 2
    assert heads == "Method & " + " & ".join(["Avg.", "Worst", "NSD"] * 4) + r" \\"
    assert rows(text) == ["AT", "RSLAD", "ABSLD"]
    board = leaderboard(read_results(Store(stores[1])))
    row = board.rows.index[board.rows["variant"] == "rslad"][0]
    found = board.scores.query(f"row == {row} and attack == 'pgd20' and checkpoint == 'best_validation'")
    worst = found[found["metric"] == "worst"]["value"].iloc[0]
    cell = next(line for line in text.splitlines() if line.startswith("RSLAD")).split(" & ")[11]
    assert f"{100 * worst:.2f}" in cell
    caption = re.search(r"\\caption\{(.*)\}", text)[1]
    assert caption.count("Mean over seeds 0, 1, 2.") == caption.count("Best student in bold") == 1
    assert "Trained for" not in caption


def test_the_command_of_the_page_makes_one_table(stores, tmp_path):
    (report, _, _, *options), _ = runnable("docs/results.md")
    bench(report, *map(str, stores), *options, "--figures", "", cwd=tmp_path)
    text = (tmp_path / "paper" / "leaderboard.tex").read_text()
    assert text.count("\\begin{table}[t]") == 1
    assert [name for name in rows(text) if name not in ("", "Method")] == ["RSLAD", "ABSLD (ours)"]


def test_a_full_caption_says_once_what_holds_for_both(stores, tmp_path):
    report(stores, tmp_path, "--side-by-side", "eps")
    caption = re.search(r"\\caption\{(.*)\}", (tmp_path / "leaderboard.tex").read_text())[1]
    for sentence in ("Trained for 20 epochs", "Mean over seeds 0, 1, 2.", "NSD: population"):
        assert caption.count(sentence) == 1
    assert "L-inf eps 4/255." in caption
    assert "L-inf eps 8/255." in caption
    assert "Ordered by" not in caption, "its ranks are not in the table"


def test_what_is_one_eps_s_own_is_told_behind_its_name_in_a_short_caption_too():
    """Seeds, marks, and what is missing of a method at either eps."""
    tenth = [trial_spec(name, seed, eps=0.1) for name in ("at", "absld") for seed in range(3)]
    fifth = [trial_spec(name, seed, eps=0.05) for name in ("at", "absld") for seed in range(4, 8)]
    frames = frames_of([*tenth[:-1], *fifth[:-1]])
    failed = [failed_row(tenth[-1]), failed_row(fifth[-1], "RuntimeError: out of memory")]
    trials = frames.tables["trials"]
    extra = pd.DataFrame(failed, dtype=object).reindex(columns=trials.columns)
    frames.tables["trials"] = pd.concat([trials.astype(object), extra], ignore_index=True)
    text = latex(leaderboard(read_results(frames)), paper=Paper(side_by_side="eps", captions="short"))
    caption = re.search(r"\\caption\{(.*)\}", text)[1]
    small, large = caption.split("L-inf eps 0.05.")[1].split("L-inf eps 0.1.")
    assert "over seeds 4, 5, 6" in small
    assert "over seeds 0, 1" in large
    assert "eps 0.05, absld: seed 7 failed (RuntimeError: out of memory" in caption
    assert "eps 0.1, absld: seed 2 failed (RuntimeError: loss is nan" in caption


def test_settings_that_differ_otherwise_have_tables_of_their_own(stores, tmp_path):
    report(stores, tmp_path, "--side-by-side", "dataset")
    assert (tmp_path / "leaderboard.tex").read_text().count("\\begin{table*}") == 2


def test_a_table_of_column_width_has_few_columns_side_by_side(stores, tmp_path):
    report(stores[:1], tmp_path, "--width", "column", "--columns", "clean,pgd20,aa_short")
    text = (tmp_path / "leaderboard.tex").read_text()
    assert text.count("\\begin{table}[t]") == 1
    assert text.count("\\begin{tabular}") == 2, "two attacks beside each other, one below"


def test_columns_are_those_attacks_everywhere(stores, tmp_path):
    done = report(stores[:1], tmp_path, "--columns", "pgd20,clean")
    head = next(line for line in (tmp_path / "leaderboard.md").read_text().splitlines() if "variant |" in line)
    assert re.findall(r"\| ([\w()\- ]+) Avg\.", head) == ["PGD-20", "Clean"]
    assert "under PGD-20. Rank" in " ".join(done.stdout.split()), "the strongest of them"
    assert "FGSM" not in done.stdout


def test_several_stores_are_read_as_one(stores):
    both = Stores([Store(root) for root in (*stores, stores[0])])
    alone = [Store(root) for root in stores]
    assert both.statuses() == {key: status for store in alone for key, status in store.statuses().items()}
    assert len(both.read("class_accuracy")) == sum(len(store.read("class_accuracy")) for store in alone)
    ids = [min(store.statuses()) for store in alone]
    assert set(both.read("epochs", ids, ["epoch"])["trial_id"]) <= set(ids)
    assert str(both.read("class_accuracy")["attack"].dtype) == "category"
    board = leaderboard(read_results(both))
    assert [setting[2] for setting in board.settings] == [4 / 255, 8 / 255]


def test_a_finished_trial_comes_before_one_that_failed(tmp_path):
    from tests.synthetic_store import failed_row

    spec = trial_spec("at", 0)
    failed = Store(tmp_path / "failed")
    failed.commit(failed_row(spec))
    done = fill_store(tmp_path / "done", [spec], per_class=20)
    for order in ([failed, done], [done, failed]):
        found = Stores(order)
        assert found.statuses() == {spec.trial_id: "done"}
        assert list(found.trials()["status"]) == ["done"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--variants", "rsald=RSLAD"), "unknown method or variant 'rsald': did you mean rslad"),
        (("--variants", "rslad", "--methods", "rslad"), "--variants names the rows, as --methods does"),
        (("--columns", "pgd21"), "unknown attack of --columns 'pgd21': did you mean pgd20"),
        (("--side-by-side", "seed"), "unknown name to stand --side-by-side 'seed'"),
        (("--captions", "none"), "unknown kind of captions 'none': allowed: full, short"),
    ],
)
def test_what_cannot_be_drawn_is_refused(stores, tmp_path, options, message):
    with pytest.raises(InputError, match=re.escape(message)):
        report(stores[:1], tmp_path / "report", *options)
    assert not (tmp_path / "report").exists()


def test_several_stores_need_a_folder_and_must_be_stores(stores, tmp_path):
    done = CliRunner().invoke(app, ["report", *map(str, stores), "--figures", ""])
    assert "needs --into FOLDER" in str(done.exception)
    with pytest.raises(InputError, match="must be directories of result stores"):
        report((stores[0], "digits"), tmp_path / "report")


def test_one_title_is_not_for_several_variants():
    specs = [trial_spec("absld-a", 0, settings={"alpha": 1}), trial_spec("absld-b", 0, settings={"alpha": 2})]
    with pytest.raises(InputError, match="the title 'Ours' is for absld, of which there are several variants: absld-a"):
        read_results(frames_of(specs), titles={"absld": "Ours"})


@pytest.mark.slow
def test_a_document_with_such_tables_compiles_without_overfull_lines(stores, tmp_path):
    if not shutil.which("pdflatex") and "CI" not in os.environ:
        pytest.skip("pdflatex is not installed")
    board = leaderboard(read_results(Stores([Store(root) for root in stores])))
    papers = [
        Paper(side_by_side="eps", captions="short"),
        Paper(width="column"),
        Paper(width="column", side_by_side="eps"),
        Paper("seeds", width="column"),
        Paper("samples", "brackets", "column"),
        Paper("seeds", side_by_side="eps"),
    ]
    for place, paper in enumerate(papers):
        (tmp_path / f"{place}.tex").write_text(latex(board, paper=paper))
    inputs = "".join(f"\\input{{{place}}}\\clearpage\n" for place in range(len(papers)))
    (tmp_path / "paper.tex").write_text(
        "\\documentclass[twocolumn]{article}\n\\usepackage[margin=0.75in]{geometry}\n\\usepackage{booktabs}\n"
        f"\\begin{{document}}\n{inputs}\\end{{document}}\n"
    )
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "paper.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, errors="replace")
    assert done.returncode == 0, done.stdout[-2000:]
    assert "Overfull" not in done.stdout, done.stdout
