"""What a table must say of its numbers: data, eps, seeds, selection, NSD form, attacks and images. Plain text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from harness.attacks.registry import OVERRIDES, ascent_settings, attack_info, declared, stage_names
from harness.report.results import records
from harness.report.rows import in_setting
from harness.report.scores.differences import over_seeds_alone
from harness.report.scores.families import MARKED, TOO_FEW_SEEDS
from harness.report.scores.leaderboard import Leaderboard
from harness.report.scores.seeds import is_several, listed
from harness.report.scores.selection import RULES
from harness.report.tables.grid import change_text
from harness.report.trained import MOST_NAMED, by_row, trained
from harness.statistics.intervals import FEWEST_SEEDS, FEWEST_TEACHERS
from harness.statistics.metrics import MANY_CLASSES
from harness.statistics.multiple_comparisons import ALIKE
from harness.statistics.registry import METRICS, SCORE

FAILED = "could not be drawn"  # of a figure


def attack_title(name: object) -> str:
    """How tables and figures call an attack."""
    return attack_info(name).title if declared(name) else str(name)


def eps_text(eps: float) -> str:
    """8/255 where it is one of those, else the number."""
    numerator = eps * 255
    if abs(numerator - round(numerator)) < 1e-6 and 0 < numerator < 255 and len(f"{eps:g}") > 4:
        return f"{round(numerator)}/255"
    return f"{eps:g}"


def setting_title(setting: tuple) -> str:
    """A heading for a data set, a student and an eps."""
    dataset, student, eps = setting
    return f"{dataset}, {student}, L-inf eps {eps_text(eps)}"


def caption(board: Leaderboard, setting: tuple, checkpoint: str) -> list[str]:
    """Sentences that belong under every table of one setting."""
    part = board.of(setting)
    scores = part.scores[part.scores["checkpoint"].isin([checkpoint, "given"])]
    chosen = checkpoint_of(part.rows, checkpoint)
    selected = RULES.get(chosen, f"{chosen}: the network as it was given")
    sentences = [f"{setting_title(setting)}.", _seeds(part.rows), f"Checkpoint {selected}."]
    sentences += trained(part)
    sentences.append("Avg. and Worst: mean and smallest of the class-wise accuracies, in percent.")
    sentences.append("NSD: population standard deviation over classes divided by their mean, lower is fairer.")
    sentences += _attacks(part, scores)
    sentences += order(board, setting, checkpoint)
    if (part.rows["role"] == "student").sum() > 1:
        sentences.append(f"Best student in bold, second underlined{_ranked(part, scores)}.")
    if setting in board.baselines:
        sentences.append(marks(board, setting, checkpoint))
    sentences += registered(board, setting, checkpoint)
    return sentences + _teachers(part.rows, board.teacher_counts.get(setting, 0))


def order(board: Leaderboard, setting: tuple, checkpoint: str) -> list[str]:
    """A sentence on what rows are ordered by, and what ranks mean or why there are none; nothing for a row alone."""
    ranking, roles = board.ranking(setting, checkpoint), in_setting(board.rows, setting)["role"]
    if not ranking.attack or (roles != "teacher").sum() < 2:
        return []
    many = len(board.classes.get(str(setting[0]), {})) >= MANY_CLASSES
    what = ranking.metric.title
    if ranking.metric == SCORE:
        what = f"(average + {'mean of the worst tenth' if many else 'worst class'})/2"
    ordered = f"{'Ranked' if ranking.as_listed else 'Ordered'} by {what} under {attack_title(ranking.attack)}"
    if not ranking.ranks:
        return [] if ranking.as_listed else [f"{ordered}; no ranks: {ranking.unranked}."]
    samples = " and over test samples" if ranking.over_samples else ""
    return [
        f"{ordered}. Rank: 1 + the number of rows above it by a difference that stands over seeds "
        f"{listed(ranking.seeds)}{samples}, {_comparisons(ranking.comparisons)} corrected together (Holm)."
    ]


def checkpoint_of(rows: pd.DataFrame, checkpoint: str) -> str:
    """Which checkpoint rows show of themselves where they are asked for one: given networks have none to choose."""
    return "given" if (rows["role"] == "evaluation").all() else checkpoint


def otherwise(board: Leaderboard, setting: tuple, checkpoint: str) -> list[str]:
    """Those sentences that name rows trained or attacked otherwise, or attacks of other seeds than the rows'."""
    part = board.of(setting)
    scores = part.scores[part.scores["checkpoint"].isin([checkpoint, "given"])]
    return [text for text in [*trained(part), *_attacks(part, scores)] if ", but " in text or ", over seeds " in text]


def _ranked(board: Leaderboard, scores: pd.DataFrame) -> str:
    """Which students are ranked, where the seeds of a column differ."""
    students = scores[scores["row"].isin(board.rows.index[board.rows["role"] == "student"])]
    unlike = students.groupby("attack", observed=True)["seed_list"].nunique() > 1
    return ", in each column of those over the same seeds" if unlike.any() else ""


