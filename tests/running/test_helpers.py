"""Evaluations that several tasks share: who gets helpers and when, and that they change nothing but the time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fake_trials as fake
import pytest
import real_trials
import torch

from harness.attacks import autoattack
from harness.evaluation.evaluate import Claims, SharedEvaluation
from harness.events import Event
from harness.inputs import read_data
from harness.running.driver import Driver
from harness.running.helpers import MAX_FAILURES, Helpers
from harness.running.run import Options, run
from harness.running.stopping import StopRequest
from harness.running.trial_queue import TrialQueue
from harness.spec import Resources, TrialSpec
from harness.store.store import Store
from tests.small import run_to_end, small_specs

ONE = Resources(cpu=1)


class Places:
    """A launcher with so many places and nothing in them but names; what is killed is lost at the next poll."""

    def __init__(self, places: int) -> None:
        self.places = places
        self.live: list[str] = []
        self.started: list[str] = []
        self.events: list[Event] = []

    def has_room(self, resources: Resources) -> bool:
        return len(self.live) < self.places

    def trouble(self) -> str | None:
        return None

    def start(self, spec: TrialSpec, resources: Resources, helper: str = "") -> None:
        self.live.append(helper or spec.trial_id)
        self.started.append(self.live[-1])

    def poll(self, timeout: float) -> Iterator[Event]:
        events, self.events = self.events, []
        return iter(events)

    def stop(self) -> None: ...

    def kill(self, name: str) -> None:
        self.end(name, "lost", error="killed")

    def end(self, name: str, kind: str = "end", **more: Any) -> None:
        self.live.remove(name)
        self.events.append({"event": kind, "trial_id": name, **more})


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.running.helpers.HELP_AFTER_S", 0.0)


def told(helpers: Helpers, places: Places) -> None:
    for event in places.poll(0):
        helpers.note(event)


def names(trial: TrialSpec, *numbers: int) -> list[str]:
    return [f"{trial.trial_id}+{number}" for number in numbers]


def test_as_many_as_there_is_room_and_work_for() -> None:
    trial, places = fake.make(1), Places(3)
    helpers = Helpers(places, lambda event: None)
    helpers.launch(float("inf"))
    assert places.live == []  # nobody is in its evaluation
    helpers.expect(trial, ONE, left=2)
    helpers.launch(1)
    assert places.live == names(trial, 1)
    helpers.launch(float("inf"))
    assert places.live == names(trial, 1, 2)  # a third would find nothing to do
    helpers.expect(trial, ONE, left=9)
    helpers.launch(float("inf"))
    assert places.live == names(trial, 1, 2, 3)  # no room for more
    places.end(places.live[0])
    told(helpers, places)
    helpers.launch(float("inf"))
    assert places.live == names(trial, 2, 3)  # it ended because nothing is left


def test_an_evaluation_that_has_just_begun_gets_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.running.helpers.HELP_AFTER_S", 60.0)
    places = Places(3)
    helpers = Helpers(places, lambda event: None)
    helpers.expect(fake.make(1), ONE, left=9)
    helpers.launch(float("inf"))
    assert places.live == []


def test_helpers_that_die_are_replaced_a_few_times() -> None:
    trial, places = fake.make(1), Places(1)
    helpers = Helpers(places, lambda event: None)
    helpers.expect(trial, ONE, left=9)
    for number in range(1, MAX_FAILURES + 1):
        helpers.launch(float("inf"))
        assert places.live == names(trial, number)
        if number == 1:  # one that raises says so before it ends
            helpers.note({"event": "error", "trial_id": names(trial, 1)[0], "error": "no"})
            places.end(names(trial, 1)[0])
        else:
            places.end(places.live[0], "lost", error="gone")
        told(helpers, places)
    helpers.launch(float("inf"))
    assert places.live == []
    assert len(helpers) == 0


def test_they_go_when_their_trial_is_settled() -> None:
    trials, places, events = [fake.make(1), fake.make(2)], Places(4), []
    helpers = Helpers(places, events.append)
    for trial in trials:
        helpers.expect(trial, ONE, left=2)
    helpers.launch(float("inf"))
    assert len(helpers) == 4
    helpers.dismiss(trials[0].trial_id)
    told(helpers, places)
    assert places.live == names(trials[1], 3, 4)
    assert [(event["event"], event["trial_id"], event["what"]) for event in events] == [
        ("helper", trials[0].trial_id, "lost")
    ] * 2
    helpers.launch(float("inf"))
    assert len(places.live) == 2  # the trial that is over gets no more


def driven(specs: list[TrialSpec], places: Places, root: Path, workers: int | None = None) -> Driver:
    return Driver(TrialQueue(specs, {}), places, Store(root), lambda event: None, StopRequest(), workers=workers)


def turn(driver: Driver) -> None:
    driver._follow()
    driver._submit()


@pytest.mark.parametrize("workers", [None, 3])
def test_ready_trials_go_before_helpers(tmp_path: Path, workers: int | None) -> None:
    teacher = fake.make(1, role="teacher")
    evaluated, students = fake.make(2), [fake.make(3 + seed, teacher=teacher) for seed in range(2)]
    places = Places(3 if workers is None else 9)
    driver = driven([teacher, evaluated, *students], places, tmp_path, workers)
    turn(driver)
    assert places.live == [teacher.trial_id, evaluated.trial_id]
    places.events = [{"event": "evaluation", "trial_id": evaluated.trial_id, "left": 5}]
    turn(driver)
    assert places.live[2:] == names(evaluated, 1)
    places.events = [{"event": "done", "trial_id": teacher.trial_id}]
    places.end(teacher.trial_id)
    turn(driver)  # a student takes the teacher's place, and the helper makes room for the other one
    assert places.live == [evaluated.trial_id, students[0].trial_id]
    turn(driver)
    assert places.live == [evaluated.trial_id, *(student.trial_id for student in students)]


def test_a_run_that_stops_ends_them_and_starts_none(tmp_path: Path) -> None:
    trial, places = fake.make(1), Places(2)
    driver = driven([trial], places, tmp_path)
    turn(driver)
    places.events = [{"event": "evaluation", "trial_id": trial.trial_id, "left": 5}]
    turn(driver)
    assert len(places.live) == 2
    driver.stop_request.signal_name = "SIGTERM"
    driver._heed_stop()
    for _ in range(3):
        turn(driver)
    assert [name for name in places.live if "+" in name] == []


def test_a_claim_is_one_processs_and_says_in_the_end_what_it_took(tmp_path: Path) -> None:
    one, other = (Claims(tmp_path / "claims", tmp_path) for _ in range(2))
    assert not other.take("a")  # the trial has not begun, or is over
    one.open()
    assert one.take("a")
    assert not other.take("a")
    assert other.take("b")
    other.finish("b", {"seconds": 1.5})
    one.finish("b", {"seconds": 9.0})  # it found the piece in the cache
    assert (one.taken(), one.records()) == ({"a", "b"}, {"b": {"seconds": 1.5}})
    one.open()  # the next attempt: who held `a` is dead, or will compute it beside us
    assert one.taken() == {"b"}


def test_stale_claims_cost_nothing(tmp_path: Path) -> None:
    """Helpers that died with claims leave work to the trial: it does all of it, and clears up."""
    spec = small_specs(tmp_path)["at"]
    run_to_end(spec, tmp_path / "one")
    alone = tmp_path / "one"
    evaluation = SharedEvaluation(
        spec,
        read_data(spec.dataset, 0, torch.device("cpu"), second=False, root=None, download=False),
        tmp_path / "two",
        torch.device("cpu"),
    )
    calls = 0

    def claim_some() -> bool:
        nonlocal calls
        calls += 1
        if calls == 9:  # eight training steps, then the first piece
            assert [evaluation.claims.take(piece.name) for piece in evaluation.pieces[3:7]] == [True] * 4
        return False

    events = run_to_end(spec, tmp_path / "two", should_stop=claim_some)
    left = [event["left"] for event in events if event["event"] in ("evaluation", "attack")]
    assert left == [12, 11, 6, 5, 4, 3, 2, 1, 0, 0, 0, 0, 0][: len(left)]
    real_trials.assert_same_numbers(alone, tmp_path / "two")
    assert not (evaluation.folder.path / "evaluations").exists()


def test_attacks_that_begin_alike_are_one_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """aa_standard on the first 25 of aa_short's 50 images: those two stages are run once, and the images are nested."""
    stages: list[str] = []
    attack_stage = autoattack.attack_stage

    def counted(stage: str, *arguments: Any, **options: Any) -> Any:
        stages.append(stage)
        return attack_stage(stage, *arguments, **options, effort=autoattack.Effort(iterations=5, queries=10))

    monkeypatch.setattr("harness.evaluation.chunk.attack_stage", counted)
    attacks = ["clean", {"name": "aa_standard", "images": 25}, {"name": "aa_short", "images": 50}]
    spec = small_specs(tmp_path, evaluation={"attacks": attacks, "chunk_size": 25})["at"]
    run_to_end(spec, tmp_path / "store")
    assert sorted(stages) == ["apgd-ce"] * 2 + ["apgd-t"] * 2 + ["fab-t", "square"]
    rows = Store(tmp_path / "store").read("outcomes").query("checkpoint == 'best_validation'")
    short, standard = (rows[rows.attack == name].set_index("sample_index") for name in ("aa_short", "aa_standard"))
    assert (len(short), len(standard)) == (50, 25)
    assert set(standard.index) < set(short.index)
    assert not (standard["robust"] & ~short["robust"]).any()
    data = read_data(spec.dataset, 0, torch.device("cpu"), second=False, root=None, download=False)
    jobs = SharedEvaluation(spec, data, tmp_path / "store", torch.device("cpu")).jobs
    assert [[piece.attack.name for piece in pieces] for pieces in jobs.values()] == [
        ["clean"], ["clean"], ["clean"], ["aa_short", "aa_standard"], ["aa_short"], ["clean"], ["clean"], ["clean"],
    ]  # fmt: skip


