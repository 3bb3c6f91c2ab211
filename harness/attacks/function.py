"""Attacks that are one function of a plugin: called, and what they give checked before anything is made of it."""

from __future__ import annotations

from collections.abc import Mapping
from pkgutil import resolve_name
from typing import Any

import torch
from torch import Tensor

from harness.attacks.ascent import Forward, check_points
from harness.attacks.pgd import predict
from harness.attacks.registry import attack_info, own_settings
from harness.errors import InputError, first_line
from harness.seeds import globally_seeded, seeded
from methods.plugins import file_of

_IMAGES = 2


def attack_by_function(
    request: Mapping[str, Any], forward: Forward, x: Tensor, labels: Tensor, prediction: Tensor, *, eps: float,
    batch_size: int, seed: tuple[int, ...],
) -> Tensor:  # fmt: skip
    """`prediction` (N,) with the attack's in place where it was right. seed: what its random numbers follow from,
    beside its name and the batch. RuntimeError for what are no adversarial images."""
    prediction = prediction.clone()
    for number, part in enumerate((prediction == labels).nonzero().flatten().split(batch_size)):
        points = _points(request, forward, x[part], labels[part], eps, (*seed, number))
        prediction[part] = predict(forward, points, len(part))
    return prediction


def check_function(request: Mapping[str, Any], shape: tuple[int, ...], num_classes: int, eps: float) -> None:
    """Try an attack on a linear network and two images of a shape (C, H, W). InputError, its file in it, where it
    raises, or gives what are no points."""
    generator = seeded("attack check")
    x = torch.rand(_IMAGES, *shape, generator=generator)
    weight = torch.randn(x[0].numel(), num_classes, generator=generator) / x[0].numel() ** 0.5
    labels = torch.arange(_IMAGES) % num_classes
    try:
        _points(request, lambda images: images.flatten(1) @ weight, x, labels, eps, ())
    except Exception as error:  # a user's function may fail in any way
        reason = str(error) if isinstance(error, RuntimeError) else f"{type(error).__name__}: {error}"
        where = file_of(attack_info(request["name"]).function)
        raise InputError(f"{where}: {first_line(reason) or type(error).__name__}") from error


def _points(
    request: Mapping[str, Any], forward: Forward, x: Tensor, labels: Tensor, eps: float, seed: tuple[int, ...]
) -> Tensor:
    info = attack_info(request["name"])
    drawn: list[int | str] = ["attack", info.name, *seed]
    function, own = resolve_name(info.function), own_settings(request)
    with globally_seeded(*drawn, device=x.device):  # what draws unasked draws the same in every process, too
        found = function(forward, x.clone(), labels.clone(), eps, seeded(*drawn), **own)
    who = f"attack {info.name}"
    if not isinstance(found, Tensor) or found.shape != x.shape or found.dtype != x.dtype:
        said = f"{tuple(found.shape)} {found.dtype}" if isinstance(found, Tensor) else type(found).__name__
        raise RuntimeError(f"{who} must return images {tuple(x.shape)} {x.dtype}, as it got them, not {said}")
    found = found.detach().to(x.device)
    check_points(who, found, x, eps)
    return found
