"""The figures by name, drawn from the results of a report: one setting (data set, student, eps) at a time."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Collection, Mapping, Sequence
from functools import cached_property

import pandas as pd

from harness.errors import InputError, unknown
from harness.report import figures
from harness.report.captions import FAILED
from harness.report.data_names import read_spec
from harness.report.escape import one_line
from harness.report.figures.choice import validation_ranking
from harness.report.figures.data import at, class_names, group
from harness.report.figures.registry import FIGURES, FigureInfo
from harness.report.figures.style import MOST_VARIANTS, Drawing, Look, looks
from harness.report.published import alike
from harness.report.results import Readable, Results, matching, read_results

MOST_OUTCOMES = 2  # variants whose outcomes, the largest table, are read
CONTEXT = {"checkpoint", "baseline", "ranking", "styles", "names", "outcomes", "published"}  # as keywords of a figure

for module in pkgutil.iter_modules(figures.__path__):
    importlib.import_module(f"{figures.__name__}.{module.name}")
for name in sorted(FIGURES):  # whatever was imported first
    FIGURES[name] = FIGURES.pop(name)


def rows(store: Readable, table: str) -> pd.DataFrame:
    """Rows of a table as the figures want them: with `variant`, in the order of the report, and `role`.

    Of `outcomes`, the largest table, those of the baseline and of the variant that is best on validation.
    """
    tables = {needed for info in FIGURES.values() for needed in info.needs}
    if table not in tables:
        raise unknown("table for figures", table, tables)
    return _Setting(read_results(store), {"*"}).table(table)


def check_figures(names: Sequence[str]) -> None:
    """InputError for a figure that does not exist, and for one with a quantity that takes none, or without."""
    for name in names:
        kind, quantity = name_parts(name)
        if kind not in FIGURES:
            raise unknown("figure", kind, FIGURES)
        if FIGURES[kind].of_quantity != bool(quantity):
            fault = f"takes no quantity ('{quantity}')" if quantity else f"wants a quantity, such as {kind}:weight"
            raise InputError(f"figure {kind} {fault}")


def figure_names(names: Sequence[str] | None, results: Results) -> list[str]:
    """The figures asked for, such as `nsd` or `class_quantity:weight`; by default all that want no quantity. InputError
    as `check_figures`, and for a quantity that none of the trials logged."""
    check_figures(names or ())
    for name in names or ():
        _, quantity = name_parts(name)
        if quantity and not matching(pd.Series(results.quantities, dtype=str), group(quantity)).any():
            raise unknown("quantity of the classes", quantity, results.quantities)
    return [name for name, info in FIGURES.items() if not info.of_quantity] if names is None else list(names)


def name_parts(name: str) -> tuple[str, str]:
    """The figure's name and the quantity that it is asked to draw, empty for none."""
    kind, _, quantity = name.partition(":")
    return kind, quantity


def draw(
    results: Results,
    names: Sequence[str],
    checkpoint: str = "best_validation",
    width: str | None = None,
    baseline: str | None = None,
    published: pd.DataFrame | None = None,
) -> dict[str, Drawing | str]:
    """The figures of one setting by name, or in their place the reason why there is none.

    Every variant has one look in all of them. width: column or text, each figure's own by default. published: numbers
    of papers, see `harness.report.published`.
    """
    setting = _Setting(results, _quantities(names), checkpoint, baseline, published)
    found: dict[str, Drawing | str] = {}
    for name in names:
        kind, quantity = name_parts(name)
        given = {key: value for key, value in (("width", width), ("quantity", quantity)) if value}
        drawn = _drawn(FIGURES[kind], setting, given)
        found[name] = f"{name}: {drawn}" if isinstance(drawn, str) else drawn
    return found


def _drawn(info: FigureInfo, setting: _Setting, given: Mapping[str, str]) -> Drawing | str:
    frames = [setting.table(table) for table in info.needs]
    empty = [table for table, frame in zip(info.needs, frames, strict=True) if frame.empty]
    if empty:  # of `class_state` only some quantities were read
        return info.absent if "class_state" in empty else f"no rows in {', '.join(empty)}"
    wanted = (info.takes.keys() - {*info.needs}) & {*CONTEXT, *given}
    options = {name: given[name] if name in given else getattr(setting, name) for name in wanted}
    try:
        return info.function(*frames, **options) or info.absent
    except Exception as error:  # a figure that fails takes none of the others with it
        return f"{FAILED} ({one_line(f'{type(error).__name__}: {error}')[:200]})"


