"""The commands. `status`, `list` and `report` import neither torch nor Ray: what needs them is imported where it is
used."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Annotated, Any

import typer

from harness.cli.messages import (
    conclude,
    conclude_tuning,
    err,
    leave,
    out,
    print_calibration,
    print_power,
    print_trials,
    print_tuning,
    refuse,
    report_store,
    say_otherwise,
    speak_any_encoding,
    states_of,
    tell,
)
from harness.errors import ExitCode, InputError, unknown
from methods.settings import SettingsError


class _Commands(typer.core.TyperGroup):
    """Typer ends an interrupted command without a word."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            tell("stopped; to go on, give the same command again")
            raise typer.Exit(ExitCode.INTERRUPTED) from None


app = typer.Typer(
    cls=_Commands, add_completion=False, no_args_is_help=False, pretty_exceptions_enable=False, rich_markup_mode=None
)

# typer brings a click of its own since 0.26, and used the installed one before: the class is found through typer
CommandLineError: Any = next(cls for cls in typer.BadParameter.__mro__ if cls.__name__ == "ClickException")

SuiteName = Annotated[str, typer.Argument(help="a suite's name (`list suites`) or the path of a YAML file")]


def _path(text: str | Path) -> Path:
    if not str(text).strip():  # a default comes as a path
        raise typer.BadParameter("an empty path")
    return Path(text)


Results = Annotated[
    Path | None,
    typer.Option("--results", parser=_path, help="the result store; results/runs/SUITE by default"),
]
Sets = Annotated[
    list[str] | None, typer.Option("--set", help="override a key of the suite: training.epochs=20; repeatable")
]
Methods = Annotated[str | None, typer.Option("--methods", help="only these methods or variants, separated by commas")]
Seeds = Annotated[str | None, typer.Option("--seeds", help="these seeds instead of the suite's, separated by commas")]
Plugins = Annotated[
    list[str] | None,
    typer.Option("--plugin", help="a file or package folder that registers methods of your own; repeatable"),
]
DataRoot = Annotated[
    Path | None,
    typer.Option(
        "--data", parser=_path, help="the data directory; $ROBUST_FAIRNESS_DATA or the user's cache by default"
    ),
]
Download = Annotated[bool, typer.Option("--download", help="fetch data sets that are missing")]
Workers = Annotated[int | None, typer.Option("--workers", min=1, help="at most so many trials at once")]
Address = Annotated[
    str | None, typer.Option("--address", help="a Ray cluster, HOST:PORT or auto; a local Ray by default")
]
TeachersFrom = Annotated[
    Path | None,
    typer.Option("--teachers-from", parser=_path, help="a result store whose trained teachers are taken"),
]
Serial = Annotated[bool, typer.Option("--serial", help="one trial after the other in this process, without Ray")]


def main() -> None:
    """Run a command. What ends it early is one line, and an exit code of its own (`ExitCode`)."""
    speak_any_encoding()
    try:
        code = app(standalone_mode=False)
    except (InputError, SettingsError) as error:
        refuse(str(error))
    except CommandLineError as error:
        refuse(error.format_message())
    except OSError as error:
        if error.errno in (errno.ENAMETOOLONG, errno.ELOOP):  # no file system would take that name
            refuse(str(error))
        tell(f"error: {error}; to go on, give the same command again")
        leave(ExitCode.INCOMPLETE)
    except typer.Abort:
        leave(ExitCode.INTERRUPTED)
    leave(code if isinstance(code, int) else ExitCode.DONE)


@app.callback(invoke_without_command=True)
def quickstart(context: typer.Context) -> int | None:
    """Benchmark class-wise fair adversarial training. Without a command: the quickstart suite on the embedded
    digits."""
    if context.invoked_subcommand is None:
        return run("quickstart")
    return None


