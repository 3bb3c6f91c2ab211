"""The card of one network: what it is, how it did and what made it, from its rows in a store. Markdown; no torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

import methods
from harness.attacks.registry import attack_place
from harness.report.captions import attack_title, eps_text
from harness.report.escape import markdown
from harness.report.scores.counts import class_counts
from harness.report.tables.grid import MAIN, number
from harness.report.tables.tables import markdown_table
from harness.spec import SELECTED, TrialSpec
from harness.statistics.registry import METRICS


def card(spec: TrialSpec, row: Mapping[str, Any], rows: pd.DataFrame, checkpoint: str) -> str:
    """row: of the trial, without what is null. rows: its `class_accuracy` at that checkpoint."""
    head = f"# {markdown(spec.variant)} on {markdown(spec.dataset.label)}, seed {spec.seed}"
    under = (
        f"Percent of the test images, L-inf eps {eps_text(spec.eps)}. One network: what a seed changes is not in it."
    )
    results = f"{under}\n\n{class_table(rows)}" if len(rows) else "It was not attacked."
    return f"{head}\n\n{_what(spec, checkpoint)}\n\n{results}\n\n{_made_by(row)}\n"


def class_table(rows: pd.DataFrame) -> str:
    """Accuracy of each class under each attack, from rows of one network; below, the metrics of all classes."""
    counts = class_counts(rows, ["attack"])
    order = sorted(range(len(counts.keys)), key=lambda place: attack_place(str(counts.keys["attack"][place])))
    counts = counts.where(np.array(order))
    names = rows.drop_duplicates("class_index").set_index("class_index")["class_name"].astype(str)
    lines = [
        [markdown(name), *(number(value, METRICS["average"], 1) for value in values)]
        for name, values in zip(names.sort_index(), counts.accuracy[:, np.sort(names.index)].T, strict=True)
    ]
    for metric in (METRICS[name] for name in MAIN):
        values = metric.values(counts.accuracy, counts.images)
        lines.append([f"**{metric.title}**", *(number(value, metric, 1 if metric.percent else 2) for value in values)])
    return markdown_table(["class", *(markdown(attack_title(name)) for name in counts.keys["attack"])], lines)


def _what(spec: TrialSpec, checkpoint: str) -> str:
    """Network, method, data and training, in a sentence each."""
    network = f"`{spec.student.label}`"
    if spec.method is None or spec.training is None:
        return f"{network}, trained elsewhere and given as a file."
    name = str(spec.method["name"])
    known = methods.METHODS.get(name)
    policies = ", ".join(f"{kind} {spec.method[kind]['name']}" for kind in methods.POLICIES)
    images = f"a subset of {spec.dataset.train_images:,}" if spec.dataset.train_images else "all"
    learnt = "".join(f"; {role} `{source.label}`" for role, source in spec.teachers.items())
    chosen = "chosen on held-out training images" if checkpoint == SELECTED else "of the last epoch"
    return (
        f"{network}, trained with `{name}`{f' ({known.reference})' if known and known.reference else ''}: {policies}"
        f"{learnt}. {spec.training.epochs} epochs on {images} training images. Weights: {checkpoint}, {chosen}."
    )


def _made_by(row: Mapping[str, Any]) -> str:
    """The trial, and the code and machine that trained the network, or evaluated one from elsewhere."""
    facts = {name: row.get(f"train_{name}", row.get(name)) for name in ("git_commit", "versions", "device")}
    versions = json.loads(facts["versions"]) if facts["versions"] else {}
    said = {
        "trial": f"{row['trial_id']}, numerics version {row['numerics_version']}",
        "commit": facts["git_commit"],
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items() if version),
        "device": facts["device"],
        "finished": row.get("finished"),
    }
    return "\n".join(f"- {name}: {markdown(text)}" for name, text in said.items() if text)
