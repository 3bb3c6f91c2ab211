"""What a search leaves in its folder: tables, cost, figures, the best setting of each method, and how these did on test
images."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from harness.errors import ExitCode
from harness.files import write_bytes
from harness.report import tuning as report
from harness.report.results import read_results
from harness.report.tuned import against_default
from harness.report.write import file_names, write_report
from harness.running.stopping import by_signal
from harness.spec import TrialSpec
from harness.tuning.journal import Entry, Journal, setting_of
from harness.tuning.method import validation_counts
from harness.tuning.options import COLUMNS
from harness.tuning.plan import TuningPlan, snippet
from harness.tuning.space import Uniform, Values


@dataclass(frozen=True)
class Tuned:
    """What came of a tuning. best: the values of the best setting by method, without those of which no setting ran to
    its end. written: the files of the report. sentences: what was found, a line each. compared: the trials of the
    comparison. trouble: what went wrong, a line each."""

    best: dict[str, Values] = field(default_factory=dict)
    written: list[Path] = field(default_factory=list)
    sentences: list[str] = field(default_factory=list)
    compared: list[TrialSpec] = field(default_factory=list)
    trouble: list[str] = field(default_factory=list)
    stop_reason: str | None = None

    @property
    def exit_code(self) -> ExitCode:
        """As `Outcome.exit_code`."""
        if by_signal(self.stop_reason):
            return ExitCode.INTERRUPTED
        return ExitCode.INCOMPLETE if self.trouble or self.stop_reason else ExitCode.DONE


def write_tuning(tuning: TuningPlan) -> Tuned:
    """Write tables, cost, figures and the best settings beside the journal."""
    journal, folder = Journal(tuning.folder), tuning.folder
    begun = {
        name: [entry for entry in journal.first({name: count}) if entry["epochs"] or entry["status"] == "failed"]
        for name, count in tuning.tries.items()
    }
    everything = [entry for entries in begun.values() for entry in entries]
    trouble = [f"failed: {setting_of(each)}: {each['reason']}" for each in everything if each["status"] == "failed"]
    if not everything:
        return Tuned(trouble=trouble)
    runs = {name: runs_frame(tuning, entries) for name, entries in begun.items() if entries}
    epochs = tuning.store.read("epochs", [trial for each in runs.values() for trial in each["trial_id"]])
    metric, mode = tuning.options.metric, tuning.options.direction
    if metric not in COLUMNS:
        states = tuning.store.read("class_state", list(epochs["trial_id"].unique()))
        epochs = report.with_metric(epochs, states, metric, validation_counts(tuning.bases[0]))
    parts = [report.Found(name, each, report.settings_table(each, epochs, metric, mode)) for name, each in runs.items()]
    reused = sum(entry["reused"] or 0 for entry in everything)
    spent = report.cost([part.runs for part in parts], epochs, tuning.epochs, journal.wall_s, reused)
    best = {part.method: begun[part.method][part.best["setting"]]["values"] for part in parts if part.best}
    sentences = [report.winner(part) for part in parts]
    texts = {
        "settings.csv": report.csv_text(parts),
        "settings.md": report.markdown(parts, tuning.facts, spent),
        "cost.json": json.dumps(spent, indent=1) + "\n",
    }
    if best:
        texts["best.yaml"] = snippet(tuning, best, [*sentences, _remark(tuning)])
    for name, text in texts.items():
        write_bytes(folder / name, text.encode())
    names = file_names(part.method for part in parts)
    figures = [path for part in parts for path in _draw(tuning, part, epochs, names[part.method])]
    return Tuned(best, [*(folder / name for name in texts), *figures], sentences, trouble=trouble)


def runs_frame(tuning: TuningPlan, entries: Sequence[Entry]) -> pd.DataFrame:
    """A line per setting of one method and seed, as `harness.report.tuning` reads it."""
    lines = []
    for place, entry in enumerate(entries):
        setting = setting_of(entry)
        values = tuning.searched[setting.method].defaults
        for spec in tuning.specs(setting):
            lines.append({"setting": place, "seed": spec.seed, "trial_id": spec.trial_id, "status": entry["status"],
                          "epochs": entry["epochs"], **values, **entry["values"]})  # fmt: skip
    frame = pd.DataFrame(lines)
    return frame.assign(cpu_s=_processor_seconds(tuning, frame))


def _processor_seconds(tuning: TuningPlan, runs: pd.DataFrame) -> pd.Series:
    """Of the epochs that the search let each trial run, at the mean of the trial's own: another search may have gone on
    with it. NaN where the store does not say."""
    trials = tuning.store.read("trials", list(runs["trial_id"])).reindex(columns=["trial_id", "train_cpu_s"])
    spent = trials.astype({"trial_id": str}).set_index("trial_id")["train_cpu_s"].astype(float)
    trained = tuning.store.read("epochs", list(runs["trial_id"]))["trial_id"].astype(str).value_counts()
    share = runs["epochs"] / runs["trial_id"].map(trained)
    return (share * runs["trial_id"].map(spent)).mask(runs["epochs"] == 0, 0.0)


def _draw(tuning: TuningPlan, part: report.Found, epochs: pd.DataFrame, name: str) -> list[Path]:
    from harness.report.figures import tuning as figures_tuning
    from harness.report.figures.style import save

    method = tuning.searched[part.method]
    logarithmic = [key for key, domain in method.space.items() if isinstance(domain, Uniform) and domain.logarithmic]
    figures = {
        "response": figures_tuning.response(
            part.runs, epochs, tuning.options.metric, logarithmic=logarithmic, defaults=method.defaults
        ),
        "pareto": figures_tuning.pareto(part.table),
    }
    drawn = {tuning.folder / f"{kind}_{name}": figure for kind, figure in figures.items() if figure}
    paths = {path.with_name(f"{path.name}.{form}"): path for path in drawn for form in ("png", "pdf")}
    for path, stem in paths.items():
        save(drawn[stem], path)
    return list(paths)


def _remark(tuning: TuningPlan) -> str:
    seeds = ", ".join(map(str, tuning.seeds))
    return (
        f"By {tuning.options.metric} on held-out training images of {tuning.suite.name}, {tuning.epochs} epochs, seeds "
        f"{seeds}; tuning {tuning.tuning_id}."
    )


def write_comparison(
    tuning: TuningPlan, best: Mapping[str, Values], specs: Sequence[TrialSpec]
) -> tuple[list[str], list[Path]]:
    """The report of the comparison on test images, and what came out by method: a sentence each, which also stand in
    comparison.md; and the files."""
    variants = {spec.trial_id: spec.variant for spec in specs}
    results = read_results(tuning.store, trial_ids=list(variants), variants=variants) if specs else None
    metric, mode = tuning.options.metric, tuning.options.direction
    own = {spec.variant for spec in specs}
    sentences = []
    for name in best:
        if results is None or f"{name}-tuned" not in own:
            sentences.append(f"The default of {name} is its best setting: nothing to compare.")
        else:
            sentence = against_default(results, name, metric, mode)
            sentences.append(sentence or f"The comparison of {name} with its default has no seed that both finished.")
    path = tuning.folder / "comparison.md"
    write_bytes(path, ("\n\n".join(["# Tuned against default", *sentences]) + "\n").encode())
    if results is None:
        return sentences, [path]
    folder = tuning.folder / "comparison"
    return sentences, [path, *write_report(results, folder)]