@app.command()
def run(
    suite: SuiteName,
    sets: Sets = None,
    methods: Methods = None,
    seeds: Seeds = None,
    results: Results = None,
    workers: Workers = None,
    address: Address = None,
    serial: Serial = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="list every trial with its id, role and status; start nothing")
    ] = False,
    calibrate: Annotated[
        bool, typer.Option("--calibrate", help="with --dry-run: measure some batches here and estimate the hours")
    ] = False,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="run the trials again that failed")] = False,
    teachers_from: TeachersFrom = None,
    again: Annotated[
        bool, typer.Option("--again", help="make again what the store has from an older numerics version")
    ] = False,
    redo: Annotated[
        list[str] | None,
        typer.Option(
            "--redo", help="make these again: a variant, or the beginning of a trial's id; what there is, is set aside"
        ),
    ] = None,
    data: DataRoot = None,
    download: Download = False,
    plugin: Plugins = None,
) -> int:
    """Run a suite: what the store has is skipped, so running it again goes on where it stopped."""
    if calibrate and not dry_run:
        raise InputError("--calibrate goes with --dry-run")
    from harness.store.redo import named_trials, refuse_left_behind

    planned = _plan(suite, sets, methods, seeds, results, plugin)
    teachers = _teachers(planned.specs, planned.store, teachers_from)
    redone = named_trials(planned.specs, redo or ())
    if dry_run:
        _check_plan(planned.specs, planned.store, data, download, tuple(redone))
        refuse_left_behind(planned.store, [spec for spec in planned.specs if spec.trial_id in redone])
        states = states_of(planned) | dict.fromkeys(redone, ("again", "what there is, is set aside"))
        print_trials(planned, states)
        if calibrate:
            left = [spec for spec in planned.specs if states[spec.trial_id][0] != "done"]
            print_calibration(left, planned.store, data, download)
        return 0
    from harness.api import run_planned
    from harness.cli.progress import Progress
    from harness.report.results import read_results
    from harness.running.run import Options

    options = Options(
        serial=serial, workers=workers, address=address, retry_failed=retry_failed, again=again, redo=tuple(redone),
        data_root=data, download=download,
        trial_timeout_s=planned.suite.time_limit_hours * 3600 if planned.suite.time_limit_hours else None,
        plugins=tuple(os.path.abspath(path) for path in plugin or ()),
    )  # fmt: skip
    with Progress(planned.specs, err) as progress:
        outcome = run_planned(planned, options, progress, teachers)
    try:
        if outcome.stop_reason is None:  # a report of thousands of trials takes longer than a stop may
            report_store(planned.store, read_results(planned.store, **_coordinates(planned)))
    finally:
        code = conclude(outcome, planned, suite, results, " but --redo" if redone else "")
    return code


