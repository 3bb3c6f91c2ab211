"""The scheduler: plan and order, rules for errors, checks before a start, and both backends on trials that sleep."""

from __future__ import annotations

import errno
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import fake_trials as fake
import pytest

from harness.api import run_suite
from harness.errors import InputError, kind_of
from harness.running.checks import Node, check_disk, check_probe, check_requests, describe, probe
from harness.running.failures import Decision, decide
from harness.running.run import Options, Outcome, connected, run
from harness.running.stopping import RunControl, StopRequest, StopSignal
from harness.running.trial_queue import TrialQueue
from harness.spec import TrialSpec
from harness.store.lock import StoreLock
from harness.store.store import Store
from tests.small import suite_file

SERIAL = Options(serial=True, run_trial="fake_trials:run", minimum_free_bytes=0)
ON_RAY = Options(run_trial="fake_trials:run", minimum_free_bytes=0)


def ids(specs: list[TrialSpec]) -> list[str]:
    return [spec.trial_id for spec in specs]


def errors(store: Store) -> dict[str, str]:
    rows = store.read("trials", columns=["error"])
    return dict(zip(rows["trial_id"], rows["error"], strict=True))


# The queue


def test_teachers_come_first_then_the_longest() -> None:
    short, long, teacher = fake.make(1, steps=2), fake.make(2, steps=9), fake.make(3, steps=1, role="teacher")
    queue = TrialQueue([short, long, teacher], {})
    assert list(queue.ready(0.0)) == [teacher, long, short]


def test_plan_is_what_the_store_does_not_have() -> None:
    specs = [fake.make(seed) for seed in range(5)]
    statuses = dict(zip(ids(specs), ["done", "failed", "stopped", "interrupted"], strict=False)) | {"other": "done"}
    queue = TrialQueue(specs, statuses, {specs[1].trial_id: "why"})
    assert queue.skipped == ids(specs[:1])
    assert queue.failed == {specs[1].trial_id: "why"}
    assert sorted(queue.waiting) == sorted(ids(specs[2:]))
    assert sorted(TrialQueue(specs, statuses).waiting) == sorted(ids(specs[1:]))


def test_a_student_starts_when_its_own_teacher_is_done() -> None:
    first, second = fake.make(1, role="teacher"), fake.make(2, role="teacher")
    one, two = fake.make(3, teacher=first), fake.make(4, teacher=second)
    queue = TrialQueue([one, two, first, second], {})
    assert ids(list(queue.ready(0.0))) == ids([first, second])
    queue.start(first.trial_id)
    queue.start(second.trial_id)
    assert list(queue.ready(0.0)) == []
    queue.finish(second.trial_id)
    assert list(queue.ready(0.0)) == [two]


def test_a_teacher_in_the_store_is_enough() -> None:
    teacher = fake.make(1, role="teacher")
    student = fake.make(2, teacher=teacher)
    assert list(TrialQueue([student], {teacher.trial_id: "done"}).ready(0.0)) == [student]
    assert "neither in this suite nor in the store" in TrialQueue([student], {}).blocked[student.trial_id]


def test_a_failed_teacher_blocks_the_whole_chain() -> None:
    teacher = fake.make(1, role="teacher")
    middle = fake.make(2, role="teacher", teacher=teacher)
    student, other = fake.make(3, teacher=middle), fake.make(4)
    queue = TrialQueue([student, middle, other, teacher], {})
    queue.start(teacher.trial_id)
    assert queue.fail(teacher.trial_id, "no") == [middle.trial_id, student.trial_id]
    assert set(queue.blocked) == {middle.trial_id, student.trial_id}
    assert queue.waiting == [other.trial_id]


def test_a_paused_trial_comes_back_in_its_place() -> None:
    short, long = fake.make(1, steps=2), fake.make(2, steps=9)
    queue = TrialQueue([short, long], {})
    queue.start(long.trial_id)
    queue.postpone(long.trial_id, until=5.0)
    assert list(queue.ready(4.9)) == [short]
    assert list(queue.ready(5.0)) == [long, short]


