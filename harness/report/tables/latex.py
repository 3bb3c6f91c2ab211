"""Tables for papers: booktabs, in the layout of the ABSLD papers. Numbers and layout come from `grid`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from harness.report.captions import attack_title, caption, eps_text
from harness.report.escape import latex as escaped
from harness.report.rows import SETTING
from harness.report.scores.leaderboard import Leaderboard
from harness.report.scores.ranking import PLACES
from harness.report.tables.grid import Cell, Grid, Line, grid, number

# Columns of numbers that fit beside the names in footnote size: in the text width (6.75 in) of a two-column paper, and
# in one of its columns (3.25 in).
COLUMNS = {"text": {"none": 16, "pm": 6, "brackets": 6}, "column": {"none": 6, "pm": 3, "brackets": 3}}
ARROWS = {"↑": "\\uparrow", "↓": "\\downarrow", "≈": "\\approx"}
NOTES: dict[str, list[str]] = {
    "none": [],
    "seeds": ["Intervals: 95% Student's t over seeds."],
    "samples": ["Intervals: 95% over test samples."],
}
CAPTIONS = ("full", "short")


@dataclass(frozen=True)
class Paper:
    """How LaTeX tables look.

    intervals: none, seeds or samples, written as `style`: pm (the distance of both ends from the number, each by itself
    where they differ) or brackets (both ends). width: text or column (of a two-column paper). captions: full, or short:
    what the table is of, seeds and marks. side_by_side: of `SETTING`, what may differ within one table, where each of
    its values has columns of its own. teachers: whether teachers have rows.
    """

    intervals: str = "none"
    style: str = "pm"
    width: str = "text"
    captions: str = CAPTIONS[0]
    side_by_side: str | None = None
    teachers: bool = False


def latex(board: Leaderboard, checkpoint: str = "best_validation", paper: Paper = Paper()) -> str:
    """Tables to \\input into a paper with \\usepackage{booktabs}, one per setting or, side by side, for several; best
    bold, second underlined. Columns that do not fit side by side go below."""
    if board.rows.empty:
        return "% No results yet.\n"
    tables = [_table(board, settings, checkpoint, paper) for settings in _together(board.settings, paper.side_by_side)]
    return "\n".join(line for table in tables for line in table) + "\n"


def _together(settings: Sequence[tuple], side_by_side: str | None) -> list[list[tuple]]:
    """The settings of each table: those that differ in what stands side by side only."""
    found: dict[tuple, list[tuple]] = {}
    for setting in settings:
        same = tuple(value for name, value in zip(SETTING, setting, strict=True) if name != side_by_side)
        found.setdefault(same if side_by_side else setting, []).append(setting)
    return list(found.values())


@dataclass(frozen=True)
class _Part:
    """Columns of one setting under one attack. title: of the setting, where several stand side by side. lines: of the
    setting, by role and what they are called."""

    title: str
    attack: str
    table: Grid
    lines: dict[tuple[str, str], Line]

    def cells(self, line: tuple[str, str]) -> list[Cell | None]:
        found = self.lines.get(line)
        return [found.cells.get((self.attack, metric.name)) if found else None for metric in self.table.metrics]


def _called(settings: Sequence[Sequence[Line]]) -> list[dict[tuple[str, str], Line]]:
    """The lines of each setting by role and what they are called: a teacher by its name, or with its network too where
    a setting has several of that name."""
    names = [[line.name for line in lines if line.role == "teacher"] for lines in settings]
    several = {name for own in names for name in own if own.count(name) > 1}

    def called(line: Line) -> tuple[str, str]:
        plain = line.role == "teacher" and line.name not in several
        return line.role, line.name if plain else line.title

    return [{called(line): line for line in lines} for lines in settings]


def _table(board: Leaderboard, settings: Sequence[tuple], checkpoint: str, paper: Paper) -> Iterator[str]:
    grids = [grid(board, setting, checkpoint) for setting in settings]
    kept = [[line for line in table.lines if paper.teachers or line.role != "teacher"] for table in grids]
    if not any(kept):  # a teacher alone
        kept = [table.lines for table in grids]
    called = _called(kept)
    lines = sorted(dict.fromkeys(name for own in called for name in own), key=lambda line: PLACES.index(line[0]))
    titles = _titles(settings, paper.side_by_side)
    parts = [
        _Part(title, attack, table, own)
        for title, table, own in zip(titles, grids, called, strict=True)
        for attack in table.attacks or [""]
    ]
    per_part = max(len(table.metrics) for table in grids)
    room = max(1, COLUMNS[paper.width]["none" if paper.intervals == "none" else paper.style] // per_part)
    missing = dict.fromkeys(
        f"{f'{title}, ' if title else ''}{name}: {line.facts['missing']}"
        for title, own in zip(titles, called, strict=True)
        for (_, name), line in own.items()
        if line.facts["missing"]
    )
    sentences = [*_caption(board, settings, checkpoint, paper), *NOTES[paper.intervals], *missing]
    environment = "table*" if paper.width == "text" else "table"
    yield "% Needs \\usepackage{booktabs}."
    yield f"\\begin{{{environment}}}[t]\n\\centering\n\\footnotesize\n\\setlength{{\\tabcolsep}}{{2pt}}"
    yield f"\\caption{{{' '.join(escaped(text) for text in sentences)}}}"
    for start in range(0, len(parts), room):
        if start:
            yield "\n\\medskip"
        yield from _block(lines, parts[start : start + room], paper)
    yield f"\\end{{{environment}}}"


def _titles(settings: Sequence[tuple], side_by_side: str | None) -> list[str]:
    """What heads each setting's columns; nothing where there is one alone."""
    if side_by_side is None or len(settings) == 1:
        return [""] * len(settings)
    values = [setting[SETTING.index(side_by_side)] for setting in settings]
    return [f"eps {eps_text(value)}" if side_by_side == "eps" else str(value) for value in values]


