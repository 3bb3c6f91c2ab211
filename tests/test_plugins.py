"""Methods from a user's own file: the documented example itself, and files that cannot be used."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import methods
from harness.store import Store
from methods import SettingsError
from tests.small import suite_file

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def _registry_as_before():
    """What a plugin registers must not reach other tests."""
    tables = [methods.METHODS, *methods.POLICIES.values()]
    before, modules = [dict(table) for table in tables], set(sys.modules)
    yield
    for table, entries in zip(tables, before, strict=True):
        table.clear()
        table.update(entries)
    for name in set(sys.modules) - modules:
        if name.startswith("plugin_"):
            del sys.modules[name]


def documented_example(name: str = "trades_focus") -> str:
    """The Python file of docs/add-a-method.md that registers a method of this name."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "add-a-method.md").read_text(), re.DOTALL)
    (block,) = [block for block in blocks if f'@register("{name}")' in block]
    return block


def test_the_documented_example_is_listed_runs_resumes_and_tabulates(tmp_path):
    from tests.test_cli import bench

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


def test_a_loss_of_the_wrong_shape_is_a_stored_failure_that_names_the_method_and_the_others_go_on(tmp_path):
    from tests.test_cli import bench

    (tmp_path / "flat.py").write_text(
        "from methods.registry import register\nfrom methods.at import AT\n@register('flat')\nclass Flat(AT):\n"
        "    def loss(self, step):\n        return super().loss(step).mean()\n"
    )
    suite = suite_file(tmp_path, methods=["at", "flat"], teacher=None)
    done = bench("run", suite, "--plugin", "flat.py", "--serial", "--results", "store", cwd=tmp_path, check=1)
    trials = Store(tmp_path / "store").trials().set_index("variant")
    assert (trials.loc["at", "status"], trials.loc["flat", "status"]) == ("done", "failed")
    assert "method flat: the loss must be one value per sample (50), not one number" in trials.loc["flat", "error"]
    assert "method flat" in done.stderr
