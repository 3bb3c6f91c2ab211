"""Leaderboard and tables from made-up stores, against formulas written here a second time."""

from __future__ import annotations

import csv
import io
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import effort
import numpy as np
import pandas as pd
import pytest
import torch
from rich.console import Console
from scipy import stats
from typer.testing import CliRunner

from harness.cli.main import app
from harness.errors import InputError
from harness.report import escape
from harness.report.captions import caption, eps_text, marks
from harness.report.figures.draw import draw
from harness.report.page.data import page_data
from harness.report.results import read_results, some_trials
from harness.report.scores import differences
from harness.report.scores.differences import pick_baselines, stands
from harness.report.scores.families import OfStore
from harness.report.scores.intervals import METRICS
from harness.report.scores.leaderboard import Leaderboard, leaderboard
from harness.report.scores.selection import RULES, class_scores, rule, selection_gap
from harness.report.tables import tables
from harness.report.tables.details import intervals_table, origins_table, selection_table, wide
from harness.report.tables.grid import Cell, grid, number
from harness.report.tables.latex import Paper, _cell, latex
from harness.report.tables.power import power
from harness.report.write import Form, file_names, print_leaderboard, write_report
from harness.statistics import intervals
from harness.statistics.multiple_comparisons import compare_family, detectable
from harness.statistics.pairing import Paired
from harness.statistics.worst_class import worst_difference_bounds
from harness.store.several import Stores
from harness.store.store import Store
from harness.suites.suite import PrimaryComparison
from harness.training.validation import few_held_out
from tests.synthetic_store import (
    CLOTHES,
    Frames,
    big_frames,
    failed_row,
    fill_store,
    frames_of,
    teacher_spec,
    trial_spec,
    trial_tables,
)

VARIANTS = ("at", "rslad", "absld")


@pytest.fixture(scope="module")
def specs():
    teacher = teacher_spec()
    return [teacher, *[trial_spec(name, seed) for name in VARIANTS for seed in range(3)]]


@pytest.fixture(scope="module")
def frames(specs):
    return frames_of(specs)


@pytest.fixture(scope="module")
def board(frames):
    return leaderboard(read_results(frames))


def score(board: Leaderboard, variant: str, attack: str, metric: str, checkpoint: str = "best_validation") -> pd.Series:
    row = board.rows.index[board.rows["variant"] == variant][0]
    chosen = (board.scores["row"] == row) & (board.scores["attack"] == attack) & (board.scores["metric"] == metric)
    found = board.scores[chosen & (board.scores["checkpoint"] == checkpoint)]
    assert len(found) == 1
    return found.iloc[0]


def accuracies(frames, variant: str, attack: str, checkpoint: str = "best_validation") -> np.ndarray:
    """(seeds, classes)"""
    frame = frames.tables["class_accuracy"]
    frame = frame[(frame["variant"] == variant) & (frame["attack"] == attack) & (frame["checkpoint"] == checkpoint)]
    return frame.pivot_table(index="seed", columns="class_index", values="accuracy", observed=True).to_numpy()


def test_values_are_means_over_seeds_of_each_seed_s_metric(board, frames):
    values = accuracies(frames, "absld", "pgd20")
    expected = {
        "average": values.mean(1).mean(),
        "worst": values.min(1).mean(),
        "nsd": (values.std(1) / values.mean(1)).mean(),
        "nsd_sample": (values.std(1, ddof=1) / values.mean(1)).mean(),
        "gap": (values.max(1) - values.min(1)).mean(),
    }
    for metric, value in expected.items():
        assert score(board, "absld", "pgd20", metric)["value"] == pytest.approx(value, abs=1e-12)


def test_seed_interval_is_student_t_and_needs_three_seeds(board, frames, specs):
    values = accuracies(frames, "rslad", "cw20").mean(1)
    low, high = stats.t.interval(0.95, 2, values.mean(), stats.sem(values))
    found = score(board, "rslad", "cw20", "average")
    assert (found["seed_low"], found["seed_high"]) == pytest.approx((low, high))
    assert np.isnan(score(board, "teacher", "cw20", "average")["seed_low"])


def test_sample_interval_holds_the_value_and_shrinks_with_images(board):
    found = score(board, "absld", "pgd20", "average")
    assert found["sample_low"] < found["value"] < found["sample_high"]
    assert found["images"] == 2000
    larger = leaderboard(read_results(frames_of([trial_spec("absld", 0)], per_class=800)))
    other = score(larger, "absld", "pgd20", "average")
    assert 1.6 < (found["sample_high"] - found["sample_low"]) / (other["sample_high"] - other["sample_low"]) < 2.4


def test_best_and_second_are_marked_among_students_only(board):
    values = {name: score(board, name, "pgd20", "worst")["value"] for name in VARIANTS}
    order = sorted(values, key=lambda name: -values[name])
    assert [score(board, name, "pgd20", "worst")["rank"] for name in order] == [1, 2, 0]
    lower = {name: score(board, name, "pgd20", "nsd") for name in VARIANTS}
    best = min(VARIANTS, key=lambda name: lower[name]["value"])
    assert lower[best]["rank"] == 1
    assert score(board, "teacher", "clean", "average")["rank"] == 0


def test_validation_worst_is_the_test_accuracy_of_the_class_validation_chose(board, frames):
    epochs, state = frames.tables["epochs"], frames.tables["class_state"]
    values = []
    for trial in frames.tables["trials"].query("variant == 'at'")["trial_id"]:
        own = epochs[epochs["trial_id"] == trial].sort_values("epoch")
        top = own[own["selection_score"] == own["selection_score"].max()]["epoch"].max()
        rows = state[(state["trial_id"] == trial) & (state["epoch"] == top) & (state["quantity"] == "val_robust")]
        worst = rows.sort_values("value")["class_index"].iloc[0]
        seed = int(own["trial_id"].map(frames.tables["trials"].set_index("trial_id")["seed"]).iloc[0])
        values.append(accuracies(frames, "at", "pgd20")[seed, worst])
    assert score(board, "at", "pgd20", "validation_worst")["value"] == pytest.approx(np.mean(values))


def test_differences_over_seeds_are_paired_by_seed(board, frames):
    change = accuracies(frames, "absld", "fgsm").min(1) - accuracies(frames, "at", "fgsm").min(1)
    found = score(board, "absld", "fgsm", "worst")
    low, high = stats.t.interval(0.95, 2, change.mean(), stats.sem(change))
    assert found["difference"] == pytest.approx(change.mean())
    assert (found["difference_seed_low"], found["difference_seed_high"]) == pytest.approx((low, high))
    assert np.isnan(score(board, "at", "fgsm", "worst")["difference"])


def test_worst_classes_differ_by_paired_bounds(board, frames):
    outcomes = frames.tables["outcomes"].query("attack == 'fgsm' and checkpoint == 'best_validation'")
    outcomes = outcomes.merge(frames.tables["trials"][["trial_id", "variant", "seed"]])
    labels, flags = None, {}
    for name in ("absld", "at"):
        wide = outcomes[outcomes["variant"] == name].pivot_table(
            index=["sample_index", "label"], columns="seed", values="robust", observed=True
        )
        labels, flags[name] = wide.index.get_level_values("label").to_numpy(), wide.to_numpy().T > 0.5
    bounds = worst_difference_bounds(Paired.of(labels, flags["absld"], flags["at"], 10))
    found = score(board, "absld", "fgsm", "worst")
    assert (found["difference_sample_low"], found["difference_sample_high"]) == pytest.approx(bounds)
    assert found["pairing"] == "paired by sample"


def test_without_outcomes_worst_classes_differ_by_exact_bounds_of_both(frames):
    """Each side's hold for its ten classes at once, both together at 95 %; over seeds their mean."""
    board = leaderboard(read_results(frames), paired=False)
    level = 0.95 ** (1 / 2 / 10)
    ends = {}
    for name in ("absld", "at"):
        counts = 200 * accuracies(frames, name, "fgsm")
        found = [[stats.binomtest(round(k), 200).proportion_ci(level, "exact") for k in seed] for seed in counts]
        ends[name] = [[min(ci.low for ci in seed), min(ci.high for ci in seed)] for seed in found]
    (low, high), (other_low, other_high) = (np.mean(ends[name], axis=0) for name in ("absld", "at"))
    found = score(board, "absld", "fgsm", "worst")
    bounds = found["difference_sample_low"], found["difference_sample_high"]
    assert bounds == pytest.approx((low - other_high, high - other_low))
    assert found["pairing"] == "unpaired"


