"""GPUs that fail, are too small, cannot be used or are not there: told apart by what CUDA says, tried again where that
may help, refused beforehand where it is known."""

from __future__ import annotations

import pytest
import torch

from harness.errors import DeviceError, Kind, kind_of
from harness.running.failures import Decision, decide

MORE = (
    "\nCUDA kernel errors might be asynchronously reported at some other API call, so the stacktrace below might be "
    "incorrect.\nFor debugging consider passing CUDA_LAUNCH_BLOCKING=1\nCompile with `TORCH_USE_CUDA_DSA` to enable "
    "device-side assertions.\n"
)
# what torch says, by what it means for the trial
SAID: dict[Kind, list[str]] = {
    "gpu_memory": [
        "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.25 GiB of which 1.12 GiB is "
        "free.",
        "CUDA error: out of memory" + MORE,
        "CUDA driver error: out of memory",
        "cuda runtime error (2) : out of memory at /pytorch/aten/src/THC/THCGeneral.cpp:50",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`",
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
        "cuDNN error: CUDNN_STATUS_NOT_INITIALIZED",
        "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
        "cusolver error: CUSOLVER_STATUS_ALLOC_FAILED, when calling `cusolverDnCreate(handle)`",
        "GET was unable to find an engine to execute this computation",
        "FIND was unable to find an engine to execute this computation",
        "Unable to find a valid cuDNN algorithm to run convolution",
        'NVML_SUCCESS == r INTERNAL ASSERT FAILED at "/pytorch/c10/cuda/CUDACachingAllocator.cpp":1016, please report',
    ],
    "device": [
        "CUDA error: unspecified launch failure" + MORE,
        "CUDA error: uncorrectable ECC error encountered" + MORE,
        "CUDA error: uncorrectable NVLink error detected during the execution" + MORE,
        "CUDA error: Invalid access of peer GPU memory over nvlink or a hardware error" + MORE,
        "CUDA error: hardware stack error" + MORE,
        "CUDA error: the launch timed out and was terminated" + MORE,
        "CUDA error: unknown error" + MORE,
        "CUDA error: initialization error" + MORE,
        "CUDA error: no CUDA-capable device is detected" + MORE,
        "CUDA error: invalid device ordinal" + MORE,
        "CUDA error: CUDA-capable device(s) is/are busy or unavailable" + MORE,
        "CUDA error: all CUDA-capable devices are busy or unavailable" + MORE,
        "CUDA error: CUDA driver version is insufficient for CUDA runtime version" + MORE,
        "CUDA error: system has unsupported display driver / cuda driver combination" + MORE,
        "CUDA error: system not yet initialized" + MORE,
        "CUDA error: the remote MPS server is not ready to accept new MPS client requests" + MORE,
        "CUDA error: no kernel image is available for execution on the device" + MORE,
        "CUDA error: device kernel image is invalid" + MORE,
        "CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm( handle, opa, opb, m, n, k)`",
        "cuDNN error: CUDNN_STATUS_EXECUTION_FAILED",
        "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR",
        "No CUDA GPUs are available",
        "Found no NVIDIA driver on your system. Please check that you have an NVIDIA GPU and installed a driver",
        "The NVIDIA driver on your system is too old (found version 11040).",
        "CUDA unknown error - this may be due to an incorrectly set up environment",
        "CUDA driver initialization failed, you might not have a CUDA gpu.",
        "Unexpected error from cudaGetDeviceCount(). Did you run some cuda functions before calling NumCudaDevices()",
        "Torch not compiled with CUDA enabled",
    ],
    "method": [
        "CUDA error: device-side assert triggered" + MORE,
        "CUDA error: an illegal memory access was encountered" + MORE,
        "CUDA error: misaligned address" + MORE,
        "CUDA error: invalid argument" + MORE,
        "CUDA error: invalid configuration argument" + MORE,
        "CUDA error: CUBLAS_STATUS_INVALID_VALUE when calling `cublasSgemm( handle, opa, opb, m, n, k)`",
        "cuDNN error: CUDNN_STATUS_BAD_PARAM",
        "cuDNN error: CUDNN_STATUS_NOT_SUPPORTED",
        "Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu!",
    ],
    "infrastructure": ["cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED"],
}


@pytest.mark.parametrize(("kind", "text"), [(kind, text) for kind, texts in SAID.items() for text in texts])
def test_what_cuda_says_is_told_apart(kind: Kind, text: str) -> None:
    assert kind_of(RuntimeError(text)) == kind
    outer = ValueError("while training")
    outer.__cause__ = RuntimeError(text)
    assert kind_of(outer) == kind


def test_errors_are_known_by_their_types() -> None:
    assert kind_of(torch.OutOfMemoryError("no")) == "gpu_memory"
    assert kind_of(DeviceError("no")) == "device"


def test_a_failed_assertion_is_the_methods_whatever_fails_after_it() -> None:
    after = RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm`")
    after.__context__ = RuntimeError("CUDA error: device-side assert triggered")
    assert kind_of(after) == "method"


@pytest.mark.parametrize(
    ("barren", "decision"), [(1, Decision("retry", 0.5)), (2, Decision("retry", 1.0)), (3, Decision("fail"))]
)
def test_a_gpu_that_failed_is_no_fault_of_the_trial(barren: int, decision: Decision) -> None:
    assert decide("device", barren=barren, gpu=0.5) == decision
