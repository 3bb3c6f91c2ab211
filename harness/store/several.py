"""Several result stores read as one, without writing anything: for a report over data sets that were run apart."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import pandas as pd
import pyarrow as pa

from harness.store.store import Store


class Stores:
    """A trial that stands in several stores is taken from the first that has finished it, else from the first."""

    def __init__(self, stores: Sequence[Store]) -> None:
        self.stores = list(stores)
        self._owner: dict[str, int] = {}
        statuses = [store.statuses() for store in stores]
        for place, found in enumerate(statuses):
            for trial_id, status in found.items():
                owner = self._owner.get(trial_id)
                if owner is None or (status == "done" and statuses[owner][trial_id] != "done"):
                    self._owner[trial_id] = place
        self._statuses = {trial_id: statuses[place][trial_id] for trial_id, place in self._owner.items()}

    @property
    def problems(self) -> list[str]:
        return [problem for store in self.stores for problem in store.problems]

    def statuses(self) -> dict[str, str]:
        """See `Store.statuses`."""
        return self._statuses

    def trials(self, columns: Sequence[str] | None = None) -> pd.DataFrame:
        """See `Store.trials`."""
        return self.read("trials", columns=columns).sort_values("trial_id", ignore_index=True)

    def read(
        self, table: str, trial_ids: Collection[str] | None = None, columns: Sequence[str] | None = None
    ) -> pd.DataFrame:
        """See `Store.read`."""
        wanted = self._owner.keys() if trial_ids is None else set(trial_ids)
        own = [[key for key in wanted if self._owner.get(key) == place] for place in range(len(self.stores))]
        parts = [store.arrow(table, ids, columns) for store, ids in zip(self.stores, own, strict=True)]
        return pa.concat_tables(parts).unify_dictionaries().to_pandas()

    def look_for_foreign_files(self) -> None:
        """See `Store.look_for_foreign_files`."""
        for store in self.stores:
            store.look_for_foreign_files()
