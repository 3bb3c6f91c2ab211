"""Every variant against a baseline: which differences stand, which are inside the noise."""

from __future__ import annotations

import numpy as np
import pandas as pd

from harness.report.counts import ClassCounts
from harness.report.intervals import METRICS, seed_intervals
from harness.report.results import SETTING, Results

CELL = ["row", "checkpoint", "attack"]
COLUMNS = [*CELL, "metric", "difference", "difference_low", "difference_high", "stands", "source"]


def pick_baselines(rows: pd.DataFrame, name: str | None = None) -> dict[tuple, str]:
    """By setting the variant that others are compared with: `name`, else the row of method `at`, if there is one."""
    found = {}
    for setting, part in rows[rows["role"] == "student"].groupby(SETTING, sort=False, dropna=False):
        chosen = part["variant"] == name if name is not None else part["method"] == "at"
        if chosen.any() and len(part) > 1:
            found[setting] = str(part.loc[chosen, "variant"].iloc[0])
    return found


def differences(results: Results, counts: ClassCounts, baselines: dict[tuple, str], *, paired: bool | None = None) -> pd.DataFrame:
    return pd.DataFrame(columns=COLUMNS)
