"""Figures from made-up stores: what they draw, and that it can be read. No display, no pyplot."""

from __future__ import annotations

import io
import itertools
import json

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from harness.errors import InputError
from harness.report.captions import FAILED
from harness.report.figures import classes, differences, epochs, variants
from harness.report.figures import seeds as seeds_module
from harness.report.figures.classes import confusion_shares
from harness.report.figures.draw import FIGURES, draw, figure_names, rows
from harness.report.figures.placing import settle
from harness.report.figures.selection import varied_settings
from harness.report.figures.style import canvas, looks, save, styled
from harness.report.figures.variants import pareto_front
from harness.report.results import read_results
from tests.report.legibility import check_labels, texts
from tests.synthetic_store import frames_of, teacher_spec, trial_spec

VARIANTS = ("natural", "at", "trades", "ard", "rslad", "absld", "absld_reweight")
HUNDRED = [f"class {index}" for index in range(100)]


def store(variants=VARIANTS, seeds=3, **options):
    teacher = teacher_spec()
    return frames_of([teacher, *[trial_spec(v, s, epochs=12) for v in variants for s in range(seeds)]], **options)


@pytest.fixture(scope="module")
def frames():
    return store()


def tuned_specs():
    return [
        trial_spec(f"absld-{rate}", 0, settings={"temperature_rate": rate, "temperature_init": 1.0}, epochs=8)
        for rate in (0.05, 0.1, 0.3, 1.0, 3.0)
    ]


@pytest.fixture(scope="module")
def tuned():
    return frames_of(tuned_specs())


def fixed_temperatures(frames):
    """A third term that never changes, of one variant, as label policies with fixed temperatures log it."""
    state = frames.tables["class_state"].astype({"trial_id": str, "quantity": str})
    ids = frames.tables["trials"].query("method == 'rslad'")["trial_id"]
    rows = state[state["trial_id"].isin(ids) & (state["quantity"] == "val_robust")]
    frames.tables["class_state"] = pd.concat([state, rows.assign(quantity="temperature_fixed", value=0.5)])
    return frames


def test_an_outlier_does_not_press_the_others_onto_a_line():
    """As in the published sets: a network whose NSD is many times that of the others."""
    accuracy = frames_of([trial_spec(name, 0, epochs=1) for name in ("at", "rslad", "natural")]).tables[
        "class_accuracy"
    ]
    broken = (accuracy["variant"] == "natural") & (accuracy["attack"] != "clean") & (accuracy["class_index"] > 0)
    accuracy.loc[broken, ["correct", "accuracy"]] = 0
    outlier = variants.nsd(accuracy)
    check_labels("nsd", outlier)
    axis = outlier.axes[0]
    assert axis.get_ylim()[1] < 2
    assert "3.00→" in [text.get_text() for text in axis.texts]


def test_what_never_changes_has_no_curve_to_show():
    frames = fixed_temperatures(frames_of([trial_spec(name, 0, epochs=6) for name in ("absld", "rslad")]))
    (figure,) = draw(read_results(frames), ["temperatures"]).values()
    titles = [axis.get_title(loc="left") for axis in figure.axes if axis.get_visible()]
    assert titles == ["absld: adversarial", "absld: clean"]


