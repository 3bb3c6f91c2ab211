"""GPUs that fail, are too small, cannot be used or are not there: told apart by what CUDA says, tried again where that
may help, refused beforehand where it is known."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import fake_trials as fake
import pandas as pd
import pytest
import torch

from harness.api import plan_suite
from harness.engine.forwards import evaluation_forward
from harness.engine.gpu import GPUs, device_of, gpus_here, look, share_problem
from harness.errors import DeviceError, InputError, Kind, kind_of
from harness.evaluation.given import evaluation_trial, given_dataset
from harness.running.checks import check_gpus, check_requests, probe
from harness.running.failures import Decision, decide
from harness.running.launchers import SerialLauncher
from harness.running.run import Options, run
from harness.running.stopping import RunControl, StopRequest
from harness.running.worker import Job, Workplace, hold_failed_gpu, trial_events
from harness.spec import NetworkSpec, Resources, Source, TrialSpec
from harness.store.store import Store
from harness.suites.machine import for_this_machine
from harness.suites.suite import load_suite
from harness.trial import run_trial
from tests.command import bench
from tests.small import run_to_end, small_specs, suite_file

NEW, OLD = GPUs(("NVIDIA H100",), bfloat16=True), GPUs(("Tesla V100", "Tesla V100"))
UNFIT = GPUs(problem="Torch not compiled with CUDA enabled")
without_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")

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


# Asking for one


@pytest.mark.parametrize("share", [0, 1, 0.5, 1 / 3, 0.3333, 0.333, 0.33, 0.25, 0.2, 0.166, 0.125, 0.1, 0.05])
def test_shares_of_a_gpu_that_fill_it(share: float) -> None:
    assert share_problem(share) is None


@pytest.mark.parametrize(
    ("share", "says"),
    [
        (0.3, "must be 0, 1 or 1/k for k trials on a GPU, such as 0.25 or 0.333"),
        (0.7, "such as 0.5 or 1"),
        (0.17, "such as 0.166 or 0.2"),
        (2, "must be at most 1: a trial computes on one GPU"),
        (1.5, "must be at most 1"),
        (-1, "must be 0, 1 or 1/k for k trials on a GPU"),
        (1e-5, "must be 0, 1 or 1/k for k trials on a GPU"),
    ],
)
def test_shares_of_a_gpu_that_are_refused_with_the_reason(share: float, says: str, tmp_path: Path) -> None:
    assert says in str(share_problem(share))
    with pytest.raises(InputError, match=f"resources: gpu: must be .*{says.removeprefix('must be ')}"):
        load_suite(suite_file(tmp_path), [f"resources.gpu={share}"])
    with pytest.raises(InputError, match=says):
        given(share)
    if share > 0:
        with pytest.raises(InputError, match=says):
            check_requests([fake.make(gpu=share)], [])


def given(gpu: float | str, cpu: float = 1, threads: int = 1) -> TrialSpec:
    """The trial of `evaluate` with these options."""
    network = Source(network=NetworkSpec(name="cnn", params={"width": 4}), file="a.pt", sha256="ab" * 32)
    resources = {"gpu": str(gpu), "cpu": cpu}
    data, attacks = given_dataset("digits"), {"attacks": ["clean"]}
    return evaluation_trial(network, data, attacks, "0.1", "mine", resources=resources, threads=threads)


def test_an_evaluation_asks_for_what_its_options_say(monkeypatch: pytest.MonkeyPatch) -> None:
    assert given(0).resources == Resources(cpu=1, gpu=0)
    assert given(0.5, cpu=3).resources == Resources(cpu=3, gpu=0.5)
    assert (given(1, threads=4).resources, given(1, threads=4).threads) == (Resources(cpu=4, gpu=1), 4)
    assert given(0).trial_id == given(0.5, cpu=3).trial_id != given(0, threads=2).trial_id
    for found, gpu in ((None, 0), (UNFIT, 0), (NEW, 1)):
        monkeypatch.setattr("harness.suites.machine.gpus_here", lambda found=found: found)
        assert given("auto").resources.gpu == gpu


@pytest.mark.parametrize(
    ("found", "gpu", "precision"),
    [(None, 0, None), (UNFIT, 0, None), (NEW, 1, "bfloat16"), (OLD, 1, "float32")],
)
def test_a_suite_leaves_its_gpu_to_the_machine_that_plans_it(
    found: GPUs | None, gpu: int, precision: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("harness.suites.machine.gpus_here", lambda: found)
    monkeypatch.setattr("harness.suites.machine.processor_precision", lambda: "float32")
    suite = load_suite(suite_file(tmp_path), ["resources.gpu=auto", "precision=auto"])
    resolved = for_this_machine(suite, tmp_path)
    assert (resolved.resources.gpu, resolved.precision) == (gpu, precision or "float32")
    assert {spec.resources.gpu for spec in plan_suite(suite, results=tmp_path / "store").specs} == {gpu}


def test_a_gpu_that_torch_cannot_use_is_not_exchanged_for_a_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.suites.machine.gpus_here", lambda: UNFIT)
    monkeypatch.setattr("harness.suites.machine.models", lambda: ["NVIDIA H100"])
    with pytest.raises(InputError, match="NVIDIA H100, and torch cannot use it: Torch not compiled with CUDA enabled"):
        given("auto")
    assert given(0).resources.gpu == 0


def test_a_head_node_without_a_gpu_plans_for_those_that_have_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is measured, and no GPU is touched, in the process that plans."""
    monkeypatch.setattr("harness.suites.machine.gpus_here", lambda: None)
    monkeypatch.setattr("torch.cuda.is_available", lambda: pytest.fail("asked for a GPU"))
    changes = {"resources": {"gpu": 0.5}, "precision": "auto", "threads": "auto"}
    planned = plan_suite(suite_file(tmp_path, **changes), results=tmp_path / "store")
    facts = {(spec.resources.gpu, spec.precision, spec.threads) for spec in planned.specs}
    assert facts == {(0.5, "bfloat16", 1)}


