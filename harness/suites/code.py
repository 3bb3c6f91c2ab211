"""The code from outside this package that a trial runs: its hashes are part of the trial's identity. Imports neither
torch nor Ray."""

from __future__ import annotations

from typing import TypeVar

import methods
from harness.attacks.registry import attack_info
from harness.data.registry import DATASETS
from harness.models.registry import model_info
from harness.spec import OF_ATTACK, TrialSpec
from methods import plugins

Spec = TypeVar("Spec", bound=TrialSpec)


def with_code(spec: Spec) -> Spec:
    """The specification, newly made and not yet asked for its ids, with the hashes of what this process has loaded."""
    return spec.model_copy(update={"code": code_of(spec)})


def code_of(spec: TrialSpec) -> dict[str, str]:
    """The hash of the foreign code behind each method, policy, network, attack and data set of a trial, by role such as
    `method:mine`; empty where all of it is this package's own. InputError or KeyError for a name that is not
    registered."""
    places = {f"network:{network.name}": model_info(network.name).network for network in spec.networks}
    places |= {f"{OF_ATTACK}{attack.name}": attack_info(attack.name).function for attack in spec.evaluation.attacks}
    places[f"dataset:{spec.dataset.name}"] = DATASETS[spec.dataset.name].reader
    found = {role: code for role, place in places.items() if place and (code := plugins.code_of(place))}
    return (methods.code_of(spec.method) if spec.method else {}) | found
