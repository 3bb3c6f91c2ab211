"""`python -m benchmarks NAME [--write] [--json] [--threads N] [--rounds N]`: train_step, compiled, teacher_logits,
evaluate, autoattack, calibration, sweep, report. With --write its rows are put into benchmarks/results.json, and
benchmarks/RESULTS.md is drawn again; `all` runs every one of them and writes each as it ends.
`python -m benchmarks gpu --help`: the acceptance of a GPU."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
from typing import Any

WIDE = 200  # columns of a table in a file
NAMES = ("train_step", "compiled", "teacher_logits", "evaluate", "autoattack", "calibration", "sweep", "report")


def main(arguments: list[str] | None = None) -> int:
    """Run one benchmark, or all, and print the rows; or the acceptance of a GPU. The exit status."""
    words = sys.argv[1:] if arguments is None else arguments
    if words[:1] == ["gpu"]:  # starts where little more than torch is installed: everything is imported late
        return importlib.import_module("benchmarks.gpu.acceptance").main(words[1:])
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("name", choices=[*NAMES, "all", "gpu"])
    parser.add_argument("--write", action="store_true", help="put the rows into benchmarks/RESULTS.md")
    parser.add_argument("--json", action="store_true", help="print the rows as JSON")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of torch; all cores by default")
    parser.add_argument("--rounds", type=int, default=3, help="timed pairs, after a warm-up")
    options = parser.parse_args(words)

    import torch

    from harness.engine.process import exact_float32, keep_freed_memory

    torch.set_num_threads(options.threads)
    keep_freed_memory()  # both as in every trial, in both forms
    exact_float32()
    for name in NAMES if options.name == "all" else [options.name]:
        rows = importlib.import_module(f"benchmarks.{name}").measure(options.rounds)
        show(name, rows, options.json)
        if options.write or options.name == "all":
            importlib.import_module("benchmarks.results").record(name, rows, options.threads, options.rounds)
    return 0


def show(name: str, rows: list[dict[str, Any]], as_json: bool) -> None:
    """Print rows as JSON, or as a table a kind of row."""
    if as_json:
        print(json.dumps(rows, indent=1))
        return
    from rich.console import Console
    from rich.table import Table

    from benchmarks.results import text

    console = Console(width=None if sys.stdout.isatty() else WIDE)
    for kind in dict.fromkeys(tuple(row) for row in rows):
        table = Table(*kind, title=name, title_justify="left")
        for row in rows:
            if tuple(row) == kind:
                table.add_row(*(text(value) for value in row.values()))
        console.print(table)


if __name__ == "__main__":
    sys.exit(main())