@app.command()
def tune(
    suite: SuiteName,
    methods: Annotated[
        str | None, typer.Option("--methods", "--method", help="methods or variants of the suite, separated by commas")
    ] = None,
    space: Annotated[
        list[str] | None,
        typer.Option(
            "--space", help="'training.lr=choice(0.05,0.1)', 'absld: temperature_rate=...' for one; repeatable"
        ),
    ] = None,
    trials: Annotated[int | None, typer.Option("--trials", help="settings of every method; 20 by default")] = None,
    with_default: Annotated[
        bool | None, typer.Option("--with-default", help="the first of them is the method's own setting")
    ] = None,
    search: Annotated[str | None, typer.Option("--search", help="random (the default), grid or tpe")] = None,
    scheduler: Annotated[
        str | None, typer.Option("--scheduler", help="halving (the default), asha, median or none")
    ] = None,
    metric: Annotated[
        str | None, typer.Option("--metric", help="selection_score (the default), val_robust_worst, _avg or _nsd")
    ] = None,
    mode: Annotated[str | None, typer.Option("--mode", help="max or min; by the metric where not given")] = None,
    epochs: Annotated[int | None, typer.Option("--epochs", help="of a setting; the suite's by default")] = None,
    seeds: Annotated[
        int | None, typer.Option("--seeds", help="how many of a setting, in lockstep, none the suite's; 3 by default")
    ] = None,
    compare_seeds: Annotated[
        int | None, typer.Option("--compare-seeds", help="seeds of the comparison with the defaults; 3 by default")
    ] = None,
    no_comparison: Annotated[bool, typer.Option("--no-comparison", help="end with the search")] = False,
    grace: Annotated[int | None, typer.Option("--grace", help="epochs before a scheduler may stop a setting")] = None,
    search_seed: Annotated[int | None, typer.Option("--search-seed", help="of what is drawn; 0 by default")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="list every setting; start nothing")] = False,
    sets: Sets = None,
    results: Annotated[
        Path | None, typer.Option("--results", help="the result store; results/runs/SUITE/tuning by default")
    ] = None,
    workers: Workers = None,
    address: Address = None,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="run the settings again that failed")] = False,
    teachers_from: TeachersFrom = None,
    again: Annotated[
        bool, typer.Option("--again", help="make again what the store has from an older numerics version")
    ] = False,
    tensorboard: Annotated[Path | None, typer.Option("--tensorboard", help="also write TensorBoard scalars")] = None,
    data: DataRoot = None,
    download: Download = False,
    plugin: Plugins = None,
) -> int:
    """Search the settings of methods on validation images, as many tries for each, then compare each method's best with
    its defaults on test images. Every option can stand in the suite's `tune:` block."""
    from harness.tuning.plan import plan_tuning

    _load_methods(plugin)
    given = {
        "methods": methods, "space": space, "trials": trials, "with_default": with_default, "search": search,
        "scheduler": scheduler, "metric": metric, "mode": mode, "epochs": epochs, "seeds": seeds,
        "compare_seeds": 0 if no_comparison else compare_seeds, "grace": grace, "search_seed": search_seed,
    }  # fmt: skip
    tuning = plan_tuning(suite, given, overrides=sets or (), results=results)
    teachers = _teachers([*tuning.teachers, *tuning.bases], tuning.store, teachers_from)
    if dry_run:
        _check_plan([*tuning.teachers, *tuning.bases], tuning.store, data, download)
        print_tuning(tuning)
        return 0
    from harness.cli.progress import Progress
    from harness.running.run import Options
    from harness.tuning.run import run_tuning

    options = Options(
        workers=workers, address=address, retry_failed=retry_failed, again=again, data_root=data,
        download=download,
        trial_timeout_s=tuning.suite.time_limit_hours * 3600 if tuning.suite.time_limit_hours else None,
        plugins=tuple(os.path.abspath(path) for path in plugin or ()),
    )  # fmt: skip
    tuned = run_tuning(
        tuning, options, teachers=teachers, say=lambda text: err.print(text, soft_wrap=True),
        follow=lambda specs: Progress(specs, err), tensorboard=tensorboard,
    )  # fmt: skip
    return conclude_tuning(tuned, tuning, suite)


@app.command()
def status(
    suite: SuiteName,
    sets: Sets = None,
    methods: Methods = None,
    seeds: Seeds = None,
    results: Results = None,
    plugin: Plugins = None,
) -> int:
    """Show what has become of each trial of a suite, with the error of those that failed."""
    planned = _plan(suite, sets, methods, seeds, results, plugin)
    print_trials(planned, states_of(planned))
    return 0


