"""Tables for papers: booktabs, in the layout of the ABSLD papers. Numbers and layout come from `grid`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from harness.report.captions import attack_title, caption
from harness.report.escape import latex as escaped
from harness.report.scores.leaderboard import Leaderboard
from harness.report.tables.grid import Cell, Grid, grid, number

# Columns of numbers that fit the text width (6.75 in) of a two-column paper beside the names, in footnote size.
COLUMNS = {"none": 16, "pm": 6, "brackets": 6}
ARROWS = {"↑": "\\uparrow", "↓": "\\downarrow", "≈": "\\approx"}
NOTES: dict[str, list[str]] = {
    "none": [],
    "seeds": ["Intervals: 95% Student's t over seeds."],
    "samples": ["Intervals: 95% over test samples."],
}


def latex(
    board: Leaderboard, checkpoint: str = "best_validation", *, intervals: str = "none", style: str = "pm"
) -> str:
    """One table per setting, to \\input into a paper with \\usepackage{booktabs}; best bold, second underlined.

    intervals: none, seeds or samples, written as `style`: pm (the distance of both ends from the number, each by itself
    where they differ) or brackets (both ends). Attacks that do not fit side by side go below.
    """
    if board.rows.empty:
        return "% No results yet.\n"
    tables = [_table(board, setting, checkpoint, intervals, style) for setting in board.settings]
    return "\n".join(line for table in tables for line in table) + "\n"


def _table(board: Leaderboard, setting: tuple, checkpoint: str, intervals: str, style: str) -> Iterator[str]:
    table = grid(board, setting, checkpoint)
    room = max(1, COLUMNS["none" if intervals == "none" else style] // len(table.metrics))
    sentences = [*caption(board, setting, checkpoint), *NOTES[intervals], *table.missing]
    yield "% Needs \\usepackage{booktabs}."
    yield "\\begin{table*}[t]\n\\centering\n\\footnotesize\n\\setlength{\\tabcolsep}{2pt}"
    yield f"\\caption{{{' '.join(escaped(text) for text in sentences)}}}"
    for start in range(0, max(1, len(table.attacks)), room):
        if start:
            yield "\n\\medskip"
        yield from _block(table, table.attacks[start : start + room], intervals, style)
    yield "\\end{table*}"


def _block(table: Grid, attacks: Sequence[str], intervals: str, style: str) -> Iterator[str]:
    """A tabular: the method, then average, worst, NSD under each of the attacks."""
    width = len(table.metrics)
    groups = [f"\\multicolumn{{{width}}}{{c}}{{{escaped(attack_title(name))}}}" for name in attacks]
    starts = [2 + width * place for place in range(len(attacks))]
    columns = "".join("@{\\hspace{5pt}}" + "r" * width for _ in attacks)
    yield f"\\begin{{tabular}}{{@{{}}l{columns}@{{}}}}"
    yield "\\toprule"
    yield " & ".join(["", *groups]) + r" \\"
    yield " ".join(f"\\cmidrule(lr){{{start}-{start + width - 1}}}" for start in starts)
    yield " & ".join(["Method", *[escaped(metric.title) for metric in table.metrics] * len(attacks)]) + r" \\"
    yield "\\midrule"
    for place, line in enumerate(table.lines):
        if place and line.role != table.lines[place - 1].role:
            yield "\\midrule"
        found = [line.cells.get((attack, metric.name)) for attack in attacks for metric in table.metrics]
        yield " & ".join([escaped(line.title), *[_cell(cell, intervals, style) for cell in found]]) + r" \\"
    yield "\\bottomrule\n\\end{tabular}"


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