def test_marks_are_few_and_corrected_together(board, frames):
    """Average, worst and NSD under AutoAttack alone, of all variants against the baseline, by one family."""
    names = [name for name in VARIANTS if name != "at"]
    layout = np.stack([accuracies(frames, name, "aa_short") for name in ("at", *names)], axis=1)
    values = np.stack([layout.mean(-1), layout.min(-1), layout.std(-1) / layout.mean(-1)], axis=-1)
    family = compare_family(values, [(place, 0) for place in range(1, len(names) + 1)])
    for place, name in enumerate(names):
        for column, metric in enumerate(("average", "worst", "nsd")):
            found = score(board, name, "aa_short", metric)
            assert found["p"] == pytest.approx(family.p[place, column])
            low, high = found["difference_sample_low"], found["difference_sample_high"]
            assert found["stands"] == (family.p[place, column] < 0.05 and (low > 0 or high < 0))
    main = board.scores["metric"].isin(["average", "worst", "nsd"])
    others = board.scores[(board.scores["attack"] != "aa_short") | ~main]
    assert others["stands"].isna().all()
    marked = board.marked[board.settings[0], "best_validation"]
    assert (marked.attack, marked.seeds, marked.comparisons) == ("aa_short", (0, 1, 2), 3 * len(names))
    text = " ".join(caption(board, board.settings[0], "best_validation"))
    start = "in Avg., Worst and NSD under AA (short), over seeds 0, 1, 2 and over test samples. "
    assert f"{start}{3 * len(names)} comparisons" in text


@pytest.mark.parametrize(("change", "low", "high", "expected"), [
    (0.239, -0.475, -0.012, False), (-0.2, 0.01, 0.4, False), (-0.2, -0.4, -0.01, True), (0.2, 0.01, 0.4, True),
    (0.2, -0.1, 0.4, False), (0.2, np.nan, np.nan, True),
])  # fmt: skip
def test_a_difference_stands_where_its_bounds_lie_on_its_side_of_zero(change, low, high, expected):
    """The observed NSD is biased high, the bounds are of the true one: they can lie on the other side."""
    bounds = {"difference_sample_low": low, "difference_sample_high": high}
    unknown = {"difference_seed_low": np.nan, "difference_seed_high": np.nan, "common_teachers": 1}
    line = {"p": 0.024, "difference": change, **bounds, **unknown}
    assert stands(pd.DataFrame([line])).tolist() == [expected]


def test_a_caption_says_where_seeds_alone_decide(frames, monkeypatch):
    monkeypatch.setattr(differences, "MOST_NSD_COUNTS", 0)
    board = leaderboard(read_results(frames), paired=False)
    text = " ".join(caption(board, board.settings[0], "best_validation"))
    assert "over test samples (NSD over seeds alone). 6 comparisons" in text


def test_registered_comparisons_are_a_family_of_their_own(frames):
    """Two variants, neither of them the baseline; one has an attack of its own."""
    primary = [
        PrimaryComparison(variant="absld", against="rslad", metrics=("worst",)),
        PrimaryComparison(variant="absld", against="rslad", metrics=("nsd",), attack="pgd20"),
        PrimaryComparison(variant="absld", against="not there", metrics=("nsd",)),
    ]
    board = leaderboard(read_results(frames), primary=primary)
    found = board.registered[board.registered["checkpoint"] == "best_validation"]
    assert list(found["reason"]) == ["", "", "no row is called not there"]
    found = found[found["reason"] == ""].set_index("metric")
    assert list(found["attack"]) == ["aa_short", "pgd20"]
    change = {
        "worst": accuracies(frames, "absld", "aa_short").min(1) - accuracies(frames, "rslad", "aa_short").min(1),
        "nsd": np.subtract(
            *[one.std(1) / one.mean(1) for one in (accuracies(frames, name, "pgd20") for name in ("absld", "rslad"))]
        ),
    }
    raw = sorted(stats.ttest_1samp(values, 0).pvalue for values in change.values())
    assert sorted(found["p"]) == pytest.approx([min(1, 3 * raw[0]), max(min(1, 3 * raw[0]), min(1, 2 * raw[1]))])
    assert found.loc["nsd", "difference"] == pytest.approx(change["nsd"].mean())
    text = caption(board, board.settings[0], "best_validation")
    sentence = next(part for part in text if part.startswith("Registered before the results, 3 comparisons"))
    assert "absld minus rslad, Worst under AA (short): " in sentence
    assert f"p = {found.loc['nsd', 'p']:.4f}" in sentence
    one_seed = frames_of([trial_spec(name, 0) for name in ("rslad", "absld")])
    text = " ".join(caption(leaderboard(read_results(one_seed), primary=primary), board.settings[0], "best_validation"))
    assert "no verdict below 3 common seeds" in text


def test_a_metric_without_a_value_in_one_seed_is_not_the_mean_of_the_others():
    """One network of four gets every image wrong under attack: its NSD is not defined."""
    frames = frames_of(
        [trial_spec(name, seed, attacks=("clean", "pgd20")) for name in ("at", "absld") for seed in range(4)]
    )
    trials = frames.tables["trials"].set_index("trial_id")
    (collapsed,) = trials.index[(trials["variant"] == "absld") & (trials["seed"] == 3)]
    rows = frames.tables["class_accuracy"]
    lost = (rows["trial_id"] == collapsed) & (rows["attack"] == "pgd20")
    rows.loc[lost, ["correct", "accuracy"]] = 0
    results = read_results(frames)
    board = leaderboard(results, paired=False)
    scores = board.scores[(board.scores["attack"] == "pgd20") & (board.scores["checkpoint"] == "best_validation")]
    scores = scores.assign(variant=scores["row"].map(board.rows["variant"])).set_index(["variant", "metric"])
    nothing = ["value", "seed_low", "seed_high", "sample_low", "sample_high", "difference", "p"]
    assert scores.loc[("absld", "nsd"), nothing].isna().all()
    assert scores.loc[("absld", "nsd"), "rank"] == 0
    assert scores.loc[("at", "nsd"), ["value", "seed_low", "sample_low"]].notna().all()
    assert scores.loc[("absld", "average"), "value"] == pytest.approx(accuracies(frames, "absld", "pgd20").mean())
    ranking = leaderboard(results, rank="pgd20:nsd", paired=False).ranking(board.settings[0], "best_validation")
    assert [board.rows.loc[row, "variant"] for row in ranking.order] == ["at", "absld"]
    assert ranking.values.keys() == {ranking.order[0]}
    says = draw(results, ["nsd"], baseline="at")["nsd"].says
    assert "Bars: 95 % over seeds." in says


def test_registered_comparisons_do_not_depend_on_what_is_shown(frames):
    """Neither the spread, which is pooled over the rows that are compared, nor the correction."""
    primary = [
        PrimaryComparison(variant=name, against="rslad", metrics=("average", "nsd"), attack="pgd20")
        for name in ("absld", "at")
    ]
    whole = read_results(frames)
    all_of_it = leaderboard(whole, primary=primary).registered
    trials = whole.trials[whole.trials["variant"].isin(["rslad", "absld"]) & (whole.trials["seed"] < 2)]
    part = read_results(frames, trial_ids=list(trials["trial_id"]), titles={"absld": "ABSLD (ours)"}, attacks=["clean"])
    alone = leaderboard(part, primary=primary).registered
    assert alone.loc[alone["variant"] == "absld", "p"].isna().all(), "two seeds have no p"
    board = leaderboard(replace(part, whole=whole), primary=primary)
    expected = all_of_it[all_of_it["variant"] == "absld"].reset_index(drop=True).assign(variant="ABSLD (ours)")
    pd.testing.assert_frame_equal(board.registered.reset_index(drop=True), expected)
    assert expected["p"].notna().all()
    text = " ".join(caption(board, board.settings[0], "best_validation"))
    assert "Registered before the results, 2 of 4 comparisons, over seeds 0, 1, 2, corrected together" in text


def test_registered_comparisons_that_cannot_be_made_are_named_and_counted():
    """A second trial of a variant with other settings tells its rows apart; an attack was not run."""
    specs = [trial_spec(name, seed) for name in ("at", "absld") for seed in range(3)]
    primary = [
        PrimaryComparison(variant="absld", against="at", metrics=("average",)),
        PrimaryComparison(variant="absld", against="at", metrics=("worst",), attack="aa_standard"),
    ]
    suite = read_results(frames_of(specs))
    alone = leaderboard(suite, primary=primary[:1])
    both = leaderboard(suite, primary=primary)
    found = both.registered[both.registered["checkpoint"] == "last"].set_index("metric")
    one = alone.registered.set_index("checkpoint").loc["last", "p"]
    assert found.loc["average", "p"] == pytest.approx(min(1, 2 * one))
    assert "absld minus at, Worst under AA: not available: no results of absld and at" in " ".join(
        caption(both, both.settings[0], "last")
    )
    frames = frames_of([*specs, trial_spec("absld", 0, epochs=45)])
    board = leaderboard(read_results(frames), primary=primary[:1])
    text = " ".join(caption(board, board.settings[0], "last"))
    assert "not available: ambiguous, absld [training.epochs=20] and absld [training.epochs=45]" in text
    board = leaderboard(read_results(frames, trial_ids=[spec.trial_id for spec in specs]), primary=primary[:1])
    assert board.registered.set_index("checkpoint").loc["last", "p"] == pytest.approx(one), "a suite's own trials"


