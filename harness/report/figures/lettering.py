"""Names on paper: what the figures' font can draw, how wide it is, and what fits into the room there is."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Sequence
from functools import cache, lru_cache

from matplotlib.font_manager import findfont
from matplotlib.ft2font import FT2Font

from harness.report.escape import ascii_letters, one_line

LONGEST = 36  # letters of a name
_SCALE = 256.0
SIZE = 6.5  # points, of names at axes and in legends


@cache
def _font() -> FT2Font:
    """The figures' font, which comes with matplotlib."""
    return FT2Font(findfont("DejaVu Sans"))


@cache
def _drawn() -> frozenset[int]:
    return frozenset(_font().get_charmap())


def legible(text: object) -> str:
    """The text on one line; what the font lacks comes in ASCII letters."""
    return "".join(char if ord(char) in _drawn() else ascii_letters(char) for char in one_line(text))


@lru_cache(4096)
def inches(text: str, size: float = SIZE) -> float:
    """How wide a text is, its longest line. size: points."""
    font = _font()
    font.set_size(_SCALE, 72)  # where rounding to dots is not felt
    widths = []
    for line in text.replace(r"\$", "$").split("\n"):
        font.set_text(line)
        widths.append(font.get_width_height()[0] / 64)
    return max(widths) / _SCALE * size / 72


def plain(text: object) -> str:
    """A name as it is: dollar signs and the like are no mathematics; long ones are cut in the middle."""
    return _escaped(_cut(legible(text), LONGEST))


def fitted(
    names: Sequence[object], room: float = 2.6, lines: int = 1, size: float = SIZE, most: int = LONGEST
) -> list[str]:
    """Names as `plain` has them, on at most so many lines that are at most `room` inches wide, cut in the middle where
    that is not enough; no two alike.

    size: of the letters, points. most: letters of a name.
    """
    texts = [legible(name) for name in names]
    found = [_fit(text, "", room, lines, size, most) for text in texts]
    times = Counter(found)
    marks = [f" #{place}" if times[text] > 1 else "" for place, text in enumerate(found, 1)]
    return [_escaped(_fit(text, mark, room, lines, size, most)) for text, mark in zip(texts, marks, strict=True)]


def _fit(text: str, mark: str, room: float, lines: int, size: float, most: int) -> str:
    for letters in range(min(most, max(len(text), 1)), 2, -1):
        shown = _cut(text, letters) + mark
        if inches(shown, size) <= room:
            return shown
        wrapped = _wrapped(shown, room, size) if lines > 1 else shown
        if wrapped.count("\n") < lines and inches(wrapped, size) <= room:
            return wrapped
    return _cut(text, 3) + mark


def _wrapped(text: str, room: float, size: float) -> str:
    """The text on lines of as many letters as fit into `room`, as long as it can be."""
    mean = max(1, int(room / inches(text, size) * len(text)))
    for letters in range(mean + 2, max(2, mean - 6), -1):
        wrapped = "\n".join(textwrap.wrap(text, max(3, letters), break_on_hyphens=False))
        if inches(wrapped, size) <= room:
            break
    return wrapped


def _cut(text: str, most: int) -> str:
    """At most so many letters; the end stays, names often differ there."""
    if len(text) <= most:
        return text
    tail = (most - 1) // 3
    return f"{text[: most - 1 - tail].rstrip()}…{text[len(text) - tail :].lstrip()}"


def _escaped(text: str) -> str:
    return text.replace("$", r"\$")
