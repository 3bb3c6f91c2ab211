"""Metrics against numbers worked out by hand and plain loops."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from harness.errors import InputError
from harness.statistics import metrics
from harness.statistics.registry import in_order, metric_info, scored

NAN = np.nan


def test_class_accuracy_counts_each_class_by_its_own_size() -> None:
    labels, robust = [0, 0, 0, 2, 2, 0], [True, False, False, True, True, True]
    n, correct = metrics.class_counts(labels, robust, 4)
    assert n.tolist() == [4, 0, 2, 0]
    assert correct.tolist() == [2, 0, 2, 0]
    np.testing.assert_array_equal(metrics.class_accuracy(labels, robust, 4), [0.5, NAN, 1.0, NAN])


@pytest.mark.parametrize(("labels", "robust"), [([0, 3], [True, True]), ([-1, 0], [True, True]), ([0], [True, False])])
def test_labels_that_do_not_fit_are_refused(labels: list[int], robust: list[bool]) -> None:
    with pytest.raises(ValueError, match="labels"):
        metrics.class_counts(labels, robust, 3)


def test_summary_of_four_classes_by_hand() -> None:
    found = metrics.summary([0.2, 0.8, 0.6, 0.4])
    deviation = math.sqrt((0.09 + 0.09 + 0.01 + 0.01) / 4)
    assert found == pytest.approx(
        {
            "average": 0.5,
            "worst": 0.2,
            "worst_class": 0,
            "worst_10_percent": 0.2,
            "nsd_population": deviation / 0.5,
            "nsd_sample": deviation * math.sqrt(4 / 3) / 0.5,
            "gap": 0.6,
            "selection_score": 0.35,
        }
    )


def test_absent_classes_count_nowhere() -> None:
    with_absent, without = metrics.summary([NAN, 0.2, NAN, 0.8, 0.6]), metrics.summary([0.2, 0.8, 0.6])
    assert with_absent.pop("worst_class") == 1
    assert without.pop("worst_class") == 0
    assert with_absent == pytest.approx(without)


def test_undefined_is_nan_and_never_infinite() -> None:
    nothing_right = metrics.summary([0.0, 0.0])
    assert math.isnan(nothing_right["nsd_population"])
    assert math.isnan(nothing_right["nsd_sample"])
    assert (nothing_right["average"], nothing_right["gap"]) == (0.0, 0.0)
    one_class = metrics.summary([0.5])
    assert one_class["nsd_population"] == 0.0
    assert math.isnan(one_class["nsd_sample"])
    empty = metrics.summary([NAN, NAN])
    assert empty.pop("worst_class") == -1
    assert all(math.isnan(value) for value in empty.values())


def test_ties_name_the_first_worst_class() -> None:
    assert metrics.worst_class([0.5, 0.2, 0.2]) == 1


def test_hundred_classes_select_by_the_worst_tenth() -> None:
    accuracy = np.random.default_rng(0).permutation(np.linspace(0.01, 1.0, 100))
    tenth = np.mean(np.arange(1, 11) / 100)
    assert metrics.worst_10_percent(accuracy) == pytest.approx(tenth)
    assert metrics.selection_score(accuracy) == pytest.approx((0.505 + tenth) / 2)
    assert metrics.worst_10_percent(accuracy[:15]) == pytest.approx(np.sort(accuracy[:15])[:2].mean())


def test_leading_axes_are_kept() -> None:
    accuracy = np.random.default_rng(1).uniform(size=(3, 5, 7))
    accuracy[0, 0, 2] = NAN
    names = (metrics.average, metrics.worst, metrics.worst_10_percent, metrics.nsd, metrics.gap)
    for function in (*names, metrics.selection_score, metrics.worst_class):
        whole = function(accuracy)
        assert whole.shape == (3, 5)
        for index in np.ndindex(3, 5):
            np.testing.assert_allclose(whole[index], function(accuracy[index]))


def golden(check: str) -> list[dict]:
    entries = json.loads((Path(__file__).parents[1] / "golden" / "golden.json").read_text())["entries"]
    return [entry for entry in entries if entry["check"] == check]


@pytest.mark.parametrize("entry", golden("metrics_from_class_accuracy"), ids=lambda entry: entry["name"])
def test_definitions_agree_with_the_golden_file(entry: dict) -> None:
    found, wanted = metrics.summary(entry["inputs"]["class_accuracy"]["data"]), entry["outputs"]
    assert found["average"] == pytest.approx(wanted["average"], rel=1e-12)
    assert found["worst"] == wanted["worst"]
    assert found["worst_class"] == wanted["worst_class"]
    assert found["nsd_population"] == pytest.approx(wanted["nsd_population"], rel=1e-12)
    assert found["nsd_sample"] == pytest.approx(wanted["nsd_sample"], rel=1e-12)
    assert found["worst_10_percent"] == pytest.approx(wanted["worst_10_percent_mean"], rel=1e-12)
    if len(entry["inputs"]["class_accuracy"]["data"]) < metrics.MANY_CLASSES:
        assert found["selection_score"] == pytest.approx(wanted["mean_of_average_and_worst"], rel=1e-12)


def mean_difference(accuracy: list[float]) -> float:
    return float(np.mean([abs(one - other) for one in accuracy for other in accuracy])) / (2 * float(np.mean(accuracy)))


@pytest.mark.parametrize("accuracy", [[0.2, 0.8, 0.6, 0.4], [0.5, 0.5], [0.0, 0.0, 0.0, 0.9], [0.3]])
def test_gini_is_the_mean_difference_of_two_classes(accuracy: list[float]) -> None:
    assert float(metrics.gini(accuracy)) == pytest.approx(mean_difference(accuracy))
    assert float(metrics.gini([NAN, *accuracy])) == pytest.approx(mean_difference(accuracy))


def test_the_further_metrics_by_hand() -> None:
    assert float(metrics.gini([0.0, 0.0, 0.0, 0.9])) == pytest.approx(1 - 1 / 4)
    assert math.isnan(metrics.gini([0.0, 0.0]))
    assert float(metrics.harmonic([0.2, 0.8, 0.5])) == pytest.approx(2 * 0.5 * 0.2 / 0.7)
    assert float(metrics.harmonic([0.0, 0.0])) == 0
    assert math.isnan(metrics.harmonic([NAN, NAN]))
    found = metrics.worst_k([[0.4, NAN, 0.1, 0.3], [0.5, NAN, NAN, NAN]], 2)
    np.testing.assert_allclose(found, [0.2, 0.5])


def test_metrics_by_name_and_by_what_the_literature_calls_them() -> None:
    accuracy, counts = [[0.4, 0.1, 0.3, 0.2]], [[10, 10, 10, 10]]
    wanted = {"worst_3": 0.2, "range": 0.3, "worst_decile": 0.1, "harmonic": 2 * 0.25 * 0.1 / 0.35, "average": 0.25}
    for name, value in wanted.items():
        assert metric_info(name).values(accuracy, counts).tolist() == pytest.approx([value]), name
    assert (metric_info("worst_3").title, metric_info("worst_3").up) == ("Worst 3", True)
    assert in_order(["worst_3", "gini", "average"]) == ["average", "gini", "worst_3"]
    assert [each.name for each in scored(["gini", "worst_3", "nsd"])][-3:] == ["gap", "gini", "worst_3"]
    for wrong in ("worst_0", "ginni", None):
        with pytest.raises(InputError, match="--plugin FILE"):
            metric_info(wrong)