def test_trials_of_one_training_never_run_at_once() -> None:
    spec = fake.make(1)
    longer = spec.model_copy(update={"evaluation": spec.evaluation.model_copy(update={"chunk_size": 7})})
    longer.__dict__.pop("trial_id", None)
    longer.__dict__.pop("training_id", None)
    assert spec.training_id == longer.training_id
    assert spec.trial_id != longer.trial_id
    queue = TrialQueue([spec, longer], {})
    assert len(list(queue.ready(0.0))) == 1
    queue.start(spec.trial_id)
    assert list(queue.ready(0.0)) == []
    queue.finish(spec.trial_id)
    assert list(queue.ready(0.0)) == [longer]


# Errors


def chained(outer: Exception, inner: Exception) -> Exception:
    outer.__cause__ = inner
    return outer


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ValueError("loss is nan at step 3"), "method"),
        (FileNotFoundError(errno.ENOENT, "no such file"), "method"),
        (RuntimeError("CUDA error: device-side assert triggered"), "method"),
        (fake.OutOfMemoryError("CUDA out of memory"), "gpu_memory"),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), "gpu_memory"),
        (OSError(errno.ENOSPC, "No space left on device"), "disk"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "disk"),
        (RuntimeError("PytorchStreamWriter failed writing file data/3: file write failed"), "disk"),
        (chained(RuntimeError("cannot save"), OSError(errno.ENOSPC, "full")), "disk"),
        (MemoryError(), "infrastructure"),
        (OSError(errno.ESTALE, "Stale file handle"), "infrastructure"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "infrastructure"),
    ],
)
def test_whose_fault_an_error_is(error: Exception, kind: str) -> None:
    assert kind_of(error) == kind


def test_torch_is_known_by_name() -> None:
    torch = pytest.importorskip("torch")
    assert kind_of(torch.cuda.OutOfMemoryError("no")) == "gpu_memory"


@pytest.mark.parametrize(
    ("kind", "barren", "gpu", "whole", "decision"),
    [
        ("method", 1, 0, False, Decision("fail")),
        ("timeout", 0, 1, False, Decision("fail")),
        ("disk", 1, 0, False, Decision("stop")),
        ("gpu_memory", 1, 0.25, False, Decision("retry_whole_gpu")),
        ("gpu_memory", 2, 1, True, Decision("fail")),
        ("gpu_memory", 1, 1, False, Decision("fail")),
        ("gpu_memory", 1, 0, False, Decision("fail")),
        ("infrastructure", 0, 0, False, Decision("retry", 0.5)),
        ("infrastructure", 1, 1, False, Decision("retry", 0.5)),
        ("infrastructure", 2, 0, False, Decision("retry", 1.0)),
        ("infrastructure", 3, 0, False, Decision("fail")),
    ],
)
def test_what_happens_after_an_error(kind: Any, barren: int, gpu: float, whole: bool, decision: Decision) -> None:
    assert decide(kind, barren=barren, gpu=gpu, had_whole_gpu=whole) == decision


# Before a start

NODES = [
    Node("a", "one", {"CPU": 8, "GPU": 2, "memory": 1e9, "node:one": 1}),
    Node("b", "two", {"CPU": 16, "licence": 1}),
]


@pytest.mark.parametrize("request_", [{"cpu": 16}, {"cpu": 8, "gpu": 1}, {"gpu": 0.25}, {"custom": {"licence": 1}}])
def test_a_request_that_fits_some_node(request_: dict[str, Any]) -> None:
    check_requests([fake.make(**request_)], NODES)


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        ({"cpu": 17}, "CPU 17"),
        ({"cpu": 9, "gpu": 1}, "CPU 9, GPU 1"),
        ({"gpu": 2}, "gpu must be at most 1: a trial computes on one GPU, not 2"),
        ({"custom": {"licence": 2}}, "licence 2"),
        ({"gpu": 1, "custom": {"licence": 1}}, "licence 1"),
    ],
)
def test_a_request_that_fits_no_node(request_: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        check_requests([fake.make(1), fake.make(2, **request_)], NODES)
    assert "\n" not in str(caught.value)


def test_more_threads_than_the_machine_has_cores_are_refused_when_a_run_starts(tmp_path: Path) -> None:
    check_requests([fake.make(threads=16), fake.make(threads=8, gpu=1)], NODES)
    with pytest.raises(InputError, match="17 threads, and the largest node for it has 16 cores: --set threads=16"):
        check_requests([fake.make(threads=17)], NODES)
    with pytest.raises(InputError, match="9 threads, and the largest node for it has 8 cores"):
        check_requests([fake.make(threads=9, gpu=1)], NODES)
    with pytest.raises(InputError, match=f"999 threads, and this machine has {os.cpu_count()} core") as caught:
        run([fake.make(threads=999)], Store(tmp_path / "new"), options=SERIAL)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "new").exists()


