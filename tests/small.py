"""A suite so small that a trial takes a second: digits, a tiny network, one teacher."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import yaml

from harness.spec import TrialSpec
from harness.suites.plan import plan
from harness.suites.suite import load_suite
from harness.trial import run_trial

SUITE: dict[str, Any] = {
    "name": "small",
    "dataset": {"name": "digits", "train_images": 200, "test_images": 60},
    "student": {"name": "cnn", "width": 4},
    "teacher": {"model": {"name": "cnn", "width": 4}, "method": "at"},
    "eps": 0.1,
    "training": {
        "epochs": 2,
        "batch_size": 50,
        "lr": 0.05,
        "milestones": [0.5],
        "attack_steps": 3,
        "validation_steps": 2,
    },
    "methods": ["at", "rslad", "absld_reweight"],
    "evaluation": {"attacks": ["clean", "pgd3"], "chunk_size": 25},
}


DEVICE = "cpu"  # of the tests: what `pytest --device` says


def suite_file(folder: Path, **changes: Any) -> str:
    """The suite as a file, with some keys replaced."""
    path = folder / "small.yaml"
    path.write_text(yaml.safe_dump({**SUITE, **changes}))
    return str(path)


def small_specs(folder: Path, *overrides: str, **changes: Any) -> dict[str, TrialSpec]:
    """Its trials by variant, on the device of the tests."""
    given = ["resources.gpu=1"] if DEVICE == "cuda" else []
    return {spec.variant: spec for spec in plan(load_suite(suite_file(folder, **changes), [*given, *overrides]))}


def run_to_end(spec: TrialSpec, root: Path, **options: Any) -> list[dict[str, Any]]:
    """All events of a trial, computed with one thread."""
    root.mkdir(parents=True, exist_ok=True)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return list(run_trial(spec, root, **options))
    finally:
        torch.set_num_threads(before)


def weights(root: Path, spec: TrialSpec, checkpoint: str = "last") -> dict[str, torch.Tensor]:
    """The kept weights of a trial."""
    return torch.load(root / "work" / spec.training_id / f"{checkpoint}.pt", weights_only=True)


def assert_same_weights(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    """Equal bit for bit."""
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(one[name], other[name]), name


def spoil(path: Path, how: str, place: float = 0.5) -> None:
    """Damage a file: `flipped` (a bit), `truncated`, `empty`, `foreign` or `gone`. place: where, as a part of it."""
    content = path.read_bytes()
    if how == "gone":
        path.unlink()
    elif content:
        middle = int(place * len(content))
        path.write_bytes({
            "truncated": content[:middle],
            "empty": b"",
            "flipped": content[:middle] + bytes([content[middle] ^ 16]) + content[middle + 1:],
            "foreign": b"[]",
        }[how])  # fmt: skip
