"""`python -m benchmarks train_step|evaluate [--json] [--threads N] [--rounds N]`."""

from __future__ import annotations

import argparse
import importlib
import json
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

NAMES = ("train_step", "evaluate")


def main() -> None:
    """Run one benchmark and print its rows."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("name", choices=NAMES)
    parser.add_argument("--json", action="store_true", help="print the rows as JSON")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of torch; all cores by default")
    parser.add_argument("--rounds", type=int, default=5, help="timed pairs, after a warm-up")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = importlib.import_module(f"benchmarks.{options.name}").measure(options.rounds)
    print(json.dumps(rows, indent=1) if options.json else "", end="\n" if options.json else "")
    if not options.json:
        Console().print(_table(rows))


def _table(rows: list[dict[str, Any]]) -> Table:
    table = Table(*rows[0])
    for row in rows:
        table.add_row(*(_text(value) for value in row.values()))
    return table


def _text(value: Any) -> str:
    if isinstance(value, list):
        return " .. ".join(f"{item:.3g}" for item in value)
    return f"{value:.3g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
