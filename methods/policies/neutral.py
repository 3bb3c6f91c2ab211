"""No weights, no margins: every sample counts once and is attacked with the same radius."""

from __future__ import annotations

from methods.base import MarginPolicy, WeightPolicy
from methods.registry import register


@register("none")
class NoWeights(WeightPolicy):
    """Every sample counts once."""


@register("none")
class NoMargins(MarginPolicy):
    """Every sample has the suite's eps."""
