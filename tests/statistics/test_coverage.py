"""The simulations behind docs/statistics.md: the document has their rows, and they keep the promises made there."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy import stats

from benchmarks import coverage
from harness.statistics import metrics
from harness.statistics.comparison import holm
from harness.statistics.intervals import nsd_interval
from harness.statistics.multiple_comparisons import compare_family, detectable
from harness.statistics.nsd_interval import nsd_difference_bounds
from harness.statistics.pairing import Paired
from harness.statistics.worst_class import may_be_worst, worst_difference_bounds

ROWS = json.loads(coverage.ROWS.read_text())


def test_the_document_quotes_the_simulations() -> None:
    document = coverage.DOCUMENT.read_text(encoding="utf-8")
    assert coverage.written_into(document, ROWS) == document
    assert all(row["tables"] >= 2000 for part in ROWS.values() for row in part)


def test_at_most_one_table_in_ten_of_equal_variants_has_a_false_mark() -> None:
    assert {(row["seeds"], row["variants"]) for row in ROWS["families"]} == {(3, 5), (3, 11), (6, 5), (6, 11)}
    assert {"one variant x 30", "baseline x 30"} <= {row["spread"] for row in ROWS["families"]}
    assert max(row["false marks"] for row in ROWS["families"]) <= 0.10


def test_paired_bounds_cover() -> None:
    slack = 3 * np.sqrt(0.95 * 0.05 / 2000)
    for row in ROWS["pairs"]:
        assert row["worst covered"] > 0.95 - slack, row
        assert row["nsd covered"] > 0.93 - slack, row
        assert abs(row["average covered"] - 0.95) < 0.01 + slack, row


def test_crossed_intervals_cover() -> None:
    slack = 3 * np.sqrt(0.95 * 0.05 / 2000)
    assert min(row["covered"] for row in ROWS["crossed"]) > 0.95 - slack
    assert min(row["over seeds alone"] for row in ROWS["crossed"]) < 0.01, "which says nothing of teachers"


def test_a_small_run_of_the_simulations_gives_the_same_rows_each_time() -> None:
    first, second = ([*coverage.families(4)], [*coverage.families(4)])
    assert first == second
    assert list(coverage.crossed(4)) == list(coverage.crossed(4))
    design = [("10", np.full(10, 10), 1)]
    pairs = [list(coverage.pairs(3, coverage.PAIRS[:2], design)) for _ in range(2)]
    assert pairs[0] == pairs[1]
    assert [row["worst found"] for row in pairs[0] if "worst found" in row] == [0.0]
    assert "| 10 |" in coverage.rendered({"pairs": pairs[0]})


def test_drawn_pairs_have_the_accuracies_asked_for() -> None:
    n = np.full(10, 1000)
    drawn = list(
        coverage.drawn_pairs(np.random.default_rng(0), coverage.APART, coverage.PROFILES["all tied"], n, 2, 300)
    )
    accuracy = np.mean([pair.accuracy for pair in drawn], axis=0)
    np.testing.assert_allclose(accuracy[:2], np.tile(coverage.APART, (2, 1)), atol=0.005)
    np.testing.assert_allclose(accuracy[2:], 0.5, atol=0.005)


class TestFamily:
    def test_two_variants_are_a_paired_t_test(self) -> None:
        values = np.random.default_rng(0).normal(size=(4, 2, 1))
        found = compare_family(values, [(1, 0)])
        assert found.p[0] == pytest.approx(stats.ttest_rel(values[:, 1], values[:, 0]).pvalue)
        assert found.df == 3

    def test_the_error_is_the_largest_of_residuals_and_pairs(self) -> None:
        values = np.random.default_rng(1).normal(size=(3, 4, 2))
        found = compare_family(values, [(1, 0), (2, 0), (3, 0)])
        for column in range(2):
            table = values[:, :, column]
            rest = table - table.mean(0) - table.mean(1, keepdims=True) + table.mean()
            pairs = (table[:, 1:] - table[:, :1]).var(axis=0, ddof=1)
            expected = np.maximum(np.maximum(2 * (rest**2).sum() / 6, pairs.mean()), pairs)
            assert found.error[:, column] == pytest.approx(np.sqrt(expected / 3))
            own, seeds_df = table[:, 1:] - table[:, :1], 2
            mean, average = (own.mean(axis=1).var(ddof=1), own.var(axis=0, ddof=1).mean())
            pairs_df = average**2 / (mean**2 / seeds_df + (average - mean) ** 2 / (seeds_df * 2))
            usual = 2 / (1 / 6 + 1 / pairs_df)
            others = np.minimum((pairs.sum() - pairs) / 2, expected)
            df = expected**2 / (others**2 / usual + (expected - others) ** 2 / seeds_df)
            assert found.df[:, column] == pytest.approx(df)
        raw = 2 * stats.t.sf(np.abs(found.difference / found.error), found.df)
        assert found.p.ravel() == pytest.approx(holm(raw.ravel()))
        assert found.comparisons == 6

    @pytest.mark.parametrize("restless", [0, 4])
    def test_one_far_more_restless_variant_or_baseline_makes_no_false_marks(self, restless: int) -> None:
        """With so few seeds its spread is hardly known, whatever the others say."""
        spread = np.where(np.arange(5) == restless, 30.0, 1.0)
        values = spread[:, None] * np.random.default_rng(6).normal(size=(2000, 3, 5, 3))
        found = compare_family(values, coverage.against_first(5))
        assert found.stands.any(axis=(1, 2)).mean() <= 0.10
        turned = compare_family(values, [(1, 0), (0, 2), (3, 0), (0, 4)])
        assert turned.p == pytest.approx(found.p), "whichever comes first"

    def test_only_what_is_compared_is_counted(self) -> None:
        values = np.random.default_rng(2).normal(size=(3, 3, 2))
        chosen = np.array([[True, False], [False, False]])
        found = compare_family(values, [(1, 0), (2, 0)], chosen)
        assert found.comparisons == 1
        assert np.isnan(found.p[~chosen]).all()
        assert found.p[0, 0] == pytest.approx(
            2 * stats.t.sf(abs(found.difference[0, 0] / found.error[0, 0]), found.df[0, 0])
        )

    def test_a_column_that_a_variant_lacks_is_that_of_the_others(self) -> None:
        values = np.random.default_rng(3).normal(size=(3, 4, 2))
        without = compare_family(values[:, :3, :], [(1, 0), (2, 0)])
        values[1, 3, 0] = np.nan
        found = compare_family(values, [(1, 0), (2, 0), (3, 0)])
        assert np.isnan(found.p[2, 0])
        assert found.error[:2, 0] == pytest.approx(without.error[:, 0])
        assert found.df[:2, 0] == pytest.approx(without.df[:, 0])
        assert not np.isnan(found.p[:, 1]).any()

    def test_seeds_that_all_agree_prove_nothing_and_two_are_too_few(self) -> None:
        values = np.tile([[0.5], [0.6]], (3, 1, 1))
        assert np.isnan(compare_family(values, [(1, 0)]).p).all()
        with pytest.raises(ValueError, match="3 seeds"):
            compare_family(values[:2], [(1, 0)])

    def test_detectable_is_where_a_paired_t_test_has_80_percent_power(self) -> None:
        shift = detectable(1.0, 5, 1, 1)
        critical = stats.t.ppf(0.975, 4)
        assert stats.nct.sf(critical, 4, shift / np.sqrt(2 / 5)) == pytest.approx(0.8, abs=1e-6)
        assert detectable(1.0, 3, 4, 3) > detectable(1.0, 5, 4, 3) > detectable(1.0, 10, 4, 3)


class TestWorstClass:
    @staticmethod
    def pair(first: list[int], second: list[int], shared: list[int], n: int = 1000) -> Paired:
        """One network each; shared: images of a class that both got right."""
        right = np.array([first, second], dtype=float)
        both = np.empty((len(first), 2, 2))
        both[:, 0, 0], both[:, 1, 1] = right
        both[:, 0, 1] = both[:, 1, 0] = shared
        return Paired(np.full(len(first), float(n)), right, both)

    def test_a_class_that_is_worst_beyond_doubt_is_compared_by_image(self) -> None:
        found = worst_difference_bounds(self.pair([260, 700, 800], [200, 700, 800], [180, 650, 760]))
        z = stats.norm.ppf(1 - 0.9 * 0.025)
        middle, error = 0.06, np.sqrt(((80 + 20 + 1) / 1002 - (60 / 1002) ** 2) / 1002)
        assert found == pytest.approx((middle - z * error, middle + z * error))

    def test_pairing_narrows_and_turning_mirrors(self) -> None:
        tight, loose = (self.pair([300, 320], [290, 330], shared) for shared in ([280, 310], [90, 100]))
        assert np.ptp(worst_difference_bounds(tight)) < np.ptp(worst_difference_bounds(loose))
        low, high = worst_difference_bounds(tight)
        assert worst_difference_bounds(tight.turned()) == pytest.approx((-high, -low))
        assert low < 0.01 < high

    def test_absent_classes_count_nowhere(self) -> None:
        pair = self.pair([300, 500], [290, 510], [280, 450])
        wider = Paired(
            np.r_[pair.n, 0], np.pad(pair.right, ((0, 0), (0, 1))), np.pad(pair.both, ((0, 1), (0, 0), (0, 0)))
        )
        assert worst_difference_bounds(wider) == pytest.approx(worst_difference_bounds(pair))

    def test_candidates_have_the_worst_class_and_leave_out_what_is_clearly_better(self) -> None:
        accuracy = np.array([[0.3, 0.31, 0.6]])
        assert may_be_worst(accuracy, np.full((1, 3), 0.0002), 0.0025).tolist() == [[True, True, False]]


class TestNsdDifference:
    def test_independent_networks_combine_their_own_intervals(self) -> None:
        right, n = np.array([[300.0, 500, 700], [400, 500, 600]]), np.full(3, 1000.0)
        both = np.einsum("kc,lc->ckl", right, right) / 1000
        both[:, [0, 1], [0, 1]] = right.T
        low, high = nsd_difference_bounds(Paired(n, right, both))
        one, other = (nsd_interval(row, n) for row in right)
        middle = one.estimate - other.estimate
        reach = np.hypot(one.estimate - one.low, other.high - other.estimate)
        assert low == pytest.approx(middle - reach, rel=2e-3)
        assert low < metrics.nsd(right[0] / n) - metrics.nsd(right[1] / n) < high

    def test_a_side_that_may_be_even_adds_no_error_downwards(self) -> None:
        right, n = np.array([[500.0, 500, 500], [400, 500, 600]]), np.full(3, 1000.0)
        both = np.einsum("kc,lc->ckl", right, right) / 1000
        both[:, [0, 1], [0, 1]] = right.T
        low, _ = nsd_difference_bounds(Paired(n, right, both))
        assert low == pytest.approx(-float(nsd_interval(right[1], n).high))
