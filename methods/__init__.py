"""Training methods as label x weight x margin policies around a loss. Importing this package registers all of them, without importing torch."""

from methods import absld, ard, at, natural, rslad, trades
from methods.policies import kappa, labels, neutral
from methods.registry import METHODS, POLICIES, build, load_plugin, resolve, teachers_of
from methods.settings import SettingsError

__all__ = [
    "METHODS", "POLICIES", "SettingsError", "absld", "ard", "at", "build", "kappa", "labels", "load_plugin", "natural", "neutral", "resolve",
    "rslad", "teachers_of", "trades",
]