def _quantities(names: Sequence[str]) -> set[str]:
    """Of `class_state`, what some figures read."""
    parts = [name_parts(name) for name in names]
    asked = {pattern for _, quantity in parts if quantity for pattern in group(quantity)}
    return asked.union(*(FIGURES[kind].quantities for kind, _ in parts))


class _Setting:
    """What the figures of one setting are drawn from: the tables with the names of the report on their rows, each read
    when first asked for; and what a function may want beside them."""

    def __init__(
        self,
        results: Results,
        quantities: Collection[str],
        checkpoint: str = "best_validation",
        baseline: str | None = None,
        published: pd.DataFrame | None = None,
    ) -> None:
        self.results, self.checkpoint, self.baseline = results, checkpoint, baseline
        self._quantities, self._stated = quantities, published
        self._tables: dict[str, pd.DataFrame] = {}

    def table(self, name: str) -> pd.DataFrame:
        if name not in self._tables:
            frame = getattr(self, f"_{name}")()
            rows, names = self.results.rows, self._names
            variant = pd.Categorical(names.reindex(frame["row"]).to_numpy(), list(dict.fromkeys(names)), ordered=True)
            self._tables[name] = frame.assign(variant=variant, role=rows["role"].reindex(frame["row"]).to_numpy())
        return self._tables[name]

    @cached_property
    def _names(self) -> pd.Series:
        """What each row is called; teachers of one name by their networks too, as tables have them."""
        rows = self.results.rows
        names = rows["variant"].astype(str)
        several = (rows["role"] == "teacher") & rows.duplicated(["role", "variant"], keep=False)
        return names.where(~several, names + " " + rows["student"].astype(str))

    @cached_property
    def variants(self) -> list[str]:
        """In the order of the report, without teachers."""
        rows = self.results.rows
        return list(dict.fromkeys(rows.loc[rows["role"] != "teacher", "variant"].astype(str)))

    @cached_property
    def ranking(self) -> list[str]:
        """From the variant that a figure shows before all others."""
        epochs = self.table("epochs")
        return validation_ranking(epochs[epochs["role"] != "teacher"], self.variants, self.baseline)

    @cached_property
    def styles(self) -> dict[str, Look]:
        """Those that figures show where there are many come first: their colours differ."""
        first = set(self.ranking[:MOST_VARIANTS])
        return looks(sorted(self.variants, key=lambda name: name not in first))

    @property
    def outcomes(self) -> pd.DataFrame:
        return self.table("outcomes")

    @cached_property
    def published(self) -> pd.DataFrame | None:
        """Numbers of papers on this setting, those of methods that are measured: see `alike`, and in `variant` the
        first of the method."""
        rows = self.results.rows[self.results.rows["role"] != "teacher"]
        trials = self.results.trials[self.results.trials["row"].isin(rows.index)]
        if self._stated is None or trials.empty:
            return None
        attacks = at(self.table("class_accuracy"), self.checkpoint)["attack"].unique()
        found = alike(self._stated, read_spec(trials["spec"].iloc[0]), attacks)
        place = {name: place for place, name in enumerate(self.ranking)}
        first = rows.astype({"variant": str}).sort_values("variant", key=lambda names: names.map(place), kind="stable")
        variant = first.drop_duplicates("method").set_index("method")["variant"]
        return found.assign(variant=found["method"].map(variant)).dropna(subset="variant")

    @cached_property
    def names(self) -> list[str]:
        """Of the classes."""
        return class_names(self.table("class_accuracy"))

    def _trials(self) -> pd.DataFrame:
        return self.results.trials

    def _class_accuracy(self) -> pd.DataFrame:
        return self.results.class_accuracy

    def _epochs(self) -> pd.DataFrame:
        return self.results.epochs

    def _class_state(self) -> pd.DataFrame:
        frame = self.results.class_state(self._quantities)
        return frame[frame["row"].isin(self.results.rows.index[self.results.rows["role"] == "student"])]

    def _outcomes(self) -> pd.DataFrame:
        """Of the baseline and the best variant on validation: outcomes are the largest table."""
        trials = self.results.done
        rows = self.results.rows.index[self.results.rows["variant"].isin(self.ranking[:MOST_OUTCOMES])]
        return self.results.outcomes(list(trials.loc[trials["row"].isin(rows), "trial_id"]))
