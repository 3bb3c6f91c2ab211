"""Intervals against scipy, statsmodels, closed forms and, for their coverage, simulation."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

from harness.statistics import comparison, metrics
from harness.statistics import intervals as statistics
from harness.statistics.metrics import Floats

COUNTS = np.array([0, 1, 37, 250, 499, 500])


@pytest.mark.parametrize("level", [0.9, 0.95])
def test_class_intervals_are_the_textbooks(level: float) -> None:
    for function, name in ((statistics.class_interval, "jeffreys"), (statistics.exact_bounds, "beta")):
        found = function(COUNTS, 500, level)
        low, high = proportion_confint(COUNTS, 500, 1 - level, method=name)
        inner = (COUNTS > 0) & (COUNTS < 500)
        np.testing.assert_allclose(found.low[inner], np.asarray(low)[inner], rtol=1e-9)
        np.testing.assert_allclose(found.high[inner], np.asarray(high)[inner], rtol=1e-9)
        assert (found.low[0], found.high[-1]) == (0.0, 1.0)
        assert found.source == "test samples"
    exact = statistics.exact_bounds([7], [20], level)
    reference = stats.binomtest(7, 20).proportion_ci(level)
    assert (exact.low[0], exact.high[0]) == pytest.approx((reference.low, reference.high))


def test_absent_class_has_no_interval() -> None:
    found = statistics.class_interval([5, 0], [10, 0])
    assert np.isnan([found.estimate[1], found.low[1], found.high[1]]).all()
    whole = statistics.average_interval([5, 0, 3], [10, 0, 10])
    assert whole.estimate == pytest.approx(0.4)
    assert whole.low == pytest.approx(statistics.average_interval([5, 3], [10, 10]).low)
    nsd = statistics.nsd_interval([50, 0, 30], [100, 0, 100])
    assert nsd.high == pytest.approx(statistics.nsd_interval([50, 30], [100, 100]).high)


def test_average_of_one_class_is_wilsons_interval() -> None:
    found = statistics.average_interval([37], [501])
    # The variance divides by n - 1, so the effective number of samples is one less.
    low, high = proportion_confint(37 / 501 * 500, 500, method="wilson")
    assert (found.low, found.high) == pytest.approx((low, high), rel=1e-9)
    perfect = statistics.average_interval([100, 100], [100, 100])
    assert perfect.high == 1.0
    assert 0.97 < perfect.low < 1.0


def test_simultaneous_bounds_are_exact_ones_at_sidaks_level() -> None:
    correct, n = np.array([30, 50, 52, 80]), np.full(4, 100)
    found = statistics.simultaneous_bounds(correct, n)
    for index, count in enumerate(correct):
        each = stats.binomtest(int(count), 100).proportion_ci(0.95**0.25)
        assert (found.low[index], found.high[index]) == pytest.approx((each.low, each.high))
    worst = statistics.worst_interval(correct, n)
    assert (worst.estimate, worst.low, worst.high) == (0.3, found.low[0], found.high[0])


def test_nsd_estimate_takes_the_noise_off() -> None:
    correct, n = np.array([55, 60, 65, 60]), np.full(4, 100)
    found = statistics.nsd_interval(correct, n)
    observed = metrics.nsd(correct / n)
    assert found.low == 0.0  # these four could well be equal
    assert found.estimate < observed < found.high
    wide = statistics.nsd_interval([100, 500, 900], [1000, 1000, 1000])
    assert wide.estimate == pytest.approx(metrics.nsd([0.1, 0.5, 0.9]), rel=0.01)
    assert wide.low < wide.estimate < wide.high


def test_nsd_of_equal_classes_has_an_upper_bound_and_of_nothing_none() -> None:
    tied = statistics.nsd_interval([50, 50, 50], [100, 100, 100])
    assert (tied.estimate, tied.low) == (0.0, 0.0)
    assert tied.high == pytest.approx(np.sqrt(0.5 * 0.5 / 100 * 2 / 3) / 0.5)
    perfect = statistics.nsd_interval([100, 100], [100, 100])
    assert 0.0 < perfect.high < 0.03
    nothing = statistics.nsd_interval([0, 0], [10, 10])
    assert np.isnan([nothing.estimate, nothing.low, nothing.high]).all()


def test_bounds_of_nsd_are_within_what_it_can_be() -> None:
    """At most sqrt(C - 1): where one class alone is ever right."""
    correct, n = np.array([1] + [0] * 9), np.full(10, 10)
    found = statistics.nsd_interval(correct, n)
    assert (found.low, found.high) == (0, pytest.approx(3))
    labels = np.repeat(np.arange(10), 10)
    first, second = ((labels == one) & (np.arange(100) % 10 < 2) for one in (0, 1))
    three = np.stack([first, first, labels >= 0])
    change = comparison.compare(labels, three, np.stack([second, labels >= 0, second]), 10).nsd
    for interval in (change.samples, change.seeds):
        assert -3 <= interval.low < interval.high <= 3
    assert change.seeds.high == 3


def test_nsd_interval_is_where_simulated_test_sets_put_it() -> None:
    """At the bounds' true NSD, an observed one this high or this low is the 2.5 % event that it should be."""
    correct, n = np.array([30, 45, 60, 75]), np.full(4, 100)
    found, accuracy = statistics.nsd_interval(correct, n), correct / n
    observed, generator = metrics.nsd(accuracy), np.random.default_rng(0)
    for bound, share in ((found.low, 0.975), (found.estimate, 0.5), (found.high, 0.025)):
        true = accuracy.mean() + (accuracy - accuracy.mean()) * bound / observed
        simulated = metrics.nsd(generator.binomial(n, true, size=(100_000, 4)) / n)
        assert np.mean(simulated <= observed) == pytest.approx(share, abs=0.012)


