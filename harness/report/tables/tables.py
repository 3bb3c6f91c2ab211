"""Tables of the leaderboard in four languages.

Numbers come from `leaderboard`, layout from `grid`; here is form only.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Any

import pandas as pd
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from harness.report import escape
from harness.report.captions import attack_title, caption, checkpoint_of, marks, otherwise, registered, setting_title
from harness.report.scores.leaderboard import Leaderboard
from harness.report.tables import published as beside
from harness.report.tables.details import class_images, intervals_table, selection_table, wide
from harness.report.tables.grid import Cell, Grid, costs, grid

MOST_DETAILED = 100  # rows; a longer leaderboard has its intervals in the CSV file only
MOST_PRINTED = 100  # rows of a table on the terminal
DIGITS = 5  # characters of a number on the terminal: 100.0, 0.338
EMPTY = "No results yet: the store has no trial of this report."


def terminal(board: Leaderboard, checkpoint: str = "best_validation", width: int = 120) -> Group:
    """The leaderboard for a terminal `width` columns wide: attacks that do not fit side by side go below, rows beyond
    the first `MOST_PRINTED` are counted."""
    if board.rows.empty:
        return Group(Text(EMPTY), *[Text(escape.one_line(note)) for note in board.notes])
    parts: list[Any] = []
    for setting in board.settings:
        table = grid(board, setting, checkpoint)
        name = max(len(escape.one_line(line.title)) for line in table.lines[:MOST_PRINTED])
        room = max(1, (width - min(name, 40) - 18) // (7 * len(table.metrics)))
        shown = checkpoint_of(board.of(setting).rows, checkpoint)
        parts.append(Text(escape.one_line(f"{setting_title(setting)} · {shown}"), style="bold"))
        groups = [table.attacks[start : start + room] for start in range(0, len(table.attacks), room)] or [[]]
        for place, attacks in enumerate(groups):
            parts.append(_terminal_table(table, attacks, last=place == len(groups) - 1))
        if len(table.lines) > MOST_PRINTED:
            parts.append(Text(f"{len(table.lines) - MOST_PRINTED} more rows: `report` writes them all", style="yellow"))
        parts += [Text(escape.one_line(text), style="dim") for text in caption(board, setting, checkpoint)[1:3]]
        parts += [Text(escape.one_line(text), style="dim") for text in otherwise(board, setting, checkpoint)]
        if setting in board.baselines:
            parts.append(Text(escape.one_line(marks(board, setting, checkpoint)), style="dim"))
        parts += [Text(escape.one_line(text), style="dim") for text in registered(board, setting, checkpoint)]
        parts += [Text(escape.one_line(text), style="yellow") for text in table.missing]
    return Group(*parts, *[Text(escape.one_line(note), style="yellow") for note in board.notes])


def _terminal_table(table: Grid, attacks: Sequence[str], last: bool) -> Table:
    drawn = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 1, 0, 0))
    drawn.add_column("\nvariant", max_width=40, overflow="fold")
    for attack in attacks:
        for place, metric in enumerate(table.metrics):
            head = f"{'' if place else attack_title(attack)}\n{metric.title.rjust(DIGITS)}"
            drawn.add_column(head, no_wrap=True)  # digits below digits, with or without a mark behind them
    for title in ("seeds", "hours", "MiB") if last else ():
        drawn.add_column(f"\n{title}", justify="right", no_wrap=True)
    for line in table.lines[:MOST_PRINTED]:
        name = Text(escape.one_line(line.title))
        cells = [
            _terminal_cell(line.cells.get((attack, metric.name))) for attack in attacks for metric in table.metrics
        ]
        drawn.add_row(name, *cells, *(costs(line.facts) if last else ()), style="dim" if line.role == "teacher" else "")
    return drawn


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
        parts += ["### Selection and cost", _markdown_frame(selection_table(board, setting)), SELECTION_NOTE]
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
    "In percent. Checkpoints: average / worst class of each under the attack named. Hours and memory: of one trial, "
    "mean and maximum over seeds."
)
PEEKED_NOTE = (
    "Test score: (average + worst)/2 of robust test accuracy at the epoch that validation chose, at the last, and "
    "peeked: at the epoch that looks best on the test set (recorded for study, never used)."
)


def _markdown_main(table: Grid) -> str:
    titles = [f"{attack_title(attack)} {metric.title}" for attack in table.attacks for metric in table.metrics]
    rows = []
    for line in table.lines:
        name = escape.markdown(line.title)
        cells = [
            _markdown_cell(line.cells.get((attack, metric.name)))
            for attack in table.attacks
            for metric in table.metrics
        ]
        rows.append([name, *cells, *costs(line.facts)])
    return markdown_table(["variant", *titles, "seeds", "hours", "MiB"], rows)


def _markdown_cell(cell: Cell | None) -> str:
    if cell is None:
        return "–"
    text = cell.text()
    return {1: f"**{text}**", 2: f"<ins>{text}</ins>"}.get(cell.rank, text) + (f" {cell.mark}" if cell.mark else "")


def markdown_table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A pipe table; the first column to the left, the others to the right. The cells are escaped already."""
    lines = [titles, ["---", *["---:"] * (len(titles) - 1)], *rows]
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
