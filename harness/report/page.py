"""The page: one self-contained HTML file with the whole report. It opens from disk and asks no network for anything."""

from __future__ import annotations

from importlib import resources

from harness.report.leaderboard import Leaderboard
from harness.report.page_data import page_data, safe_json
from harness.report.results import Results


def page(results: Results, board: Leaderboard, checkpoint: str = "best_validation", title: str = "Leaderboard") -> str:
    """The HTML text. Every name from a spec reaches the reader as text: as JSON here, as text nodes in the browser."""
    from jinja2 import Environment
    from markupsafe import Markup

    folder = resources.files("harness.report")
    style, script, template = ((folder / name).read_text("utf-8") for name in ("page.css", "page.js", "page.html"))
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    data = safe_json(page_data(results, board, checkpoint))
    return environment.from_string(template).render(
        title=title,
        style=Markup(style),
        script=Markup(script),
        data=Markup(data),
        empty=board.rows.empty,
        notes=board.notes,
    )