def test_many_variants_at_once_are_each_by_itself() -> None:
    correct = np.random.default_rng(0).integers(20, 80, size=(3, 2, 10))
    whole = statistics.nsd_interval(correct, 100), statistics.average_interval(correct, 100)
    for index, found in itertools.product(np.ndindex(3, 2), whole):
        function = statistics.nsd_interval if found is whole[0] else statistics.average_interval
        one = function(correct[index], 100)
        assert found.high[index] == pytest.approx(float(one.high))
        assert found.low[index] == pytest.approx(float(one.low))


def test_seed_interval_is_students_and_needs_three() -> None:
    values = np.array([[0.5, 0.1], [0.6, 0.3], [0.55, 0.2]])
    found = statistics.seed_interval(values)
    for index in range(2):
        reference = stats.ttest_1samp(values[:, index], 0).confidence_interval(0.95)
        assert (found.low[index], found.high[index]) == pytest.approx((reference.low, reference.high))
    assert (found.n, found.source) == (3, "seeds")
    two = statistics.seed_interval(values[:2])
    assert np.isnan(two.low).all()
    assert two.estimate == pytest.approx([0.55, 0.2])


def pair(samples: int = 200, classes: int = 3, seeds: int = 1) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels and two networks' outcomes by seed; the second is the first with some images lost and found."""
    generator = np.random.default_rng(3)
    labels = np.repeat(np.arange(classes), samples)
    first = generator.random((seeds, len(labels))) < 0.4 + 0.2 * labels / classes
    second = first ^ (generator.random(first.shape) < 0.1 * (1 + labels))
    return labels, first, second


