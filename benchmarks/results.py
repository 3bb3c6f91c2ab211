"""benchmarks/RESULTS.md and the growth plot beside it, from results.json: each benchmark's rows, and when and where
they were measured. One can be measured again without the others."""

from __future__ import annotations

import json
import os
import platform
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from harness.store.provenance import bfloat16_units, git_commit, processor, versions

FOLDER = Path(__file__).parent
PLOT, DATA, PAGE = "growth.svg", "results.json", "RESULTS.md"
Rows = list[dict[str, Any]]
Found = dict[str, dict[str, Any]]  # by benchmark its `rows`, and when and where they were `measured`

SECTIONS = {
    "train_step": (
        "Training step",
        "A whole step, attack of ten steps and update. Plain: float32, batch norm in the graph, default layout, as the "
        "papers' scripts, which take the gradient of the images alone. Fast: `engine: fast` in the precision named. "
        "The share of the peak counts the plain form's work at the machine's matrix-product peak in the fast form's "
        "precision. Memory: what a step needs beyond the networks. instructions: what the processor was limited to, "
        "for one without bfloat16 units.",
    ),
    "compiled": (
        "torch.compile",
        "An attack's gradient and the update in bfloat16: as `engine: fast` does them against `torch.compile`, whose "
        "first call is counted as compile_s. calls_to_pay: how many calls until the time to compile is back; a trial "
        "makes ten calls of the one and one of the other a step. It is not part of `engine: fast`.",
    ),
    "teacher_logits": (
        "Shared teacher logits",
        "Six distillation methods with one seed, each asking its teacher against sharing the teacher's clean logits; "
        "the teacher costs about a quarter of a student's step. Saved: the share of these training steps' time; "
        "validation and evaluation come on top in both forms.",
    ),
    "evaluate": (
        "Evaluation",
        "Robust on every iterate in both forms, judged in float32; gradients: the precision of the fast form's "
        "(`gradient_precision`). Plain: float32, unfolded, default layout, no image leaves the batch; "
        "kinder than the scripts, whose `backward` computes the gradients of the parameters too. "
        "Verdicts: the share of images that the two forms judge differently and the difference in robust accuracy; "
        "beside it the same between two seeds of the plain form.",
    ),
    "autoattack": (
        "AutoAttack",
        "Each stage through the harness against the same `pyautoattack` call on the plain network, on one full batch; "
        "a beginning of the stage, whose every iteration costs the same. Verdicts are those after that beginning.",
    ),
    "calibration": (
        "Calibration",
        "What `run --dry-run --calibrate` expects of trials of the quickstart (student of width 16) in a store that "
        "has their teacher alone, and what they then took. Error: of the expectation, as a share of what they took.",
    ),
    "sweep": (
        "Sweep",
        "A suite serially with one thread against the same suite on Ray with one thread a trial, Ray's start and the "
        "import of torch included in both. Overhead: trials that sleep and store what real ones would. Its share of a "
        "suite of so many 60-second trials counts all that the run took beyond the sleep, Ray's start included.",
    ),
    "report": (
        "Store and report",
        "Commands in processes of their own, from start to end, on drawn results: 2 checkpoints x 6 attacks x classes "
        "for every trial, five epochs of four quantities by class. Only the first row is a pair: a file for each trial "
        "and table, and compacted. The targets are for 20 seeds of each variant; growth is the seconds of the largest "
        "of those stores over the smallest's, over the same ratio of trials.",
    ),
}
# What was aimed at: benchmark, which rows, column, at least or at most.
TARGETS: tuple[tuple[str, dict[str, Any], str, str, float], ...] = (
    ("train_step", {"model": "cnn", "precision": "bfloat16", "instructions": "all"}, "ratio", ">=", 4.5),
    ("train_step", {"model": "resnet18", "precision": "bfloat16", "instructions": "all"}, "ratio", ">=", 4.0),
    ("train_step", {"model": "cnn", "precision": "float32", "instructions": "all"}, "ratio", ">=", 1.25),
    ("train_step", {"model": "resnet18", "precision": "float32", "instructions": "all"}, "ratio", ">=", 1.2),
    ("train_step", {"instructions": "AVX2"}, "ratio", ">=", 1.0),
    ("teacher_logits", {}, "saved", ">=", 0.15),
    ("evaluate", {"attack": "pgd20", "gradients": "float32"}, "ratio", ">=", 1.7),
    ("evaluate", {"gradients": "bfloat16"}, "ratio", ">=", 2.3),
    ("evaluate", {}, "verdicts_differ", "<=", 0.005),
    ("evaluate", {}, "accuracy_difference", "<=", 0.002),
    ("autoattack", {}, "ratio", ">=", 1.3),
    ("autoattack", {}, "verdicts_differ", "<=", 0.005),
    ("autoattack", {}, "accuracy_difference", "<=", 0.002),
    ("calibration", {}, "error", "<=", 0.25),
    ("sweep", {}, "ratio", ">=", 1.7),
    ("sweep", {}, "overhead_s_per_trial", "<=", 2.0),
    ("sweep", {}, "share_of_60_s_trials", "<=", 0.03),
    ("report", {"command": "report"}, "seconds", "<=", 6.0),
    ("report", {"command": "report"}, "peak_mb", "<=", 1500.0),
    ("report", {"command": "status"}, "seconds", "<=", 3.0),
    ("report", {"what": "growth"}, "report_over_trials", "<=", 1.0),
)
_EITHER_WAY = ("accuracy_difference", "error")  # as bad below zero as above


