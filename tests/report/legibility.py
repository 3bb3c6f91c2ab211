"""What makes a figure legible: no text covers another, none leaves the canvas."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure
from matplotlib.text import Text


def texts(figure: Figure) -> list[Text]:
    """What is drawn, without the labels of ticks outside the view."""
    hidden = set()
    for axis in [axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)]:
        drawn = {id(tick.label1) for tick in axis._update_ticks()}
        hidden |= {id(tick.label1) for tick in [*axis.majorTicks, *axis.minorTicks]} - drawn
    found = [text for text in figure.findobj(Text) if text.get_visible() and text.get_text().strip()]
    unseen = {id(text) for axes in figure.axes if not axes.get_visible() for text in axes.findobj(Text)}
    return [text for text in found if id(text) not in hidden | unseen]


def check_labels(name: str, figure: Figure) -> None:
    """AssertionError with the texts that cover each other or leave the canvas."""
    figure.draw_without_rendering()
    shown = texts(figure)
    points = 72 / figure.dpi
    boxes = points * np.array([Text.get_window_extent(text).extents for text in shown])  # without lines to their points
    boxes += [0.4, 0.4, -0.4, -0.4]
    apart = (boxes[:, None, :2] >= boxes[None, :, 2:]) | (boxes[:, None, 2:] <= boxes[None, :, :2])
    covered = np.argwhere(np.triu(~apart.any(axis=2), 1))
    pairs = [(shown[one].get_text(), shown[other].get_text()) for one, other in covered]
    assert not pairs, f"{name}: {pairs[:5]}"
    right, top = points * figure.bbox.x1, points * figure.bbox.y1
    outside = (boxes[:, :2] < 0).any(axis=1) | (boxes[:, 2:] > [right, top]).any(axis=1)
    cut = [shown[place].get_text() for place in np.flatnonzero(outside)]
    assert not cut, f"{name} leaves the canvas: {cut[:5]}"
