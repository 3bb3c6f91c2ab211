"""Methods from a user's own file: the documented example itself, and files that cannot be used."""

from __future__ import annotations

import hashlib
import importlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import methods
from harness.report.results import read_results
from harness.report.scores.leaderboard import leaderboard
from harness.running.worker import Job, Workplace, trial_events
from harness.spec import TrialSpec
from harness.store.store import Store
from harness.store.work import WorkingFolder
from methods import SettingsError, plugins
from tests.command import bench
from tests.own_code import forgotten_afterwards
from tests.pages import ROOT, blocks
from tests.small import assert_same_weights, run_to_end, small_specs, suite_file, weights


@pytest.fixture(autouse=True)
def _registry_as_before():
    """What a plugin registers must not reach other tests."""
    with forgotten_afterwards():
        yield


def documented_example(name: str = "trades_focus") -> str:
    """The Python file of docs/add-a-method.md that registers a method of this name."""
    found = blocks("docs/add-a-method.md", "python")
    assert len(found) == 2, "each has a test of its own"
    (block,) = [block for block in found if f'@register("{name}")' in block]
    return block


def test_the_documented_example_is_listed_runs_resumes_and_tabulates(tmp_path):
    plugin = tmp_path / "mine.py"
    plugin.write_text(documented_example())
    assert len(plugin.read_text().splitlines()) <= 50
    suite = suite_file(
        tmp_path,
        methods=["trades", "trades_focus", {"method": "trades_focus", "focus": 3.0, "weights": "kappa"}],
        teacher=None,
    )
    assert "trades_focus" in bench("list", "methods", "--plugin", "mine.py", cwd=tmp_path).stdout
    done = bench("run", suite, "--plugin", "mine.py", "--serial", "--results", "store", cwd=tmp_path)
    assert "trades_focus-focus=3.0-weights=kappa" in done.stdout
    state = Store(tmp_path / "store").read("class_state")
    errors = state[state["quantity"].astype(str) == "error"]
    assert len(errors) == 2 * 2 * 10
    assert errors["value"].between(0, 1).all()
    again = bench("run", suite, "--plugin", "mine.py", "--serial", "--results", "store", cwd=tmp_path)
    assert Store(tmp_path / "store").trials()["attempts"].eq(1).all()
    assert "trades_focus" in again.stdout


@pytest.mark.slow
def test_a_plugin_runs_on_ray_workers(tmp_path):
    (tmp_path / "mine.py").write_text(documented_example())
    suite = suite_file(tmp_path, methods=["trades_focus"], teacher=None)
    words = [
        sys.executable,
        str(ROOT / "run_bench.py"),
        "run",
        suite,
        "--plugin",
        "mine.py",
        "--results",
        "store",
        "--workers",
        "1",
    ]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert set(Store(tmp_path / "store").trials()["status"]) == {"done"}


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("import not_there", "ModuleNotFoundError"),
        ("import sys\nsys.exit(0)", "SystemExit: 0"),
        (
            "from methods.registry import register\nfrom methods.base import Method\n@register('at')\nclass "
            "A(Method): pass",
            "registered already",
        ),
        ("from methods.registry import register\n@register('x')\nclass A: pass", "neither a Method nor"),
    ],
)
def test_a_plugin_that_cannot_be_used_is_named(tmp_path, code, says):
    path = tmp_path / "bad.py"
    path.write_text(code)
    with pytest.raises(SettingsError) as caught:
        methods.load_plugin(str(path))
    assert "bad.py" in str(caught.value)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("code", "what"),
    [
        ("def loss(self, step):\n        return super().loss(step).mean()", "the loss"),
        ("def terms(self, step):\n        return super().terms(step)[0].mean(), 0.0", "the adversarial term"),
        ("def terms(self, step):\n        first, _ = super().terms(step)\n        return first, first.mean()",
         "the clean term"),
    ],
)  # fmt: skip
def test_a_loss_of_the_wrong_shape_is_a_stored_failure_that_names_the_method_and_the_others_go_on(tmp_path, code, what):
    (tmp_path / "flat.py").write_text(
        "from methods.registry import register\nfrom methods.at import AT\n@register('flat')\nclass Flat(AT):\n"
        f"    {code}\n"
    )
    suite = suite_file(tmp_path, methods=["at", "flat"], teacher=None)
    done = bench("run", suite, "--plugin", "flat.py", "--serial", "--results", "store", cwd=tmp_path, check=1)
    trials = Store(tmp_path / "store").trials().set_index("variant")
    assert (trials.loc["at", "status"], trials.loc["flat", "status"]) == ("done", "failed")
    assert f"method flat: {what} must be one value per sample (50), not one number" in trials.loc["flat", "error"]
    assert "method flat" in done.stderr


