"""A table of the leaderboard before it is written in any language: lines, columns, numbers and marks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

import pandas as pd

from harness.report.results import records
from harness.report.scores.leaderboard import Leaderboard
from harness.statistics.metrics import MANY_CLASSES
from harness.statistics.multiple_comparisons import ERROR
from harness.statistics.registry import METRICS, Metric

MAIN = ("average", "worst", "nsd")


@dataclass(frozen=True)
class Cell:
    """A number with its marks.

    rank: 1 best, 2 second. mark: against the baseline, ↑ better, ↓ worse, ≈ noise, or empty.
    """

    value: float
    metric: Metric
    rank: int = 0
    mark: str = ""
    sample: tuple[float, float] | None = None
    seeds: tuple[float, float] | None = None

    def text(self, digits: int = 2) -> str:
        """Percent with so many digits, NSD with one more; a dash where there is no number."""
        return number(self.value, self.metric, digits)

    def bounds(self, source: str, digits: int = 2) -> tuple[str, str] | None:
        """The interval over `samples` or `seeds` in the same form; None where there is none."""
        pair = self.sample if source == "samples" else self.seeds
        return None if pair is None else (number(pair[0], self.metric, digits), number(pair[1], self.metric, digits))


@dataclass(frozen=True)
class Line:
    """A row of the table. rank: of a student that has one; score: what the table is ordered by. cells: by attack and
    metric."""

    row: int
    name: str
    role: str
    facts: dict[str, Any]
    cells: dict[tuple[str, str], Cell] = field(default_factory=dict)
    rank: int | None = None
    score: float | None = None

    @property
    def title(self) -> str:
        """The name, of a teacher with its network, of a given network with a word."""
        if self.role == "teacher":
            student = self.facts["student"]
            return f"{self.name} {student}" if self.name == "teacher" else f"{self.name} (teacher, {student})"
        return f"{self.name} (given)" if self.role == "evaluation" else self.name


@dataclass(frozen=True)
class Grid:
    """attacks: the groups of columns; metrics: the columns of each group; lines: as `Ranking` orders them."""

    attacks: list[str]
    metrics: list[Metric]
    lines: list[Line]
    ordered_by: Metric | None

    @property
    def ranked(self) -> bool:
        return any(line.rank for line in self.lines)

    @property
    def scored(self) -> bool:
        """Whether the lines are ordered by a number that stands in no other column."""
        there = any(line.score is not None for line in self.lines)
        return there and self.ordered_by is not None and self.ordered_by not in self.metrics

    def rank(self, line: Line) -> str:
        """As text: empty apart from students, a dash for one without."""
        return "" if line.role != "student" else str(line.rank or "–")

    def score(self, line: Line, digits: int = 2) -> str:
        return number(line.score, self.ordered_by, digits) if self.ordered_by else ""

    @property
    def missing(self) -> list[str]:
        """What each row lacks, a line per row that lacks something."""
        return [f"{line.name}: {line.facts['missing']}" for line in self.lines if line.facts["missing"]]


def grid(board: Leaderboard, setting: tuple, checkpoint: str, metrics: Sequence[str] | None = None) -> Grid:
    """The table of one setting and checkpoint. A row without results is a line without cells."""
    part = board.of(setting)
    scores = part.scores[part.scores["checkpoint"].isin([checkpoint, "given"])]
    names = list(metrics or board.columns or main_metrics(scores))
    scores = scores[scores["metric"].isin(names)]
    cells: dict[int, dict[tuple[str, str], Cell]] = {row: {} for row in part.rows.index}
    for score in records(scores):
        cells[score["row"]][score["attack"], score["metric"]] = _cell(score)
    ranking, facts = board.ranking(setting, checkpoint), dict(zip(part.rows.index, records(part.rows), strict=True))
    lines = [
        Line(row, facts[row]["variant"], facts[row]["role"], facts[row], cells[row], ranking.ranks.get(row),
             ranking.values.get(row))
        for row in ranking.order
    ]  # fmt: skip
    ordered_by = None if ranking.as_listed and not ranking.ranks else ranking.metric
    there = set(scores["attack"])
    attacks = [name for name in part.attacks if name in there]
    return Grid(attacks, [METRICS[name] for name in names], lines, ordered_by)


def main_metrics(scores: pd.DataFrame) -> tuple[str, ...]:
    """Average, worst and NSD; with many classes the mean of the worst tenth too, and where classes have unlike numbers
    of images the accuracy over all of them.
    """
    shown = {"average", "worst", "nsd"} | ({"overall"} & set(scores["metric"]))
    shown |= {"worst_10_percent"} if scores["classes"].max() >= MANY_CLASSES else set()
    return tuple(name for name in METRICS if name in shown)


def number(value: float | None, metric: Metric, digits: int = 2) -> str:
    """Percent with so many digits, or the number with one digit more; a dash for null."""
    if value is None or pd.isna(value):
        return "–"
    # Half up, as the page does, from nine decimals: binary neighbours of a number such as 0.53075 go either way, and
    # from six decimals 0.12344967 would go up twice.
    exact = Decimal(f"{value:.9f}")
    scaled, places = (100 * exact, digits) if metric.percent else (exact, digits + 1)
    return str(scaled.quantize(Decimal(1).scaleb(-places), ROUND_HALF_UP) + 0)


def _cell(score: dict[str, Any]) -> Cell:
    metric, pairs = METRICS[score["metric"]], [_pair(score, source) for source in ("sample", "seed")]
    return Cell(score["value"], metric, score["rank"], mark(score, metric), *pairs)


def change_text(score: dict[str, Any], metric: Metric) -> str:
    """A difference with its intervals and, where it is corrected for others, p and verdict."""
    text = ("+" if score["difference"] > 0 else "") + number(score["difference"], metric)
    for source, before in (("sample", "test samples"), ("seed", "seeds")):
        low, high = (score[f"difference_{source}_{end}"] for end in ("low", "high"))
        text += "" if pd.isna(low) else f" {before} [{number(low, metric)}, {number(high, metric)}]"
    if pd.isna(score["p"]):
        return text
    p = "p < 0.0001" if score["p"] < 0.0001 else f"p = {score['p']:.4f}"
    return f"{text} {p} {'stands' if score['stands'] else 'noise'}{_apart(score)}"


def _apart(score: dict[str, Any]) -> str:
    """Why a verdict is not the one that the interval over seeds printed beside it suggests; empty where it is."""
    low, high = score["difference_seed_low"], score["difference_seed_high"]
    excludes = bool(low > 0 or high < 0)
    if excludes and score["p"] >= ERROR:
        return " (corrected for all comparisons; this interval is not)"
    if score["stands"] and not excludes:
        return " (by the spread of all rows over seeds; this interval is by its own)"
    return ""


def mark(score: dict[str, Any], metric: Metric) -> str:
    """How a marked difference from the baseline is shown."""
    difference, stands = score.get("difference"), score.get("stands")
    if difference is None or pd.isna(difference) or stands is None or pd.isna(stands):
        return ""
    if not score["stands"]:
        return "≈"
    return "↑" if (difference > 0) == metric.up else "↓"


def _pair(score: dict[str, Any], source: str) -> tuple[float, float] | None:
    low, high = (score.get(f"{source}_{end}") for end in ("low", "high"))
    return None if low is None or high is None or pd.isna(low) else (float(low), float(high))


def costs(facts: dict[str, Any]) -> tuple[str, str, str]:
    """Seeds, time of training and evaluation of one trial, and peak memory in MiB, of a row of the leaderboard."""
    hours = facts["train_hours"] + facts["eval_hours"]
    return str(facts["seeds"]), duration(3600 * hours), or_dash(facts["peak_memory_mb"], ",.0f")


def duration(seconds: float) -> str:
    """Seconds for people: `12 s`, `3 min`, `2.2 h`, `140 h`; a dash for null."""
    if pd.isna(seconds):
        return "–"
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes, hours = round(seconds / 60), seconds / 3600
    return f"{minutes} min" if minutes < 100 else f"{hours:.1f} h" if hours < 100 else f"{hours:,.0f} h"


def or_dash(value: float, form: str) -> str:
    """A number in that form, a dash for null."""
    return "–" if pd.isna(value) else format(value, form)
