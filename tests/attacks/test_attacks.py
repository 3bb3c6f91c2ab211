"""Gradient attacks against closed forms on linear networks, and against a plain loop that drops nothing."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pkgutil import resolve_name

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from harness.attacks.pgd import (
    attack_chunk,
    cross_entropy,
    decide,
    draw_noise,
    margin,
    predict,
    seeded_noise,
    start_point,
)
from harness.attacks.registry import (
    ATTACKS,
    AUTOATTACK_STAGES,
    AscentSettings,
    Attack,
    ascent_settings,
    attack_info,
    attack_place,
    canonical_request,
    check_request,
    headline,
    stage_names,
)
from harness.errors import InputError
from harness.report.captions import attack_title
from harness.spec import CHECKPOINTS
from harness.suites.blocks import dataset_spec, evaluation_spec
from tests import small

EPS = 0.02
GRADIENT_ATTACKS = [attack.with_steps().name for attack in ATTACKS.values() if attack.ascent]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise_of(x: Tensor, settings: AscentSettings, seed: int = 0):
    """Start noise by number of restart."""
    return seeded_noise(x, settings, seed)


def linear_problem(shape: tuple[int, ...], count: int = 40) -> tuple[Tensor, Tensor, Tensor]:
    """Images (count, *shape), labels in {0, 1}, weights (2, pixels): margins about as large as the attack's gain."""
    draw = generator(len(shape) + sum(shape))
    x = torch.rand(count, *shape, generator=draw, dtype=torch.float64)
    weight = torch.randn(2, x[0].numel(), generator=draw, dtype=torch.float64)
    weight -= weight.mean(1, keepdim=True)  # flat images then have no margin, so labels split about evenly
    labels = torch.randint(2, (count,), generator=draw)
    return x.to(small.DEVICE), labels.to(small.DEVICE), weight.to(small.DEVICE)


def curved_network(num_classes: int = 5, pixels: int = 48):
    draw = generator(3)
    first = torch.randn(30, pixels, generator=draw, dtype=torch.float64).to(small.DEVICE) / 2
    second = torch.randn(num_classes, 30, generator=draw, dtype=torch.float64).to(small.DEVICE)
    return lambda x: torch.sin(2 * (x.flatten(1) - 0.5) @ first.T) @ second.T


def curved_problem(count: int = 60) -> tuple[Tensor, Tensor]:
    """Images of 3x4x4 with the labels that the curved network gives all but every fifth one."""
    x = torch.rand(count, 3, 4, 4, generator=generator(4), dtype=torch.float64).to(small.DEVICE)
    labels = curved_network()(x).argmax(1)
    labels[::5] = (labels[::5] + 1) % 5
    return x, labels


def worst_point(x: Tensor, labels: Tensor, weight: Tensor, eps: float) -> Tensor:
    """The closed form: every pixel moves by eps along the sign of the rival's weight minus the label's."""
    direction = (weight[1 - labels] - weight[labels]).sign().view_as(x)
    return (x + eps * direction).clamp(0, 1)


@pytest.mark.parametrize("shape", [(1, 4, 4), (3, 5, 7), (2, 1, 9)])
@pytest.mark.parametrize("name", GRADIENT_ATTACKS)
def test_linear_network_is_judged_at_its_worst_point(name: str, shape: tuple[int, ...]) -> None:
    x, labels, weight = linear_problem(shape)
    eps = 0.1
    seen: list[Tensor] = []

    def forward(point: Tensor) -> Tensor:
        seen.append(point.detach().clone())
        return point.flatten(1) @ weight.T

    clean, settings = predict(forward, x, 64), ascent_settings({"name": name})
    found = attack_chunk(forward, x, labels, clean, settings, eps=eps, noise=noise_of(x, settings), batch_size=64)
    worst = worst_point(x, labels, weight, eps)
    right = clean == labels
    expected = torch.where(right, (worst.flatten(1) @ weight.T).argmax(1), clean)
    assert torch.equal(found, expected)
    assert right.any()
    assert (found[right] != labels[right]).any()  # the eps is large enough to matter
    if name in ("fgsm", "pgd20_last"):
        torch.testing.assert_close(seen[-1], worst[right], rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["pgd20", "cw20"])
