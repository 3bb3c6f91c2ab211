"""`python -m benchmarks.coverage`: do the report's comparisons keep what they promise? Simulated tables and test sets
go through the report's own functions; the results go to benchmarks/coverage.json and into docs/statistics.md."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import special

from harness.statistics import metrics
from harness.statistics.comparison import average_difference_bounds, holm
from harness.statistics.intervals import Interval, crossed_interval, seed_interval, worst_interval
from harness.statistics.metrics import Floats
from harness.statistics.multiple_comparisons import ERROR, compare_family, detectable, residual_spread
from harness.statistics.nsd_interval import nsd_difference_bounds
from harness.statistics.pairing import Paired
from harness.statistics.worst_class import worst_difference_bounds

TABLES = 2000
ROWS = Path(__file__).with_suffix(".json")
DOCUMENT = Path(__file__).parent.parent / "docs" / "statistics.md"
START, END = "<!-- written by `python -m benchmarks.coverage` -->", "<!-- end of what it wrote -->"
Row = dict[str, Any]

COLUMNS = {"average": metrics.average, "worst": metrics.worst, "nsd": metrics.nsd}
SPREAD = 0.01  # of a network's class accuracies over seeds, in common and of each class

APART = np.r_[0.2, 0.3, 0.35, np.linspace(0.45, 0.8, 7)]
PROFILES = {
    "one worst class": APART,
    "three tied below": np.r_[0.3, 0.3, 0.3, np.linspace(0.5, 0.8, 7)],
    "all tied": np.full(10, 0.5),
    "nearly even": np.linspace(0.48, 0.52, 10),
    "worst +3": APART + 0.03 * (np.arange(10) == 0),
    "worst +6": APART + 0.06 * (np.arange(10) == 0),
    "another worst": APART[[1, 0, *range(2, 10)]],
}
RARER, MORE_FREQUENT = np.geomspace(100, 1000, 10).astype(int), np.geomspace(1000, 100, 10).astype(int)
DESIGNS = (  # images of a class, in words and numbers, and seeds
    ("1000", np.full(10, 1000), 1),
    ("1000", np.full(10, 1000), 3),
    ("100", np.full(10, 100), 3),
    ("100 to 1000, worst rare", RARER, 1),
    ("1000 to 100, worst frequent", MORE_FREQUENT, 3),
)
PAIRS = [
    ("one worst class", "one worst class"),
    ("worst +3", "one worst class"),
    ("worst +6", "one worst class"),
    ("another worst", "one worst class"),
    ("three tied below", "three tied below"),
    ("all tied", "all tied"),
    ("all tied", "one worst class"),
    ("all tied", "nearly even"),
    ("nearly even", "one worst class"),
]


def main(arguments: Sequence[str] | None = None) -> None:
    """Simulate, store the rows and write them into the document."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.coverage", description=__doc__)
    parser.add_argument("--tables", type=int, default=TABLES, help="simulated tables or test sets of each setting")
    parser.add_argument("--only", choices=list(PARTS), help="simulate this part, keep the rows of the others")
    options = parser.parse_args(arguments)
    rows = json.loads(ROWS.read_text()) if options.only else {}
    for name in [options.only] if options.only else PARTS:
        rows[name] = list(PARTS[name](options.tables))
    ROWS.write_text(json.dumps(rows, indent=1) + "\n")
    DOCUMENT.write_text(written_into(DOCUMENT.read_text(encoding="utf-8"), rows), encoding="utf-8")


def families(tables: int) -> Iterator[Row]:
    """Tables of equal variants: how many have a false mark, and how often a difference is found that should be."""
    for seeds in (3, 6):
        for variants in (5, 11):
            for name, spread in spreads(variants).items():
                values = family_values(np.random.default_rng([seeds, variants]), tables, seeds, spread)
                found = compare_family(values, against_first(variants))
                uncorrected = seed_interval(np.moveaxis(values[:, :, 1:] - values[:, :, :1], 1, 0)).excludes_zero
                yield {
                    "seeds": seeds, "variants": variants, "spread": name, "tables": tables,
                    "comparisons": found.comparisons, "false marks": _any(found.stands),
                    "residuals alone": _any(_by_residuals_alone(values)), "uncorrected": _any(uncorrected),
                    "found": _power(values) if name == "equal" else None,
                }  # fmt: skip