@app.command()
def report(
    suite: Annotated[str, typer.Argument(help="a suite, or the directory of a result store: everything in it")],
    sets: Sets = None,
    methods: Methods = None,
    seeds: Seeds = None,
    results: Results = None,
    into: Annotated[
        Path | None, typer.Option("--into", parser=_path, help="where tables and figures go; STORE/report by default")
    ] = None,
    checkpoint: Annotated[str, typer.Option("--checkpoint", help="best_validation or last")] = "best_validation",
    baseline: Annotated[
        str | None, typer.Option("--baseline", help="the variant that others are compared with; at, or else rslad")
    ] = None,
    figures: Annotated[
        str | None, typer.Option("--figures", help="only these, separated by commas: nsd, class_quantity:weight")
    ] = None,
    formats: Annotated[str, typer.Option("--formats", help="of figures: png, pdf, svg")] = "png,pdf",
    width: Annotated[str | None, typer.Option("--width", help="of figures: column or text (of a paper)")] = None,
    intervals: Annotated[
        str, typer.Option("--intervals", help="in the LaTeX table: none, or 95% over seeds or samples")
    ] = "none",
    brackets: Annotated[bool, typer.Option("--brackets", help="those intervals as [low, high], not as ±")] = False,
    html: Annotated[bool, typer.Option("--html", help="also one self-contained page, index.html")] = False,
    power: Annotated[bool, typer.Option("--power", help="only print what 3, 5 and 10 seeds would find")] = False,
    plugin: Plugins = None,
) -> int:
    """Print the leaderboard of a suite and write its tables and figures."""
    from harness.report.results import read_results
    from harness.report.write import Form
    from harness.spec import CHECKPOINTS
    from harness.store.store import Store

    _load_methods(plugin)
    if checkpoint not in CHECKPOINTS:
        raise unknown("checkpoint", checkpoint, CHECKPOINTS)
    form = Form(
        checkpoint, _split(figures), _split(formats) or [], width, intervals, "brackets" if brackets else "pm", html
    )
    if (Path(suite) / "trials").is_dir():
        store: Any = Store(suite)
        which = _part_of(store, sets, methods, seeds)
    elif Path(suite).is_dir():
        raise InputError(f"{suite} is not a result store: it has no folder 'trials'")
    else:
        planned = _plan(suite, sets, methods, seeds, results)
        store, which = planned.store, _with_older(_coordinates(planned), say_otherwise(planned, err))
        _check_seeds(planned, _numbers(seeds))
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
    return {"trial_ids": some_trials(store, _names(methods, "--methods"), _numbers(seeds))}


@app.command()
def quote(
    files: Annotated[list[Path], typer.Argument(help="Markdown files with quotations from result stores")],
) -> int:
    """Write the passages of Markdown files anew that quote result stores: `<!-- from STORE: scores attack=pgd20 -->`
    to `<!-- end -->`."""
    from harness.report.quotations import quote as quote_file

    for path in files:
        out.print(f"{path}: {'written anew' if quote_file(path) else 'as the stores have it'}", soft_wrap=True)
    return 0


@app.command()
def show(trial: Annotated[str, typer.Argument(help="a trial id or its beginning")], results: Results = None) -> int:
    """Show one trial: its specification, its class-wise accuracies, its notes, its error."""
    from harness.cli.listings import show_trial

    stores = (
        [results] if results else sorted(path.parent for path in Path("results").glob("**/trials") if path.is_dir())
    )
    show_trial(trial, stores, out)
    return 0


@app.command()
def merge(
    stores: Annotated[list[Path], typer.Argument(help="result stores to join")],
    into: Annotated[Path, typer.Option("--into", parser=_path, help="the store that receives them")],
    keep: Annotated[
        str | None,
        typer.Option("--keep", help="first: of a trial with other numbers, the rows of the store that stands first"),
    ] = None,
) -> int:
    """Join result stores from several machines; the same trial with other numbers is refused, a failure never
    replaces a result."""
    from harness.store.merge import merge as merge_stores

    counts = merge_stores(stores, into, keep)
    out.print(f"{into}: " + ", ".join(f"{count} {what}" for what, count in counts.items()), soft_wrap=True)
    return 0


