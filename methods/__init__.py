"""Training methods as label x weight x margin policies around a loss. Importing this package registers all of them, without importing torch."""

from methods import absld, adaad, ard, at, bat, cfa, dafa, faal, fair_ard, frl, iad, mart, mtard, natural, policies, rslad, trades, wat
from methods.registry import METHODS, POLICIES, build, load_plugin, resolve, teachers_of
from methods.settings import SettingsError, resolve_epoch

__all__ = [
    "METHODS",
    "POLICIES",
    "SettingsError",
    "absld",
    "adaad",
    "ard",
    "at",
    "bat",
    "build",
    "cfa",
    "dafa",
    "faal",
    "fair_ard",
    "frl",
    "iad",
    "load_plugin",
    "mart",
    "mtard",
    "natural",
    "policies",
    "resolve",
    "resolve_epoch",
    "rslad",
    "teachers_of",
    "trades",
    "wat",
]
