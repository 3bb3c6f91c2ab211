"""Estimates of running time: what they are made of and grow with."""

from __future__ import annotations

import json
import os
from contextlib import nullcontext

import pytest
import torch

from harness import calibration
from harness.api import plan_suite, run_planned
from harness.attacks.autoattack import STANDARD
from harness.attacks.conditions import Conditions
from harness.calibration import AttackCost, Calibration, Estimate, batch_seconds, best_threads
from harness.cli.listings import calibration_table, trial_states
from harness.cli.messages import print_calibration
from harness.data.splits import held_out_wanted
from harness.errors import AbsentError, InputError
from harness.report.tables.grid import duration
from harness.running.run import Options
from harness.store.lock import StoreLock
from harness.store.store import Store
from harness.store.work import WorkingFolder
from harness.suites.suite import load_suite
from harness.training import train
from harness.training.validation import held_out_statistics
from tests.small import run_to_end, small_specs, suite_file


class Clock:
    """Seconds that are not the machine's: every piece of work takes one, and is done once."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, device: torch.device, work) -> float:
        self.calls += 1
        work()
        return 1.0


@pytest.fixture
def clock(monkeypatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(calibration, "_seconds", made)
    monkeypatch.setattr(calibration, "MOST", 2)
    return made


def estimate(tmp_path, *overrides: str, variant: str = "at"):
    return Calibration(Store(tmp_path / "store")).estimate(small_specs(tmp_path, *overrides)[variant])


@pytest.mark.usefixtures("clock")
def test_an_estimate_by_hand(tmp_path):
    found = estimate(tmp_path)
    # a second a batch: 200 images in batches of 50; a second for the validation's piece
    validation = len(Calibration(Store(tmp_path))._data(small_specs(tmp_path)["at"]).validation)
    assert found.train_s == pytest.approx(2 * (200 / 50 + validation / min(validation, calibration.VALIDATED)))
    # as many images as survive of a chunk of 25: a second for their clean forward, one for the attack's three steps
    piece = int(calibration.ROBUST * 25)
    clean, pgd = 60 / piece, 60 / piece * (1 + calibration.ROBUST)
    assert found.eval_s == pytest.approx(2 * (clean + pgd))


@pytest.mark.usefixtures("clock")
def test_an_estimate_has_the_pass_over_the_training_images_before_each_epoch(tmp_path):
    changes = {"init": {"method": "at"}, "methods": ["csr", {"method": "faal"}]}
    specs = small_specs(tmp_path, **changes)
    with_pass, without = (Calibration(Store(tmp_path / "store")).estimate(specs[name]) for name in ("csr", "faal"))
    assert with_pass.train_s - without.train_s == pytest.approx(2 * 200 / 50)


@pytest.mark.usefixtures("clock")
def test_estimates_grow_with_epochs_images_and_checkpoints(tmp_path):
    one = estimate(tmp_path)
    assert estimate(tmp_path, "training.epochs=6").train_s == pytest.approx(3 * one.train_s)
    for change in ({"images": 30}, {"checkpoints": ["last"]}):
        attacks = [{"name": "clean", **change}, {"name": "pgd3", **change}]
        assert estimate(tmp_path, f"evaluation.attacks={json.dumps(attacks)}").eval_s == pytest.approx(one.eval_s / 2)


def test_one_measurement_for_trials_that_differ_in_seed_epochs_or_settings(tmp_path, clock):
    methods = [{"method": "trades", "beta": beta, "variant": f"beta-{beta}"} for beta in (1, 2, 3)]
    specs = small_specs(tmp_path, f"methods={json.dumps(methods)}", "seeds=[0, 1]")
    shared = Calibration(Store(tmp_path / "store"))
    first = shared.estimate(specs["beta-1"])
    before = clock.calls
    assert all(shared.estimate(spec) == first for spec in specs.values())
    assert clock.calls == before
    for override in ("training.batch_size=40", 'methods=[{"method": "at", "attack_mode": "train", "variant": "at"}]'):
        before = clock.calls
        shared.estimate(small_specs(tmp_path, override)["at"])
        assert clock.calls > before


@pytest.mark.usefixtures("clock")
def test_weight_perturbation_is_measured_in_an_epoch_that_has_it(tmp_path, monkeypatch):
    entered = []
    monkeypatch.setattr("harness.training.trainer.perturbed", lambda *arguments: entered.append(1) or nullcontext())
    estimate(tmp_path, "training.weight_perturbation={gamma: 0.01, start_epoch: 1}")
    assert len(entered) == 1 + calibration.MOST


@pytest.mark.usefixtures("clock")
@pytest.mark.parametrize(
    ("weights", "average", "wanted"),
    [
        ("none", "null", []),
        ("none", "{kind: ema}", []),
        ("none", "{kind: fawa}", ["pgd"]),
        ("frl", "null", ["pgd"]),
        ("wat", "null", ["trades"]),
        ("wat", "{kind: fawa}", ["pgd", "trades"]),
    ],
)
def test_held_out_statistics_are_measured_as_training_asks(tmp_path, monkeypatch, weights, average, wanted):
    methods = [{"method": "at", "weights": weights, "variant": "at"}]
    spec = small_specs(tmp_path, f"methods={json.dumps(methods)}", f"training.weight_average={average}")["at"]
    assert sorted(held_out_wanted(spec)) == wanted
    asked = {calibration: [], train: []}
    for module, calls in asked.items():

        def recorded(*arguments, wanted, calls=calls, **options):
            calls.append(sorted(wanted))
            return held_out_statistics(*arguments, wanted=wanted, **options)

        monkeypatch.setattr(module, "held_out_statistics", recorded)
    Calibration(Store(tmp_path / "store")).estimate(spec)
    run_to_end(spec, tmp_path / "store")
    assert asked[calibration] == ([wanted] if wanted else [])
    epochs = 2 + (weights == "frl")  # which also learns before the first
    assert asked[train] == ([wanted] * epochs if wanted else [])


@pytest.mark.usefixtures("clock")
def test_of_a_network_that_the_store_has_only_the_evaluation_is_left(tmp_path):
    spec = small_specs(tmp_path)["at"]
    store = Store(tmp_path / "store").prepare()
    run_to_end(spec, store.root)
    other = small_specs(tmp_path, "evaluation.attacks=[clean]")["at"]
    assert (other.training_id, other.trial_id != spec.trial_id) == (spec.training_id, True)
    left, again = (Calibration(store, redone=redone).estimate(other) for redone in ((), (other.trial_id,)))
    assert (left.train_s, again.train_s > 0) == (0.0, True)
    assert left.eval_s == again.eval_s > 0
    assert trial_states(store, [other])[other.trial_id] == ("missing", "trained; this evaluation is missing")
    with StoreLock(store.root):
        assert trial_states(store, [other])[other.trial_id][0] == "missing", "it waits"
        WorkingFolder(store.root, other.training_id).claims(other.trial_id).mkdir(parents=True)
        assert trial_states(store, [other])[other.trial_id][0] == "running"


@pytest.mark.usefixtures("clock")
def test_a_single_trial_is_not_shared_by_the_cores(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    specs = small_specs(tmp_path)
    one = Calibration(Store(tmp_path / "store")).estimate(specs["at"]).total_s
    print_calibration([specs["at"]], Store(tmp_path / "store"), None, False)
    assert f"on this machine, 1 at a time: about {duration(one)}" in capsys.readouterr().out
    longest = max(Calibration(Store(tmp_path / "store")).estimate(spec).total_s for spec in specs.values())
    print_calibration(list(specs.values()), Store(tmp_path / "store"), None, False)
    assert f"on this machine, {len(specs)} at a time: about {duration(longest)}" in capsys.readouterr().out


def test_threads_are_measured_on_the_data_that_a_run_is_given(tmp_path):
    suite = load_suite(suite_file(tmp_path, dataset="cifar10"), ["threads=auto"])
    with pytest.raises(AbsentError, match=f"not found in {tmp_path / 'mine'}"):
        plan_suite(suite, results=tmp_path / "store", data_root=tmp_path / "mine")


def test_hours_are_told_by_variant(tmp_path):
    methods = ["rslad", {"method": "rslad", "variant": "other", "training": {"epochs": 9}}]
    specs = plan_suite(suite_file(tmp_path, methods=methods, seeds=[0, 1])).specs
    epochs = {spec.trial_id: spec.training.epochs for spec in specs if spec.training}
    estimates = {trial_id: Estimate(3600.0 * count, 1800.0) for trial_id, count in epochs.items()}
    columns = [list(column.cells) for column in calibration_table(specs, estimates).columns]
    assert columns[0] == ["teacher", "rslad", "other", "total"]
    assert columns[1] == ["1", "2", "2", "5"]
    assert columns[4] == ["2.5 h", "5.0 h", "19.0 h", "26.5 h"]


def test_the_store_knows_how_many_images_survive(tmp_path):
    spec = small_specs(tmp_path)["at"]
    store = Store(tmp_path / "store").prepare()
    run_to_end(spec, store.root)
    rows = store.read("class_accuracy")
    shares = Calibration(store).shares
    for attack in ("clean", "pgd3"):
        assert shares["digits", 0.1, attack] == pytest.approx(rows[rows["attack"] == attack]["accuracy"].mean())


def test_the_cost_of_an_attack():
    assert AttackCost(clean_s=1.0, attacked_s=10.0, drops_broken=True).seconds(0.5) == 6.0


@pytest.mark.usefixtures("clock")
def test_autoattack_stages_are_scaled_to_the_standard_attack(tmp_path, monkeypatch):
    """With seconds that are the steps taken, the estimate is the number of steps of the whole stage."""
    taken = []

    def attack_stage(*arguments, effort, **options):
        taken.append(effort.queries if arguments[0] == "square" else effort.iterations)

    monkeypatch.setattr(calibration, "attack_stage", attack_stage)
    monkeypatch.setattr(calibration, "_seconds", lambda device, work: (work(), float(taken[-1]))[1])
    for stage, steps in (("apgd-ce", 100), ("apgd-t", 900), ("fab-t", 900), ("square", STANDARD.queries)):
        conditions = Conditions({"name": "aa_standard"}, eps=0.1, seed=0, batch_size=4, num_classes=10)
        found = calibration._stage_seconds(stage, None, torch.zeros(4, 1, 2, 2), torch.zeros(4), conditions)  # type: ignore[arg-type]
        assert found == pytest.approx(steps / 4)


def test_the_best_number_of_threads_wastes_no_core():
    assert best_threads({1: 1.0, 2: 0.6, 4: 0.4}) == 1
    assert best_threads({1: 1.0, 2: 0.45, 4: 0.3}) == 2
    assert best_threads({1: 1.0, 2: 0.5}) == 1


def test_batches_are_timed_with_one_thread_and_with_more(tmp_path, monkeypatch):
    used = []
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    monkeypatch.setattr(calibration, "step_seconds", lambda *arguments: used.append(torch.get_num_threads()) or 1.0)
    before = torch.get_num_threads()
    assert batch_seconds(list(small_specs(tmp_path).values())) == dict.fromkeys((1, 2, 4, 6), 1.0)
    assert used == [1, 2, 4, 6]
    assert torch.get_num_threads() == before


def test_threads_left_open_are_measured_once_for_a_store(tmp_path, monkeypatch):
    measured = {1: 1.0, 2: 0.4}
    monkeypatch.setattr(calibration, "batch_seconds", lambda specs, **options: dict(measured))
    suite = load_suite(suite_file(tmp_path), ["threads=auto"])
    planned = plan_suite(suite, results=tmp_path / "store")
    assert {spec.threads for spec in planned.specs} == {2}
    assert {spec.resources.cpu for spec in planned.specs} == {2.0}
    assert not (tmp_path / "store").exists()  # planning writes nothing
    monkeypatch.setattr("harness.api.run", lambda *arguments, **options: None)
    run_planned(planned, Options(), lambda event: None)
    facts = json.loads((tmp_path / "store" / "machine.json").read_text())
    assert facts == {"threads": 2, "batch_seconds_by_threads": {"1": 1.0, "2": 0.4}}
    measured[2] = 3.0
    again = plan_suite(suite, results=tmp_path / "store")
    assert again.trial_ids == planned.trial_ids  # what the store was planned for wins
    assert plan_suite(suite, results=tmp_path / "other").trial_ids != planned.trial_ids


def test_threads_of_a_suite_that_says_so_measure_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(calibration, "batch_seconds", lambda specs, **options: pytest.fail("measured"))
    assert {spec.threads for spec in plan_suite(suite_file(tmp_path), results=tmp_path / "store").specs} == {1}


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_cannot_be_calibrated(tmp_path):
    with pytest.raises(InputError, match="wants a GPU"):
        estimate(tmp_path, "resources.gpu=1")
