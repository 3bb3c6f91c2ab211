"""Which attacks the finished trials of a report asked for, and how: seeds of a row may differ in theirs."""

from __future__ import annotations

from typing import Any

import pandas as pd

from harness.report.data_names import read_spec
from harness.report.results import Results
from harness.report.rows import CELL
from harness.spec import CHECKPOINTS


def requested_attacks(results: Results) -> dict[int, dict[str, dict[str, Any]]]:
    """By row and attack what the first of its finished trials that asked for it asked."""
    found: dict[int, dict[str, dict[str, Any]]] = {}
    for row, spec in zip(results.done["row"], results.done["spec"], strict=True):
        for request in _requests(spec):
            found.setdefault(row, {}).setdefault(request["name"], request)
    return found


def requesting_networks(results: Results) -> pd.Series:
    """How many finished networks asked for each row, checkpoint and attack."""
    done = results.done[["row", "trial_id", "spec"]].itertuples(index=False, name=None)
    lines = [
        (row, checkpoint, request["name"], trial)
        for row, trial, spec in done
        for request in _requests(spec)
        for checkpoint in (*(request.get("checkpoints") or CHECKPOINTS), "given")
    ]
    return pd.DataFrame(lines, columns=[*CELL, "trial_id"]).groupby(CELL)["trial_id"].nunique()


def _requests(spec: Any) -> list[dict[str, Any]]:
    return (read_spec(spec).get("evaluation") or {}).get("attacks") or []