def test_the_cluster_in_words() -> None:
    assert describe(NODES) == "1 node with CPU 8, GPU 2; 1 node with CPU 16, licence 1"
    assert describe([NODES[1], NODES[1]]) == "2 nodes with CPU 16, licence 1"


def test_a_machine_without_gpu_says_how_to_go_on() -> None:
    with pytest.raises(InputError, match=r"--set resources.gpu=0"):
        check_requests([fake.make(gpu=0.5)], NODES[1:])


def test_disk_space(tmp_path: Path) -> None:
    check_disk(tmp_path, 1)
    with pytest.raises(InputError, match="MB are free"):
        check_disk(tmp_path, 2**60)


def test_the_probe_reads_and_writes_the_results_folder(tmp_path: Path) -> None:
    control = RunControl(tmp_path)
    answer = probe(str(control.path), control.nonce, "2.60.0")
    check_probe(answer, tmp_path, "2.60.0")
    assert [path.name for path in control.path.parent.iterdir()] == ["control.json"]
    with pytest.raises(InputError, match="does not see the results folder"):
        check_probe(probe(str(control.path), "of another run", "2.60.0"), tmp_path, "2.60.0")
    with pytest.raises(InputError, match="does not see the results folder"):
        check_probe(probe(str(tmp_path / "elsewhere" / "control.json"), control.nonce, "2.60.0"), tmp_path, "2.60.0")
    with pytest.raises(InputError, match=r"cannot write to the results folder.*Read-only"):
        check_probe(answer | {"writes": False, "problem": "Read-only file system"}, tmp_path, "2.60.0")
    with pytest.raises(InputError, match=r"ray 2\.60\.0, this machine 2\.61\.0"):
        check_probe(answer, tmp_path, "2.61.0")
    with pytest.raises(InputError, match=r"runs python 3\.8\.1"):
        check_probe(answer | {"python": "3.8.1"}, tmp_path, "2.60.0")


def test_a_stop_reaches_the_workers_of_this_run_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.running.stopping._POLL_S", 0.0)
    control = RunControl(tmp_path)
    signal_ = StopSignal(str(control.path), control.nonce)
    assert not signal_()
    newer = RunControl(tmp_path)  # another driver took the store over
    assert signal_()
    fresh = StopSignal(str(newer.path), newer.nonce)
    control.stop()
    control.close()
    assert not fresh()
    newer.stop()
    assert fresh()
    newer.close()
    assert not newer.path.exists()
    assert StopSignal(str(newer.path), newer.nonce)()


def test_a_stop_needs_no_disk_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, content: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    control = RunControl(tmp_path)
    signal_ = StopSignal(str(control.path), control.nonce)
    monkeypatch.setattr("harness.running.stopping.write_bytes", full)
    control.stop()
    assert signal_()


# In this process


def test_serial_run_and_run_again(tmp_path: Path) -> None:
    teacher = fake.make(0, role="teacher")
    bad = fake.make(2, "raise")
    specs = [fake.make(1, teacher=teacher), bad, teacher]
    store, events = Store(tmp_path), []
    outcome = run(specs, store, options=SERIAL, on_event=events.append)
    assert outcome.done == ids([teacher, specs[0]])
    assert outcome.failed == {bad.trial_id: "ValueError: the loss is not finite at step 7"}
    assert outcome.exit_code == 1
    assert store.statuses() == {teacher.trial_id: "done", specs[0].trial_id: "done", bad.trial_id: "failed"}
    row = store.trials().set_index("trial_id").loc[bad.trial_id]
    assert "Traceback" in row["error"]
    assert "fake_trials.py" in row["error"]
    assert (row["attempts"], row["variant"], row["method"]) == (1, "raise", "at")
    assert [event["event"] for event in events if event.get("trial_id") == bad.trial_id] == [
        "launch",
        "start",
        "error",
        "failed",
    ]
    again = run(specs, Store(tmp_path), options=SERIAL)
    assert (again.done, again.skipped) == ([], ids([specs[0], teacher]))
    assert again.failed[bad.trial_id].startswith("failed in an earlier run: ValueError")
    assert fake.start_steps(tmp_path, bad) == fake.start_steps(tmp_path, teacher) == [0]


