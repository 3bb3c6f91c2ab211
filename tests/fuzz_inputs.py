"""Bad inputs drawn from a grammar over the declarations themselves: suites and command lines.

Keys come from the records, methods, policies, attacks, networks and commands as they are declared, so new ones join by
themselves. A seed is one input: `draw(17)` is the same for as long as the declarations are.
"""

from __future__ import annotations

import dataclasses
import random
import shlex
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any, get_args

import typer.main
import yaml
from pydantic import BaseModel

import methods
from harness.attacks.registry import ATTACKS, AUTOATTACK_STAGES, STARTS
from harness.cli.main import app
from harness.data.registry import DATASETS
from harness.models.registry import MODELS
from harness.spec import AttackRequest, DatasetSpec, EvaluationSpec, TrainingSpec
from harness.suites.keys import FileKeys, SourceKeys
from harness.suites.suite import Suite
from harness.tuning.options import COLUMNS, TuneOptions
from methods.registry import KINDS, POLICIES

SUITE: dict[str, Any] = {
    "name": "fuzzed",
    "dataset": {"name": "digits", "train_images": 200, "test_images": 60},
    "student": {"name": "cnn", "width": 4},
    "teacher": {"model": {"name": "cnn", "width": 4}, "method": "at"},
    "natural_teacher": {"model": {"name": "cnn", "width": 4}, "method": "natural"},
    "init": {"method": "at"},
    "eps": 0.1,
    "training": {"epochs": 2, "batch_size": 50, "milestones": [0.5], "attack_steps": 3},
    "methods": ["at", {"method": "rslad"}],
    "evaluation": {"attacks": ["clean", {"name": "pgd3"}]},
    "tune": {"methods": ["rslad"], "space": {"training.lr": "uniform(0.1, 0.2)"}, "trials": 2},
}
BLOCKS = {"dataset": DatasetSpec, "training": TrainingSpec, "evaluation": EvaluationSpec, "tune": TuneOptions}
COMMANDS = {
    "run": ["suite.yaml", "--dry-run", "--results", "store"],
    "tune": ["suite.yaml", "--dry-run", "--results", "store"],
    "status": ["suite.yaml", "--results", "store"],
    "report": ["store", "--figures", ""],
    "quote": ["page.md"],
    "show": ["0000"],
    "export": ["0000", "--into", "exported"],
    "merge": ["store", "--into", "joined"],
    "verify": ["store"],
    "repair": ["store"],
    "list": ["methods"],
    "evaluate": ["weights.pt", "--model", "cnn", "--dataset", "digits", "--results", "store"],
}  # what each command needs at least
WRITERS = ("report", "quote", "merge", "repair")  # what is right is not only planned by these

