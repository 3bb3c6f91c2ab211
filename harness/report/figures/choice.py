"""Which variants a figure shows where there are too many: the baseline, and the best on validation, so that no test
result decides what is seen; and what captions say of the others. One rule for all figures."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import pandas as pd

from harness.report.figures.data import reference
from harness.report.figures.notes import sentences

MOST_LISTED = 12  # variants that a caption names
SCORE = ", by the mean over seeds of the best (average + worst class)/2 of robust validation accuracy"


@dataclass(frozen=True)
class Choice:
    """shown, left_out: variants, in the order of the report. which: a word on those shown. score: what ranked them.
    absent: variants of which there is nothing to draw, lack: what they are without."""

    shown: list[str]
    left_out: list[str]
    which: str = "the first"
    score: str = ""
    absent: tuple[str, ...] = ()
    lack: str = ""

    @property
    def brief(self) -> str | None:
        """For the figure; None where none is left out."""
        if not self.left_out:
            return None
        return f"{len(self.shown)} of {len(self.shown) + len(self.left_out)} variants: {self.which}"

    @property
    def sentence(self) -> str:
        """For the caption; empty where all variants are there."""
        left_out = f"{self.brief}{self.score}; left out: {listing(self.left_out)}." if self.left_out else ""
        return sentences(left_out, f"Not shown, {self.lack}: {listing(self.absent)}." if self.absent else "")


def listing(names: Sequence[str]) -> str:
    """a; b; c and 3 more: names may have commas."""
    more = len(names) - MOST_LISTED
    return "; ".join(names[:MOST_LISTED]) + (f" and {more} more" if more > 0 else "")


def choose(
    names: Sequence[str],
    most: int,
    ranking: Sequence[str] | None,
    *,
    asked: Sequence[str] | None = None,
    lack: str = "without results",
    told: Collection[str] = (),
) -> Choice:
    """The first `most` of a ranking, of the variants that can be drawn, in the order of the report; without one their
    first; or those that were asked for.

    ranking: of all variants; those that are not in `names` lack what a figure draws, but for those `told` of elsewhere.
    """
    if asked:
        return Choice(list(asked), [])
    order = [name for name in dict.fromkeys([*(ranking or ()), *names]) if name in names]
    kept = set(order[:most])
    shown, left_out = [name for name in names if name in kept], [name for name in names if name not in kept]
    if not ranking:
        return Choice(shown, left_out)
    first = "the baseline and " if ranking[0] in kept else ""
    absent = tuple(name for name in dict.fromkeys(ranking) if name not in names and name not in told)
    return Choice(shown, left_out, f"{first}the best on validation", SCORE, absent, lack)


def validation_ranking(epochs: pd.DataFrame, names: Sequence[str], baseline: str | None = None) -> list[str]:
    """Variants from the one that a figure shows before all others: the baseline, then by the best selection score of
    each trial, mean over the trials; those without a score, such as networks trained elsewhere, as they come.

    `epochs`: rows of that table with `variant`.
    """
    best = epochs.groupby(["variant", "trial_id"], observed=True)["selection_score"].max()
    scores = best.groupby("variant", observed=True).mean().sort_values(ascending=False, kind="stable")
    first = [reference(names, baseline)] if names else []
    ranked = [str(name) for name, score in scores.items() if pd.notna(score) and name in names]
    return list(dict.fromkeys([*first, *ranked, *names]))