def test_attacks_on_fewer_images_say_so(frames):
    frame = frames.tables["class_accuracy"]
    fewer = np.where(frame["attack"] == "aa_short", 4, 1)
    few = frame.assign(n=10 * frame["n"] // fewer, correct=10 * frame["correct"] // fewer)
    labels = [label.get_text() for label in classes.attack_ladder(few).axes[0].get_xticklabels()]
    assert labels == ["Clean", "FGSM", "PGD-20", "CW-20", "AA\n(short)\nn=5,000"]


def test_attacks_on_fewer_seeds_say_so():
    few = ("clean", "pgd20")
    attacks = {0: (*few, "aa_short", "aa_standard"), 1: (*few, "aa_short"), 2: few}
    specs = [trial_spec(name, seed, attacks=attacks[seed]) for name in ("at", "absld") for seed in attacks]
    found = draw(read_results(frames_of(specs)), ["attack_ladder", "average_worst"], baseline="at")
    assert found["attack_ladder"].says.startswith("Mean over seeds 0, 1, 2 (AA (short) seeds 0, 1, AA seed 0); ")
    assert "AA" not in found["average_worst"].says
    attacked = {("at", 0), ("absld", 1)}
    pairs = itertools.product(("at", "absld"), range(3))
    specs = [trial_spec(*pair, attacks=(*few, "aa_short") if pair in attacked else few) for pair in pairs]
    found = draw(read_results(frames_of(specs)), ["nsd"], baseline="at")
    assert found["nsd"].says.startswith("Mean over seeds 0, 1, 2 (AA (short) fewer seeds); ")


def test_a_ladder_is_drawn_of_a_variant_without_its_last_attack():
    specs = [trial_spec("at", seed, attacks=("clean", "pgd20")) for seed in range(2)]
    specs += [trial_spec("absld", seed, attacks=("clean", "pgd20", "aa_short")) for seed in range(2)]
    for width in ("column", "text"):
        figure = draw(read_results(frames_of(specs)), ["attack_ladder"], baseline="at", width=width)["attack_ladder"]
        lines = {axis.get_title(loc="left"): [line.get_ydata() for line in axis.lines] for axis in figure.axes}
        assert all(np.isfinite(line).tolist() == [True, True, False] for line in lines["at"])
        assert all(np.isfinite(line).all() for line in lines["absld"])


def test_teachers_are_marked_each_by_itself_and_apart_from_students_of_their_name():
    students = [trial_spec(name, seed) for name in ("at", "absld") for seed in range(3)]
    teachers = [teacher_spec(), trial_spec("teacher", 0, role="teacher", width=64, peeked=False)]
    frames = frames_of([*students, *teachers])
    rows = frames.tables["class_accuracy"]
    lower = rows["trial_id"].astype(str) == teachers[1].trial_id
    rows.loc[lower, "correct"] //= 2
    named_at = trial_spec("at", 0, role="teacher", width=64, peeked=False)

    def marked(frames) -> dict[str, tuple[float, float]]:
        axis = draw(read_results(frames), ["average_worst"], baseline="at")["average_worst"].axes[0]
        stars = [line for line in axis.lines if line.get_marker() == "*"]
        points = [*stars, *(container.lines[0] for container in axis.containers)]
        names = [*(star.get_label() for star in stars), *(container.get_label() for container in axis.containers)]
        return {
            name: (float(point.get_xdata()[0]), float(point.get_ydata()[0]))
            for name, point in zip(names, points, strict=True)
        }

    def expected(frames, *trials) -> tuple[float, float]:
        rows = frames.tables["class_accuracy"]
        rows = rows[rows["trial_id"].astype(str).isin([each.trial_id for each in trials])]
        rows = rows[(rows["attack"] == "pgd20") & (rows["checkpoint"] == "best_validation")]
        rates = (100 * rows["correct"] / rows["n"]).groupby(rows["trial_id"].astype(str)).agg(["mean", "min"])
        return tuple(rates.mean())

    found = marked(frames)
    assert set(found) == {"at", "absld", "teacher cnn(width=32)", "teacher cnn(width=64)"}
    for name, trial in zip(("teacher cnn(width=32)", "teacher cnn(width=64)"), teachers, strict=True):
        assert found[name] == pytest.approx(expected(frames, trial))
    frames = frames_of([*students, named_at])
    found = marked(frames)
    assert set(found) == {"at", "absld", "at (teacher)"}
    assert found["at"] == pytest.approx(expected(frames, *students[:3]))
    assert found["at (teacher)"] == pytest.approx(expected(frames, named_at))


def test_the_dark_lines_are_those_of_the_trainings_that_are_drawn():
    """Of another length than a training beside them, which logs no temperature."""
    specs = [trial_spec(name, seed, epochs=count) for name, count in (("at", 20), ("absld", 3)) for seed in range(2)]
    frames = frames_of(specs)
    state, trials = frames.tables["class_state"], frames.tables["trials"].set_index("trial_id")
    ids = trials.index[trials["variant"] == "absld"]
    own = state["trial_id"].isin(ids)
    learnt = own & (state["quantity"] == "val_robust")
    state.loc[learnt, "value"] = np.where(state.loc[learnt, "class_index"] == 6, 0.0, 0.9)
    last = own & (state["epoch"] == 3) & (state["class_index"] == 6)
    hardest = state.loc[last & (state["quantity"] == "temperature_adversarial"), "value"].mean()
    whole = read_results(frames)
    alone = read_results(frames, trial_ids=list(ids))
    for results in (whole, alone):
        axis = draw(results, ["temperatures"])["temperatures"].axes[0]
        assert axis.lines[0].get_ydata()[-1] == pytest.approx(hardest)


def test_two_settings_of_one_name_have_a_panel_each():
    trials, rows = [], []
    for number, (first, second) in enumerate(itertools.product((0, 1, 2, 3), (0, 4, 8))):
        method = {"name": "absld", "labels": {"start_epoch": first}, "weights": {"start_epoch": second}}
        spec = json.dumps({"method": method, "training": {"lr": 0.1}})
        trials.append(
            {"trial_id": f"t{number}", "role": "student", "method": "absld", "epochs": 10, "seed": 0, "spec": spec}
        )
        rows.append({"trial_id": f"t{number}", "epoch": 1, "selection_score": 0.3 + 0.01 * number})
    table = varied_settings(pd.DataFrame(trials), pd.DataFrame(rows), "selection_score")
    assert list(table.columns) == ["method", "best", "labels.start_epoch", "weights.start_epoch"]
    assert table["labels.start_epoch"].nunique() == 4
    assert table["weights.start_epoch"].nunique() == 3


@pytest.mark.slow
def test_a_hundred_classes_stay_legible():
    frames = store(("at", "absld_reweight"), seeds=2, classes=HUNDRED, per_class=20)
    for name, figure in draw(read_results(frames), figure_names(None, read_results(frames))).items():
        if name == "hyperparameter_response":
            continue
        assert isinstance(figure, Figure), name
        shown = [text.get_text() for text in texts(figure)]
        assert sum(text.strip().startswith("class ") for text in shown) == 0, f"{name}: a hundred names fit nowhere"
    profile = classes.class_accuracy(frames.tables["class_accuracy"])
    for line in profile.axes[0].lines:
        assert len(line.get_ydata()) == 100
        assert np.all(np.diff(line.get_ydata()) >= 0), "each profile is sorted"


def test_class_accuracy_draws_the_stored_numbers(frames):
    figure = classes.class_accuracy(frames.tables["class_accuracy"], variants=["at", "absld"], attack="pgd20")
    frame = frames.tables["class_accuracy"].query(
        "variant == 'absld' and attack == 'pgd20' and checkpoint == 'best_validation'"
    )
    expected = 100 * frame.groupby("class_name", observed=True)["accuracy"].mean()
    axis = figure.axes[0]
    names = [label.get_text().replace("\n", " ") for label in axis.get_xticklabels()]
    heights = [bar.get_height() for bar in axis.patches[len(names) :]]
    assert dict(zip(names, heights, strict=True)) == pytest.approx(expected.to_dict())
    at = [bar.get_height() for bar in axis.patches[: len(names)]]
    assert at == sorted(at), "from the hardest for the baseline to the easiest"


def test_average_worst_marks_the_pareto_front():
    points = np.array([[0.5, 0.1], [0.4, 0.3], [0.45, 0.2], [0.3, 0.3], [0.5, 0.05]])
    assert list(pareto_front(points)) == [1, 2, 0]


def test_nsd_is_the_population_form(frames):
    figure = variants.nsd(frames.tables["class_accuracy"], variants=["rslad"])
    values = frames.tables["class_accuracy"].query(
        "variant == 'rslad' and attack == 'clean' and checkpoint == 'best_validation'"
    )
    wide = values.pivot_table(index="seed", columns="class_index", values="accuracy", observed=True).to_numpy()
    expected = (wide.std(1) / wide.mean(1)).mean()
    assert figure.axes[0].lines[0].get_ydata()[0] == pytest.approx(expected)


def test_temperatures_order_the_classes_by_difficulty(frames):
    state = frames.tables["class_state"].merge(frames.tables["trials"][["trial_id", "variant"]].astype(str))
    figure = epochs.temperatures(state, variants=["absld"])
    lines = figure.axes[0].lines
    assert len(lines) == 10
    ends = [line.get_ydata()[-1] for line in lines]
    assert ends[0] < ends[-1], "hard classes get a low temperature in these made-up runs"
    lightness = [np.dot(to_rgb(line.get_color()[:3]), (0.3, 0.6, 0.1)) for line in lines]
    assert lightness == sorted(lightness), "dark is hard"


def test_confusion_rows_sum_to_one_and_the_diagonal_is_robust_accuracy(frames):
    outcomes = frames.tables["outcomes"].query("attack == 'pgd20' and checkpoint == 'last'")
    trial = outcomes["trial_id"].iloc[0]
    own = outcomes[outcomes["trial_id"] == trial]
    shares = confusion_shares(own, 10)
    assert shares.sum(1) == pytest.approx(np.ones(10))
    assert np.diag(shares) == pytest.approx(own.groupby("label")["robust"].mean().to_numpy())


def test_a_network_that_decides_nothing_has_a_column_of_its_own(frames):
    """And is not taken for one that chose the last class of the row above."""
    outcomes = pd.DataFrame({"label": [0, 0, 0, 1, 1, 2], "prediction": [0, -1, -1, 1, 0, 2]})
    outcomes = outcomes.assign(robust=outcomes["label"] == outcomes["prediction"], variant="at", checkpoint="last")
    shares = confusion_shares(outcomes, 3)
    assert shares == pytest.approx(np.array([[1 / 3, 0, 0, 2 / 3], [0.5, 0.5, 0, 0], [0, 0, 1, 0]]))
    frame = outcomes.assign(attack="pgd20", trial_id="t", seed=0)
    figure = classes.confusion(frame, names=["cat", "dog", "bird"], checkpoint="last")
    axis = figure.axes[0]
    assert axis.images[0].get_array().shape == (3, 4)
    assert [label.get_text() for label in axis.get_xticklabels()] == ["cat", "dog", "bird", "none"]
    assert [label.get_text() for label in axis.get_yticklabels()] == ["cat", "dog", "bird"]
    assert "Last column, none:" in figure.says
    decided = classes.confusion(frame[frame["prediction"] >= 0], names=["cat", "dog", "bird"], checkpoint="last")
    assert decided.axes[0].images[0].get_array().shape == (3, 3)
    assert "none" not in decided.says


def test_captions_say_what_bars_are_and_over_what(frames):
    found = draw(read_results(frames), ["nsd", "training_curves", "class_accuracy"])
    few = epochs.training_curves(rows(frames, "epochs"), variants=["at", "absld"])
    assert found["nsd"].says == "Mean over seeds 0, 1, 2; 2,000 test images. Bars: 95 % over seeds."
    assert found["training_curves"].says == (
        "Mean over seeds 0, 1, 2. Held-out training images. "
        "No bands: those of more than 4 variants would cover each other."
    )
    assert few.says.endswith("Held-out training images. Bands: from the smallest to the largest trial.")
    assert "Bars: 95 % over test samples, each class by itself." in found["class_accuracy"].says
    one = frames_of([trial_spec("at", 0), trial_spec("rslad", 0)])
    found = draw(read_results(one), ["nsd", "training_curves"])
    assert found["nsd"].says == "One seed (0); 2,000 test images. Bars: 95 % over test samples."
    assert "No bands: one trial each." in found["training_curves"].says


def test_captions_name_the_variants_without_results():
    attacks = {"at": ("clean", "pgd20"), "rslad": ("clean", "pgd20"), "absld": ("clean",)}
    specs = [trial_spec(name, seed, attacks=own) for name, own in attacks.items() for seed in (0, 1)]
    results = read_results(frames_of(specs))
    names = ["class_accuracy", "average_worst", "seed_ladder", "class_difference", "nsd", "training_curves"]
    says = {name: figure.says for name, figure in draw(results, names, baseline="at").items()}
    for name in names[:4]:
        assert "Not shown, without results under PGD-20: absld." in says[name], name
    assert says["class_difference"].startswith("rslad minus at, PGD-20.")
    assert "of 3 variants" not in says["class_difference"], "two of two"
    assert "Not shown" not in says["nsd"] + says["training_curves"], "it has clean accuracies and epochs"
    without = draw(results, ["class_difference", "confusion"], baseline="absld")
    assert without["class_difference"].says.startswith("rslad minus at, PGD-20.")
    says = without["confusion"].says
    assert "1 of 2 variants: the best on validation, " in says, "not the baseline, which is not there"
    assert says.endswith("left out: at. Not shown, without outcomes under PGD-20: absld.")
    alone = results.select(results.rows[results.rows["variant"] != "rslad"])
    reason = draw(alone, ["class_difference"], baseline="at")["class_difference"]
    assert reason.endswith(": no second variant has results under this attack for a seed and a teacher of the baseline")


def test_a_ladder_of_seeds_names_those_of_one_training():
    seeds = {"at": (0, 1), "rslad": (0, 1), "absld": (1,)}
    specs = [trial_spec(name, seed) for name, own in seeds.items() for seed in own]
    results = read_results(frames_of([*specs, trial_spec("mine", 0, role="evaluation")]))
    (figure,) = draw(results, ["seed_ladder"], baseline="at").values()
    assert figure.says.endswith("Not shown, with one seed: absld; mine.")


def test_captions_name_the_variants_that_logged_none():
    results = read_results(frames_of([trial_spec(name, 0, peeked=name == "at") for name in ("at", "absld")]))
    found = draw(results, ["temperatures", "selection_gap", "attack_ladder"])
    assert found["temperatures"].says.endswith("Not shown, with none that changes: at.")
    assert found["selection_gap"].says.endswith("Not shown, without a test curve: absld.")
    assert "Not shown" not in found["attack_ladder"].says


def test_the_seed_ladder_draws_each_seed_and_says_what_pairing_is_worth(frames):
    accuracy = frames.tables["class_accuracy"]
    figure = seeds_module.seed_ladder(accuracy, variants=["at", "absld"], baseline="at")
    rows = accuracy.query("attack == 'pgd20' and checkpoint == 'best_validation' and variant in ['at', 'absld']")
    wide = rows.pivot_table(index=["variant", "seed"], columns="class_index", values="accuracy", observed=True)
    worst = 100 * wide.min(axis=1).unstack("seed").loc[["at", "absld"]]
    for place, seed in enumerate(worst.columns):
        assert figure.axes[1].lines[place].get_xdata() == pytest.approx(worst[seed].to_numpy())
    paired, apart = seeds_module.pairing_worth(worst, "at")
    assert paired == pytest.approx((worst.loc["absld"] - worst.loc["at"]).std())
    assert apart == pytest.approx(np.sqrt(worst.var(axis=1).sum()))
    assert f"standard deviation of {paired:.1f} points seed by seed, and would with {apart:.1f}" in figure.says
    own = rows["trial_id"].astype(str)
    many = pd.concat([rows.assign(seed=rows["seed"] + 3 * turn, trial_id=own + str(turn)) for turn in range(5)])
    labels = [text.get_text() for text in seeds_module.seed_ladder(many).legends[0].get_texts()]
    assert labels == ["mean", "15 seeds"]
    together = pd.DataFrame([[1.0, 2.0, 4.0], [3.0, 4.0, 6.0]], index=["at", "absld"])
    assert seeds_module.pairing_worth(together, "at") == pytest.approx((0.0, np.sqrt(2 * 7 / 3)))


def test_the_class_difference_is_sorted_and_has_the_numbers_of_the_page(frames):
    accuracy = frames.tables["class_accuracy"]
    figure = differences.class_difference(accuracy, variants=["at", "absld"], baseline="at")
    rows = accuracy.query("attack == 'pgd20' and checkpoint == 'best_validation'")
    wide = rows.pivot_table(index="class_name", columns=["variant", "seed"], values="accuracy", observed=True)
    change = 100 * (wide["absld"] - wide["at"])
    expected = change.mean(axis=1).sort_values(ascending=False)
    names = [label.get_text().replace("\n", " ") for label in figure.axes[0].get_yticklabels()]
    assert names == list(expected.index)
    found = differences.class_change(rows, "absld", "at")
    assert np.sort(found.difference)[::-1] == pytest.approx(expected.to_numpy())
    half = 4.302653 * change.std(axis=1) / np.sqrt(3)
    assert np.sort(found.high - found.difference) == pytest.approx(np.sort(half.to_numpy()), rel=1e-6)
    assert "absld minus at, PGD-20. Mean over seeds 0, 1, 2; 2,000 test images. Bars: 95 % over seeds" in figure.says
    assert differences.class_difference(accuracy, variants=["at"]) is None
    alone = accuracy[(accuracy["variant"] != "absld") | (accuracy["seed"] > 5)]  # the best shares no seed
    figure = differences.class_difference(alone, variants=["at", "absld", "rslad"], ranking=["at", "absld", "rslad"])
    assert figure.says.startswith("rslad minus at")
    assert "2 of 7 variants: the first; left out:" in differences.class_difference(accuracy).says, "no validation known"


def test_the_front_is_a_step_to_the_edges_and_no_legend_names_what_is_not_drawn(frames):
    figure = variants.average_worst(frames.tables["class_accuracy"])
    axis = figure.axes[0]
    (front,) = [line for line in axis.lines if line.get_label() == "Pareto front"]
    assert front.get_drawstyle() == "steps-pre"
    assert (front.get_xdata()[0], front.get_ydata()[-1]) == (axis.get_xlim()[0], axis.get_ylim()[0])
    assert list(front.get_xdata()) == sorted(front.get_xdata())
    assert list(front.get_ydata()) == sorted(front.get_ydata(), reverse=True)
    empty = frames.tables["class_accuracy"].assign(correct=np.nan)
    drawn = variants.average_worst(empty)
    assert not [
        text.get_text() for legend in drawn.legends for text in legend.get_texts() if "front" in text.get_text()
    ]


def test_hyperparameter_response_finds_what_was_varied(tuned):
    results = read_results(tuned)
    table = varied_settings(results.trials, results.epochs, "selection_score")
    assert list(table.columns) == ["method", "best", "temperature_rate"]
    assert sorted(table["temperature_rate"]) == [0.05, 0.1, 0.3, 1.0, 3.0]
    best = tuned.tables["epochs"].groupby("trial_id", observed=True)["selection_score"].max()
    assert table["best"].to_dict() == pytest.approx(best.to_dict())


def test_a_response_is_of_trainings_of_one_length(tuned):
    """The comparison of a search's winner is trained longer than the search, and would stand above it."""
    longer = [
        trial_spec(f"absld-{rate}", 1, settings={"temperature_rate": rate, "temperature_init": 1.0}, epochs=20)
        for rate in (0.1, 0.3)
    ]
    both, alone = read_results(frames_of([*tuned_specs(), *longer])), read_results(tuned)
    table = varied_settings(both.trials, both.epochs, "selection_score")
    pd.testing.assert_frame_equal(table, varied_settings(alone.trials, alone.epochs, "selection_score"))


def test_figures_without_data_are_left_out_with_a_reason():
    plain = frames_of([trial_spec("at", 0, peeked=False, attacks=["pgd20"])], absent=["outcomes"])
    names = ["temperatures", "confusion", "attack_ladder", "selection_gap", "hyperparameter_response"]
    found = draw(read_results(plain), [*names, "nsd", "class_accuracy", "average_worst", "training_curves"])
    reasons = {name: reason for name, reason in found.items() if isinstance(reason, str)}
    assert list(reasons) == names
    assert reasons["confusion"] == "confusion: no rows in outcomes"
    assert "record_test_curve" in reasons["selection_gap"]
    for name in names:
        if name != "confusion":
            assert reasons[name] == f"{name}: {FIGURES[name].absent}"


def test_no_figure_fails_while_the_teacher_alone_is_done():
    results = read_results(frames_of([teacher_spec()]))
    found = draw(results, figure_names(None, results))
    assert found["average_worst"] == "average_worst: no rows to draw"
    assert not [said for said in found.values() if not isinstance(said, str) or FAILED in said]


def test_any_quantity_of_the_classes_is_drawn_by_its_name(frames):
    """What the harness has never heard of, such as a plugin's own, and without the terms of other names."""
    state = frames.tables["class_state"].astype({"trial_id": str, "quantity": str})
    ids = frames.tables["trials"].query("method == 'rslad'")["trial_id"].astype(str)
    own = state[state["trial_id"].isin(ids) & (state["quantity"] == "val_robust")]
    added = [own.assign(quantity="loudness", value=3 * own["value"]), own.assign(quantity="loudnesses", value=7.0)]
    tables = frames.tables | {"class_state": pd.concat([state, *added])}
    results = read_results(type(frames)(tables))
    assert figure_names(["class_quantity:loudness"], results) == ["class_quantity:loudness"]
    (figure,) = draw(results, ["class_quantity:loudness"]).values()
    (axis,) = [axis for axis in figure.axes if axis.get_visible()]
    assert axis.get_title(loc="left") == "rslad: loudness"
    assert axis.get_ylabel() == "loudness"
    means = added[0].groupby(["class_index", "epoch"], observed=True)["value"].mean().unstack()
    drawn = sorted(tuple(line.get_ydata().round(9)) for line in axis.lines)
    assert drawn == sorted(tuple(line) for line in means.to_numpy().round(9))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("ndd", "unknown figure 'ndd': did you mean nsd"),
        ("class_quantity:temprature_clean", "unknown quantity of the classes 'temprature_clean': did you mean"),
        ("class_quantity", "figure class_quantity wants a quantity, such as class_quantity:weight"),
        ("nsd:weight", "figure nsd takes no quantity ('weight')"),
    ],
)
def test_a_figure_that_there_is_not_is_refused_in_a_line(frames, name, message):
    with pytest.raises(InputError) as refusal:
        figure_names([name], read_results(frames))
    assert str(refusal.value).startswith(message)
    assert "\n" not in str(refusal.value)


