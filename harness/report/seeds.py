"""Over which seeds a table averages: the same ones in every row that has them, so that rows can be compared."""

from __future__ import annotations

from collections.abc import Hashable, Mapping

from harness.statistics import FEWEST_SEEDS


def common_seeds(seeds: Mapping[Hashable, set[int]]) -> dict[Hashable, set[int]]:
    """The seeds of each row that its table averages over: those that all rows have.

    A row that would leave the others with fewer than three in common (or than two, or one, where no two rows have as
    many) does not count and keeps its own.
    """
    for fewest in range(FEWEST_SEEDS, 0, -1):
        kept = dict(seeds)
        while len(kept) > 1 and len(common := set.intersection(*kept.values())) < fewest:
            shared = {row: sum(len(own & other) for other in kept.values()) for row, own in kept.items()}
            kept.pop(min(reversed(list(kept)), key=lambda row: shared[row] - len(kept[row])))
        if len(kept) > 1:
            return {row: common if row in kept else own for row, own in seeds.items()}
    return dict(seeds)
