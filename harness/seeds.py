"""Random numbers that depend on a purpose and coordinates only: adding a method, an epoch or a chunk shifts nobody
else's."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def derive_seed(*coordinates: int | str) -> int:
    """A seed in [0, 2**63): the same in every process and on every machine."""
    digest = hashlib.blake2b(json.dumps(coordinates).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def seeded(*coordinates: int | str, device: torch.device | None = None) -> torch.Generator:
    """A generator seeded by its coordinates, on the CPU unless told otherwise."""
    return torch.Generator(device=device or torch.device("cpu")).manual_seed(derive_seed(*coordinates))


@contextmanager
def globally_seeded(*coordinates: int | str, device: torch.device | None = None) -> Iterator[None]:
    """Inside, the process's own generators (and those of `device`) are seeded by the coordinates, so that what draws
    from them unasked, as dropout does, draws the same in every process; outside, they are as they were."""
    seed = derive_seed(*coordinates)
    gpus = [device] if device is not None and device.type == "cuda" else []
    with torch.random.fork_rng(devices=gpus):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed is twenty times slower
        for gpu in gpus:
            with torch.cuda.device(gpu):
                torch.cuda.manual_seed(seed)
        yield
