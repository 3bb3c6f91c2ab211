"""One variant against itself: what the comparison of two methods says where there is nothing to find."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import pandas as pd

from harness.errors import InputError, unknown
from harness.report.results import Readable, read_results
from harness.report.scores.seeds import listed
from harness.statistics.intervals import FEWEST_SEEDS


class NullControl:
    """A store's finished students of one variant, its seeds as two rows: the earlier half, and the later half under a
    name of its own, paired with the earlier in the order of their numbers, which it takes. That pairing is arbitrary
    (two seeds share no batch and no start), which the name of the second row says wherever it stands.

    InputError for a variant that is not there or that is several rows, whose seeds are not an even number of at least
    six (three a row: fewer have no verdict), or that was not trained from the same teachers with every seed.
    """

    def __init__(self, store: Readable, variant: str):
        self._store = store
        every = store.trials()
        pupils = every[(every["role"] == "student") & (every["status"] == "done")].astype({"variant": str})
        chosen = pupils[pupils["variant"] == variant]
        if chosen.empty:
            raise unknown("variant", variant, set(pupils["variant"]))
        own = read_results(store, trial_ids=list(chosen["trial_id"])).rows
        seeds = sorted(set(chosen["seed"]))
        if len(own) > 1:
            raise InputError(f"a null control takes one row of a report: {variant} has {len(own)}, of unlike settings")
        if len(chosen) > len(seeds) or (own["teachers_aside"] != "").any():
            raise InputError(f"a null control takes one teacher for all seeds: {variant} has several")
        if len(seeds) < 2 * FEWEST_SEEDS or len(seeds) % 2:
            raise InputError(
                f"a null control takes an even number of seeds, at least {2 * FEWEST_SEEDS}: "
                f"{variant} has {len(seeds)} ({listed(seeds)})"
            )
        earlier, later = seeds[: len(seeds) // 2], seeds[len(seeds) // 2 :]
        self.second = f"{variant}, seeds {listed(later)} as {listed(earlier)}, paired arbitrarily"
        self._trials = chosen.assign(
            variant=chosen["variant"].mask(chosen["seed"].isin(later), self.second),
            seed=chosen["seed"].replace(dict(zip(later, earlier, strict=True))),
        ).reset_index(drop=True)
        # a part of a search's trials would be told as the whole of it
        self._trials = self._trials.drop(columns="tuning_id", errors="ignore")

    @property
    def problems(self) -> list[str]:
        return self._store.problems

    def trials(self, columns: Sequence[str] | None = None) -> pd.DataFrame:
        return self._trials if columns is None else self._trials[list(dict.fromkeys(["trial_id", *columns]))]

    def read(
        self, table: str, trial_ids: Collection[str] | None = None, columns: Sequence[str] | None = None
    ) -> pd.DataFrame:
        return self._store.read(table, list(self._trials["trial_id"]) if trial_ids is None else trial_ids, columns)