# What a machine has


def wanting(gpu: float = 0.5, precision: str = "float32") -> list[TrialSpec]:
    spec = fake.make(gpu=gpu).model_copy(update={"precision": precision})
    return [fake.make(1), spec]


@pytest.mark.parametrize(
    ("found", "precision", "says"),
    [
        (None, "float32", "on node a there is no NVIDIA GPU; --set resources.gpu=0 "),
        (UNFIT, "float32", "torch cannot use one: Torch not compiled with CUDA enabled; --set resources.gpu=0"),
        (OLD, "bfloat16", r"a GPU without units for it \(Tesla V100\): --set precision=float32"),
    ],
)
def test_what_gpus_cannot_do_is_refused_before_a_run(found: GPUs | None, precision: str, says: str) -> None:
    with pytest.raises(InputError, match=says) as caught:
        check_gpus(wanting(precision=precision), found, "node a")
    assert "\n" not in str(caught.value)
    check_gpus(wanting(gpu=0, precision=precision), found, "node a")


def of_gradients(specs: list[TrialSpec]) -> list[TrialSpec]:
    """The same with attacks in bfloat16."""
    return [
        spec.model_copy(update={"evaluation": spec.evaluation.model_copy(update={"gradient_precision": "bfloat16"})})
        for spec in specs
    ]


def test_gradients_want_the_same_of_a_gpu_as_training() -> None:
    check_gpus(of_gradients(wanting()), NEW, "here")
    check_gpus(of_gradients(wanting(gpu=0)), OLD, "here")
    with pytest.raises(
        InputError, match=r"evaluation.gradient_precision=float32 \(evaluate: --gradient-precision float32\)"
    ):
        check_gpus(of_gradients(wanting()), OLD, "here")


def test_gpus_that_can_are_let_be() -> None:
    check_gpus(wanting(), OLD, "here")
    check_gpus(wanting(precision="bfloat16"), NEW, "here")


@without_gpu
def test_a_run_without_ray_on_a_machine_without_a_gpu_is_refused_at_once(tmp_path: Path) -> None:
    options = Options(serial=True, run_trial="fake_trials:run", minimum_free_bytes=0)
    with pytest.raises(InputError, match="trials ask for a GPU, and on this machine"):
        run([fake.make(gpu=1)], Store(tmp_path / "new"), options=options)
    assert not (tmp_path / "new").exists()