class TestComparison:
    def test_one_seed_gives_mcnemar_and_holm(self) -> None:
        labels, first, second = pair()
        found = comparison.compare(labels, first[0], second[0], 3)
        for index in range(3):
            one, other = first[0, labels == index], second[0, labels == index]
            table = [[np.sum(one & other), np.sum(one & ~other)], [np.sum(~one & other), np.sum(~one & ~other)]]
            assert found.p_values[index] == pytest.approx(mcnemar(table, exact=True).pvalue)
        assert found.p_holm == pytest.approx(multipletests(found.p_values, method="holm")[1])
        assert found.p_source == "test samples"

    def test_three_seeds_give_paired_t_tests(self) -> None:
        labels, first, second = pair(seeds=4)
        found = comparison.compare(labels, first, second, 3)
        accuracy = [np.array([metrics.class_accuracy(labels, row, 3) for row in side]) for side in (first, second)]
        reference = stats.ttest_rel(accuracy[0], accuracy[1])
        assert found.p_values == pytest.approx(reference.pvalue)
        interval = reference.confidence_interval()
        assert found.classes.seeds.low == pytest.approx(interval.low)
        spread = stats.ttest_rel(metrics.nsd(accuracy[0]), metrics.nsd(accuracy[1])).confidence_interval()
        assert (found.nsd.seeds.low, found.nsd.seeds.high) == pytest.approx((spread.low, spread.high))
        assert found.p_source == "seeds"

    def test_class_difference_is_agresti_and_mins(self) -> None:
        labels, first, second = pair()
        found = comparison.compare(labels, first, second, 3).classes.samples
        better, worse = np.sum(first[0, :200] & ~second[0, :200]), np.sum(~first[0, :200] & second[0, :200])
        b, c = better + 0.5, worse + 0.5
        half = stats.norm.ppf(0.975) * np.sqrt((b + c) - (b - c) ** 2 / 202) / 202
        assert found.estimate[0] == pytest.approx((better - worse) / 200)
        assert (found.low[0], found.high[0]) == pytest.approx(((b - c) / 202 - half, (b - c) / 202 + half))

    def test_pairing_makes_equal_networks_equal(self) -> None:
        labels, first, _ = pair()
        found = comparison.compare(labels, first, first, 3)
        assert found.p_values.tolist() == [1.0, 1.0, 1.0]
        for difference in (found.average, found.worst, found.nsd, found.classes):
            assert np.all(difference.samples.estimate == 0)
            assert not np.any(difference.samples.excludes_zero)
        assert 0 < found.average.samples.high < 0.02

    def test_shapes_must_pair(self) -> None:
        labels, first, second = pair()
        with pytest.raises(ValueError, match="pair"):
            comparison.compare(labels, first, second[:, 1:], 3)

    def test_average_difference_has_one_estimator_for_both_moments(self) -> None:
        """A variant that wins every image of few: the raw rate squared from a shrunk second moment was negative."""
        labels = np.repeat(np.arange(4), 5)
        wins, loses = np.ones((1, 20), dtype=bool), np.zeros((1, 20), dtype=bool)
        found = comparison.compare(labels, wins, loses, 4).average.samples
        assert found.estimate == found.high == 1.0
        assert 0.7 < found.low < 0.9
        other = wins.copy()
        other[0, :3] = False
        beside = comparison.compare(labels, other, loses, 4).average.samples
        assert beside.high - beside.low > found.high - found.low

    def test_three_seeds_that_agree_to_the_image_prove_nothing_for_certain(self) -> None:
        labels = np.repeat([0, 1], 10)
        first, second = np.zeros((2, 3, 20), dtype=bool)
        first[:, :2] = True  # two of ten images of class 0, in every seed
        found = comparison.compare(labels, first, second, 2)
        spread = np.sqrt(1 / 600 / 3)
        assert found.p_values[0] == pytest.approx(2 * stats.t.sf(0.2 / spread, 2))
        assert found.p_values[1] == 1.0
        absent = comparison.compare(labels, first, second, 3)
        assert np.isnan(absent.p_values[2])

    def test_seed_bounds_stay_where_values_can_lie(self) -> None:
        found = statistics.seed_interval([0.9, 0.99, 0.96], lowest=0.0, highest=1.0)
        assert found.high == 1.0
        assert 0.8 < found.low < 0.9

    def test_holm_keeps_order_and_leaves_out_absent_classes(self) -> None:
        p_values = np.array([0.01, np.nan, 0.04, 0.03, 0.2])
        present = ~np.isnan(p_values)
        found = comparison.holm(p_values)
        assert found[present] == pytest.approx(multipletests(p_values[present], method="holm")[1])
        assert np.isnan(found[1])


