"""What a trial's identity is made of: it does not change with new fields, and stored specifications keep theirs."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import pandas as pd
import pytest

import methods
from harness.models.build import build
from harness.models.registry import MODELS, resolve_params
from harness.report.results import read_results
from harness.spec import ASIDE, AttackRequest, EvaluationSpec, Frozen, Introduced, TrialSpec, canonical, read_spec
from harness.spec import training_id as identity_of_training
from harness.spec import trial_id as identity
from harness.store.store import Store
from harness.suites.plan import plan
from harness.suites.suite import load_suite
from methods.settings import setting

PUBLISHED = sorted(path.parent for path in (Path(__file__).parents[2] / "results").glob("*/trials"))


def planned() -> TrialSpec:
    return plan(load_suite("quickstart", ["precision=float32", "threads=1"]), only=["at"])[0]


@pytest.mark.parametrize("folder", PUBLISHED, ids=lambda path: path.name)
def test_every_published_specification_has_its_own_ids_in_its_own_numerics_version(folder):
    trials = Store(folder).trials()
    assert len(trials)
    for row in trials.itertuples():
        stored, version = canonical(json.loads(row.spec)), int(row.numerics_version)
        assert identity(stored, version) == row.trial_id
        assert identity_of_training(stored, version) == row.training_id
        assert identity(stored, version + 1) != row.trial_id
        assert canonical(read_spec(json.loads(row.spec)).model_dump(mode="json")) == stored


class NewAttack(AttackRequest):
    momentum: Annotated[float, Introduced(0.0)] = 0.5  # its default has changed since


class NewEvaluation(EvaluationSpec):
    attacks: tuple[NewAttack, ...]
    title: Annotated[str | None, ASIDE] = None


class NewPart(Frozen):
    size: int = 1


class NewTrial(TrialSpec):
    evaluation: NewEvaluation
    layers: Annotated[tuple[int, ...], Introduced([])] = ()
    part: Annotated[NewPart | None, Introduced(None)] = None


def test_a_field_is_no_part_of_the_identity_while_it_stands_as_it_was_introduced():
    old = planned()

    def new(momentum: float | None = 0.0, **changes) -> TrialSpec:
        values = old.model_dump()
        later = {} if momentum is None else {"momentum": momentum}
        values["evaluation"]["attacks"] = [attack | later for attack in values["evaluation"]["attacks"]]
        values["evaluation"]["title"] = "A"
        return NewTrial.model_validate({**values, **changes})

    assert (new().trial_id, new().training_id) == (old.trial_id, old.training_id)
    assert new(momentum=None).trial_id == new(momentum=0.5).trial_id != old.trial_id
    assert new(momentum=None).training_id == old.training_id
    assert len({new(layers=(1,)).training_id, new(part={"size": 1}).training_id, old.training_id}) == 3


@pytest.fixture
def later_setting(monkeypatch):
    """The method `at` and the network `cnn` with a setting that they did not have before."""

    @dataclass(frozen=True)
    class Settings(methods.METHODS["at"].Settings):
        power: float = setting(1.0, "a later setting", introduced=1.0)

    monkeypatch.setattr(methods.METHODS["at"], "Settings", Settings)
    info = MODELS["cnn"]
    monkeypatch.setitem(info.params, "batch_norm", True)
    monkeypatch.setitem(info.introduced, "batch_norm", True)
    return Settings, info


def test_a_later_setting_of_a_method_is_left_out_where_it_stands_as_introduced(later_setting, monkeypatch):
    Settings, _ = later_setting
    plain = methods.resolve("at", 10)
    assert "power" not in plain["settings"]
    assert methods.resolve({"method": "at", "power": 1}, 10) == plain
    assert methods.resolve({"method": "at", "power": 2}, 10)["settings"]["power"] == 2.0
    assert methods.completed(plain)["settings"]["power"] == methods.build(plain, 3).settings.power == 1.0

    @dataclass(frozen=True)
    class Changed(Settings):
        power: float = setting(3.0, "its default has changed since", introduced=1.0)

    monkeypatch.setattr(methods.METHODS["at"], "Settings", Changed)
    assert methods.resolve("at", 10)["settings"]["power"] == 3.0
    assert methods.build(plain, 3).settings.power == 1.0, "what was planned before means what it meant"
    with pytest.raises(ValueError, match=r"as a number of epochs, not 0\.5"):
        setting(0.5, "a share of training", epoch=True, introduced=0.5)


def test_a_later_setting_of_a_network_is_left_out_where_it_stands_as_introduced(later_setting, monkeypatch):
    built = {}

    def network(in_channels: int, classes: int, **params):
        built.update(params)

    monkeypatch.setattr("harness.models.cnn.CNN", network)
    assert resolve_params("cnn", {"width": 4, "batch_norm": True}) == {"width": 4}
    assert resolve_params("cnn", {"batch_norm": False}) == {"width": 32, "batch_norm": False}
    monkeypatch.setitem(MODELS["cnn"].params, "batch_norm", False)
    build("cnn", {"width": 4}, in_channels=1, num_classes=2)
    assert built == {"width": 4, "batch_norm": True}


class Stored:
    """The `trials` table of a store."""

    problems: tuple[str, ...] = ()

    def __init__(self, specs: list[dict]) -> None:
        self.specs = specs

    def trials(self, columns=None) -> pd.DataFrame:
        lines = [
            {"trial_id": str(place), "dataset": "digits", "student": "cnn", "eps": 0.1, "role": "student",
             "variant": "at", "method": "at", "teacher": None, "seed": place, "status": "done",
             "training_id": str(place), "teacher_seed": None, "spec": json.dumps(spec), "numerics_version": 1,
             "finished": None}
            for place, spec in enumerate(self.specs)
        ]  # fmt: skip
        return pd.DataFrame(lines)

    def read(self, table, trial_ids=None, columns=None) -> pd.DataFrame:
        return pd.DataFrame()


def test_rows_are_told_apart_by_what_decides_numbers_not_by_the_stored_text():
    spec = planned().model_dump(mode="json")
    moved = {**spec, "dataset": {**spec["dataset"], "path": "/elsewhere/mine.npz"}, "seed": 1}
    assert list(read_results(Stored([spec, moved])).rows["variant"]) == ["at"]
    other = {**spec, "precision": "bfloat16", "seed": 1}
    assert len(read_results(Stored([spec, other])).rows) == 2