@without_gpu
def test_gpus_are_asked_in_another_process_and_say_why_they_cannot_be_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = look()
    assert (found.names, found.bfloat16) == ((), False)
    assert kind_of(RuntimeError(found.problem)) == "device"  # no driver, or a torch without CUDA
    monkeypatch.setattr("sys.executable", "false")
    assert look() == GPUs(problem="the process that asked it died (exit code 1)")
    monkeypatch.setattr("harness.engine.gpu._TRACES", (str(tmp_path),))
    control = RunControl(tmp_path)
    gpus_here.cache_clear()
    assert probe(str(control.path), control.nonce, "2.60.0", gpus=True)["gpus"].problem.startswith("the process")
    monkeypatch.setattr("harness.engine.gpu._TRACES", ())
    gpus_here.cache_clear()
    assert gpus_here() is None
    assert "gpus" not in probe(str(control.path), control.nonce, "2.60.0")


# The one that was given


@without_gpu
def test_a_trial_that_cannot_use_its_gpu_does_not_compute_on_the_processor(tmp_path: Path) -> None:
    spec = small_specs(tmp_path)["at"]
    assert device_of(spec) == torch.device("cpu")
    spec = spec.model_copy(update={"resources": Resources(gpu=0.5)})
    with pytest.raises(DeviceError, match=r"the GPU given on .* cannot be used: "):
        next(run_trial(spec, tmp_path))
    events = list(trial_events(Job(spec, Workplace(tmp_path))))
    assert [event["event"] for event in events] == ["launch", "error"]
    assert events[-1]["kind"] == "device"


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (RuntimeError("No CUDA GPUs are available"), "device"),
        (AssertionError("Torch not compiled with CUDA enabled"), "device"),
        (RuntimeError("CUDA error: device-side assert triggered"), "device"),  # in this process, by an earlier trial
        (RuntimeError("CUDA error: out of memory"), "gpu_memory"),
        (torch.OutOfMemoryError("CUDA out of memory."), "gpu_memory"),
    ],
)
def test_why_a_given_gpu_cannot_be_used(error: Exception, kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.ones", lambda *size, **options: (_ for _ in ()).throw(error))
    with pytest.raises(type(error) if kind == "gpu_memory" else DeviceError, match=str(error)) as caught:
        device_of(fake.make(gpu=0.5))
    assert kind_of(caught.value) == kind


@pytest.mark.parametrize("trains", [True, False])
@pytest.mark.parametrize("units", [True, False])
def test_bfloat16_is_not_emulated(units: bool, trains: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.ones", lambda *size, **options: torch.zeros(1))
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda including_emulation: units and not including_emulation)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda device: "Tesla V100")
    assert device_of(fake.make(gpu=1)).type == "cuda"
    (_, spec) = wanting(precision="bfloat16") if trains else of_gradients(wanting())
    if units:
        assert device_of(spec).type == "cuda"
    else:
        with pytest.raises(DeviceError, match="Tesla V100, has no units for bfloat16"):
            device_of(spec)


def test_a_whole_gpu_after_a_shared_one_reaches_the_trial_without_ray_too(tmp_path: Path) -> None:
    jobs: list[Job] = []

    def make_job(spec: TrialSpec) -> Job:
        jobs.append(Job(spec, Workplace(tmp_path)))
        return jobs[-1]

    with StopRequest() as request:
        SerialLauncher(make_job, request, None).start(fake.make(gpu=0.5), Resources(gpu=1))
    assert jobs[0].spec.resources.gpu == 1


FAKE_TORCH = """
from contextlib import nullcontext as device
class Sums:
    def __init__(self, value): self.value = value
    def __matmul__(self, other): return self
    def __ne__(self, other): return self
    def any(self): return self.value != 64
answers = iter({answers})
def ones(*size, device):
    if isinstance(answer := next(answers), str): raise RuntimeError(answer)
    return Sums(answer)
class cuda:
    init = lambda: None
    device = device
    device_count = lambda: 2
    get_device_name = lambda: "{name}"
    is_bf16_supported = lambda including_emulation: not including_emulation and {units}
"""


