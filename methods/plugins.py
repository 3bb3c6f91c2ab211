"""Code from outside this package: users' files and packages, installed entry points, and the hash of what they are."""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import sys
from collections.abc import Mapping, Sequence
from importlib.abc import ExecutionLoader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import decode_source, spec_from_loader
from pathlib import Path
from types import ModuleType

from methods.settings import SettingsError

_HASHES: dict[str, str] = {}  # by top-level module, of foreign code that has registered something or is a base of it
_KNOWN = sys.stdlib_module_names - {"__main__"} | {__package__, "harness", "torch", "numpy"}


def load_plugin(path: str) -> None:
    """Run a user's method file, or package folder, once per process; it registers what it defines. Raises
    SettingsError naming the file when it cannot.

    Every file is read once, and what is hashed (`code_of`) are the bytes that are executed.
    """
    name = f"plugin_{hashlib.sha256(path.encode()).hexdigest()[:12]}"
    if name in sys.modules:
        return
    before = list(sys.meta_path)
    try:
        plugin = _Plugin(name, Path(path))
        _HASHES[name] = _digest(plugin.sources)
        sys.meta_path.insert(0, plugin)
        importlib.import_module(name)
    except Exception as error:  # a user's file may fail in any way; all of them are the same mistake to report
        sys.meta_path[:] = before
        raise SettingsError(f"plugin {path}: {type(error).__name__}: {error}") from error


def load_entry_points() -> None:
    """Import the installed packages that offer methods under the entry point `robust_fairness_bench.methods`."""
    for entry in importlib.metadata.entry_points(group="robust_fairness_bench.methods"):
        try:
            entry.load()
        except Exception as error:  # a foreign package may fail in any way; all of them are the same mistake to report
            raise SettingsError(f"entry point {entry.name} ({entry.value}): {type(error).__name__}: {error}") from error


def remember(cls: type) -> None:
    """Hash the code of a class that is being registered and of those it inherits from, where it is foreign: not this
    package's own, Python's, or that of a library whose version is recorded. SettingsError for a class without a file
    of its own, whose code would be no part of a trial's identity."""
    for top in dict.fromkeys(_top(each) for each in cls.__mro__):
        if top in _HASHES or top in _KNOWN:
            continue
        found = _installed(sys.modules.get(top))
        if found is None:
            raise SettingsError(f"{cls.__name__}: code in {top} has no file to be hashed; put it in a file (--plugin)")
        _HASHES[top] = found


def code_of(cls: type) -> str | None:
    """The sha256 of the foreign code that defines a registered class or one it inherits from, joined by +; None where
    there is none.

    Of a plugin in one file it is the file's own; of a package that of all its `*.py` with their names.
    """
    found = {_HASHES.get(_top(each)) for each in cls.__mro__}
    return "+".join(sorted(each for each in found if each)) or None


def _top(cls: type) -> str:
    return cls.__module__.partition(".")[0]


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
        raise OSError(f"{path} is no plain file")
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
