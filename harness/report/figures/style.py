"""How figures look: widths, one colour, marker, line and hatch per variant, and a canvas that never touches global
state.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, wraps
from importlib import resources
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, get_font
from matplotlib.text import Text

from harness.files import replacing
from harness.report.escape import ascii_letters, one_line

WIDTHS = {"column": 3.25, "text": 6.75}  # inches: one column and the full width of a two-column paper
INK, SOFT, FAINT = "#222222", "#767676", "#B5B5B5"
DOTTED: dict[str, Any] = {"color": SOFT, "linewidth": 0.8, "linestyle": (0, (1, 1.5))}
SEPARATOR: dict[str, Any] = {"color": "#E8E8E8", "linewidth": 0.5, "zorder": 0}

# Okabe and Ito's colours that stand out on white, then darker relatives; neighbours differ in lightness too.
_COLOURS = (
    "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00",
    "#5A3E99", "#7A4B00", "#00504A", "#8C8C8C", "#A50026", "#6B8E23",
)  # fmt: skip
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p", "d", "h")
_DASHES = ((4, 1.5), (1, 1), (4, 1, 1, 1), (6, 1), (3, 1, 1, 1, 1, 1), (2, 2))
_LINES: tuple[Any, ...] = ("-", *((0, dashes) for dashes in _DASHES))
_HATCHES = ("", "////", "....", "\\\\\\\\", "xxxx", "----", "||||", "++", "oo")


@dataclass(frozen=True)
class Look:
    """How one variant is drawn everywhere: told apart by colour, and without it by marker, line and hatch."""

    colour: str
    marker: str
    line: Any
    hatch: str


def looks(variants: Sequence[str]) -> dict[str, Look]:
    """A look for each variant. The order is that of the report, so every figure of a report agrees."""
    kinds = (_COLOURS, _MARKERS, _LINES, _HATCHES)
    names = enumerate(dict.fromkeys(variants))
    return {name: Look(*(kind[place % len(kind)] for kind in kinds)) for place, name in names}


@contextmanager
def paper_style() -> Iterator[None]:
    """The style of the package, for as long as it lasts; the user's own settings come back."""
    style = resources.files("harness.report.figures") / "paper.mplstyle"
    with resources.as_file(style) as path, matplotlib.rc_context():
        matplotlib.rcParams.update(matplotlib.rcParamsDefault)
        matplotlib.rcParams.update(matplotlib.rc_params_from_file(path, use_default_template=False))
        yield


def styled(draw: Callable[..., Figure | None]) -> Callable[..., Figure | None]:
    """A figure function that runs in the paper style and whose figure is laid out when it returns."""

    @wraps(draw)
    def inside(*arguments: Any, **options: Any) -> Figure | None:
        with paper_style():
            figure = draw(*arguments, **options)
            if figure is not None:
                figure.draw_without_rendering()
            return figure

    return inside


def canvas(width: str, height: float, rows: int = 1, columns: int = 1, **options: Any) -> tuple[Figure, np.ndarray]:
    """A figure of a preset width and its axes, an array (rows, columns). height: inches. Free of pyplot."""
    figure = Figure(figsize=(WIDTHS[width], height))
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def curve(axis: Axes, x: Any, y: Any, name: str, look: Look, **options: Any) -> None:
    """The line of one variant."""
    axis.plot(x, y, color=look.colour, linestyle=look.line, marker=look.marker, label=plain(name), **options)


def marks(axis: Axes, x: Any, y: Any, name: str, look: Look, **options: Any) -> None:
    """The marks of one variant with their intervals: xerr, yerr as `reach` gives them."""
    options |= {"color": look.colour, "label": plain(name), "elinewidth": 0.6, "capsize": 0}
    axis.errorbar(x, y, fmt=look.marker, **options)


