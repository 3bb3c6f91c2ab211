"""TRIX, CSR, FAIR-TAT and AT-BSL against formulas in numpy, and what the released code has no answer for."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from methods.base import ADVERSARIAL, CLEAN, EpochEnd, Step, View
from methods.targets import other_class
from tests.methods.test_methods import LABELS, ce, end_of, float64, kl, logits_of, made, step_of, view_of


def test_the_targets_of_an_attack_have_the_distribution_without_the_own_class() -> None:
    scores, draws = torch.tensor([0.3, -1.0, 2.0, 0.0]), 10_000
    uniform = torch.arange(draws) / draws
    for label in range(4):
        targets = other_class(scores, torch.full((draws,), label), uniform)
        wanted = scores.double().exp().index_fill(0, torch.tensor(label), 0.0)
        np.testing.assert_allclose(
            targets.bincount(minlength=4) / draws, wanted / wanted.sum(), rtol=0, atol=1.5 / draws
        )


@pytest.mark.parametrize("scores", [[1000.0, 0.0, 0.0], [-1000.0, 0.0, 1000.0], [0.0, 0.0, 0.0], [5.0, 5.0, 5.0]])
def test_a_target_is_another_class_however_uneven_the_scores(scores: list[float]) -> None:
    for uniform in (0.0, 0.5, 1 - 2**-24):
        targets = other_class(torch.tensor(scores), torch.arange(3), torch.full((3,), uniform))
        assert ((targets >= 0) & (targets < 3) & (targets != torch.arange(3))).all()


def test_a_view_has_one_number_for_each_sample_and_purpose() -> None:
    view = view_of(1)
    first = view.uniform("a")
    assert first.shape == LABELS.shape
    assert torch.equal(first, view.uniform("a"))
    assert ((first >= 0) & (first < 1)).all()


def clean_view(probabilities: list[list[float]], labels: list[int]) -> View:
    logits = float64(*np.ravel(probabilities)).view(len(labels), -1).log()
    return View(torch.tensor(labels), 0, {}, lambda: logits, lambda _: torch.Generator().manual_seed(0))


# class 0 is easier than class 1, which is taken for it; class 2 is in the middle and taken for no other; 3 is absent
EASY = ([[0.8, 0.1, 0.05, 0.05], [0.4, 0.3, 0.1, 0.2], [0.1, 0.1, 0.5, 0.3]], [0, 1, 2])


@pytest.mark.parametrize("statistic", ["batch", "epoch"])
def test_trix_targets_the_easy_classes(statistic: str) -> None:
    """By DAFA's rule, pair by pair; in the form of whole epochs nobody is targeted in the first."""
    method = made({"method": "trix", "statistic": statistic})
    view = clean_view(*EASY)
    similarity = np.array(EASY[0])
    expected, own = np.ones(4), np.array([0.8, 0.3, 0.5])
    for i in range(3):
        for j in range(3):
            expected[i] += similarity[i, j] * own[j] if own[i] < own[j] else 0.0
            expected[i] -= similarity[j, i] * own[i] if own[i] > own[j] else 0.0
    wanted = torch.tensor(expected[:3] < expected[:3].mean())
    assert wanted.tolist() == [True, False, False]
    adversary = method.adversary(view)
    assert adversary is not None
    end_of_first = method.sums["targeted"].mean()
    method.end_epoch(end_of())
    np.testing.assert_allclose(method.state["balance"], expected)
    second = method.targeted(view.student_clean().softmax(1), view.labels)  # type: ignore[attr-defined]
    assert torch.equal(second, wanted)
    assert end_of_first[:3].tolist() == ([1, 0, 0] if statistic == "batch" else [0, 0, 0])
    assert method.class_state()["targeted"].isnan().tolist() == [False, False, False, True]


def test_trix_leads_targeted_images_to_their_target_and_the_others_away_from_the_clean_answer() -> None:
    method = made("trix")
    view = clean_view(*EASY)
    adversary = method.adversary(view)
    assert adversary is not None
    assert adversary.target is not None
    logits = torch.zeros(3, 4, dtype=torch.float64, requires_grad=True)
    adversary.objective(logits, adversary.target()).sum().backward()
    assert logits.grad is not None
    target = method.target_class(view)  # type: ignore[attr-defined]
    assert target[0] != 0
    np.testing.assert_allclose(logits.grad[0], np.eye(4)[target[0]] - 0.25)
    np.testing.assert_allclose(logits.grad[1:], 0.25 - np.array(EASY[0])[1:])


def test_nobody_is_targeted_in_a_batch_of_one_class() -> None:
    method = made("trix")
    method.adversary(clean_view([[0.8, 0.1, 0.05, 0.05]] * 3, [0, 0, 0]))
    assert method.sums["targeted"].total.tolist() == [0, 0, 0, 0]


COUNTS = np.array([[6.0, 3, 1, 0], [1, 1, 2, 0], [0, 30, 10, 0], [0, 0, 0, 0]])  # of unequal classes, the last absent


def learnt(counts: np.ndarray) -> Tensor:
    method = made("csr")
    method.learn_confusion(torch.tensor(counts))
    return method.state["csr_weight"]