@pytest.mark.slow
def test_rows_do_not_depend_on_helpers(ray_session: None, tmp_path: Path) -> None:
    """A real trial alone, with one helper and with three, one of which is killed with a claim in its hands."""
    spec = small_specs(tmp_path, evaluation={"attacks": ["clean", "pgd20", "aa_short"], "chunk_size": 10})["at"]
    run_to_end(spec, tmp_path / "0")
    for helpers in (1, 3):
        root, events = tmp_path / str(helpers), []
        root.mkdir()
        (root / ".wanted").write_text(str(helpers))
        if helpers == 3:
            (root / ".kill").touch()
        options = Options(
            workers=1 + helpers,
            run_trial="real_trials:waits_for_helpers",
            help_trial="real_trials:helps_slowly",
            minimum_free_bytes=0,
        )
        outcome = run([spec], Store(root), options=options, on_event=events.append)
        assert outcome.done == [spec.trial_id], (outcome, events)
        helped = [event for event in events if event["event"] == "helper"]
        assert "error" not in {event["what"] for event in helped}
        assert (root / ".killed").exists() == (helpers == 3)
        pieces = sum(event["what"] == "helped" for event in helped) - len({event["helper"] for event in helped})
        assert pieces > 0
        assert len(list(root.glob(".helper-*"))) >= helpers
        real_trials.assert_same_numbers(tmp_path / "0", root)
        assert not list(root.rglob("evaluations"))
        assert not list(root.rglob("*.tmp"))
