"""What `tune` is asked: a suite's `tune:` block and the command's options, which win. Imports neither torch nor Ray."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field

from harness.errors import InputError, one_of
from harness.spec import Frozen, Seed
from harness.suites.blocks import read
from harness.suites.suite import Suite
from harness.tuning.space import Values, split_entries

METRICS: dict[str, Literal["max", "min"]] = {
    "selection_score": "max",
    "val_robust_worst": "max",
    "val_robust_avg": "max",
    "val_robust_nsd": "min",
}
_MOST_TRIALS, _MOST_SEEDS = 10_000, 1000  # a slip of the pen would otherwise fill the memory


class TuneOptions(Frozen):
    """How to search; a suite's `tune:` block.

    space: distributions by key, and mappings of them by method for keys of one method only. settings: instead, lists
    of settings by method. trials: tries, the same number for every method. with_default: the first try is the method's
    own setting. epochs: of a setting, the suite's where null. seeds: how many of one setting, side by side, none of
    them the suite's. compare_seeds: of the comparison between the best setting and the method's own. grace: epochs
    that no scheduler cuts.
    """

    methods: list[str] = Field(min_length=1)
    space: dict[str, Any] = Field({})
    settings: dict[str, list[Values]] = Field({})
    trials: int | None = Field(None, ge=1, le=_MOST_TRIALS)
    with_default: bool = False
    search: Literal["random", "grid", "list", "tpe"] = "random"
    scheduler: Literal["halving", "asha", "median", "none"] = "halving"
    metric: str = "selection_score"
    mode: Literal["max", "min"] | None = None
    epochs: int | None = Field(None, ge=1)
    seeds: int = Field(3, ge=1, le=_MOST_SEEDS)
    compare_seeds: int = Field(3, ge=0, le=_MOST_SEEDS)
    grace: int | None = Field(None, ge=1)
    search_seed: Seed = 0

    @property
    def direction(self) -> Literal["max", "min"]:
        """`max` or `min`: which end of the metric is better."""
        return self.mode or METRICS[self.metric]


def read_options(suite: Suite, given: Mapping[str, Any]) -> TuneOptions:
    """The options of a search; `given` are those of the command, None where not given. Raises InputError."""
    values = {**(suite.tune or {}), **{key: value for key, value in given.items() if value is not None}}
    if isinstance(values.get("methods"), str):
        values["methods"] = [name.strip() for name in values["methods"].split(",") if name.strip()]
    if isinstance(values.get("space"), (list, tuple)):
        values["space"] = split_entries([str(text) for text in values["space"]])
    if given.get("space"):
        values.pop("settings", None)
    if values.get("settings"):
        values.setdefault("search", "list")
    if values.get("search") == "tpe":
        values.setdefault("scheduler", "asha")
    if not values.get("methods"):
        raise InputError("tune: methods is missing: --methods absld, or 'tune: {methods: [absld]}' in the suite")
    if not values.get("space") and not values.get("settings"):
        raise InputError("tune: space is missing: --space 'temperature_rate=loguniform(0.01, 1)', or 'tune: "
                         "{space: ...}' or 'tune: {settings: ...}' in the suite")  # fmt: skip
    options = read(TuneOptions, values, "tune")
    _check(options)
    return options


def _check(options: TuneOptions) -> None:
    one_of("metric", options.metric, METRICS)
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
