"""The leaderboards of the published stores: read again today, they have the numbers that were published."""

from __future__ import annotations

import io
from pathlib import Path

import pandas as pd
import pytest

from harness.report.results import read_results, some_trials
from harness.report.scores.leaderboard import leaderboard
from harness.report.tables.tables import csv_text
from harness.store.store import Store
from harness.suites.comparisons import registered_comparisons

PUBLISHED = sorted((Path(__file__).parents[2] / "results").glob("*/report/leaderboard.csv"))
BASELINES = {"absld_ablation": "temperature 1"}  # as results/README.md says
PARTS = {"absld_temperature_rate": ["absld-default", "absld-tuned"]}  # of a tuning store: the comparison alone


@pytest.mark.parametrize("path", PUBLISHED, ids=lambda path: path.parent.parent.name)
def test_a_published_leaderboard_is_what_its_store_gives(path: Path) -> None:
    root = path.parent.parent
    store = Store(root)
    ids = some_trials(store, PARTS[root.name], []) if root.name in PARTS else None
    board = leaderboard(
        read_results(store, trial_ids=ids), baseline=BASELINES.get(root.name), primary=registered_comparisons(root)
    )
    published, today = pd.read_csv(path), pd.read_csv(io.StringIO(csv_text(board)))
    cells = store.read("class_accuracy", ids)[["dataset", "student", "eps", "role", "variant", "checkpoint", "attack"]]
    assert len(published) == len(cells.astype(str).drop_duplicates()) > 0
    pd.testing.assert_frame_equal(today, published, rtol=1e-9, atol=1e-12, check_dtype=False)
