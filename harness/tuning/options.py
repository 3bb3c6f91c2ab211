"""What `tune` is asked: a suite's `tune:` block and the command's options, which win. Imports neither torch nor Ray."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from harness.errors import InputError, unknown
from harness.spec import MOST_EPOCHS, Frozen, InSuites, Seed
from harness.statistics.registry import ALIASES, METRICS, is_metric, metric_info
from harness.suites.blocks import read
from harness.suites.suite import Suite
from harness.tuning.space import Values, read_space, split_entries
from methods.settings import YOURS

COLUMNS: dict[str, Literal["max", "min"]] = {  # of the table `epochs`
    "selection_score": "max",
    "val_robust_worst": "max",
    "val_robust_avg": "max",
    "val_robust_nsd": "min",
}
_MOST_TRIALS, _MOST_SEEDS = 10_000, 1000  # a slip of the pen would otherwise fill the memory


class TuneOptions(Frozen):
    """How to search; a suite's `tune:` block. Options of the command of the same names win."""

    methods: list[str] = Field(min_length=1, description="methods or variants of the suite", examples=[["absld"]])
    space: dict[str, Any] = Field(
        {},
        description="distributions by key: `loguniform(a, b)`, `uniform(a, b)`, `randint(a, b)`, `choice(a, b, ...)`; "
        "under a method's name a mapping of those that concern it alone",
        examples=[{"temperature_rate": "loguniform(0.01, 1)"}],
    )
    settings: dict[str, list[Values]] = Field(
        {},
        description="in place of `space`: for each method a list of settings, all of one length",
        examples=[{"absld": [{"temperature_rate": 0.3}, {}]}],
    )
    trials: Annotated[int | None, InSuites(default="20; of `settings` all")] = Field(
        None, ge=1, le=_MOST_TRIALS, description="tries, the same number for every method", examples=[10]
    )
    with_default: bool = Field(False, description="the first try is the method's own setting")
    search: Literal["random", "grid", "list", "tpe"] = Field("random", description="how tries are chosen")
    scheduler: Literal["halving", "asha", "median", "none"] = Field(
        "halving", description="which tries are stopped early", examples=["none"]
    )
    metric: Annotated[str, InSuites(f"one of {', '.join(COLUMNS)}, or of `list metrics`")] = Field(
        "selection_score", description="what a try is judged by, on validation images", examples=["val_robust_worst"]
    )
    mode: Annotated[Literal["max", "min"] | None, InSuites(default="by the metric")] = Field(
        None, description="which end of the metric is better", examples=["max"]
    )
    epochs: Annotated[int | None, InSuites(default="the suite's")] = Field(
        None, ge=1, le=MOST_EPOCHS, description="of a try", examples=[10]
    )
    seeds: int = Field(
        3, ge=1, le=_MOST_SEEDS, description="how many of one setting, side by side, none of them the suite's"
    )
    compare_seeds: int = Field(
        3,
        ge=0,
        le=_MOST_SEEDS,
        description="how many of the comparison between the best setting and the method's own; 0: no comparison",
    )
    grace: Annotated[int | None, InSuites(default="by the scheduler")] = Field(
        None, ge=1, description="epochs that no scheduler cuts", examples=[5]
    )
    search_seed: Seed = Field(0, description="of what is drawn")

    @property
    def direction(self) -> Literal["max", "min"]:
        """`max` or `min`: which end of the metric is better."""
        better = COLUMNS.get(self.metric) or ("max" if metric_info(self.metric).up else "min")
        return self.mode or better


def read_options(suite: Suite, given: Mapping[str, Any]) -> TuneOptions:
    """The options of a search; `given` are those of the command, None where not given. Raises InputError."""
    asked = _completed({key: value for key, value in given.items() if value is not None})
    values = _completed({**_without(left_out(suite, given), suite.tune or {}), **asked})
    if given.get("space"):
        values.pop("settings", None)
    if values.get("settings"):
        values.setdefault("search", "list")
    if not values.get("methods"):
        raise InputError("tune: methods is missing: --methods absld, or 'tune: {methods: [absld]}' in the suite")
    if not values.get("space") and not values.get("settings"):
        raise InputError("tune: space is missing: --space 'temperature_rate=loguniform(0.01, 1)', or 'tune: "
                         "{space: ...}' or 'tune: {settings: ...}' in the suite")  # fmt: skip
    options = read(TuneOptions, values, "tune")
    _check(options)
    return options


