"""Where names stand so that none covers another: at the ends of lines, beside points, below an axis."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Annotation, Text
from matplotlib.transforms import Bbox

from harness.report.figures.lettering import SIZE, inches
from harness.report.figures.style import INK

END_SIZE = 5.5  # points, of names at the ends of lines
_RINGS = (5.0, 10.0, 17.0, 26.0, 38.0, 52.0)  # points from a mark to its name
_ANGLES = np.arange(16) * math.pi / 8  # the first to the right of the mark
_MARK = 3.0  # points from the middle of a mark to its rim


def ticks_below(axis: Axes, places: np.ndarray, labels: Sequence[str], room: float) -> None:
    """Ticks with labels, `room` inches from one to the next, on lines at their spaces; where that is not enough, every
    other one (every third, ...) stands lower."""
    texts = ["\n".join(textwrap.wrap(label, 8, break_long_words=False)) or label for label in labels]
    axis.set_xticks(places, texts)
    widths = [inches(text) + 0.06 for text in texts]
    levels = next(
        level
        for level in range(1, len(texts) + 1)
        if all(one + other <= 2 * level * room for one, other in zip(widths, widths[level:], strict=False))
    )
    lines = np.array([text.count("\n") + 1 for text in texts])
    shifts = [(np.arange(len(texts)) + shift) % levels for shift in range(levels)]
    depths = [np.cumsum([0, *(lines[own == level].max() for level in range(levels - 1))]) for own in shifts]
    best = int(np.argmin([depth[-1] for depth in depths]))  # tall labels stand on the lowest level
    for tick, level in zip(axis.xaxis.get_major_ticks(), shifts[best], strict=True):
        tick.set_pad(matplotlib.rcParams["xtick.major.pad"] + 1.25 * SIZE * depths[best][level])


def end_name(axis: Axes, y: float, name: str, colour: Any) -> None:
    """The name of a line that ends at y on the right edge of the panel; `spread_ends` keeps it off the others."""
    line = {"arrowstyle": "-", "color": colour, "linewidth": 0.4, "relpos": (0, 0.5), "shrinkA": 0, "shrinkB": 0}
    options: dict[str, Any] = {"color": colour, "fontsize": END_SIZE, "ha": "left", "va": "center"}
    axis.annotate(
        name, (1, y), xytext=(7, 0), xycoords=axis.get_yaxis_transform(), textcoords="offset points",
        annotation_clip=False, arrowprops=line, **options,
    )  # fmt: skip


def spread_ends(figure: Figure) -> None:
    """Lay out the figure with room for the names at the right of each panel, then move them up or down, as little as it
    takes, until none covers another. A panel with more names than fit beside it has none."""
    figure.draw_without_rendering()
    for axis in figure.axes:
        _spread([text for text in axis.texts if isinstance(text, Annotation)], axis)


def _spread(names: Sequence[Annotation], axis: Axes, gap: float = 0.5) -> None:
    if not names:
        return
    points = 72 / axis.get_figure().dpi  # type: ignore[union-attr]
    height = max(points * Text.get_window_extent(name).height for name in names) + gap
    low, high = points * axis.bbox.y0, points * axis.bbox.y1
    if height * (len(names) - 1) > high - low:
        for name in names:
            name.remove()
        return
    places = np.array([points * axis.transData.transform((0, name.xy[1]))[1] for name in names])
    order = np.argsort(places, kind="stable")
    for index, place in zip(order, settle(places[order], height, low, high), strict=True):
        names[index].set_position((7, place - places[index]))


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


def name_points(axis: Axes, points: Mapping[str, tuple[float, float]], avoid: Sequence[Bbox] = ()) -> list[str]:
    """Write the name of each point of a laid out figure beside it, where it covers no mark and no other name; returns
    the names for which there is no such place. A name that stands off its mark is tied to it by a thin line.

    avoid: boxes in data units, such as error bars, that are covered only where it can't be helped.
    """
    scale = axis.get_figure().dpi / 72  # type: ignore[union-attr]
    at = {name: axis.transData.transform(place) / scale for name, place in points.items()}  # in points
    centres = np.array(list(at.values())).reshape(-1, 2)
    rims = np.hstack([centres - _MARK, centres + _MARK])
    soft = np.array([np.array(box.transformed(axis.transData).extents) / scale for box in avoid]).reshape(-1, 4)
    within = np.array(axis.bbox.extents) / scale
    taken, crowded = np.empty((0, 4)), []
    for name in sorted(at, key=lambda name: -_crowd(at[name], centres)):
        size = np.array([72 * inches(name) + 2, 1.3 * SIZE])
        boxes, away = _around(at[name], size)
        free = (boxes[:, :2] >= within[:2]).all(axis=1) & (boxes[:, 2:] <= within[2:]).all(axis=1)
        free &= (_covered(boxes, rims) == 0) & (_covered(boxes, taken) == 0)
        if not free.any():
            crowded.append(name)
            continue
        best = boxes[np.argmin(np.where(free, away + 20 * _covered(boxes, soft), np.inf))]
        taken = np.vstack([taken, best])
        _write_beside(axis, name, points[name], (best[:2] + best[2:]) / 2 - at[name], size)
    return [name for name in points if name in crowded]


def _crowd(place: np.ndarray, others: np.ndarray) -> float:
    """How near the other points are."""
    return float((1 / (10 + np.hypot(*(others - place).T))).sum())


def _around(place: np.ndarray, size: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Boxes (K, 4) of a size around a place, and how far each is away."""
    ring, angle = (part.ravel() for part in np.meshgrid(_RINGS, _ANGLES, indexing="ij"))
    direction = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    centres = place + ring[:, None] * direction + np.clip(1.5 * direction, -1, 1) * size / 2
    return np.hstack([centres - size / 2, centres + size / 2]), ring


def _covered(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """How many of the others each box covers."""
    apart = (boxes[:, None, :2] >= others[None, :, 2:]) | (boxes[:, None, 2:] <= others[None, :, :2])
    return (~apart.any(axis=2)).sum(axis=1)


def _write_beside(axis: Axes, name: str, point: tuple[float, float], offset: np.ndarray, size: np.ndarray) -> None:
    nearest = np.clip(-offset, -size / 2, size / 2)  # of the box around the name, from its middle
    line = None
    if np.hypot(*(offset + nearest)) > _RINGS[0] + 1:
        line = {"arrowstyle": "-", "color": INK, "linewidth": 0.4, "relpos": tuple(nearest / size + 0.5),
                "shrinkA": 0, "shrinkB": _MARK}  # fmt: skip
    text = axis.annotate(
        name, point, xytext=tuple(offset), textcoords="offset points", ha="center", va="center",
        fontsize=SIZE, color=INK, arrowprops=line, zorder=5,
        bbox={"facecolor": "white", "alpha": 0.75, "linewidth": 0, "pad": 0.3},
    )  # fmt: skip
    text.set_in_layout(False)
