"""A report on disk and on the terminal, from a store: the two functions that the commands call."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

from rich.console import Console

from harness.errors import unknown
from harness.files import make_folder, write_bytes
from harness.report import escape
from harness.report.captions import caption, setting_title
from harness.report.results import Readable, Results, read_results
from harness.report.rows import in_setting, settings_of
from harness.report.scores.families import Registered
from harness.report.scores.leaderboard import Leaderboard, leaderboard
from harness.report.tables import tables
from harness.report.tables.latex import NOTES as INTERVALS
from harness.report.tables.latex import latex

FORMATS = ("png", "pdf", "svg")
WIDTHS = ("column", "text")
STYLES = ("pm", "brackets")


def print_leaderboard(
    console: Console,
    store: Readable,
    *,
    trial_ids: Sequence[str] | None = None,
    variants: Mapping[str, str] | None = None,
    datasets: Mapping[str, str] | None = None,
    checkpoint: str = "best_validation",
    baseline: str | None = None,
) -> None:
    """Print the leaderboard of a store, or of some of its trials, called as `variants` and `datasets` say."""
    board = leaderboard(
        read_results(store, trial_ids=trial_ids, variants=variants, datasets=datasets), baseline=baseline
    )
    tables.print_board(console, board, checkpoint)


def write_report(
    store: Readable,
    out_dir: Path | str,
    *,
    trial_ids: Sequence[str] | None = None,
    variants: Mapping[str, str] | None = None,
    datasets: Mapping[str, str] | None = None,
    figures: Sequence[str] | None = None,
    checkpoint: str = "best_validation",
    formats: Sequence[str] = FORMATS[:2],
    width: str | None = None,
    baseline: str | None = None,
    intervals: str = "none",
    style: str = "pm",
    html: bool = False,
    primary: Sequence[Registered] = (),
    console: Console | None = None,
    left_out: Callable[[str], object] = lambda text: None,
) -> list[Path]:
    """Write leaderboard.md, .csv, .tex and the figures into `out_dir`; returns the paths, in that order.

    figures: names to draw (`nsd`, `class_quantity:weight`), all by default, none for an empty list; one without data
    is left out, and figures.md says why. formats: png, pdf, svg. width: column or text, each figure's own by default.
    intervals, style: of the LaTeX tables, see `latex`. html: also the page. primary: comparisons registered before
    their results. console: the leaderboard is printed there too. left_out: told of every figure without data.
    InputError for a name that does not exist; a store without results gives tables that say so.
    """
    check_names("format", formats, FORMATS)
    check_names("width", [width] if width else [], WIDTHS)
    check_names("kind of intervals", [intervals], INTERVALS)
    check_names("style of intervals", [style], STYLES)
    results = read_results(store, trial_ids=trial_ids, variants=variants, datasets=datasets)
    names = _figure_names(figures, results)
    board = leaderboard(results, baseline=baseline, primary=primary)
    if console:
        tables.print_board(console, board, checkpoint)
    folder = Path(out_dir)
    make_folder(folder)
    written = _write_tables(board, folder, checkpoint, intervals, style)
    if names:
        written += _write_figures(results, board, folder, names, checkpoint, formats, width, left_out)
    if html:
        from harness.report.page.page import page

        written.append(_write(folder / "index.html", page(results, board, checkpoint)))
    return written


def check_names(kind: str, names: Sequence[str], known: Collection[str]) -> None:
    """InputError with the nearest for a name that is not known."""
    for name in names:
        if name not in known:
            raise unknown(kind, name, known)


def _write_tables(board: Leaderboard, folder: Path, checkpoint: str, intervals: str, style: str) -> list[Path]:
    texts = {
        "leaderboard.md": tables.markdown(board, checkpoint),
        "leaderboard.csv": tables.csv_text(board),
        "leaderboard.tex": latex(board, checkpoint, intervals=intervals, style=style),
    }
    return [_write(folder / name, text) for name, text in texts.items()]


def _figure_names(names: Sequence[str] | None, results: Results) -> list[str]:
    if names is not None and not len(names):
        return []  # matplotlib takes a second to import
    from harness.report.figures.draw import figure_names

    return figure_names(names, results)


def _write_figures(
    results: Results,
    board: Leaderboard,
    folder: Path,
    names: Sequence[str],
    checkpoint: str,
    formats: Sequence[str],
    width: str | None,
    left_out: Callable[[str], object],
) -> list[Path]:
    from harness.report.figures.draw import FIGURES, draw, name_parts
    from harness.report.figures.style import save

    written, lines = [], []
    settings = settings_of(results.rows)
    for setting in settings:
        title, part = setting_title(setting), results.select(in_setting(results.rows, setting))
        suffix = f"-{slug(title)}" if len(settings) > 1 else ""
        for name, figure in draw(part, names, checkpoint, width, board.baselines.get(setting)).items():
            if isinstance(figure, str):
                lines.append(f"- left out: {figure}" + (f" ({title})" if suffix else ""))
                left_out(lines[-1].removeprefix("- "))
                continue
            shown, quantity = name_parts(name)
            stem = f"{shown}-{slug(quantity)}" if quantity else shown
            paths = [folder / f"{stem}{suffix}.{kind}" for kind in formats]
            for path in paths:
                save(figure, path)
            written += paths
            lines.append(f"- `{paths[0].name}`: {FIGURES[shown].shows}; {escape.markdown(title)}")
        lines.append("\n" + " ".join(escape.markdown(text) for text in caption(board, setting, checkpoint)) + "\n")
    return [*written, _write(folder / "figures.md", "# Figures\n\n" + "\n".join(lines or ["No results yet."]) + "\n")]


def slug(text: str) -> str:
    """A title as part of a file name."""
    return re.sub(r"[^A-Za-z0-9.]+", "-", text).strip("-.")[:60]


def _write(path: Path, text: str) -> Path:
    write_bytes(path, text.encode())
    return path