FORMULA = """
from methods.at import AT
from methods.registry import register

@register("mine")
class Mine(AT):
    def loss(self, step):
        return 1.0 * super().loss(step)
"""
OTHER = FORMULA.replace("1.0", "2.0")
LABELS = """
from methods.policies.labels import Hard
from methods.registry import register

@register("own_labels")
class Own(Hard):
    pass
"""


def load_anew(path: Path) -> None:
    """Load a plugin as a new process would."""
    for table in [methods.METHODS, *methods.POLICIES.values()]:
        for name in [name for name, cls in table.items() if cls.__module__.startswith("plugin_")]:
            del table[name]
    for name in [name for name in sys.modules if name.startswith("plugin_")]:
        del sys.modules[name]
    methods.load_plugin(str(path))


def planned(folder: Path, plugin: Path, *entries: Any) -> dict[str, TrialSpec]:
    load_anew(plugin)
    return small_specs(folder, methods=["at", *(entries or ["mine"])], teacher=None)


def test_an_edited_plugin_makes_other_trials_and_leaves_the_rest(tmp_path):
    plugin, copy = tmp_path / "mine.py", tmp_path / "elsewhere.py"
    plugin.write_text(FORMULA)
    copy.write_text(FORMULA)
    first, same = planned(tmp_path, plugin), planned(tmp_path, copy)
    assert first["mine"].code == {"method:mine": hashlib.sha256(FORMULA.encode()).hexdigest()}
    assert first["mine"].trial_id == same["mine"].trial_id  # no paths
    plugin.write_text(OTHER)
    second = planned(tmp_path, plugin)
    assert second["mine"].trial_id != first["mine"].trial_id
    assert second["mine"].training_id != first["mine"].training_id
    assert second["at"].trial_id == first["at"].trial_id
    assert second["at"].code == {}


def test_a_policy_from_a_plugin_is_hashed_in_its_role_alone(tmp_path):
    plugin = tmp_path / "labels.py"
    plugin.write_text(LABELS)
    entry = {"method": "at", "labels": "own_labels", "variant": "own"}
    code = hashlib.sha256(LABELS.encode()).hexdigest()
    assert planned(tmp_path, plugin, entry)["own"].code == {"labels:own_labels": code}


@pytest.mark.parametrize("edited", ["__init__.py", "formula.py", "deep/part.py"])
def test_every_file_of_a_plugin_package_counts(tmp_path, edited):
    package = tmp_path / "mine"
    (package / "deep").mkdir(parents=True)
    (package / "__init__.py").write_text("from . import formula\n")
    (package / "formula.py").write_text(FORMULA.replace("1.0", "FACTOR") + "\nfrom .deep.part import FACTOR\n")
    (package / "deep" / "part.py").write_text("FACTOR = 1.0\n")
    before = planned(tmp_path, package)["mine"]
    path = package / edited
    path.write_text(path.read_text() + "# a comment\n")
    assert planned(tmp_path, package)["mine"].trial_id != before.trial_id


def test_what_is_hashed_is_what_is_executed(tmp_path):
    """Python's own loader takes compiled code from a cache when size and time of a file did not change."""
    plugin = tmp_path / "mine.py"
    for text, value in ((FORMULA, 1), (OTHER, 2)):
        plugin.write_text(text.replace("class Mine(AT):", f"class Mine(AT):\n    value = {value}"))
        os.utime(plugin, (1_700_000_000, 1_700_000_000))
        spec = planned(tmp_path, plugin)["mine"]
        assert spec.code["method:mine"] == hashlib.sha256(plugin.read_bytes()).hexdigest()
        assert methods.METHODS["mine"].value == value


def test_a_plugin_that_inherits_from_another_names_both(tmp_path):
    base, plugin = tmp_path / "base.py", tmp_path / "mine.py"
    base.write_text(FORMULA)
    plugin.write_text(
        "import methods\n@methods.registry.register('more')\nclass More(methods.METHODS['mine']):\n    pass\n"
    )
    load_anew(base)
    methods.load_plugin(str(plugin))
    hashes = sorted(hashlib.sha256(path.read_bytes()).hexdigest() for path in (base, plugin))
    assert methods.code_of(methods.resolve("more", 2)) == {"method:more": "+".join(hashes)}


