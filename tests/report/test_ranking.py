"""The order of a leaderboard and its ranks, against comparisons made here a second time."""

from __future__ import annotations

import itertools
import re

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from harness.cli.main import app
from harness.errors import InputError
from harness.report.captions import order
from harness.report.results import read_results
from harness.report.scores.leaderboard import Leaderboard, leaderboard
from harness.report.tables import tables
from harness.report.tables.grid import grid
from harness.statistics.comparison import compare
from harness.statistics.metrics import gini, nsd, selection_score, worst
from harness.statistics.multiple_comparisons import compare_family
from tests.synthetic_store import fill_store, frames_of, teacher_spec, trial_spec

VARIANTS = ("at", "natural", "rslad", "absld", "trades")
TEACHER = teacher_spec()


@pytest.fixture(scope="module")
def frames():
    return frames_of([TEACHER, *[trial_spec(name, seed) for name in VARIANTS for seed in range(3)]])


def ranking(board: Leaderboard, checkpoint: str = "best_validation"):
    return board.ranking(board.settings[0], checkpoint)


def named(board: Leaderboard, values: dict[int, float]) -> dict[str, float]:
    return {board.rows.loc[row, "variant"]: value for row, value in values.items()}


def accuracies(frames, attack: str) -> dict[str, np.ndarray]:
    """(seeds, classes) by variant."""
    found = frames.tables["class_accuracy"].query(f"attack == '{attack}' and checkpoint == 'best_validation'")
    return {
        name: found[found["variant"] == name].pivot_table(
            index="seed", columns="class_index", values="accuracy", observed=True
        ).to_numpy()
        for name in VARIANTS
    }  # fmt: skip


def paired(frames, attack: str, first: str, second: str):
    found = frames.tables["outcomes"].query(f"attack == '{attack}' and checkpoint == 'best_validation'")
    found = found.merge(frames.tables["trials"][["trial_id", "variant", "seed"]])
    wide = {
        name: found[found["variant"] == name].pivot_table(
            index="seed", columns=["sample_index", "label"], values="robust", observed=True
        ) for name in (first, second)
    }  # fmt: skip
    labels = wide[first].columns.get_level_values("label").to_numpy()
    return compare(labels, wide[first].to_numpy() > 0.5, wide[second].to_numpy() > 0.5, 10)


def test_rows_are_ordered_by_average_and_worst_class_under_the_strongest_attack(frames):
    board = leaderboard(read_results(frames))
    found, values = (
        ranking(board),
        {name: selection_score(a).mean() for name, a in accuracies(frames, "aa_short").items()},
    )
    assert (found.attack, found.seeds, found.comparisons) == ("aa_short", (0, 1, 2), 10)
    assert {name: value for name, value in named(board, found.values).items() if name != "teacher"} == pytest.approx(
        values
    )
    names = [board.rows.loc[row, "variant"] for row in found.order]
    assert names == [*sorted(VARIANTS, key=lambda name: -values[name]), "teacher"]


@pytest.mark.parametrize(
    ("column", "of", "up"), [("score", selection_score, True), ("worst", worst, True), ("nsd", nsd, False)]
)
def test_a_rank_counts_the_rows_that_stand_above_over_seeds_and_test_samples(frames, column, of, up):
    values = {name: of(accuracy) for name, accuracy in accuracies(frames, "pgd20").items()}
    pairs = list(itertools.combinations(range(len(VARIANTS)), 2))
    layout = np.stack([values[name] for name in VARIANTS], axis=1)[:, :, None]
    p = compare_family(layout, pairs).p[:, 0]
    above = dict.fromkeys(VARIANTS, 1)
    for place, (first, second) in enumerate(pairs):
        found = paired(frames, "pgd20", VARIANTS[first], VARIANTS[second])
        parts = [found.average, found.worst] if column == "score" else [getattr(found, column)]
        low, high = (np.mean([getattr(part.samples, end) for part in parts]) for end in ("low", "high"))
        change = (values[VARIANTS[first]] - values[VARIANTS[second]]).mean()
        if p[place] < 0.05 and ((low > 0 and change > 0) or (high < 0 and change < 0)):
            above[VARIANTS[second if (change > 0) == up else first]] += 1
    board = leaderboard(read_results(frames), rank=f"pgd20:{column}")
    assert named(board, ranking(board).ranks) == above
    assert len(set(above.values())) > 1


def test_below_three_seeds_there_is_an_order_and_no_rank():
    board = leaderboard(read_results(frames_of([trial_spec(name, seed) for name in VARIANTS for seed in (0, 1)])))
    found = ranking(board)
    assert found.ranks == {}
    values = [found.values[row] for row in found.order]
    assert values == sorted(values, reverse=True)
    assert order(board, board.settings[0], "best_validation") == [
        "Ordered by (average + worst class)/2 under AA (short); no ranks: no two rows share 3 seeds."
    ]
    assert "| variant | Score |" in tables.markdown(board)


def test_a_metric_without_intervals_orders_and_does_not_rank(frames):
    board = leaderboard(read_results(frames), rank="gini")
    values = {name: gini(accuracy).mean() for name, accuracy in accuracies(frames, "aa_short").items()}
    assert [board.rows.loc[row, "variant"] for row in ranking(board).order][:-1] == sorted(
        values, key=values.__getitem__
    )
    assert order(board, board.settings[0], "best_validation")[0].endswith(
        "no ranks: differences of Gini have no interval over test samples."
    )
    assert "| variant | Gini |" in tables.markdown(board)