PAIRS = [
    PrimaryComparison(variant="absld", against="at", metrics=("nsd",)),
    PrimaryComparison(variant="trades", against="at", metrics=("worst",)),
]
WEAK = ("clean", "pgd20")


@pytest.mark.parametrize(
    ("seeds", "attacks", "says"),
    [
        ((), WEAK, "not available: no row is called trades"),
        ((0,), WEAK, "no verdict below 3 common seeds"),
        ((0, 1, 2), ("clean",), "not available: no results of trades"),
    ],
)
def test_an_incomplete_registered_variant_counts_and_silences_no_other(seeds, attacks, says):
    primary = [replace_attack(each, "pgd20") for each in PAIRS]
    specs = [trial_spec(name, seed, attacks=WEAK) for name in ("at", "absld", "rslad") for seed in range(3)]
    frames = frames_of([*specs, *(trial_spec("trades", seed, attacks=attacks) for seed in seeds)])
    board = leaderboard(read_results(frames), primary=primary)
    found = board.registered[board.registered["checkpoint"] == "last"].set_index("metric")
    alone = leaderboard(read_results(frames_of(specs)), primary=primary[:1]).registered.set_index("checkpoint")
    assert found.loc["nsd", "p"] == pytest.approx(min(1, 2 * alone.loc["last", "p"]))
    assert np.isnan(found.loc["worst", "p"])
    text = " ".join(caption(board, board.settings[0], "last"))
    assert says in text
    assert f"p = {found.loc['nsd', 'p']:.4f}" in text


def replace_attack(comparison: PrimaryComparison, attack: str) -> PrimaryComparison:
    return comparison.model_copy(update={"attack": attack})


def test_an_undefined_metric_counts_in_the_corrections():
    """One network of three gets every image wrong: its NSD is no number, neither in the table nor as registered."""
    frames = frames_of([trial_spec(name, seed, attacks=WEAK) for name in ("at", "absld", "rslad") for seed in range(3)])
    trials = frames.tables["trials"].set_index("trial_id")
    (collapsed,) = trials.index[(trials["variant"] == "absld") & (trials["seed"] == 1)]
    rows = frames.tables["class_accuracy"]
    rows.loc[(rows["trial_id"] == collapsed) & (rows["attack"] == "pgd20"), ["correct", "accuracy"]] = 0
    primary = [PrimaryComparison(variant=name, against="at", metrics=("nsd",)) for name in ("absld", "rslad")]
    board = leaderboard(read_results(frames), primary=primary, paired=False)
    found = board.registered[board.registered["checkpoint"] == "best_validation"].set_index("variant")
    assert found.loc["absld", "reason"] == "undefined in some seed"
    change = [np.std(one, 1) / np.mean(one, 1) for one in (accuracies(frames, n, "pgd20") for n in ("rslad", "at"))]
    raw = stats.ttest_1samp(change[0] - change[1], 0).pvalue
    assert found.loc["rslad", "p"] == pytest.approx(min(1, 2 * raw))
    values = np.random.default_rng(0).normal(size=(3, 3, 2))
    values[:, 2] += 5
    whole = compare_family(values, [(1, 0), (2, 0)])
    values[0, 1, 1] = np.nan
    part = compare_family(values, [(1, 0), (2, 0)])
    assert part.comparisons == whole.comparisons == 4
    assert np.isnan(part.p[0, 1])
    smallest = np.nanmin(part.p)
    free = 2 * stats.t.sf(np.abs(part.difference / part.error), part.df)
    assert smallest == pytest.approx(min(1, 4 * np.nanmin(free)))


def test_stores_that_are_read_together_keep_their_registered_families(tmp_path):
    """Each table has what its own store registered, with the p that it has alone: also what could not be made."""
    stores = [
        fill_store(
            tmp_path / name,
            [trial_spec(method, seed, attacks=WEAK, eps=eps) for method in methods for seed in range(3)],
        )
        for name, methods, eps in (("first", ("at", "absld"), 0.1), ("second", ("at", "absld", "trades"), 0.05))
    ]
    primary = [PAIRS, [*PAIRS, PrimaryComparison(variant="absld", against="at", metrics=("average",))]]
    together = [
        OfStore(each.variant, each.against, each.metrics, each.attack, frozenset(store.statuses()))
        for store, compared in zip(stores, primary, strict=True)
        for each in compared
    ]
    board = leaderboard(read_results(Stores(stores)), primary=together)
    for store, compared, count in zip(stores, primary, (2, 3), strict=True):
        alone = leaderboard(read_results(store), primary=compared)
        (setting,) = alone.settings
        wanted = [text for text in caption(alone, setting, "last") if text.startswith("Registered")]
        assert f"Registered before the results, {count} comparisons" in wanted[0]
        assert [text for text in caption(board, setting, "last") if text.startswith("Registered")] == wanted


def test_two_stores_of_one_table_have_a_family_each(tmp_path):
    stores = [
        fill_store(
            tmp_path / name, [trial_spec(name, seed, attacks=WEAK) for seed in range(3) for name in ("at", method)]
        )
        for name, method in (("first", "absld"), ("second", "trades"))
    ]
    together = [
        OfStore(each.variant, each.against, each.metrics, each.attack, frozenset(store.statuses()))
        for store, each in zip(stores, PAIRS, strict=True)
    ]
    board = leaderboard(read_results(Stores(stores)), primary=together)
    sentences = [text for text in caption(board, board.settings[0], "last") if text.startswith("Registered")]
    assert [text.split(": ")[0] for text in sentences] == [
        "Registered before the results, 1 comparison, over seeds 0, 1, 2, corrected together (Holm)"
    ] * 2


def test_rows_of_one_seed_take_no_rank_from_those_of_three():
    """However many there are."""
    specs = [trial_spec(name, seed, attacks=WEAK) for name in ("at", "absld") for seed in range(3)]
    specs += [trial_spec(name, 0, attacks=WEAK) for name in ("rslad", "trades", "natural")]
    board = leaderboard(read_results(frames_of(specs)))
    ranking = board.ranking(board.settings[0], "last")
    assert {board.rows.loc[row, "variant"] for row in ranking.ranks} == {"at", "absld"}
    best = board.scores[(board.scores["rank"] > 0) & (board.scores["checkpoint"] == "last")]
    assert set(board.rows.loc[best["row"].unique(), "variant"]) == {"at", "absld"}
    text = " ".join(caption(board, board.settings[0], "last"))
    assert "over seeds 0, 1, 2 and over test samples, 1 comparison corrected together" in text


def test_rows_of_two_seeds_take_nothing_from_the_power_of_those_of_more():
    specs = [trial_spec(name, seed, attacks=WEAK) for name in ("at", "absld", "rslad") for seed in range(6)]
    alone = power(read_results(frames_of(specs)), "last")
    for extra in ([("trades", 0), ("trades", 1)], [("trades", 0), ("trades", 1), ("natural", 2), ("natural", 3)]):
        more = frames_of([*specs, *(trial_spec(name, seed, attacks=WEAK) for name, seed in extra)])
        pd.testing.assert_frame_equal(power(read_results(more), "last"), alone)
    two = power(read_results(frames_of([spec for spec in specs if spec.seed < 2])), "last")
    assert set(two["seeds"]) == {2}


def test_where_no_seed_differs_from_another_nothing_is_marked_and_no_difference_is_promised():
    frames = frames_of([trial_spec(name, seed) for name in ("at", "absld") for seed in range(3)])
    accuracy = frames.tables["class_accuracy"]
    accuracy["correct"] = 100 + 5 * accuracy["class_index"] + 10 * (accuracy["variant"] == "absld")
    results = read_results(frames)
    board = leaderboard(results, paired=False)
    assert "No mark where no seed differs from another." in marks(board, board.settings[0], "last")
    assert not {"↑", "↓", "≈"} & set(tables.markdown(board, "last").partition("differences")[0].partition("Against")[0])
    assert power(results, "last")[["needs_3", "needs_5", "needs_10"]].isna().all(axis=None)


def test_power_is_from_the_spread_within_blocks(board, frames, tmp_path):
    found = power(read_results(frames), "best_validation").set_index("metric")
    assert set(found["attack"]) == {"aa_short"}
    table = np.stack([accuracies(frames, name, "aa_short").mean(1) for name in VARIANTS], axis=1)
    rest = table - table.mean(0) - table.mean(1, keepdims=True) + table.mean()
    spread = np.sqrt((rest**2).sum() / 4)
    assert found.loc["average", "spread"] == pytest.approx(spread)
    for seeds in (3, 5, 10):
        assert found.loc["average", f"needs_{seeds}"] == pytest.approx(float(detectable(spread, seeds, 2, 3)))
    fill_store(tmp_path / "store", [trial_spec(name, seed) for name in VARIANTS for seed in (0, 1)], per_class=20)
    done = report_command("store", tmp_path, "--power")
    assert done.exit_code == 0, done.output
    assert "spread over 2 seeds of 3 variants" in " ".join(done.stdout.split())
    assert not (tmp_path / "store" / "report").exists()
    done = report_command("store", tmp_path, "--power", "--seeds", "1")
    assert isinstance(done.exception, InputError)


