"""What is claimed of a network against what was measured of it, as the field's leaderboards have it."""

from __future__ import annotations

from collections.abc import Mapping

from rich.table import Table

from harness.report.captions import attack_title
from harness.report.results import records
from harness.report.scores.leaderboard import Leaderboard
from harness.report.tables.grid import number
from harness.statistics.registry import METRICS

HEAD = ("claim", "", "reported", "measured", "difference", "95% over test samples", "images")


def lines(board: Leaderboard, claims: Mapping[str, Mapping[str, float]]) -> list[list[str]]:
    """A line for each claim (percent, NSD as it is), with the cells of `HEAD`; board: of one network.

    `accuracy` is that over all images, which is the average of classes with as many images each.
    """
    scores = {(score["attack"], score["metric"]): score for score in records(board.scores)}
    found = []
    for attack, name, value in ((attack, *pair) for attack, claimed in claims.items() for pair in claimed.items()):
        every = "overall" if (attack, "overall") in scores else "average"
        name = every if name == "accuracy" else name
        metric, score = METRICS[name], scores[attack, name]
        reported = value / 100 if metric.percent else value
        change = score["value"] - reported
        low, high = (number(score[f"sample_{end}"], metric) for end in ("low", "high"))
        texts = [number(each, metric) for each in (reported, score["value"], change)]
        texts[-1] = ("+" if change > 0 else "") + texts[-1]
        found.append([attack_title(attack), metric.title, *texts, f"[{low}, {high}]", f"{score['images']:,}"])
    return found


def table(board: Leaderboard, claims: Mapping[str, Mapping[str, float]]) -> Table:
    """The same for a terminal."""
    drawn = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for title in HEAD:
        drawn.add_column(title, justify="left" if title == HEAD[0] or not title else "right")
    for cells in lines(board, claims):
        drawn.add_row(*cells)
    return drawn