@pytest.mark.parametrize(
    ("name", "units", "answers", "found"),
    [
        ("NVIDIA H100", True, [64, 64], GPUs(("NVIDIA H100",) * 2, bfloat16=True)),
        ("NVIDIA H100", True, [64, "CUDA out of memory."], GPUs(("NVIDIA H100",) * 2, bfloat16=True)),
        ("Tesla V100", False, [64, 64], OLD),
        ("NVIDIA H100", True, [64, 63], GPUs(("NVIDIA H100",), bfloat16=True, problem="GPU 1: wrong sums")),
        ("NVIDIA H100", True, ["CUDA error: unknown error"] * 2, GPUs(problem="GPU 1: CUDA error: unknown error")),
    ],
)
def test_each_gpu_computes_a_little_and_says_what_it_has(
    name: str, units: bool, answers: list[Any], found: GPUs, tmp_path: Path
) -> None:
    text = FAKE_TORCH.replace("{name}", name).replace("{units}", str(units)).replace("{answers}", str(answers))
    (tmp_path / "torch.py").write_text(text)
    assert look({"PYTHONPATH": str(tmp_path)}) == found


def test_gpus_that_ray_hides_are_looked_at_and_those_of_others_are_not() -> None:
    """A worker was started among the GPUs that its node may use, and has had none since."""
    program = """
import os
os.environ["CUDA_VISIBLE_DEVICES"] = ""
from harness.engine import gpu
gpu._TRACES = ("/",)
gpu.look = lambda environment: environment.get("CUDA_VISIBLE_DEVICES", "all")
print(repr(gpu.gpus_here()), repr(gpu.gpus_here(hidden=True)))
"""
    plain = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
    for given, found in (({"CUDA_VISIBLE_DEVICES": "3,5"}, "'' '3,5'"), ({}, "'' 'all'")):
        command = [sys.executable, "-c", program]
        said = subprocess.run(command, env=plain | given, capture_output=True, text=True, check=True).stdout
        assert said.strip() == found


