"""Every figure for few and many variants and classes, with long names in any script: legible, without a warning."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Sequence

import pandas as pd
import pytest

from harness.report.figures.draw import FIGURES, draw
from harness.report.figures.style import WIDTHS, Drawing
from harness.report.figures.tuning import pareto, response
from harness.report.results import read_results
from harness.report.tuning import settings_table
from tests.report.legibility import check_labels
from tests.synthetic_store import Frames, frames_of, teacher_spec, trial_spec

NAMES = ("at", "absld", "rslad with a name that is a good deal longer than any column", "対抗的訓練 с длинным именем")
CLASSES = (
    "cat",
    "a class whose name nobody would want to print",
    "Ångström",
    "猫と犬",
    "кошка",
    "T-shirt/top",
    "$x_1$",
)
FIGURE_NAMES = [name for name, info in FIGURES.items() if not info.of_quantity]


def store(variants: int, classes: int, seeds: int = 2, epochs: int = 3) -> Frames:
    """Variants that log temperatures and a test curve, and have a number of their own each."""
    names = [NAMES[place] if place < len(NAMES) else f"{NAMES[place % 4]} {place}" for place in range(variants)]
    labels = [f"{CLASSES[place % 6]} {place}" if place >= 6 else CLASSES[place] for place in range(classes)]
    teacher = teacher_spec(epochs=epochs)
    students = [
        trial_spec(name, seed, epochs=epochs, settings={} if name == "at" else {"temperature_rate": 0.01 * (place + 1)})
        for place, name in enumerate(names)
        for seed in range(seeds)
    ]
    return frames_of([teacher, *students], classes=labels, per_class=4)


def drawn_without_a_warning(frames: Frames, width: str | None, names: Sequence[str]) -> dict[str, Drawing | str]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return draw(read_results(frames), names, width=width)


QUICK = {(1, 2, "column"), (12, 10, "column"), (3, 10, "text")}
CASES = [
    pytest.param(*case, marks=() if case in QUICK else pytest.mark.slow)
    for case in itertools.product((1, 3, 12, 30), (2, 10, 100), WIDTHS)
]


@pytest.mark.parametrize(("variants", "classes", "width"), CASES)
def test_no_text_covers_another_or_leaves_the_canvas(variants: int, classes: int, width: str) -> None:
    for name, figure in drawn_without_a_warning(store(variants, classes), width, FIGURE_NAMES).items():
        if isinstance(figure, str):
            assert variants < 12, "what every figure needs is there"
            assert "could not be drawn" not in figure
            continue
        check_labels(name, figure)
        assert figure.get_figwidth() == WIDTHS[width]
        assert figure.get_figheight() < 9.5, name
        assert figure.says.endswith("."), "its caption says what is drawn"


def test_one_epoch_is_drawn_and_what_cannot_be_is_said() -> None:
    names = ("temperatures", "training_curves", "selection_gap")
    found = drawn_without_a_warning(store(3, 3, epochs=1), None, names)
    for name, figure in found.items():
        assert isinstance(figure, Drawing), figure
        assert name == "selection_gap" or "One epoch was trained: there is no curve to draw." in figure.says
        dots = [line for axis in figure.axes if axis.get_visible() for line in axis.lines if len(line.get_xdata())]
        assert dots
        assert all(line.get_marker() != "None" for line in dots), "a line through one point is nothing"
        check_labels(name, figure)


@pytest.mark.parametrize("keys", [1, 5])
def test_the_figures_of_a_search_are_legible(keys: int) -> None:
    choices = ["class_temperature", "a policy whose name nobody would want to print", "[0.5, 5.0]"]
    lines, epochs = [], []
    for setting, seed in itertools.product(range(6), range(2)):
        trial, score = f"{setting:02d}{seed:014d}", 0.3 + 0.02 * setting + 0.01 * seed
        run = {"setting": setting, "seed": seed, "trial_id": trial, "status": "stopped" if setting == 5 else "done"}
        values = {f"key {key} of a method with long names": 0.01 * 4**setting for key in range(keys - 1)}
        lines.append(run | {"epochs": 1, "cpu_s": 1.0} | values | {"label policy": choices[setting % 3]})
        measures = {"val_robust_avg": 0.5, "val_robust_worst": score, "val_robust_nsd": 0.3}
        epochs.append({"trial_id": trial, "epoch": 1, "seconds": 1.0, "selection_score": score} | measures)
    runs, curves = pd.DataFrame(lines), pd.DataFrame(epochs)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        drawn = response(runs, curves, "selection_score")
        front = pareto(settings_table(runs, curves, "selection_score", "max"))
    for figure in (drawn, front):
        assert isinstance(figure, Drawing)
        check_labels(figure.axes[0].get_xlabel(), figure)
