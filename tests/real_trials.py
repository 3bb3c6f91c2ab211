"""Real trials that meet trouble on the way, and helpers to compare what they leave: run in workers by name."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pandas as pd
from pandas.api.types import is_numeric_dtype

from harness.spec import TrialSpec
from harness.store.store import Store
from harness.store.tables import TABLES

TIMES = [
    "train_s", "eval_s", "train_cpu_s", "eval_cpu_s", "seconds", "peak_memory_mb", "peak_reserved_mb",
    "attempts", "started", "finished", "command",
]  # fmt: skip


def assert_same_numbers(one: Path, other: Path) -> None:
    """Two stores hold the same trials with the same rows, bit for bit; times and notes of mended damage apart."""
    for table in TABLES:
        first, second = (_sorted(Store(root).read(table)) for root in (one, other))
        pd.testing.assert_frame_equal(first, second, check_exact=True)
        assert any(is_numeric_dtype(first[name]) for name in first) or table == "notes"


def _sorted(frame: pd.DataFrame) -> pd.DataFrame:
    frame = frame.drop(columns=TIMES, errors="ignore")
    frame = frame[frame["source"] != "damage"] if "source" in frame else frame
    names = [name for name in frame if frame[name].dtype.kind in "iOUb" or frame[name].dtype == "category"]
    return frame.astype({name: str for name in names if frame[name].dtype == "category"}).sort_values(
        names, ignore_index=True
    )


def killed_in_mid_epoch(
    spec: TrialSpec, store_root: Path, *, should_stop: Callable[[], bool], **options: Any
) -> Iterator[dict[str, Any]]:
    """The students' first attempt is killed in the middle of its second epoch (of four steps)."""
    from harness.trial import run_trial

    steps, mark = 0, store_root / f"killed-{spec.trial_id}"

    def count() -> bool:
        nonlocal steps
        steps += 1
        if steps == 6 and spec.role == "student" and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return should_stop()

    yield from run_trial(spec, store_root, should_stop=count, **options)


def held_in_training(
    spec: TrialSpec, store_root: Path, *, should_stop: Callable[[], bool], **options: Any
) -> Iterator[dict[str, Any]]:
    """Students wait after their first epoch for as long as there is a file `.hold`."""
    from harness.trial import run_trial

    for event in run_trial(spec, store_root, should_stop=should_stop, **options):
        yield event
        while event["event"] == "epoch" and spec.role == "student" and (store_root / ".hold").exists():
            if should_stop():
                break
            time.sleep(0.05)


def waits_for_helpers(spec: TrialSpec, store_root: Path, **options: Any) -> Iterator[dict[str, Any]]:
    """Goes on with its evaluation when so many helpers work on it as the file `.wanted` says."""
    from harness.trial import run_trial

    wanted = int((store_root / ".wanted").read_text())
    for event in run_trial(spec, store_root, **options):
        yield event
        end = time.monotonic() + 300
        while event["event"] == "evaluation" and len(list(store_root.glob(".helper-*"))) < wanted:
            assert time.monotonic() < end, "no helper came"
            time.sleep(0.05)


def helps_slowly(
    spec: TrialSpec, store_root: Path, *, should_stop: Callable[[], bool], **options: Any
) -> Iterator[dict[str, Any]]:
    """Waits after its first piece until all that are wanted have done one, else the first of them may leave nothing for
    the last, and rests after each. One is killed with a piece half done where the file `.kill` asks for it."""
    from harness.trial import help_trial

    def rest() -> bool:
        time.sleep(0.3)
        return should_stop()

    mark = store_root / f".helper-{os.getpid()}"
    with suppress(FileNotFoundError):
        (store_root / ".kill").unlink()  # one of them can
        import harness.evaluation.evaluate as shared

        def die(*arguments: Any, **options: Any) -> None:
            mark.touch()
            (store_root / ".killed").touch()
            os.kill(os.getpid(), signal.SIGKILL)

        shared.evaluate_chunk = die  # type: ignore[assignment]
    wanted = int((store_root / ".wanted").read_text())
    for done, event in enumerate(help_trial(spec, store_root, should_stop=rest, **options)):
        yield event
        if done == 1:
            mark.touch()  # the driver has been told of the piece
        while done and len(list(store_root.glob(".helper-*"))) < wanted and not should_stop():
            time.sleep(0.05)
