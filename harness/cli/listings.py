"""What exists and what has become of it, as rich renderables: lists of names, states of trials, one trial in full. No
torch, no Ray."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

import methods
from harness.attacks.registry import ATTACKS
from harness.cli import reference
from harness.data.registry import DATASETS
from harness.errors import InputError
from harness.models.registry import MODELS
from harness.report.captions import attack_title, eps_text
from harness.report.scores.counts import attack_order
from harness.report.tables.grid import duration
from harness.report.trained import as_told
from harness.spec import TrialSpec
from harness.statistics.metrics import rates
from harness.statistics.registry import ALIASES, METRICS
from harness.store.fingerprint import code_fingerprint
from harness.store.lock import holder
from harness.store.store import Store
from harness.store.work import WorkingFolder
from harness.suites.of_trial import stored_suite
from harness.suites.suite import suite_names


def trial_states(store: Store, specs: Sequence[TrialSpec]) -> dict[str, tuple[str, str]]:
    """For each trial its state and a remark: done, failed (its error's last line), interrupted, stopped, running,
    resumable, missing. Finished ones of other numeric code are named where a run would add rows to their table."""
    rows = store.read(
        "trials", [spec.trial_id for spec in specs], columns=["status", "error", "attempts", *_CODES]
    ).set_index("trial_id")
    stored = rows.to_dict("index")
    left = [spec for spec in specs if stored.get(spec.trial_id, {}).get("status") != "done"]
    growing = {(spec.dataset.name, spec.eps) for spec in left}  # the tables of a report
    driver = holder(store.root)
    states = {}
    for spec in specs:
        work = WorkingFolder(store.root, spec.training_id)
        folder = work.path
        was_interrupted = stored.get(spec.trial_id, {}).get("status") == "interrupted"
        if was_interrupted and driver and folder.exists() and folder.stat().st_mtime >= _since(driver):
            states[spec.trial_id] = ("running", "")
        elif spec.trial_id in stored:
            states[spec.trial_id] = _stored_state(stored[spec.trial_id], (spec.dataset.name, spec.eps) in growing)
        elif driver and (work.claims(spec.trial_id).exists() or (folder.exists() and not work.record.exists())):
            states[spec.trial_id] = ("running", "")
        elif spec.training is not None and not work.lacks(spec.evaluation.checkpoints):
            states[spec.trial_id] = ("missing", "trained; this evaluation is missing")
        elif folder.exists():
            states[spec.trial_id] = ("resumable", "a run was cut off; running the suite again goes on")
        else:
            states[spec.trial_id] = ("missing", "")
    return states


def _since(driver: Mapping[str, Any]) -> float:
    return datetime.fromisoformat(driver["since"]).timestamp()


_CODES = ("train_code_fingerprint", "code_fingerprint")


def _stored_state(row: dict, growing: bool) -> tuple[str, str]:
    if row["status"] == "failed":
        lines = str(row["error"] or "").strip().splitlines()
        return "failed", f"{lines[-1] if lines else 'no message'} (attempts: {row['attempts']:.0f})"
    codes = [row[name] for name in _CODES if isinstance(row[name], str)]
    other = row["status"] == "done" and growing and any(code != code_fingerprint() for code in codes)
    return row["status"], "made by other numeric code than the rest would be" if other else ""


def columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of text in columns, for tables of thousands of rows: a rich table would take ten seconds. Control
    characters become spaces."""
    plain = [["".join(char if char.isprintable() else " " for char in cell) for cell in row] for row in rows]
    widths = [max(map(len, cells)) for cells in zip(*plain, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in plain]


def calibration_table(specs: Sequence[TrialSpec], estimates: Mapping[str, Any]) -> Table:
    """The time of each variant and in total, of trials one after the other: estimates (`harness.calibration`) by trial
    id."""
    table = Table("variant", "trials", "training", "evaluation", "together", box=None, pad_edge=False)
    groups: dict[str, list[Any]] = {}
    for spec in specs:
        name = spec.variant if spec.variant == spec.role or spec.role == "student" else f"{spec.variant} ({spec.role})"
        groups.setdefault(name, []).append(estimates[spec.trial_id])
    for name, found in {**groups, "total": list(estimates.values())}.items():
        parts = (sum(getattr(each, part) for each in found) for part in ("train_s", "eval_s", "total_s"))
        table.add_row(name, str(len(found)), *map(duration, parts))
    return table


def found_trial(beginning: str, roots: Sequence[Path]) -> tuple[Store, str, list[str]]:
    """The store and the id of the trial whose id starts so, and which other stores have it too. Of several stores one
    that has it done, with its weights. InputError where there is none, or more than one trial."""
    found: dict[str, list[tuple[Store, str]]] = {}
    damaged: list[InputError] = []
    for store in map(Store, roots):
        try:
            statuses = store.statuses()
        except InputError as error:  # one of many is no reason to find nothing
            damaged.append(error)
            continue
        for trial_id, status in statuses.items():
            if trial_id.startswith(beginning):
                found.setdefault(trial_id, []).append((store, status))
    if not found:
        if damaged:
            raise damaged[0]
        raise InputError(f"no trial '{beginning}' in {', '.join(map(str, roots)) or 'results (there is no store)'}")
    if len(found) > 1:
        raise InputError(f"'{beginning}' is the beginning of {len(found)} trials: {', '.join(sorted(found)[:5])}")
    ((trial_id, holders),) = found.items()
    if len(holders) > 1:
        holders.sort(key=lambda held: (held[1] != "done", not _has_weights(held[0], trial_id)))
    return holders[0][0], trial_id, [str(store.root) for store, _ in holders[1:]]


def _has_weights(store: Store, trial_id: str) -> bool:
    ids = store.read("trials", [trial_id], ["training_id"])["training_id"].dropna()
    return any(WorkingFolder(store.root, training_id).kept_weights() for training_id in ids)


def show_suite(store: Store, trial_id: str, console: Console) -> None:
    """Print a suite that makes a trial. InputError as `suite_of`."""
    console.out(stored_suite(store, trial_id).rstrip(), highlight=False)


def show_trial(store: Store, trial_id: str, console: Console) -> None:
    """Print a trial."""
    row = {key: value for key, value in store.row(trial_id).items() if value is not None and value == value}
    spec = json.loads(row.pop("spec"))
    error = row.pop("error", None)
    console.print(_key_values({**row, "eps": eps_text(row["eps"]), "store": str(store.root)}))
    _print_accuracies(store.read("class_accuracy", [trial_id]), console)
    for note in store.read("notes", [trial_id]).itertuples():
        console.print(f"note ({note.source}): {note.text}", soft_wrap=True)
    console.print("specification, without what is null:")
    console.print(yaml.safe_dump(as_told(spec), sort_keys=False, allow_unicode=True), soft_wrap=True, end="")
    if error:
        console.print(error, soft_wrap=True)


def _print_accuracies(rows: pd.DataFrame, console: Console) -> None:
    """A line per class, a column per attack, for each checkpoint; attacks that do not fit side by side go below."""
    if rows.empty:
        return
    names = rows.drop_duplicates("class_index").set_index("class_index")["class_name"].sort_index().astype(str)
    accuracy = rows.assign(accuracy=rates(rows["correct"], rows["n"]))
    longest = max(len("class"), *map(len, names))
    at_once = max(1, (console.width - min(longest, _LONGEST_CLASS)) // (_ATTACK + 2))
    for checkpoint, part in accuracy.groupby("checkpoint", sort=False, observed=True):
        attacks = attack_order([str(name) for name in part["attack"].unique()])
        wide = part.pivot(index="class_index", columns="attack", values="accuracy").reindex(names.index)
        console.print(f"accuracy per class, %, checkpoint {checkpoint}:")
        for start in range(0, len(attacks), at_once):
            console.print(_class_table(names, wide[attacks[start : start + at_once]]))


_LONGEST_CLASS, _ATTACK = 30, 13  # columns of the terminal


def _class_table(names: pd.Series, accuracy: pd.DataFrame) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("class", overflow="fold", max_width=_LONGEST_CLASS)
    for attack in accuracy:
        table.add_column(attack_title(attack), justify="right", width=_ATTACK, overflow="fold")
    for name, values in zip(names, accuracy.to_numpy(), strict=True):
        table.add_row(name, *("–" if pd.isna(value) else f"{100 * value:.1f}" for value in values))
    return table


def _key_values(values: dict) -> Table:
    table = Table("", "", show_header=False, box=None, pad_edge=False)
    table.columns[1].overflow = "fold"
    for key, value in values.items():
        table.add_row(key, f"{value:,.4g}" if isinstance(value, float) else str(value))
    return table


def _methods() -> Table:
    table = Table("method", "labels", "weights", "margins", "", box=None, pad_edge=False)
    for name, cls in sorted(methods.METHODS.items()):
        resolved = methods.resolve(name, 100)
        summary = (cls.__doc__ or "").strip().splitlines()[0]
        policies = (resolved[kind]["name"] for kind in ("labels", "weights", "margins"))
        table.add_row(name, *policies, cls.reference or summary)
    return table


def _policies() -> Table:
    table = Table("axis", "policy", "", box=None, pad_edge=False)
    for kind, policies in methods.POLICIES.items():
        for name, cls in sorted(policies.items()):
            table.add_row(kind, name, reference.sentences(cls))
    return table


def _described(names: dict[str, str]) -> Table:
    table = Table("name", "", box=None, pad_edge=False)
    for name, description in names.items():
        table.add_row(name, description)
    return table


def _metrics() -> Table:
    """One of a family stands for all; other names have a line each."""
    told = {name: each.meaning or each.title for name, each in METRICS.items()}
    told |= {"worst_3": f"{METRICS['worst_3'].meaning}; worst_5 and so on of as many"}
    return _described(told | {name: f"another name of {own}" for name, own in ALIASES.items()})


def in_full(what: str, name: str) -> Group:
    """One name of a list with all that can be set for it. InputError where there is no more to say of it."""
    return _reference(reference.details(what, name))


def _reference(blocks: Iterable[reference.Block]) -> Group:
    """Blocks of keys one below the other."""
    return Group(*(part for block in blocks for part in (Text(f"{block.name}: {block.text}"), _keys(block), Text())))


def _keys(block: reference.Block) -> Table:
    """Each key, and beside it what the columns of `docs/suites.md` say: five columns are too many for a terminal."""
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for key in block.keys:
        owner = f"  ({key.owner})" if key.owner else ""
        told = f"{key.kind}; default: {key.default}{owner}\n{key.meaning}\n{key.example}"
        table.add_row(Text(key.name), Text(told))
    return table


LISTS: dict[str, Callable[[], RenderableType]] = {
    "methods": _methods,
    "policies": _policies,
    "datasets": lambda: _described({name: info.description for name, info in DATASETS.items()}),
    "models": lambda: _described(
        {
            name: info.description + "".join(f"; {key}={value}" for key, value in info.params.items())
            for name, info in MODELS.items()
        }
    ),
    "attacks": lambda: _described({name: info.description for name, info in ATTACKS.items()}),
    "metrics": _metrics,
    "suites": lambda: _described(suite_names()),
    "keys": lambda: _reference(map(reference.key_block, reference.RECORDS)),
}