@pytest.mark.parametrize("seeds", [(0,), (0, 1)])
def test_no_arrows_below_three_seeds_and_the_caption_says_why(seeds):
    specs = [trial_spec(name, seed) for name in ("at", "absld") for seed in seeds]
    board = leaderboard(read_results(frames_of(specs)))
    assert board.scores["stands"].isna().all()
    cells = [cell for line in grid(board, board.settings[0], "last").lines for cell in line.cells.values()]
    assert {cell.mark for cell in cells} == {""}
    text = " ".join(caption(board, board.settings[0], "last"))
    assert "No arrows against at: no other row shares 3 seeds with it, and a difference of single networks" in text
    frame = intervals_table(board, board.settings[0], "last")
    assert "test samples [" in frame[frame["variant"] == "absld"]["Δ Avg. to at"].iloc[0]


def test_no_arrows_without_a_common_attack_and_the_caption_says_that():
    specs = [trial_spec("at", seed, attacks=("pgd20",)) for seed in range(3)]
    specs += [trial_spec("absld", seed, attacks=("cw20",)) for seed in range(3)]
    board = leaderboard(read_results(frames_of(specs)))
    text = " ".join(caption(board, board.settings[0], "last"))
    assert "No arrows against at: no attack has results on every common seed of it and the rows that share 3" in text
    assert "no other row shares" not in text


def test_a_registered_comparison_of_equal_numbers_says_so():
    frames = frames_of([trial_spec(name, seed) for name in ("rslad", "absld") for seed in range(3)])
    accuracy = frames.tables["class_accuracy"]
    frames.tables["class_accuracy"] = accuracy.assign(correct=accuracy["class_index"])
    primary = [PrimaryComparison(variant="absld", against="rslad", metrics=("worst",))]
    board = leaderboard(read_results(frames), primary=primary)
    text = " ".join(caption(board, board.settings[0], "best_validation"))
    assert "no verdict where no seed differs from another" in text
    assert "no verdict below" not in text


def test_averages_and_differences_are_over_the_same_seeds():
    specs = [trial_spec("at", seed) for seed in range(5)] + [trial_spec("absld", seed) for seed in (0, 2, 4)]
    board = leaderboard(read_results(frames_of(specs)))
    one, other = (score(board, name, "pgd20", "average") for name in ("absld", "at"))
    assert one["difference"] == pytest.approx(one["value"] - other["value"])
    assert board.rows.set_index("variant").loc["at", "seed_list"] == "0, 2, 4"


def test_sample_interval_of_several_seeds_is_the_mean_of_each_network_s(board, frames):
    values = accuracies(frames, "rslad", "pgd20")
    each = [intervals.nsd_interval(np.round(200 * seed), np.full(10, 200)) for seed in values]
    found = score(board, "rslad", "pgd20", "nsd")
    assert found["sample_low"] == pytest.approx(np.mean([one.low for one in each]))
    assert found["sample_high"] == pytest.approx(np.mean([one.high for one in each]))


def test_one_seed_is_compared_by_sample_from_outcomes(frames):
    ids = frames.tables["trials"].query("seed == 0")["trial_id"]
    results = read_results(frames, trial_ids=list(ids))
    paired, unpaired = (leaderboard(results, paired=choice) for choice in (True, False))
    outcomes = frames.tables["outcomes"].query("attack == 'pgd20' and checkpoint == 'best_validation'")
    outcomes = outcomes.merge(frames.tables["trials"][["trial_id", "variant", "seed"]]).query("seed == 0")
    wide = outcomes.pivot_table(index=["label", "sample_index"], columns="variant", values="robust", observed=True)
    change = (wide["absld"] - wide["at"]).astype(float)
    half = 1.96 * np.sqrt((change.groupby("label").var() / 200).sum()) / 10
    found = score(paired, "absld", "pgd20", "average")
    assert found["difference"] == pytest.approx(change.groupby("label").mean().mean())
    assert found["difference_sample_high"] - found["difference"] == pytest.approx(half, rel=0.02)
    assert found["pairing"] == "paired by sample"
    loose = score(unpaired, "absld", "pgd20", "average")
    assert loose["pairing"] == "unpaired"
    widths = [line["difference_sample_high"] - line["difference_sample_low"] for line in (loose, found)]
    assert widths[0] > widths[1]
    plain = [
        line["difference_sample_high"] - line["difference_sample_low"]
        for line in (score(paired, "absld", "pgd20", "nsd"), score(unpaired, "absld", "pgd20", "nsd"))
    ]
    assert 0.3 < plain[0] / plain[1] < 1.1, "the bootstrap and the first-order form agree on the size"
    assert score(paired, "absld", "pgd20", "worst")["pairing"] == "paired by sample"


def test_no_effect_is_called_noise():
    specs = [trial_spec("at", seed) for seed in range(5)]
    twins = [trial_spec("at-again", seed, settings={"alpha": 1}) for seed in range(5)]
    same = frames_of([*specs, *twins])
    accuracy = same.tables["class_accuracy"]
    at = accuracy[accuracy["variant"] == "at"].sort_values(["seed", "checkpoint", "attack", "class_index"])
    mask = accuracy["variant"] == "at-again"
    again = accuracy[mask].sort_values(["seed", "checkpoint", "attack", "class_index"])
    noise = np.random.default_rng(0).integers(-4, 5, len(again))
    accuracy.loc[again.index, "correct"] = np.clip(at["correct"].to_numpy() + noise, 0, 200)
    board = leaderboard(read_results(same), baseline="at", paired=False)
    assert score(board, "at-again", "aa_short", "average")["stands"] is False
    table = grid(board, board.settings[0], "best_validation")
    line = next(line for line in table.lines if line.name == "at-again")
    assert line.cells["aa_short", "average"].mark == "≈"
    assert line.cells["pgd20", "average"].mark == "", "not compared"


def test_baseline_is_at_or_the_one_named(board):
    setting = board.settings[0]
    assert pick_baselines(board.rows)[setting] == "at"
    assert pick_baselines(board.rows, "rslad")[setting] == "rslad"
    with pytest.raises(InputError, match="unknown baseline 'nobody'"):
        pick_baselines(board.rows, "nobody")
    roles = board.rows["role"].where(board.rows["variant"] != "at", "teacher")
    with pytest.raises(InputError, match=r"unknown baseline 'at': .*rslad"):
        pick_baselines(board.rows.assign(role=roles), "at")
    rest = board.rows[~board.rows["variant"].isin(["at"])]
    assert pick_baselines(rest)[setting] == "rslad"
    assert pick_baselines(rest[rest["variant"] != "rslad"]) == {}, "one student is compared with nobody"


# Selection


def test_rules_choose_epochs_of_hand_made_records():
    epochs = pd.DataFrame(
        {"trial_id": list("aaabb"), "epoch": [1, 2, 3, 1, 2], "selection_score": [0.3, 0.5, 0.5, 0.4, np.nan]}
    )
    assert RULES["best_validation"].choose(epochs).to_dict() == {"a": 3, "b": 1}, "ties go to the later epoch"
    assert RULES["last"].choose(epochs).to_dict() == {"a": 3, "b": 2}
    assert str(rule("last")) == "last: the last epoch, no selection"
    with pytest.raises(InputError, match="best_validation"):
        rule("best_validaton")


def test_peeked_score_is_the_largest_and_never_less_than_the_honest_one():
    epochs = pd.DataFrame({"trial_id": "a", "epoch": [1, 2, 3], "selection_score": [0.1, 0.9, 0.2]})
    curve = {1: [0.2, 0.4], 2: [0.3, 0.5], 3: [0.5, 0.7]}
    state = pd.DataFrame(
        [("a", epoch, index, "peeked_test_robust", v) for epoch, vs in curve.items() for index, v in enumerate(vs)],
        columns=["trial_id", "epoch", "class_index", "quantity", "value"],
    )
    found = selection_gap(epochs, state).loc["a"]
    assert found["honest_score"] == pytest.approx((0.4 + 0.3) / 2)
    assert found["peeked_score"] == pytest.approx((0.6 + 0.5) / 2)
    assert (found["honest_epoch"], found["peeked_epoch"]) == (2, 3)
    assert found["gap"] == pytest.approx(0.2)