def test_dropping_broken_images_changes_nothing(name: str) -> None:
    x, labels = curved_problem()
    network, settings = curved_network(), ascent_settings({"name": name})
    clean = network(x).argmax(1)
    noise = draw_noise(x, settings, generator(7))
    found = attack_chunk(network, x, labels, clean, settings, eps=EPS, noise=lambda restart: noise, batch_size=13)

    start = (x + EPS * (2 * torch.rand(x.shape, generator=generator(7)).to(x.device) - 1)).clamp(0, 1)
    assert torch.equal(found, plain_any_iterate(network, x, labels, clean, start, name == "cw20"))
    assert 0 < (found == labels).sum() < (clean == labels).sum()


def test_what_an_attack_remembers_goes_with_its_image() -> None:
    x, labels = curved_problem(400)
    network, settings = curved_network(), AscentSettings(direction="harness.attacks.momentum:momentum")
    clean, eps = network(x).argmax(1), 0.025
    noise = draw_noise(x, settings, generator(7))
    found, without = (
        attack_chunk(network, x, labels, clean, each, eps=eps, noise=lambda restart: noise, batch_size=13)
        for each in (settings, AscentSettings())
    )
    start = start_point(x, noise, settings, eps)
    expected = plain_any_iterate(network, x, labels, clean, start, cw=False, eps=eps, decay=1.0)
    assert torch.equal(found, expected)
    assert 0 < (found == labels).sum() < (clean == labels).sum()
    assert not torch.equal(found, without)  # of other steps


def plain_any_iterate(
    network, x: Tensor, labels: Tensor, clean: Tensor, start: Tensor, cw: bool, eps: float = EPS, decay: float = 0.0
) -> Tensor:
    """The definition, with all images in one batch to the end: the first wrong one of 21 iterates decides."""
    decision, point, kept = clean.clone(), start, torch.zeros_like(x)
    for step in range(21):
        point = point.detach().requires_grad_()
        logits = network(point)
        undecided = decision == labels
        decision[undecided] = logits.argmax(1)[undecided]
        if step == 20:
            return decision
        label_logit = logits.gather(1, labels[:, None]).squeeze(1)
        others = logits - 1e9 * F.one_hot(labels, logits.shape[1])
        loss = (others.amax(1) - label_logit) if cw else (logits.logsumexp(1) - label_logit)
        gradient = torch.autograd.grad(loss.sum(), point)[0]
        kept = decay * kept + gradient / gradient.abs().sum((1, 2, 3), keepdim=True)
        moved = x + (point.detach() + eps / 4 * kept.sign() - x).clamp(-eps, eps)
        point = moved.clamp(0, 1)
    raise AssertionError


def test_the_last_iterate_counts_too() -> None:
    x, labels = curved_problem()
    network = curved_network()
    clean = network(x).argmax(1)
    one_step = {"name": "pgd20", "steps": 1, "step_size": EPS, "start": "clean"}
    one, fgsm = (
        attack_chunk(network, x, labels, clean, settings, eps=EPS, noise=noise_of(x, settings), batch_size=64)
        for settings in (ascent_settings(one_step), ascent_settings({"name": "fgsm"}))
    )
    assert torch.equal(one, fgsm)
    assert (fgsm == labels).sum() < (clean == labels).sum()


def test_surviving_every_iterate_is_harder_than_surviving_the_last() -> None:
    x, labels = curved_problem(200)
    network = curved_network()
    clean = network(x).argmax(1)
    every, last = (  # steps so large that the attack jumps back into the right region
        attack_chunk(
            network, x, labels, clean, AscentSettings(step_size=0.5, every_iterate=every_iterate), eps=0.05,
            noise=noise_of(x, AscentSettings()), batch_size=50,
        )
        == labels
        for every_iterate in (True, False)
    )  # fmt: skip
    assert not (every & ~last).any()
    assert every.sum() < last.sum()


def test_broken_images_leave_the_batch() -> None:
    x, labels = curved_problem(300)
    network, sizes = curved_network(), []

    def forward(point: Tensor) -> Tensor:
        sizes.append(len(point))
        return network(point)

    clean = network(x).argmax(1)
    found = attack_chunk(
        forward, x, labels, clean, AscentSettings(), eps=EPS, noise=noise_of(x, AscentSettings()), batch_size=len(x)
    )
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] == (clean == labels).sum()
    assert sizes[0] > sizes[-1] >= (found == labels).sum() > 0