def test_a_stored_failure_is_run_again_when_asked(tmp_path: Path) -> None:
    spec = fake.make(1, "raise_first_time")
    assert run([spec], Store(tmp_path), options=SERIAL).exit_code == 1
    assert run([spec], Store(tmp_path), options=SERIAL).exit_code == 1
    retry = Options(serial=True, run_trial="fake_trials:run", retry_failed=True, minimum_free_bytes=0)
    assert run([spec], Store(tmp_path), options=retry).done == [spec.trial_id]
    assert Store(tmp_path).statuses() == {spec.trial_id: "done"}


def test_a_failed_teacher_blocks_its_students_and_nothing_else(tmp_path: Path) -> None:
    teacher = fake.make(1, "raise", role="teacher")
    student, other = fake.make(2, teacher=teacher), fake.make(3)
    outcome = run([teacher, student, other], Store(tmp_path), options=SERIAL)
    assert outcome.done == [other.trial_id]
    assert outcome.blocked == {student.trial_id: f"its teacher {teacher.trial_id} failed"}
    assert fake.journal(tmp_path, student) == []


def test_a_trial_that_calls_exit_fails_alone(tmp_path: Path) -> None:
    specs = [fake.make(1, "exit"), fake.make(2)]
    outcome = run(specs, Store(tmp_path), options=SERIAL)
    assert outcome.done == [specs[1].trial_id]
    assert outcome.failed == {specs[0].trial_id: "SystemExit: no"}


def test_a_full_disk_stops_the_run_and_keeps_its_state(tmp_path: Path) -> None:
    full, waiting = fake.make(1, "fill_the_disk", steps=5), fake.make(2, steps=2)
    outcome = run([full, waiting], Store(tmp_path), options=SERIAL)
    assert sorted(outcome.interrupted) == sorted(ids([full, waiting]))
    assert outcome.stop_reason is not None
    assert "disk is full" in outcome.stop_reason
    assert outcome.exit_code == 1
    assert Store(tmp_path).statuses() == {full.trial_id: "interrupted"}
    assert sorted(run([full, waiting], Store(tmp_path), options=SERIAL).done) == sorted(ids([full, waiting]))
    assert fake.start_steps(tmp_path, full) == [0, 1]


def test_a_disk_that_is_full_for_the_driver_stops_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(store: Store, trial_id: str) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Store, "record_attempt", full)
    outcome = run([fake.make(1), fake.make(2)], Store(tmp_path), options=SERIAL)
    assert len(outcome.interrupted) == 2
    assert "disk is full" in str(outcome.stop_reason)


def test_the_time_limit_of_a_suite_holds_in_a_notebook_too(tmp_path: Path) -> None:
    suite = suite_file(tmp_path, methods=["at"], teacher=None, time_limit_hours=1e-6)
    options = Options(serial=True, minimum_free_bytes=0)
    outcome = run_suite(suite, results=tmp_path / "store", options=options)
    assert [reason.split(", ")[-1] for reason in outcome.failed.values()] == ["the time limit per trial"]


def test_time_limit_per_trial(tmp_path: Path) -> None:
    slow = fake.make(1, steps=1000, step_s=0.05)
    options = Options(serial=True, run_trial="fake_trials:run", trial_timeout_s=0.4, minimum_free_bytes=0)
    outcome = run([slow], Store(tmp_path), options=options)
    assert outcome.failed == {slow.trial_id: "stopped after 0.4 s, the time limit per trial"}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_stops_at_the_next_step_and_the_next_run_goes_on(tmp_path: Path, number: int) -> None:
    specs = [fake.make(1, steps=10, step_s=0.05), fake.make(2, steps=2)]
    events: list[dict[str, Any]] = []

    def on_event(event: dict[str, Any]) -> None:
        events.append(event)
        if event["event"] == "epoch" and event["epoch"] == 2:
            os.kill(os.getpid(), number)

    inherited = signal.signal(number, signal.default_int_handler)  # tests may run under nohup, which runs respect
    try:
        outcome = run(specs, Store(tmp_path), options=SERIAL, on_event=on_event)
        assert signal.getsignal(number) is signal.default_int_handler
    finally:
        signal.signal(number, inherited)
    assert outcome.exit_code == 130
    assert sorted(outcome.interrupted) == sorted(ids(specs))
    assert outcome.stop_reason == signal.Signals(number).name
    assert Store(tmp_path).statuses() == {specs[0].trial_id: "interrupted"}
    assert fake.start_steps(tmp_path, specs[1]) == []
    assert "stopping" in {event["event"] for event in events}
    step = int((tmp_path / "work" / specs[0].training_id / "step").read_text())
    assert step == 2
    short = Options(serial=True, run_trial="fake_trials:run", trial_timeout_s=60, minimum_free_bytes=0)
    assert len(run(specs, Store(tmp_path), options=short).done) == 2
    assert fake.start_steps(tmp_path, specs[0]) == [0, 2]