# As YAML. What no key takes: the reader refuses it wherever it stands.
NEVER = (
    "[" * 60 + "]" * 60, "[" * 3000, "&a [1]", "*a", "!!python/object/apply:os.system [ls]", "!!binary aaaa", "! 1x: [",
    "{a: 1, a: 2}", "{1: 2}", "{[1]: 2}", "9" * 30, "9" * 5000, "-" + "9" * 5000, "1e99999999", "-1e400",
    "0." + "1" * 500, "[1, 2", "{a: ", '"\\q"', "@x", "`x", "[" + "1, " * 20_001 + "]", "\x00", "\x1b[31m", '"',
)  # fmt: skip
# What some take and most do not.
ANY = (
    "0", "1", "2", "-1", "3.5", "-0.0", "0.5", "1e-1", "1e308", "1e-320", "1e17", "8/255", "1/0", "-8/255", "300",
    "9223372036854775807", "4294967296", "010", "0x1f", "1:30", "yes", "2024-01-01", ".nan", ".inf", "true", "false",
    "null",
    "''", "' '", "x", "nosuch", "auto", "[]", "[0]", "[1, 2]", "[0, 0]", "[2, 1]", "[null]", "[[]]", "[{}]", "[x, y]",
    "{}", "{a: 1}", "{name: 1}", "{name: null}", "{name: [1]}", "{name: {a: 1}}", "{name: nosuch}", "{method: at}",
    '"\\u202eabc"', '"\\ud800"', '"a\\nb"', '"\\e[31mx"', '"\\0"', "../../x", "/", "~", "'[red]x[/red]'", "':smile:'",
    "\u00fc\u4e2d\U0001f600", "x" * 5000, "'" + "a b " * 100 + "'", "[" + "1, " * 5000 + "]",
    "{" + ", ".join(f"k{n}: 1" for n in range(500)) + "}",
    "pipe", "folder", "dangling", "loop", "binary", "store", "foreign", "absent/absent", "/dev/null/x", "/dev/zero",
)  # fmt: skip
WORDS = (
    "", " ", ",", ",,", "-", "--", "=", "a=b", "training.=1", ".x=1", "training.lr=", "name=a/b", "0,0", "0,-1", "1.5",
    "9" * 5000, "host:port", "127.0.0.1:0", "999.1.1.1:6379", "x" * 40_000, "\u202e\x1b[31m", "a\nb",
    "\udc80", "\ud800", "%s%n", "$(ls)",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Input:
    """A command line and the suite beside it. names: one of which the refusal has to name. never: whether it cannot be
    right."""

    seed: int
    kind: str
    words: tuple[str, ...]
    suite: bytes
    names: tuple[str, ...] = ()
    never: bool = False

    def __str__(self) -> str:
        suite = self.suite if len(self.suite) < 1500 else self.suite[:1500] + b"..."
        words = shlex.join(word if len(word) < 200 else word[:200] + "..." for word in self.words)
        return f"seed {self.seed}: {self.kind} {self.names}\n  {words!a}\n  {suite!r}"


# The grammar


def draw(seed: int) -> Input:
    """The input of a seed."""
    numbers = random.Random(seed)
    kind = numbers.choice(list(_DRAWS))
    return dataclasses.replace(_DRAWS[kind](numbers), seed=seed, kind=kind)


def _suite_key(numbers: random.Random) -> Input:
    return _at(numbers, numbers.choice(suite_places()))


def _hyper_parameter(numbers: random.Random) -> Input:
    method = numbers.choice(sorted(methods.METHODS))
    kind = numbers.choice(["settings", *KINDS])
    if kind == "settings":
        keys = _settings_of(methods.METHODS[method]) or ["training"]
        return _at(numbers, ("methods", "1", numbers.choice(keys)), methods=["at", {"method": method}])
    policy = numbers.choice(sorted(POLICIES[kind]))
    key = numbers.choice([*_settings_of(POLICIES[kind][policy]), "name"])
    return _at(numbers, ("methods", "1", kind, key), methods=["at", {"method": method, kind: {"name": policy}}])


def _attack_setting(numbers: random.Random) -> Input:
    name = numbers.choice(sorted(ATTACKS)).replace("{N}", str(numbers.choice([1, 20, 10**6, "9" * 30, 0, -1])))
    key = numbers.choice([*AttackRequest.model_fields, "seeds", "nosuch"])
    return _at(numbers, ("evaluation", "attacks", "1", key), evaluation={"attacks": ["clean", {"name": name}]})


def _network(numbers: random.Random) -> Input:
    name = numbers.choice(sorted(MODELS))
    where = numbers.choice([("student",), ("students", "0"), ("teacher", "model"), ("init", "model")])
    key = numbers.choice([*MODELS[name].params, "name", "normalization", "nosuch"])
    changes = {"teacher": {"model": {"name": name}}, "init": {"model": {"name": name}}, "student": {"name": name},
               "students": [{"name": name}]}  # fmt: skip
    return _at(numbers, (*where, key), **changes, methods=["at", "rslad", "fair_ard", {"method": _with_init()}])


def _space(numbers: random.Random) -> Input:
    key = numbers.choice(["training.lr", "temperature_rate", "weights", "weights.beta", "x", "", "training", "a: b"])
    name = numbers.choice(["uniform", "loguniform", "randint", "choice", "exec", "", "__import__"])
    arguments = ", ".join(numbers.choices([*ANY, *NEVER[4:10]], k=numbers.choice([0, 1, 2, 2, 2, 3])))
    text = numbers.choice([f"{key}={name}({arguments})"] * 2 + [f"{key}={name}", arguments, f"at: {key}={name}(1, 2)"])
    words = ("tune", *COMMANDS["tune"], "--space", _one_word(text))
    return Input(0, "", words, _written(SUITE), ("space", "grid", key))


def _option(numbers: random.Random) -> Input:
    command = numbers.choice(sorted(COMMANDS))
    parameter = numbers.choice(parameters(command))
    value = _one_word(numbers.choice([*WORDS, *ANY, *ANY, *NEVER]))
    begins = value[: 2 if value.startswith("-") else 20]
    names = (parameter.name, *(option.lstrip("-") for option in parameter.opts), begins, value.partition("=")[0])
    if parameter.param_type_name == "argument":  # the first of them, whichever was drawn
        names += (command, *(each.name for each in parameters(command) if each.param_type_name == "argument"))
        return Input(0, "", (command, value, *COMMANDS[command][1:]), _written(SUITE), names)
    words = (command, *COMMANDS[command], numbers.choice(parameter.opts))
    names += ("0000",)  # it may be the rest that is refused: there is no such trial to `show` or `export`
    flag = getattr(parameter, "is_flag", False)
    return Input(0, "", words if flag else (*words, value), _written(SUITE), names)


def _words(numbers: random.Random) -> Input:
    """Options in disorder: unknown, without a value, of other commands."""
    command = numbers.choice([*COMMANDS, "", "nosuch", "--help=1"])
    options = [option for name in COMMANDS for each in parameters(name) for option in each.opts if option[0] == "-"]
    more = numbers.choices([*options, "--nosuch", "-x", "--", "", *WORDS], k=numbers.choice([1, 2, 3]))
    words = [command, *COMMANDS.get(command, []), *map(_one_word, more)]
    if command in WRITERS:  # with --into or --results it may be right
        words = words[:1] + words[2:]
    return Input(0, "", tuple(words), _written(SUITE))


def _text(numbers: random.Random) -> Input:
    """A suite whose text was damaged: a key twice, missing, misspelt; bytes lost, put in, turned."""
    text = _written(SUITE)
    lines = text.splitlines(keepends=True)
    place, key = numbers.randrange(len(text)), numbers.choice(sorted(SUITE))
    how = numbers.randrange(6)
    if how == 0:
        return _run(text + f"{key}: 1\n".encode(), never=True, names=("stands twice",))
    if how == 1:
        return _run(_written({name: value for name, value in SUITE.items() if name != key}), names=(key,))
    if how == 2:
        return _run(_written({f"{name}x" if name == key else name: value for name, value in SUITE.items()}), never=True)
    if how == 3:
        return _run(text[:place])
    if how == 4:
        return _run(text[:place] + bytes(numbers.choices(range(256), k=numbers.randrange(1, 9))) + text[place:])
    return _run(b"".join(numbers.sample(lines, len(lines))))


def _run(suite: bytes, **more: Any) -> Input:
    return Input(0, "", ("run", *COMMANDS["run"]), suite, **more)


_DRAWS: dict[str, Callable[[random.Random], Input]] = {
    "suite key": _suite_key,
    "hyper-parameter": _hyper_parameter,
    "attack setting": _attack_setting,
    "network": _network,
    "space": _space,
    "option": _option,
    "command line": _words,
    "suite's text": _text,
}
KINDS_OF_INPUT = tuple(_DRAWS)


def _at(numbers: random.Random, place: tuple[str, ...], wrong: Sequence[str] = (), **changes: Any) -> Input:
    """A suite with a value at one place, by its file or by --set. wrong: more values that are never right there."""
    never = numbers.random() < 0.3
    value = numbers.choice([*NEVER, *wrong]) if never else numbers.choice([*ANY, *_fitting(place[-1])])
    base = SUITE | changes
    command = "tune" if place[0] == "tune" else numbers.choice(["run", "run", "run", "status"])
    words = (command, *COMMANDS[command])
    names = (*place[-1:], *(part for part in place[:-1] if not part.isdigit()))
    by_set = not any(part.isdigit() for part in place) and numbers.random() < 0.3
    if by_set:
        key = ".".join(place)
        return Input(0, "", (*words, "--set", _one_word(f"{key}={value}")), _written(base), names, never)
    text = _written(_placed(base, place, "@VALUE@")).replace(b"'@VALUE@'", value.encode("utf-8", "surrogatepass"))
    return Input(0, "", words, text, (*names, "suite.yaml") if never else names, never)


def _fitting(key: str) -> list[str]:
    """Values that may be right at a key, so that what comes after them is reached."""
    names = {
        "name": [*ATTACKS, *DATASETS, *MODELS, *(name for table in POLICIES.values() for name in table)],
        "method": [*methods.METHODS],
        "start": [*STARTS],
        "metric": [*COLUMNS],
        "normalization": ["dataset", "{mean: [0], std: [0]}", "{mean: [a], std: [1]}", "{mean: [1, 1], std: [1, 1]}",
                          "{mean: [1e308], std: [1e-320]}", "{mean: 1}"],
        "attacks": [*AUTOATTACK_STAGES, "[clean, clean]", "[[clean]]", "[{name: pgd20, images: 10}]", "[{images: 5}]"],
        "methods": ["[at, at]", "[{method: at, variant: '[b]'}]", "[{variant: x}]", "absent.yaml", "pipe.yaml"],
        "path": ["pipe", "folder", "binary", "dangling"],
        "file": ["pipe", "folder", "binary", "dangling"],
    }  # fmt: skip
    return [*3 * names.get(key, []), *4 * ["1", "2", "0.5", "true", "60"]]


def _placed(values: Any, place: Sequence[str], value: Any) -> Any:
    """The values with another one at a place; a name on the way becomes a mapping."""
    if not place:
        return value
    first, *rest = place
    if first.isdigit():
        found = list(values) if isinstance(values, list) else []
        found += [{}] * (int(first) + 1 - len(found))
        found[int(first)] = _placed(found[int(first)], rest, value)
        return found
    found = dict(values) if isinstance(values, dict) else {"name": values} if isinstance(values, str) else {}
    return {**found, first: _placed(found.get(first), rest, value)}


def _written(suite: Any) -> bytes:
    return yaml.safe_dump(suite, sort_keys=False, allow_unicode=True).encode("utf-8", "surrogatepass")


def _one_word(text: str) -> str:
    """As an operating system can hand it over: no NUL, surrogates only for bytes, 128 KiB at most."""
    return text.replace("\x00", "\x01").encode("utf-8", "surrogateescape" if "\udc80" in text else "replace").decode(
        "utf-8", "surrogateescape")[:100_000]  # fmt: skip


# What is declared


@cache
def suite_places() -> list[tuple[str, ...]]:
    """Every key of a suite as its path; places in lists are numbers."""
    found = list(_places(Suite))
    for block, kind in BLOCKS.items():
        found += [(block, *place) for place in _places(kind)]
    found += [(block, key) for block in ("teacher", "natural_teacher", "init") for key in SourceKeys.model_fields]
    found += [("teacher", key) for key in (*FileKeys.model_fields, "seeds", "nosuch")]
    found += [("methods", "1", key) for key in ("method", "variant", "training", "seeds", *KINDS, "nosuch")]
    return [*found, ("nosuch",), ("training", "nosuch"), ("evaluation", "images")]


def _places(kind: type[BaseModel]) -> Iterator[tuple[str, ...]]:
    for name, field in kind.model_fields.items():
        yield (name,)
        for inner, in_list in _records(field.annotation):
            yield from ((name, *(["0"] if in_list else []), *place) for place in _places(inner))


def _records(annotation: Any, in_list: bool = False) -> Iterator[tuple[type[BaseModel], bool]]:
    """The records in an annotation such as `list[PrimaryComparison]`, and whether they are elements."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation, in_list
    for part in get_args(annotation):
        yield from _records(part, in_list or getattr(annotation, "__origin__", None) in (list, tuple))


def _settings_of(part: Any) -> list[str]:
    return [field.name for field in dataclasses.fields(part.Settings)]


def _with_init() -> str:
    return next(name for name, method in methods.METHODS.items() if method.needs_init)


@cache
def parameters(command: str) -> list[Any]:
    """The options and arguments of a command, as they are declared."""
    group: Any = typer.main.get_command(app)
    return [parameter for parameter in group.commands[command].params if parameter.name != "help"]
