"""Random numbers that depend on a purpose and coordinates only: adding a method, an epoch or a chunk shifts nobody
else's."""

from __future__ import annotations

import hashlib
import json

import torch


def derive_seed(*coordinates: int | str) -> int:
    """A seed in [0, 2**63): the same in every process and on every machine."""
    digest = hashlib.blake2b(json.dumps(coordinates).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def seeded(*coordinates: int | str, device: torch.device | None = None) -> torch.Generator:
    """A generator seeded by its coordinates, on the CPU unless told otherwise."""
    return torch.Generator(device=device or torch.device("cpu")).manual_seed(derive_seed(*coordinates))