def test_csr_weights_are_the_leading_singular_pair_of_the_rates() -> None:
    wrong = (COUNTS / np.array([[10.0], [4], [40], [1]])) * (1 - np.eye(4))
    left, values, right = np.linalg.svd(wrong.T)
    gradient = np.outer(left[:, 0], right[0])
    expected = 0.01 + 2 * (gradient - gradient.min()) / (gradient.max() - gradient.min())
    method = made("csr")
    method.learn_confusion(torch.tensor(COUNTS))
    np.testing.assert_allclose(method.state["csr_weight"], expected)
    np.testing.assert_allclose(method.class_state()["singular_value"], values, atol=1e-12)
    np.testing.assert_allclose(method.class_state()["csr_weight"], expected.mean(0))
    torch.testing.assert_close(learnt(COUNTS * np.array([[5.0], [1], [2], [1]])), learnt(COUNTS))  # rates, not counts


@pytest.mark.parametrize("counts", [np.diag([5.0, 1, 2, 3]), np.ones((4, 4)), np.zeros((4, 4))])
def test_csr_keeps_its_weights_where_there_is_no_leading_pair(counts: np.ndarray) -> None:
    assert (learnt(counts) == 0.01).all()
    method = made("csr")
    for each in (COUNTS, counts):
        method.learn_confusion(torch.tensor(each))
    assert torch.equal(method.state["csr_weight"], learnt(COUNTS))


def test_csr_lowers_the_label_when_it_counts_and_raises_a_negative_one() -> None:
    logits = float64(1.0, 0.95, -1.0, -0.95).view(2, 2)
    labels = torch.tensor([0, 0])
    assert made("csr").taken_for(logits, labels).tolist() == [1, 0]
    assert made({"method": "csr", "gamma": 0.0}).taken_for(logits, labels).tolist() == [0, 1]


@pytest.mark.parametrize("repeated", [True, False])
def test_csr_loss(repeated: bool) -> None:
    method = made({"method": "csr", "beta": 2.0, "csr_weight": 0.4, "repeated_forwards": repeated})
    method.learn_confusion(torch.tensor(COUNTS))
    step = step_of(method)
    assert len(step.student) == (4 if repeated else 2)
    logits = logits_of(step)
    target, again = logits.get("clean_again", logits[CLEAN]), logits.get("adversarial_again", logits[ADVERSARIAL])
    weight = method.state["csr_weight"].numpy()[again.argmax(1), LABELS]
    weighted = weight * ce(again) + weight * np.log(weight)
    expected = 0.6 * ce(logits[CLEAN]) + 2 * kl(target, logits[ADVERSARIAL]) + 0.4 * weighted
    np.testing.assert_allclose(method.loss(step).detach(), expected, rtol=1e-6)


def answers(*classes: int) -> Step:
    return Step(LABELS, 0, {ADVERSARIAL: torch.nn.functional.one_hot(torch.tensor(classes), 4).double()})


@pytest.mark.parametrize(("entry", "expected"), [({}, [0.5, 0, 0, 1.5]), ({"targets": "uniform"}, [0, 0, 0, 0])])
def test_fair_tat_scores_are_twice_the_false_positive_shares(entry: dict[str, str], expected: list[float]) -> None:
    """Labels 0 0 1 1 1 3: four wrong answers, three of them class 3."""
    method = made({"method": "fair_tat", **entry})
    method.observe(answers(0, 3, 3, 3, 0, 3))
    method.end_epoch(end_of())
    assert method.state["target_score"].tolist() == expected
    for sums in method.sums.values():
        sums.reset()
    method.observe(answers(*LABELS.tolist()))  # no wrong answer: the scores stay
    method.end_epoch(EpochEnd(1, 10, 1.0))
    assert method.state["target_score"].tolist() == expected
    targets = method.target_class(view_of())  # type: ignore[attr-defined]
    assert (targets != LABELS).all()


def test_fair_tat_margins_act_from_the_second_epoch() -> None:
    method = made("fair_tat")
    method.margin_policy.observe(answers(0, 3, 3, 3, 0, 3))
    method.margin_policy.end_epoch(EpochEnd(0, 10, 1.0))
    radius, step = method.margin_policy.radius(torch.arange(4), 0.1, 0.02)
    np.testing.assert_allclose(radius, [0.1, 0.05, 0.1, 0.15])  # (0.5 + a_c) eps, absent classes as they were
    assert step == 0.02


@pytest.mark.parametrize("counts", [[50, 20, 0, 1], [7, 7, 7, 7]])
def test_at_bsl_raises_the_logits_by_the_log_of_the_class_counts(counts: list[int]) -> None:
    """A class without images as if it had one; equal classes leave the cross-entropy as it is."""
    method = made("at_bsl")
    method.label_policy.learn_class_counts(torch.tensor(counts))
    step = step_of(method)
    logits = step.student[ADVERSARIAL].detach().numpy() + np.log(np.maximum(counts, 1))
    loss = method.loss(step).detach().numpy()
    np.testing.assert_allclose(loss, ce(logits), rtol=1e-12)
    plain = ce(step.student[ADVERSARIAL].detach().numpy())
    assert np.allclose(loss, plain) == (len(set(counts)) == 1)
    adversary = method.adversary(view_of())
    assert adversary is not None
    assert adversary.start == "normal"
    assert adversary.target is not None
    raised = adversary.objective(step.student[ADVERSARIAL], adversary.target())
    np.testing.assert_allclose(raised.detach().numpy(), plain, rtol=1e-12)
