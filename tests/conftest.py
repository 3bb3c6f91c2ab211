"""What the test files share: one Ray session for all tests that need one."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

# Before any import of Ray: a local session would otherwise write an authentication token into the user's home.
os.environ.setdefault("RAY_AUTH_MODE", "disabled")


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """A local Ray with 4 logical CPUs and 2 GPUs that do not exist; trials that sleep can be scheduled on both."""
    from harness.running.run import connected

    with connected(num_cpus=4, num_gpus=2, resources={"licence": 1}):
        yield