def test_a_variant_looks_the_same_everywhere_and_unlike_the_others(frames):
    found = draw(read_results(frames), ["class_accuracy", "average_worst", "nsd", "training_curves"])
    styles = {}
    for figure in found.values():
        for handle, label in zip(*figure.axes[0].get_legend_handles_labels(), strict=True):
            line = handle[0] if isinstance(handle, tuple) else handle  # an error bar is a tuple, its line first
            if label in VARIANTS:
                styles.setdefault(label, set()).add((line.get_color(), line.get_marker()))
    assert set(styles) == set(VARIANTS)
    assert all(len(found) == 1 for found in styles.values()), styles
    every = looks(VARIANTS).values()
    assert len({look.marker for look in every}) == len(VARIANTS), "told apart without colour by markers"
    assert len({str(look.line) for look in every}) == len(VARIANTS), "and by line styles"
    twelve = looks([str(place) for place in range(12)]).values()
    assert len({look.colour for look in twelve}) == len({look.marker for look in twelve}) == 12


def many_variants(*names):
    """Each with a seed, a setting of its own and little to read."""
    settings = ({"alpha": place} for place in itertools.count())
    specs = [trial_spec(name, 0, epochs=2, settings=own) for name, own in zip(names, settings, strict=False)]
    return frames_of(specs, per_class=10)