def test_score_of_a_hundred_classes_uses_the_worst_tenth():
    values = np.linspace(0, 0.99, 100)
    state = pd.DataFrame({"trial_id": "a", "epoch": 1, "class_index": range(100), "quantity": "q", "value": values})
    assert class_scores(state, "q").iloc[0] == pytest.approx((values.mean() + values[:10].mean()) / 2)


def test_leaderboard_shows_what_peeking_would_have_given(board):
    rows = board.rows.set_index("variant")
    assert rows.loc["absld", "peeked_score"] >= rows.loc["absld", "honest_score"]
    assert np.isnan(rows.loc["teacher", "peeked_score"])
    text = tables.markdown(board)
    assert "| best\\_validation PGD-20 | last PGD-20 | test score | last test score | peeked test score |" in text


def test_a_network_that_was_not_trained_here_took_no_time_to_train():
    frames = frames_of([trial_spec("at", 0)])
    frames.tables["trials"] = frames.tables["trials"].assign(train_s=0.0, eval_s=200.0)
    board = leaderboard(read_results(frames))
    (line,) = selection_table(board, board.settings[0], "best_validation").to_dict("records")
    assert (line["training"], line["evaluation"]) == ("–", "3 min")


def test_what_nobody_recorded_has_no_column():
    specs = [trial_spec(name, 0, peeked=False) for name in ("at", "rslad")]
    frames = frames_of(specs)
    accuracy = frames.tables["class_accuracy"]
    frames.tables["class_accuracy"] = accuracy[accuracy["checkpoint"] == "best_validation"]
    head = tables.markdown(leaderboard(read_results(frames))).split("### Selection and cost\n\n")[1].split("\n")[0]
    assert head == "| variant | best\\_validation PGD-20 | seeds | training | evaluation | MiB | missing |"


def test_tuning_trials_behind_a_row_are_counted_over_the_whole_store():
    specs = [trial_spec("at", 0), *[trial_spec(f"absld-{i}", 0, settings={"alpha": i}) for i in range(4)]]
    frames = frames_of(specs)
    trials = frames.tables["trials"]
    searched = trials["variant"] != "at"
    frames.tables["trials"] = trials.assign(tuning_id=np.where(searched, "t1", None))
    chosen = [spec.trial_id for spec in specs[:2]]
    board = leaderboard(read_results(frames, trial_ids=chosen))
    rows = board.rows.set_index("variant")["tuning_trials"]
    assert rows["absld-0"] == 4
    assert np.isnan(rows["at"])
    assert "tuning trials" in tables.markdown(board)


# Rows


def test_settings_that_differ_never_share_a_row():
    specs = [trial_spec("absld", 0), trial_spec("absld", 0, settings={"alpha": 0.3}), trial_spec("absld", 1)]
    results = read_results(frames_of(specs))
    assert sorted(results.rows["variant"]) == [
        "absld [method.settings.alpha=0.3]",
        "absld [method.settings.alpha=None]",
    ]
    assert [len(own) for own in results.left_out.values()] == [1], "both over seed 0"
    assert sorted(results.trials.groupby("row").size()) == [1, 1]


def test_report_uses_the_suite_s_names_and_order(frames, specs):
    ids = [spec.trial_id for spec in reversed(specs)]
    results = read_results(frames, trial_ids=ids, variants={specs[1].trial_id: "plain", specs[2].trial_id: "plain"})
    assert list(results.rows["variant"]) == ["teacher", "absld", "rslad", "at", "plain"]


def test_a_store_is_reported_in_part(frames):
    ids = some_trials(frames, ["rslad", "at"], [1, 2])
    results = read_results(frames, trial_ids=ids)
    assert list(results.rows["variant"]) == ["teacher", "rslad", "at"], "in the order asked for, with the teacher"
    assert sorted(results.trials.query("role == 'student'")["seed"]) == [1, 1, 2, 2]
    assert len(some_trials(frames, [], [0])) == 4
    with pytest.raises(InputError, match="unknown method or variant 'rslat': did you mean rslad"):
        some_trials(frames, ["rslat"], [])


def test_a_part_has_the_teachers_of_its_own_tables():
    """Not those of other data sets or radii, which would have a table each; whatever their networks are."""
    attacks = ("clean", "pgd20")
    other, far = {"dataset": "digits"}, {"eps": 0.2}
    teachers = [teacher_spec(attacks=attacks, **own) for own in ({}, other, far)]
    students = [trial_spec("absld", 0, attacks=attacks), trial_spec("at", 0, attacks=attacks, **other)]
    frames = frames_of([*teachers, *students])
    assert some_trials(frames, ["absld"], []) == [teachers[0].trial_id, students[0].trial_id]
    assert some_trials(frames, ["at", "teacher"], [0]) == [teachers[1].trial_id, students[1].trial_id]
    assert set(some_trials(frames, ["teacher"], [])) == {spec.trial_id for spec in (*teachers, *students)}
    alone = frames_of(teachers[:1])
    assert some_trials(alone, ["teacher"], []) == [teachers[0].trial_id]


def test_missing_and_failed_trials_are_said_and_nothing_raises(specs, tmp_path):
    store = fill_store(tmp_path, specs[:4])
    store.commit(failed_row(trial_spec("trades", 0), "Traceback\nRuntimeError: loss is nan"))
    store.commit(failed_row(trial_spec("at", 3)))
    absent = trial_spec("ard", 0)
    ids = [*store.statuses(), absent.trial_id]
    board = leaderboard(read_results(store, trial_ids=ids, variants={absent.trial_id: "ard"}))
    missing = board.rows.set_index("variant")["missing"]
    assert missing["trades"] == "seed 0 failed (RuntimeError: loss is nan)"
    assert missing["at"].startswith("seed 3 failed")
    text = tables.markdown(board)
    assert "trades: seed 0 failed (RuntimeError: loss is nan)" in text
    assert re.search(r"\| trades \|( – \|)+", text)
    assert "Not in the store yet, 1 trials: ard (1)" in text


def test_an_attack_that_some_seeds_lack_is_said():
    specs = [trial_spec("at", 0), trial_spec("at", 1)]
    frames = frames_of(specs)
    accuracy = frames.tables["class_accuracy"]
    gone = (accuracy["attack"] == "aa_short") & (accuracy["seed"] == 1)
    frames.tables["class_accuracy"] = accuracy[~gone]
    board = leaderboard(read_results(frames))
    assert "aa_short on best_validation: 1 of 2 seeds" in board.rows["missing"].iloc[0]


@pytest.mark.parametrize("ids", [None, [], ["0" * 16]])
def test_an_empty_store_says_so(tmp_path, ids):
    console = Console(file=io.StringIO(), width=100)
    print_leaderboard(console, read_results(Store(tmp_path), trial_ids=ids))
    assert "No results yet" in console.file.getvalue()
    written = write_report(read_results(Store(tmp_path), trial_ids=ids), tmp_path / "report")
    assert [path.name for path in written] == ["leaderboard.md", "leaderboard.csv", "leaderboard.tex", "figures.md"]
    assert "No results yet" in written[0].read_text()


def test_a_store_without_the_other_tables_gives_a_leaderboard(specs):
    frames = frames_of(specs[:3], absent=["outcomes", "epochs", "class_state"])
    board = leaderboard(read_results(frames))
    assert np.isnan(score(board, "at", "pgd20", "validation_worst")["value"])
    assert "Val.-worst" in tables.markdown(board)


def test_rows_of_different_class_numbers_stand_in_tables_of_their_own():
    ten = frames_of([trial_spec("at", 0)])
    hundred = frames_of(
        [trial_spec("at", 0, dataset="cifar100")], classes=[f"class {i}" for i in range(100)], per_class=20
    )
    joined = {name: pd.concat([ten.tables[name], hundred.tables[name]]) for name in ten.tables}
    board = leaderboard(read_results(type(ten)(joined)))
    assert len(board.settings) == 2
    many = grid(board, next(s for s in board.settings if s[0] == "cifar100"), "best_validation")
    assert [metric.name for metric in many.metrics] == ["average", "worst", "worst_10_percent", "nsd"]
    values = accuracies(hundred, "at", "pgd20")[0]
    found = many.lines[0].cells["pgd20", "worst_10_percent"].value
    assert found == pytest.approx(np.sort(values)[:10].mean())


def test_a_teacher_of_another_network_stands_in_its_students_table(board):
    assert board.settings == [("fashion_mnist", "cnn(width=16)", 0.1)]
    lines = grid(board, board.settings[0], "best_validation").lines
    assert [line.title for line in lines] == ["absld", "rslad", "at", "teacher cnn(width=32)"]
    alone = leaderboard(read_results(frames_of([teacher_spec()])))
    assert alone.settings == [("fashion_mnist", "cnn(width=32)", 0.1)]