@pytest.mark.parametrize(
    ("options", "listed", "visible", "told"),
    [
        ((), True, "0", True),
        ((), False, "0", False),
        ((), True, "", False),
        (("--set", "resources.gpu=0"), True, "0", False),
    ],
)
def test_a_gpu_that_nobody_asks_for_is_told_in_a_line(
    options: tuple[str, ...], listed: bool, visible: str, told: bool, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    (tmp_path / "gpus" / "0000:1a:00.0").mkdir(parents=True)
    if listed:
        facts = "Model: \t\t NVIDIA H100 80GB HBM3\nIRQ:   \t\t 42\n"
        (tmp_path / "gpus" / "0000:1a:00.0" / "information").write_text(facts)
    monkeypatch.setattr("harness.engine.gpu._LISTED", tmp_path / "gpus")
    monkeypatch.setattr("harness.engine.gpu._DEVICE", str(tmp_path))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    lines = bench("run", "quickstart", "--dry-run", *options, cwd=tmp_path).stderr.splitlines()
    assert len(lines) == told
    assert all(
        line.startswith("a GPU is here and unused (NVIDIA H100 80GB HBM3): --set resources.gpu=1") for line in lines
    )


# Too little memory


def little_memory(monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    """The GPU of evaluation and validation, here a processor, has room for so many images at once."""

    class Small:
        def __init__(self, forward: Any) -> None:
            self.forward = forward

        def __call__(self, images: torch.Tensor) -> torch.Tensor:
            if len(images) > most:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
            return self.forward(images)

        def refresh(self) -> None:
            self.forward.refresh()

    real = evaluation_forward
    monkeypatch.setattr("harness.trial.device_of", lambda spec: torch.device("cpu"))
    for module in ("evaluation.evaluate", "training.train"):
        monkeypatch.setattr(
            f"harness.{module}.evaluation_forward", lambda *given, **named: Small(real(*given, **named))
        )


def trial_on(gpu: float, folder: Path) -> TrialSpec:
    evaluation = {"attacks": ["clean", "pgd3"], "chunk_size": 60, "batch_size": 60}
    average = {"weight_average": {"kind": "fawa"}}  # held-out statistics of both kinds
    method = {"method": "wat", "variant": "wat", "training": average}
    spec = small_specs(folder, "training.epochs=1", methods=[method], evaluation=evaluation)["wat"]
    return spec.model_copy(update={"resources": Resources(gpu=gpu)})


def test_an_evaluation_that_a_whole_gpu_has_no_memory_for_goes_on_in_smaller_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = trial_on(1, tmp_path)
    roomy, tight = tmp_path / "roomy", tmp_path / "tight"
    little_memory(monkeypatch, 500)
    run_to_end(spec, roomy)
    little_memory(monkeypatch, 20)
    assert run_to_end(spec, tight)[-1]["event"] == "done"
    for table in ("class_accuracy", "epochs", "class_state"):
        found, expected = (Store(root).read(table, [spec.trial_id]) for root in (tight, roomy))
        pd.testing.assert_frame_equal(
            found.drop(columns="seconds", errors="ignore"), expected[found.columns.drop("seconds", errors="ignore")]
        )
    notes = {
        root: Store(root).read("notes", [spec.trial_id]).query("text.str.contains('memory')") for root in (roomy, tight)
    }
    assert {root: list(frame["text"]) for root, frame in notes.items()} == {
        roomy: [],
        tight: [
            "the GPU had no memory for batches of 60: 4 of 4 pieces were computed in batches of 15 or more",
            "validation: the GPU had no memory for batches of 500 images, they have 15",
        ],
    }


@pytest.mark.parametrize(("gpu", "most"), [(0.5, 20), (1, 0)])
def test_too_little_memory_is_an_error_on_a_share_of_a_gpu_and_for_a_single_image(
    gpu: float, most: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    little_memory(monkeypatch, most)
    events = list(trial_events(Job(trial_on(gpu, tmp_path), Workplace(tmp_path))))
    assert (events[-1]["event"], events[-1]["kind"]) == ("error", "gpu_memory")


# One that fails


def test_a_method_that_calls_for_a_gpu_on_a_processor_is_wrong(tmp_path: Path) -> None:
    job = Job(fake.make(1, "fail_on_any_gpu"), Workplace(tmp_path), "fake_trials:run")
    last = [*trial_events(job)][-1]
    assert (last["event"], last["kind"]) == ("error", "method")
    assert list(hold_failed_gpu(job, last)) == []


ON_RAY = Options(run_trial="fake_trials:run", minimum_free_bytes=0)


@without_gpu
def test_a_gpu_that_fails_is_given_to_no_other_trial(ray_session: None, tmp_path: Path) -> None:
    """Ray would give it to the next one at once: it is the one that is free."""
    specs = [fake.make(seed, "fail_on_gpu_0", gpu=1, cpu=0.25, steps=1, step_s=0.1) for seed in range(4)]
    said: list[str] = []
    outcome = run(
        specs, Store(tmp_path), options=ON_RAY, on_event=lambda event: said.append(event["text"])
        if event["event"] == "remark" else None,
    )  # fmt: skip
    assert sorted(outcome.done) == sorted(spec.trial_id for spec in specs)
    starts = [entry["devices"] for spec in specs for entry in fake.journal(tmp_path, spec) if entry["what"] == "start"]
    assert sorted(starts) == ["0", "1", "1", "1", "1"]
    assert len(said) == 1
    assert "has failed, and this run gives it to no other trial: " in said[0]


@without_gpu
@pytest.mark.slow
def test_a_run_stops_when_every_gpu_has_failed_and_no_trial_is_to_blame(ray_session: None, tmp_path: Path) -> None:
    specs = [fake.make(seed, "fail_on_any_gpu", gpu=0.5, cpu=0.25, steps=1) for seed in range(6)]
    outcome = run(specs, Store(tmp_path), options=ON_RAY)
    assert (outcome.failed, outcome.stop_reason) == ({}, "every GPU has failed")
    assert sorted(outcome.interrupted) == sorted(spec.trial_id for spec in specs)


@pytest.mark.parametrize(("behaviour", "failed"), [("raise", 1), ("fail_on_any_gpu", 0)])
def test_without_ray_a_run_stops_when_its_process_can_use_the_gpu_no_more(
    behaviour: str, failed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wrong method is stored as failed; what would have followed it is not."""
    monkeypatch.setattr("harness.running.launchers.lost_context", lambda: "CUDA error: device-side assert triggered")
    monkeypatch.setattr("harness.running.run.gpus_here", lambda: NEW)
    specs = [fake.make(seed, behaviour, gpu=1, step_s=0.01 * (3 - seed)) for seed in range(2)]
    outcome = run(specs, Store(tmp_path), options=replace(ON_RAY, serial=True))
    assert list(outcome.failed) == [specs[0].trial_id][:failed]
    assert sorted(outcome.interrupted) == sorted(spec.trial_id for spec in specs[failed:])
    assert outcome.stop_reason == "this process can no longer use its GPU: CUDA error: device-side assert triggered"