@app.command()
def verify(store: Annotated[Path, typer.Argument(help="a result store")]) -> int:
    """Read everything in a store and say what is broken; exit code 1 if anything is."""
    from harness.store.verify import verify as verify_store

    _check_store(store)
    verdict = verify_store(store)
    for trial_id, faults in verdict.broken.items():
        out.print(f"{trial_id}: {'; '.join(faults)}", soft_wrap=True)
    for problem in verdict.problems:
        out.print(problem, soft_wrap=True)
    unchecked = f", {verdict.unchecked} without checksums (stored by an earlier version)" if verdict.unchecked else ""
    out.print(f"{verdict.trials} trials, {len(verdict.broken)} broken{unchecked}")
    return ExitCode.INCOMPLETE if verdict.broken or verdict.problems else ExitCode.DONE


@app.command()
def repair(store: Annotated[Path, typer.Argument(help="a result store")]) -> int:
    """Rebuild what says which compacted files count, where it is lost or damaged; removes nothing."""
    from harness.store.compaction import repair as repair_store
    from harness.store.lock import StoreLock
    from harness.store.store import Store

    _check_store(store)
    with StoreLock(store):
        parts, trials = repair_store(Store(store))
    if parts:
        out.print(f"{parts} compacted files with {trials} trials count again")
    else:
        out.print("nothing to repair: no compacted file holds trials that its manifest does not name")
    return 0


def _check_store(store: Path) -> None:
    if not (store / "trials").is_dir():
        raise InputError(f"{store} is not a result store: it has no folder 'trials'")


@app.command("list")
def list_names(
    what: Annotated[
        str, typer.Argument(help="methods, policies, datasets, models, attacks, suites or keys (of a suite)")
    ],
    name: Annotated[str | None, typer.Argument(help="one of them, with all its settings")] = None,
    plugin: Plugins = None,
) -> int:
    """List the names that suites can use, or what can be set for one of them."""
    from harness.cli.listings import LISTS, in_full

    _load_methods(plugin)

    if what not in LISTS:
        raise unknown("list", what, LISTS)
    out.print(LISTS[what]() if name is None else in_full(what, name))
    return 0


@app.command()
def evaluate(
    checkpoint: Annotated[Path, typer.Argument(help="a PyTorch state dict or .safetensors file")],
    model: Annotated[str, typer.Option("--model", help="the network's name (`list models`)")],
    dataset: Annotated[str, typer.Option("--dataset", help="a data set's name, or the path of an .npz file or folder")],
    parameter: Annotated[
        list[str] | None,
        typer.Option("--param", help="parameters of the network: width=16, or {depth: 28, widen: 10}; repeatable"),
    ] = None,
    normalization: Annotated[
        str, typer.Option("--normalization", help="inside the network: none, dataset, or {mean: [...], std: [...]}")
    ] = "none",
    weights: Annotated[
        str | None, typer.Option("--weights", help="of a file with averaged weights beside raw ones: ema or raw")
    ] = None,
    expect_clean: Annotated[
        float | None,
        typer.Option("--expect-clean", help="its clean accuracy, percent: more than half a point off is refused"),
    ] = None,
    attacks: Annotated[str, typer.Option("--attacks", help="separated by commas")] = "clean,fgsm,pgd20,cw20,aa_short",
    eps: Annotated[str, typer.Option("--eps", help="L-infinity radius, such as 8/255")] = "8/255",
    images: Annotated[int | None, typer.Option("--images", help="a stratified subset of the test images")] = None,
    name: Annotated[str | None, typer.Option("--name", help="what tables call it; the file's name by default")] = None,
    results: Annotated[Path, typer.Option("--results", parser=_path, help="the result store")] = Path(
        "results/runs/evaluations"
    ),
    address: Address = None,
    serial: Serial = False,
    data: DataRoot = None,
    download: Download = False,
) -> int:
    """Evaluate a network that was trained elsewhere, class by class, stored and reported like any trial."""
    from harness.cli.progress import Progress
    from harness.evaluation.given import (
        check_clean_accuracy,
        check_expected,
        evaluation_trial,
        given_dataset,
        given_network,
    )
    from harness.running.run import Options, check_inputs
    from harness.running.run import run as run_trials
    from harness.store.folder import check_results_folder
    from harness.store.store import Store

    check_expected(expect_clean)
    check_results_folder(results)
    read_as = given_dataset(dataset)
    network = given_network(checkpoint, model, parameter or [], normalization, weights, read_as)
    evaluation = {"attacks": _names(attacks, "--attacks"), "images": images}
    spec = evaluation_trial(network, read_as, evaluation, eps, name or checkpoint.stem)
    store = Store(results)
    options = Options(serial=serial, address=address, data_root=data, download=download)
    odd = check_inputs([spec], store, options)
    for line in check_clean_accuracy(spec, expect_clean, data):
        out.print(line, soft_wrap=True)
    with Progress([spec], err) as progress:
        for text in odd:
            progress({"event": "warning", "text": text})
        outcome = run_trials([spec], store, options=options, on_event=progress)
    for reason in outcome.failed.values():
        err.print(f"failed: {reason}", soft_wrap=True)
    if not outcome.failed:
        from harness.report.results import read_results
        from harness.report.write import print_leaderboard

        print_leaderboard(out, read_results(store, trial_ids=[spec.trial_id]))
        out.print(f"stored in {results}")
    return outcome.exit_code


