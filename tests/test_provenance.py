"""Where numbers come from: the fingerprint of the code."""

from __future__ import annotations

import pytest

from harness import fingerprint
from harness.fingerprint import NUMERIC

STEP = b'''
"""A module."""
import torch
from torch import Tensor, nn

from harness.engine import forward
from methods.lazy import torch as lazy

FACTOR = 0.25


def step(x: Tensor, eps: float = 8 / 255) -> Tensor:
    """One step."""
    from harness.seeds import seeded

    return x + FACTOR * eps * x.sign()  # up


class Other(nn.Module):
    """A class."""

    def forward(self, x):
        """Its forward."""
        return forward(x)
'''
REST = b"def rest(x):\n    return -x\n"


def changed(old: bytes, new: bytes) -> bytes:
    assert old in STEP
    return STEP.replace(old, new)


SAME = {
    "comment": [changed(b"# up", b"# upwards, along the gradient"), REST],
    "docstrings": [changed(b'"""One step."""', b'"""Words.\n\n    More words."""').replace(b'"""A module."""', b""), REST],
    "formatting": [changed(b"x + FACTOR * eps * x.sign()", b"(\n        x\n        + FACTOR * eps * x.sign()\n    )"), REST],
    "another order of files": [REST, STEP],
    "one file": [STEP + REST],
    "a split file": [
        b"import torch\nfrom torch import Tensor\n" + STEP[STEP.index(b"FACTOR") : STEP.index(b"class")],
        b"from torch import nn\nfrom harness.other import forward\n" + STEP[STEP.index(b"class") :],
        REST,
    ],
    "imports from other places": [
        changed(b"from harness.engine import", b"from harness.engine.forwards import")
        .replace(b"from harness.seeds", b"from harness.words.seeds")
        .replace(b"from methods.lazy", b"import harness.x\nfrom methods.words.lazy"),
        REST,
    ],
}
OTHER = {
    "constant": [changed(b"0.25", b"0.26"), REST],
    "whole number": [changed(b"8 / 255", b"8.0 / 255"), REST],
    "operator": [changed(b"eps * x", b"eps / x"), REST],
    "order of operands": [changed(b"x + FACTOR * eps", b"FACTOR * eps + x"), REST],
    "default": [changed(b"eps: float = 8 / 255", b"eps: float = 4 / 255"), REST],
    "name": [changed(b"x.sign", b"x.sin"), REST],
    "another package": [changed(b"import torch\n", b"import numpy as torch\n"), REST],
    "a definition less": [STEP],
}


@pytest.mark.parametrize("sources", SAME.values(), ids=SAME)
def test_the_fingerprint_survives(sources):
    assert fingerprint.fingerprint(sources) == fingerprint.fingerprint([STEP, REST])


@pytest.mark.parametrize("sources", OTHER.values(), ids=OTHER)
def test_the_fingerprint_changes_with(sources):
    assert fingerprint.fingerprint(sources) != fingerprint.fingerprint([STEP, REST])


def test_the_fingerprint_reads_everything_that_it_names():
    root = fingerprint._ROOT
    assert [name for name in NUMERIC if not (root / name).exists()] == []
    numeric = {name.removesuffix(".py") for name in NUMERIC}
    assert {"methods", "harness/attacks", "harness/evaluate", "harness/training"} <= numeric
    assert len(fingerprint.code_fingerprint()) == 12