def test_no_two_of_many_variants_look_alike():
    """Also those whose names begin and end alike: what is written of them differs."""
    names = [f"a variant with a long name, {place:03d} of many, and much the same end" for place in range(140)]
    every = list(looks(names).values())
    assert len({(look.colour, look.marker) for look in every}) == 140
    assert len({look.label for look in every}) == 140
    frames = many_variants(*(f"v{place:02d}" for place in range(30)))
    figure = draw(read_results(frames), ["class_accuracy"])["class_accuracy"]
    handles, _ = figure.axes[0].get_legend_handles_labels()
    assert (
        len({handle[0].get_color() for handle in handles}) == len({handle[0].get_marker() for handle in handles}) == 12
    )


def test_validation_alone_decides_who_is_left_out():
    """The best of 30 on test images is the worst on validation, and the baseline is kept whatever it does."""
    names = ["at", *(f"v{place:02d}" for place in range(29))]
    frames = many_variants(*names)
    score = {name: place / 100 for place, name in enumerate(names)}
    curves = frames.tables["epochs"]
    of_trial = frames.tables["trials"].set_index("trial_id")["variant"]
    curves["selection_score"] = curves["trial_id"].astype(str).map(of_trial).map(score).astype(float)
    accuracy = frames.tables["class_accuracy"]
    best = accuracy["variant"] == "v00"
    accuracy.loc[best, "correct"] = accuracy.loc[best, "n"]
    found = draw(
        read_results(frames), ["class_accuracy", "training_curves", "average_worst", "class_difference"], baseline="at"
    )
    _, shown = found["class_accuracy"].axes[0].get_legend_handles_labels()
    assert sorted(shown) == ["at", *(f"v{place}" for place in range(18, 29))]
    _, shown = found["training_curves"].axes[0].get_legend_handles_labels()
    assert sorted(shown) == ["at", *(f"v{place}" for place in range(22, 29))]
    beside = {text.get_text() for text in found["average_worst"].axes[0].texts}
    assert beside <= {"at", *(f"v{place}" for place in range(18, 29))}
    assert found["class_difference"].says.startswith("v28 minus at, PGD-20.")
    for name, count in {"class_accuracy": 12, "training_curves": 8}.items():
        sentence = (
            f"{count} of 30 variants: the baseline and the best on validation, by the mean over seeds of the best"
        )
        assert sentence in found[name].says
        assert "left out: v00; v01;" in found[name].says