def test_given_checkpoints_stand_in_every_table():
    frames = frames_of([trial_spec("mine", 0, role="evaluation")])
    accuracy = frames.tables["class_accuracy"]
    accuracy = accuracy[accuracy["checkpoint"] == "last"].copy()
    accuracy["checkpoint"] = pd.Categorical(["given"] * len(accuracy))
    frames.tables["class_accuracy"] = accuracy
    board = leaderboard(read_results(frames))
    for checkpoint in ("best_validation", "last"):
        assert grid(board, board.settings[0], checkpoint).lines[0].cells["clean", "average"].value > 0.5


def test_a_table_of_given_networks_claims_no_seeds_and_no_selection():
    frames = frames_of([trial_spec("mine", 0, role="evaluation")])
    accuracy = frames.tables["class_accuracy"]
    frames.tables["class_accuracy"] = accuracy[accuracy["checkpoint"] == "last"].assign(checkpoint="given")
    board = leaderboard(read_results(frames))
    console = Console(file=io.StringIO(), width=200)
    tables.print_board(console, board, "best_validation")
    text, shown = tables.markdown(board), console.file.getvalue()
    for part in (text.replace("\\", ""), shown):
        assert "Checkpoint given: the network as it was given." in part
        assert "Given networks, each of one training" in part
        assert "ne seed" not in part
    assert "eps 0.1 · given" in shown


# Formats


def test_markdown_columns_follow_the_papers(board):
    header = tables.markdown(board).split("\n")[4]
    assert header.startswith("| rank | variant | Score | Clean Avg. | Clean Worst | Clean NSD | FGSM Avg. |")
    assert header.endswith("| AA (short) NSD | seeds | time | MiB |")


def test_markdown_marks_best_and_second(board):
    line = next(line for line in tables.markdown(board).split("\n") if "| absld |" in line)
    best = score(board, "absld", "pgd20", "worst")
    assert best["rank"] == 1
    assert f"**{100 * best['value']:.2f}**" in line


def test_csv_holds_the_numbers(board):
    frame = pd.read_csv(io.StringIO(tables.csv_text(board)))
    line = frame.query("variant == 'rslad' and checkpoint == 'last' and attack == 'cw20'").iloc[0]
    found = score(board, "rslad", "cw20", "average", "last")
    assert line["average"] == pytest.approx(found["value"])
    assert line["average_sample_low"] == pytest.approx(found["sample_low"])
    assert line["worst_difference"] == pytest.approx(score(board, "rslad", "cw20", "worst", "last")["difference"])
    assert len(frame) == 4 * 2 * 5
    assert list(wide(board)["attack"].unique()) == ["clean", "fgsm", "pgd20", "cw20", "aa_short"]


@pytest.mark.filterwarnings("error")
def test_commits_that_nobody_knows_are_no_text(frames):
    """Of a package without a repository: the column holds nothing at all."""
    trials = frames.tables["trials"].assign(git_commit=np.nan, train_git_commit=np.nan)
    rows = leaderboard(read_results(Frames({**frames.tables, "trials": trials}))).rows
    assert set(rows["commits"]) == {""}
    assert all(rows["trial_ids"])


def test_a_row_names_its_trials_and_commits(specs, frames):
    went_on = f"{'a' * 40}, {'b' * 40}+"  # trained on by other code
    trials = frames.tables["trials"]
    mine = (trials["variant"] == "rslad") & (trials["seed"] == 1)
    trials = trials.assign(train_git_commit=trials["git_commit"].astype(object).mask(mine, went_on))
    board = leaderboard(read_results(Frames({**frames.tables, "trials": trials})))
    ids = [spec.trial_id for spec in specs if spec.variant == "rslad"]
    frame = pd.read_csv(io.StringIO(tables.csv_text(board)))
    assert set(frame.loc[frame["variant"] == "rslad", "trial_ids"]) == {" ".join(ids)}
    commits = set(frame.loc[frame["variant"] == "rslad", "commits"].str.split().explode())
    assert commits == {"0" * 40, "a" * 40, "b" * 40 + "+"}
    assert set(frame.loc[frame["variant"] == "at", "commits"].astype(str)) == {"0" * 40}
    (line,) = [line for line in tables.markdown(board).split("\n") if ids[0] in line]
    assert line.startswith("| rslad |")
    assert line.endswith(f"| {' '.join(ids)} |")
    assert f"{'b' * 12}+" in line


def test_many_trials_of_a_row_are_counted():
    specs = [trial_spec("at", seed) for seed in range(15)]
    board = leaderboard(read_results(frames_of(specs)))
    (told,) = origins_table(board, board.settings[0])["trials"]
    assert told == " ".join(spec.trial_id for spec in specs[:12]) + " and 3 more"
    assert board.rows["trial_ids"].iloc[0].split() == [spec.trial_id for spec in specs]


def test_caption_says_what_a_reader_must_know(board):
    text = " ".join(caption(board, board.settings[0], "best_validation"))
    for part in (
        "fashion_mnist, cnn(width=16), L-inf eps 0.1",
        "seeds 0, 1, 2",
        "best_validation: the epoch with the largest",
        "NSD: population standard deviation",
        "PGD-20: 20 steps of eps/4, 1 random start, robust on every iterate, 2,000 images",
        "Against at",
    ):
        assert part in text
    assert "Trained for 20 epochs on a subset of 12,000 images." in text
    assert eps_text(8 / 255) == "8/255"
    assert eps_text(0.1) == "0.1"


def test_caption_names_the_seeds_where_rows_differ():
    specs = [trial_spec("at", 0), trial_spec("trades", 0), trial_spec("rslad", 0), trial_spec("rslad", 1)]
    board = leaderboard(read_results(frames_of(specs)))
    seeds = caption(board, board.settings[0], "last")[1]
    assert seeds == "One seed (0): differences between seeds are not in these numbers.", "the one that all rows have"
    assert "Left out of averages, for other rows of their table lack these seeds: rslad 1." in board.notes
    specs = [trial_spec(name, seed) for name in ("at", "trades", "absld") for seed in (0, 1, 2)]
    board = leaderboard(read_results(frames_of([*specs, trial_spec("rslad", 0), trial_spec("rslad", 4)])))
    seeds = caption(board, board.settings[0], "last")[1]
    assert seeds == "Mean over seeds 0, 4 for rslad; mean over seeds 0, 1, 2 for all others."
    frame = intervals_table(board, board.settings[0], "last")
    changes = frame[(frame["variant"] == "rslad") & (frame["attack"] == "PGD-20")]["Δ Avg. to at"]
    assert "(over seeds 0)" in changes.iloc[0]


@pytest.mark.parametrize(
    ("value", "metric", "text"),
    [
        (0.53075, "average", "53.08"),  # 53.075: its binary neighbour lies below
        (0.2015, "nsd", "0.202"),
        (0.20147, "nsd", "0.201"),
        (-0.0000001, "average", "0.00"),
        (None, "nsd", "–"),
    ],
)
def test_numbers_are_rounded_half_up_from_their_decimals(value, metric, text):
    assert number(value, METRICS[metric]) == text


def test_terminal_fits_its_width(board):
    for width in (60, 100, 200):
        console = Console(file=io.StringIO(), width=width)
        tables.print_board(console, board, "best_validation")
        lines = console.file.getvalue().split("\n")
        assert max(map(len, lines)) <= width
        for word in ("absld", "PGD-20", "AA (short)", "seeds"):
            assert any(word in line for line in lines)


@pytest.mark.parametrize("width", [60, 80, 200])
def test_terminal_digits_stand_below_digits_in_every_block(board, width):
    console = Console(file=io.StringIO(), width=width)
    tables.print_board(console, board, "best_validation")
    lines = console.file.getvalue().split("\n")
    blocks: list[list[str]] = []
    for line in lines:
        if " variant " in line:
            blocks.append([])
        elif re.match(r" *\d (absld|at|rslad) ", line):
            blocks[-1].append(line)
    points = [{tuple(found.start() for found in re.finditer(r"\.", line)) for line in block} for block in blocks]
    assert all(len(each) == 1 for each in points), blocks
    first = next(iter(points[0]))
    for (each,) in points[:-1]:
        assert each == first, "columns of one block stand below those of the block above"
    titles = [line.index(name) for name in ("Clean", "PGD-20") for line in lines if line.lstrip().startswith(name)]
    assert len(set(titles)) == 1


HOSTILE = (
    "<b>bold</b>|pipe & 100% $x_1$ #1 ~^{}\\end{table}",
    '=HYPERLINK("http://x")',
    "[red]name[/red] `code` *star*",
    "\x1b[31mred\x1b[0m\nnext",
    "日本語 αβγ café",
)


@pytest.fixture(scope="module")
def hostile_board():
    specs = [trial_spec("at", 0), *[trial_spec(name, 0, settings={"alpha": i}) for i, name in enumerate(HOSTILE)]]
    return leaderboard(read_results(frames_of(specs)))


