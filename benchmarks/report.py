"""Reports of large stores: `report` (tables) and `status` as commands in processes of their own, on stores that are
compacted and, for the pair, on one that is not."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.many_trials import many_trials, suite_file
from benchmarks.measure import Pair, run_python

GROWTH = (1_000, 2_000, 5_000, 10_000)
SEEDS = 20
PAIRED = 1_000  # trials with files of their own: writing more of them would take the benchmark's time
MANY_CLASSES = (2_000, 100)


def measure(
    rounds: int,
    *,
    growth: tuple[int, ...] = GROWTH,
    paired: int = PAIRED,
    many_classes: tuple[int, int] = MANY_CLASSES,
    distinct: int | None = None,
) -> list[dict[str, Any]]:
    """A row per store and command. The first is the pair: one file for each trial and table against compacted."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        rows = [_paired_row(root, paired, rounds)]
        grown = [row for trials in growth for row in _rows(root, trials, 10, SEEDS, rounds)]
        rows += grown
        rows += _rows(root, *many_classes, SEEDS, rounds)
        rows += _rows(root, distinct or growth[-1], 10, 1, rounds)
        return [*rows, _growth(grown)]


def _growth(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Seconds of the largest store over those of the smallest, over the same of their trials: 1 is linear."""
    ratios = {}
    for command in ("report", "status"):
        first, *_, last = [row for row in rows if row["command"] == command]
        ratios[f"{command}_over_trials"] = last["seconds"] / first["seconds"] * first["trials"] / last["trials"]
    return {"what": "growth", **ratios}


def _rows(root: Path, trials: int, classes: int, seeds: int, rounds: int) -> list[dict[str, Any]]:
    """`report` and `status` of one compacted store."""
    suite = suite_file(root, trials, seeds)
    store = root / f"store-{trials}-{classes}-{seeds}"
    many_trials(suite, store, classes)
    commands = {"report": _report(store, root), "status": _status(suite, store)}
    alone = ", every trial a variant" if seeds == 1 else ""
    return [
        {
            "command": name + alone,
            "trials": trials,
            "variants": -(-trials // seeds),
            "classes": classes,
            "class_rows": trials * 12 * classes,
            **_median(command, rounds),
        }
        for name, command in commands.items()
    ]


def _paired_row(root: Path, trials: int, rounds: int) -> dict[str, Any]:
    suite, pair = suite_file(root, trials, SEEDS), Pair([], [])
    stores = [root / "own-files", root / "compacted"]
    for store in stores:
        many_trials(suite, store, 10, compacted=store.name == "compacted")
    memory: list[list[float | None]] = [[], []]
    for _ in range(rounds):
        for form, times in enumerate((pair.plain, pair.fast)):
            wall, peak = run_python(_COMMAND, _report(stores[form], root))
            times.append(wall)
            memory[form].append(peak)
    return {
        "command": "report, own files and compacted",
        "trials": trials,
        "variants": -(-trials // SEEDS),
        "classes": 10,
        "class_rows": trials * 120,
        **pair.columns,
        "plain_mb": _largest(memory[0]),
        "fast_mb": _largest(memory[1]),
    }


def _largest(peaks: Sequence[float | None]) -> float | None:
    known = [peak for peak in peaks if peak is not None]
    return max(known, default=None)


def _median(command: list[str], rounds: int) -> dict[str, float | None]:
    """The median wall seconds and the peak resident MiB of a command."""
    found = [run_python(_COMMAND, command) for _ in range(rounds)]
    walls, peaks = zip(*found, strict=True)
    return {"seconds": sorted(walls)[len(walls) // 2], "peak_mb": _largest(peaks)}


def _report(store: Path, root: Path) -> list[str]:
    return ["report", str(store), "--figures", "", "--into", str(root / "report")]


def _status(suite: Path, store: Path) -> list[str]:
    return ["status", str(suite), "--results", str(store)]


_COMMAND = "from harness.cli.main import main; main()"
