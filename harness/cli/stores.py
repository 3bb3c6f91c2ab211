"""`merge`, `verify`, `repair`: result stores as such."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from harness.cli.messages import (
    out,
)
from harness.cli.options import path_of
from harness.errors import ExitCode


def merge(
    stores: Annotated[list[Path], typer.Argument(help="result stores to join")],
    into: Annotated[Path, typer.Option("--into", parser=path_of, help="the store that receives them")],
    keep: Annotated[
        str | None,
        typer.Option("--keep", help="first: of a trial with other numbers, the rows of the store that stands first"),
    ] = None,
) -> int:
    """Join result stores from several machines; the same trial with other numbers is refused, a failure never
    replaces a result."""
    from harness.store.merge import merge as merge_stores

    counts = merge_stores(stores, into, keep)
    out.print(f"{into}: " + ", ".join(f"{count} {what}" for what, count in counts.items()), soft_wrap=True)
    return 0


def verify(store: Annotated[Path, typer.Argument(help="a result store")]) -> int:
    """Read everything in a store and say what is broken; exit code 1 if anything is."""
    from harness.store.merge import existing_store
    from harness.store.verify import verify as verify_store

    verdict = verify_store(existing_store(store).root)
    for trial_id, faults in verdict.broken.items():
        out.print(f"{trial_id}: {'; '.join(faults)}", soft_wrap=True)
    for problem in verdict.problems:
        out.print(problem, soft_wrap=True)
    unchecked = f", {verdict.unchecked} without checksums (stored by an earlier version)" if verdict.unchecked else ""
    out.print(f"{verdict.trials} trials, {len(verdict.broken)} broken{unchecked}")
    return ExitCode.INCOMPLETE if verdict.broken or verdict.problems else ExitCode.DONE


def repair(store: Annotated[Path, typer.Argument(help="a result store")]) -> int:
    """Rebuild what says which compacted files count, where it is lost or damaged; removes nothing."""
    from harness.store.compaction import repair as repair_store
    from harness.store.lock import StoreLock
    from harness.store.merge import existing_store

    found = existing_store(store)
    with StoreLock(store):
        parts, trials = repair_store(found)
    if parts:
        out.print(f"{parts} compacted files with {trials} trials count again")
    else:
        out.print("nothing to repair: no compacted file holds trials that its manifest does not name")
    return 0
