"""Tables of the leaderboard in four languages.

Numbers come from `leaderboard`, layout from `grid`; here is form only.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import pandas as pd
from rich.cells import cell_len
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from harness.report import escape
from harness.report.captions import (
    attack_title,
    caption,
    checkpoint_of,
    marks,
    order,
    otherwise,
    registered,
    setting_title,
)
from harness.report.scores.leaderboard import Leaderboard
from harness.report.tables import published as beside
from harness.report.tables.details import class_images, intervals_table, origins_table, selection_table, wide
from harness.report.tables.grid import Cell, Grid, Line, costs, grid

MOST_DETAILED = 100  # rows; a longer leaderboard has its intervals in the CSV file only
MOST_PRINTED = 100  # rows of a table on the terminal
MOST_OF_A_NAME = 40  # columns of the terminal, before it is folded
DIGITS = 5  # characters of a number on the terminal: 100.0, 0.338
EMPTY = "No results yet: the store has no trial of this report."


def terminal(board: Leaderboard, checkpoint: str = "best_validation", width: int = 120) -> Group:
    """The leaderboard for a terminal `width` columns wide: attacks that do not fit side by side go below, their columns
    below columns; rows beyond the first `MOST_PRINTED` are counted."""
    if board.rows.empty:
        return Group(Text(EMPTY), *[Text(escape.one_line(note)) for note in board.notes])
    parts: list[Any] = []
    for setting in board.settings:
        table = grid(board, setting, checkpoint)
        shown = checkpoint_of(board.of(setting).rows, checkpoint)
        parts.append(Text(escape.one_line(f"{setting_title(setting)} · {shown}"), style="bold"))
        parts += _blocks(table, width)
        if len(table.lines) > MOST_PRINTED:
            parts.append(Text(f"{len(table.lines) - MOST_PRINTED} more rows: `report` writes them all", style="yellow"))
        said = [*order(board, setting, checkpoint), *caption(board, setting, checkpoint)[1:3]]
        said += otherwise(board, setting, checkpoint)
        said += [marks(board, setting, checkpoint)] if setting in board.baselines else []
        said += registered(board, setting, checkpoint)
        parts += [Text(escape.one_line(text), style="dim") for text in said]
        parts += [Text(escape.one_line(text), style="yellow") for text in table.missing]
    return Group(*parts, *[Text(escape.one_line(note), style="yellow") for note in board.notes])


@dataclass(frozen=True)
class _Columns:
    """Neighbouring columns of the terminal's table: their common title, their own, their widths, and a line's cells."""

    title: str
    titles: Sequence[str]
    widths: Sequence[int]
    cells: Callable[[Line], Sequence[Text]]

    @property
    def width(self) -> int:
        return sum(self.widths) + len(self.widths)


def _blocks(table: Grid, width: int) -> Iterator[Table | Text]:
    """The table's columns in as few blocks, one below the other, as fit the width; each starts with rank and name."""
    names = _names(table)
    blocks: list[list[_Columns]] = [[]]
    for columns in [*_attacks(table), _costs(table)]:
        if blocks[-1] and names.width + sum(each.width for each in [*blocks[-1], columns]) > width:
            blocks.append([])
        blocks[-1].append(columns)
    for block in blocks:
        yield from _block(table, [names, *block])


def _names(table: Grid) -> _Columns:
    longest = max(cell_len(escape.one_line(line.title)) for line in table.lines[:MOST_PRINTED])
    name = max(len("variant"), min(longest, MOST_OF_A_NAME))
    if not table.ranked:
        return _Columns("", ["variant"], [name], lambda line: [Text(escape.one_line(line.title))])
    return _Columns(
        "", ["rank", "variant"], [4, name],
        lambda line: [Text(table.rank(line), justify="right"), Text(escape.one_line(line.title))],
    )  # fmt: skip


def _attacks(table: Grid) -> Iterator[_Columns]:
    titles = [metric.title.rjust(DIGITS) for metric in table.metrics]  # digits below digits, a mark behind them or not
    widths = [max(DIGITS + 1, len(title)) for title in titles]

    def cells(line: Line, attack: str) -> list[Text]:
        return [_terminal_cell(line.cells.get((attack, metric.name))) for metric in table.metrics]

    for attack in table.attacks:
        yield _Columns(attack_title(attack), titles, widths, partial(cells, attack=attack))


def _costs(table: Grid) -> _Columns:
    """What the table is ordered by, where no column has it, and what a row cost."""
    own = [table.ordered_by.title] if table.scored and table.ordered_by else []
    titles = [*own, "seeds", "time", "MiB"]

    def cells(line: Line) -> list[Text]:
        texts = [*([table.score(line, 1)] if table.scored else []), *costs(line.facts)]
        return [Text(text, justify="right") for text in texts]

    return _Columns("", titles, [*(max(DIGITS, cell_len(title)) for title in own), 5, 6, 7], cells)


def _block(table: Grid, block: Sequence[_Columns]) -> Iterator[Table | Text]:
    yield Text("".join(columns.title.ljust(columns.width) for columns in block).rstrip(), style="dim")
    drawn = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 1, 0, 0))
    for columns in block:
        for title, size in zip(columns.titles, columns.widths, strict=True):
            drawn.add_column(title.rjust(size) if columns.title == "" and title != "variant" else title, width=size,
                             overflow="fold")  # fmt: skip
    role = table.lines[0].role
    for line in table.lines[:MOST_PRINTED]:
        if line.role != role:
            drawn.add_row()
        role = line.role
        cells = [cell for columns in block for cell in columns.cells(line)]
        drawn.add_row(*cells, style="dim" if line.role == "teacher" else "")
    yield drawn


