"""The page: one self-contained HTML file with the whole report. It opens from disk and asks no network for anything."""

from __future__ import annotations

from importlib import resources
from importlib.metadata import version
from typing import Any

import pandas as pd

from harness.report.captions import setting_title
from harness.report.escape import one_line
from harness.report.page.data import page_data, safe_json
from harness.report.published import NOTE, TITLE, lines
from harness.report.results import Results
from harness.report.scores.leaderboard import Leaderboard
from harness.report.tables.published import HEAD, cells

SCRIPTS = ("drawing.js", "comparison.js", "downloads.js", "page.js")  # parts of one


def page(
    results: Results,
    board: Leaderboard,
    checkpoint: str = "best_validation",
    title: str | None = None,
    published: pd.DataFrame | None = None,
) -> str:
    """The HTML text. Every name from a spec reaches the reader as text: as JSON here, as text nodes in the browser.

    title: the setting by default where there is but one. published: numbers of papers, which stand below the table.
    """
    from jinja2 import Environment
    from markupsafe import Markup

    folder = resources.files("harness.report.page")
    style, template = ((folder / name).read_text("utf-8") for name in ("page.css", "page.html"))
    script = "\n".join((folder / name).read_text("utf-8") for name in SCRIPTS)
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    data = safe_json(page_data(results, board, checkpoint))
    return environment.from_string(template).render(
        title=one_line(title or _title(board)),
        style=Markup(style),
        script=Markup(script),
        data=Markup(data),
        empty=board.rows.empty,
        notes=[one_line(note) for note in board.notes],
        foot=_foot(results),
        beside=[] if published is None else _beside(board, checkpoint, published),
        beside_title=TITLE,
        beside_head=HEAD,
        beside_note=NOTE,
    )


def _beside(board: Leaderboard, checkpoint: str, published: pd.DataFrame) -> list[dict[str, Any]]:
    """By setting, what is published beside what is measured."""
    found = [(setting, lines(board, setting, checkpoint, published)) for setting in board.settings]
    return [
        {
            "title": one_line(setting_title(setting)),
            "lines": [(list(map(one_line, cells(line))), line.measured, line.link) for line in listed],
        }
        for setting, listed in found
        if listed
    ]


def _foot(results: Results) -> str:
    """When and by which commits the results were made, and what drew the page: nothing that changes where they do
    not."""
    done = results.done
    days = sorted({str(text)[:10] for text in done["finished"].dropna()})
    commits = sorted({str(commit)[:10] for commit in done["git_commit"].dropna()})
    others = " and others" * (len(commits) > MOST_COMMITS)
    parts = [f"Results of {' to '.join(dict.fromkeys([days[0], days[-1]]))}"] if days else []
    parts += [f"made at commit {', '.join(commits[:MOST_COMMITS])}{others}"] if commits else []
    return one_line("; ".join([*parts, f"page by robust-fairness-bench {version('robust-fairness-bench')}"]))


MOST_COMMITS = 4


def _title(board: Leaderboard) -> str:
    return f"Leaderboard: {setting_title(board.settings[0])}" if len(board.settings) == 1 else "Leaderboard"
