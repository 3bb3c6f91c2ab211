"""What the test files share: the device they compute on, and one Ray session for all tests that need one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING
from unittest import mock

import pytest

if TYPE_CHECKING:
    from tests.fake_cuda import FakeCuda

# Before any import of Ray: a local session would otherwise write an authentication token into the user's home.
os.environ.setdefault("RAY_AUTH_MODE", "disabled")

# Before any import of torch: test processes side by side, each with a thread for every core, wait for one another.
os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--device",
        default="cpu",
        choices=("cpu", "cuda", "fake-cuda"),
        help="where golden, method, attack, trial, resume and evaluation tests compute (default cpu); fake-cuda: CPU "
        "tensors that pass for CUDA's, so that what would meet on two devices fails without a GPU too",
    )


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("device") == "cuda":
        from harness.engine.gpu import look

        found = look()
        if not found.names:
            raise pytest.UsageError(f"--device cuda: torch finds no GPU here: {found.problem or 'there is none'}")


@pytest.fixture(scope="session", autouse=True)
def device(request: pytest.FixtureRequest) -> Iterator[str]:
    """Where the tests compute that README names, `cpu` or `cuda`; formulas against numpy are the processor's. On a real
    GPU bits repeat, as tests of resumed trainings need it."""
    name = request.config.getoption("device")
    if name == "cpu":
        yield name
        return
    import torch

    from harness.engine import gpu
    from tests import small
    from tests.fake_cuda import fake_cuda

    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(small, "DEVICE", "cuda"))
        if name == "fake-cuda":
            stack.enter_context(fake_cuda())
            stack.enter_context(mock.patch.object(gpu, "_TRACES", ("/",)))
            stack.enter_context(mock.patch.object(gpu, "look", return_value=gpu.GPUs(("a fake GPU",), True)))
        else:
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
            torch.use_deterministic_algorithms(True, warn_only=True)
            torch.backends.cudnn.deterministic = True
        yield "cuda"


@pytest.fixture
def gpu(request: pytest.FixtureRequest) -> Iterator[FakeCuda | None]:
    """A GPU in any case: None stands for the real one of `--device cuda`, else CPU tensors pass for its own."""
    if request.config.getoption("device") == "cuda":
        yield None
        return
    from tests.fake_cuda import fake_cuda

    with fake_cuda() as fake:
        yield fake


@pytest.fixture(autouse=True)
def _no_gpu_is_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU of the machine that the tests run on adds no line to what commands say."""
    monkeypatch.setattr("harness.engine.gpu._LISTED", Path("/nowhere"))


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """A local Ray with 4 logical CPUs and 2 GPUs that do not exist; trials that sleep can be scheduled on both."""
    from harness.running.run import connected

    with connected(num_cpus=4, num_gpus=2, resources={"licence": 1}):
        yield
