"""Whether tuning was worth it: the tuned setting of a method against its default on test images, in a sentence."""

from __future__ import annotations

import pandas as pd

from harness.report.results import Results
from harness.report.scores.counts import class_counts
from harness.report.tuning import number
from harness.statistics.registry import METRICS

MEASURES = {  # what a search goes by, as it is called on test images
    "selection_score": "score",
    "val_robust_avg": "average",
    "val_robust_worst": "worst",
    "val_robust_nsd": "nsd",
}
_TITLES = {"score": "score", "average": "average", "worst": "worst class", "nsd": "NSD"}


def against_default(results: Results, method: str, metric: str, mode: str) -> str | None:
    """The sentence: by the search's metric, under the strongest attack, at the checkpoint that selection keeps, over
    the seeds that both have. None where they have none in common.

    results: with variants METHOD-default and METHOD-tuned. metric, mode: of the search.
    """
    names = {f"{method}-tuned": "tuned", f"{method}-default": "default"}
    rows = results.class_accuracy
    called = pd.Series(results.rows["variant"].reindex(rows["row"]).to_numpy(), rows.index).map(names)
    chosen = rows.assign(side=called)[called.notna().to_numpy() & (rows["checkpoint"] == "best_validation").to_numpy()]
    counts = class_counts(chosen, ["side", "seed", "attack"])
    if not len(counts.keys):
        return None
    titles, own = dict(_TITLES), MEASURES.get(metric, metric)
    titles.setdefault(own, METRICS[own].title)
    measures = pd.DataFrame({name: METRICS[name].values(counts.accuracy, counts.images) for name in titles})
    table = pd.concat([counts.keys.astype({"attack": str}), measures], axis=1)
    attack = str(table.groupby("attack")["average"].mean().idxmin())
    strongest = table[table["attack"] == attack].set_index("seed")
    sides = {side: part[list(titles)] for side, part in strongest.groupby("side")}
    if len(sides) < 2:
        return None
    seeds = sides["tuned"].index.intersection(sides["default"].index)
    tuned, default = (sides[side].loc[seeds] for side in ("tuned", "default"))
    gain = (tuned - default)[own] * (1 if mode == "max" else -1)
    mean = gain.mean(skipna=False)  # of a seed without a value it is no mean of the others
    verdict = "beats" if mean > 0 else "equals" if mean == 0 else "does not beat" if mean < 0 else "has no mean beside"
    mine, theirs = (
        {key: number(side[key].mean(skipna=False), METRICS[key].percent) for key in titles} for side in (tuned, default)
    )
    means = ", ".join(f"{title} {mine[key]} against {theirs[key]}" for key, title in titles.items())
    return (
        f"On test images ({attack}) the tuned setting of {method} {verdict} the default by its "
        f"{titles[own]}, mean of {len(seeds)} seed{'s' * (len(seeds) > 1)}, better on "
        f"{int((gain > 0).sum())}: {means}."
    )