def _teachers(rows: pd.DataFrame, distinct: int) -> list[str]:
    """Whether intervals say something of what another teacher would bring: from three teachers of every row on."""
    students = rows[(rows["role"] == "student") & rows["teacher"].notna()]
    if students.empty:
        return []
    several, aside = students["teachers"].str.contains(","), students.loc[students["teachers_aside"] != ""]
    names, count = students["teachers"].iloc[0], students["teacher"].nunique()
    count = count if several.any() else max(distinct, 1)  # weights tell apart what one name hides
    if count > 1:
        who = "Unlike teachers by row" if several.any() else f"{count} teachers"
        texts = [f"{who}, each of them fixed: students of two teachers differ by their teachers too."]
        texts += [SOME_CROSSED] if (students["teachers"].str.count(",") + 1 >= FEWEST_TEACHERS).any() else []
    elif not several.any():
        texts = ["One teacher, which is fixed: what is said of its students holds for that teacher."]
    elif len(names.split(", ")) < FEWEST_TEACHERS:
        texts = [f"Mean over teachers {names} (their seeds), which are fixed: intervals and verdicts hold for these."]
    else:
        texts = [f"Mean over teachers {names} (their seeds). {CROSSED}"]
    if len(aside):
        others = ", ".join(dict.fromkeys(", ".join(aside["teachers_aside"]).split(", ")))
        texts.append(f"Not all seeds were trained from teachers {others}: they enter the spread between teachers only.")
    return [*texts, SPREAD] if several.any() or len(aside) else texts


CROSSED = (
    "Intervals over seeds are over seeds and teachers, crossed, and a difference stands only where that excludes zero."
)
SOME_CROSSED = "Of rows with three teachers or more, intervals over seeds are over seeds and teachers, crossed."
SPREAD = (
    "Between teachers: largest minus smallest of the means of each one's students, over seeds that were trained from "
    "all of them."
)


def _seeds(rows: pd.DataFrame) -> str:
    """Which seeds the numbers are means of; where rows differ, by name, the most frequent list for all others."""
    if (rows["role"] == "evaluation").all():
        return GIVEN
    found = rows[(rows["role"] == "student") & (rows["seed_list"] != "")]
    lists = found["seed_list"].value_counts()
    if lists.empty:
        return "No seed is done."
    if len(lists) == 1:
        return mean_over(lists.index[0]).capitalize() + ("." if is_several(lists.index[0]) else f": {ONE_SEED}.")
    if lists.iloc[1:].sum() > MOST_NAMED:
        return f"Mean over {found['seeds'].min()} to {found['seeds'].max()} seeds, by row."
    named = {seeds: ", ".join(found.loc[found["seed_list"] == seeds, "variant"]) for seeds in lists.index[1:]}
    parts = [f"{mean_over(seeds)} for {names}" for seeds, names in named.items()]
    text = "; ".join([*parts, f"{mean_over(lists.index[0])} for all others"])
    return f"{text[0].upper()}{text[1:]}."


GIVEN = "Given networks, each of one training: how another would differ is not in these numbers."
ONE_SEED = "differences between seeds are not in these numbers"


def mean_over(seeds: str) -> str:
    """mean over seeds 0, 1, 2; or one seed (0). seeds: a text of `listed`."""
    return f"mean over seeds {seeds}" if is_several(seeds) else f"one seed ({seeds})"


def marks(board: Leaderboard, setting: tuple, checkpoint: str) -> str:
    """Which differences from the baseline are marked and what the marks mean, or why there are none."""
    baseline, marked = board.baselines[setting], board.marked.get((setting, checkpoint))
    if marked is None:
        return f"No arrows against {baseline}: {board.unmarked.get((setting, checkpoint), TOO_FEW_SEEDS)}."
    seeds, count = ", ".join(map(str, marked.seeds)), marked.comparisons
    scores = board.of(setting).scores
    scores = scores[scores["checkpoint"] == checkpoint]
    unbounded = over_seeds_alone(scores)
    alone = f" ({', '.join(METRICS[name].title for name in unbounded)} over seeds alone)" if unbounded else ""
    compared = scores[(scores["attack"] == marked.attack) & scores["metric"].isin(list(MARKED)) & scores["p"].isna()]
    alike = (compared["difference_seed_high"] - compared["difference_seed_low"]).astype(float) <= ALIKE
    return (
        f"Against {baseline}: ↑ better, ↓ worse, ≈ inside the noise, in Avg., Worst and NSD under "
        f"{attack_title(marked.attack)}, over seeds {seeds} and over test samples{alone}. {_comparisons(count)}, "
        "corrected together (Holm): if all variants were equal, fewer than one table in ten would have a false arrow. "
        f"{'No mark where no seed differs from another. ' if alike.any() else ''}Other columns are not compared."
    )


def registered(board: Leaderboard, setting: tuple, checkpoint: str) -> list[str]:
    """A sentence on the comparisons registered before their results, a family of their own; one per store that did."""
    found = board.registered
    if found.empty:
        return []
    found = found[(found["setting"] == setting) & (found["checkpoint"] == checkpoint)]
    return [_registered_family(part) for _, part in found.groupby("store", sort=False)]


