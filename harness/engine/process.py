"""What a process must be before it computes: its threads, its memory, float32 that means float32. Importing this does
not import torch, which reads the number of threads when it is loaded."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from harness.spec import TrialSpec

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of mallopt, malloc.h
_BYTES = 2**30


def prepare_process(spec: TrialSpec) -> None:
    """Sets what a worker must have before torch is loaded: its threads, and no GPU that was not asked for."""
    os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(spec.threads)
    if spec.resources.gpu == 0:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Torch computes with `count` threads inside: a warm worker, or a notebook, may have another number set."""
    torch = sys.modules.get("torch")
    before = torch.get_num_threads() if torch else None
    if torch:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        if torch:
            torch.set_num_threads(before)


def exact_float32() -> None:
    """Let float32 mean float32 in this process: on GPUs cuDNN's convolutions would round their inputs to TF32's ten
    bits of mantissa. Reported numbers are float32; bfloat16 is the fast form for training."""
    import torch

    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False


def deterministic_algorithms(wanted: bool) -> None:
    """Whether CUDA and its libraries take only algorithms that give the same bits in every run, where they have such;
    torch warns where not. By default they add in whatever order their threads come."""
    import torch

    if wanted:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without one, cuBLAS may share its workspaces
    torch.backends.cudnn.deterministic = wanted
    torch.use_deterministic_algorithms(wanted, warn_only=True)


@contextmanager
def tuned_convolutions() -> Iterator[None]:
    """Inside, cuDNN tries its algorithms on every new shape and takes the fastest, which pays where shapes recur: in
    training, not in attacks whose batches shrink. What it takes may differ from process to process, so it does not
    try where results must be the same."""
    import torch

    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = not torch.backends.cudnn.deterministic
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


def keep_freed_memory() -> None:
    """Let this process keep the memory it frees, up to 1 GiB, instead of giving it back to the system.

    A training step allocates the same large maps again and again. glibc's defaults return many of them each time, and
    fresh pages cost: 8,000 to 14,000 faults and between a twentieth and a fifth of the time of a 32-wide cnn's bfloat16
    step, on different days. Without effect on other C libraries.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    mallopt(_TRIM_THRESHOLD, _BYTES)
    mallopt(_MMAP_THRESHOLD, _BYTES)