def test_equal_rows_share_the_first_rank():
    """Five copies of one method: what seeds alone do to them makes no order."""
    names = [f"absld {place}" for place in range(5)]
    specs = [trial_spec(name, seed, settings={"alpha": place}) for place, name in enumerate(names) for seed in range(3)]
    assert set(ranking(leaderboard(read_results(frames_of(specs)))).ranks.values()) == {1}


def test_few_tables_of_equal_rows_have_a_false_rank():
    """As docs/statistics.md has it for six rows and three seeds."""
    random, pairs = np.random.default_rng(0), list(itertools.combinations(range(6), 2))
    values = random.normal(size=(2000, 3, 6, 1)) + random.normal(size=(2000, 3, 1, 1))
    assert 0.02 < (compare_family(values, pairs).p < 0.05).any(axis=(-2, -1)).mean() < 0.05


def test_the_strongest_attack_is_one_that_all_rows_have():
    attacks = {"at": ("clean", "pgd20"), "rslad": ("clean", "pgd20", "aa_short"), "absld": ("clean", "pgd20")}
    specs = [trial_spec(name, seed, attacks=own) for name, own in attacks.items() for seed in range(3)]
    board = leaderboard(read_results(frames_of(specs)))
    assert ranking(board).attack == "pgd20"
    assert len(ranking(board).ranks) == 3


def test_an_attack_on_one_seed_orders_no_table_of_three():
    attacks = {0: ("clean", "pgd20", "aa_short", "aa_standard"), 1: (few := ("clean", "pgd20", "aa_short")), 2: few}
    specs = [trial_spec(name, seed, attacks=own) for name in ("at", "rslad", "absld") for seed, own in attacks.items()]
    found = ranking(leaderboard(read_results(frames_of(specs))))
    assert (found.attack, found.seeds, len(found.ranks)) == ("aa_short", (0, 1, 2), 3)
    assert ranking(leaderboard(read_results(frames_of(specs[::3])))).attack == "aa_standard", "there is one seed only"


def test_a_row_over_other_seeds_has_a_place_and_no_rank():
    specs = [trial_spec(name, seed) for name in ("at", "rslad", "trades") for seed in (0, 1, 2)]
    board = leaderboard(read_results(frames_of([*specs, trial_spec("absld", 7)])))
    table = grid(board, board.settings[0], "best_validation")
    assert {line.name: table.rank(line) for line in table.lines}["absld"] == "–"
    assert table.lines[-1].name == "absld", "it cannot be placed among ranked ones"


def test_given_networks_and_teachers_stand_apart(frames):
    given = frames_of([trial_spec("mine", 0, role="evaluation")])
    accuracy = given.tables["class_accuracy"].query("checkpoint == 'last'").astype({"checkpoint": str})
    given.tables["class_accuracy"] = accuracy.assign(checkpoint="given")
    both = type(frames)({name: pd.concat([frames.tables[name], given.tables[name]]) for name in frames.tables})
    board = leaderboard(read_results(both))
    table = grid(board, board.settings[0], "best_validation")
    assert [line.role for line in table.lines] == [*["student"] * 5, "evaluation", "teacher"]
    assert [table.rank(line) for line in table.lines[-2:]] == ["", ""]
    alone = leaderboard(read_results(given))
    assert order(alone, alone.settings[0], "best_validation") == []


@pytest.mark.parametrize(
    ("rank", "message"),
    [
        ("wrst", "--rank wrst: unknown metric 'wrst': did you mean worst"),
        ("pgd21:worst", "unknown attack of --rank 'pgd21': did you mean pgd20"),
        ("overall", "--rank overall: Overall does not follow from the classes of one network alone"),
        ("pgd20", "--rank pgd20: unknown metric 'pgd20'"),
    ],
)
def test_an_unknown_column_is_refused_before_anything_is_written(tmp_path, rank, message):
    fill_store(tmp_path / "store", [trial_spec(name, 0) for name in ("at", "rslad")], per_class=20, absent=["outcomes"])
    done = CliRunner().invoke(app, ["report", str(tmp_path / "store"), "--rank", rank, "--figures", "nsd"])
    with pytest.raises(InputError, match=re.escape(message)):
        raise done.exception
    assert not (tmp_path / "store" / "report").exists()


def test_the_command_orders_by_the_column_that_is_named(tmp_path):
    fill_store(tmp_path / "store", [trial_spec(name, 0) for name in VARIANTS], per_class=20, absent=["outcomes"])
    done = CliRunner().invoke(app, ["report", str(tmp_path / "store"), "--rank", "clean:nsd", "--figures", ""])
    assert done.exit_code == 0, done.output
    assert "Ordered by NSD under Clean; no ranks" in done.stdout
    text = (tmp_path / "store" / "report" / "leaderboard.md").read_text()
    lines = [line.split(" | ") for line in text.split("### ")[0].splitlines() if re.match(r"\| \w+ \| [*<\d]", line)]
    values = [float(re.search(r"\d\.\d+", line[3])[0]) for line in lines]
    assert len(values) == 5
    assert values == sorted(values)
