"""Students of several teachers that differ in their seed: one row, averages over the same teachers, and the spread
between them."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from harness.report.captions import CROSSED, caption
from harness.report.figures.data import variant_scores
from harness.report.page.data import page_data
from harness.report.page.page import page
from harness.report.results import Results, read_results
from harness.report.rows import NETWORK
from harness.report.scores.counts import class_counts
from harness.report.scores.differences import Outcomes, class_differences, comparisons, paired_lines, stands
from harness.report.scores.leaderboard import Leaderboard, leaderboard
from harness.report.scores.seeds import common_networks
from harness.report.tables.tables import csv_text, markdown
from harness.spec import Source, TrialSpec
from harness.statistics import metrics
from harness.statistics.comparison import compare
from harness.statistics.intervals import crossed_interval, seed_interval
from harness.statistics.metrics import Floats
from harness.statistics.multiple_comparisons import compare_family
from tests.synthetic_store import Frames, frames_of, trial_spec

TAUGHT = ("rslad", "absld")
CELL = ("best_validation", "pgd20")
METRICS = {"average": metrics.average, "worst": metrics.worst, "nsd": metrics.nsd}


def teacher(seed: int, epochs: int = 20) -> TrialSpec:
    spec = trial_spec("at", seed, role="teacher", attacks=("clean", "pgd20"), width=32, epochs=epochs)
    return spec.model_copy(update={"variant": "teacher"})


def student(variant: str, seed: int, taught: int | TrialSpec) -> TrialSpec:
    spec = trial_spec(variant, seed, attacks=("clean", "pgd20"))
    source = teacher(taught) if isinstance(taught, int) else taught
    made = Source(network=source.student, trial=source.trial_id, training=source.training_id, seed=source.seed)
    return spec.model_copy(update={"teachers": {"teacher": made}})


def store(layout: Iterable[tuple[int, int]], variants: Sequence[str] = TAUGHT) -> Frames:
    """A store with `at`, which has no teacher, and students from each (seed, teacher)."""
    layout = list(layout)
    teachers = [teacher(seed) for seed in sorted({taught for _, taught in layout})]
    plain = [trial_spec("at", seed, attacks=("clean", "pgd20")) for seed in sorted({seed for seed, _ in layout})]
    return frames_of([*teachers, *plain, *[student(name, *pair) for name in variants for pair in layout]])


def crossed(seeds: int, teachers: int) -> list[tuple[int, int]]:
    return [(seed, taught) for seed in range(seeds) for taught in range(teachers)]


def by_network(frames: Frames, variant: str) -> dict[tuple[int, int | None], Floats]:
    """Class accuracies of the cell, straight from the tables, by seed and teacher."""
    trials = frames.tables["trials"]
    found = {}
    for trial in trials[(trials["variant"] == variant) & (trials["role"] == "student")].itertuples():
        part = in_cell(frames.tables["class_accuracy"])
        part = part[part["trial_id"] == trial.trial_id]
        taught = None if pd.isna(trial.teacher_seed) else int(trial.teacher_seed)
        found[trial.seed, taught] = part.sort_values("class_index")["accuracy"].to_numpy(dtype=float)
    return found


def in_cell(frame: pd.DataFrame) -> pd.DataFrame:
    return frame[(frame["checkpoint"] == CELL[0]) & (frame["attack"] == CELL[1])]


def value(frames: Frames, variant: str, metric: str, seed: int, taught: int | None) -> float:
    return float(METRICS[metric](by_network(frames, variant)[seed, taught]))


def score(board: Leaderboard, variant: str, metric: str) -> pd.Series:
    row = board.rows.index[(board.rows["variant"] == variant) & (board.rows["role"] == "student")]
    scores = board.scores[board.scores["row"].isin(row) & (board.scores["metric"] == metric)]
    (found,) = [line for _, line in scores.iterrows() if (line["checkpoint"], line["attack"]) == CELL]
    return found


def board_of(frames: Frames) -> Leaderboard:
    return leaderboard(read_results(frames))


def sentences(board: Leaderboard) -> str:
    (setting,) = board.settings
    return " ".join(caption(board, setting, "best_validation"))


@pytest.fixture(scope="module")
def two() -> Frames:
    return store(crossed(3, 2))


@pytest.fixture(scope="module")
def three() -> Frames:
    return store(crossed(4, 3))


def test_students_of_two_teachers_are_one_row_and_a_seed_is_its_mean_over_both(two):
    board = board_of(two)
    assert list(board.rows["variant"]) == ["teacher", "absld", "at", "rslad"]
    assert list(board.rows["teachers"]) == ["", "0, 1", "", "0, 1"]
    labels = [student("rslad", 0, taught).teachers["teacher"].label for taught in (0, 1)]
    assert board.rows["teacher"].tolist()[1:] == [", ".join(labels), None, ", ".join(labels)]
    for variant, metric in [(variant, metric) for variant in TAUGHT for metric in METRICS]:
        seeds = [np.mean([value(two, variant, metric, seed, taught) for taught in (0, 1)]) for seed in range(3)]
        found, expected = score(board, variant, metric), seed_interval(seeds)
        assert found[["value", "seed_low", "seed_high"]].tolist() == pytest.approx(
            [expected.estimate, expected.low, expected.high]
        )
        assert found["seeds"] == 3


@pytest.mark.parametrize("metric", METRICS)
def test_both_sides_of_a_difference_have_the_same_teachers_and_one_without_any_pairs_with_each(two, metric):
    board = board_of(two)
    at = [value(two, "at", metric, seed, None) for seed in range(3)]
    seeds = np.array([[value(two, "rslad", metric, seed, taught) for taught in (0, 1)] for seed in range(3)])
    change, found = seeds.mean(axis=1) - at, score(board, "rslad", metric)
    half = stats.t.ppf(0.975, 2) * stats.sem(change)
    assert found["difference"] == pytest.approx(change.mean())
    assert found["difference_seed_low"] == pytest.approx(change.mean() - half)
    taught = {"at": [None], "absld": [0, 1], "rslad": [0, 1]}
    layout = [
        [[np.mean([value(two, name, one, seed, t) for t in of]) for one in METRICS] for name, of in taught.items()]
        for seed in range(3)
    ]
    family = compare_family(layout, [(1, 0), (2, 0)])
    assert found["p"] == pytest.approx(family.p[1, list(METRICS).index(metric)])


def test_teachers_are_no_seeds_of_class_differences(two):
    results = read_results(two)
    counts = class_counts(results.class_accuracy, [*NETWORK, "checkpoint", "attack"])
    place = dict(zip(results.rows["variant"], results.rows.index, strict=True))
    lines = paired_lines(counts, [("pair", place["rslad"], place["at"])])
    assert sorted(lines[0].keys["teacher_seed"].unique()) == sorted(lines[1].keys["teacher_seed"].unique()) == [0, 1]
    plain, mine = by_network(two, "at"), by_network(two, "rslad")
    change = np.array([(mine[seed, 0] + mine[seed, 1]) / 2 - plain[seed, None] for seed in range(3)])
    expected = seed_interval(change, lowest=-1, highest=1)
    compared = comparisons(*lines, Outcomes(results.outcomes({*lines[0].keys["trial_id"], *lines[1].keys["trial_id"]})))
    for known in (compared, {}):
        found = class_differences(*lines, known)[("pair", *CELL)]
        assert found["difference"] == pytest.approx(expected.estimate)
        assert found["low"] == pytest.approx(expected.low)
        assert found["source"] == "seeds"


def test_rows_of_one_seed_are_one_to_a_comparison_over_seeds():
    generator = np.random.default_rng(0)
    labels, first, second = generator.integers(0, 3, 300), *generator.random((2, 6, 300)).round().astype(bool)
    found = compare(labels, first, second, 3, seeds=[0, 0, 1, 1, 2, 2])
    accuracy = [[[row[labels == c].mean() for c in range(3)] for row in side] for side in (first, second)]
    change = (np.array(accuracy[0]) - accuracy[1]).reshape(3, 2, 3).mean(axis=1)
    expected = seed_interval(change)
    assert found.classes.seeds.low == pytest.approx(expected.low)
    assert found.p_values == pytest.approx(stats.ttest_1samp(change, 0).pvalue)
    assert found.average.seeds.n == 3


def test_the_spread_between_two_teachers_is_shown_everywhere(two):
    board, results = board_of(two), read_results(two)
    for variant, metric in [(variant, metric) for variant in TAUGHT for metric in METRICS]:
        means = [np.mean([value(two, variant, metric, seed, taught) for seed in range(3)]) for taught in (0, 1)]
        found = score(board, variant, metric)
        assert (found["teacher_spread"], found["spread_seeds"]) == (pytest.approx(abs(np.subtract(*means))), "0, 1, 2")
    assert pd.isna(score(board, "at", "average")["teacher_spread"])
    spread = score(board, "rslad", "average")["teacher_spread"]
    assert f" between teachers {100 * spread:.2f}" in markdown(board)
    table = pd.read_csv(io.StringIO(csv_text(board)))
    line = in_cell(table[table["variant"] == "rslad"])
    assert line["average_teacher_spread"].item() == pytest.approx(spread)
    assert line["teachers"].item() == "0, 1"
    data = page_data(results, board, "best_validation")
    (row,) = [row for row in data["rows"] if row["variant"] == "rslad"]
    assert row["scores"][CELL[0]][CELL[1]][0][7] == round(spread * 1e9)
    assert [(trial["seed"], trial["teacher_seed"]) for trial in row["trials"]] == crossed(3, 2)
    assert "between teachers" in page(results, board, "best_validation")


def test_a_comparison_on_the_page_has_the_classes_of_the_teachers_that_both_rows_have():
    taught = {"rslad": (0, 1), "absld": (0,), "ard": (5,)}
    students = [student(name, seed, one) for name, own in taught.items() for one in own for seed in range(2)]
    frames = frames_of([*map(teacher, (0, 1, 5)), *students])
    results = read_results(frames)
    data = page_data(results, leaderboard(results), "best_validation")
    rslad, absld = (next(place for place, row in enumerate(data["rows"]) if row["variant"] == name) for name in TAUGHT)
    pair = [rslad, absld] if rslad < absld else [absld, rslad]
    found = data["pairs"]["-".join(map(str, pair))][CELL[0]][CELL[1]]
    assert "seeds" not in found
    (classes,) = found["sides"].values()
    assert list(found["sides"]) == [pair.index(rslad)], "the other row has no more than that teacher"
    networks = by_network(frames, "rslad")
    expected = 10_000 * np.mean([networks[seed, 0] for seed in range(2)], axis=0)
    assert [value for value, *_ in classes] == pytest.approx(expected, abs=0.51)
    own = [value for value, *_ in data["rows"][absld]["classes"][CELL[0]][CELL[1]]]
    change = [(one - other) for one, (other, *_) in zip(own, classes, strict=True)]
    sign = 1 if pair[0] == absld else -1
    assert [sign * line[0] for line in found["classes"]] == pytest.approx(change, abs=1.01)


def test_the_caption_of_two_teachers_says_that_they_are_fixed_and_of_three_that_they_are_not(two, three):
    text = sentences(board_of(two))
    assert "Mean over teachers 0, 1 (their seeds), which are fixed: intervals and verdicts hold for these." in text
    assert "Between teachers: largest minus smallest" in text
    assert CROSSED not in text
    text = sentences(board_of(three))
    assert f"Mean over teachers 0, 1, 2 (their seeds). {CROSSED}" in text
    assert "fixed" not in text
    one = board_of(store(crossed(3, 1)))
    assert "One teacher, which is fixed" in sentences(one)
    assert "etween teachers" not in sentences(one) + markdown(one) + csv_text(one)
    assert "teachers" not in csv_text(one).splitlines()[0].split(",")


def test_teachers_shared_by_all_rows_are_no_reason_for_a_note(two):
    two.tables["trials"]["teacher_sha256"] = two.tables["trials"]["teacher_seed"].map({0: "a" * 64, 1: "b" * 64})
    assert not [note for note in board_of(two).notes if "different teachers" in note]


def test_from_three_teachers_on_intervals_are_over_seeds_and_teachers(three):
    board = board_of(three)
    table = np.array([[value(three, "rslad", "worst", seed, taught) for taught in range(3)] for seed in range(4)])
    at = np.array([[value(three, "at", "worst", seed, None)] for seed in range(4)])
    found = score(board, "rslad", "worst")
    for values, name in [(table, "seed"), (table - at, "difference_seed")]:
        by_seed, by_teacher = mean_squares(values)
        half = np.sqrt((stats.t.ppf(0.975, 3) ** 2 * by_seed + stats.t.ppf(0.975, 2) ** 2 * by_teacher) / 12)
        bounds = values.mean() - half, values.mean() + half
        assert (found[f"{name}_low"], found[f"{name}_high"]) == pytest.approx(bounds)
    assert found["common_teachers"] == 3


def mean_squares(values: Floats) -> tuple[float, float]:
    """Of the seeds and of the teachers of a two-way layout (S, T)."""
    seeds, teachers = values.shape
    rows, columns = values.mean(axis=1) - values.mean(), values.mean(axis=0) - values.mean()
    return teachers * (rows**2).sum() / (seeds - 1), seeds * (columns**2).sum() / (teachers - 1)


def test_a_difference_that_another_teacher_may_turn_does_not_stand(three):
    board = board_of(three)
    marked = board.scores[board.scores["stands"].notna()]
    assert len(marked)
    through_zero = (marked["difference_seed_low"] < 0) & (marked["difference_seed_high"] > 0)
    assert not marked.loc[through_zero, "stands"].any()
    assert marked["stands"].any()
    assert stands(marked.assign(common_teachers=2, p=0.0)).sum() > stands(marked.assign(p=0.0)).sum()


def test_a_teacher_of_some_seeds_enters_the_spread_only():
    layout = [*[(seed, 0) for seed in range(4)], (0, 1), (1, 1)]
    frames, board = store(layout), board_of(store(layout))
    for metric in METRICS:
        seeds = [value(frames, "rslad", metric, seed, 0) for seed in range(4)]
        found, expected = score(board, "rslad", metric), seed_interval(seeds)
        assert found["value"] == pytest.approx(expected.estimate)
        assert found["seed_low"] == pytest.approx(expected.low)
        means = [np.mean([value(frames, "rslad", metric, seed, taught) for seed in (0, 1)]) for taught in (0, 1)]
        assert found["teacher_spread"] == pytest.approx(abs(np.subtract(*means)))
    assert "between teachers" in markdown(board)
    assert "(over seeds 0, 1)" in markdown(board)
    text = sentences(board)
    assert "One teacher, which is fixed" in text
    assert "Not all seeds were trained from teachers 1: they enter the spread between teachers only." in text
    (note,) = [note for note in board.notes if "Left out of averages" in note]
    assert "absld 1; rslad 1" in note
    assert read_results(frames).left_out == {}


NETWORKS = {  # as they are, and which averages are over
    "every seed from every teacher": ([crossed(3, 2), crossed(3, 2)], [crossed(3, 2), crossed(3, 2)]),
    "a row without teachers": ([crossed(3, 2), [(0, None), (1, None)]], [crossed(2, 2), [(0, None), (1, None)]]),
    "a teacher of one row": ([crossed(3, 2), crossed(3, 1)], [crossed(3, 1), crossed(3, 1)]),
    "no common teacher": ([[(0, 0), (1, 0)], [(0, 1), (1, 1)]], [[(0, 0), (1, 0)], [(0, 1), (1, 1)]]),
    "a teacher for each seed": ([[(0, 0), (1, 1)]], [[(0, 0)]]),
    "one more seed from one": ([[(0, 0), (1, 0), (0, 1), (1, 1), (2, 1)]], [[(0, 1), (1, 1), (2, 1)]]),
}


@pytest.mark.parametrize("case", NETWORKS)
def test_rows_are_over_the_same_seeds_and_teachers(case):
    networks, kept = (dict(enumerate(map(set, part))) for part in NETWORKS[case])
    assert common_networks(networks) == kept


def test_rows_of_unlike_teachers_have_no_arrows_between_them():
    specs = [teacher(0), teacher(1)]
    specs += [student(name, seed, taught) for name, taught in (("rslad", 0), ("absld", 1)) for seed in range(3)]
    board = board_of(frames_of(specs))
    assert not board.marked
    assert board.scores["difference"].isna().all()
    assert "2 teachers, each of them fixed" in sentences(board)


@pytest.mark.parametrize("known", [True, False])
def test_other_teachers_and_unknown_ones_stand_apart(known):
    sources = [teacher(0), teacher(1, epochs=20 if not known else 30)]
    students = [student("rslad", seed, source) for source in sources for seed in range(2)]
    rows = read_results(frames_of([*(sources if known else ()), *students])).rows
    assert (rows["role"] == "student").sum() == 2


def test_a_store_that_keeps_no_teacher_seed_takes_it_from_the_teachers_trial(two):
    stored = frames_of([teacher(0), teacher(1), *[student("rslad", *pair) for pair in crossed(2, 2)]])
    stored.tables["trials"]["teacher_seed"] = np.nan
    results = read_results(stored)
    assert sorted(
        results.class_accuracy[["seed", "teacher_seed"]].dropna().itertuples(index=False, name=None)
    ) == sorted([pair for pair in crossed(2, 2) for _ in range(40)])


def test_figures_count_every_network(two):
    results: Results = read_results(two)
    frame = results.class_accuracy.merge(results.rows["variant"], left_on="row", right_index=True)
    found = variant_scores(in_cell(frame[frame["variant"] == "rslad"])).set_index("metric")
    expected = np.mean([value(two, "rslad", "worst", *pair) for pair in crossed(3, 2)])
    assert found["value"]["worst"] == pytest.approx(expected)


def test_a_crossed_interval_needs_three_of_both():
    for shape in ((3, 2), (2, 3)):
        assert np.isnan(crossed_interval(np.zeros(shape)).low)
    assert crossed_interval(np.full((3, 3), 0.5)).low == 0.5
    assert crossed_interval([[0, 0, 0], [1, 1, 1], [0, 0, 0]], lowest=0.0).low == 0.0
