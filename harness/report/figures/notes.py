"""What a figure says of its numbers in its caption: over which seeds and images they are means, and what its bars are.
Sentences in plain text."""

from __future__ import annotations

from typing import Any

import pandas as pd

from harness.report.captions import attack_title, mean_over
from harness.report.figures.style import MOST_BANDS
from harness.report.scores.counts import attack_order
from harness.report.scores.seeds import listed
from harness.statistics.intervals import FEWEST_SEEDS, FEWEST_TEACHERS

NO_BANDS = f"No bands: those of more than {MOST_BANDS} variants would cover each other."
SAMPLES = "95 % over test samples"


def sentences(*parts: str) -> str:
    """Those that are not empty, in a row."""
    return " ".join(part for part in parts if part)


def over_seeds(frame: pd.DataFrame) -> str:
    """mean over seeds 0, 1, 2. Of rows with `variant`, `trial_id` and, where they are known, `role` and `seed`."""
    if "role" in frame and (frame["role"] == "evaluation").all():
        return "given networks, each of one training"
    known = "seed" in frame
    name = "seed" if known else "trial_id"
    found = frame[["variant", name]].drop_duplicates().groupby("variant", observed=True)[name]
    counts, lists = found.count(), found.agg(lambda own: listed(map(int, own)) if known else f"{len(own)}")
    if lists.nunique() > 1:
        return f"mean over {counts.min()} to {counts.max()} {name.removesuffix('_id')}s, by variant"
    if known:
        return mean_over(lists.iloc[0])
    return f"mean over {lists.iloc[0]} trials"


def images(frame: pd.DataFrame) -> str:
    """10,000 test images. Of rows of `class_accuracy`; attacks on fewer images by name."""
    totals = frame.groupby(["attack", "trial_id"], observed=True)["n"].sum().groupby("attack", observed=True)
    most = totals.max().astype(int)
    usual = int(most.max())
    fewer = [f"{attack_title(name)} {count:,}" for name, count in most.items() if count < usual]
    unlike = bool((totals.min() < most).any())
    return f"{'up to ' * unlike}{usual:,} test images" + (f" ({', '.join(fewer)})" if fewer else "")


def means(frame: pd.DataFrame) -> str:
    """A sentence on the seeds and images of rows of `class_accuracy`."""
    text = f"{over_seeds(frame)}{_of_other_seeds(frame)}; {images(frame)}."
    return text[0].upper() + text[1:]


def _of_other_seeds(frame: pd.DataFrame) -> str:
    """The attacks that were run on fewer seeds than a variant has, with these: (AA seed 0)."""
    if "seed" not in frame:
        return ""
    seeds: Any = (
        frame.astype({"attack": str})
        .drop_duplicates(["attack", "variant", "seed"])
        .groupby(["attack", "variant"], observed=True)["seed"]
    )
    own = seeds.agg(frozenset).unstack("variant")
    every = frame.groupby("variant", observed=True)["seed"].agg(frozenset)
    told = []
    for attack in attack_order(list(own.index)):
        there = own.loc[attack].dropna()
        unlike = {seeds for variant, seeds in there.items() if seeds != every[variant]}
        if unlike:
            (one,) = unlike if len(unlike) == 1 else (None,)
            which = f"seed{'s' * (len(one) > 1)} {listed(sorted(map(int, one)))}" if one else "fewer seeds"
            told.append(f"{attack_title(attack)} {which}")
    return f" ({', '.join(told)})" if told else ""


def bars(scores: pd.DataFrame, frame: pd.DataFrame) -> str:
    """A sentence on the error bars of `variant_scores`, made of rows of `class_accuracy`."""
    teachers = frame["teacher_seed"].nunique() if "teacher_seed" in frame else 0
    seeds = f"95 % over seeds{' and teachers' * (teachers >= FEWEST_TEACHERS)}"
    sources = set(scores.loc[scores["value"].notna(), "source"])
    if len(sources) > 1:
        return f"Bars: {seeds} where a variant has {FEWEST_SEEDS} or more, else over test samples."
    return f"Bars: {seeds if sources == {'seeds'} else SAMPLES}."
