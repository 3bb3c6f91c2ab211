"""How large a difference from the baseline so many seeds would find, from the spread over seeds that a store has."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from rich.console import Group
from rich.table import Table
from rich.text import Text

from harness.report import escape
from harness.report.captions import attack_title, setting_title
from harness.report.results import Results, records
from harness.report.scores.counts import BY_TRIAL, class_counts
from harness.report.scores.differences import pick_baselines
from harness.report.scores.families import MARKED, layouts
from harness.report.tables.grid import number
from harness.statistics.intervals import FEWEST_SEEDS
from harness.statistics.multiple_comparisons import ALIKE, detectable, residual_spread
from harness.statistics.registry import METRICS

SEEDS = (3, 5, 10)
FEWEST = 2  # seeds from which a spread is known, if badly
POWER = 0.8


def power(results: Results, checkpoint: str, baseline: str | None = None) -> pd.DataFrame:
    """A line per table and marked metric: `setting`, `attack`, `metric`, `variants`, `seeds` (of the spread), `spread`
    (standard deviation over seeds of one variant within blocks) and `needs_N`, the difference that N seeds would find
    with a chance of 80 % or more, corrected for all comparisons of the table; NaN without a spread. Of the rows that
    share three seeds with the baseline; where none does, of those that share two, and empty without these.
    """
    counts = class_counts(results.class_accuracy, BY_TRIAL)
    baselines = pick_baselines(results.rows, baseline)
    lines = []
    by_fewest = [layouts(results.rows, counts, baselines, fewest) for fewest in (FEWEST, FEWEST_SEEDS)]
    found = {
        setting: (layout, attack) for each in by_fewest for setting, at, layout, attack in each if at == checkpoint
    }
    for setting, (layout, attack) in found.items():
        spread = residual_spread(layout.array([attack]))
        others = len(layout.rows) - 1
        known = np.where(spread > ALIKE, spread, np.nan)  # equal seeds give no p-value, however large a difference is
        needs = {f"needs_{n}": detectable(known, n, others, len(MARKED), POWER) for n in SEEDS}
        facts = {"setting": setting, "attack": attack, "variants": others + 1, "seeds": len(layout.seeds)}
        lines += [
            {**facts, "metric": metric, "spread": spread[place]} | {name: each[place] for name, each in needs.items()}
            for place, metric in enumerate(MARKED)
        ]
    return pd.DataFrame(lines)


def power_tables(found: pd.DataFrame) -> Group:
    """A table per setting, for a terminal."""
    parts: list[Any] = []
    groups: Any = found.groupby(["setting", "attack"], sort=False)
    for (setting, attack), part in groups:
        variants, seeds = part["variants"].iloc[0], part["seeds"].iloc[0]
        title = f"{setting_title(setting)} · {attack_title(attack)}"
        found_how = "difference from the baseline found four times in five or more"
        what = f"{found_how}; spread over {seeds} seeds of {variants} variants"
        parts += [Text(escape.one_line(title), style="bold"), Text(what, style="dim")]
        table = Table("", box=None, pad_edge=False, header_style="dim")
        for head in ("spread", *[f"{n} seeds" for n in SEEDS]):
            table.add_column(head, justify="right")
        for line in records(part):
            metric = METRICS[line["metric"]]
            cells = [line["spread"], *[line[f"needs_{n}"] for n in SEEDS]]
            table.add_row(metric.title, *[number(cell, metric) for cell in cells])
        parts.append(table)
    return Group(*parts)