def spreads(variants: int) -> dict[str, Floats]:
    """How far each variant, the baseline first, spreads over seeds, as a multiple of the common spread."""
    one, first = np.ones(variants), np.arange(variants) == 0
    return {
        "equal": one,
        **{f"one variant x {times}": _restless(first[::-1], times) for times in (3, 5, 10, 30)},
        **{f"baseline x {times}": _restless(first, times) for times in (2, 3, 5, 10, 30)},
        "from 2, the baseline, down to 1/2": np.geomspace(2, 0.5, variants),
    }


def _restless(which: np.ndarray, times: float) -> Floats:
    """At most 3, so that classes do not change places: the worst class is no linear function, and variants of which one
    is far more restless would not be equal in it. Beyond, the others are the steadier."""
    return np.where(which, times, 1.0) * min(1.0, 3 / times)


def family_values(generator: np.random.Generator, tables: int, seeds: int, spread: Floats) -> Floats:
    """Average, worst and NSD (tables, seeds, variants, 3) of variants with the same true class accuracies."""
    shape = (tables, seeds, len(spread), len(APART))
    block = generator.normal(0, SPREAD, (tables, seeds, 1, len(APART)))  # what a seed does to every variant
    own = generator.normal(size=(*shape[:3], 1)) + generator.normal(size=shape)
    accuracy = np.clip(APART + block + SPREAD * spread[:, None] * own, 0, 1)
    return np.stack([of(accuracy) for of in COLUMNS.values()], axis=-1)


def _by_residuals_alone(values: Floats) -> np.ndarray:
    """What the usual analysis of randomised blocks finds, with Holm's correction: variances taken as equal."""
    _, seeds, variants, _ = values.shape
    rest = values - values.mean(axis=1, keepdims=True)
    rest = rest - rest.mean(axis=2, keepdims=True)
    df = (seeds - 1) * (variants - 1)
    error = np.sqrt(2 * (rest**2).sum(axis=(1, 2)) / df / seeds)
    change = (values[:, :, 1:] - values[:, :, :1]).mean(axis=1)
    p = 2 * special.stdtr(df, -np.abs(change) / error[:, None])
    return holm(p.reshape(len(p), -1)).reshape(p.shape) < ERROR


def _power(values: Floats) -> float:
    """The share of tables where one variant is found whose true difference is the one that `detectable` names."""
    _, seeds, variants, columns = values.shape
    spread = np.sqrt(np.mean(residual_spread(values) ** 2, axis=0))
    shifted = values.copy()
    shifted[:, :, 1] += detectable(spread, seeds, variants - 1, columns) * (1, 0, 0)
    return float(compare_family(shifted, against_first(variants)).stands[:, 0, 0].mean())


def against_first(variants: int) -> list[tuple[int, int]]:
    """Every variant against the first, the baseline."""
    return [(place, 0) for place in range(1, variants)]


def pairs(
    tables: int, compared: Sequence[tuple[str, str]] = PAIRS, designs: Sequence[tuple[str, np.ndarray, int]] = DESIGNS
) -> Iterator[Row]:
    """Two variants on the same test images: how often bounds hold, and how often they find a true difference."""
    for place, (first, second) in enumerate(compared):
        truths = PROFILES[first], PROFILES[second]
        for size, n, seeds in designs:
            drawn = list(drawn_pairs(np.random.default_rng([place, *n[:2], seeds]), *truths, n, seeds, tables))
            setting = {"first": first, "second": second, "images": size, "seeds": seeds, "tables": tables}
            yield setting | _covered(drawn, *truths)


BOUNDS = {"average": average_difference_bounds, "worst": worst_difference_bounds, "nsd": nsd_difference_bounds}


def _covered(drawn: list[Paired], first: Floats, second: Floats) -> Row:
    row: Row = {}
    for name, of in COLUMNS.items():
        low, high = np.array([BOUNDS[name](pair) for pair in drawn]).T
        truth = float(of(first) - of(second))
        row[f"{name} covered"] = float(np.mean((low <= truth) & (truth <= high)))
        if truth != 0:
            row[f"{name} found"] = float(np.mean((low > 0) | (high < 0)))
    if "worst found" in row:
        row["worst found, unpaired"] = float(np.mean([_unpaired_excludes_zero(pair) for pair in drawn]))
    return row


