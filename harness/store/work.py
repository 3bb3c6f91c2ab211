"""The working folder of a training, `<store>/work/<training_id>`, and what a run keeps beside these: the only code that
knows what the files are called. Imports neither torch nor Ray."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import InputError
from harness.files import file_sha256, from_checked_json, make_folder
from harness.spec import CHECKPOINTS

WORK = "work"  # the folder of a store in which its trainings have theirs
_DAMAGED = "damaged-"  # what is set aside is called so
_PART = "epoch-"


def work_folder(store_root: Path) -> Path:
    """Where the trainings of a store have their folders."""
    return store_root / WORK


def control_file(store_root: Path) -> Path:
    """While a run goes on it says which run, and whether to stop."""
    return work_folder(store_root) / "control.json"


def progress_file(store_root: Path) -> Path:
    """While a run goes on it says how far it is, for people who look from elsewhere (`harness.cli.progress`)."""
    return work_folder(store_root) / "progress.json"


def shared_logits(store_root: Path) -> Path:
    """The folder in which trials share their teachers' logits, while a run lasts."""
    return work_folder(store_root) / "teacher_logits"


def note_of(weights: Path) -> Path:
    """The file that describes kept weights, with their sha256, beside them."""
    return weights.with_suffix(".json")


@dataclass(frozen=True)
class WorkingFolder:
    """The files of one training; none of them need be there.

    While it trains: `state`, and where it was interrupted within an epoch, a `part`. Once it has: `record`, and of
    each checkpoint the `weights` and a note on them (`note_of`). While trials are evaluated that share it: `claims` and
    `chunks`.
    """

    store_root: Path
    training_id: str

    @property
    def path(self) -> Path:
        return work_folder(self.store_root) / self.training_id

    @property
    def state(self) -> Path:
        """All that an unfinished training goes on from (`harness.training.train`), as its last epoch ended."""
        return self.path / "state.pt"

    def part(self, kind: str) -> Path:
        """The same within the epoch that follows, for another process on a device of that kind (cpu, cuda): the state
        of its generators means nothing to others."""
        return self.path / f"{_PART}{kind}.pt"

    def parts(self) -> dict[str, Path]:
        """The parts that are there, by the kind of device."""
        return {path.stem.removeprefix(_PART): path for path in sorted(self.path.glob(f"{_PART}*.pt"))}

    @property
    def record(self) -> Path:
        """What a finished training leaves beside its weights: see `history`."""
        return self.path / "training.json"

    @property
    def lock(self) -> Path:
        """Held by the worker of a search that has the training."""
        return self.path / ".setting"

    def weights(self, checkpoint: str) -> Path:
        """The weights that were kept of a checkpoint."""
        return self.path / f"{checkpoint}.pt"

    def claims(self, trial_id: str) -> Path:
        """The folder in which processes claim the pieces of a trial's evaluation."""
        return self._evaluations / f"claims-{trial_id}"

    def chunks(self, sha256: str) -> Path:
        """The folder of the evaluated pieces of a network, known by its weights."""
        return self._evaluations / sha256[:12]

    @property
    def _evaluations(self) -> Path:
        return self.path / "evaluations"

    def make(self) -> WorkingFolder:
        """The folder, made if it is missing. FileNotFoundError where the store is gone."""
        make_folder(self.path, inside=self.store_root)
        return self

    def kept_weights(self) -> list[Path]:
        """The weights that are there, with their notes."""
        weights = [self.weights(checkpoint) for checkpoint in CHECKPOINTS]
        return [path for each in weights for path in (each, note_of(each)) if path.exists()]

    def kept(self) -> list[Path]:
        """What is of use elsewhere, of a training that has ended."""
        return [*self.kept_weights(), *([self.record] if self.record.exists() else [])]

    def lacks(self, checkpoints: Iterable[str]) -> list[str]:
        """Which files of a training that has ended, with the weights of these checkpoints, are not there: none if only
        an evaluation is left to do."""
        asked = {self.record, *map(self.weights, checkpoints)}
        return sorted(path.name for path in asked if not path.exists())

    def history(self) -> dict[str, Any] | None:
        """What a finished training recorded; None while it is not finished, or where the record is damaged, which is
        then set aside."""
        try:
            found = from_checked_json(self.record.read_bytes())
            if {"epochs", "class_state"} <= found.keys():
                return found
        except FileNotFoundError:
            return None
        except (ValueError, RecursionError):
            pass
        self.set_aside(self.record)
        return None

    def noted_sha256(self, checkpoint: str) -> str | None:
        """The hash that was noted when weights were kept; None where none was. InputError where the note is damaged."""
        path = note_of(self.weights(checkpoint))
        try:
            return json.loads(path.read_bytes()).get("sha256")
        except FileNotFoundError:
            return None
        except (ValueError, AttributeError, RecursionError) as error:
            raise InputError(f"{path} is damaged: it does not say the sha256 of the weights beside it") from error

    def has_as_noted(self, checkpoint: str) -> bool:
        """Whether weights are those that were noted; true where nothing was noted."""
        path = self.weights(checkpoint)
        try:
            noted = self.noted_sha256(checkpoint)
        except InputError:
            return False
        return noted is None or (path.is_file() and file_sha256(path, "weights") == noted)

    def has_whole(self, checkpoint: str) -> bool:
        """Whether kept weights are there and are what was kept; damaged ones are set aside."""
        path = self.weights(checkpoint)
        if not path.exists():
            return False
        if not self.has_as_noted(checkpoint):
            self.set_aside(path)
        return path.exists()

    def set_aside(self, path: Path) -> None:
        """A damaged file gives way to a whole one and is kept for whoever wants to look into it."""
        os.replace(path, path.with_name(_DAMAGED + path.name))

    def damaged(self) -> dict[str, str]:
        """What was set aside: by the names that files had, those that they have now."""
        return {path.name.removeprefix(_DAMAGED): path.name for path in sorted(self.path.glob(f"{_DAMAGED}*"))}

    def drop_weights(self, checkpoint: str) -> None:
        """Removes kept weights and the note on them."""
        for path in (self.weights(checkpoint), note_of(self.weights(checkpoint))):
            path.unlink(missing_ok=True)

    def forget_evaluation(self) -> None:
        """Removes what evaluations put aside, piece by piece, until their rows were stored."""
        shutil.rmtree(self._evaluations, ignore_errors=True)
