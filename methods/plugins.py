"""Code from outside this package: users' files and packages, installed entry points, what they declare, and the hash of
what they are."""

from __future__ import annotations

import errno
import hashlib
import importlib
import importlib.metadata
import inspect
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.abc import ExecutionLoader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import decode_source, spec_from_loader
from pathlib import Path
from pkgutil import resolve_name
from types import ModuleType
from typing import Any

from methods.settings import SettingsError

Part = type | Callable[..., Any]  # a class or a function that is declared

KINDS = ("methods", "networks", "datasets", "attacks", "metrics")  # what an installed package may offer
_GROUP = "robust_fairness_bench"
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*")
_PLAIN = (bool, int, float, str)  # of settings
_LOADED: dict[str, str] = {}  # by module, the file or folder of a plugin
_HASHES: dict[str, str] = {}  # by top-level module, of foreign code that has registered something or is a base of it
_KNOWN = sys.stdlib_module_names - {"__main__"} | {__package__, "harness", "torch", "numpy"}


def load_plugin(path: str) -> None:
    """Run a user's file, or package folder, once per process; it declares what it defines. Raises SettingsError naming
    the file when it cannot.

    Every file is read once, and what is hashed (`code_of`) are the bytes that are executed.
    """
    path = os.path.abspath(os.path.expanduser(path))
    name = f"plugin_{hashlib.sha256(os.fsencode(path)).hexdigest()[:12]}"
    if name in sys.modules:
        return
    before = list(sys.meta_path)
    try:
        plugin = _Plugin(name, Path(path))
        _HASHES[name] = _digest(plugin.sources)
        sys.meta_path.insert(0, plugin)
        importlib.import_module(name)
    except (Exception, SystemExit) as error:  # a user's file may end in any way: one mistake to report
        sys.meta_path[:] = before
        said = f": {type(error).__name__}: {error}"
        if isinstance(error, OSError) and error.filename == path:
            said = f" cannot be read: {error.strerror}"
        raise SettingsError(f"plugin {path}{said}") from error
    _LOADED[name] = path


def loaded() -> tuple[str, ...]:
    """The files and folders that this process has loaded: what its workers load first."""
    return tuple(path for name, path in _LOADED.items() if name in sys.modules)


def load_entry_points() -> None:
    """Import the installed packages that offer something under an entry point such as `robust_fairness_bench.methods`,
    one for each of `KINDS`."""
    for entry in (each for kind in KINDS for each in importlib.metadata.entry_points(group=f"{_GROUP}.{kind}")):
        try:
            entry.load()
        except (Exception, SystemExit) as error:  # a foreign package may end in any way: one mistake to report
            raise SettingsError(f"entry point {entry.name} ({entry.value}): {type(error).__name__}: {error}") from error


def declare(what: str, table: dict[str, Any], name: str, entry: Any, part: Part) -> None:
    """Put a declaration into its table, under a name that can be taken once, and hash the code of `part`, which it is
    of. what: `method`, `network`, ..."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise SettingsError(f"{what} {name!r}: a name is of letters, digits and _ . + -")
    if name in table:
        raise SettingsError(f"{what} '{name}' is registered already; give yours another name")
    remember(part)
    table[name] = entry


def place_of(part: Part) -> str:
    """`module:name` of a class or function, by which `resolve_name` finds it again in every process."""
    if "<" in part.__qualname__:
        raise SettingsError(f"{part.__qualname__} must be defined at the top of its file")
    return f"{part.__module__}:{part.__qualname__}"


def settings_of(part: Part, given: Sequence[str], where: str) -> dict[str, Any]:
    """The settings of a function with their defaults: its parameters beside those in `given`, which it is called with
    by position. SettingsError for other ones, and for a setting without a plain default."""
    parameters = list(inspect.signature(part).parameters.values())
    names = [each.name for each in parameters]
    if names[: len(given)] != list(given):
        raise SettingsError(f"{where} must take ({', '.join(given)}, ...), not ({', '.join(names)})")
    own = {each.name: each.default for each in parameters[len(given) :]}
    for name, default in own.items():
        if type(default) not in _PLAIN:
            raise SettingsError(f"{where}: setting '{name}' needs a default: a number, true or false, or text")
    return own


def summary(part: Part) -> str:
    """The first sentence of its docstring, without its end."""
    return " ".join((part.__doc__ or "").split("\n\n")[0].split()).rstrip(".")


def in_file(name: str) -> Any:
    """What a name such as `mine.py:build` stands for in a plugin's file that is loaded."""
    file, _, inside = name.partition(":")
    found = [module for module, path in _LOADED.items() if module in sys.modules and Path(path).name == file]
    if len(found) != 1:
        raise SettingsError(f"{name}: of the plugins that are loaded {len(found)} are called {file}, not one")
    try:
        return getattr(sys.modules[found[0]], inside)
    except AttributeError:
        raise SettingsError(f"{name}: {_LOADED[found[0]]} has no '{inside}'") from None


