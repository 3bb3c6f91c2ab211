"""What a run looks like while it goes on: a live table on a terminal, one line per finished trial anywhere else."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from harness import events
from harness.cli.messages import Terminal
from harness.spec import TrialSpec

_TRAINING_SHARE = 0.8  # of a trial's time, for the estimate only; the rest is evaluation
_ROWS = 20


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


class Progress:
    """Context manager and event handler: `with Progress(specs) as progress: run(specs, store, on_event=progress)`."""

    def __init__(
        self, specs: Sequence[TrialSpec], console: Console | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """console: standard error by default, as standard output is for results."""
        self._specs = {spec.trial_id: spec for spec in specs}
        self._console = console or Terminal(stderr=True)
        self._clock = clock
        self.running: dict[str, Running] = {}
        self.done: set[str] = set()
        self.skipped: set[str] = set()
        self.failed: set[str] = set()
        self.blocked: set[str] = set()
        self._worked = 0.0  # in units of cost_hint, by trials that ended in this run
        self._since: float | None = None
        self._live = Live(console=self._console, refresh_per_second=4, get_renderable=self.render)

    def __enter__(self) -> Progress:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._console.is_terminal:
            with suppress(OSError):
                self._live.stop()

    def __call__(self, event: events.Event) -> None:
        """Takes one event of a run; unknown ones are passed over. A terminal that is gone ends no run."""
        handle = getattr(self, f"_on_{event['event']}", None)
        if handle is not None:
            with suppress(OSError):
                handle(event)

    # Events

    def _on_plan(self, event: events.Plan) -> None:
        self.skipped = set(event["skipped"])
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

    def _on_remark(self, event: events.Remark) -> None:
        self._say(event["trial_id"], event["text"])

    def _on_attack(self, event: events.Attack) -> None:
        doing = f"{event['attack']} on {event['checkpoint']} {event['chunk']}/{event['chunks']}"
        self._of(event["trial_id"]).doing = doing

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

    def render(self) -> Group:
        """The table as it stands."""
        table = Table(box=None, pad_edge=False, header_style="dim")
        for column, side in (
            ("trial", "left"),
            ("epoch", "right"),
            ("average", "right"),
            ("worst", "right"),
            ("", "left"),
        ):
            table.add_column(column, justify=side, no_wrap=True)  # type: ignore[arg-type]
        for name in list(self.running)[:_ROWS]:
            trial = self.running[name]
            epoch = f"{trial.epoch}/{trial.epochs}" if trial.epochs else ""
            doing = trial.doing + (f", {len(trial.helpers)} helping" if trial.helpers else "")
            table.add_row(title(self._specs[name]), epoch, _rate(trial.average), _rate(trial.worst), doing)
        lines: list[Text | Table] = [Text(self.headline(), style="bold")]
        if self.running:
            lines.append(table)
        if len(self.running) > _ROWS:
            lines.append(Text(f"and {len(self.running) - _ROWS} more", style="dim"))
        return Group(*lines)

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
        return max(1.0, self._specs[name].cost_hint)

    def _say(self, name: str, text: str) -> None:
        self._print(f"[{len(self._ended)}/{len(self._specs)}] {title(self._specs[name])}: {text}")

    def _print(self, text: str) -> None:
        self._console.print(Text(text), soft_wrap=True)


def title(spec: TrialSpec) -> str:
    """A trial as people call it: `absld cnn(width=16) seed 0`."""
    role = "" if spec.role == "student" else f"{spec.role} "
    return f"{role}{spec.variant} {spec.student.label} seed {spec.seed}"


def duration(seconds: float) -> str:
    """Seconds in words: `12 s`, `3 min`, `2 h 10 min`."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"


def _rate(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f} %"


def _percent(trial: Running) -> str:
    return f"{_rate(trial.average)} average" + (f", {_rate(trial.worst)} worst" if trial.worst is not None else "")