def reach(value: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """How far intervals reach down and up from their values, (2, values); 0 where they are not known."""
    return np.nan_to_num(np.clip(np.stack([value - low, high - value]), 0, None))


def lines_of(axis: Axes, names: Sequence[str]) -> None:
    """A line of the figure for each name, from top to bottom, and a scale below."""
    axis.set_yticks(np.arange(len(names)), names)
    axis.set_ylim(len(names) - 0.5, -0.5)
    axis.grid(axis="y", visible=False)
    axis.grid(axis="x", visible=True)


def save(figure: Figure, path: Path, dots: int | None = None) -> None:
    """Write a figure, in full or not at all; the kind of file follows from the name. The same figure gives the same
    bytes.

    dots: an inch of a picture, 300 by default.
    """
    metadata = {".pdf": {"CreationDate": None, "ModDate": None}, ".svg": {"Date": None}, ".png": {"Software": None}}
    with paper_style(), replacing(path) as temporary:
        figure.savefig(
            temporary,
            dpi=dots or matplotlib.rcParams["savefig.dpi"],
            format=path.suffix[1:],
            metadata=metadata.get(path.suffix),
        )


@cache
def _drawn() -> frozenset[int]:
    """The characters of the figures' font, which comes with matplotlib."""
    return frozenset(get_font(findfont("DejaVu Sans")).get_charmap())


def plain(text: object) -> str:
    """A name as it is: dollar signs and the like are no mathematics; what the font lacks comes in ASCII letters; long
    ones are cut."""
    name = "".join(char if ord(char) in _drawn() else ascii_letters(char) for char in one_line(text))
    name = name if len(name) <= 36 else name[:35] + "…"
    return name.replace("$", r"\$")


def legend_below(
    figure: Figure, axes: Axes, pairs: Sequence[tuple[Any, str]] | None = None, title: str | None = None
) -> None:
    """A legend under the whole figure, out of the way of every mark.

    pairs: handles and labels, those of `axes` by default. title: what the reader must know of the choice of variants.
    A long legend makes the figure higher.
    """
    pairs = list(zip(*axes.get_legend_handles_labels(), strict=True)) if pairs is None else pairs
    if pairs:
        handles, labels = zip(*pairs, strict=True)
        columns = fitting_columns(figure, labels)
        lines = -(-len(labels) // columns) + (title is not None)
        figure.set_figheight(figure.get_figheight() + 0.125 * max(0, lines - 2))  # not out of the room for the axes
        figure.legend(handles, labels, loc="outside lower center", ncols=columns, title=title, title_fontsize=6.5)


def fitting_columns(figure: Figure, labels: Sequence[str]) -> int:
    """How many legend columns fit into the figure: a letter of 6.5 points is about 0.055 inches wide."""
    longest = max(len(label) for label in labels)
    return max(1, min(len(labels), int(figure.get_figwidth() / (0.055 * longest + 0.42))))


def name_ends(figure: Figure) -> None:
    """Lay out the figure with room at the right of each panel, then keep the names of the lines' ends from touching.

    Panels that carry such names list them in `class_labels`.
    """
    figure.draw_without_rendering()
    for axis in figure.axes:
        spread(getattr(axis, "class_labels", []), axis)


def spread(texts: Sequence[Text], axis: Axes, gap: float = 0.5) -> None:
    """Move labels of one column up or down, as little as it takes, until none covers another. gap: points of room."""
    if not texts:
        return
    renderer = axis.get_figure().canvas.get_renderer()  # type: ignore[union-attr]
    transform = axis.transData
    height = max(text.get_window_extent(renderer).height for text in texts) + gap
    places = [transform.transform(text.get_position())[1] for text in texts]
    order = np.argsort(places, kind="stable")
    bottom, top = axis.bbox.y0, axis.bbox.y1
    settled = settle(np.array(places)[order], height, bottom, max(top, bottom + height * len(texts)))
    for index, place in zip(order, settled, strict=True):
        x, _ = texts[index].get_position()
        texts[index].set_position((x, transform.inverted().transform((0, place))[1]))


def settle(places: np.ndarray, height: float, low: float, high: float) -> np.ndarray:
    """Sorted places at least `height` apart and within bounds, near the given ones: groups that touch share their
    centre.
    """
    groups: list[list[float]] = []  # each: centre, members
    for place in np.clip(places, low, high):
        groups.append([place, 1])
        while True:
            centre, members = groups[-1]
            half = height * (members - 1) / 2
            groups[-1][0] = min(max(centre, low + half), high - half)
            if (
                len(groups) < 2
                or groups[-1][0] - half - (groups[-2][0] + height * (groups[-2][1] - 1) / 2) >= height - 1e-9
            ):
                break
            (first, many), (second, more) = groups.pop(-2), groups.pop()
            groups.append([(first * many + second * more) / (many + more), many + more])
    return np.concatenate([centre + height * (np.arange(members) - (members - 1) / 2) for centre, members in groups])
