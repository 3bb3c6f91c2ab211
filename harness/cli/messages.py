"""What the commands say on the terminal: states of trials, a calibration, a report, how a run or a search ended. What
needs torch is imported where it is used."""

from __future__ import annotations

import codecs
import io
import os
import sys
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from harness.errors import ExitCode, InputError
from harness.files import check_writable
from harness.report.escape import ascii_letters, one_line, visible
from harness.store.folder import nothing_left_if_refused

if TYPE_CHECKING:
    from harness.api import Planned
    from harness.report.results import Results
    from harness.report.write import Form
    from harness.running.run import Outcome
    from harness.spec import TrialSpec
    from harness.store.several import Stores
    from harness.store.store import Store
    from harness.suites.earlier import Otherwise
    from harness.tuning.plan import TuningPlan
    from harness.tuning.report import Tuned

_LONGEST_LINE, _BEGINNING = 280, 180  # characters of a message, and of it before what is left out


class Terminal(Console):
    """A console on which names and paths are text: no markup, no emoji codes, no control or invisible characters."""

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, highlight=False, **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterator[Segment]:
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(visible(segment.text), segment.style)


out = Terminal()
err = Terminal(stderr=True)


def _ascii_form(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(ascii_letters(char) for char in error.object[error.start : error.end]), error.end


def speak_any_encoding() -> None:
    """Characters that a terminal's encoding lacks come out as ASCII ones, instead of ending the command."""
    codecs.register_error("ascii_form", _ascii_form)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="ascii_form")


def leave(code: int) -> NoReturn:
    """End the process with an exit code; INCOMPLETE for a success whose output could not be written (a full disk, a
    closed pipe)."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:  # into nothing with what is left, or the interpreter would complain at its very end
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
            code = code or ExitCode.INCOMPLETE
    sys.exit(code)


def tell(message: str) -> None:
    """One line on standard error, if anybody can still read it, with the middle left out of what is too long."""
    with suppress(OSError):
        err.print(shortened(one_line(message)), soft_wrap=True)


def shortened(line: str) -> str:
    """At most 280 characters of a line, as the terminal's encoding has them: how it begins and how it ends, where the
    reason and what is allowed stand."""
    encoding = getattr(sys.stderr, "encoding", None) or "utf-8"
    with suppress(LookupError, UnicodeError):
        line = line.encode(encoding, "ascii_form").decode(encoding)
    return line if len(line) <= _LONGEST_LINE else f"{line[:_BEGINNING]} ... {line[_BEGINNING + 5 - _LONGEST_LINE :]}"


def refuse(message: str) -> NoReturn:
    """Say in one line what is wrong with what the user asked for, and leave."""
    tell(f"error: {message}")
    leave(ExitCode.REFUSED)


def say_unused_gpu(how: str) -> None:
    """In a line: that a GPU is here which no trial asks for, and how to use it."""
    from harness.engine.gpu import models

    if found := models():
        err.print(f"a GPU is here and unused ({found[0]}): {how}", soft_wrap=True)


def states_of(planned: Planned) -> dict[str, tuple[str, str]]:
    """See `harness.cli.listings.trial_states`."""
    from harness.cli.listings import trial_states

    return trial_states(planned.store, planned.specs)


def print_trials(planned: Planned, states: dict[str, tuple[str, str]]) -> None:
    """A line per trial with its state, how many there are of each, and what of the store cannot be read."""
    from harness.cli.listings import columns

    rows = [
        (_id_of(spec), spec.role, spec.variant, spec.student.label, str(spec.seed), *states[spec.trial_id])
        for spec in planned.specs
    ]
    titles, *lines = columns([("trial", "role", "variant", "student", "seed", "status", ""), *rows])
    out.out(titles, style="bold", highlight=False)
    out.out("\n".join(lines), highlight=False)
    counts: dict[str, int] = {}
    for state, _ in states.values():
        counts[state] = counts.get(state, 0) + 1
    out.print(
        f"{len(planned.specs)} trials: " + ", ".join(f"{count} {state}" for state, count in sorted(counts.items()))
    )
    say_otherwise(planned, out)
    planned.store.look_for_foreign_files()
    for problem in planned.store.problems:
        err.print(f"cannot read {problem}", soft_wrap=True)


def _id_of(spec: TrialSpec) -> str:
    """A trial's id, where all that decides it is known."""
    from harness.spec import UNKNOWN_SHA256

    return "unknown" if UNKNOWN_SHA256 in spec.model_dump_json() else spec.trial_id


def say_otherwise(planned: Planned, console: Console) -> list[Otherwise]:
    """What the store has of the plan's missing trials under other settings or an older numerics version; see
    `harness.suites.earlier`."""
    from harness.suites.earlier import describe, stored_otherwise

    found = stored_otherwise(planned.specs, planned.store)
    for each in found:
        console.print(describe(each, planned.specs), soft_wrap=True)
    return found