def _unpaired_excludes_zero(pair: Paired) -> bool:
    """What exact bounds of both sides' worst classes say, without the pairing."""
    found = worst_interval(pair.right, pair.n, 0.95**0.5)
    low, high = (end.reshape(2, -1).mean(axis=1) for end in (found.low, found.high))
    return bool(low[0] > high[1] or high[0] < low[1])


def drawn_pairs(
    generator: np.random.Generator, first: Floats, second: Floats, n: Floats, seeds: int, tables: int
) -> Iterator[Paired]:
    """Test sets. An image is about as hard for one network as for another: success by network is independent given
    how hard it is, which leaves a correlation of about 0.5. Drawn by patterns of outcomes, not image by image.
    """
    nodes, weights = np.polynomial.hermite_e.hermegauss(21)
    truth = np.repeat(np.stack([first, second]), seeds, axis=0)  # (2S, C)
    ease = special.ndtr((special.ndtri(truth)[..., None] - np.sqrt(0.7) * nodes) / np.sqrt(0.3))  # (2S, C, U)
    patterns = np.array(list(np.ndindex(*[2] * (2 * seeds))), dtype=float)  # (P, 2S)
    chance = np.prod(np.where(patterns[:, :, None, None] > 0, ease, 1 - ease), axis=1)  # (P, C, U)
    chance = (chance @ (weights / weights.sum())).T
    counts = np.stack(
        [generator.multinomial(size, share / share.sum(), tables) for size, share in zip(n, chance, strict=True)],
        axis=1,
    )  # (tables, C, P)
    for table in counts.astype(float):
        both = np.einsum("cp,pk,pl->ckl", table, patterns, patterns, optimize=True)
        yield Paired(n.astype(float), np.einsum("ckk->kc", both), both)


def crossed(tables: int) -> Iterator[Row]:
    """A mean over seeds and teachers: how often intervals hold where both vary, and those over seeds alone."""
    for seeds, teachers in ((3, 3), (6, 3), (10, 3), (5, 5)):
        for name, parts in PARTED.items():
            values = crossed_values(np.random.default_rng([seeds, teachers]), tables, seeds, teachers, parts)
            both, alone = crossed_interval(values), seed_interval(values.mean(axis=1))
            yield {
                "seeds": seeds, "teachers": teachers, "varies": name, "tables": tables,
                "covered": _holds(both), "over seeds alone": _holds(alone),
            }  # fmt: skip


PARTED = {  # standard deviations over seeds, over teachers, and of the rest
    "seeds": (1, 0, 0),
    "teachers": (0, 1, 0),
    "the rest": (0, 0, 1),
    "all alike": (1, 1, 1),
    "seeds and teachers alike": (1, 1, 0),
    "teachers x 3": (1, 3, 1),
    "seeds x 3": (3, 1, 1),
}


def crossed_values(
    generator: np.random.Generator, tables: int, seeds: int, teachers: int, parts: tuple[float, float, float]
) -> Floats:
    """A metric (seeds, teachers, tables) of networks whose true mean is 0."""
    shapes = (seeds, 1, tables), (1, teachers, tables), (seeds, teachers, tables)
    drawn = [part * generator.normal(size=shape) for part, shape in zip(parts, shapes, strict=True)]
    return drawn[0] + drawn[1] + drawn[2]


def _holds(interval: Interval) -> float:
    return float(np.mean((interval.low <= 0) & (interval.high >= 0)))


PARTS: dict[str, Callable[[int], Iterator[Row]]] = {"families": families, "pairs": pairs, "crossed": crossed}


def _any(stands: np.ndarray) -> float:
    return float(stands.any(axis=(1, 2)).mean())


def written_into(document: str, rows: dict[str, list[Row]]) -> str:
    """The document with these rows in place of those it had."""
    before, rest = document.split(START)
    _, after = rest.split(END)
    return f"{before}{START}\n\n{rendered(rows)}\n\n{END}{after}"


def rendered(rows: dict[str, list[Row]]) -> str:
    """The rows as Markdown tables, one of each part."""
    return "\n\n".join(_markdown(part) for part in rows.values())


def _markdown(rows: list[Row]) -> str:
    names = [name for name in dict.fromkeys(name for row in rows for name in row) if name != "tables"]
    lines = [names, ["---"] * len(names), *[[_text(row.get(name)) for name in names] for row in rows]]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{100 * value:.1f}"
    return "" if value is None else str(value)


if __name__ == "__main__":
    main()
