"""Gradients from a cheaper form of the network: only the network itself says what is broken."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import fake_trials as fake
import pytest
import torch
from torch import Tensor

from harness.attacks.conditions import Conditions
from harness.attacks.pgd import Approximation, attack_chunk, attack_from, margin, predict, seeded_noise
from harness.attacks.registry import ATTACKS, ascent_settings
from harness.data.augment import to_float
from harness.engine.forwards import FoldedTwin
from harness.errors import InputError
from harness.evaluation.chunk import evaluate_chunk
from harness.models.build import build
from harness.suites.blocks import dataset_spec, evaluation_spec
from harness.suites.plan import plan
from harness.suites.suite import load_suite

REQUESTS: list[dict[str, Any]] = [
    *({"name": attack.with_steps().name} for attack in ATTACKS.values() if attack.ascent),
    {"name": "pgd20", "restarts": 2},
    {"name": "cw20", "start": "normal", "clamp_start": False},
]
PRECISIONS = ("float32", "bfloat16")
COUNT, CLASSES, EPS = 60, 5, 0.02
Forward = Callable[[Tensor], Tensor]


class Network:
    """A curved function in float64, so that the size of a batch changes no answer; it counts the images it is shown."""

    def __init__(self) -> None:
        draw = torch.Generator().manual_seed(3)
        self.first = torch.randn(48, 30, generator=draw, dtype=torch.float64) / 2
        self.second = torch.randn(30, CLASSES, generator=draw, dtype=torch.float64)
        self.images = 0

    def __call__(self, x: Tensor) -> Tensor:
        self.images += len(x)
        return torch.sin(2 * (x.flatten(1) - 0.5) @ self.first) @ self.second


def problem() -> tuple[Tensor, Tensor]:
    x = torch.rand(COUNT, 3, 4, 4, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    labels = Network()(x).argmax(1)
    labels[::5] = (labels[::5] + 1) % CLASSES
    return x, labels


def attacked(
    request: dict[str, Any], network: Forward, gradients: Forward | None, eps: float = EPS, batch_size: int = 25
) -> Tensor:
    (x, labels), settings = problem(), ascent_settings(request)
    clean, noise = predict(Network(), x, COUNT), seeded_noise(x, settings, 0)
    return attack_chunk(
        network, x, labels, clean, settings, eps=eps, noise=noise, batch_size=batch_size, gradients=gradients
    )


@pytest.mark.parametrize("request_", REQUESTS, ids=lambda request: "-".join(map(str, request.values())))
def test_forms_that_agree_find_the_same(request_: dict[str, Any]) -> None:
    alone, judge, climbed = Network(), Network(), Network()
    expected = attacked(request_, alone, None)
    assert torch.equal(attacked(request_, judge, climbed), expected)
    if ascent_settings(request_).steps > 1:
        assert judge.images < alone.images / 2  # no image is in doubt before it breaks


@pytest.mark.parametrize("request_", REQUESTS, ids=lambda request: "-".join(map(str, request.values())))
@pytest.mark.parametrize("lie", [lambda logits: -logits, lambda logits: logits * torch.nan])
def test_a_form_that_lies_breaks_nothing(request_: dict[str, Any], lie: Callable[[Tensor], Tensor]) -> None:
    """Without a radius no image breaks, whatever the cheaper form says of it."""
    (x, _), network = problem(), Network()
    nowhere = {**request_, "start": "clean"}
    assert torch.equal(attacked(nowhere, network, lambda point: lie(Network()(point)), eps=0.0), predict(network, x, 9))


@pytest.mark.parametrize("lie", [lambda logits: -logits, lambda logits: logits.roll(1, 1)])
def test_what_is_broken_is_what_the_network_saw(lie: Callable[[Tensor], Tensor]) -> None:
    """A point near the image, of the class that is reported."""
    (x, labels), seen, eps = problem(), [], 0.1

    def judge(point: Tensor) -> Tensor:
        logits = Network()(point)
        seen.append((point.clone(), logits.argmax(1)))
        return logits

    before = predict(Network(), x, COUNT)
    found = attacked({"name": "pgd20"}, judge, lambda point: lie(Network()(point)), eps=eps)
    broken = ((before == labels) & (found != labels)).nonzero().flatten().tolist()
    assert broken
    points, said = (torch.cat(each) for each in zip(*seen, strict=True))
    for image in broken:
        near = (points - x[image]).flatten(1).abs().amax(1) <= eps + 1e-9
        assert found[image] in said[near]


def test_images_in_doubt_are_looked_at_and_no_others() -> None:
    x, labels = problem()
    network, blurred = Network(), lambda point: Network()(point) + 0.01
    right = predict(network, x, COUNT) == labels
    x, labels = x[right], labels[right]

    def shifted(point: Tensor) -> Tensor:
        logits = blurred(point)
        return logits.scatter_add(1, labels[:, None], torch.full((len(labels), 1), 0.5, dtype=logits.dtype))

    known = Approximation.of(network, shifted, x, labels, len(x))
    torch.testing.assert_close(known.bound, torch.tensor(1.0, dtype=torch.float64))
    network.images = 0
    logits = shifted(x)
    assert torch.equal(known.decide(network, labels, logits, x), labels)
    assert network.images == int((-margin(labels)(logits, x) <= known.bound).sum())
    assert 0 < network.images < len(x)
    away = torch.full_like(logits, torch.nan)
    assert torch.equal(known.decide(lambda point: Network()(point).roll(1, 1), labels, away, x), (labels + 1) % CLASSES)


def test_verdicts_depend_on_no_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the batch, the bound is that of all images that are attacked."""
    coarse = lambda point: (Network()(point) * 8).round() / 8 + 0 * point.sum()  # noqa: E731
    bounds: list[Tensor] = []

    def noted(*given: Any) -> Tensor:
        bounds.append(given[-1].bound)
        return attack_from(*given)

    monkeypatch.setattr("harness.attacks.pgd.attack_from", noted)
    both = [attacked({"name": "pgd20"}, Network(), coarse, batch_size=size) for size in (7, COUNT)]
    assert torch.equal(*both)
    x, labels = problem()
    right = predict(Network(), x, COUNT) == labels
    x, labels = x[right], labels[right]
    deviation = (margin(labels)(coarse(x), x) - margin(labels)(Network()(x), x)).abs().max()
    assert len(bounds) == -(-len(x) // 7) + 1
    torch.testing.assert_close(torch.stack(bounds), (2 * deviation).expand(len(bounds)))


@pytest.mark.parametrize("attack", ["pgd20", "cw20", "fgsm"])
def test_bfloat16_breaks_about_what_float32_breaks(attack: str) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = build("cnn", {"width": 8}, in_channels=1, num_classes=10).eval().requires_grad_(False)
    images = torch.randint(256, (120, 1, 12, 12), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    exact, cheaper = FoldedTwin(network), FoldedTwin(network, torch.bfloat16)
    labels = exact(to_float(images)).argmax(1)

    def robust(precision: str) -> Tensor:
        conditions = Conditions({"name": attack}, 0.004, 0, 60, 10, gradient_precision=precision)
        gradients = cheaper if precision == "bfloat16" else None
        found = evaluate_chunk(exact, images, labels, torch.arange(120), conditions, 0, gradients=gradients)
        return torch.tensor(found.outcomes["robust"].to_numpy())

    plain, fast = robust("float32"), robust("bfloat16")
    assert plain.any()
    assert not plain.all()
    assert (plain != fast).sum() <= 4


def test_conditions_are_as_before_there_was_another_precision() -> None:
    conditions = Conditions({"name": "pgd20"}, 0.1, 0, 5, 10)
    assert "gradient_precision" not in conditions.canonical()
    other = Conditions({"name": "pgd20"}, 0.1, 0, 5, 10, gradient_precision="bfloat16")
    assert other.canonical() == {**conditions.canonical(), "gradient_precision": "bfloat16"}


@pytest.mark.parametrize("attack", ["clean", "aa_standard", "square"])
def test_attacks_that_stay_float32_are_the_same_work_in_both(attack: str) -> None:
    one, other = (Conditions({"name": attack}, 0.1, 0, 5, 10, gradient_precision=name) for name in PRECISIONS)
    assert one.canonical() == other.canonical()


def test_the_precision_of_gradients_is_part_of_the_identity_once_it_is_another() -> None:
    values: dict[str, Any] = {"attacks": ["pgd20"], "gradient_precision": "bfloat16"}
    default, named, other = (
        fake.make().model_copy(update={"evaluation": evaluation_spec(each, 0.1, dataset_spec("digits"))})
        for each in ({"attacks": ["pgd20"]}, {**values, "gradient_precision": "float32"}, values)
    )
    assert default.trial_id == named.trial_id != other.trial_id
    assert default.training_id == other.training_id
    assert "gradient_precision" not in str(default._canonical)


def test_what_is_no_precision_is_refused() -> None:
    with pytest.raises(InputError, match="gradient_precision"):
        evaluation_spec({"attacks": ["pgd20"], "gradient_precision": "float16"}, 0.1, dataset_spec("digits"))


def test_it_goes_with_no_plain_engine() -> None:
    with pytest.raises(InputError, match="gradient_precision: bfloat16 is of engine: fast"):
        plan(load_suite("quickstart", ["engine=plain", "evaluation.gradient_precision=bfloat16"]))