def print_calibration(
    specs: Sequence[TrialSpec], store: Store, data: Path | None, download: bool, redone: Collection[str] = ()
) -> None:
    """Measure a batch of every distinct configuration; the time by variant and device."""
    import torch

    from harness.calibration import Calibration
    from harness.cli.listings import calibration_table
    from harness.report.tables.grid import duration
    from harness.store.provenance import processor

    calibration = Calibration(store, data_root=data, download=download, redone=redone)
    with err.status("measuring"):
        estimates = {spec.trial_id: calibration.estimate(spec) for spec in specs}
    out.print(calibration_table(specs, estimates))
    total = sum(each.total_s for each in estimates.values())
    for gpu in sorted({spec.resources.gpu for spec in specs}):
        part = sum(estimates[spec.trial_id].total_s for spec in specs if spec.resources.gpu == gpu)
        threads = ", ".join(sorted({f"{spec.threads} thread{'s' * (spec.threads > 1)}" for spec in specs}))
        where = f"GPU x {gpu:g}" if gpu else f"{processor()}, {threads} a trial"
        out.print(f"{duration(part)} on {where}", soft_wrap=True)
    here = {"cpu": os.cpu_count() or 1, "gpu": torch.cuda.device_count()}
    wanted = {kind: max((getattr(spec.resources, kind) for spec in specs), default=0) for kind in here}
    room = max(1, int(min((here[kind] / amount for kind, amount in wanted.items() if amount), default=1)))
    at_once = max(1, min(room, len(specs)))
    longest = max((each.total_s for each in estimates.values()), default=0.0)
    out.print(f"on this machine, {at_once} at a time: about {duration(max(total / at_once, longest))}", soft_wrap=True)


def report_store(
    store: Store | Stores,
    results: Results,
    form: Form | None = None,
    into: Path | None = None,
    baseline: str | None = None,
) -> None:
    """The leaderboard of some results of a store, or of several, on the terminal, everything else into a folder, in the
    `Form` of a report."""
    from harness.published.papers import published
    from harness.report.captions import FAILED
    from harness.report.scores.families import OfStore
    from harness.report.write import Form, print_leaderboard, write_report
    from harness.suites.comparisons import registered_comparisons

    shape = form or Form()

    def left_out(text: str) -> None:
        if shape.figures or FAILED in text:  # asked for by name, or not as it should be
            err.print(text, soft_wrap=True)

    stores = getattr(store, "stores", [store])
    roots = [each.root for each in stores]
    if into is None and len(roots) > 1:
        raise InputError("a report on several stores needs --into FOLDER: where tables and figures go")
    primary = [
        OfStore(each.variant, each.against, each.metrics, each.attack, frozenset(one.statuses()))
        for one in stores
        for each in registered_comparisons(one.root)
    ]
    folder = into or roots[0] / "report"
    stated = published() if shape.published or shape.html else None
    with nothing_left_if_refused(folder):
        try:
            check_writable(folder)
        except InputError as error:
            if into:
                raise
            print_leaderboard(out, results, shape, baseline, primary=primary, published=stated)
            err.print(f"{error}: the report is only printed; --into FOLDER writes it elsewhere", soft_wrap=True)
            return
        written = write_report(
            results,
            folder,
            shape,
            baseline=baseline,
            primary=primary,
            published=stated,
            console=out,
            left_out=left_out,
        )
    store.look_for_foreign_files()
    for problem in store.problems:
        err.print(f"cannot read {problem}", soft_wrap=True)
    for path in written:
        out.print(str(path), soft_wrap=True)
    out.print(f"tables of rows (Parquet): {', '.join(map(str, roots))}", soft_wrap=True)


def print_power(results: Results, checkpoint: str, baseline: str | None) -> None:
    """What difference 3, 5 and 10 seeds would find."""
    from harness.report.tables.power import power, power_tables

    found = power(results, checkpoint, baseline)
    if found.empty:
        raise InputError("no spread over seeds: --power needs two variants of one table with two seeds in common")
    out.print(power_tables(found))


def conclude(outcome: Outcome, planned: Planned, suite: str, results: Path | None, leaving_out: str = "") -> int:
    """What failed, was blocked or stopped in a run, and how to go on; the exit code. leaving_out: in words, options
    that are for once."""
    variants = planned.variants
    for kind, found in (("failed", outcome.failed), ("blocked", outcome.blocked)):
        for trial_id, reason in found.items():
            err.print(f"{kind}: {variants[trial_id]} ({trial_id}): {reason}", soft_wrap=True)
    if outcome.interrupted:
        where = f" --results {results}" if results else ""
        err.print(
            f"stopped ({outcome.stop_reason}); to go on: run-bench run {suite}{where}, "
            f"with the same options{leaving_out}",
            soft_wrap=True,
        )
    return outcome.exit_code


def print_tuning(tuning: TuningPlan) -> None:
    """What a search would run: every setting with what the store has of its trials, how far, and what comes after."""
    from harness.cli.listings import columns, trial_states
    from harness.tuning.space import short

    rows = [("method", "setting", "trials")]
    for spec in tuning.teachers:
        rows.append((spec.variant, "", f"{trial_states(tuning.store, [spec])[spec.trial_id][0]}"))
    for name, values in tuning.settings:
        states = [state for state, _ in trial_states(tuning.store, tuning.searched[name].specs(values)).values()]
        counts = ", ".join(f"{states.count(state)} {state}" for state in sorted(set(states)))
        rows.append((name, short(values), counts))
    titles, *lines = columns(rows)
    out.out(titles, style="bold", highlight=False)
    out.out("\n".join(lines), highlight=False)
    for line in tuning.summary:
        out.print(line, soft_wrap=True)


def conclude_tuning(tuned: Tuned, tuning: TuningPlan, suite: str) -> int:
    """What a search found and wrote, the comparison of its winners with their defaults, and how to go on; the exit
    code."""
    from harness.report.results import read_results
    from harness.report.write import print_leaderboard

    if tuned.compared:
        variants = {spec.trial_id: spec.variant for spec in tuned.compared}
        print_leaderboard(out, read_results(tuning.store, trial_ids=list(variants), variants=variants))
    for line in [*tuned.sentences, *map(str, tuned.written)]:
        out.print(line, soft_wrap=True)
    for trouble in tuned.trouble:
        err.print(trouble, soft_wrap=True)
    if tuned.stop_reason:
        err.print(
            f"stopped ({tuned.stop_reason}); to go on: run-bench tune {suite}, with the same options", soft_wrap=True
        )
    return tuned.exit_code
