"""Published numbers beside measured ones, on a terminal and in Markdown: form only."""

from __future__ import annotations

import pandas as pd
from rich.console import Group
from rich.table import Table
from rich.text import Text

from harness.report import escape
from harness.report.captions import attack_title, setting_title
from harness.report.published import NOTE, TITLE, Line, lines
from harness.report.scores.leaderboard import Leaderboard

HEAD = ("attack", "method", "Avg.", "Worst", "NSD", "from", "protocol, and what differs")


def cells(line: Line) -> list[str]:
    """A line's cells below `HEAD`, as plain text."""
    whose = f"measured here: {line.name}" if line.measured else line.name
    return [attack_title(line.attack), line.called, *line.numbers, whose, line.protocol]


def terminal(board: Leaderboard, checkpoint: str, published: pd.DataFrame) -> Group:
    """For each setting a table of the methods that are measured, protocols below it; else a sentence."""
    parts: list[Table | Text] = []
    for setting in board.settings:
        found = lines(board, setting, checkpoint, published)
        measured = {line.method for line in found if line.measured}
        shown = [line for line in found if line.method in measured]
        if shown:
            stated = [line.protocol for line in shown if not line.measured]
            notes = {text: place for place, text in enumerate(dict.fromkeys(stated), 1)}
            parts += [Text(f"{TITLE}: {escape.one_line(setting_title(setting))}", style="bold"), _drawn(shown, notes)]
            parts += [Text(f"[{place}] {escape.one_line(text)}", style="dim") for text, place in notes.items()]
            parts.append(Text(NOTE, style="dim"))
        if len(found) > len(shown):
            others = len({line.called for line in found} - {line.called for line in shown})
            parts.append(
                Text(f"{others} more methods are published that are not measured here: leaderboard.md has them")
            )
    return Group(*parts or [Text(NOTHING)])


NOTHING = "Nothing is published here on these data sets, networks, radii and attacks (docs/published.md lists what is)."


def _drawn(found: list[Line], notes: dict[str, int]) -> Table:
    drawn = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 1, 0, 0))
    for title in HEAD[:-1]:
        number = title in ("Avg.", "Worst", "NSD")
        drawn.add_column(title, justify="right" if number else "left", no_wrap=number, overflow="fold")
    for line in found:
        *others, whose, _ = map(escape.one_line, cells(line))
        note = "" if line.measured else f" [{notes[line.protocol]}]"
        drawn.add_row(*map(Text, others), Text(whose + note), style="bold" * line.measured)
    return drawn


def markdown(board: Leaderboard, setting: tuple, checkpoint: str, published: pd.DataFrame) -> list[str]:
    """The section of one setting, in parts; none where nothing is published on it."""
    found = lines(board, setting, checkpoint, published)
    if not found:
        return []
    rows = []
    for line in found:
        *others, whose, told = map(escape.markdown, cells(line))
        rows.append([*others, f"[{whose}]({line.link})" if line.link else whose, told])
    texts = [" | ".join(row) for row in [HEAD, ["---", "---", "---:", "---:", "---:", "---", "---"], *rows]]
    return [f"### {TITLE}", "\n".join(f"| {text} |" for text in texts), NOTE]
