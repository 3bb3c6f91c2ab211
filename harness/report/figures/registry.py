"""How a figure is registered: beside its function stands what it shows, which question it answers and what it needs.
Every module of this folder is searched for figures: a new one is a function with its registration, and nothing else.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from harness.report.figures.style import Drawing, styled

Draw = Callable[..., Drawing | None]


@dataclass(frozen=True)
class Example:
    """What the gallery shows a figure with: a store in results/, its methods (all where none is named), and the
    quantity, where the figure wants one."""

    store: str
    methods: tuple[str, ...] = ()
    quantity: str | None = None


@dataclass(frozen=True)
class FigureInfo:
    """A figure. function: its parameters say what it needs: before the `*` tables of the store, rows of one setting;
    behind it, as it likes, styles, width, checkpoint, baseline, ranking (of the variants:
    `choice.validation_ranking`), names (of the classes), outcomes (of the baseline and the best), published (numbers of
    papers), quantity.
    quantities: of `class_state` that it reads; `*` at the end stands for any end. absent: why there is none, where the
    function returns None. example: None keeps it out of the gallery."""

    shows: str
    question: str
    function: Draw
    quantities: tuple[str, ...]
    absent: str
    example: Example | None

    @property
    def needs(self) -> list[str]:
        """The tables."""
        return [name for name, each in self.takes.items() if each.kind is each.POSITIONAL_OR_KEYWORD]

    @property
    def takes(self) -> Mapping[str, inspect.Parameter]:
        """The parameters of the function by name."""
        return inspect.signature(self.function).parameters

    @property
    def of_quantity(self) -> bool:
        """Whether it draws a quantity that has to be named: `class_quantity:weight`."""
        return "quantity" in self.takes and self.takes["quantity"].default is inspect.Parameter.empty


FIGURES: dict[str, FigureInfo] = {}


def register(
    shows: str,
    question: str,
    *,
    quantities: tuple[str, ...] = (),
    absent: str = "no rows to draw",
    example: Example | None = None,
) -> Callable[[Draw], Draw]:
    """Decorator: make a function a figure of the report, in the paper style, known by the function's name."""

    def add(function: Draw) -> Draw:
        drawn = styled(function)
        FIGURES[function.__name__] = FigureInfo(shows, question, drawn, quantities, absent, example)
        return drawn

    return add
