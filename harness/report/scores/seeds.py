"""Over which seeds and teachers a table averages: the same ones in every row that has them, so that rows can be
compared."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import TypeVar

from harness.statistics.intervals import FEWEST_SEEDS

Network = tuple[int, int | None]  # the seed of a training and that of its teacher, None where there is none


def common_networks(networks: Mapping[Hashable, set[Network]]) -> dict[Hashable, set[Network]]:
    """The networks of each row that its table averages over: every seed from every teacher, the same in all rows.

    A row has the teachers that all its seeds were trained from (of unlike seeds, those with most); a table those that
    all rows with teachers have. Rows without a common teacher keep their own.
    """
    own = {row: _teachers(pairs) for row, pairs in networks.items()}
    taught = [teachers for teachers in own.values() if teachers != {None}]
    common = set.intersection(*taught) if taught else set()
    kept = {row: teachers & common or teachers for row, teachers in own.items()}
    seeds = common_seeds({row: _seeds(pairs, min(kept[row], key=_order)) for row, pairs in networks.items()})
    return {
        row: {(seed, teacher) for seed, teacher in pairs if seed in seeds[row] and teacher in kept[row]}
        for row, pairs in networks.items()
    }


def _teachers(networks: set[Network]) -> set[int | None]:
    """The teacher from which most seeds were trained, the first of several, and those with the same seeds."""
    teachers = sorted({teacher for _, teacher in networks}, key=_order)
    seeds = {teacher: _seeds(networks, teacher) for teacher in teachers}
    most = max(teachers, key=lambda teacher: len(seeds[teacher]))
    return {teacher for teacher in teachers if seeds[teacher] == seeds[most]}


def _seeds(networks: set[Network], teacher: int | None) -> set[int]:
    return {seed for seed, other in networks if other == teacher}


def _order(teacher: int | None) -> int:
    return -1 if teacher is None else teacher


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


Seeds = TypeVar("Seeds", bound=Hashable)


def usual(lists: Iterable[Seeds], length: Callable[[Seeds], int]) -> Seeds:
    """Of the lists of seeds that rows are over the one of most rows, of several such the longest. One of three seeds or
    more that two rows share comes before all that have no verdict, however many rows are over these."""
    counts = Counter(lists)

    def place(seeds: Seeds) -> tuple[bool, int, int]:
        return counts[seeds] > 1 and length(seeds) >= FEWEST_SEEDS, counts[seeds], length(seeds)

    return max(counts, key=place)


MOST_LISTED = 12  # seeds that are listed one by one


def listed(seeds: Iterable[int]) -> str:
    """0, 1, 2: distinct seeds in order; in a long list three or more in a row as 0 to 19."""
    found = sorted(set(seeds))
    if len(found) <= MOST_LISTED:
        return ", ".join(map(str, found))
    runs: list[list[int]] = []
    for seed in found:
        if runs and seed == runs[-1][-1] + 1:
            runs[-1].append(seed)
        else:
            runs.append([seed])
    return ", ".join(f"{run[0]} to {run[-1]}" if len(run) > 2 else ", ".join(map(str, run)) for run in runs)


def is_several(seeds: str) -> bool:
    """Whether a text of `listed` lists more than one."""
    return " " in seeds