def file_of(place: str) -> str:
    """The file of a plugin's function by its place; of other code the module."""
    module = _top(place)
    return _LOADED.get(module, module)


def remember(part: Part) -> None:
    """Hash the code of a class that is being registered and of those it inherits from, or of a function, where it is
    foreign: not this package's own, Python's, or that of a library whose version is recorded. SettingsError for code
    without a file of its own, which would be no part of a trial's identity."""
    for top in dict.fromkeys(map(_top, _parts(part))):
        if top in _HASHES or top in _KNOWN:
            continue
        found = _installed(sys.modules.get(top))
        if found is None:
            raise SettingsError(f"{part.__name__}: code in {top} has no file to be hashed; put it in a file (--plugin)")
        _HASHES[top] = found


def code_of(part: Part | str) -> str | None:
    """The sha256 of the foreign code that defines a registered class or one it inherits from, joined by +, or a
    function; None where there is none. A text is a place (`place_of`).

    Of a plugin in one file it is the file's own; of a package that of all its `*.py` with their names.
    """
    if isinstance(part, str) and _top(part) in _KNOWN:
        return None  # without importing it
    known: Part = resolve_name(part) if isinstance(part, str) else part
    found = {_HASHES.get(_top(each)) for each in _parts(known)}
    return "+".join(sorted(each for each in found if each)) or None


def _parts(part: Part) -> tuple[Part, ...]:
    return part.__mro__ if isinstance(part, type) else (part,)


def _top(part: Part | str) -> str:
    """The top-level module of a class or function, or of a place."""
    module = part.partition(":")[0] if isinstance(part, str) else part.__module__
    return module.partition(".")[0]


class _Plugin(MetaPathFinder, ExecutionLoader):
    """Imports the modules of a plugin from bytes that were read beforehand. root: a file, or a package's folder."""

    def __init__(self, name: str, root: Path) -> None:
        if not root.is_dir():
            self._folder, self._files = root.parent, {name: root.name}
            self.sources = {root.name: _read(root)}
            return
        if not (root / "__init__.py").is_file():
            raise FileNotFoundError("a folder needs an __init__.py to be a package")
        self._folder, self.sources = root, _sources([root])
        self._files = {_module(name, file): file for file in self.sources}

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        return spec_from_loader(fullname, self) if fullname in self._files else None

    def is_package(self, fullname: str) -> bool:
        return Path(self._files[fullname]).name == "__init__.py"

    def get_filename(self, fullname: str) -> str:
        return str(self._folder / self._files[fullname])

    def get_source(self, fullname: str) -> str:
        return decode_source(self.sources[self._files[fullname]])


def _module(package: str, file: str) -> str:
    """`sub/part.py` as `package.sub.part`."""
    parts = file.removesuffix(".py").split("/")
    return ".".join([package, *(parts[:-1] if parts[-1] == "__init__" else parts)])


def _sources(folders: Sequence[Path]) -> dict[str, bytes]:
    """All Python files below folders, by relative name; nothing hidden, such as an editor's locks and copies."""
    found = [(path.relative_to(folder), path) for folder in folders for path in folder.rglob("*.py")]
    return {
        name.as_posix(): _read(path) for name, path in found if not any(part.startswith(".") for part in name.parts)
    }


def _read(path: Path) -> bytes:
    """The bytes of a plain file: a pipe or a device might never end."""
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "no plain file", str(path))
    return path.read_bytes()


def _installed(module: ModuleType | None) -> str | None:
    """The hash of an imported module's file, or of its package's files; None for code without a file."""
    folders = [Path(folder) for folder in getattr(module, "__path__", [])]
    file = getattr(module, "__file__", None)
    if folders:
        return _digest(_sources(folders))
    return _digest({"": Path(file).read_bytes()}) if file else None


def _digest(sources: Mapping[str, bytes]) -> str:
    if len(sources) == 1:
        return hashlib.sha256(*sources.values()).hexdigest()
    digest = hashlib.sha256()
    for name, content in sorted(sources.items()):
        digest.update(f"{name}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()