def test_a_results_folder_that_is_moved_in_mid_run_stops_it_and_nothing_is_made_in_its_place(tmp_path: Path) -> None:
    specs = [fake.make(1, steps=10, step_s=0.05), fake.make(2, steps=2)]
    root, moved = tmp_path / "here", tmp_path / "there"

    def on_event(event: dict[str, Any]) -> None:
        if event["event"] == "epoch" and event["epoch"] == 2 and not moved.exists():
            root.rename(moved)

    outcome = run(specs, Store(root), options=SERIAL, on_event=on_event)
    assert outcome.stop_reason == f"the results folder {root} is no longer there"
    assert sorted(outcome.interrupted) == sorted(ids(specs))
    assert outcome.exit_code == 1
    assert not root.exists()
    for lock in (moved / "driver").iterdir():  # as if this process, which holds it, had ended
        lock.write_text('{"released": true}')
    assert len(run(specs, Store(moved), options=SERIAL).done) == 2
    assert fake.start_steps(moved, specs[0]) == [0, 2]


def test_a_second_signal_does_not_wait(tmp_path: Path) -> None:
    spec = fake.make(1, "hang", steps=3)

    def on_event(event: dict[str, Any]) -> None:
        if event["event"] == "epoch":  # it hangs in the next one
            for wait in (0.1, 1.0):
                threading.Timer(wait, os.kill, (os.getpid(), signal.SIGINT)).start()

    began = time.monotonic()
    outcome = run([spec], Store(tmp_path), options=SERIAL, on_event=on_event)
    assert time.monotonic() - began < fake.HANGS_S / 2
    assert outcome.interrupted == [spec.trial_id]
    assert outcome.exit_code == 130


def test_signals_are_left_alone_outside_the_main_thread() -> None:
    handlers: list[Any] = []

    def enter() -> None:
        with StopRequest():
            handlers.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert handlers == [signal.getsignal(signal.SIGINT)]


def test_a_second_driver_is_refused(tmp_path: Path) -> None:
    with StoreLock(tmp_path), pytest.raises(InputError, match=f"in use by process {os.getpid()} on"):
        run([fake.make(1)], Store(tmp_path), options=SERIAL)
    assert run([fake.make(1)], Store(tmp_path), options=SERIAL).exit_code == 0


def test_wrong_options(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="workers must be at least 1"):
        run([], Store(tmp_path), options=Options(workers=0))
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write to"):
        run([], Store(tmp_path / "file" / "results"), options=SERIAL)


def test_importing_the_scheduler_costs_neither_ray_nor_torch() -> None:
    code = "import sys, harness.running.run, harness.cli.progress; print(sorted({'ray', 'torch'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# On Ray: one session, real processes


def test_matrix_on_ray(ray_session: None, tmp_path: Path) -> None:
    good = [fake.make(seed, steps=3, threads=seed + 1) for seed in range(3)]
    once = fake.make(10, "die_once_at_step_2", steps=4)
    raising, dying = fake.make(11, "raise"), fake.make(12, "die")
    silent = fake.make(15, "die_after_commit")
    teacher = fake.make(13, "raise", role="teacher")
    student = fake.make(14, teacher=teacher)
    specs = [*good, once, silent, raising, dying, teacher, student]
    store = Store(tmp_path)
    outcome = run(specs, store, options=ON_RAY)
    assert sorted(outcome.done) == sorted(ids([*good, once, silent]))
    assert set(outcome.failed) == set(ids([raising, dying, teacher]))
    assert set(outcome.blocked) == {student.trial_id}
    assert fake.start_steps(tmp_path, once) == [0, 2]
    assert fake.start_steps(tmp_path, raising) == fake.start_steps(tmp_path, silent) == [0]
    assert fake.start_steps(tmp_path, dying) == [0, 0, 0]
    assert "3 attempts in a row" in errors(store)[dying.trial_id]
    assert "WorkerCrashedError" in errors(store)[dying.trial_id]
    assert "ValueError: the loss is not finite" in errors(store)[raising.trial_id]
    attempts = store.trials().set_index("trial_id")["attempts"]
    assert attempts[ids([once, raising, dying])].tolist() == [2, 1, 3]
    starts = {spec.seed: fake.journal(tmp_path, spec)[0] for spec in good}
    assert [starts[seed]["threads"] for seed in range(3)] == ["1", "2", "3"]
    assert all(start["devices"] == "" for start in starts.values())
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "trials").iterdir()}
    again = run(specs, store, options=ON_RAY)
    assert sorted(again.skipped) == sorted(ids([*good, once, silent]))
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "trials").iterdir()} == before
    assert not (tmp_path / "work" / "control.json").exists()
    assert not list(tmp_path.rglob("*.tmp"))


