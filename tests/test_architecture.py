"""The floor plan, held over the syntax trees: which room may import which, and who may import torch and Ray."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# from top to bottom: a module imports from its own room and from those that stand below it
ORDER = (
    "__main__", "cli", "api", "tuning", "running", "trial", "calibration", "training", "evaluation", "published",
    "suites", "inputs", "report", "models", "data", "attacks", "engine", "store", "statistics", "files", "spec",
    "events", "seeds", "errors",
)  # fmt: skip
RAY = {"harness.running.on_ray", "harness.tuning.ray_tune"}
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path.read_text()
    for package in ("harness", "methods", "benchmarks")
    for path in sorted((ROOT / package).rglob("*.py"))
}


def room(module: str) -> str:
    return module.split(".")[1]


def imports(source: str, everywhere: bool = True) -> Iterator[str]:
    """What a module imports by full name, `from a import b` as a.b; everywhere: also within functions."""
    tree = ast.parse(source)
    for node in ast.walk(tree) if everywhere else tree.body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def own(source: str, everywhere: bool = True) -> set[str]:
    """The modules of this project that a module imports."""
    names = (name if name in MODULES else name.rpartition(".")[0] for name in imports(source, everywhere))
    return {name for name in names if name in MODULES}


def upward(module: str, source: str) -> list[str]:
    """The imports of a module that lead to a room above its own."""
    below = ORDER[ORDER.index(room(module)) :]
    return [name for name in sorted(own(source)) if name.startswith("harness.") and room(name) not in below]


@pytest.mark.parametrize("module", [name for name in MODULES if name.startswith("harness.")])
def test_a_module_imports_from_its_own_room_and_from_below(module):
    assert upward(module, MODULES[module]) == []


@pytest.mark.parametrize("line", ["from harness.report.write import write_report", "    import harness.api"])
def test_an_import_that_leads_upward_is_found(line):
    planted = f"def late():\n    pass\n{line}\n" if not line.startswith(" ") else f"def late():\n{line}\n"
    assert len(upward("harness.store.store", planted)) == 1
    assert upward("harness.cli.main", planted) == []


def test_methods_import_nothing_of_the_harness():
    found = {name: own(source) for name, source in MODULES.items() if name.partition(".")[0] == "methods"}
    assert [name for name, ours in found.items() if any(each.startswith("harness") for each in ours)] == []


def test_no_modules_import_each_other_in_a_circle():
    left = {name: own(source) - {name} for name, source in MODULES.items()}
    while free := [name for name, needs in left.items() if not needs & left.keys()]:
        for name in free:
            del left[name]
    assert sorted(left) == []


RAY_IN_TEXT = re.compile(r"^(import|from) ray\b", re.M)  # in a program for another Python


def names_ray(source: str) -> bool:
    texts = (node.value for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Constant))
    return any(name.split(".")[0] == "ray" for name in imports(source)) or any(
        RAY_IN_TEXT.search(text) for text in texts if isinstance(text, str)
    )


def test_ray_is_imported_in_two_files_also_by_programs_that_stand_in_text():
    assert {name for name, source in MODULES.items() if names_ray(source)} == RAY


def test_what_lists_and_reports_loads_neither_torch_nor_ray():
    reached, waiting = set(), {"harness.cli.main", "harness.cli.listings", "harness.report.write"}
    while waiting:
        name = waiting.pop()
        reached.add(name)
        waiting |= own(MODULES[name], everywhere=False) - reached
    packages = {each.split(".")[0] for name in reached for each in imports(MODULES[name], everywhere=False)}
    assert not packages & {"torch", "torchvision", "ray"}


# what the files of a training and the rest of a store's working folder are called
WORKING = re.compile(
    r"^/?(work|state\.pt|training\.json|control\.json|teacher_logits|evaluations|\.setting)(/|$)"
    r"|^(last|best_validation)?\.pt$|^/?(damaged|claims|epoch)-"
)


def spelt(source: str) -> list[str]:
    """The string constants of a module, docstrings aside, that name files of a working folder."""
    tree = ast.parse(source)
    texts = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    constants = [node for node in ast.walk(tree) if isinstance(node, ast.Constant) and id(node) not in texts]
    return [node.value for node in constants if isinstance(node.value, str) and WORKING.search(node.value)]


def test_one_module_knows_the_files_of_a_training():
    harness = {name: source for name, source in MODULES.items() if name.startswith("harness.")}
    assert {name for name, source in harness.items() if spelt(source)} == {"harness.store.work"}
    assert len(spelt(MODULES["harness.store.work"])) == 12
    assert spelt('path = f"{folder}/work/{checkpoint}.pt"\n"damaged-"') == ["/work/", ".pt"]


def test_no_two_test_files_have_one_name():
    """Which pytest would refuse once both are collected."""
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert sorted(names) == sorted(set(names))


def test_rooms_are_entered_by_their_modules_only():
    packages = [path.parent for path in (ROOT / "harness").rglob("__init__.py") if path.parent != ROOT / "harness"]
    assert {str(path.relative_to(ROOT / "harness")) for path in packages} >= set(ORDER) - {
        path.stem for path in (ROOT / "harness").glob("*.py")
    }
    assert [path for path in packages if (path / "__init__.py").read_text().strip()] == []
    assert len(list((ROOT / "harness").glob("*.py"))) <= 11  # ten modules, and what `import harness` gives
