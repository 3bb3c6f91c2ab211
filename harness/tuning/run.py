"""A tuning from its plan to its end: teachers, search, report, and the best settings against the defaults on test
images."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace

from harness.events import OnEvent
from harness.running.on_ray import connected
from harness.running.run import Options, Outcome, check_inputs, has_network, run
from harness.running.scalars import Scalars
from harness.running.teachers import Trained, take_teachers, teachers_beside
from harness.spec import TrialSpec
from harness.store.folder import nothing_left_if_refused
from harness.store.store import Store
from harness.suites.earlier import ENDED, refuse_older, refuse_older_proposals
from harness.suites.machine import remember_machine
from harness.tuning.journal import Journal
from harness.tuning.listener import Say
from harness.tuning.plan import TuningPlan
from harness.tuning.ray_tune import needs_optuna, run_search
from harness.tuning.report import Tuned, write_comparison, write_tuning

Follow = Callable[[Sequence[TrialSpec]], AbstractContextManager[OnEvent]]


def run_tuning(
    tuning: TuningPlan,
    options: Options | None = None,
    *,
    teachers: Sequence[Trained] = (),
    say: Say = lambda text: None,
    follow: Follow = lambda specs: nullcontext(lambda event: None),
    scalars: Scalars | None = None,
) -> Tuned:
    """Search what is still open, write the report, and compare the best setting of each method with its own.

    teachers: trained networks of another store to take first; what the suite's own stores have trained is taken too.
    say: told of every settled setting in a line. follow: makes what is told of the events of ordinary trials (teachers,
    comparison). InputError for what cannot be run here, and where the store has trials of the search from an older
    numerics version and `options.again` does not say that they may be made again.
    """
    options = options or Options()
    if options.trial_timeout_s is None:
        options = replace(options, trial_timeout_s=tuning.suite.time_limit_s)
    needs_optuna(tuning)
    if not options.again:
        refuse_older([*tuning.teachers, *tuning.bases, *tuning.known_tries], tuning.store, ENDED)
        if tuning.options.search == "tpe":
            refuse_older_proposals(tuning.bases, tuning.store)
    for text in check_inputs([*tuning.teachers, *tuning.bases], tuning.store, options):
        say(f"warning: {text}")
    journal = Journal(tuning.folder)
    if options.retry_failed:
        journal.forget_failures()
    is_open = not journal.is_settled(tuning.tries)
    with nothing_left_if_refused(tuning.store.root), connected(options.address) if is_open else nullcontext():
        tuning.store.prepare()
        remember_machine(tuning.store.root, tuning.machine)
        take_teachers(teachers, tuning.store)
        take_teachers(teachers_beside(tuning.teachers, tuning.parents, tuning.store), tuning.store)
        wanted = {spec.trial_id for spec in tuning.teachers} if is_open else set()
        outcome = _run(tuning.teachers, tuning.store, options, follow, wanted)
        if outcome.exit_code:
            return Tuned(trouble=_troubles(tuning.teachers, outcome), stop_reason=outcome.stop_reason)
        stop_reason = run_search(tuning, options, say=say, scalars=scalars)
        try:
            found = write_tuning(tuning)
        except OSError as error:
            if not stop_reason:
                raise
            found = Tuned(trouble=[f"no report was written: {error}"])  # on the very disk that is full
        if stop_reason or not found.best or not tuning.options.compare_seeds:
            return replace(found, stop_reason=stop_reason)
        specs = tuning.comparison(found.best)
        outcome = _run(specs, tuning.store, options, follow)
        sentences, written = write_comparison(tuning, found.best, specs)
        return replace(
            found, compared=specs, sentences=[*found.sentences, *sentences], written=[*found.written, *written],
            trouble=[*found.trouble, *_troubles(specs, outcome)], stop_reason=outcome.stop_reason,
        )  # fmt: skip


def _run(
    specs: Sequence[TrialSpec], store: Store, options: Options, follow: Follow, wanted: Collection[str] = ()
) -> Outcome:
    whole = all(has_network(store, spec) for spec in specs if spec.trial_id in wanted)
    if whole and all(store.has(spec.trial_id) for spec in specs):
        return Outcome([], [spec.trial_id for spec in specs], {}, {}, [])
    with follow(specs) as on_event:
        return run(specs, store, options=options, on_event=on_event, wanted=wanted)


def _troubles(specs: Sequence[TrialSpec], outcome: Outcome) -> list[str]:
    names = {spec.trial_id: spec.variant for spec in specs}
    found = {"failed": outcome.failed, "blocked": outcome.blocked}
    return [f"{kind}: {names[key]} ({key}): {text}" for kind, each in found.items() for key, text in each.items()]