def _registered_family(found: pd.DataFrame) -> str:
    family, made = int(found["family"].iloc[0]), found[found["reason"] == ""]
    count = _comparisons(family)
    if len(found) < family:
        count = f"{len(found)} of {count}"
    alike = made["common_seeds"].nunique() == 1
    over = f" over seeds {made['common_seeds'].iloc[0]}," if alike else ""
    some = bool(made["p"].notna().any())  # with a verdict: what has none says why
    texts = [_registered_text(line, not alike, some) for line in records(found)]
    return f"Registered before the results, {count},{over} {_verdicts(found)}: {'; '.join(texts)}."


def _comparisons(count: int) -> str:
    return f"{count} comparison{'s' * (count != 1)}"


NO_VERDICT = f"no verdict below {FEWEST_SEEDS} common seeds"


def _verdicts(found: pd.DataFrame) -> str:
    """How registered comparisons are judged, or why they are not."""
    if found["p"].notna().any():
        return "corrected together (Holm)"
    found = found[found["reason"] == ""]
    if found.empty:
        return "without a result yet"
    if found["difference_seed_low"].isna().any():
        return NO_VERDICT
    if (found["difference_seed_low"] == found["difference_seed_high"]).all():
        return "no verdict where no seed differs from another"
    return f"no verdict without {FEWEST_SEEDS} seeds and an attack that all their variants have"


def _registered_text(line: Mapping[str, Any], with_seeds: bool, others_judged: bool) -> str:
    metric = METRICS[line["metric"]]
    under = f" under {attack_title(line['attack'])}" if line["attack"] else ""
    result = f"not available: {line['reason']}" if line["reason"] else change_text(dict(line), metric)
    if others_judged and not line["reason"] and pd.isna(line["p"]):
        result += f", {NO_VERDICT}" if pd.isna(line["difference_seed_low"]) else ", no verdict"
    over = f" over seeds {line['common_seeds']}" if with_seeds and not line["reason"] else ""
    return f"{line['variant']} minus {line['against']}, {metric.title}{under}{over}: {result}"


def _attacks(board: Leaderboard, scores: pd.DataFrame) -> list[str]:
    """A sentence per attack: what it did to each row's networks, and on how many images."""
    sentences = []
    for name in [attack for attack in board.attacks if attack in set(scores["attack"])]:
        part = scores[scores["attack"] == name]
        did = {row: attack_words(name, board.requests.get(row, {}).get(name, {}), int(classes))
               for row, classes in zip(part["row"], part["classes"].fillna(0), strict=True)}  # fmt: skip
        said = by_row(board, {row: text for row, text in did.items() if text}, f"{attack_title(name)}:").rstrip(".")
        parts = [said or f"{attack_title(name)}:", images_text(part), _over_seeds(board, part)]
        sentences.append(", ".join(part for part in parts if part).replace(":,", ":") + ".")
    return sentences


def _over_seeds(board: Leaderboard, scores: pd.DataFrame) -> str:
    """Which seeds the numbers of an attack are over, where these are not those of the rows."""
    own = board.rows.loc[board.rows["role"] != "teacher", "seed_list"].to_dict()
    over = {row: str(seeds) for row, seeds in zip(scores["row"], scores["seed_list"], strict=True) if row in own}
    if all(seeds == own[row] for row, seeds in over.items()):
        return ""
    return by_row(board, over, "over seeds").rstrip(".")


def images_text(scores: pd.DataFrame) -> str:
    """2,000 images, 200 of each class; ranges where rows or classes differ."""
    counts = scores[["images", "fewest", "most"]].dropna().astype(int)
    if counts.empty:
        return ""
    total, fewest, most = (_range(counts[name].min(), counts[name].max()) for name in counts)
    if fewest == most:
        return f"{total} images, {fewest} of each class"
    return f"{total} images, {_range(counts['fewest'].min(), counts['most'].max())} of a class"


def _range(low: int, high: int) -> str:
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def attack_words(name: str, request: Mapping[str, Any], classes: int) -> str:
    """What an attack of that name did where `request` was asked for, on data of so many classes; empty for none."""
    if not declared(name):
        return ""
    info = attack_info(name)
    if info.stages:
        *first, last = stage_names(name, classes)
        return f"{', '.join(first)} and {last}" if first else last
    if info.ascent is None:
        return ""
    settings = ascent_settings({"name": name, **{key: request.get(key) for key in OVERRIDES}})
    share = "eps" if settings.step_share == 1 else f"eps/{1 / settings.step_share:g}"
    size = eps_text(settings.step_size) if settings.step_size else share
    said = [f"{settings.steps} steps of {size}" if settings.steps > 1 else f"one step of {size}"]
    if settings.start != "clean":
        said.append(f"{settings.restarts} random start{'s' * (settings.restarts > 1)}")
    if settings.start != "clean" or settings.steps > 1:
        said.append("robust on every iterate" if settings.every_iterate else "judged on the last iterate")
    return ", ".join(said)
