"""Two variants against each other, and every variant against a baseline: which differences stand, which are noise."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy import special

from harness.errors import unknown
from harness.report.results import Results
from harness.report.rows import CELL, SETTING
from harness.report.scores.counts import BY_TRIAL, ClassCounts, class_counts
from harness.report.scores.families import Registered, registered
from harness.report.scores.intervals import MOST_NSD_COUNTS, mean_bounds, nsd_quantiles, seed_intervals, worst_bounds
from harness.report.scores.seeds import listed
from harness.statistics import metrics
from harness.statistics.comparison import WITHIN, Comparison, compare, holm, seed_means, seed_p_values
from harness.statistics.intervals import FEWEST_SEEDS, FEWEST_TEACHERS, SAMPLES, SEEDS
from harness.statistics.multiple_comparisons import ERROR
from harness.statistics.nsd_interval import most_nsd, recovered_bounds

BOUNDS = ["sample_low", "sample_high", "seed_low", "seed_high"]
COMMON = ["common_seeds", "common_teachers"]
COLUMNS = [*CELL, "metric", "difference", *[f"difference_{name}" for name in BOUNDS], "pairing", *COMMON]
COMPARED = {name: getattr(metrics, name) for name in ("average", "worst", "worst_10_percent", "nsd")}
COMPARED["score"] = metrics.selection_score
BASELINES = ("at", "rslad")  # methods that others are compared with, the first that is there
PAIRED, UNPAIRED = "paired by sample", "unpaired"
MOST_PAIRED = 60  # trials whose outcomes are read without being asked
MOST_WORST_COUNTS = 200_000  # class counts; beyond, differences of worst classes have no bounds over samples
Z = float(special.ndtri(0.975))


def pick_baselines(rows: pd.DataFrame, name: str | None = None) -> dict[tuple, str]:
    """By setting the variant that others are compared with: `name`, else the first row of one of `BASELINES`, else the
    first row. A setting with one student has none. InputError for a name that no student has.
    """
    students = rows[rows["role"] == "student"]
    if name is not None and len(rows) and name not in set(students["variant"]):
        raise unknown("baseline", name, set(students["variant"]))
    found = {}
    for setting, part in students.groupby(SETTING, sort=False, dropna=False):
        tests = [part["variant"] == name] if name is not None else [part["method"] == one for one in BASELINES]
        chosen = next((part[test] for test in tests if test.any()), part if name is None else part[:0])
        if len(chosen) and len(part) > 1:
            found[setting] = str(chosen["variant"].iloc[0])
    return found


def differences(
    results: Results, counts: ClassCounts, baselines: dict[tuple, str], *, paired: bool | None = None
) -> pd.DataFrame:
    """A line per row, checkpoint, attack and metric: row minus baseline, mean over `common_seeds`, those both have, and
    over so many `common_teachers`.

    Bounds are 95 %, each by itself, over test samples and over seeds (from three on; with three teachers over both, see
    `seed_intervals`). paired: read `outcomes` to compare image by image, by default for small reports; without them the
    samples are taken as if independent, which is wider. pairing says which it was.
    """
    students = results.rows[results.rows["role"] == "student"]
    pairs: list[tuple[Any, int, int]] = []
    for setting, part in students.groupby(SETTING, sort=False, dropna=False):
        if setting in baselines:
            first = part.index[part["variant"] == baselines[setting]][0]
            pairs += [(row, row, first) for row in part.index if row != first]
    mine, theirs = paired_lines(counts, pairs)
    if mine.keys.empty:
        return pd.DataFrame(columns=COLUMNS)
    return differences_of(results, mine, theirs, paired)


def registered_differences(
    results: Results, counts: ClassCounts, primary: Sequence[Registered], *, paired: bool | None = None
) -> pd.DataFrame:
    """The comparisons registered before their results (`families.registered`) with the columns of `differences`, null
    where one could not be made; `family` is the number of those of its table.

    All are computed, from all that the results are a part of: neither a spread that is pooled over rows nor a
    correction may depend on which rows a reader wants to see. There are lines for those with both variants among these,
    called as these are.
    """
    if results.whole is not None:
        counts = class_counts(results.whole.class_accuracy, BY_TRIAL)
        found = registered_differences(results.whole, counts, primary, paired=paired)
        return _called_as_shown(found, results.trials)
    called = results.trials.drop_duplicates("row").set_index("row")["called"]
    rows = results.rows.assign(called=called.reindex(results.rows.index).fillna(results.rows["variant"]))
    own: Any = results.trials.groupby("row")["trial_id"].agg(list)
    rows["trial_ids"] = [own.get(row, []) for row in rows.index]
    found = registered(rows, counts, primary)
    pairs = found.loc[found["reason"] == "", ["row", "other"]].drop_duplicates().reset_index(drop=True)
    mine, theirs = paired_lines(counts, list(pairs.itertuples(name=None)))
    if mine.keys.empty:
        changes = pd.DataFrame(columns=COLUMNS).astype({"row": "int64"})
    else:
        changes = differences_of(results, mine, theirs, paired)
    changes = changes.rename(columns={"row": "pair"}).astype({"checkpoint": str, "attack": str})
    found = found.merge(pairs.reset_index(names="pair"), on=["row", "other"], how="left")
    found = found.merge(changes, on=["pair", *CELL[1:], "metric"], how="left")
    lacking = found["difference"].isna() & (found["reason"] == "")
    found.loc[lacking, "reason"] = "undefined in some seed"
    found.loc[lacking & found["common_seeds"].isna(), "reason"] = "no results of a common seed and teacher"
    family = found.groupby(["setting", "checkpoint", "store"], sort=False)["metric"].transform("size")
    return found.assign(stands=stands(found), family=family)


def _called_as_shown(found: pd.DataFrame, trials: pd.DataFrame) -> pd.DataFrame:
    """Of registered comparisons those with both variants among some trials, under the names that these have there."""
    keys = list(zip(trials[SETTING].itertuples(index=False, name=None), trials["called"], strict=True))
    names = trials["variant"].groupby(pd.Series(keys, trials.index)).agg(lambda own: sorted(set(own))).to_dict()
    sides = {side: list(zip(found["setting"], found[side], strict=True)) for side in ("variant", "against")}
    shown = {
        side: [names[key][0] if len(names.get(key, ())) == 1 else key[1] for key in keys]
        for side, keys in sides.items()
    }
    both = [one in names and other in names for one, other in zip(*sides.values(), strict=True)]
    return found.assign(**shown)[both]


def stands(found: pd.DataFrame) -> pd.Series:
    """Of a difference with a corrected `p` whether it is there over seeds, and over test samples and, with three, over
    teachers too; None without.

    Bounds of NSD are of the true one, the observed one is biased: they must lie on its side of zero. Where they were
    left out, seeds alone decide, see `over_seeds_alone`.
    """
    change, low, high = (found[name] for name in ("difference", "difference_sample_low", "difference_sample_high"))
    there = (found["p"] < ERROR) & (low.isna() | ((low > 0) & (change > 0)) | ((high < 0) & (change < 0)))
    low, high = found["difference_seed_low"], found["difference_seed_high"]
    there &= (found["common_teachers"] < FEWEST_TEACHERS) | (low > 0) | (high < 0)
    return there.astype(object).where(found["p"].notna(), None)


def over_seeds_alone(found: pd.DataFrame) -> list[str]:
    """The metrics of differences with a verdict whose bounds over test samples were left out: there are too many."""
    lines = found[found["p"].notna() & found["difference_sample_low"].isna()]
    return [str(metric) for metric in lines["metric"].unique()]


def differences_of(
    results: Results, mine: ClassCounts, theirs: ClassCounts, paired: bool | None = None
) -> pd.DataFrame:
    """`differences` of lines that belong together, as `paired_lines` makes them."""
    ids = {*mine.keys["trial_id"], *theirs.keys["trial_id"]}
    wanted = len(ids) <= MOST_PAIRED if paired is None else paired
    return metric_differences(
        mine, theirs, comparisons(mine, theirs, Outcomes(results.outcomes(ids))) if wanted else {}
    )


def paired_lines(counts: ClassCounts, pairs: Sequence[tuple[Any, int, int]]) -> tuple[ClassCounts, ClassCounts]:
    """For each (label, row, other row): the lines of both that share seed, teacher, checkpoint and attack, in the same
    order. A network without a teacher is compared with those of every teacher.

    The label takes the place of `row` in their keys, and the pair's teacher that of theirs.
    """
    names = ["seed", "checkpoint", "attack"]
    keys = ["row", *names, "teacher_seed"]
    lines = counts.keys[keys].assign(line=np.arange(len(counts.keys))).drop_duplicates(keys)
    wanted = pd.DataFrame(pairs, columns=["label", "row", "other"]).astype({"row": "int64", "other": "int64"})
    others = lines.rename(columns={"row": "other", "line": "other_line", "teacher_seed": "other_teacher"})
    found = wanted.merge(lines, on="row").merge(others, on=["other", *names])
    teacher = found["teacher_seed"].fillna(found["other_teacher"])
    found = found.assign(teacher_seed=teacher)[found["other_teacher"].isna() | (found["other_teacher"] == teacher)]
    mine, theirs = (counts.where(found[name].to_numpy(dtype=int)) for name in ("line", "other_line"))
    labels = {"row": found["label"], "teacher_seed": found["teacher_seed"]}
    return mine.labelled(**labels), theirs.labelled(**labels)


class Outcomes:
    """Which test images each network got right, by trial, checkpoint and attack; read once, asked for many pairs.

    `frame`: rows of `outcomes`."""

    def __init__(self, frame: pd.DataFrame) -> None:
        ordered = frame.sort_values("sample_index", kind="stable")
        groups: Any = ordered.groupby(["trial_id", "checkpoint", "attack"], observed=True)
        columns = ["sample_index", "label", "robust"]
        self.flags = {key: [part[name].to_numpy() for name in columns] for key, part in groups}

    def stacked(self, keys: list[tuple]) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
        """Image indices (N,), labels (N,) and outcomes (S, N) of S networks on the same images; None if they differ."""
        found = [self.flags.get(key) for key in keys]
        known = [flags for flags in found if flags is not None]
        if len(known) < len(keys) or any(not np.array_equal(flags[0], known[0][0]) for flags in known):
            return None
        return known[0][0], known[0][1].astype(int), np.stack([flags[2].astype(bool) for flags in known])


def comparisons(mine: ClassCounts, theirs: ClassCounts, outcomes: Outcomes) -> dict[tuple, Comparison]:
    """`harness.statistics.comparison.compare` of every cell whose outcomes are there, by row, checkpoint and attack."""
    columns = ["trial_id", "checkpoint", "attack"]
    ours, base = (pd.MultiIndex.from_frame(side.keys[columns].astype(object)) for side in (mine, theirs))
    classes = mine.images.shape[1]
    found = {}
    seeds, teachers = (mine.keys[name].to_numpy() for name in ("seed", "teacher_seed"))
    for key, found_members in _cells(mine):
        members = found_members[np.lexsort((teachers[found_members], seeds[found_members]))]
        first, second = (outcomes.stacked(list(side[members])) for side in (ours, base))
        if first is not None and second is not None and np.array_equal(first[0], second[0]):
            _, labels, robust = first
            found[key] = compare(labels, robust, second[2], classes, seeds=seeds[members])
    return found


def metric_differences(mine: ClassCounts, theirs: ClassCounts, compared: dict[tuple, Comparison]) -> pd.DataFrame:
    """`differences` of lines that belong together; cells in `compared` have their sample bounds from there."""
    values = {name: of(mine.accuracy) - of(theirs.accuracy) for name, of in COMPARED.items()}
    most = np.max(most_nsd(mine.accuracy), initial=0.0)
    within = {name: WITHIN.get(name, WITHIN["average"]) for name in COMPARED} | {"nsd": (-most, most)}
    found = seed_intervals(mine.keys, pd.DataFrame(values), by=CELL, within=within)
    found = found.rename(columns={"value": "difference"})
    found = found.merge(_unpaired_bounds(mine, theirs), on=[*CELL, "metric"], how="left")
    groups: Any = mine.keys.groupby(CELL, sort=False, observed=True)
    common = {"common_seeds": groups["seed"].agg(listed), "common_teachers": groups["teacher_seed"].nunique()}
    found = found.merge(pd.DataFrame(common).reset_index(), on=CELL, how="left")
    found["pairing"] = pd.Series(UNPAIRED, found.index, dtype=object).where(found["sample_low"].notna(), None)
    for place, key in enumerate(found[[*CELL, "metric"]].itertuples(index=False, name=None)):
        comparison, parts = compared.get(key[:3]), _parts(key[3], mine.images.shape[1])
        if comparison is not None and parts:
            samples = [getattr(comparison, part).samples for part in parts]
            low, high = (float(np.mean([getattr(each, end) for each in samples])) for end in ("low", "high"))
            found.loc[place, ["sample_low", "sample_high", "pairing"]] = low, high, PAIRED
    return found.rename(columns={name: f"difference_{name}" for name in BOUNDS})[COLUMNS]


def _parts(metric: str, classes: int) -> tuple[str, ...]:
    """The metrics whose mean a metric is, of those with bounds over samples; empty where one has none. The mean of two
    intervals is as wide as that of a mean whose errors go together, and so never too narrow."""
    if metric == "score":
        return () if classes >= metrics.MANY_CLASSES else ("average", "worst")
    return (metric,) if metric in WITHIN else ()


def class_differences(
    mine: ClassCounts, theirs: ClassCounts, compared: dict[tuple, Comparison]
) -> dict[tuple, dict[str, Any]]:
    """By row, checkpoint and attack: arrays (C,) `difference`, `low`, `high`, `p` (Holm's), and their `source`.

    Over seeds from three on, with these teachers, else over test samples: paired where the cell is in `compared`.
    """
    seeds = mine.keys["seed"].to_numpy()
    found = {}
    for key, members in _cells(mine):
        comparison = compared.get(key)
        if comparison is None:
            found[key] = _classes_from_counts(mine.where(members), theirs.where(members))
            continue
        classes = comparison.classes
        over_seeds = len(np.unique(seeds[members])) >= FEWEST_SEEDS
        interval = classes.seeds if over_seeds else classes.samples
        source = _over_seeds(mine.where(members)) if over_seeds else f"{SAMPLES}, {PAIRED}"
        numbers = {"difference": interval.estimate, "low": interval.low, "high": interval.high, "p": comparison.p_holm}
        found[key] = numbers | {"source": source}
    return found


def _classes_from_counts(mine: ClassCounts, theirs: ClassCounts) -> dict[str, Any]:
    """`class_differences` of one cell without outcomes; its lines are networks."""
    change = seed_means(mine.accuracy - theirs.accuracy, mine.keys["seed"])
    mean, seeds = change.mean(axis=0), len(change)
    over_seeds = seeds >= FEWEST_SEEDS
    variance = change.var(axis=0, ddof=1) / seeds if over_seeds else (_variance(mine) + _variance(theirs)).mean(axis=0)
    freedom = seeds - 1 if over_seeds else np.inf
    half = special.stdtrit(freedom, 0.975) * np.sqrt(variance)
    p = seed_p_values(change, mine.images[0]) if over_seeds else 2 * special.ndtr(-np.abs(mean) / np.sqrt(variance))
    source = _over_seeds(mine) if over_seeds else f"{SAMPLES}, {UNPAIRED}"
    low, high = np.clip(mean - half, -1, 1), np.clip(mean + half, -1, 1)
    return {"difference": mean, "low": low, "high": high, "p": holm(p), "source": source}


def _over_seeds(counts: ClassCounts) -> str:
    return SEEDS if counts.keys["teacher_seed"].nunique() < FEWEST_TEACHERS else f"{SEEDS}, with these teachers"


def _cells(counts: ClassCounts) -> list[tuple[tuple, np.ndarray]]:
    """Each row, checkpoint and attack with its lines, one per seed and teacher."""
    indices: Any = counts.keys.groupby(CELL, sort=False, observed=True).indices
    return list(indices.items())


def _unpaired_bounds(mine: ClassCounts, theirs: ClassCounts) -> pd.DataFrame:
    """Per cell: 95 % bounds of the difference in average, NSD and worst class over test samples.

    Both networks are taken as if they saw different images; the bounds of a mean over seeds on the same images are at
    least as wide as they must be with the mean of the seeds' standard errors.
    """
    found = {"average": _average_bounds(mine, theirs)}
    if mine.correct.size <= MOST_NSD_COUNTS:
        quantiles = [nsd_quantiles(side) for side in (mine, theirs)]
        estimate, low, high = (np.stack(pair, axis=-1) for pair in zip(*quantiles, strict=True))
        low_end, high_end = recovered_bounds(estimate, low, high, np.array([1.0, -1.0]), np.eye(2))
        most = most_nsd(mine.accuracy)
        found["nsd"] = np.maximum(low_end, -most), np.minimum(high_end, most)
    if mine.correct.size <= MOST_WORST_COUNTS:
        found["worst"] = _worst_class_bounds(mine, theirs)
    if parts := [found[name] for name in _parts("score", mine.images.shape[1]) if name in found][1:]:
        found["score"] = tuple(np.mean([found["average"], *parts], axis=0))
    return mean_bounds(mine.keys, found, CELL)


def _average_bounds(mine: ClassCounts, theirs: ClassCounts) -> tuple[np.ndarray, np.ndarray]:
    """Of each line, to first order."""
    present = (mine.images > 0).sum(axis=1)
    variance = np.where(mine.images > 0, _variance(mine) + _variance(theirs), 0.0).sum(axis=1)
    change = metrics.average(mine.accuracy) - metrics.average(theirs.accuracy)
    half = Z * np.sqrt(variance) / np.maximum(present, 1)
    return np.maximum(change - half, -1), np.minimum(change + half, 1)


def _worst_class_bounds(mine: ClassCounts, theirs: ClassCounts) -> tuple[np.ndarray, np.ndarray]:
    """Of each line: exact bounds of both sides that hold at once with 95 % (each at its square root)."""
    sides = [worst_bounds(np.nan_to_num(side.correct), side.images, level=0.95**0.5) for side in (mine, theirs)]
    (low, high), (other_low, other_high) = sides
    return low - other_high, high - other_low


def _variance(counts: ClassCounts) -> np.ndarray:
    """Of each class accuracy over test samples; one image more each way, so that no class is certain."""
    rate = (counts.correct + 1) / (counts.images + 2)
    return rate * (1 - rate) / (counts.images + 2)
