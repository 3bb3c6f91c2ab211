"""`python -m benchmarks NAME [--json] [--threads N] [--rounds N]`: train_step, compiled, teacher_logits, evaluate,
autoattack, calibration, sweep, report; or `all`, which runs every one of them and writes benchmarks/RESULTS.md."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.results import text, write
from harness.engine.process import keep_freed_memory

WIDE = 200  # columns of a table in a file
NAMES = ("train_step", "compiled", "teacher_logits", "evaluate", "autoattack", "calibration", "sweep", "report")


def main(arguments: list[str] | None = None) -> None:
    """Run one benchmark, or all, and print the rows."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("name", choices=[*NAMES, "all"])
    parser.add_argument("--json", action="store_true", help="print the rows as JSON")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of torch; all cores by default")
    parser.add_argument("--rounds", type=int, default=3, help="timed pairs, after a warm-up")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    keep_freed_memory()  # as in every trial, in both forms
    found = {}
    for name in NAMES if options.name == "all" else [options.name]:
        found[name] = importlib.import_module(f"benchmarks.{name}").measure(options.rounds)
        show(name, found[name], options.json)
    if options.name == "all":
        write(found, options.threads, options.rounds)


def show(name: str, rows: list[dict[str, Any]], as_json: bool) -> None:
    """Print rows as JSON, or as a table a kind of row."""
    if as_json:
        print(json.dumps(rows, indent=1))
        return
    console = Console(width=None if sys.stdout.isatty() else WIDE)
    for kind in dict.fromkeys(tuple(row) for row in rows):
        table = Table(*kind, title=name, title_justify="left")
        for row in rows:
            if tuple(row) == kind:
                table.add_row(*(text(value) for value in row.values()))
        console.print(table)


if __name__ == "__main__":
    main()