def _plan(
    suite: str,
    sets: list[str] | None,
    methods: str | None,
    seeds: str | None,
    results: Path | None,
    plugins: list[str] | None = None,
) -> Any:
    from harness.api import plan_suite

    _load_methods(plugins)
    only, numbers = _names(methods, "--methods"), _numbers(seeds)
    return plan_suite(suite, results=results, overrides=sets or (), only=only, seeds=numbers)


def _check_plan(specs: list[Any], store: Any, data: Path | None, download: bool, redone: tuple[str, ...] = ()) -> None:
    """What a run would refuse, its plan refuses; what is odd, or not there to be checked, is told."""
    from harness.running.run import Options, check_inputs

    options = Options(data_root=data, download=download, redo=redone)
    for text in check_inputs(specs, store, options, planning=True):
        err.print(f"warning: {text}", soft_wrap=True)


def _teachers(specs: list[Any], target: Any, source: Path | None) -> list[Any]:
    """The trained teachers to take from another store, each told with its hash."""
    from harness.running.teachers import find_teachers

    found = find_teachers(specs, source, target) if source else []
    for each in found:
        err.print(f"{each.spec.variant}: trained, from {source} (sha256 {each.sha256[:12]})", soft_wrap=True)
    return found


def _numbers(seeds: str | None) -> list[int]:
    from harness.suites.blocks import seed_list

    names = _names(seeds, "--seeds")
    try:
        numbers = [int(seed) for seed in names]
    except ValueError:
        raise InputError(f"--seeds must be whole numbers separated by commas, not '{seeds}'") from None
    return seed_list(numbers, "--seeds") if numbers else []


def _load_methods(plugins: list[str] | None) -> None:
    from methods.plugins import load_entry_points, load_plugin

    load_entry_points()
    for path in plugins or ():
        load_plugin(os.path.abspath(path))


def _names(text: str | None, option: str) -> list[str]:
    """The names in an option that is not empty; none where it is not given."""
    names = _split(text)
    if names == []:
        raise InputError(f"{option} is empty: write names separated by commas, or leave it out")
    return names or []


def _split(text: str | None) -> list[str] | None:
    return [part.strip() for part in text.split(",") if part.strip()] if text is not None else None


def _with_older(which: dict[str, Any], found: list[Any]) -> dict[str, Any]:
    """What a report of a suite shows, and what the store has of it from an older numerics version."""
    older: dict[str, str] = {key: name for each in found if each.older for key, name in each.trials.items()}
    return which | {"trial_ids": [*which["trial_ids"], *older], "variants": older | which["variants"]}


def _coordinates(planned: Any) -> dict[str, Any]:
    return {"trial_ids": planned.trial_ids, "variants": planned.variants, "datasets": planned.datasets}
