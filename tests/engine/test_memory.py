"""The most memory that a trial has used, on a processor and on a GPU."""

from __future__ import annotations

import mmap

import torch

from harness.engine.memory import larger, peak_memory, reset_peak_memory


def test_the_peak_of_memory_is_a_trials_own():
    cpu = torch.device("cpu")
    with mmap.mmap(-1, 256 * 2**20) as pages:
        for _ in range(256):
            pages.write(bytes(2**20))
        reset_peak_memory(cpu)
        before = peak_memory(cpu)
    reset_peak_memory(cpu)
    after = peak_memory(cpu)
    assert before["peak_memory_mb"] - after["peak_memory_mb"] > 200
    assert after["peak_reserved_mb"] is None
    assert larger(before, after) == before


def test_the_peak_of_a_gpu_counts_what_is_reserved_beside_what_is_used(monkeypatch):
    gpu, forgotten = torch.device("cuda"), []
    monkeypatch.setattr("torch.cuda.reset_peak_memory_stats", forgotten.append)
    monkeypatch.setattr("torch.cuda.max_memory_allocated", lambda device: 3 * 2**20)
    monkeypatch.setattr("torch.cuda.max_memory_reserved", lambda device: 4 * 2**20)
    reset_peak_memory(gpu)
    assert forgotten == [gpu]
    assert peak_memory(gpu) == {"peak_memory_mb": 3, "peak_reserved_mb": 4}
    assert larger(peak_memory(gpu), {"peak_memory_mb": 9, "peak_reserved_mb": None}) == {
        "peak_memory_mb": 9, "peak_reserved_mb": 4
    }  # fmt: skip
