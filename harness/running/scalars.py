"""Curves for TensorBoard, a run per name, as tensorboardX writes them, which comes with Ray Tune.

They are written where they are told, not behind a queue whose thread a full disk ends: nobody would empty it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from harness.errors import InputError
from harness.events import Event, OnEvent
from harness.report.write import file_names
from harness.spec import TrialSpec


class Scalars:
    """Curves in a folder, which is made with the first. InputError where that cannot be; where it cannot be written to
    later, `say` is told once and there are no more curves."""

    def __init__(self, folder: Path, say: Callable[[str], None]) -> None:
        above = folder.absolute()
        there = next(path for path in (above, *above.parents) if os.path.lexists(path))
        if not there.is_dir() or not os.access(there, os.W_OK):
            raise InputError(f"cannot write to {folder}: {there} is no folder that can be written to")
        self._folder, self._say = folder, say
        self._over = False
        self._files: dict[str, Any] = {}

    def add(self, run: str, step: int, values: Mapping[str, object], about: str = "") -> None:
        """The numbers among the values. about: a text that stands with a new run."""
        from tensorboardX.proto.event_pb2 import Event as Record
        from tensorboardX.summary import scalar, text

        found = [scalar(key, value) for key, value in values.items() if isinstance(value, float)]
        if about and run not in self._files:
            found.append(text("setting", about))
        if self._over:
            return
        try:
            file = self._file(run)
            for summary in found:
                file.write_event(Record(wall_time=time.time(), step=step, summary=summary))
            file.flush()
        except OSError as error:
            self._over = True
            self._say(f"warning: no more curves: {error}")

    def _file(self, run: str) -> Any:
        from tensorboardX.event_file_writer import EventsWriter

        if run not in self._files:
            (self._folder / run).mkdir(parents=True, exist_ok=True)
            self._files[run] = EventsWriter(str(self._folder / run / "events"))
        return self._files[run]

    def close(self, *runs: str) -> None:
        """The files of these runs, by default of all."""
        for file in [self._files.pop(run) for run in runs or list(self._files) if run in self._files]:
            with suppress(OSError):  # it was told when it was written
                file.close()

    def of_trials(self, specs: Sequence[TrialSpec], on_event: OnEvent) -> OnEvent:
        """What is told of every epoch of these trials becomes curves; all events go on to `on_event`."""
        names = file_names(spec.variant for spec in specs)
        runs = {spec.trial_id: f"{names[spec.variant]}-seed{spec.seed}-{spec.trial_id[:8]}" for spec in specs}

        def follow(event: Event) -> None:
            if event["event"] == "epoch":
                run = runs[event["trial_id"]]
                self.add(run, event["epoch"], event)
                if event["epoch"] == event["epochs"]:  # of thousands of trials not all files stay open
                    self.close(run)
            on_event(event)

        return follow


@contextmanager
def scalars_in(folder: Path | None, say: Callable[[str], None]) -> Iterator[Scalars | None]:
    """Curves in a folder, none without one. say: see `Scalars`."""
    scalars = Scalars(folder, say) if folder else None
    try:
        yield scalars
    finally:
        if scalars is not None:
            scalars.close()
