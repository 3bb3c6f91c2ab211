"""What a row of a report was made by: its trials, and the code at a commit."""

from __future__ import annotations

import pandas as pd

from harness.report.results import Results


def made_by(results: Results) -> pd.DataFrame:
    """Per row, as text with spaces between: the ids of its finished trials in the order of their seeds, and the commits
    that trained and evaluated them, none where that is not known."""
    done = results.done.sort_values(["seed", "teacher_seed"], kind="stable")
    commits = done.reindex(columns=["row", "train_git_commit", "git_commit"]).melt("row", value_name="commit").dropna()
    parts = {"trial_ids": done.groupby("row")["trial_id"], "commits": commits.groupby("row")["commit"]}
    texts = {name: part.agg(_listed).astype(object) for name, part in parts.items()}
    return pd.DataFrame({name: text.reindex(results.rows.index, fill_value="") for name, text in texts.items()})


def _listed(texts: pd.Series) -> str:
    """Each word once; a trial that went on under other code has two commits, with a comma between."""
    return " ".join(dict.fromkeys(" ".join(texts).replace(",", " ").split()))