def check_block(suite: Suite) -> None:
    """InputError for a slip in a suite's `tune:` block, also where nothing is searched. Methods and a space may be
    missing: the command may name them."""
    if suite.tune is None:
        return
    if suite.tune.get("methods") and (suite.tune.get("space") or suite.tune.get("settings")):
        options = read_options(suite, {})
    else:
        options = read(TuneOptions, {"methods": ["any"], **_completed(suite.tune)}, "tune")
    own = [entries for entries in options.space.values() if isinstance(entries, Mapping)]
    for entries in ({key: text for key, text in options.space.items() if not isinstance(text, Mapping)}, *own):
        read_space(entries)


def left_out(suite: Suite, given: Mapping[str, Any]) -> list[str]:
    """The methods of a suite's block that a command does not choose, though it takes their space."""
    chosen, methods = (_completed(block).get("methods") for block in (given, suite.tune or {}))
    if given.get("space") or not isinstance(chosen, list) or not isinstance(methods, list):
        return []  # what is no list is told where the block is read
    return [name for name in methods if name not in chosen]


def _without(methods: Collection[str], block: Mapping[str, Any]) -> dict[str, Any]:
    """A suite's block without what it says of some of its methods."""
    return {
        key: {name: each for name, each in part.items() if name not in methods}
        if key in ("space", "settings") and isinstance(part, Mapping)
        else part
        for key, part in _completed(block).items()
    }


def _completed(block: Mapping[str, Any]) -> dict[str, Any]:
    """What is asked, lists that are written as texts taken apart; a searcher that proposes has a scheduler that goes
    with it."""
    values = dict(block)
    if isinstance(values.get("methods"), str):
        values["methods"] = [name.strip() for name in values["methods"].split(",") if name.strip()]
    if isinstance(values.get("space"), (list, tuple)):
        values["space"] = split_entries([str(text) for text in values["space"]])
    if isinstance(values.get("metric"), str):
        values["metric"] = ALIASES.get(values["metric"], values["metric"])
    if values.get("search") == "tpe":
        values.setdefault("scheduler", "asha")
    return values


def _check(options: TuneOptions) -> None:
    if options.metric not in COLUMNS and not (is_metric(options.metric) and metric_info(options.metric).of_classes):
        of_classes = [each.name for each in METRICS.values() if each.of_classes]
        raise unknown("metric", options.metric, [*COLUMNS, *of_classes], YOURS)
    twice = {name for name in options.methods if options.methods.count(name) > 1}
    if twice:
        raise InputError(f"tune: methods: {min(twice)} is listed twice")
    if options.search == "tpe" and options.scheduler == "halving":
        raise InputError("tune: scheduler halving needs settings that are known beforehand, not those of search tpe")
    if options.with_default and options.search != "random":
        raise InputError(f"tune: with_default goes with search random, not {options.search}")
    if (options.search == "list") != bool(options.settings):
        raise InputError("tune: search list goes with 'settings', lists of settings by method, in the suite")
    if options.settings:
        _check_lists(options)


def _check_lists(options: TuneOptions) -> None:
    if options.space or options.trials:
        raise InputError("tune: settings are all there is to try: neither space nor trials beside them")
    if set(options.settings) != set(options.methods):
        raise InputError(f"tune: settings: a list for each of {', '.join(options.methods)}, not for "
                         f"{', '.join(options.settings)}")  # fmt: skip
    counts = {name: len(settings) for name, settings in options.settings.items()}
    if len(set(counts.values())) > 1 or 0 in counts.values():
        each = ", ".join(f"{name} {count}" for name, count in counts.items())
        raise InputError(f"tune: settings: as many tries for every method, at least one, not {each}")
