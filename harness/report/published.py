"""Numbers of papers beside measured ones: those of the same data set, network, threat model and attack, never ranked,
each with the protocol in words. A frame of them comes from whoever asks for a report: a line per number, the columns of
`harness.published.papers.published`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from harness.attacks.registry import ascent_settings, attack_info, attack_place, declared
from harness.data.registry import DATASETS
from harness.report.captions import attack_words
from harness.report.data_names import read_spec
from harness.report.results import records
from harness.report.scores.leaderboard import Leaderboard
from harness.report.tables.grid import MAIN, number
from harness.spec import NetworkSpec
from harness.statistics.registry import METRICS

TITLE = "Published numbers beside measured ones"
NOTE = (
    "Of the same data set, network, threat model and attack; measured rows first, the others as papers or their "
    "repositories state them, in percent except NSD. They are not ranked: protocols differ as is said beside each."
)
ALL = "all"
_CHECKPOINTS = {"best_validation": "best on held-out images", "last": "last epoch", "given": "as it was given"}


@dataclass(frozen=True)
class Line:
    """What is measured or published of one network. called: the method, with what sets it apart. name: the variant, or
    who states it. numbers: average, worst class and NSD. link: to the source."""

    attack: str
    method: str
    called: str
    name: str
    measured: bool
    numbers: list[str]
    protocol: str
    link: str = ""


def alike(published: pd.DataFrame, spec: Mapping[str, Any], attacks: Iterable[str]) -> pd.DataFrame:
    """The published numbers on what a specification says (data set, network, norm, eps) under some attacks, in column
    `beside` the attack of those that each belongs to: its own, or one of as many steps that differs in less."""
    dataset, network = spec.get("dataset") or {}, spec.get("student") or {}
    if not network or dataset.get("path"):
        return published.iloc[:0].assign(beside=None)
    name = NetworkSpec(name=network["name"], params=network.get("params") or {}).label
    same = (published["dataset"] == dataset["name"]) & (published["network"] == name)
    same &= published["imbalance"].map(lambda value: value == dataset.get("imbalance"))
    same &= (published["norm"] == spec.get("norm")) & ((published["eps"].astype(float) - spec["eps"]).abs() < 1e-9)
    there = {attack: _kind(attack) for attack in attacks if declared(attack)}
    kinds = {kind: attack for attack, kind in reversed(there.items())}
    found = published[same]
    return found.assign(
        beside=[name if name in there else kinds.get(_kind(name)) for name in found["attack"]]
    ).dropna(subset="beside")  # fmt: skip


def _kind(attack: str) -> Any:
    """What attacks that stand beside each other share."""
    if attack_info(attack).ascent is None:
        return attack
    settings = ascent_settings({"name": attack})
    return settings.objective, settings.direction, settings.steps


def lines(board: Leaderboard, setting: tuple, checkpoint: str, published: pd.DataFrame) -> list[Line]:
    """What stands beside each other in one setting, by attack and method; empty where nothing is published on it."""
    part = board.of(setting)
    rows = part.rows[part.rows["role"] != "teacher"]
    scores = part.scores[part.scores["checkpoint"].isin([checkpoint, "given"]) & part.scores["row"].isin(rows.index)]
    spec = next((read_spec(part.specs[row]) for row in rows.index if row in part.specs), {})
    found = alike(published, spec, dict.fromkeys(map(str, scores["attack"])))
    if found.empty:
        return []
    cells = scores[scores["metric"].isin(MAIN)].groupby(["attack", "row"], observed=True)
    by_cell = {key: cell.set_index("metric") for key, cell in cells}
    listed = []
    pairs = dict.fromkeys(zip(found["beside"], found["method"], strict=True))
    for attack, method in sorted(pairs, key=lambda pair: (attack_place(pair[0]), pair[1])):
        measured = {}
        for row in rows.index[rows["method"] == method]:
            if (cell := by_cell.get((attack, row))) is not None:
                measured[row] = _measured(board, row, attack, cell)
                numbers = [number(cell["value"].get(name), METRICS[name]) for name in MAIN]
                of = attack, method, method, str(rows["variant"][row])
                listed.append(Line(*of, True, numbers, _told(measured[row])))
        stated = found[(found["beside"] == attack) & (found["method"] == method)]
        for fact in records(stated.sort_values("year", kind="stable")):
            told = _differences(fact, list(measured.values()))
            of = attack, method, called(fact), source(fact)
            listed.append(Line(*of, False, shown(fact), told, fact["link"]))
    return listed


def called(fact: Mapping[str, Any]) -> str:
    """The method of a published number, with what sets it apart."""
    return fact["method"] + (f" ({fact['variant']})" if fact["variant"] else "")


def source(fact: Mapping[str, Any]) -> str:
    """Who states a published number, and where."""
    return f"{fact['cite']}: {fact['place']}" + (", second hand" if fact["second_hand"] else "")


def shown(fact: Mapping[str, Any]) -> list[str]:
    """Average, worst class and NSD of a published number, with their deviations over seeds where they are stated."""

    def text(name: str) -> str:
        value, deviation = fact[name], fact.get(f"{name}_deviation")
        share = None if value is None else value / (100 if METRICS[name].percent else 1)
        return number(share, METRICS[name]) + (f" ± {deviation:.2f}" if deviation is not None else "")

    return [text(name) for name in MAIN]


def protocol(facts: Sequence[Mapping[str, Any]]) -> str:
    """How the published numbers of one network came about, as far as it is said."""
    attacks = [_published(fact)["attack"] for fact in facts if len(fact["request"]) > 1]
    return _told(_published(facts[0]) | {"attack": " or ".join(filter(None, attacks))}, _by(facts[0]))


def _published(fact: Mapping[str, Any]) -> dict[str, str | None]:
    """What decides a published number, by name; None: not said."""
    return {
        "attack": attack_words(fact["attack"], fact["request"], 10),
        "seeds": fact["seeds"] and str(fact["seeds"]),
        "checkpoint": fact["checkpoint"],
        "epochs": fact["epochs"] and str(fact["epochs"]),
        "training images": ALL,
        "test images": ALL,
        "teacher": fact["teacher"],
    }


def _measured(board: Leaderboard, row: int, attack: str, cell: pd.DataFrame) -> dict[str, str | None]:
    """The same of a measured one."""
    spec, teacher, request = read_spec(board.specs[row]), board.rows["teacher"][row], board.requests.get(row, {})
    dataset, training, images = spec["dataset"], spec.get("training") or {}, int(cell["images"].iloc[0])
    every = images == sum(DATASETS[dataset["name"]].test_counts or ())
    return {
        "attack": attack_words(attack, request.get(attack, {}), int(cell["classes"].iloc[0])),
        "seeds": str(cell["seeds"].max()),  # of this attack: a row may have more
        "checkpoint": _CHECKPOINTS.get(str(cell["checkpoint"].iloc[0])),
        "epochs": str(training["epochs"]) if training else None,
        "training images": f"{dataset['train_images']:,}" if dataset.get("train_images") else ALL,
        "test images": ALL if every else f"{images:,}",
        "teacher": None if pd.isna(teacher) else str(teacher),
    }


def _told(own: Mapping[str, str | None], more: Iterable[str] = ()) -> str:
    return "; ".join([*(f"{name}: {text}" for name, text in own.items() if text and text != ALL), *more])


def _differences(fact: Mapping[str, Any], measured: Sequence[Mapping[str, str | None]]) -> str:
    """In which way a published number came about otherwise than the measured ones of its method."""
    own = _published(fact)
    whose = [*_by(fact), *([f"after {fact['second_hand']}"] if fact["second_hand"] else [])]
    if not measured:
        return _told(own, ["not measured here", *whose])
    said, silent = [], []
    for name, text in own.items():
        texts = list(dict.fromkeys(here for each in measured if (here := each[name])))
        if text is None and texts:
            silent.append(name)
        elif text and texts != [text]:
            said.append(f"{name}: {text}, here {' or '.join(texts) or 'none'}")
    return "; ".join([*said, *([f"not said: {', '.join(silent)}"] if silent else []), *whose])


def _by(fact: Mapping[str, Any]) -> list[str]:
    return [f"by {fact['by']}", *([fact["remark"]] if fact["remark"] else [])]
