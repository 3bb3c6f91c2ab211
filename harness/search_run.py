"""A tuning from its plan to its report: teachers, search, table and figures, and the best setting against the defaults
on test images."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from harness.cluster import connected
from harness.config import remember_machine
from harness.files import make_folder, replacing, write_bytes
from harness.run import check_inputs
from harness.scheduler import Options, Outcome, run
from harness.search import Tuning, snippet
from harness.search_follower import Say
from harness.search_journal import Journal
from harness.space import Uniform, short
from harness.spec import TrialSpec
from harness.store import Store
from harness.tables import TABLES
from harness.training import HISTORY
from harness.tuning import needs_optuna, search

Follow = Callable[[Sequence[TrialSpec]], AbstractContextManager[Callable[[dict[str, Any]], None]]]


@dataclass(frozen=True)
class Tuned:
    """What came of a tuning. best: the best setting, None if no setting ran to its end. written: the files of the
    report. compared: the trials of the comparison. trouble: what went wrong, a line each."""

    best: dict[str, Any] | None
    written: list[Path]
    compared: list[TrialSpec]
    trouble: list[str]
    stop_reason: str | None

    @property
    def exit_code(self) -> int:
        """As `Outcome.exit_code`."""
        return 130 if self.stop_reason in ("SIGINT", "SIGTERM") else 1 if self.trouble or self.stop_reason else 0


def run_tuning(
    tuning: Tuning,
    options: Options | None = None,
    *,
    say: Say = lambda text: None,
    follow: Follow = lambda specs: nullcontext(lambda event: None),
    tensorboard: Path | None = None,
) -> Tuned:
    """Search what is still open, write the report, and compare the best setting with the defaults.

    say: told of every settled setting in a line. follow: makes what is told of the events of ordinary trials (teachers,
    comparison). Raises InputError for what cannot be run here.
    """
    options = options or Options()
    needs_optuna(tuning)
    check_inputs([*tuning.teachers, *tuning.family.bases], tuning.store, options)
    tuning.store.prepare()
    if tuning.resolved_here:
        remember_machine(tuning.suite, tuning.store.root)
    with connected(options.address) if _is_open(tuning) else nullcontext():
        for parent in tuning.parents:
            take_over(tuning.teachers, parent, tuning.store)
        outcome = _run(tuning.teachers, tuning.store, options, follow)
        if outcome.exit_code:
            return Tuned(None, [], [], _troubles(tuning.teachers, outcome), outcome.stop_reason)
        stop_reason = search(tuning, options, say=say, tensorboard=tensorboard)
        best, written, trouble = write_tuning(tuning)
        if stop_reason or best is None or not tuning.options.compare_seeds:
            return Tuned(best, written, [], trouble, stop_reason)
        specs = tuning.comparison(best)
        outcome = _run(specs, tuning.store, options, follow)
        return Tuned(best, written, specs, [*trouble, *_troubles(specs, outcome)], outcome.stop_reason)


def _is_open(tuning: Tuning) -> bool:
    """Whether there is anything left to search."""
    return len(Journal(tuning.folder).settled(tuning.count)) < tuning.count


def _run(specs: Sequence[TrialSpec], store: Store, options: Options, follow: Follow) -> Outcome:
    if all(store.has(spec.trial_id) for spec in specs):
        return Outcome([], [spec.trial_id for spec in specs], {}, {}, [])
    with follow(specs) as on_event:
        return run(specs, store, options=options, on_event=on_event)


def _troubles(specs: Sequence[TrialSpec], outcome: Outcome) -> list[str]:
    names = {spec.trial_id: spec.variant for spec in specs}
    found = {"failed": outcome.failed, "blocked": outcome.blocked}
    return [f"{kind}: {names[key]} ({key}): {text}" for kind, each in found.items() for key, text in each.items()]


def take_over(teachers: Sequence[TrialSpec], source: Store, target: Store) -> None:
    """Copy finished teachers, rows and weights, from a store that has them."""
    for spec in teachers:
        name, folder = spec.trial_id, source.root / "work" / spec.training_id
        if target.has(name) or not source.has(name) or not (folder / "best_validation.pt").exists():
            continue
        for path in [*folder.glob("best_validation.*"), *folder.glob("last.*"), *folder.glob(HISTORY)]:
            with replacing(make_folder(target.root / "work" / spec.training_id) / path.name) as temporary:
                shutil.copyfile(path, temporary)
        row = source.arrow("trials", [name]).to_pylist()[0]
        target.commit(row, {table: source.read(table, [name]) for table in TABLES if table != "trials"})


def write_tuning(tuning: Tuning) -> tuple[dict[str, Any] | None, list[Path], list[str]]:
    """Write table, cost, figures and the best setting beside the journal; returns that setting, the files and what
    failed."""
    from harness.report import tuning as report
    from harness.report.style import save

    journal, options, folder = Journal(tuning.folder), tuning.options, tuning.folder
    entries = [entry for entry in journal.entries[: tuning.count] if entry["epochs"] or entry["status"] == "failed"]
    trouble = [f"failed: {short(each['values'])}: {each['reason']}" for each in entries if each["status"] == "failed"]
    if not entries:
        return None, [], trouble
    runs = runs_frame(tuning, entries)
    epochs = tuning.store.read("epochs", list(runs["trial_id"]))
    table = report.settings_table(runs, epochs, options.metric, options.direction)
    reused = sum(entry["reused"] or 0 for entry in entries)
    spent = report.cost(runs, epochs, tuning.family.epochs, journal.wall_s, reused)
    best = next((entries[place]["values"] for place in table.loc[table["best"], "setting"]), None)
    texts = {
        "settings.csv": report.csv_text(table),
        "settings.md": report.markdown(table, runs, tuning.facts, spent),
        "cost.json": json.dumps(spent, indent=1) + "\n",
    }
    if best is not None:
        texts["best.yaml"] = snippet(tuning, best, _remark(tuning, table, best))
    for name, text in texts.items():
        write_bytes(folder / name, text.encode())
    defaults = {key: tuning.family.default(key) for key in tuning.space}
    logarithmic = [key for key, domain in tuning.space.items() if isinstance(domain, Uniform) and domain.logarithmic]
    figures = {
        "response": report.response(runs, epochs, options.metric, logarithmic=logarithmic, defaults=defaults),
        "pareto": report.pareto(table),
    }
    drawn = [(folder / f"{name}.{kind}", each) for name, each in figures.items() if each for kind in ("png", "pdf")]
    for path, figure in drawn:
        save(figure, path)
    return best, [*(folder / name for name in texts), *(path for path, _ in drawn)], trouble


def runs_frame(tuning: Tuning, entries: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """A line per setting and seed, as `harness.report.tuning` reads it."""
    lines = []
    for place, entry in enumerate(entries):
        for spec in tuning.family.specs(entry["values"]):
            lines.append({"setting": place, "seed": spec.seed, "trial_id": spec.trial_id, "status": entry["status"],
                          "epochs": entry["epochs"], **entry["values"]})  # fmt: skip
    return pd.DataFrame(lines)


def _remark(tuning: Tuning, table: pd.DataFrame, best: dict[str, Any]) -> str:
    options, row = tuning.options, table[table["best"]].iloc[0]
    return (
        f"The best of {len(table)} settings of {options.method} on {tuning.suite.name}: {short(best)}\n"
        f"mean {options.metric} {row['mean']:.4f} over {options.seeds} seeds, on held-out training images; "
        f"tuning {tuning.tuning_id}"
    )
