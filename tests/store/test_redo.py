"""Finished trials made again: nothing that was there is lost, and whoever is not named is left alone."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import pandas as pd
import pytest

from harness import load_results
from harness.errors import InputError
from harness.running.run import run
from harness.spec import read_spec
from harness.store.compaction import compact
from harness.store.redo import named_trials, refuse_left_behind, set_aside
from harness.store.store import Store
from harness.store.tables import TABLES
from harness.store.verify import verify
from tests import fake_trials as fake
from tests.command import bench
from tests.running.test_scheduler import SERIAL
from tests.small import small_specs, suite_file
from tests.synthetic_store import trial_spec, trial_tables


def filled(root: Path) -> tuple[Store, dict[str, object]]:
    specs = {name: trial_spec(name, 0) for name in ("rslad", "absld", "trades")}
    for spec in specs.values():
        Store(root).commit(*trial_tables(spec, per_class=10))
        folder = root / "work" / spec.training_id
        folder.mkdir(parents=True)
        (folder / "last.pt").write_text(spec.variant)
    return Store(root), specs


def rows(store: Store, table: str, trial_id: str) -> pd.DataFrame:
    frame = store.read(table, [trial_id])
    return frame.astype({name: str for name in frame if isinstance(frame[name].dtype, pd.CategoricalDtype)})


@pytest.mark.parametrize("compacted", [False, True])
def test_what_is_made_again_is_set_aside_as_a_store_of_its_own(tmp_path, compacted):
    store, specs = filled(tmp_path)
    spec, others = specs["absld"], [specs["rslad"], specs["trades"]]
    before = {table: rows(store, table, spec.trial_id) for table in TABLES}
    kept = {table: [rows(store, table, other.trial_id) for other in others] for table in TABLES}
    if compacted:
        compact(store)
    where = set_aside(store, [spec])
    assert where is not None
    assert where.parent == tmp_path / "set_aside"
    again = load_results(where)
    for table in TABLES:
        pd.testing.assert_frame_equal(rows(again, table, spec.trial_id), before[table])
        assert rows(Store(tmp_path), table, spec.trial_id).empty
        for other, frame in zip(others, kept[table], strict=True):
            pd.testing.assert_frame_equal(rows(Store(tmp_path), table, other.trial_id), frame)
    assert Store(tmp_path).statuses() == {other.trial_id: "done" for other in others}
    assert (where / "work" / spec.training_id / "last.pt").read_text() == "absld"
    assert not (tmp_path / "work" / spec.training_id).exists()
    assert (tmp_path / "work" / others[0].training_id / "last.pt").exists()
    assert (verify(tmp_path).broken, verify(again.root).broken) == ({}, {})
    assert (Store(tmp_path).problems, again.problems) == ([], [])


def test_a_trial_made_again_twice_is_there_three_times(tmp_path):
    store, specs = filled(tmp_path)
    spec = specs["absld"]
    for _ in range(2):
        set_aside(store, [spec])
        store.commit(*trial_tables(spec, per_class=10))
        compact(store)
    places = [tmp_path, *(tmp_path / "set_aside").iterdir()]
    assert len(places) == 3
    assert [Store(place).has(spec.trial_id) for place in places] == [True] * 3
    assert verify(tmp_path).broken == {}


def test_there_may_be_nothing_to_set_aside(tmp_path):
    store, _ = filled(tmp_path)
    assert set_aside(store, [trial_spec("rslad", 5)]) is None
    assert not (tmp_path / "set_aside").exists()


def test_a_damaged_trial_is_made_again_with_its_file_kept(tmp_path):
    store, specs = filled(tmp_path)
    spec = specs["absld"]
    path = store.path("class_accuracy", spec.trial_id)
    damaged = path.read_bytes()[:300]
    path.write_bytes(damaged)
    where = set_aside(store, [spec])
    assert where is not None
    assert (where / "class_accuracy" / path.name).read_bytes() == damaged
    assert verify(tmp_path).broken == {}


def test_a_damaged_part_is_refused_and_all_stays(tmp_path):
    store, specs = filled(tmp_path)
    compact(store)
    (part,) = (tmp_path / "class_accuracy").glob("compacted-*")
    part.write_bytes(part.read_bytes()[:-100])
    before = sorted(path for path in tmp_path.rglob("*") if path.is_file())
    with pytest.raises(InputError, match="class_accuracy"):
        set_aside(Store(tmp_path), [specs["absld"]])
    assert sorted(path for path in tmp_path.rglob("*") if path.is_file()) == before
    assert Store(tmp_path).has(specs["absld"].trial_id)


def test_a_crash_at_any_step_loses_nothing(tmp_path, monkeypatch):
    """The process dies at each change of the file system in turn; asked for again, the trial is made again."""

    class Killed(BaseException):
        pass

    for step in range(40):
        root = tmp_path / str(step)
        store, specs = filled(root)
        spec = specs["absld"]
        compact(store)
        count = iter(range(100))

        def dying(*words, replace=os.replace, count=count, step=step):
            if next(count) == step:
                raise Killed
            return replace(*words)

        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", dying)
            try:
                set_aside(Store(root), [spec])
            except Killed:
                pass
            else:
                assert step > 5
                return
        places = [root, *(root / "set_aside").iterdir()]
        whole = [place for place in places if Store(place).has(spec.trial_id)]
        assert whole
        assert len(rows(Store(whole[0]), "class_accuracy", spec.trial_id)) == 100
        set_aside(Store(root), [spec])
        assert not Store(root).has(spec.trial_id)
        assert verify(root).broken == {}
    raise AssertionError("it never came to its end")


def test_a_run_makes_again_what_is_named_and_nothing_else(tmp_path):
    specs = [fake.make(seed, steps=2, step_s=0.0) for seed in range(3)]
    run(specs, Store(tmp_path), options=SERIAL)
    events: list[dict] = []
    again = dataclasses.replace(SERIAL, redo=(specs[1].trial_id,))
    outcome = run(specs, Store(tmp_path), options=again, on_event=events.append)
    assert outcome.done == [specs[1].trial_id]
    assert [fake.start_steps(tmp_path, spec) for spec in specs] == [[0], [0, 0], [0]]  # from the beginning
    (where,) = [event["where"] for event in events if event["event"] == "set_aside"]
    assert load_results(where).has(specs[1].trial_id)
    assert Store(tmp_path).statuses() == {spec.trial_id: "done" for spec in specs}


def test_trials_are_named_by_variant_or_the_beginning_of_their_id(tmp_path):
    specs = list(small_specs(tmp_path, methods=["at", "rslad"], seeds=[0, 1]).values())
    specs += [read_spec({**specs[-1].model_dump(), "seed": 7})]
    ids = [spec.trial_id for spec in specs if spec.variant == "rslad"]
    assert named_trials(specs, ["rslad"]) == ids
    assert named_trials(specs, [ids[0][:6], ids[0]]) == ids[:1]
    for name in ("rsald", "", ids[0][:3], "zzzzzz"):
        with pytest.raises(InputError, match="variant or trial"):
            named_trials(specs, [name])


def test_the_command_makes_again_and_refuses_what_it_does_not_know(tmp_path):
    suite = suite_file(tmp_path, methods=["at"], teacher=None)
    words = ("run", suite, "--set", "training.epochs=1", "--serial", "--results", "store")
    bench(*words, cwd=tmp_path)
    (first,) = Store(tmp_path / "store").trials()["finished"]
    refused = bench(*words, "--redo", "att", cwd=tmp_path, check=2)
    assert "unknown variant or trial to make again 'att': did you mean at?" in refused.stderr
    shown = bench(*words, "--redo", "at", "--dry-run", cwd=tmp_path).stdout
    assert "1 trials: 1 again" in shown
    assert not (tmp_path / "store" / "set_aside").exists()
    done = bench(*words, "--redo", "at", cwd=tmp_path)
    assert "set aside, to be made again: store/set_aside/" in " ".join(done.stderr.split())
    (aside,) = (tmp_path / "store" / "set_aside").iterdir()
    assert list(load_results(aside).trials()["finished"]) == [first]
    assert list((aside / "work").iterdir())
    assert Store(tmp_path / "store").statuses() == load_results(aside).statuses()


@pytest.mark.parametrize("role", ["teachers", "init"])
def test_a_network_is_not_made_again_behind_its_students(tmp_path, role):
    specs = small_specs(tmp_path, methods=["rslad"])
    network, student = specs["teacher"], specs["rslad"]
    source = student.teachers["teacher"]
    if role == "init":
        student = read_spec({**student.model_dump(), "teachers": {}, "init": source.model_dump()})
    store = Store(tmp_path / "store")
    for spec in (network, student):
        store.commit(*trial_tables(spec, per_class=10))
    for make in (set_aside, refuse_left_behind):
        with pytest.raises(InputError, match=rf"rslad \({student.trial_id[:8]}\); name them with --redo too"):
            make(store, [network])
    assert store.statuses() == dict.fromkeys([network.trial_id, student.trial_id], "done")
    assert set_aside(store, [network, student]) is not None
    assert store.statuses() == {}