def test_names_are_escaped_in_markdown(hostile_board):
    text = tables.markdown(hostile_board)
    assert "<b>" not in text
    assert "\x1b" not in text
    assert "&lt;b&gt;bold&lt;/b&gt;\\|pipe &amp; 100% \\$x\\_1\\$ \\#1" in text
    rows = [line for line in text.split("\n") if line.startswith("|")][: 2 + 6]
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in rows}) == 1, "a name must not make columns"


def test_names_are_escaped_in_csv(hostile_board):
    names = [line["variant"] for line in csv.DictReader(io.StringIO(tables.csv_text(hostile_board)))]
    assert '\'=HYPERLINK("http://x")' in names
    assert not any(name.startswith(("=", "+", "-", "@")) for name in names)
    assert escape.csv("@SUM(1)") == "'@SUM(1)"
    assert escape.csv("\t=1") == "'=1"


def test_names_are_escaped_in_the_terminal(hostile_board):
    console = Console(file=io.StringIO(), width=200, force_terminal=True, color_system="truecolor")
    tables.print_board(console, hostile_board, "best_validation")
    text = console.file.getvalue()
    assert "[red]name[/red]" in text
    assert "\x1b[31mred" not in text


def test_latex_escapes_every_special_character():
    assert escape.latex("a_b & 50% $x$ #1 {y} ~^\\") == (
        r"a\_b \& 50\% \$x\$ \#1 \{y\} \textasciitilde{}\textasciicircum{}\textbackslash{}"
    )
    assert escape.latex("café λ 日") == r"café $\lambda$ Ri"
    assert escape.latex("[2pt] *") == "{[}2pt{]} {*}", "after a line's end these would be its options"


def test_latex_has_the_papers_layout(board):
    text = latex(board)
    assert r"\multicolumn{3}{c}{PGD-20}" in text
    assert text.count(r"\textbf") >= 15
    assert text.count(r"\underline") >= 15
    assert "\\toprule" in text
    half = latex(board, paper=Paper("seeds"))
    found = score(board, "absld", "pgd20", "average")
    assert f"$\\pm${100 * (found['seed_high'] - found['value']):.2f}" in half
    brackets = latex(board, paper=Paper("samples", "brackets"))
    assert f"[{100 * found['sample_low']:.1f}, {100 * found['sample_high']:.1f}]" in brackets


@pytest.mark.parametrize(
    ("value", "ends", "text"),
    [
        (0.0083, (0.0, 0.0342), "$^{+2.59}_{-0.83}$"),
        (0.5, (0.48, 0.52), "$\\pm$2.00"),
        (0.1, (0.12, 0.2), "[12.0, 20.0]"),
    ],
)
def test_latex_says_no_symmetric_interval_where_it_is_not(value, ends, text):
    cell = Cell(value, METRICS["worst"], seeds=ends)
    assert _cell(cell, "seeds", "pm") == f"{100 * value:.2f} {{\\tiny{text}}}"


