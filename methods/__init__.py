"""Training methods as label x weight x margin policies around a loss. Importing this package registers every method in
this folder and every policy in `methods/policies`, without importing torch."""

import importlib
import pkgutil

from methods import policies
from methods.plugins import load_entry_points, load_plugin
from methods.registry import (
    METHODS,
    POLICIES,
    build,
    clean_passes_of,
    code_of,
    completed,
    held_out_of,
    points_of,
    resolve,
    teachers_of,
)
from methods.settings import SettingsError, resolve_epoch

__all__ = [
    "METHODS",
    "POLICIES",
    "SettingsError",
    "build",
    "clean_passes_of",
    "code_of",
    "completed",
    "held_out_of",
    "load_entry_points",
    "load_plugin",
    "points_of",
    "resolve",
    "resolve_epoch",
    "teachers_of",
]

for package in (policies.__name__, __name__):
    for module in pkgutil.iter_modules(importlib.import_module(package).__path__):
        importlib.import_module(f"{package}.{module.name}")
