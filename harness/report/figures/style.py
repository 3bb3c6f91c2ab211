"""How figures look: widths, one colour, marker, line, hatch and name per variant, and a canvas that never touches
global state.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from importlib import resources
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from harness.files import replacing
from harness.report.figures.lettering import fitted, inches

WIDTHS = {"column": 3.25, "text": 6.75}  # inches: one column and the full width of a two-column paper
MOST_VARIANTS = 12  # in one figure with a look of their own: as many as there are colours and markers
MOST_BANDS = 4  # variants with bands in one figure
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
    """How one variant is drawn everywhere: told apart by colour, and without it by marker, line and hatch. label: its
    name on the paper, unlike that of any other."""

    label: str
    colour: str
    marker: str
    line: Any
    hatch: str


def looks(variants: Sequence[str]) -> dict[str, Look]:
    """A look for each variant, in an order that every figure of a report shares. The first twelve have a colour and a
    marker of their own; later ones pair them otherwise."""
    names = list(dict.fromkeys(variants))
    kinds = (_COLOURS, _MARKERS, _LINES, _HATCHES)
    turns = (0, 1, 1, 1)  # how much further each kind is after every twelve variants
    found = {}
    for place, (name, label) in enumerate(zip(names, fitted(names), strict=True)):
        turn = place // MOST_VARIANTS
        parts: list[Any] = [kind[(place + by * turn) % len(kind)] for kind, by in zip(kinds, turns, strict=True)]
        found[name] = Look(label, *parts)
    return found


class Drawing(Figure):
    """A figure that knows its caption. says: in whole sentences what marks, bars and bands are, over how many seeds and
    images, and which variants are not there."""

    says: str = ""


@contextmanager
def paper_style() -> Iterator[None]:
    """The style of the package, for as long as it lasts; the user's own settings come back."""
    style = resources.files("harness.report.figures") / "paper.mplstyle"
    with resources.as_file(style) as path, matplotlib.rc_context():
        matplotlib.rcParams.update(matplotlib.rcParamsDefault)
        matplotlib.rcParams.update(matplotlib.rc_params_from_file(path, use_default_template=False))
        yield


def styled(draw: Callable[..., Drawing | None]) -> Callable[..., Drawing | None]:
    """A figure function that runs in the paper style and whose figure is laid out when it returns.

    TypeError for a figure that is none of `canvas`: it has no caption.
    """

    @wraps(draw)
    def inside(*arguments: Any, **options: Any) -> Drawing | None:
        with paper_style():
            figure = draw(*arguments, **options)
            if figure is None:
                return None
            if not isinstance(figure, Drawing):
                raise TypeError(f"{draw.__name__} gave a {type(figure).__name__}, not a figure of style.canvas")
            figure.draw_without_rendering()
            return figure

    return inside


def canvas(width: str, height: float, rows: int = 1, columns: int = 1, **options: Any) -> tuple[Drawing, np.ndarray]:
    """A figure of a preset width and its axes, an array (rows, columns). height: inches. Free of pyplot."""
    figure = Drawing(figsize=(WIDTHS[width], height))
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def curve(axis: Axes, x: Any, y: Any, look: Look, **options: Any) -> None:
    """The line of one variant."""
    axis.plot(x, y, color=look.colour, linestyle=look.line, marker=look.marker, label=look.label, **options)


def marks(axis: Axes, x: Any, y: Any, look: Look, **options: Any) -> None:
    """The marks of one variant with their intervals: xerr, yerr as `reach` gives them. Bars are darker than the marks
    and their ends wider, so that short ones are seen."""
    bars: dict[str, Any] = {"ecolor": dark(look.colour), "elinewidth": 0.8, "capsize": 2.2, "capthick": 0.7}
    mark: dict[str, Any] = {"color": look.colour, "label": look.label, "markersize": 3.2}
    axis.errorbar(x, y, fmt=look.marker, **(bars | mark | options))


def dark(colour: str) -> tuple[float, ...]:
    """A colour that thin lines and small letters can have on white."""
    return tuple(0.6 * part for part in to_rgb(colour))


def reach(value: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """How far intervals reach down and up from their values, (2, values); 0 where they are not known."""
    return np.nan_to_num(np.clip(np.stack([value - low, high - value]), 0, None))


def lines_of(axis: Axes, names: Sequence[str]) -> None:
    """A line of the figure for each name, from top to bottom, and a scale below."""
    axis.set_yticks(np.arange(len(names)), names)
    axis.set_ylim(len(names) - 0.5, -0.5)
    axis.grid(axis="y", visible=False)
    axis.grid(axis="x", visible=True)


def front_steps(axis: Axes, front: np.ndarray) -> None:
    """The border of what the points of a Pareto front (P, 2), from left to right, reach: steps, to the axes' edges.
    Nothing without points."""
    if not len(front):
        return
    left, bottom = axis.get_xlim()[0], axis.get_ylim()[0]
    x, y = np.array([[left, front[0, 1]], *front, [front[-1, 0], bottom]]).T
    axis.step(x, y, where="pre", zorder=1, label="Pareto front", scalex=False, scaley=False, **DOTTED)


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


def legend_below(figure: Figure, pairs: Sequence[tuple[Any, str]], title: str | None = None) -> None:
    """A legend under the whole figure, out of the way of every mark; it makes the figure higher where it is long.

    pairs: handles and labels, see `pairs_of`. title: what the reader must know of the choice of variants.
    """
    if not pairs:
        remark(figure, title)
        return
    handles, labels = zip(*pairs, strict=True)
    longest = max(inches(label) for label in labels)
    columns = max(1, min(len(labels), int((figure.get_figwidth() - 0.1) / (longest + 0.42))))
    note = _note(figure, title)
    lines = -(-len(labels) // columns) + (note.count("\n") + 1 if note else 0)
    figure.set_figheight(figure.get_figheight() + 0.125 * max(0, lines - 2))  # not out of the room for the axes
    options: dict[str, Any] = {"title": note, "title_fontsize": 6.5} if note else {}
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, **options)


def pairs_of(axes: Iterable[Axes]) -> list[tuple[Any, str]]:
    """Handles and labels of some panels, each label once."""
    found: dict[str, Any] = {}
    for axis in axes:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    return [(handle, label) for label, handle in found.items()]


def remark(figure: Figure, text: str | None) -> None:
    """A line below the figure, where there is no legend to carry it."""
    if text:
        figure.supxlabel(_note(figure, text) or "", fontsize=6.5)


def _note(figure: Figure, text: str | None) -> str | None:
    return fitted([text], figure.get_figwidth() - 0.2, lines=3, most=200)[0] if text else None