def test_gpu_trials_share_devices_and_get_processes_of_their_own(ray_session: None, tmp_path: Path) -> None:
    shares = [1, 0.5, 0.25, 0.5]
    on_gpu = [fake.make(seed, gpu=share, cpu=0.25, steps=1, step_s=0.5) for seed, share in enumerate(shares)]
    greedy = fake.make(20, "need_a_whole_gpu", gpu=0.5, cpu=0.25, steps=1, step_s=0.1)
    on_cpu = [fake.make(30 + seed, cpu=0.25, steps=1, step_s=0.1) for seed in range(2)]
    licensed = [fake.make(40 + seed, cpu=0.25, steps=1, step_s=0.3, custom={"licence": 1}) for seed in range(2)]
    specs = [*on_gpu, greedy, *on_cpu, *licensed]
    outcome = run(specs, Store(tmp_path), options=ON_RAY)
    assert sorted(outcome.done) == sorted(ids(specs))
    check_devices(tmp_path, on_gpu)
    assert len(fake.start_steps(tmp_path, greedy)) == 2
    pids = Counter(
        entry["pid"] for spec in [*on_gpu, greedy] for entry in fake.journal(tmp_path, spec) if entry["what"] == "start"
    )
    assert set(pids.values()) == {1}
    for spec in [*on_cpu, *licensed]:
        start = fake.journal(tmp_path, spec)[0]
        assert start["devices"] == ""
        assert start["pid"] not in pids
    first, second = sorted([entry["time"] for entry in fake.journal(tmp_path, spec)] for spec in licensed)
    assert first[-1] <= second[0]


def check_devices(root: Path, specs: list[TrialSpec]) -> None:
    """At no time more than a whole trial's worth on one device of one node."""
    changes: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for spec in specs:
        entries = fake.journal(root, spec)
        start, end = entries[0], entries[-1]
        assert (start["what"], end["what"]) == ("start", "end")
        devices = start["devices"].split(",")
        assert len(devices) == max(1, spec.resources.gpu)
        for device in devices:
            share = min(1.0, spec.resources.gpu)
            changes.setdefault((start["node"], device), []).extend([(start["time"], share), (end["time"], -share)])
    for times in changes.values():
        load = 0.0
        for _, change in sorted(times):
            load += change
            assert load <= 1 + 1e-9


def test_workers_option_caps_concurrency(ray_session: None, tmp_path: Path) -> None:
    running, most = set(), []

    def on_event(event: dict[str, Any]) -> None:
        if event["event"] == "launch":
            running.add(event["trial_id"])
            most.append(len(running))
        elif event["event"] == "done":
            running.discard(event["trial_id"])

    specs = [fake.make(seed, steps=2) for seed in range(4)]
    options = Options(run_trial="fake_trials:run", workers=1, minimum_free_bytes=0)
    assert len(run(specs, Store(tmp_path), options=options, on_event=on_event).done) == 4
    assert max(most) == 1


def test_what_no_node_has_is_refused_at_once(ray_session: None, tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"asks for CPU 1, licence 3, and no node has that: the cluster has 1 node with"
    ) as caught:
        run([fake.make(1), fake.make(2, custom={"licence": 3})], Store(tmp_path), options=ON_RAY)
    assert "CPU 4, GPU 2, licence 1" in str(caught.value)
    assert not (tmp_path / "journal").exists()