def test_restarts_only_break_more() -> None:
    x, labels = curved_problem(300)
    network = curved_network()
    clean = network(x).argmax(1)
    one, five = (
        attack_chunk(
            network, x, labels, clean, AscentSettings(steps=2, restarts=restarts), eps=EPS,
            noise=noise_of(x, AscentSettings()), batch_size=64,
        )
        == labels
        for restarts in (1, 5)
    )  # fmt: skip
    assert not (five & ~one).any()
    assert five.sum() < one.sum()


def test_objectives_by_hand() -> None:
    logits = torch.tensor([[1.0, 3.0, 2.0], [4.0, 0.0, -1.0]])
    labels = torch.tensor([2, 0])
    assert margin(labels)(logits, logits).tolist() == [1.0, -4.0]
    expected = torch.tensor([[1.0, 3.0, 2.0], [4.0, 0.0, -1.0]]).softmax(1)[[0, 1], labels].log().neg()
    torch.testing.assert_close(cross_entropy(labels)(logits, logits), expected)


def test_starts() -> None:
    x = torch.rand(4, 1, 3, 3, generator=generator()).round()
    noise = draw_noise(x, AscentSettings(start="normal"), generator(1))
    assert torch.equal(start_point(x, noise, AscentSettings(start="normal"), EPS), x + 0.001 * noise)
    assert noise.abs().max() > 1
    noise = draw_noise(x, AscentSettings(), generator(1))
    assert noise.min() < 0 < noise.max()
    assert noise.abs().max() <= 1
    unclamped = start_point(x, noise, AscentSettings(clamp_start=False), EPS)
    assert torch.equal(unclamped, x + EPS * noise)
    assert torch.equal(start_point(x, noise, AscentSettings(), EPS), unclamped.clamp(0, 1))
    assert start_point(x, noise, AscentSettings(start="clean"), EPS) is x


def test_a_start_that_is_no_image_breaks_nothing() -> None:
    x, labels = torch.zeros(8, 1, 2, 2), torch.zeros(8, dtype=torch.int64)

    def below_zero_is_one(point: Tensor) -> Tensor:
        return torch.stack([0 * point.sum((1, 2, 3)), -point.amin((1, 2, 3))], 1) - torch.tensor([0.0, 1e-9])

    def broken(**changes: bool) -> int:
        settings = AscentSettings(steps=1, **changes)
        found = attack_chunk(
            below_zero_is_one, x, labels, labels, settings, eps=0.1, noise=noise_of(x, settings), batch_size=8
        )
        return int((found != labels).sum())

    assert broken() == 0
    assert broken(clamp_start=False) == 0


def test_logits_that_are_no_numbers_are_nobodys() -> None:
    logits = torch.tensor([[float("nan")] * 3, [0.0, float("nan"), 9.0], [0.0, 2.0, 1.0]])
    assert decide(logits).tolist() == [-1, -1, 1]


