"""Successive halving (Jamieson and Talwalkar, AISTATS 2016): all settings are trained to a rung, the best third of them
goes on to the next, and so on.

What is cut depends on the settings' scores alone, never on the order or the place in which they were run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

REDUCTION = 3
FEWEST = 2  # that run to the end: a best setting has met another one at full length

Point = Sequence[float]  # of one epoch: the metric, and the validation average that decides between equals


def rungs(grace: int, epochs: int) -> list[int]:
    """The epochs after which settings are cut: `grace`, three times that, and so on, below `epochs`."""
    found = []
    while grace < epochs:
        found.append(grace)
        grace *= REDUCTION
    return found


def survivors(curves: Mapping[str, Sequence[Point]], rung: int, mode: str) -> set[str]:
    """The settings that go on: the best third of those whose curves reach the rung, at least two.

    Equal metrics are decided by the higher average. Settings that are equal in both at the cut stay, all of them: where
    a rung tells nothing (a temperature rate acts from the second epoch on), nobody is cut by chance.
    """
    sign = 1 if mode == "max" else -1
    reached = {key: curve[rung - 1] for key, curve in curves.items() if len(curve) >= rung}
    scores = {key: (round(sign * metric, 9), round(average, 9)) for key, (metric, average) in reached.items()}
    places = max(FEWEST, len(scores) // REDUCTION)
    if len(scores) <= places:
        return set(scores)
    cut = sorted(scores.values(), reverse=True)[places - 1]
    return {key for key, score in scores.items() if score >= cut}