def test_a_hanging_trial_is_killed(ray_session: None, tmp_path: Path) -> None:
    hanging = fake.make(1, "hang")
    options = Options(run_trial="fake_trials:run", trial_timeout_s=1.5, minimum_free_bytes=0)
    events: list[dict[str, Any]] = []
    began = time.monotonic()
    outcome = run([hanging], Store(tmp_path), options=options, on_event=events.append)
    assert time.monotonic() - began < fake.HANGS_S / 2
    assert outcome.failed == {hanging.trial_id: "stopped after 1.5 s, the time limit per trial"}
    assert_gone(next(event["pid"] for event in events if event["event"] == "launch"))


def assert_gone(pid: int) -> None:
    """A process has ended, or ends soon."""
    end = time.monotonic() + 120
    while Path(f"/proc/{pid}").exists() and time.monotonic() < end:
        time.sleep(0.05)
    assert not Path(f"/proc/{pid}").exists()


@pytest.mark.parametrize(("grace", "second"), [(3.0, None), (fake.HANGS_S, 1.0)])
def test_a_trial_that_does_not_heed_the_stop_is_killed(
    ray_session: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, grace: float, second: float | None
) -> None:
    """After the grace, or at once when asked a second time."""
    monkeypatch.setattr("harness.running.driver.GRACE_S", grace)
    hanging, good, never = fake.make(1, "hang"), fake.make(2, steps=2000, step_s=0.1), fake.make(3, cpu=4)
    under_way: set[str] = set()

    def on_event(event: dict[str, Any]) -> None:
        if event["event"] == "epoch" and len(under_way) < 2:
            under_way.add(event["trial_id"])
            for wait in (0.1, second):
                if wait and len(under_way) == 2:
                    threading.Timer(wait, os.kill, (os.getpid(), signal.SIGINT)).start()

    outcome = run([hanging, good, never], Store(tmp_path), options=ON_RAY, on_event=on_event)
    assert outcome.exit_code == 130
    assert sorted(outcome.interrupted) == sorted(ids([hanging, good, never]))
    assert Store(tmp_path).statuses() == dict.fromkeys(ids([hanging, good]), "interrupted")
    assert [entry["what"] for entry in fake.journal(tmp_path, good)] == ["start", "interrupted"]
    assert_gone(fake.journal(tmp_path, hanging)[0]["pid"])


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("127.0.0.1:1", "no Ray cluster answers at '127.0.0.1:1'"),
        ("nowhere.invalid:6379", "no Ray cluster answers at 'nowhere.invalid:6379'"),
        ("127.0.0.1", "no Ray cluster answers"),
        ("ray://127.0.0.1:10001", "inside its cluster"),
    ],
)
def test_an_address_where_nobody_answers(address: str, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    with pytest.raises(InputError, match=words) as caught, connected(address):
        pass
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("banner", [b"SSH-2.0-OpenSSH_9.6\r\n", b"HTTP/1.1 400 Bad Request\r\n\r\n", b""])
def test_an_address_that_is_not_ray_is_said_at_once(banner: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            with server.accept()[0] as connection:
                connection.sendall(banner)
                connection.recv(64)

        thread = threading.Thread(target=answer)
        thread.start()
        address = f"127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(InputError, match="is not a Ray cluster"), connected(address):
            pass
        thread.join()


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("RAY_AUTH_MODE", "nonsense", "RAY_AUTH_MODE must be token or disabled, not 'nonsense'"),
        ("RAY_TMPDIR", "/" + "x" * 40, "set RAY_TMPDIR to a short folder, such as /tmp"),
        ("RAY_TMPDIR", "/nonexistent", "set RAY_TMPDIR"),
        ("RAY_ADDRESS", "nonsense", "no Ray cluster answers at 'nonsense'"),
    ],
)
def test_nonsense_in_the_environment_is_refused(
    name: str, value: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match=words) as caught, connected():
        pass
    assert "\n" not in str(caught.value)


def test_settings_that_ray_cannot_read_are_refused_before_it_is_loaded() -> None:
    program = "from harness.running.on_ray import connected\nwith connected(): pass"
    environment = {**os.environ, "RAY_health_check_period_ms": "soon"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "InputError: Ray cannot be loaded with" in done.stderr
    assert "RAY_health_check_period_ms" in done.stderr


def test_the_exit_code_tells() -> None:
    nothing = Outcome([], [], {}, {}, [])
    assert nothing.exit_code == 0
    assert json.dumps(nothing.failed) == "{}"
