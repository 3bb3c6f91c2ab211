"""From rows of the store to what the figures draw: one setting, chosen attack and checkpoint, means over seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from harness.attacks.registry import declared, headline
from harness.report.captions import attack_title
from harness.report.scores.counts import ClassCounts, attack_order, class_counts, mean_counts
from harness.report.scores.intervals import class_intervals, sample_intervals, seed_intervals
from harness.statistics.registry import scored


@dataclass(frozen=True)
class ClassView:
    """Class-wise accuracy of some variants under one attack, means over seeds: each array is (variants, classes).

    first: the place of the variant whose difficulties order the classes.
    """

    variants: list[str]
    first: int
    classes: list[str]
    accuracy: np.ndarray
    low: np.ndarray
    high: np.ndarray

    @property
    def by_difficulty(self) -> np.ndarray:
        """Class indices from the hardest for the baseline to the easiest."""
        return np.argsort(self.accuracy[self.first], kind="stable")


def headline_attack(frame: pd.DataFrame) -> str | None:
    """The attack a figure shows when none is named: PGD where it was run."""
    return headline(str(name) for name in frame["attack"].unique())


def at(
    frame: pd.DataFrame, checkpoint: str, attack: str | None = None, roles: Sequence[str] = ("student", "evaluation")
) -> pd.DataFrame:
    """The rows of a checkpoint (a network that was given has but one) and an attack, without teachers by default."""
    chosen = frame["checkpoint"].isin([checkpoint, "given"])
    if attack is not None:
        chosen &= frame["attack"] == attack
    if "role" in frame:
        chosen &= frame["role"].isin(roles)
    return frame[chosen]


def variants_in(frame: pd.DataFrame) -> list[str]:
    """The variants of a frame, in the order of the report where it says so, else as they come."""
    names = frame["variant"]
    if isinstance(names.dtype, pd.CategoricalDtype) and names.cat.ordered:
        return [name for name in names.cat.categories if (names == name).any()]
    return [str(name) for name in names.unique()]


def group(quantity: str) -> tuple[str, str]:
    """A quantity of the classes and all whose names begin with it, such as the two terms of `temperature`."""
    return quantity, f"{quantity}_*"


def class_names(frame: pd.DataFrame) -> list[str]:
    """Names by class index; an index that no row names is its number."""
    pairs = frame[["class_index", "class_name"]].drop_duplicates("class_index")
    names = dict(zip(pairs["class_index"], pairs["class_name"].astype(str), strict=True))
    return [names.get(index, str(index)) for index in range(max(names, default=-1) + 1)]


def with_numbers(names: Sequence[str] | None, count: int) -> list[str]:
    """The names of `count` classes; of those that have none, their numbers: older stores do not name classes without
    test images."""
    known = list(names or ())
    return [*known, *map(str, range(len(known), count))]


def reference(variants: Sequence[str], baseline: str | None = None) -> str:
    """The variant that others are seen against: `baseline` where it is one of them, else `at`, else the first."""
    return next((name for name in (baseline, "at") if name is not None and name in variants), variants[0])


def class_view(frame: pd.DataFrame, variants: Sequence[str], baseline: str | None = None) -> ClassView:
    """Mean over seeds and 95 % interval over test samples of every class and variant; NaN of a variant without rows."""
    counts = network_counts(frame, ["variant"])
    means = mean_counts(counts, ["variant"])
    place = pd.Index(means.keys["variant"].astype(str)).get_indexer(pd.Index(list(variants)))
    low, high = class_intervals(means.correct, means.images)
    accuracy, low, high = (
        np.where(place[:, None] < 0, np.nan, numbers[place]) for numbers in (means.accuracy, low, high)
    )
    first = list(variants).index(reference(variants, baseline))
    return ClassView(list(variants), first, class_names(frame), accuracy, low, high)


def network_counts(frame: pd.DataFrame, by: Sequence[str]) -> ClassCounts:
    """The counts of each network. The table of a store, drawn as it is, does not name teachers."""
    known = frame if "teacher_seed" in frame else frame.assign(teacher_seed=np.nan)
    return class_counts(known, [*by, "trial_id", "seed", "teacher_seed"])


def variant_scores(frame: pd.DataFrame) -> pd.DataFrame:
    """Per variant and attack: each metric's mean over seeds with a 95 % interval: `low`, `high` and their `source`.

    The interval is over seeds where there are three or more, else over test samples.
    """
    by = ["variant", "attack"]
    counts = network_counts(frame, by)
    values = pd.DataFrame({metric.name: metric.values(counts.accuracy, counts.images) for metric in scored()})
    scores = seed_intervals(counts.keys, values, by=by)
    scores = scores.merge(sample_intervals(counts, by), on=[*by, "metric"], how="left")
    seeds = scores["seed_low"].notna()
    low, high = (scores[f"seed_{end}"].where(seeds, scores[f"sample_{end}"]) for end in ("low", "high"))
    return scores.assign(low=low, high=high, source=np.where(seeds, "seeds", "test samples"))


def attack_labels(frame: pd.DataFrame, attacks: Sequence[str]) -> list[str]:
    """Titles of attacks, with the number of images of those that were run on fewer than the others."""
    images = frame.groupby(["trial_id", "attack"], observed=True)["n"].sum().groupby("attack", observed=True).max()
    titles = {name: attack_title(name) for name in attacks}
    return [titles[name] + (f" n={images[name]:,}" if images[name] < images.max() else "") for name in attacks]


def ladder(frame: pd.DataFrame) -> list[str]:
    """The attacks of a frame from clean to the strongest."""
    found = attack_order([str(name) for name in frame["attack"].unique()])
    return [name for name in found if declared(name) != "pgd{N}_last"]
