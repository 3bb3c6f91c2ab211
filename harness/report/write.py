"""A report on disk and on the terminal, from the results of a store: the two functions that the commands call."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from anyascii import anyascii
from rich.console import Console

from harness.errors import InputError, unknown
from harness.files import make_folder, write_bytes
from harness.report import escape
from harness.report.captions import caption, setting_title
from harness.report.results import Results
from harness.report.rows import SETTING, in_setting, settings_of
from harness.report.scores.families import Registered
from harness.report.scores.leaderboard import Leaderboard, leaderboard
from harness.report.tables import tables
from harness.report.tables.latex import CAPTIONS, Paper, latex
from harness.report.tables.latex import NOTES as INTERVALS
from harness.statistics.registry import metric_info

FORMATS = ("png", "pdf", "svg")
WIDTHS = ("column", "text")
STYLES = ("pm", "brackets")


@dataclass(frozen=True)
class Form:
    """What a report holds and how it looks. InputError for a name that does not exist.

    checkpoint: of tables and figures. figures: names to draw (`nsd`, `class_quantity:weight`), all by default, none for
    an empty list. formats: png, pdf, svg. width: of figures and LaTeX tables, column or text, by default each figure's
    own and text. intervals, style, captions, side_by_side, teachers: of the LaTeX tables, see `Paper`. html: also the
    page. published: numbers of papers beside measured ones; the page has them anyway. metrics: columns under each
    attack, by default average, worst and NSD. rank, as_listed: what tables are ordered by, see `leaderboard`.
    """

    checkpoint: str = "best_validation"
    figures: Sequence[str] | None = None
    formats: Sequence[str] = FORMATS[:2]
    width: str | None = None
    intervals: str = "none"
    style: str = "pm"
    html: bool = False
    published: bool = False
    metrics: Sequence[str] | None = None
    rank: str | None = None
    as_listed: bool = False
    captions: str = CAPTIONS[0]
    side_by_side: str | None = None
    teachers: bool = False

    @property
    def paper(self) -> Paper:
        """Of the LaTeX tables."""
        width = self.width or WIDTHS[1]
        return Paper(self.intervals, self.style, width, self.captions, self.side_by_side, self.teachers)

    def __post_init__(self) -> None:
        if not self.formats:
            raise InputError(f"figures without a format: {', '.join(FORMATS)}")
        if self.metrics is not None and not self.metrics:
            raise InputError("metrics: name at least one, such as average")
        for name in self.metrics or ():
            metric_info(name)
        _check_names("format", self.formats, FORMATS)
        _check_names("width", [self.width] if self.width else [], WIDTHS)
        _check_names("kind of intervals", [self.intervals], INTERVALS)
        _check_names("style of intervals", [self.style], STYLES)
        _check_names("kind of captions", [self.captions], CAPTIONS)
        _check_names("name to stand --side-by-side", [self.side_by_side] if self.side_by_side else [], SETTING)
        if self.figures:
            from harness.report.figures.draw import check_figures  # matplotlib takes a second to import

            check_figures(self.figures)


def _check_names(kind: str, names: Sequence[str], known: Collection[str]) -> None:
    """InputError with the nearest for a name that is not known."""
    for name in names:
        if name not in known:
            raise unknown(kind, name, known)


def print_leaderboard(
    console: Console,
    results: Results,
    form: Form = Form(),
    baseline: str | None = None,
    *,
    primary: Sequence[Registered] = (),
    published: pd.DataFrame | None = None,
) -> None:
    """Print the leaderboard of some results, as `write_report` does."""
    board = _board(results, form, baseline, primary)
    tables.print_board(console, board, form.checkpoint, published if form.published else None)


def _board(results: Results, form: Form, baseline: str | None, primary: Sequence[Registered]) -> Leaderboard:
    columns = [metric_info(name).name for name in form.metrics or ()]
    return leaderboard(
        results, baseline=baseline, primary=primary, columns=columns, rank=form.rank, as_listed=form.as_listed
    )


def write_report(
    results: Results,
    out_dir: Path | str,
    form: Form = Form(),
    *,
    baseline: str | None = None,
    primary: Sequence[Registered] = (),
    published: pd.DataFrame | None = None,
    console: Console | None = None,
    left_out: Callable[[str], object] = lambda text: None,
) -> list[Path]:
    """Write leaderboard.md, .csv, .tex, the figures and the page into `out_dir`; returns the paths, in that order.

    baseline, primary: see `leaderboard`. published: numbers of papers, see `harness.report.published`. console: the
    leaderboard is printed there too. left_out: told of every figure without data; figures.md says why. InputError for a
    quantity that was not logged, before anything is written; results without a trial give tables that say so.
    """
    figures = _figure_names(form.figures, results)
    board = _board(results, form, baseline, primary)
    beside = published if form.published else None
    if console:
        tables.print_board(console, board, form.checkpoint, beside)
    folder = Path(out_dir)
    make_folder(folder)
    written = _write_tables(board, folder, form, beside)
    if figures:
        written += _write_figures(results, board, folder, form, figures, left_out, beside)
    if form.html:
        from harness.report.page.page import page

        written.append(_write(folder / "index.html", page(results, board, form.checkpoint, published=published)))
    return written


def _figure_names(names: Sequence[str] | None, results: Results) -> list[str]:
    if names is not None and not len(names):
        return []  # matplotlib takes a second to import
    from harness.report.figures.draw import figure_names

    return figure_names(names, results)


def _write_tables(board: Leaderboard, folder: Path, form: Form, published: pd.DataFrame | None) -> list[Path]:
    texts = {
        "leaderboard.md": tables.markdown(board, form.checkpoint, published),
        "leaderboard.csv": tables.csv_text(board),
        "leaderboard.tex": latex(board, form.checkpoint, form.paper),
    }
    return [_write(folder / name, text) for name, text in texts.items()]


def _write_figures(
    results: Results,
    board: Leaderboard,
    folder: Path,
    form: Form,
    names: Sequence[str],
    left_out: Callable[[str], object],
    published: pd.DataFrame | None,
) -> list[Path]:
    """The figures of each setting and figures.md with their caption, and why one is left out."""
    from harness.report.figures.draw import FIGURES, draw, name_parts
    from harness.report.figures.style import save

    written, lines = [], []
    settings = settings_of(results.rows)
    titles = file_names(map(setting_title, settings))
    quantities = file_names(name_parts(name)[1] for name in names)
    for setting in settings:
        title, part = setting_title(setting), results.select(in_setting(results.rows, setting))
        suffix = f"-{titles[title]}" if len(settings) > 1 else ""
        drawn = draw(part, names, form.checkpoint, form.width, board.baselines.get(setting), published)
        for name, figure in drawn.items():
            if isinstance(figure, str):
                lines.append(f"- left out: {figure}" + (f" ({title})" if suffix else ""))
                left_out(lines[-1].removeprefix("- "))
                continue
            shown, quantity = name_parts(name)
            stem = f"{shown}-{quantities[quantity]}" if quantity else shown
            paths = [folder / f"{stem}{suffix}.{kind}" for kind in form.formats]
            for path in paths:
                save(figure, path)
            written += paths
            text = f"{FIGURES[shown].shows}; {escape.markdown(title)}. {escape.markdown(figure.says)}"
            lines.append(f"- `{paths[0].name}`: {text}")
        lines.append("\n" + " ".join(escape.markdown(text) for text in caption(board, setting, form.checkpoint)) + "\n")
    return [*written, _write(folder / "figures.md", "# Figures\n\n" + "\n".join(lines or ["No results yet."]) + "\n")]


def file_names(titles: Iterable[str]) -> dict[str, str]:
    """Each title as part of a file name: Latin letters, digits and hyphens, since LaTeX takes what follows a dot for
    the format. No two are alike, also where case does not count."""
    found: dict[str, str] = {}
    for title in dict.fromkeys(titles):
        plain = re.sub(r"[^A-Za-z0-9]+", "-", anyascii(title)).strip("-")[:60] or "unnamed"
        taken, number = {name.lower() for name in found.values()}, 1
        while (name := plain if number == 1 else f"{plain}-{number}").lower() in taken:
            number += 1
        found[title] = name
    return found


def _write(path: Path, text: str) -> Path:
    write_bytes(path, text.encode())
    return path