def profiles(classes: int) -> dict[str, Floats]:
    """True class accuracies between 0.05 and 0.95, of the shapes that results have. None with exact ties: there the
    interval of NSD starts at 0 and covers 97 to 99 %.
    """
    return {
        "wide": np.linspace(0.05, 0.95, classes),
        "middle": np.linspace(0.4, 0.8, classes),
        "low": np.linspace(0.05, 0.3, classes),
        "high": np.linspace(0.8, 0.95, classes),
        "nearly equal": np.linspace(0.58, 0.62, classes),
        "one weak": np.r_[0.2, np.full(classes - 1, 0.7)],
        "two groups": np.r_[np.full(classes // 2, 0.3), np.full(classes - classes // 2, 0.6)],
    }


SETTINGS = [
    pytest.param(classes, n, name, id=f"{classes} classes of {n}, {name}")
    for classes, n in ((4, 100), (4, 1000), (10, 100), (10, 300), (10, 1000), (100, 100))
    for name in profiles(4)
]


def coverage(interval: statistics.Interval, truth: Floats | float) -> Floats:
    return np.mean((interval.low <= truth) & (truth <= interval.high), axis=0)


@pytest.mark.slow
@pytest.mark.parametrize(("classes", "n", "name"), SETTINGS)
def test_intervals_cover_what_they_claim(classes: int, n: int, name: str) -> None:
    """Coverage of average and NSD in simulated test sets is within 93 to 97 %, but for three standard errors."""
    accuracy, repeats = profiles(classes)[name], 1500 if classes < 100 else 400
    correct = np.random.default_rng(classes * n).binomial(n, accuracy, size=(repeats, classes))
    slack = 3 * np.sqrt(0.95 * 0.05 / repeats)
    for found, truth in (
        (statistics.average_interval(correct, n), accuracy.mean()),
        (statistics.nsd_interval(correct, n), float(metrics.nsd(accuracy))),
    ):
        assert abs(coverage(found, truth) - 0.95) < 0.02 + slack
    worst = statistics.worst_interval(correct, n)
    assert coverage(worst, accuracy.min()) > 0.95 - slack


@pytest.mark.parametrize("n", [100, 200, 500, 1000])
def test_class_intervals_cover_93_to_97_percent_exactly(n: int) -> None:
    """Not simulated: the probability of every count, at each accuracy from 0.05 to 0.95."""
    counts = np.arange(n + 1)
    found, exact = statistics.class_interval(counts, n), statistics.exact_bounds(counts, n)
    for accuracy in np.linspace(0.05, 0.95, 181):
        weight = stats.binom.pmf(counts, n, accuracy)
        assert 0.93 < weight[(found.low <= accuracy) & (accuracy <= found.high)].sum() < 0.97
        assert weight[(exact.low <= accuracy) & (accuracy <= exact.high)].sum() > 0.95


@pytest.mark.slow
@pytest.mark.parametrize(("classes", "n"), [(4, 300), (10, 100), (10, 1000)])
def test_paired_differences_cover_what_they_claim(classes: int, n: int) -> None:
    """Two networks that agree on most images, one of them fairer: average, class and NSD difference."""
    generator, labels = np.random.default_rng(n), np.repeat(np.arange(classes), n)
    first, second = np.linspace(0.3, 0.8, classes), np.linspace(0.45, 0.75, classes)
    truths = (first - second).mean(), first - second, float(metrics.nsd(first) - metrics.nsd(second))
    hits = []
    for _ in range(300):
        ease = generator.random(len(labels))  # how hard an image is, for both of them
        own = np.where(generator.random((2, len(labels))) < 0.8, ease, generator.random((2, len(labels))))
        found = comparison.compare(labels, own[0] < first[labels], own[1] < second[labels], classes)
        intervals = found.average.samples, found.classes.samples, found.nsd.samples
        hits.append([np.mean((i.low <= t) & (t <= i.high)) for i, t in zip(intervals, truths, strict=True)])
    covered, slack = np.mean(hits, axis=0), 3 * np.sqrt(0.95 * 0.05 / 300)
    assert np.all(np.abs(covered - 0.95) < 0.02 + slack), covered