def _caption(board: Leaderboard, settings: Sequence[tuple], checkpoint: str, paper: Paper) -> list[str]:
    """What holds for all of the settings once; what is one's own behind its name."""
    texts = [[text for text in caption(board, setting, checkpoint) if not text.startswith(ORDERED)]
             for setting in settings]  # fmt: skip
    if paper.captions == "short":
        texts = [[text for text in own if text.startswith(SHORT) or text == own[0]] for own in texts]
    if len(settings) == 1:
        return texts[0]
    common = [text for text in texts[0] if all(text in own for own in texts)]
    own = [" ".join([own[0], *(text for text in own[1:] if text not in common)]) for own in texts]
    return [*own, *common]


ORDERED = ("Ordered by ", "Ranked by ")  # ranks stand in no table of a paper
SHORT = ("Mean over", "One seed", "Given networks", "Best student", "Against ")


def _block(lines: Sequence[tuple[str, str]], parts: Sequence[_Part], paper: Paper) -> Iterator[str]:
    """A tabular: the method, then the metrics under each attack of each setting."""
    widths = [len(part.table.metrics) for part in parts]
    starts = [2 + sum(widths[:place]) for place in range(len(parts))]
    columns = "".join("@{\\hspace{5pt}}" + "r" * width for width in widths)
    yield f"\\begin{{tabular}}{{@{{}}l{columns}@{{}}}}"
    yield "\\toprule"
    if any(part.title for part in parts):
        runs = [list(run) for _, run in groupby(range(len(parts)), key=lambda place: parts[place].title)]
        spans = [(starts[run[0]], sum(widths[place] for place in run), parts[run[0]].title) for run in runs]
        yield " & ".join(["", *[_over(width, title) for _, width, title in spans]]) + r" \\"
        yield _rules([(start, width) for start, width, _ in spans])
    yield (
        " & ".join(["", *[_over(width, attack_title(part.attack)) for width, part in zip(widths, parts, strict=True)]])
        + r" \\"
    )
    yield _rules(list(zip(starts, widths, strict=True)))
    yield " & ".join(["Method", *[escaped(metric.title) for part in parts for metric in part.table.metrics]]) + r" \\"
    yield "\\midrule"
    for place, line in enumerate(lines):
        if place and line[0] != lines[place - 1][0]:
            yield "\\midrule"
        cells = [_cell(cell, paper.intervals, paper.style) for part in parts for cell in part.cells(line)]
        yield " & ".join([escaped(line[1]), *cells]) + r" \\"
    yield "\\bottomrule\n\\end{tabular}"


def _over(width: int, title: str) -> str:
    return f"\\multicolumn{{{width}}}{{c}}{{{escaped(title)}}}"


def _rules(spans: Sequence[tuple[int, int]]) -> str:
    return " ".join(f"\\cmidrule(lr){{{start}-{start + width - 1}}}" for start, width in spans)


def _cell(cell: Cell | None, intervals: str, style: str) -> str:
    if cell is None:
        return "--"
    text = escaped(cell.text())
    text = {1: f"\\textbf{{{text}}}", 2: f"\\underline{{{text}}}"}.get(cell.rank, text)
    mark = f"$^{{{ARROWS[cell.mark]}}}$" if cell.mark else ""
    ends = {"samples": cell.sample, "seeds": cell.seeds}.get(intervals)
    if ends is None:
        return text + (f"\\rlap{{{mark}}}" if mark else "")  # in the gap between columns: numbers stay aligned
    return f"{text}{mark} {{\\tiny{_interval(cell, ends, style)}}}"


def _interval(cell: Cell, ends: tuple[float, float], style: str) -> str:
    below, above = cell.value - ends[0], ends[1] - cell.value
    if style == "brackets" or min(below, above) < 0:  # a number may lie outside its interval over test samples
        low, high = (number(end, cell.metric, 1 if cell.metric.percent else 2) for end in ends)
        return f"[{low}, {high}]"
    down, up = (number(distance, cell.metric) for distance in (below, above))
    return f"$\\pm${up}" if up == down else f"$^{{+{up}}}_{{-{down}}}$"
