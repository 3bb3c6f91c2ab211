"""`report` and `quote`: what a store says. They import neither torch nor Ray."""

from __future__ import annotations

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
    suite: Annotated[str, typer.Argument(help="a suite, or the directory of a result store: everything in it")],
    sets: Sets = None,
    methods: Methods = None,
    seeds: Seeds = None,
    results: Results = None,
    into: Annotated[
        Path | None, typer.Option("--into", parser=path_of, help="where tables and figures go; STORE/report by default")
    ] = None,
    checkpoint: Annotated[str, typer.Option("--checkpoint", help="best_validation or last")] = "best_validation",
    baseline: Annotated[
        str | None, typer.Option("--baseline", help="the variant that others are compared with; at, or else rslad")
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
    width: Annotated[str | None, typer.Option("--width", help="of figures: column or text (of a paper)")] = None,
    intervals: Annotated[
        str, typer.Option("--intervals", help="in the LaTeX table: none, or 95% over seeds or samples")
    ] = "none",
    brackets: Annotated[bool, typer.Option("--brackets", help="those intervals as [low, high], not as ±")] = False,
    html: Annotated[bool, typer.Option("--html", help="also one self-contained page, index.html")] = False,
    published: Annotated[
        bool, typer.Option("--published", help="numbers of papers beside measured ones, in tables and figures")
    ] = False,
    power: Annotated[bool, typer.Option("--power", help="only print what 3, 5 and 10 seeds would find")] = False,
    plugin: Plugins = None,
) -> int:
    """Print the leaderboard of a suite and write its tables and figures."""
    from harness.report.results import read_results
    from harness.report.write import Form
    from harness.spec import CHECKPOINTS
    from harness.store.folder import is_store
    from harness.store.store import Store

    load_plugins(plugin)
    if checkpoint not in CHECKPOINTS:
        raise unknown("checkpoint", checkpoint, CHECKPOINTS)
    style = "brackets" if brackets else "pm"
    form = Form(
        checkpoint, listed(figures), listed(formats) or [], width, intervals, style, html, published, listed(metrics),
        rank,
    )  # fmt: skip
    if is_store(Path(suite), begun=False):
        store: Any = Store(suite)
        which = _part_of(store, sets, methods, seeds)
    elif Path(suite).is_dir():
        raise InputError(f"{suite} is not a result store: it has no folder 'trials'")
    else:
        planned = planned_suite(suite, sets, methods, seeds, results)
        store, which = planned.store, _with_older(coordinates(planned), say_otherwise(planned, err))
        _check_seeds(planned, read_seeds(seeds))
    _check_something_to_report(store, which.get("trial_ids"))
    _check_evaluated_at(checkpoint, store, which.get("trial_ids"))
    if power:
        print_power(read_results(store, **which), checkpoint, baseline)
        return 0
    report_store(store, read_results(store, **which), form, into, baseline)
    return 0


def _check_seeds(planned: Any, seeds: list[int]) -> None:
    """Seeds that neither the suite lists nor the store has are a slip of the pen."""
    stored = planned.store.statuses()
    known = {spec.seed for spec in planned.specs if spec.trial_id in stored} | set(planned.suite.seeds)
    for entry in planned.suite.methods:
        known |= set(entry.get("seeds", [])) if isinstance(entry, dict) else set()
    for seed in seeds:
        if seed not in known:
            raise unknown("seed", seed, {str(one) for one in known})


def _check_something_to_report(store: Any, trial_ids: list[str] | None) -> None:
    stored = store.statuses()
    if not (stored if trial_ids is None else stored.keys() & set(trial_ids)):
        raise InputError(f"nothing to report: none of these trials is in {store.root} (`status` lists them)")


def _check_evaluated_at(checkpoint: str, store: Any, trial_ids: list[str] | None) -> None:
    """Networks that were given have one checkpoint, which stands in every table."""
    found = {str(name) for name in store.read("class_accuracy", trial_ids, ["checkpoint"])["checkpoint"].unique()}
    if found - {"given"} and checkpoint not in found:
        others = " or ".join(sorted(found - {"given"}))
        raise InputError(
            f"no trial of this report was evaluated at checkpoint '{checkpoint}': give --checkpoint {others}"
        )


def _part_of(store: Any, sets: list[str] | None, methods: str | None, seeds: str | None) -> dict[str, Any]:
    """Which trials of a store `report` is asked for."""
    from harness.report.results import some_trials

    if sets:
        raise InputError("--set changes a suite; a result store is reported as it is")
    if methods is None and seeds is None:
        return {}
    return {"trial_ids": some_trials(store, read_names(methods, "--methods"), read_seeds(seeds))}


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

    for path in files:
        out.print(f"{path}: {'written anew' if quote_file(path) else 'as the stores have it'}", soft_wrap=True)
    return 0