def test_step_sizes() -> None:
    assert ascent_settings({"name": "pgd20"}).step(8 / 255) == 2 / 255
    assert ascent_settings({"name": "fgsm"}).step(0.1) == 0.1
    assert ascent_settings({"name": "cw20", "step_size": "2/255"}).step(0.1) == 2 / 255
    assert ascent_settings({"name": "pgd20_last", "step_size": 0.003, "steps": None}).step(0.1) == 0.003


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"name": "pdg50"}, "did you mean pgd50"),
        ({"name": "pgd{N}"}, "did you mean pgd20"),
        ({"name": "pgd0"}, "did you mean pgd20"),
        ({"name": "pgd020"}, "did you mean pgd20"),
        ({"name": "cw20_last"}, "pgd20_last"),
        ({}, "unknown attack"),
        ({"name": "pgd20", "step": 5}, "steps"),
        ({"name": "pgd20", "norm": "L2"}, "norm"),
        ({"name": "clean", "steps": 5}, "steps"),
        ({"name": "aa_short", "restarts": 2}, "restarts"),
        ({"name": "pgd20", "steps": 0}, "steps"),
        ({"name": "pgd20", "steps": 2.0}, "steps"),
        ({"name": "pgd20", "restarts": True}, "restarts"),
        ({"name": "pgd20", "step_size": "1/0"}, "step_size"),
        ({"name": "pgd20", "step_size": -0.1}, "step_size"),
        ({"name": "pgd20", "step_size": float("nan")}, "step_size"),
        ({"name": "pgd20", "step_size": [1]}, "step_size"),
        ({"name": "pgd20", "start": "unifrom"}, "uniform"),
        ({"name": "pgd20", "clamp_start": 1}, "clamp_start"),
        ({"name": "cw20", "every_iterate": "no"}, "every_iterate"),
    ],
)
def test_bad_requests(request_: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_request(request_)


def test_overrides_that_are_null_are_not_given() -> None:
    nothing = {"images": None, "checkpoints": ("last",), "steps": None, "step_size": None, "restarts": None}
    assert check_request({"name": "aa_short", **nothing}).stages == ("apgd-ce", "apgd-t")
    assert ascent_settings({"name": "pgd20", **nothing}) == AscentSettings()


@pytest.mark.parametrize(
    ("name", "title", "steps", "every_iterate", "objective"),
    [
        ("pgd20", "PGD-20", 20, True, cross_entropy),
        ("pgd7", "PGD-7", 7, True, cross_entropy),
        ("pgd100_last", "PGD-100 (last)", 100, False, cross_entropy),
        ("cw30", "CW-30", 30, True, margin),
        ("fgsm", "FGSM", 1, False, cross_entropy),
        ("mifgsm10", "MI-FGSM-10", 10, True, cross_entropy),
    ],
)
def test_the_number_of_steps_is_in_the_name(
    name: str, title: str, steps: int, every_iterate: bool, objective: Callable
) -> None:
    info, settings = attack_info(name), ascent_settings({"name": name})
    assert (info.name, info.title) == (name, title)
    assert (settings.steps, settings.every_iterate) == (steps, every_iterate)
    assert resolve_name(settings.objective) is objective


@pytest.mark.parametrize(
    ("names", "shown"),
    [
        (["aa_standard", "cw20", "pgd50", "clean", "pgd20_last", "pgd20"], "pgd20"),
        (["aa_short", "pgd20_last", "aa_standard"], "pgd20_last"),
        (["aa_short", "aa_standard", "fgsm"], "aa_standard"),
        (["fgsm", "aa_short", "cw20"], "aa_short"),
        (["fgsm", "cw20", "mifgsm10"], "cw20"),
        (["apgd-t", "apgd-ce", "mifgsm10", "clean"], "mifgsm10"),
        (["apgd-t", "apgd-ce", "fgsm"], "fgsm"),
        (["square", "apgd-t", "clean", "mine"], "apgd-t"),
        (["mine", "clean"], "clean"),
        (["yours", "mine"], "mine"),
        ([], None),
    ],
)
def test_the_attack_that_is_shown_where_there_is_room_for_one(names: list[str], shown: str | None) -> None:
    assert headline(names) == shown


def test_attacks_are_sorted_by_kind_and_steps() -> None:
    names = ["mine", "square", "cw20", "pgd100", "aa_short", "pgd20_last", "pgd20", "clean", "fgsm"]
    assert sorted(names, key=attack_place) == [
        "clean", "fgsm", "pgd20", "pgd100", "pgd20_last", "cw20", "aa_short", "square", "mine",
    ]  # fmt: skip


def test_an_attack_is_one_declaration(monkeypatch: pytest.MonkeyPatch) -> None:
    """A new one has its functions where it says, the title it says, and both checkpoints, without another word."""
    mine = Attack("mine{N}", "Mine-{N}", "for this test", AscentSettings(steps=3, objective=f"{__name__}:confusion"))
    monkeypatch.setitem(ATTACKS, mine.name, mine)
    asked = ["clean", "mine7", {"name": "mine3", "steps": 4}, "pgd20", "aa_short"]
    planned = evaluation_spec({"attacks": asked}, 0.1, dataset_spec("digits")).attacks
    both, one = ("best_validation", "last"), ("best_validation",)
    assert {attack.name: attack.checkpoints for attack in planned} == {
        "clean": both, "pgd20": both, "mine4": both, "mine7": both, "aa_short": one
    }  # fmt: skip
    assert attack_title("mine7") == "Mine-7"
    x, labels = curved_problem()
    network, settings = curved_network(), ascent_settings({"name": "mine20"})
    clean = network(x).argmax(1)
    found, pgd = (
        attack_chunk(network, x, labels, clean, each, eps=EPS, noise=noise_of(x, each), batch_size=64)
        for each in (settings, AscentSettings())
    )
    assert (pgd == labels).sum() < (found == labels).sum() < (clean == labels).sum()


def confusion(labels: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    """Not towards another class, but to where the network is least sure."""
    return lambda logits, point: -logits.logsumexp(1) + logits.mean(1)


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
def test_what_is_declared_is_there(attack: Attack) -> None:
    assert attack_info(attack.with_steps().name) == attack.with_steps()
    assert set(attack.stages) <= set(AUTOATTACK_STAGES)
    assert set(attack.checkpoints) <= set(CHECKPOINTS)
    if attack.ascent:
        assert not attack.stages
        assert callable(resolve_name(attack.ascent.objective))
        assert callable(resolve_name(attack.ascent.direction))


CANONICAL = [
    ({"name": "pgd20"}, {"name": "pgd20"}),
    ({"name": "pgd20", "steps": 20}, {"name": "pgd20"}),
    ({"name": "pgd20", "step_size": "2/255", "restarts": 1, "start": "uniform"}, {"name": "pgd20"}),
    ({"name": "pgd20", "clamp_start": True, "every_iterate": True}, {"name": "pgd20"}),
    ({"name": "pgd20", "steps": 50}, {"name": "pgd50"}),
    ({"name": "pgd50", "steps": 20}, {"name": "pgd20"}),
    ({"name": "pgd20", "every_iterate": False}, {"name": "pgd20_last"}),
    ({"name": "pgd20_last", "every_iterate": True, "steps": 7}, {"name": "pgd7"}),
    ({"name": "cw20", "steps": 100, "step_size": 8 / 255 / 4}, {"name": "cw100"}),
    ({"name": "cw20", "every_iterate": False}, {"name": "cw20", "every_iterate": False}),
    ({"name": "pgd20", "step_size": 0.01}, {"name": "pgd20", "step_size": 0.01}),
    ({"name": "pgd20", "restarts": 5, "steps": 30}, {"name": "pgd30", "restarts": 5}),
    ({"name": "fgsm", "step_size": "8/255", "clamp_start": False}, {"name": "fgsm"}),
    (
        {"name": "pgd20_last", "steps": 1, "step_size": "8/255", "start": "clean", "clamp_start": False},
        {"name": "fgsm"},
    ),
    ({"name": "fgsm", "start": "normal"}, {"name": "fgsm", "start": "normal"}),
    ({"name": "aa_short", "steps": None}, {"name": "aa_short"}),
]


@pytest.mark.parametrize(("request_", "canonical"), CANONICAL)
def test_a_request_in_other_words_is_the_same_request(request_: dict, canonical: dict) -> None:
    found = canonical_request(request_, 8 / 255)
    assert found == canonical
    assert canonical_request(found, 8 / 255) == found
    if "aa_short" not in found.values():
        before, after = ascent_settings(request_), ascent_settings(found)
        assert after.step(8 / 255) == before.step(8 / 255)
        assert (after.steps, after.start, after.every_iterate) == (before.steps, before.start, before.every_iterate)


def test_what_starts_alike_starts_at_the_same_points() -> None:
    x = torch.rand(5, 1, 3, 3, generator=generator())
    uniform = ascent_settings({"name": "pgd20"})
    first = noise_of(x, uniform)(0)
    for name in ("pgd50", "pgd20_last", "cw20"):
        assert torch.equal(noise_of(x, ascent_settings({"name": name}))(0), first)
    assert not torch.equal(noise_of(x, uniform)(1), first)
    assert not torch.equal(noise_of(x, uniform, 1)(0), first)


def test_stage_names() -> None:
    assert stage_names("pgd20", 2) == ("pgd20",)
    assert stage_names("aa_standard", 10) == ("apgd-ce", "apgd-t", "fab-t", "square")
    assert stage_names("aa_standard", 3) == ("apgd-ce", "fab-t", "square")
    assert stage_names("aa_short", 2) == ("apgd-ce",)
    with pytest.raises(InputError, match="at least 4 classes"):
        stage_names("apgd-t", 3)


def test_names_need_no_torch() -> None:
    code = "import harness.attacks.registry, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
