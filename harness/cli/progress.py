"""What a run looks like while it goes on: a live table on a terminal, lines anywhere else. The same picture lies in the
store, for `status --watch`."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from harness import events
from harness.cli.messages import Terminal
from harness.files import write_bytes
from harness.report.tables.grid import duration
from harness.spec import TrialSpec
from harness.store.work import progress_file

_TRAINING_SHARE = 0.8  # of a trial's time, for the estimate only; the rest is evaluation
_ROWS = 20
TOLD_S = 60.0  # between two lines of a run without a terminal
_SHARED_S = 2.0  # between two pictures in the store
_BAR = 40  # characters


@dataclass
class Running:
    """A trial under way: epochs done of how many, validation accuracies of the last one in [0, 1], what it does now."""

    began: float
    epoch: int = 0
    epochs: int = 0
    first_epoch: int = 0
    average: float | None = None
    worst: float | None = None
    doing: str = "starting"
    helpers: set[str] = field(default_factory=set)

    def fraction(self, epoch: int | None = None) -> float:
        """The part of the trial that is done after so many epochs, by default after those that are."""
        return _TRAINING_SHARE * (self.epoch if epoch is None else epoch) / self.epochs if self.epochs else 0.0


@dataclass(frozen=True)
class Picture:
    """A run at one moment. done: of the whole, in [0, 1]. rows: trial, epoch, average, worst, and what it does, of the
    first trials that run; more: how many others do."""

    headline: str
    done: float
    rows: list[list[str]]
    more: int = 0

    def render(self) -> Group:
        """For a terminal."""
        lines: list[Text | Table | ProgressBar] = [Text(self.headline, style="bold")]
        lines.append(ProgressBar(total=1.0, completed=self.done, width=_BAR))
        if self.rows:
            table = Table(box=None, pad_edge=False, header_style="dim")
            for column in ("trial", "epoch", "average", "worst", ""):
                table.add_column(column, justify="left" if column in ("trial", "") else "right", no_wrap=True)
            for row in self.rows:
                table.add_row(*map(Text, row))
            lines.append(table)
        if self.more:
            lines.append(Text(f"and {self.more} more", style="dim"))
        return Group(*lines)


def shared_picture(store_root: Path) -> Picture | None:
    """What the run that drives a store last said of itself; None where none says anything."""
    try:
        return Picture(**json.loads(progress_file(store_root).read_bytes()))
    except (OSError, ValueError, TypeError):
        return None


class Progress:
    """Context manager and event handler: `with Progress(specs) as progress: run(specs, store, on_event=progress)`."""

    def __init__(
        self,
        specs: Sequence[TrialSpec],
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
        store_root: Path | None = None,
    ) -> None:
        """console: standard error by default, as standard output is for results. store_root: the store in which the
        picture lies for others to see, once the run has it for itself and a plan."""
        self._specs = {spec.trial_id: spec for spec in specs}
        self._console = console or Terminal(stderr=True)
        self._clock = clock
        self.running: dict[str, Running] = {}
        self.done: set[str] = set()
        self.skipped: set[str] = set()
        self.trained: set[str] = set()
        self.failed: set[str] = set()
        self.blocked: set[str] = set()
        self._worked = 0.0  # in units of cost_hint, by trials that ended in this run
        self._since: float | None = None
        self._told = clock()
        self._file = progress_file(store_root) if store_root else None
        self._shared: float | None = None
        self._live = Live(console=self._console, refresh_per_second=4, get_renderable=lambda: self.picture().render())

    def __enter__(self) -> Progress:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._console.is_terminal:
            with suppress(OSError):
                self._live.stop()
        if self._file and self._shared is not None:
            with suppress(OSError):
                self._file.unlink(missing_ok=True)

    def __call__(self, event: events.Event) -> None:
        """Takes one event of a run; unknown ones are passed over. A terminal that is gone ends no run."""
        handle = getattr(self, f"_on_{event['event']}", None)
        if handle is not None:
            with suppress(OSError):
                handle(event)
        first = self._shared is None and event["event"] == "plan"
        if self._file and (first or (self._shared is not None and self._clock() - self._shared >= _SHARED_S)):
            self._shared = self._clock()
            with suppress(OSError):  # a store that cannot be written is the run's to tell
                write_bytes(self._file, json.dumps(asdict(self.picture())).encode())

    # Events

    def _on_plan(self, event: events.Plan) -> None:
        self.skipped, self.trained = set(event["skipped"]), set(event["trained"])
        if event.get("shared_bytes"):
            self._print(
                f"teachers' logits, shared by the trials of a seed: up to {event['shared_bytes'] / 2**20:,.1f} MB of "
                f"disk while this runs"
            )

    def _on_set_aside(self, event: events.SetAside) -> None:
        self._print(f"set aside, to be made again: {event['where'] or 'nothing; the store has none of them'}")

    def _on_warning(self, event: events.Warning) -> None:
        self._print(f"warning: {event['text']}")

    def _on_launch(self, event: events.Launch) -> None:
        self._since = self._since or self._clock()
        self.running[event["trial_id"]] = Running(self._clock())

    def _on_start(self, event: events.Start) -> None:
        self._of(event["trial_id"]).doing = f"on {event['device']}" if event.get("device") else "started"

    def _on_epoch(self, event: events.Epoch) -> None:
        trial = self._of(event["trial_id"])
        if not trial.epochs:
            trial.first_epoch = event["epoch"] - 1
        trial.epoch, trial.epochs = event["epoch"], event["epochs"]
        trial.average, trial.worst = event.get("val_robust_avg"), event.get("val_robust_worst")
        trial.doing = "training"
        self._tell(event["trial_id"], f"epoch {trial.epoch}/{trial.epochs}, validation {_percent(trial)}")

    def _on_remark(self, event: events.Remark) -> None:
        self._say(event["trial_id"], event["text"])

    def _on_attack(self, event: events.Attack) -> None:
        doing = f"{event['attack']} on {event['checkpoint']} {event['chunk']}/{event['chunks']}"
        self._of(event["trial_id"]).doing = doing
        self._tell(event["trial_id"], doing)

    def _on_helper(self, event: events.Helper) -> None:
        helpers = self.running[event["trial_id"]].helpers if event["trial_id"] in self.running else set()
        if event["what"] == "launch":
            helpers.add(event["helper"])
        elif event["what"] in ("end", "lost"):
            helpers.discard(event["helper"])

    def _on_done(self, event: events.Done) -> None:
        trial = self._end(event["trial_id"])
        self.done.add(event["trial_id"])
        self._worked += self._cost(event["trial_id"]) * (1 - trial.fraction(trial.first_epoch))
        seconds = f"done in {duration(self._clock() - trial.began)}"
        self._say(event["trial_id"], seconds + (f", validation {_percent(trial)}" if trial.average is not None else ""))

    def _on_failed(self, event: events.Failed) -> None:
        self._end(event["trial_id"])
        self.failed.add(event["trial_id"])
        self._say(event["trial_id"], f"FAILED: {event['error']}")

    def _on_blocked(self, event: events.Blocked) -> None:
        self.blocked.add(event["trial_id"])
        self._say(event["trial_id"], f"blocked: {event['error']}")

    def _on_retry(self, event: events.Retry) -> None:
        self._end(event["trial_id"])
        self._say(event["trial_id"], f"trying again: {event['error']}")

    def _on_interrupted(self, event: events.Interrupted) -> None:
        # A trial that stopped where it was says so twice: itself, and through the driver once that is settled.
        if event["trial_id"] in self.running:
            self._end(event["trial_id"])
            self._say(event["trial_id"], "interrupted")

    def _on_starved(self, event: events.Starved) -> None:
        self._print(f"{event['waiting']} trials wait for resources that no node has at the moment")

    def _on_stopping(self, event: events.Stopping) -> None:
        self._print(
            f"stopping ({event['reason']}): {event['live']} running trials save their state, for up to "
            f"{event['grace_s']:.0f} s; press Ctrl-C again to end them now. The same command goes on from here."
        )

    def _of(self, name: str) -> Running:
        return self.running.setdefault(name, Running(self._clock()))

    def _end(self, name: str) -> Running:
        return self.running.pop(name, Running(self._clock()))

    # Rendering

    def picture(self) -> Picture:
        """The run as it stands."""
        total = sum(map(self._cost, self._specs))
        worked = sum(map(self._cost, self._ended))
        worked += sum(self._cost(name) * trial.fraction() for name, trial in self.running.items())
        rows = [self._row(name, trial) for name, trial in list(self.running.items())[:_ROWS]]
        return Picture(self.headline(), worked / total if total else 1.0, rows, len(self.running) - len(rows))

    def _row(self, name: str, trial: Running) -> list[str]:
        epoch = f"{trial.epoch}/{trial.epochs}" if trial.epochs else ""
        doing = trial.doing + (f", {len(trial.helpers)} helping" if trial.helpers else "")
        return [title(self._specs[name]), epoch, _rate(trial.average), _rate(trial.worst), doing]

    def headline(self) -> str:
        """Counts and the time left, in one line."""
        waiting = len(self._specs) - len(self._ended | set(self.running))
        counts = [("done", len(self.done | self.skipped)), ("running", len(self.running)), ("waiting", waiting)]
        counts += [(word, len(names)) for word, names in (("failed", self.failed), ("blocked", self.blocked)) if names]
        words = ", ".join(f"{count} {word}" for word, count in counts)
        left = self.seconds_left()
        return f"{len(self._specs)} trials: {words}" + ("" if left is None else f"; about {duration(left)} left")

    def seconds_left(self) -> float | None:
        """The time that the rest will take at the pace of this run so far; None while there is no pace yet."""
        if self._since is None:
            return None
        worked, left = self._worked, 0.0
        for name in self._specs.keys() - self._ended:
            trial = self.running.get(name)
            left += self._cost(name) * (1 - (trial.fraction() if trial else 0.0))
            worked += self._cost(name) * (trial.fraction() - trial.fraction(trial.first_epoch)) if trial else 0.0
        return left * (self._clock() - self._since) / worked if worked else None

    @property
    def _ended(self) -> set[str]:
        return self.done | self.skipped | self.failed | self.blocked

    def _cost(self, name: str) -> float:
        left = 1 - _TRAINING_SHARE if name in self.trained else 1.0
        return max(1.0, self._specs[name].cost_hint) * left

    def _say(self, name: str, text: str) -> None:
        self._print(f"[{len(self._ended)}/{len(self._specs)}] {title(self._specs[name])}: {text}")

    def _tell(self, name: str, text: str) -> None:
        """Where no table shows it: what a trial does, at most once a minute over all of them, and the time left."""
        if self._console.is_terminal or self._clock() - self._told < TOLD_S:
            return
        left = self.seconds_left()
        self._say(name, text + ("" if left is None else f"; about {duration(left)} left in all"))

    def _print(self, text: str) -> None:
        self._told = self._clock()
        self._console.print(Text(text), soft_wrap=True)


def title(spec: TrialSpec) -> str:
    """A trial as people call it: `absld cnn(width=16) seed 0`."""
    role = "" if spec.role == "student" else f"{spec.role} "
    return f"{role}{spec.variant} {spec.student.label} seed {spec.seed}"


def _rate(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f} %"


def _percent(trial: Running) -> str:
    return f"{_rate(trial.average)} average" + (f", {_rate(trial.worst)} worst" if trial.worst is not None else "")
