"""What in a results folder is the harness's own, and which folders can be one: nothing foreign is written beside or
cleaned up."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from harness.errors import InputError
from harness.store.records import COMPARISONS_FILE, MACHINE_FILE
from harness.store.tables import TABLES
from harness.store.work import WORK, work_folder

FOLDERS = (*TABLES, WORK, "attempts", "driver", "tuning", "report", "set_aside")
_FILES = ("compacted.json", MACHINE_FILE, COMPARISONS_FILE, "plan.md", "README.md")
_CHECKOUT = Path(__file__).resolve().parents[2]


def is_store(root: Path, begun: bool = True) -> bool:
    """Whether results stand in a folder. begun: or a driver has been there."""
    return (root / "trials").is_dir() or (begun and any((root / "driver").glob("*.json")))


@contextmanager
def nothing_left_if_refused(root: Path) -> Iterator[None]:
    """Where an InputError ends the block, a results folder that was made inside goes again, with the folders above that
    were made for it; not one in which a training has begun."""
    made = [folder for folder in (root, *root.parents) if not folder.exists()]
    try:
        yield
    except InputError:
        if made and not is_store(root, begun=False) and not any(work_folder(root).glob("*/*")):
            shutil.rmtree(root, ignore_errors=True)
            for folder in made[1:]:
                with suppress(OSError):  # somebody else's by now
                    folder.rmdir()
        raise


def check_results_folder(root: Path) -> None:
    """InputError for what is or lies in no folder, and for a folder that is no store yet and holds what is not the
    harness's own, or is `/`, the user's home or the checkout. Hidden files do not count."""
    there = next((path for path in (root, *root.absolute().parents) if os.path.lexists(path)), root)
    if not there.is_dir():
        raise InputError(f"cannot write to {root}: {there} is not a folder")
    if is_store(root) or there != root:
        return
    place = root.resolve()
    if place in (Path(place.anchor), Path.home().resolve(), _CHECKOUT):
        raise InputError(f"results cannot go right into {place}: give a folder of their own")
    own = {*FOLDERS, *_FILES, "lost+found"}
    foreign = sorted(path.name for path in root.iterdir() if path.name not in own and not path.name.startswith("."))
    if foreign:
        raise InputError(
            f"{root} is no result store and holds other files ({', '.join(foreign[:3])}): give results a folder of "
            "their own"
        )
