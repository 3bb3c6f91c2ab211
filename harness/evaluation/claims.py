"""What is claimed of a network that was trained elsewhere."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from harness.errors import InputError
from harness.published.papers import Result
from harness.suites.blocks import read
from harness.suites.notation import read_yaml

Claims = Mapping[str, Mapping[str, float]]  # by attack and metric; `accuracy` is that over all images


def read_claims(texts: Sequence[str], attacks: Collection[str]) -> Claims:
    """Claims such as `aa_standard: 49.2`, which is an accuracy over all images, or `pgd20: {average: 52, worst: 30,
    nsd: 0.2}`, which is of the classes; in percent but for NSD.

    attacks: those of the evaluation. InputError for what is no such claim, and for an attack that is not among them.
    """
    found: dict[str, dict[str, float]] = {}
    for text in texts:
        where = f"--claim '{text}'"
        values = read_yaml(text, where)
        if not isinstance(values, dict) or not values:
            raise InputError(f"{where}: write an attack with its accuracy in percent, 'aa_standard: 49.2'")
        for attack, value in values.items():
            if attack not in attacks:
                raise InputError(f"{where}: the evaluation has no '{attack}': --attacks are {', '.join(attacks)}")
            if attack in found:
                raise InputError(f"{where}: '{attack}' is claimed twice")
            plain = not isinstance(value, dict)
            result = read(Result, {"average": value} if plain else value, f"{where}: {attack}")
            named = result.model_dump(include={"average", "worst", "nsd"}, exclude_none=True)
            found[attack] = {"accuracy": named["average"]} if plain else named
    return found
