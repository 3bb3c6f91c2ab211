"""The machine: what it is, how fast its plainest operations are, and whether its convolutions are right."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial

import torch
from torch import Tensor, nn

from benchmarks.gpu.check import Setting, Threshold, Work
from benchmarks.measure import peak_flops, seconds
from harness.engine.forwards import evaluation_forward
from harness.engine.process import exact_float32
from harness.models.build import build
from harness.models.registry import MODELS
from harness.store.provenance import device_name, git_commit, gpu_versions, versions

COPIED = 2**30  # bytes, far beyond any cache
SIDE = 32
SMALL: dict[str, dict[str, int]] = {  # as they come, some take long in float64
    "resnet18": {"width": 16},
    "preact_resnet18": {"width": 16},
    "wrn": {"depth": 16, "widen": 2},
    "dm_wrn": {"depth": 16, "widen": 2},
    "vit": {"width": 96, "depth": 3, "heads": 3},
}
TINY: dict[str, dict[str, int]] = {
    "cnn": {"width": 4},
    "resnet18": {"width": 4},
    "preact_resnet18": {"width": 4},
    "resnet56": {"width": 4},
    "wrn": {"depth": 10, "widen": 1},
    "dm_wrn": {"depth": 10, "widen": 1},
    "vit": {"width": 24, "depth": 2, "heads": 3},
}
# engine and precision: what logits and the gradients at the images may be off by, as a share of their norm
ALLOWED = {("plain", "float32"): (1e-4, 1e-2), ("fast", "float32"): (1e-4, 1e-2), ("fast", "bfloat16"): (5e-2, 0.25)}
# At random weights its 56 layers of ReLU put more between bfloat16 and float64 on every device: noted, not judged.
TOO_DEEP = ("resnet56", "bfloat16")


def facts(setting: Setting) -> list[Work]:
    """What there is, and the peaks that shares of a peak are measured by."""
    peaks = {"bfloat16": (torch.bfloat16, False), "float32": (torch.float32, False)}
    if setting.device.type == "cuda":
        peaks["TF32"] = (torch.float32, True)
    works = [Work({"machine": None, "versions": None, "commit": None}, partial(_machine, setting))]
    for name, (dtype, tf32) in peaks.items():
        line = f"matrix product in {name}, TFLOP/s"
        works.append(Work({line: None}, partial(_peak, line, setting, dtype, tf32)))
    line = "copy on the device, GB/s read and written"
    return [*works, Work({line: None}, lambda: {line: _bandwidth(setting) / 1e9})]


def _machine(setting: Setting) -> dict[str, str]:
    known, name = versions() | gpu_versions(setting.device), device_name(setting.device)
    if setting.device.type == "cuda":
        facts = torch.cuda.get_device_properties(setting.device)
        name += (
            f", {facts.total_memory / 2**30:.0f} GiB, sm_{facts.major}{facts.minor}, {facts.multi_processor_count} SM"
        )
    listed = ", ".join(f"{package} {version}" for package, version in known.items())
    return {"machine": name, "versions": listed, "commit": git_commit() or "unknown"}


def _peak(line: str, setting: Setting, dtype: torch.dtype, tf32: bool) -> dict[str, float]:
    torch.backends.cuda.matmul.allow_tf32 = tf32
    try:
        return {line: peak_flops(dtype, setting.device, 256 if setting.tiny else None, rounds=10) / 1e12}
    finally:
        exact_float32()


def _bandwidth(setting: Setting) -> float:
    source = torch.ones(2**20 if setting.tiny else COPIED, dtype=torch.uint8, device=setting.device)
    target = torch.empty_like(source)
    target.copy_(source)
    return 2 * len(source) / min(seconds(lambda: target.copy_(source), setting.device) for _ in range(10))


def engine(setting: Setting) -> list[Work]:
    """Every network in every form, against itself in float64 on the processor."""
    works = []
    for model in MODELS:
        exact = cache(partial(_exact, setting, model))  # for all forms
        for (form, precision), (logits, gradient) in ALLOWED.items():
            name = f"{model}, {form} {precision}"
            lines = {
                f"{name}: logits": Threshold("<=", logits),
                f"{name}: gradient at the images": None
                if (model, precision) == TOO_DEEP
                else Threshold("<=", gradient),
            }
            works.append(Work(lines, partial(_deviation, list(lines), setting.device, exact, form, precision)))
    return works


@dataclass(frozen=True)
class _Exact:
    """A network in float32, images, and its answers to them in float64."""

    network: nn.Module
    images: Tensor
    answers: tuple[Tensor, Tensor]


def _exact(setting: Setting, model: str) -> _Exact:
    """Its batch norms know other statistics than those they begin with, or folding them would do nothing."""
    torch.manual_seed(0)
    images, params = (
        torch.rand(4 if setting.tiny else 32, 3, SIDE, SIDE),
        (TINY if setting.tiny else SMALL).get(model, {}),
    )
    network = build(
        model, params, in_channels=3, num_classes=10, image_size=SIDE, mean=(0.4,) * 3, std=(0.2,) * 3
    ).eval().requires_grad_(False)  # fmt: skip
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_var = torch.empty(module.num_features).uniform_(0.5, 2)
            module.running_mean = torch.empty(module.num_features).normal_(0, 0.3)
    answers = _answers(network.double(), images.double())
    return _Exact(network.float(), images, answers)


def _deviation(
    lines: list[str], device: torch.device, exact: Callable[[], _Exact], form: str, precision: str
) -> dict[str, float]:
    """Norm of the difference over the norm of what is right, of logits and of gradients."""
    right = exact()
    found = _answers(evaluation_forward(right.network.to(device), form, precision), right.images.to(device))
    pairs = zip(lines, found, right.answers, strict=True)
    return {line: float((ours.cpu().double() - exact).norm() / exact.norm()) for line, ours, exact in pairs}


def _answers(forward: Callable[[Tensor], Tensor], images: Tensor) -> tuple[Tensor, Tensor]:
    """Logits, and the gradient of their log-sum-exp at the images."""
    point = images.clone().requires_grad_()
    logits = forward(point)
    return logits.detach(), torch.autograd.grad(logits.logsumexp(1).sum(), point)[0]
