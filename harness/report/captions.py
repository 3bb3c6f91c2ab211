"""What a table must say of its numbers: data, eps, seeds, selection, NSD form, attacks and images. Plain text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from harness.attacks import ATTACKS
from harness.report.leaderboard import Leaderboard
from harness.report.results import read_spec
from harness.report.selection import RULES

ATTACK_TITLES = {
    "clean": "Clean", "fgsm": "FGSM", "pgd20": "PGD-20", "pgd20_last": "PGD-20 (last)", "cw20": "CW-20",
    "aa_short": "AA (short)", "aa_standard": "AA", "apgd-ce": "APGD-CE", "apgd-t": "APGD-T", "fab-t": "FAB-T",
    "square": "Square",
}  # fmt: skip


def attack_title(name: object) -> str:
    """How tables and figures call an attack."""
    return ATTACK_TITLES.get(str(name), str(name))


def eps_text(eps: float) -> str:
    """8/255 where it is one of those, else the number."""
    numerator = eps * 255
    if abs(numerator - round(numerator)) < 1e-6 and 0 < numerator < 255 and len(f"{eps:g}") > 4:
        return f"{round(numerator)}/255"
    return f"{eps:g}"


def setting_title(setting: tuple) -> str:
    """A heading for a data set, a student and an eps."""
    dataset, student, eps = setting
    return f"{dataset}, {student}, L-inf eps {eps_text(eps)}"


def caption(board: Leaderboard, setting: tuple, checkpoint: str) -> list[str]:
    """Sentences that belong under every table of one setting."""
    part = board.of(setting)
    scores = part.scores[part.scores["checkpoint"].isin([checkpoint, "given"])]
    sentences = [f"{setting_title(setting)}.", _seeds(part.rows), f"Checkpoint {RULES.get(checkpoint, checkpoint)}."]
    sentences.append("Avg. and Worst: mean and smallest of the class-wise accuracies, in percent.")
    sentences.append("NSD: population standard deviation over classes divided by their mean, lower is fairer.")
    sentences += _attacks(part, scores)
    if (part.rows["role"] == "student").sum() > 1:
        sentences.append("Best student in bold, second underlined.")
    if setting in board.baselines:
        sentences.append(_marks(board.baselines[setting], part.scores))
    if part.rows["teacher"].notna().any():
        sentences.append("Students share their teacher: what is said of them holds for that teacher.")
    return sentences


def _seeds(rows: pd.DataFrame) -> str:
    lists = [text for text in rows.loc[rows["role"] != "teacher", "seed_list"].unique() if text]
    if len(lists) == 1:
        many = "," in lists[0]
        return (
            f"Mean over seeds {lists[0]}."
            if many
            else f"One seed ({lists[0]}): differences between seeds are not in these numbers."
        )
    return "Mean over the seeds of each row; their number is shown."


def _marks(baseline: str, scores: pd.DataFrame) -> str:
    kinds = ", ".join(sorted(scores["pairing"].dropna().unique())) if "pairing" in scores else ""
    seeds = "difference_seed_low" in scores and scores["difference_seed_low"].notna().any()
    over = " and ".join(([f"over test samples ({kinds})"] if kinds else []) + (["over seeds"] if seeds else []))
    meaning = f"↑ better, ↓ worse, ≈ inside the noise, by 95% intervals of the difference {over}"
    return f"Against {baseline}: {meaning}; no sign: no interval."


def _attacks(board: Leaderboard, scores: pd.DataFrame) -> list[str]:
    """A sentence per attack: its settings, from the suite's own requests, and its number of images."""
    spec = next((found for found in map(read_spec, board.specs.values()) if found), {})
    requests = {request["name"]: request for request in (spec.get("evaluation") or {}).get("attacks", [])}
    sentences = []
    for name in [attack for attack in board.attacks if attack in set(scores["attack"])]:
        images = sorted({int(count) for count in scores.loc[scores["attack"] == name, "images"].dropna()})
        parts = [*_ascent(name, requests.get(name, {})), images_text(images)]
        sentences.append(f"{attack_title(name)}: {', '.join(part for part in parts if part)}.")
    return sentences


def images_text(images: Sequence[int]) -> str:
    """10,000 images; a range where rows differ."""
    if not images:
        return ""
    return f"{images[0]:,} images" if len(images) == 1 else f"{images[0]:,} to {images[-1]:,} images"


def _ascent(name: str, request: Mapping[str, Any]) -> list[str]:
    info = ATTACKS.get(name)
    if info is None or info.ascent is None:
        return [info.description.split(": ")[-1]] if info and info.stages else []
    steps, share = request.get("steps") or info.ascent.steps, info.ascent.step_share
    size = (
        f"{request['step_size']:g}"
        if request.get("step_size")
        else {1.0: "eps", 0.25: "eps/4"}.get(share, f"{share:g} eps")
    )
    parts = [f"{steps} steps of {size}" if steps > 1 else f"one step of {size}"]
    if info.ascent.start != "clean":
        restarts = request.get("restarts") or info.ascent.restarts
        parts.append(f"{restarts} random start" + ("s" if restarts > 1 else ""))
        parts.append("robust on every iterate" if info.ascent.every_iterate else "judged on the last iterate")
    return parts