def _terminal_cell(cell: Cell | None) -> Text:
    if cell is None:
        return Text("–".rjust(DIGITS), style="dim")
    style = {1: "bold green", 2: "underline"}.get(cell.rank, "")
    number = cell.text(1 if cell.metric.percent else 2)
    return Text.assemble(" " * (DIGITS - len(number)), (number, style), cell.mark)


def markdown(board: Leaderboard, checkpoint: str = "best_validation", published: pd.DataFrame | None = None) -> str:
    """The leaderboard as a Markdown document: per setting the table, intervals and differences, selection, cost.

    published: numbers of papers, which stand beside those that are measured.
    """
    if board.rows.empty:
        return "\n\n".join(["# Leaderboard", EMPTY, *[escape.markdown(note) for note in board.notes]]) + "\n"
    parts = ["# Leaderboard"]
    for setting in board.settings:
        table = grid(board, setting, checkpoint)
        parts += [f"## {escape.markdown(setting_title(setting))}", _markdown_main(table)]
        parts.append(" ".join(escape.markdown(text) for text in caption(board, setting, checkpoint)))
        parts += ["\n".join(f"- {escape.markdown(text)}" for text in table.missing)] if table.missing else []
        if len(table.lines) <= MOST_DETAILED:
            parts += [
                "### Intervals and differences",
                _markdown_frame(intervals_table(board, setting, checkpoint)),
                INTERVALS_NOTE,
                escape.markdown(class_images(board, setting)),
            ]
        parts += [
            "### Selection and cost",
            _markdown_frame(selection_table(board, setting, checkpoint)),
            SELECTION_NOTE,
            "### Trials",
            _markdown_frame(origins_table(board, setting)),
            ORIGINS_NOTE,
        ]
        parts += [] if board.of(setting).rows["peeked_score"].isna().all() else [PEEKED_NOTE]
        parts += [] if published is None else beside.markdown(board, setting, checkpoint, published)
    return "\n\n".join([*parts, *[escape.markdown(note) for note in board.notes]]) + "\n"


INTERVALS_NOTE = (
    "In percent, except NSD. Test samples: 95%, for these networks and other test sets of this size (worst class: "
    "simultaneous over classes). Seeds: 95% Student's t over seeds, from three seeds on. Each interval holds by "
    "itself; p is corrected for all marked comparisons. The worst class is the smallest of noisy numbers and biased "
    "low; Val.-worst is the test accuracy of the class that validation found worst, which is not."
)
SELECTION_NOTE = (
    "In percent. Checkpoints: average / worst class of each under the attack named. Times, by the clock and beside "
    "whatever else ran, and memory: of one trial, mean and maximum over seeds."
)
ORIGINS_NOTE = (
    "Commits of the code that trained and evaluated them, + with changes that were not committed. `show TRIAL` has a "
    "trial in full, `show TRIAL --suite` a suite that makes it."
)
PEEKED_NOTE = (
    "Test score: (average + worst)/2 of robust test accuracy at the epoch that validation chose, at the last, and "
    "peeked: at the epoch that looks best on the test set (recorded for study, never used)."
)


def _markdown_main(table: Grid) -> str:
    titles = [
        *(["rank"] if table.ranked else []),
        "variant",
        *([table.ordered_by.title] if table.scored and table.ordered_by else []),
    ]
    titles += [f"{attack_title(attack)} {metric.title}" for attack in table.attacks for metric in table.metrics]
    rows = []
    for line in table.lines:
        first = [*([table.rank(line)] if table.ranked else []), escape.markdown(line.title)]
        first += [table.score(line)] if table.scored else []
        cells = [
            _markdown_cell(line.cells.get((attack, metric.name)))
            for attack in table.attacks
            for metric in table.metrics
        ]
        rows.append([*first, *cells, *costs(line.facts)])
    return markdown_table([*titles, "seeds", "time", "MiB"], rows)


def _markdown_cell(cell: Cell | None) -> str:
    if cell is None:
        return "–"
    text = cell.text()
    return {1: f"**{text}**", 2: f"<ins>{text}</ins>"}.get(cell.rank, text) + (f" {cell.mark}" if cell.mark else "")


def markdown_table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A pipe table; names, which stand first or behind the rank, to the left, numbers to the right. The cells are
    escaped already."""
    names = 1 + (list(titles[:1]) == ["rank"])
    lines = [titles, [*["---:"] * (names - 1), "---", *["---:"] * (len(titles) - names)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _markdown_frame(frame: pd.DataFrame) -> str:
    rows = [[escape.markdown(value) for value in row] for row in frame.itertuples(index=False)]
    return markdown_table([escape.markdown(name) for name in frame.columns], rows)


def csv_text(board: Leaderboard) -> str:
    """The whole leaderboard in numbers: a line per row, checkpoint and attack, a column per metric and interval."""
    frame = wide(board)
    for name in frame.columns:
        texts = {value: escape.csv(value) for value in frame[name].unique() if isinstance(value, str)}
        frame[name] = frame[name].map(lambda value, texts=texts: texts.get(value, value)) if texts else frame[name]
    text = io.StringIO()
    frame.to_csv(text, index=False, quoting=csv.QUOTE_MINIMAL, lineterminator="\n")
    return text.getvalue()


def print_board(console: Console, board: Leaderboard, checkpoint: str, published: pd.DataFrame | None = None) -> None:
    """The leaderboard on a rich console, and beside it numbers of papers where there are any."""
    console.print(terminal(board, checkpoint, console.width))
    if published is not None:
        console.print(beside.terminal(board, checkpoint, published))
