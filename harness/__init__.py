"""A benchmark harness for class-wise fair adversarial training. In a notebook: `from harness import load_results,
run_suite, run_trial`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from harness.api import load_results, run_suite
    from harness.trial import run_trial

__all__ = ["load_results", "run_suite", "run_trial"]


def __getattr__(name: str) -> Any:
    """Import on use: `run_trial` brings torch along, reading results does not."""
    if name == "run_trial":
        from harness.trial import run_trial

        return run_trial
    if name in ("load_results", "run_suite"):
        from harness import api

        return getattr(api, name)
    raise AttributeError(f"module 'harness' has no attribute '{name}'")