def record(name: str, rows: Rows, threads: int, rounds: int, folder: Path = FOLDER) -> None:
    """Put one benchmark's rows in the place of those that were there, and draw the page again."""
    found = read(folder)
    found[name] = {"measured": measured(rows, threads, rounds), "rows": rows}
    (folder / DATA).write_text(json.dumps(found, indent=1) + "\n")
    if name == "report":
        growth_plot(rows, folder / PLOT)
    write(folder)


def read(folder: Path = FOLDER) -> Found:
    """What has been measured so far."""
    path = folder / DATA
    return json.loads(path.read_text()) if path.exists() else {}


def write(folder: Path = FOLDER) -> Path:
    """Write RESULTS.md from results.json; returns its path."""
    path = folder / PAGE
    path.write_text(document(read(folder), plot=(folder / PLOT).exists()))
    return path


def document(found: Found, plot: bool) -> str:
    """The whole page as Markdown, benchmarks in the order of `SECTIONS`."""
    sections = {name: (*words, found[name]) for name, words in SECTIONS.items() if name in found}
    parts = [
        "# Speed, measured",
        "Written by `python -m benchmarks all`, one section by `python -m benchmarks NAME --write`. Both forms of "
        "everything ran in turn in one run; seconds are medians, ratios are medians of pairs with the smallest and "
        "the largest, memory is the peak in MiB on top of what the process held before (of whole processes for "
        "commands and suites). Float32 is exact. A row with a device ran there, timed by that device; all else ran on "
        "the processor.",
        "## When and where",
        pipe_table([{"section": title, **entry["measured"]} for title, _, entry in sections.values()]),
        "## Targets",
        pipe_table(target_rows({name: entry["rows"] for name, entry in found.items()})),
    ]
    for title, words, entry in sections.values():
        parts += [f"## {title}", words]
        kinds = dict.fromkeys(tuple(row) for row in entry["rows"])
        parts += [pipe_table([row for row in entry["rows"] if tuple(row) == kind]) for kind in kinds]
    if plot and "report" in found:
        parts.append(f"![Seconds of report and status by number of trials]({PLOT})")
    return "\n\n".join(parts) + "\n"


def target_rows(found: dict[str, Rows]) -> Rows:
    """Each target with the value furthest from it, and whether it was met."""
    rows = []
    for name, which, column, sign, limit in TARGETS:
        chosen = [row for row in found.get(name, []) if which.items() <= row.items()]
        values = [abs(row[column]) if column in _EITHER_WAY else row[column] for row in chosen if column in row]
        known = [value for value in values if value is not None]
        worst = (min if sign == ">=" else max)(known) if known and len(known) == len(values) else None
        rows.append(
            {
                "benchmark": name,
                "rows": ", ".join(map(str, which.values())) or "all",
                "what": column,
                "target": f"{sign} {limit:g}",
                "measured": worst,
                "met": "not measured" if worst is None else "yes" if _met(worst, sign, limit) else "no",
            }
        )
    return rows


def _met(value: float, sign: str, limit: float) -> bool:
    return value >= limit if sign == ">=" else value <= limit


def pipe_table(rows: Rows) -> str:
    """Rows with the same keys as a Markdown table; numbers to the right."""
    if not rows:
        return "Nothing was measured."
    marks = ["---:" if isinstance(value, (int, float, list)) else "---" for value in rows[0].values()]
    lines = [list(rows[0]), marks, *([text(value) for value in row.values()] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def text(value: Any) -> str:
    """A cell: three significant digits, a range as `low .. high`, nothing for None."""
    if isinstance(value, list):
        return " .. ".join(text(item) for item in value)
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
    return "" if value is None else str(value)


def measured(rows: Rows, threads: int, rounds: int) -> dict[str, Any]:
    """When, where and from which code rows were measured."""
    known, commit = versions(), git_commit() or "unknown"
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    units = bfloat16_units()
    matrix = f"bfloat16 units ({units})" if units else "no bfloat16 units"
    return {
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
        "commit": commit[:7] + commit[40:],  # with the mark of uncommitted changes
        "devices": ", ".join(sorted({row["device"] for row in rows if "device" in row} | {processor()})),
        "machine": f"{os.cpu_count()} cores, {matrix}, {memory:.0f} GiB",
        "threads": threads,
        "rounds": rounds,
        "software": f"{platform.system()}, " + ", ".join(f"{name} {known[name]}" for name in known),
    }


def growth_plot(rows: Rows, path: Path) -> bool:
    """Seconds against trials of both commands, with a line of proportional growth from the first point; False where
    there are too few points."""
    kinds = {row["command"]: [] for row in rows if row.get("command") in ("report", "status")}  # type: dict[str, Rows]
    for row in rows:
        if row.get("command") in kinds and row["classes"] == 10:
            kinds[row["command"]].append(row)
    if not kinds or any(len(points) < 2 for points in kinds.values()):
        return False
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 3.2), layout="constrained")
    axes = figure.subplots()
    for command, points in kinds.items():
        trials, seconds = [row["trials"] for row in points], [row["seconds"] for row in points]
        (line,) = axes.plot(trials, seconds, marker="o", label=command)
        proportional = [seconds[0] * count / trials[0] for count in trials]
        axes.plot(trials, proportional, linestyle=":", color=line.get_color(), label=f"{command}, in proportion")
    axes.set(xlabel="trials", ylabel="seconds", xscale="log", yscale="log")
    axes.legend(frameon=False)
    figure.savefig(path, metadata={"Date": None})
    return True