# A document that takes the tables in compiles; CI installs TeX from Debian, so there it must.
@pytest.mark.slow
@pytest.mark.parametrize("engine", ["pdflatex", "lualatex"])
def test_a_document_with_the_tables_compiles(engine, board, hostile_board, tmp_path):
    if not shutil.which(engine) and (engine == "lualatex" or "CI" not in os.environ):
        pytest.skip(f"{engine} is not installed")
    (tmp_path / "plain.tex").write_text(latex(board))
    (tmp_path / "seeds.tex").write_text(latex(board, paper=Paper("seeds")))
    (tmp_path / "hostile.tex").write_text(latex(hostile_board, paper=Paper("samples", "brackets")))
    (tmp_path / "samples.tex").write_text(latex(board, paper=Paper("samples", "brackets")))
    inputs = "".join(f"\\input{{{name}}}\\clearpage\n" for name in ("plain", "seeds", "samples", "hostile"))
    (tmp_path / "paper.tex").write_text(
        "\\documentclass[twocolumn]{article}\n\\usepackage[margin=0.75in]{geometry}\n\\usepackage{booktabs}\n"
        f"\\begin{{document}}\n{inputs}\\end{{document}}\n"
    )
    command = [engine, "-interaction=nonstopmode", "-halt-on-error", "paper.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, errors="replace")
    assert done.returncode == 0, done.stdout[-2000:]
    assert (tmp_path / "paper.pdf").stat().st_size > 20_000
    tables_of_plain_names = done.stdout.split("(./hostile")[0]
    assert "Overfull" not in tables_of_plain_names, "the tables fit the text width of a two-column paper"


# Size and imports


@pytest.mark.slow
@pytest.mark.parametrize(("trials", "classes", "variants"), [(1250, 10, 62), (250, 100, 25)])
def test_four_times_the_trials_take_no_more_than_twice_four_times_as_long(trials, classes, variants):
    few, many = (big_frames(times * trials, classes, variants=times * variants) for times in (1, 4))

    def written(frames):
        board = leaderboard(read_results(frames))
        assert all((tables.markdown(board), tables.csv_text(board), latex(board)))

    assert effort.growth(lambda: written(few), lambda: written(many)) < 8


def test_the_report_imports_neither_torch_nor_ray():
    code = (
        "import sys, harness.report.write, harness.report.figures.draw, harness.report.page.page\n"
        "assert not {'torch', 'ray', 'matplotlib.pyplot'} & set(sys.modules), sorted(sys.modules)"
    )
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", code], check=True, cwd=root, env={**os.environ, "PYTHONPATH": str(root)})


def test_write_report_returns_what_it_wrote(frames, tmp_path):
    written = write_report(
        read_results(frames), tmp_path, Form(figures=["nsd", "hyperparameter_response"], formats=["png"])
    )
    assert [path.name for path in written] == [
        "leaderboard.md", "leaderboard.csv", "leaderboard.tex", "nsd.png", "figures.md",
    ]  # fmt: skip
    assert "left out: hyperparameter_response" in written[-1].read_text()
    assert all(path.stat().st_size > 100 for path in written)
    assert "20 steps of eps/4" in written[-1].read_text(), "figures have the caption of the tables"
    with pytest.raises(InputError, match="did you mean nsd"):
        write_report(read_results(frames), tmp_path / "never", Form(figures=["ndd"]))
    assert not (tmp_path / "never").exists()
    for option in ({"formats": ["gif"]}, {"width": "page"}, {"intervals": "both"}, {"style": "plus"}):
        with pytest.raises(InputError, match="unknown"):
            Form(**option)
    with pytest.raises(InputError, match="figures without a format: png, pdf, svg"):
        Form(formats=[])


def test_names_of_files_are_latin_without_dots_and_never_alike():
    titles = ["eps 0.1", "eps 0-1", "EPS 0.1", "猫", "マオ/1", "...", "x" * 80, "x" * 90, "eps 0.1"]
    names = file_names(titles)
    assert list(names) == titles[:-1]
    assert [names[title] for title in titles[:3]] == ["eps-0-1", "eps-0-1-2", "EPS-0-1-3"]
    assert all(re.fullmatch("[A-Za-z0-9-]+", name) for name in names.values())
    assert len({name.lower() for name in names.values()}) == len(names)


def test_figures_of_two_settings_have_names_that_latex_takes(tmp_path):
    results = read_results(frames_of([trial_spec("at", 0, eps=eps) for eps in (0.1, 0.25)], per_class=20))
    written = write_report(results, tmp_path, Form(figures=["nsd"], formats=["pdf"]))
    figures = [path.name for path in written if path.suffix == ".pdf"]
    assert figures == [f"nsd-fashion-mnist-cnn-width-16-L-inf-eps-0-{digits}.pdf" for digits in ("1", "25")]


def test_the_command_s_options_reach_figures_and_table(frames, board, tmp_path):
    options = {"intervals": "samples", "style": "brackets", "width": "text", "formats": ["svg"]}
    written = write_report(read_results(frames), tmp_path, Form(figures=["nsd"], **options))
    assert (tmp_path / "leaderboard.tex").read_text() == latex(board, paper=Paper("samples", "brackets"))
    assert 'width="486pt"' in written[3].read_text(), "6.75 inches"


def test_the_command_reports_a_part_of_a_store(tmp_path):
    fill_store(tmp_path / "store", [trial_spec(name, seed) for name in VARIANTS for seed in (0, 1)], per_class=20)
    options = [
        "--methods",
        "rslad,absld",
        "--seeds",
        "1",
        "--baseline",
        "absld",
        "--figures",
        "nsd,selection_gap,confusion",
    ]
    done = report_command("store", tmp_path, *options, "--formats", "svg")
    assert done.exit_code == 0, done.output
    assert "No arrows against absld" in done.stdout
    assert "One seed (1)" in done.stdout
    assert not re.search(r"^at ", done.stdout, re.MULTILINE)
    assert (tmp_path / "store" / "report" / "nsd.svg").is_file()
    assert not (tmp_path / "store" / "report" / "nsd.png").exists()


@pytest.mark.parametrize("options", [("--figures", "nosuch"), ("--formats", "gif"), ("--baseline", "nosuch")])
def test_a_refused_report_leaves_nothing(tmp_path, options):
    fill_store(tmp_path / "store", [trial_spec("at", 0)], per_class=20)
    done = report_command("store", tmp_path, "--into", "new/report", *options)
    assert isinstance(done.exception, InputError)
    assert not (tmp_path / "new").exists()
    (tmp_path / "there").mkdir()
    assert isinstance(report_command("store", tmp_path, "--into", "there", *options).exception, InputError)
    assert list((tmp_path / "there").iterdir()) == []


@pytest.mark.parametrize("options", [("--figures", "nosuch"), ("--figures", "nsd:weight"), ("--formats", "gif")])
def test_a_refused_report_prints_nothing_where_it_would_only_be_printed(tmp_path, options):
    fill_store(tmp_path / "store", [trial_spec("at", 0)], per_class=20)
    (tmp_path / "store" / "report").write_text("a file, so no folder can be made of that name")
    done = report_command("store", tmp_path, *options)
    assert isinstance(done.exception, InputError)
    assert (done.stdout, done.stderr) == ("", "")


def test_the_command_refuses_a_checkpoint_that_no_trial_has(tmp_path):
    trial, tables = trial_tables(trial_spec("at", 0, peeked=False), per_class=20)
    accuracy = tables["class_accuracy"]
    tables["class_accuracy"] = accuracy[accuracy["checkpoint"] == "best_validation"]
    Store(tmp_path / "store").commit(trial, tables)
    done = report_command("store", tmp_path, "--checkpoint", "last", "--figures", "nsd")
    assert isinstance(done.exception, InputError)
    assert "no trial of this report was evaluated at checkpoint 'last': give --checkpoint best_validation" in str(
        done.exception
    )
    assert not (tmp_path / "store" / "report").exists()


def test_the_command_says_why_a_figure_that_was_asked_for_is_left_out(tmp_path):
    fill_store(tmp_path / "store", [trial_spec("at", 0, peeked=False)], per_class=20)
    done = report_command("store", tmp_path, "--figures", "selection_gap")
    assert "left out: selection_gap: no trial recorded its test curve (record_test_curve)" in done.stderr


@pytest.mark.parametrize(
    ("folder", "options", "message"),
    [
        ("store", ["--set", "eps=0.2"], "--set changes a suite"),
        ("store", ["--baseline", "rsald"], "unknown baseline 'rsald': did you mean rslad"),
        ("store", ["--width", "page"], "unknown width 'page'"),
        ("store", ["--formats", ""], "figures without a format: png, pdf, svg"),
        ("store", ["--figures", "class_quantity:val_robst"], "unknown quantity of the classes 'val_robst': did you"),
        (".", [], "is not a result store"),
    ],
)
def test_the_command_refuses_what_it_cannot_report(tmp_path, folder, options, message):
    fill_store(tmp_path / "store", [trial_spec(name, 0) for name in ("at", "rslad")], per_class=20, absent=["outcomes"])
    with pytest.raises(InputError, match=re.escape(message)):
        raise report_command(folder, tmp_path, *options).exception
    assert not (tmp_path / "store" / "report").exists()


def report_command(folder: str, where: Path, *options: str):
    return CliRunner().invoke(app, ["report", str(where / folder), *options])


def test_the_same_store_gives_the_same_bytes(frames, tmp_path):
    form = Form(figures=["nsd"], formats=["pdf", "svg"])
    first = write_report(read_results(frames), tmp_path / "a", form)
    second = write_report(read_results(frames), tmp_path / "b", form)
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


def test_a_real_store_on_disk_gives_the_same_leaderboard(specs, frames, board, tmp_path):
    store = fill_store(tmp_path, specs)
    found = leaderboard(read_results(store))
    first, second = (wide(one).reset_index(drop=True).drop(columns="teacher") for one in (found, board))
    pd.testing.assert_frame_equal(first, second, check_dtype=False)
    assert set(CLOTHES) == set(store.read("class_accuracy")["class_name"])


# Unlike numbers of images


def unequal_frames():
    """Two variants, three seeds; class 0 has a tenth of the images that the others have."""
    frames = frames_of([trial_spec(name, seed) for name in ("at", "absld") for seed in range(3)])
    accuracy = frames.tables["class_accuracy"]
    rare = accuracy["class_index"] == 0
    accuracy.loc[rare, "n"] = 20
    accuracy.loc[rare, "correct"] = (accuracy.loc[rare, "correct"] // 10).clip(0, 20)
    accuracy["accuracy"] = accuracy["correct"] / accuracy["n"]
    frames.tables["outcomes"] = frames.tables["outcomes"].iloc[:0]
    return frames


def test_overall_accuracy_and_class_counts_stand_where_classes_are_unequal():
    frames = unequal_frames()
    board = leaderboard(read_results(frames))
    setting = board.settings[0]
    accuracy = frames.tables["class_accuracy"].query("variant == 'at' and attack == 'pgd20' and checkpoint == 'last'")
    by_seed = accuracy.groupby("seed")[["correct", "n"]].sum()
    assert score(board, "at", "pgd20", "overall", "last")["value"] == pytest.approx(
        (by_seed["correct"] / by_seed["n"]).mean()
    )
    text = tables.markdown(board, "last")
    assert "| PGD-20 Avg. | PGD-20 Overall | PGD-20 Worst | PGD-20 NSD |" in text
    assert "Test images by class: T-shirt/top 20, Trouser 200," in text
    assert "1,820 images, 20 to 200 of a class" in " ".join(caption(board, setting, "last"))
    assert "Overall" in latex(board, "last")
    assert page_data(read_results(frames), board, "last")["rows"][0]["class_images"]["pgd20"] == [20, *[200] * 9]


def test_equal_classes_have_no_overall_accuracy(board):
    assert "overall" not in set(board.scores["metric"])
    assert "Overall" not in tables.markdown(board)
    assert "Test images: 200 of each of 10 classes." in tables.markdown(board)


def test_selection_on_few_held_out_images_is_warned_of():
    assert few_held_out(torch.tensor([0] * 20 + [1] * 20), ("cat", "dog")) is None
    text = few_held_out(torch.tensor([0] * 20 + [1] * 7), ("cat", "dog"))
    assert text is not None
    assert text.endswith("fewer than 20 held-out images in 1 of 2 classes (class dog has 7)")
    frames = frames_of([trial_spec(name, seed) for name in ("at", "absld") for seed in (0, 1)])
    trials = frames.tables["trials"]["trial_id"]
    frames.tables["notes"] = pd.DataFrame({"trial_id": trials, "source": "validation", "text": text})
    notes = leaderboard(read_results(frames)).notes
    assert notes.count(f"fashion_mnist: {text}.") == 1


def test_a_network_that_predicts_one_class_only_is_remarked():
    frames = frames_of([trial_spec(name, seed) for name in ("at", "absld") for seed in range(3)])
    accuracy = frames.tables["class_accuracy"]
    constant = (accuracy["variant"] == "absld") & (accuracy["seed"] == 1) & (accuracy["checkpoint"] == "last")
    accuracy.loc[constant, "correct"] = np.where(accuracy.loc[constant, "class_index"] == 3, 200, 0)
    notes = leaderboard(read_results(frames), paired=False).notes
    assert [note for note in notes if "one class only" in note] == [
        "fashion_mnist, cnn(width=16): absld, seed 1, last: predicts one class only (Dress)."
    ]


def test_one_class_alone_that_withstands_an_attack_is_no_constant_network():
    frames = frames_of([trial_spec(name, seed) for name in ("at", "absld") for seed in range(3)])
    accuracy = frames.tables["class_accuracy"]
    broken = (accuracy["variant"] == "absld") & (accuracy["seed"] == 1) & (accuracy["attack"] != "clean")
    accuracy.loc[broken, "correct"] = np.where(accuracy.loc[broken, "class_index"] == 3, 200, 0)
    notes = leaderboard(read_results(frames), paired=False).notes
    assert not [note for note in notes if "one class only" in note]


def test_captions_say_that_the_teacher_is_fixed():
    def words(*specs):
        board = leaderboard(read_results(frames_of(list(specs))))
        return " ".join(caption(board, board.settings[0], "last"))

    student = trial_spec("rslad", 0)
    assert "One teacher, which is fixed" in words(student, trial_spec("absld", 0), trial_spec("at", 0))
    assert "fixed" not in words(trial_spec("at", 0), trial_spec("trades", 0))
    other = student.teachers["teacher"].model_copy(update={"training": "b" * 16})
    taught = trial_spec("absld", 0).model_copy(update={"teachers": {"teacher": other}})
    assert "2 teachers, each of them fixed" in words(student, taught)