def test_names_are_text_not_mathematics():
    frames = frames_of([trial_spec("at", 0), trial_spec("$\\frac{1}{0}$ <b>", 0, settings={"alpha": 1})])
    figure = draw(read_results(frames), ["class_accuracy"])["class_accuracy"]
    save_to = io.BytesIO()
    figure.savefig(save_to)
    assert any("frac" in text.get_text() for text in texts(figure))


@pytest.mark.parametrize("kind", ["png", "pdf", "svg"])
def test_files_hold_embedded_fonts_and_no_date(frames, tmp_path, kind):
    figure = draw(read_results(frames), ["nsd"])["nsd"]
    save(figure, tmp_path / f"nsd.{kind}")
    content = (tmp_path / f"nsd.{kind}").read_bytes()
    if kind == "pdf":
        assert b"/Type3" not in content
        assert b"/FontFile2" in content, "TrueType fonts are embedded"
        assert b"CreationDate" not in content
    if kind == "svg":
        assert b"<text" in content
        assert b"dc:date" not in content


def test_nothing_global_is_touched(frames):
    before = dict(matplotlib.rcParams)
    figure = draw(read_results(frames), ["nsd"])["nsd"]
    assert dict(matplotlib.rcParams) == before
    assert isinstance(figure.canvas, FigureCanvasAgg)


def test_a_figure_of_one_s_own_is_drawn_on_a_canvas():
    def bare(*frames, **options):
        return Figure()

    with pytest.raises(TypeError, match="bare gave a Figure, not a figure of style"):
        styled(bare)()
    figure = styled(lambda: canvas("column", 2.0)[0])()
    assert figure.says == ""


def test_settled_labels_keep_order_distance_and_bounds():
    random = np.random.default_rng(0)
    for _ in range(50):
        places = np.sort(random.uniform(0, 100, 8))
        settled = settle(places, 10, 0, 100)
        assert np.all(np.diff(settled) >= 10 - 1e-9)
        assert settled.min() >= -1e-9
        assert settled.max() <= 100 + 1e-9
    assert settle(np.array([10.0, 50.0]), 10, 0, 100) == pytest.approx([10, 50]), "no crowd, no move"


def test_a_frame_of_the_store_is_enough_in_a_notebook(frames):
    """Without `role` and without the report's order."""
    frame = pd.DataFrame(frames.tables["class_accuracy"].drop(columns="role"))
    assert isinstance(variants.average_worst(frame), Figure)
