"""Curves for TensorBoard, a run per name, as tensorboardX writes them, which comes with Ray Tune."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from harness.errors import InputError
from harness.events import Event, OnEvent
from harness.report.write import file_names
from harness.spec import TrialSpec


class Scalars:
    """Curves in a folder, which is made with the first. InputError where that cannot be."""

    def __init__(self, folder: Path) -> None:
        above = folder.absolute()
        there = next(path for path in (above, *above.parents) if os.path.lexists(path))
        if not there.is_dir() or not os.access(there, os.W_OK):
            raise InputError(f"cannot write to {folder}: {there} is no folder that can be written to")
        self._folder = folder
        self._writers: dict[str, Any] = {}

    def add(self, run: str, step: int, values: Mapping[str, object], about: str = "") -> None:
        """The numbers among the values. about: a text that stands with a new run."""
        from tensorboardX import SummaryWriter

        if run not in self._writers:
            self._writers[run] = SummaryWriter(str(self._folder / run))
            if about:
                self._writers[run].add_text("setting", about)
        for key, value in values.items():
            if isinstance(value, float):
                self._writers[run].add_scalar(key, value, step)
        self._writers[run].flush()

    def close(self) -> None:
        """Waits until all is written."""
        for writer in self._writers.values():
            writer.close()

    def of_trials(self, specs: Sequence[TrialSpec], on_event: OnEvent) -> OnEvent:
        """What is told of every epoch of these trials becomes curves; all events go on to `on_event`."""
        names = file_names(spec.variant for spec in specs)
        runs = {spec.trial_id: f"{names[spec.variant]}-seed{spec.seed}-{spec.trial_id[:8]}" for spec in specs}

        def follow(event: Event) -> None:
            if event["event"] == "epoch":
                run = runs[event["trial_id"]]
                self.add(run, event["epoch"], event)
                if event["epoch"] == event["epochs"]:  # of thousands of trials not all files stay open
                    self._writers.pop(run).close()
            on_event(event)

        return follow


@contextmanager
def scalars_in(folder: Path | None) -> Iterator[Scalars | None]:
    """Curves in a folder, written when the block ends at the latest; none without a folder."""
    scalars = Scalars(folder) if folder else None
    try:
        yield scalars
    finally:
        if scalars is not None:
            scalars.close()
