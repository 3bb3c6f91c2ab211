"""Figures from made-up stores: what they draw, and that it can be read. No display, no pyplot."""

from __future__ import annotations

import io
import itertools

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.text import Text

from harness.errors import InputError
from harness.report.figures import classes, epochs, variants
from harness.report.figures.classes import confusion_shares
from harness.report.figures.draw import FIGURES, draw, figure_names
from harness.report.figures.style import WIDTHS, looks, save, settle
from harness.report.figures.variants import pareto_front, varied_settings
from harness.report.results import read_results
from tests.synthetic_store import frames_of, trial_spec

VARIANTS = ("natural", "at", "trades", "ard", "rslad", "absld", "absld_reweight")
HUNDRED = [f"class {index}" for index in range(100)]


def store(variants=VARIANTS, seeds=3, **options):
    teacher = trial_spec("teacher", 0, role="teacher", peeked=False, width=32)
    return frames_of([teacher, *[trial_spec(v, s, epochs=12) for v in variants for s in range(seeds)]], **options)


@pytest.fixture(scope="module")
def frames():
    return store()


@pytest.fixture(scope="module")
def tuned():
    rates = (0.05, 0.1, 0.3, 1.0, 3.0)
    specs = [
        trial_spec(f"absld-{rate}", 0, settings={"temperature_rate": rate, "temperature_init": 1.0}, epochs=8)
        for rate in rates
    ]
    return frames_of(specs)


@pytest.fixture(scope="module", params=["column", "text"])
def drawn(request, frames, tuned):
    """Every figure, at column and at text width."""
    names = [name for name in FIGURES if name not in ("hyperparameter_response", "class_quantity")]
    found = draw(read_results(frames), [*names, "class_quantity:temperature"], width=request.param)
    found |= draw(read_results(tuned), ["hyperparameter_response"], width=request.param)
    return request.param, found


def texts(figure: Figure) -> list[Text]:
    found = [text for text in figure.findobj(Text) if text.get_visible() and text.get_text().strip()]
    return [text for text in found if text.get_window_extent().width > 0]


def ticks_hidden(figure: Figure) -> set[int]:
    """Labels of ticks outside the view: they exist but are not drawn."""
    hidden = set()
    for axis in [axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)]:
        drawn = {id(tick.label1) for tick in axis._update_ticks()}
        hidden |= {id(tick.label1) for tick in [*axis.majorTicks, *axis.minorTicks]} - drawn
    return hidden


def test_every_figure_is_drawn_at_both_widths(drawn):
    width, found = drawn
    assert {name.partition(":")[0] for name in found} == set(FIGURES)
    for name, figure in found.items():
        assert isinstance(figure, Figure), f"{name}: {figure}"
        assert figure.get_figwidth() == WIDTHS[width]
        assert figure.get_figheight() < 9, name


def test_no_label_covers_another_or_leaves_the_figure(drawn):
    for name, figure in drawn[1].items():
        check_labels(name, figure)


def check_labels(name: str, figure: Figure) -> None:
    figure.draw_without_rendering()
    hidden = ticks_hidden(figure)
    shown = [text for text in texts(figure) if id(text) not in hidden]
    boxes = [(text, text.get_window_extent().padded(-0.5)) for text in shown]
    assert len(boxes) > 4, name
    for (one, first), (other, second) in itertools.combinations(boxes, 2):
        assert not first.overlaps(second), f"{name}: '{one.get_text()}' and '{other.get_text()}'"
    page = figure.bbox
    for text, box in boxes:
        inside = box.x0 >= -1 and box.y0 >= -1 and box.x1 <= page.x1 + 1 and box.y1 <= page.y1 + 1
        assert inside, f"{name}: '{text.get_text()}' at {box}"


def fixed_temperatures(frames):
    """A third term that never changes, of one variant, as label policies with fixed temperatures log it."""
    state = frames.tables["class_state"].astype({"trial_id": str, "quantity": str})
    ids = frames.tables["trials"].query("method == 'rslad'")["trial_id"]
    rows = state[state["trial_id"].isin(ids) & (state["quantity"] == "val_robust")]
    frames.tables["class_state"] = pd.concat([state, rows.assign(quantity="temperature_fixed", value=0.5)])
    return frames


def test_many_long_names_and_an_outlier_stay_legible():
    """As the published sets have them: long variant names, fixed beside adaptive temperatures, a network whose NSD
    is many times that of the others."""
    long = [f"adaptive on the {term} term only" for term in ("clean", "adversarial", "other", "last")]
    specs = [trial_spec(name, 0, settings={"alpha": place}, epochs=6) for place, name in enumerate(long)]
    others = [trial_spec(f"variant {place}", 0, settings={"beta": place}, epochs=6) for place in range(9)]
    plain = [trial_spec(name, 0, epochs=6) for name in ("at", "rslad")]
    frames = fixed_temperatures(frames_of([*plain, *specs, *others]))
    accuracy = frames.tables["class_accuracy"]
    broken = (accuracy["variant"] == "variant 0") & (accuracy["attack"] != "clean") & (accuracy["class_index"] > 0)
    accuracy.loc[broken, ["correct", "accuracy"]] = 0
    for width in WIDTHS:
        found = draw(read_results(frames), ["class_accuracy", "nsd", "temperatures", "training_curves"], width=width)
        for name, figure in found.items():
            assert figure.get_figheight() < 9, name
            check_labels(f"{name} at {width} width", figure)
    outlier = variants.nsd(accuracy, variants=["at", "rslad", *long, "variant 0"])
    check_labels("nsd", outlier)
    axis = outlier.axes[0]
    assert axis.get_ylim()[1] < 2, "one variant does not press the others onto a line"
    assert "3.00→" in [text.get_text() for text in axis.texts]
    assert "of 15 variants: the baseline and the best" in found["training_curves"].legends[0].get_title().get_text()
    titles = [axis.get_title(loc="left") for axis in found["temperatures"].axes if axis.get_visible()]
    assert len(titles) == 6
    assert not any("fixed" in title for title in titles), "what never changes has no curve to show"


def test_attacks_on_fewer_images_say_so(frames):
    frame = frames.tables["class_accuracy"]
    fewer = np.where(frame["attack"] == "aa_short", 4, 1)
    few = frame.assign(n=frame["n"] // fewer, correct=frame["correct"] // fewer)
    labels = [label.get_text() for label in classes.attack_ladder(few).axes[0].get_xticklabels()]
    assert labels == ["Clean", "FGSM", "PGD-20", "CW-20", "AA (short)\nn=500"]


@pytest.mark.slow
def test_a_hundred_classes_stay_legible():
    frames = store(("at", "absld_reweight"), seeds=1, classes=HUNDRED, per_class=20)
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


def test_hyperparameter_response_finds_what_was_varied(tuned):
    results = read_results(tuned)
    table = varied_settings(results.trials, results.epochs, "selection_score")
    assert list(table.columns) == ["method", "best", "temperature_rate"]
    assert sorted(table["temperature_rate"]) == [0.05, 0.1, 0.3, 1.0, 3.0]
    best = tuned.tables["epochs"].groupby("trial_id", observed=True)["selection_score"].max()
    assert table["best"].to_dict() == pytest.approx(best.to_dict())


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