def test_an_installed_package_is_hashed_by_its_files(tmp_path, monkeypatch):
    package = tmp_path / "installed_mine"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "formula.py").write_text(FORMULA)
    monkeypatch.syspath_prepend(tmp_path)
    importlib.import_module("installed_mine.formula")
    (code,) = methods.code_of(methods.resolve("mine", 2)).values()
    assert code == plugins._digest({"__init__.py": b"", "formula.py": FORMULA.encode()})


def test_a_foreign_base_class_counts_though_it_registers_nothing(tmp_path, monkeypatch):
    text = FORMULA.replace('@register("mine")\n', "").replace("class Mine", "class Base")
    plugin = tmp_path / "mine.py"
    plugin.write_text(
        "from abc import ABC\nfrom foreign_base import Base\nfrom methods.registry import register\n"
        '@register("mine")\nclass Mine(Base, ABC):\n    pass\n'
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(plugins, "_HASHES", {})
    (tmp_path / "foreign_base.py").write_text(text)
    load_anew(plugin)
    hashes = sorted(hashlib.sha256(each).hexdigest() for each in (text.encode(), plugin.read_bytes()))
    assert methods.code_of(methods.resolve("mine", 2)) == {"method:mine": "+".join(hashes)}


def test_a_class_without_a_file_is_refused_and_not_registered(monkeypatch):
    monkeypatch.delattr(sys.modules["__main__"], "__file__", raising=False)
    with pytest.raises(SettingsError, match="Mine: code in __main__ has no file to be hashed; put it in a file"):
        exec(FORMULA, {"__name__": "__main__"})  # as a notebook and `python -c` do
    assert "mine" not in methods.METHODS


def test_hidden_files_of_a_plugin_package_do_not_count(tmp_path):
    package = tmp_path / "mine"
    package.mkdir()
    (package / "__init__.py").write_text(FORMULA)
    before = planned(tmp_path, package)["mine"]
    (package / ".#__init__.py").symlink_to("somebody@somewhere.1234:5678")  # Emacs locks what is edited
    (package / ".ipynb_checkpoints").mkdir()
    (package / ".ipynb_checkpoints" / "__init__-checkpoint.py").write_text(OTHER)
    assert planned(tmp_path, package)["mine"].code == before.code


@pytest.mark.parametrize("helper", ["", "helper"])
@pytest.mark.parametrize("loads", [OTHER, None])
def test_a_worker_that_has_other_code_than_planned_is_at_fault_and_computes_nothing(tmp_path, loads, helper):
    plugin, store = tmp_path / "mine.py", tmp_path / "store"
    store.mkdir()
    plugin.write_text(FORMULA)
    spec = planned(tmp_path, plugin)["mine"]
    plugin.write_text(loads or LABELS)
    load_anew(plugin)
    run = "harness.trial:help_trial" if helper else "harness.trial:run_trial"
    job = Job(spec, Workplace(store, plugins=(str(plugin),)), run, helper)
    events = list(trial_events(job, lambda: False))
    assert [event["event"] for event in events] == ["launch", "error"]
    assert events[1]["kind"] == "infrastructure"
    assert "plugin" in events[1]["error"]
    assert "mine" in events[1]["error"]
    assert "\n" not in events[1]["error"]
    assert list(store.iterdir()) == []


def test_an_interrupted_trial_does_not_go_on_under_another_formula(tmp_path):
    plugin = tmp_path / "mine.py"
    plugin.write_text(FORMULA)
    spec = planned(tmp_path, plugin)["mine"]
    root = tmp_path / "store"
    events = run_to_end(spec, root, should_stop=lambda: True)
    assert events[-1]["event"] == "interrupted"
    plugin.write_text(OTHER)
    edited = planned(tmp_path, plugin)["mine"]
    run_to_end(edited, root)
    run_to_end(edited, tmp_path / "alone")
    assert_same_weights(weights(root, edited), weights(tmp_path / "alone", edited))
    assert list(WorkingFolder(root, spec.training_id).parts()) == ["cpu"]  # waits for its own formula


def test_a_report_keeps_trials_of_two_editions_of_a_plugin_apart(tmp_path):
    plugin, root = tmp_path / "mine.py", tmp_path / "store"
    for seed, text in ((0, FORMULA), (1, OTHER)):
        plugin.write_text(text)
        load_anew(plugin)
        spec = small_specs(tmp_path, "training.epochs=1", methods=["mine"], teacher=None, seeds=[seed])["mine"]
        run_to_end(spec, root)
    board = leaderboard(read_results(Store(root)))
    assert list(board.rows["seeds"]) == [1, 1]
    assert len(set(board.rows["variant"])) == 2
