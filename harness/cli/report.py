"""`report` and `quote`: what a store says. They import neither torch nor Ray."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from harness.cli.messages import (
    err,
    out,
    print_power,
    report_store,
    say_otherwise,
)
from harness.cli.options import (
    Methods,
    Plugins,
    Results,
    Seeds,
    Sets,
    coordinates,
    listed,
    load_plugins,
    path_of,
    planned_suite,
    read_names,
    read_seeds,
)
from harness.errors import InputError, unknown


def report(
    suites: Annotated[
        list[str],
        typer.Argument(
            help="a suite, or the directories of result stores: everything in them", metavar="SUITE|STORE..."
        ),
    ],
    sets: Sets = None,
    methods: Methods = None,
    seeds: Seeds = None,
    results: Results = None,
    into: Annotated[
        Path | None, typer.Option("--into", parser=path_of, help="where tables and figures go; STORE/report by default")
    ] = None,
    checkpoint: Annotated[str, typer.Option("--checkpoint", help="best_validation or last")] = "best_validation",
    variants: Annotated[
        str | None,
        typer.Option("--variants", help="these methods or variants, so ordered and called: absld=ABSLD (ours),rslad"),
    ] = None,
    attacks: Annotated[
        str | None, typer.Option("--columns", help="only these attacks, in this order: clean,pgd20,aa_short")
    ] = None,
    baseline: Annotated[
        str | None,
        typer.Option("--baseline", help="the variant that others are compared with; at, else rslad, else the first"),
    ] = None,
    rank: Annotated[
        str | None,
        typer.Option("--rank", help="what rows are ordered by: score, average, worst, nsd; pgd20:worst for one attack"),
    ] = None,
    figures: Annotated[
        str | None, typer.Option("--figures", help="only these, separated by commas: nsd, class_quantity:weight")
    ] = None,
    metrics: Annotated[
        str | None,
        typer.Option("--metrics", help="columns under each attack: average,worst,nsd,gini (`list metrics`)"),
    ] = None,
    formats: Annotated[str, typer.Option("--formats", help="of figures: png, pdf, svg")] = "png,pdf",
    width: Annotated[
        str | None, typer.Option("--width", help="of figures and LaTeX tables: column or text (of a paper)")
    ] = None,
    intervals: Annotated[
        str, typer.Option("--intervals", help="in the LaTeX table: none, or 95% over seeds or samples")
    ] = "none",
    brackets: Annotated[bool, typer.Option("--brackets", help="those intervals as [low, high], not as ±")] = False,
    captions: Annotated[str, typer.Option("--captions", help="of the LaTeX tables: full or short")] = "full",
    side_by_side: Annotated[
        str | None, typer.Option("--side-by-side", help="one LaTeX table for several: eps, dataset or student")
    ] = None,
    html: Annotated[bool, typer.Option("--html", help="also one self-contained page, index.html")] = False,
    published: Annotated[
        bool, typer.Option("--published", help="numbers of papers beside measured ones, in tables and figures")
    ] = False,
    null_control: Annotated[
        str | None,
        typer.Option(
            "--null-control",
            help="a variant against itself: the later half of its seeds as a row, arbitrarily paired with the earlier",
        ),
    ] = None,
    power: Annotated[bool, typer.Option("--power", help="only print what 3, 5 and 10 seeds would find")] = False,
    plugin: Plugins = None,
) -> int:
    """Print the leaderboard of a suite, or of result stores together, and write tables and figures."""
    from harness.report.null_control import NullControl
    from harness.report.results import read_results
    from harness.report.write import Form
    from harness.spec import CHECKPOINTS

    load_plugins(plugin)
    if checkpoint not in CHECKPOINTS:
        raise unknown("checkpoint", checkpoint, CHECKPOINTS)
    titles = _titles(variants, methods)
    names = list(titles) or read_names(methods, "--methods")
    only = listed(attacks) or []
    store, which, whole = _chosen(suites, sets, names, seeds, results)
    if null_control is not None and which:
        raise InputError("--null-control takes result stores whole: no suite, no --methods, --variants or --seeds")
    if null_control is not None and into is None and not power:
        raise InputError("--null-control needs --into FOLDER: the store's own report is of all its rows")
    form = Form(
        checkpoint, listed(figures), listed(formats) or [], width, intervals, "brackets" if brackets else "pm", html,
        published, listed(metrics), rank, as_listed=bool(titles), captions=captions, side_by_side=side_by_side,
        teachers=_asks_for_teachers(store, titles),
    )  # fmt: skip
    _check_something_to_report(store, suites, which.get("trial_ids"))
    shown = store if null_control is None else NullControl(store, null_control)
    _check_evaluated(checkpoint, only, shown, which.get("trial_ids"))
    found = read_results(shown, **which, titles=titles, attacks=only)
    if which != whole or only or shown is not store:
        found = replace(found, whole=read_results(store, **whole))
    called = titles.get(baseline, baseline) if baseline else None
    if power:
        print_power(found, checkpoint, called)
        return 0
    report_store(store, found, form, into, called)
    return 0


def _titles(variants: str | None, methods: str | None) -> dict[str, str]:
    """What --variants names, and what each is to be called."""
    if variants is None:
        return {}
    if methods is not None:
        raise InputError("--variants names the rows, as --methods does: give one of them")
    pairs = [name.partition("=") for name in read_names(variants, "--variants")]
    return {name.strip(): title.strip() or name.strip() for name, _, title in pairs}


def _chosen(
    suites: list[str], sets: list[str] | None, names: list[str], seeds: str | None, results: Path | None
) -> tuple[Any, dict[str, Any], dict[str, Any]]:
    """The store that a report reads, which of its trials, called how, and the same without the choice of methods and
    seeds."""
    from harness.store.folder import is_store
    from harness.store.several import Stores
    from harness.store.store import Store

    for suite in suites:
        if Path(suite).is_dir() and not is_store(Path(suite), begun=False):
            raise InputError(f"{suite} is not a result store: it has no folder 'trials'")
    if all(is_store(Path(suite), begun=False) for suite in suites):
        found = [Store(suite) for suite in suites]
        store: Any = Stores(found) if len(found) > 1 else found[0]
        if results is not None:
            raise InputError("--results is where a suite's results are; what is named here are stores")
        return store, _part_of(store, sets, names, seeds), {}
    if len(suites) > 1:
        raise InputError(f"{' '.join(suites)}: several at once must be directories of result stores")
    from harness.suites.earlier import stored_otherwise

    whole = planned_suite(suites[0], sets, None, None, results)
    teachers = {spec.variant for spec in whole.specs if spec.role == "teacher"}
    students = [name for name in names if name not in teachers]
    planned = planned_suite(suites[0], sets, ",".join(students) or None, seeds, results)
    _check_seeds(planned, read_seeds(seeds))
    which = _with_older(coordinates(planned), say_otherwise(planned, err))
    return planned.store, which, _with_older(coordinates(whole), stored_otherwise(whole.specs, whole.store))


def _asks_for_teachers(store: Any, titles: dict[str, str]) -> bool:
    trials = store.trials(["role", "variant"]).astype({"variant": str})
    return not titles.keys().isdisjoint(trials.loc[trials["role"] == "teacher", "variant"])


def _check_seeds(planned: Any, seeds: list[int]) -> None:
    """Seeds that neither the suite lists nor the store has are a slip of the pen."""
    stored = planned.store.statuses()
    known = {spec.seed for spec in planned.specs if spec.trial_id in stored} | set(planned.suite.seeds)
    for entry in planned.suite.methods:
        known |= set(entry.get("seeds", [])) if isinstance(entry, dict) else set()
    for seed in seeds:
        if seed not in known:
            raise unknown("seed", seed, {str(one) for one in known})


def _check_something_to_report(store: Any, suites: list[str], trial_ids: list[str] | None) -> None:
    stored = store.statuses()
    if not (stored if trial_ids is None else stored.keys() & set(trial_ids)):
        where = getattr(store, "root", ", ".join(suites))
        raise InputError(f"nothing to report: none of these trials is in {where} (`status` lists them)")


def _check_evaluated(checkpoint: str, attacks: list[str], store: Any, trial_ids: list[str] | None) -> None:
    """Networks that were given have one checkpoint, which stands in every table."""
    rows = store.read("class_accuracy", trial_ids, ["checkpoint", "attack"])
    found = {str(name) for name in rows["checkpoint"].unique()}
    for attack in attacks:
        if attack not in set(rows["attack"]):
            raise unknown("attack of --columns", attack, {str(name) for name in rows["attack"].unique()})
    if found - {"given"} and checkpoint not in found:
        others = " or ".join(sorted(found - {"given"}))
        raise InputError(
            f"no trial of this report was evaluated at checkpoint '{checkpoint}': give --checkpoint {others}"
        )


def _part_of(store: Any, sets: list[str] | None, names: list[str], seeds: str | None) -> dict[str, Any]:
    """Which trials of a store `report` is asked for."""
    from harness.report.results import some_trials

    if sets:
        raise InputError("--set changes a suite; a result store is reported as it is")
    if not names and seeds is None:
        return {}
    return {"trial_ids": some_trials(store, names, read_seeds(seeds))}


def _with_older(which: dict[str, Any], found: list[Any]) -> dict[str, Any]:
    """What a report of a suite shows, and what the store has of it from an older numerics version."""
    older: dict[str, str] = {key: name for each in found if each.older for key, name in each.trials.items()}
    return which | {"trial_ids": [*which["trial_ids"], *older], "variants": older | which["variants"]}


def quote(
    files: Annotated[list[Path], typer.Argument(help="Markdown files with quotations from result stores")],
) -> int:
    """Write the passages of Markdown files anew that quote result stores: `<!-- from STORE: scores attack=pgd20 -->`
    to `<!-- end -->`."""
    from harness.report.quotations import quote as quote_file
    from harness.suites.comparisons import registered_comparisons

    said = {True: "written anew", False: "as the stores have it", None: "nothing is quoted there"}
    for path in files:
        out.print(f"{path}: {said[quote_file(path, registered_comparisons)]}", soft_wrap=True)
    return 0
