"""Every event of a run and its fields: what a trial, its worker, its launcher and the driver tell of it.

Events are plain dictionaries that JSON can write; `event` says which kind one is, and mypy checks its fields by that.
Epochs, chunks and pieces are counted from 1; accuracies and scores are in [0, 1].
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, TypedDict

from harness.errors import Kind


class _OfTrial(TypedDict):
    trial_id: str  # of a helper's own events: the helper's name


# A task: a trial, or a helper that computes pieces of a trial's evaluation


class Launch(_OfTrial):
    """A process begins with it. place: the id of Ray's node, or `here`."""

    event: Literal["launch"]
    host: str
    pid: int
    place: str
    devices: str


class Start(_OfTrial):
    """The trial itself begins: its process is ready."""

    event: Literal["start"]
    host: str
    pid: int
    device: str


class Epoch(_OfTrial):
    """One more of `epochs` epochs is trained, validated and saved."""

    event: Literal["epoch"]
    epoch: int
    epochs: int
    val_robust_avg: float
    val_robust_worst: float
    val_robust_nsd: float
    selection_score: float
    seconds: float


class Evaluation(_OfTrial):
    """The evaluation begins. left: pieces of it that nobody has claimed."""

    event: Literal["evaluation"]
    left: int


class Attack(_OfTrial):
    """One more piece of the evaluation is there."""

    event: Literal["attack"]
    checkpoint: str
    attack: str
    chunk: int
    chunks: int
    left: int


class Helped(_OfTrial):
    """A helper is at work, or has computed one more piece."""

    event: Literal["helped"]
    left: int


class Remark(_OfTrial):
    """Something to know that is no error: of its numbers, then its row has it too, or of the GPU it failed on."""

    event: Literal["remark"]
    text: str


class Done(_OfTrial):
    """Its rows are in the store."""

    event: Literal["done"]


class Interrupted(_OfTrial):
    """Told to stop, it has saved its state. The driver says so once more when that is settled."""

    event: Literal["interrupted"]


class Error(_OfTrial):
    """It raised. error: in one line."""

    event: Literal["error"]
    kind: Kind
    error: str
    traceback: str


class End(_OfTrial):
    """No more events of this attempt."""

    event: Literal["end"]


class Lost(_OfTrial):
    """Its process or its node died: no more events of this attempt either."""

    event: Literal["lost"]
    error: str


TaskEvent = Launch | Start | Epoch | Evaluation | Attack | Helped | Remark | Done | Interrupted | Error | End | Lost


# What the driver makes of it


class Helper(_OfTrial):
    """What happens to a helper of the trial. what: the kind of the helper's own event."""

    event: Literal["helper"]
    helper: str
    what: str


class Retry(_OfTrial):
    """An attempt ended in an error; the next one begins in `pause_s` seconds or later."""

    event: Literal["retry"]
    kind: Kind
    error: str
    pause_s: float


class Failed(_OfTrial):
    """The trial failed, in this run or in an earlier one."""

    event: Literal["failed"]
    error: str


class Blocked(_OfTrial):
    """The trial cannot start, as its teacher failed or is not there."""

    event: Literal["blocked"]
    error: str


class Plan(TypedDict):
    """What is ahead. skipped: ids of trials that the store has. trained: of those whose networks it has, so that only
    an evaluation is left. shared_bytes: of teachers' logits on disk, at most."""

    event: Literal["plan"]
    trials: int
    skipped: list[str]
    trained: list[str]
    shared_bytes: int


class SetAside(TypedDict):
    """What the store had of trials that are made again was moved. where: from the store; empty if it had nothing."""

    event: Literal["set_aside"]
    where: str


class Warning(TypedDict):
    """Something is odd, and no reason not to run."""

    event: Literal["warning"]
    text: str


class Starved(TypedDict):
    """Nothing runs, and `waiting` trials find no node with room for them."""

    event: Literal["starved"]
    waiting: int


class Stopping(TypedDict):
    """The run ends early; `live` trials have `grace_s` seconds to save their state."""

    event: Literal["stopping"]
    reason: str
    live: int
    grace_s: float


Event = TaskEvent | Helper | Retry | Failed | Blocked | Plan | SetAside | Warning | Starved | Stopping
OnEvent = Callable[[Event], None]
