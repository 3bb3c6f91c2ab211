"""Every registered method and policy: what it computes against formulas in numpy, its state, and which combinations
have a meaning."""

from __future__ import annotations

import itertools
import random as random_state
import re
import runpy
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor

import methods
from harness.spec import TrainingSpec
from harness.training.trainer import Trainer
from methods.base import ADVERSARIAL, CLEAN, CLEAN_AGAIN, Adversary, EpochEnd, HeldOut, Method, Step, View
from methods.policies.dafa import class_weights
from methods.policies.faal import worst_distribution
from methods.policies.frl import limited
from methods.settings import SettingsError
from tests.golden.file import TinyConv
from tests.golden.run import end_epoch, observe
from tests.pages import ROOT, blocks

CLASSES = 4
LABELS = torch.tensor([0, 0, 1, 1, 1, 3])  # class 2 is absent, the others are of unequal size
COUNTS = np.array([2, 3, 0, 1])
ALL = sorted(methods.METHODS)

# Methods as cells of the matrix, and cells that no paper has.
CELLS: list[dict[str, Any]] = [
    {"method": "rslad"},
    {"method": "absld"},
    {"method": "rslad", "weights": "kappa"},
    {"method": "ard", "weights": "kappa"},
    {"method": "at", "margins": "ccm"},
    *({"method": "absld", "weights": weights} for weights in ("kappa", "frl", "wat", "dafa", "faal", "ccr")),
    *({"method": "absld", "margins": margins} for margins in ("ccm", "dafa", "frl", "bat_stop")),
    {"method": "absld", "weights": "kappa", "margins": "ccm"},
    {"method": "absld", "weights": "frl", "margins": "ccm"},
    {"method": "absld", "weights": "dafa", "margins": "dafa"},
    {"method": "trix", "weights": "kappa", "margins": "ccm"},
    {"method": "csr", "margins": "dafa"},
    {"method": "csr", "margins": "bat_stop"},
    {"method": "fair_tat", "weights": "faal", "margins": "none"},
    {"method": "fair_tat", "labels": "teacher", "weights": "kappa"},
]


def random(seed: int, *shape: int) -> Tensor:
    return 3 * torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def made(entry: Any, epochs: int = 10) -> Method:
    return methods.build(methods.resolve(entry, epochs), CLASSES)


def step_of(method: Method, epoch: int = 0, seed: int = 0) -> Step:
    """A batch with random logits for everything the method asks for."""
    student = {name: random(seed + k, len(LABELS), CLASSES).requires_grad_() for k, name in enumerate(method.forwards)}
    teacher = {
        (name, point): random(seed + 10 + k, len(LABELS), CLASSES)
        for k, (name, point) in enumerate(method.teacher_forwards)
    }
    return Step(LABELS, epoch, student, teacher, torch.tensor([10, 4, 0, 7, 3, 9]))


def begin_epoch(method: Method) -> None:
    for part in method.parts:
        part.begin_epoch(torch.device("cpu"))


def view_of(epoch: int = 0) -> View:
    """A batch before the attack."""
    clean = random(3, len(LABELS), CLASSES)
    teacher = {"teacher": random(4, len(LABELS), CLASSES)}
    return View(LABELS, epoch, teacher, lambda: clean, lambda _: torch.Generator().manual_seed(epoch))


def learn_first(method: Method, end: EpochEnd) -> None:
    for part in method.parts:
        if part.held_out_first:
            part.end_epoch(end)


def end_of(epoch: int = 0, lr_factor: float = 1.0) -> EpochEnd:
    return EpochEnd(epoch, 10, lr_factor, HELD_OUT)


def float64(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


CONFUSION = [
    float64(*counts, *[0] * 4, *[0] * 4).view(CLASSES, CLASSES) for counts in ([3, 1, 0, 2] * 2, [9, 0, 0, 0] * 2)
]
HELD_OUT = HeldOut(
    clean_error=float64(0.1, 0.4, torch.nan, 0.2),
    robust_error=float64(0.3, 0.9, torch.nan, 0.3),
    clean_loss=float64(0.5, 1.5, torch.nan, 0.7),
    boundary_loss=float64(0.1, 0.4, torch.nan, 0.2),
    count=float64(30, 10, 0, 20),
)


def softmax(logits: Any) -> np.ndarray:
    exponent = np.exp(np.asarray(logits, dtype=float) - np.max(np.asarray(logits, dtype=float), 1, keepdims=True))
    return exponent / exponent.sum(1, keepdims=True)


def kl(target: Any, logits: Any) -> np.ndarray:
    p, q = softmax(target), softmax(logits)
    return (p * (np.log(p) - np.log(q))).sum(1)


def ce(logits: Any) -> np.ndarray:
    return -np.log(softmax(logits)[np.arange(len(LABELS)), LABELS])


def logits_of(step: Step) -> dict[Any, np.ndarray]:
    found: dict[Any, Tensor] = {**step.student, **step.teacher}
    return {key: value.detach().double().numpy() for key, value in found.items()}


# Every registered method


@pytest.mark.parametrize("name", ALL)
def test_answers_the_four_questions(name: str) -> None:
    method = made(name)
    assert type(method.settings) is method.Settings
    step = step_of(method)
    view = view_of()
    adversary = method.adversary(view)
    if method.attacks:
        assert adversary is not None
        assert adversary.start in ("normal", "uniform")
        target = view.student_clean() if adversary.teacher else adversary.target() if adversary.target else None
        objective = adversary.objective(random(5, len(LABELS), CLASSES).requires_grad_(), target)
        assert objective.shape == LABELS.shape
        assert objective.requires_grad
    begin_epoch(method)
    observe(method, step)
    loss = method.loss(step)
    assert loss.shape == LABELS.shape
    assert loss.isfinite().all()
    loss.mean().backward()
    gradients = {name: logits.grad for name, logits in step.student.items()}
    assert any(gradient is not None and gradient.abs().sum() > 0 for gradient in gradients.values())
    assert not any(logits.requires_grad for logits in step.teacher.values())


@pytest.mark.parametrize("name", ALL)
def test_learns_saves_and_restores_its_class_state(name: str) -> None:
    """Three epochs, with a class that never comes: everything stays finite, and a restored copy goes on bit for bit."""
    method, copy = made(name), made(name)
    learn_first(method, end_of(-1))
    for epoch in range(3):
        _epoch(method, epoch)
    begin_epoch(method)
    observe(method, step_of(method, 3, seed=50))  # in the middle of an epoch
    copy.restore(method.save())
    for one in (method, copy):
        observe(one, step_of(one, 3, seed=60))
        end_epoch(one, end_of(3))
    last = step_of(method, 4, seed=70)
    assert torch.equal(method.loss(last), copy.loss(last))
    assert method.loss(last).isfinite().all()
    for key, value in method.class_state().items():
        assert value.shape == (CLASSES,), key
        assert torch.equal(value.nan_to_num(-1), copy.class_state()[key].nan_to_num(-1)), key


def _epoch(method: Method, epoch: int) -> None:
    for part in method.parts:
        if part.confusion:
            part.learn_confusion(CONFUSION[epoch % 2])
    begin_epoch(method)
    for seed in (20, 30):
        method.adversary(view_of(epoch))
        step = step_of(method, epoch, seed)
        observe(method, step)
        method.loss(step)
    end_epoch(method, end_of(epoch))


@pytest.mark.parametrize("entry", [*ALL, *CELLS], ids=str)
def test_draws_from_no_generator_of_the_process(entry: Any) -> None:
    torch.manual_seed(5)
    random_state.seed(5)
    np.random.seed(5)
    before = torch.get_rng_state(), random_state.getstate(), str(np.random.get_state())
    method = made(entry)
    learn_first(method, end_of(-1))
    for epoch in range(2):
        method.adversary(view_of(epoch))
        method.margin_policy.radius(LABELS, 0.1, 0.02)
        _epoch(method, epoch)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (random_state.getstate(), str(np.random.get_state())) == before[1:]


@pytest.mark.parametrize("entry", CELLS, ids=str)
def test_cells_of_the_matrix_run(entry: dict[str, Any]) -> None:
    method = made(entry)
    for epoch in range(2):
        _epoch(method, epoch)
    assert method.loss(step_of(method, 2)).isfinite().all()
    assert method.class_state() or entry == {"method": "rslad"}


@pytest.mark.parametrize("labels", sorted(methods.POLICIES["labels"]))
@pytest.mark.parametrize("weights", sorted(methods.POLICIES["weights"]))
@pytest.mark.parametrize("margins", sorted(methods.POLICIES["margins"]))
def test_any_label_policy_with_any_weight_and_margin_policy(labels: str, weights: str, margins: str) -> None:
    method = made({"method": "rslad", "labels": labels, "weights": weights, "margins": margins})
    _epoch(method, 0)
    assert method.loss(step_of(method, 1)).isfinite().all()


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ({"method": "absd"}, "did you mean absld"),
        ({"method": "absld", "labels": "soft"}, "unknown labels policy"),
        ({"method": "absld", "weights": "kapa"}, "did you mean kappa"),
        ({"method": "absld", "temperatur_rate": 0.1}, "did you mean temperature_rate"),
        ({"method": "absld", "temperature_range": [5, 0.5]}, "rising"),
        ({"method": "absld", "temperature_rate": -1}, "at least 0"),
        ({"method": "absld", "temperature_rate": "fast"}, "must be a float"),
        ({"method": "ard", "alpha": 1.5}, "between 0"),
        ({"method": "trades", "labels": "teacher"}, "labels of its own"),
        ({"method": "adaad", "labels": "hard"}, "learns from a teacher"),
        ({"method": "mtard", "labels": "hard"}, "learns from a teacher"),
        ({"method": "at", "weights": "ccr"}, "no clean one"),
        ({"method": "ard", "weights": "ccr"}, "no clean one"),
        ({"method": "rslad", "coef_adv": 0.0, "weights": "ccr"}, "no adversarial one"),
        ({"method": "ard", "weights": "dafa"}, "has neither"),
        ({"method": "at", "margins": "bat_stop"}, "two points"),
        ({"method": "natural", "weights": "kappa"}, "without an attack"),
        ({"method": "natural", "margins": "ccm"}, "without an attack"),
        ({"method": "dafa", "similarity_strength": 1.5}, "belongs to weights and margins"),
        ({"method": "trix", "labels": "teacher"}, "labels of its own"),
        ({"method": "trix", "statistic": "epochs"}, "did you mean epoch"),
        ({"method": "csr", "weights": "kappa"}, "weights of its own"),
        ({"method": "csr", "csr_weight": 1.5}, "between 0 and 1"),
        ({"method": "csr", "gamma": -0.1}, "at least 0"),
        ({"method": "fair_tat", "targets": "cfp"}, "did you mean cfps"),
        ({"method": "fair_tat", "target_scale": -1}, "at least 0"),
        ({"method": "fair_tat", "weights": "ccr"}, "no clean one"),
    ],
)
def test_nonsense_is_refused_with_the_reason(entry: dict[str, Any], reason: str) -> None:
    with pytest.raises(SettingsError, match=reason) as caught:
        methods.resolve(entry, 10)
    assert "\n" not in str(caught.value)


def test_a_name_can_be_taken_once() -> None:
    with pytest.raises(SettingsError, match="registered already"):
        methods.registry.register("at")(type("Another", (Method,), {}))


def test_teachers_and_starts_that_a_method_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    needed = {name: methods.teachers_of(methods.resolve(name, 10)) for name in ALL}
    assert needed["mtard"] == needed["iad_ii"] == ("teacher", "natural_teacher")
    assert needed["absld"] == needed["adaad"] == needed["fair_iad"] == ("teacher",)
    assert needed["trades"] == needed["natural"] == needed["cfa_at"] == ()
    assert all(methods.METHODS[name].needs_init for name in ("frl_reweight", "frl_remargin", "faal", "csr"))
    assert not any(methods.METHODS[name].needs_init for name in ("at", "trades", "ard", "absld", "cfa_at", "wat"))
    monkeypatch.setattr(methods.METHODS["at"], "asks", {"another": ("natural_teacher", "adversarial")})
    assert methods.teachers_of(methods.resolve("at", 10)) == ("natural_teacher",)  # with labels that need none
    assert made("at").teacher_forwards == (("natural_teacher", "adversarial"),)
    learnt = {name: methods.held_out_of(methods.resolve(name, 10)) for name in ALL}
    assert learnt["frl_remargin"] == {"pgd"}
    assert learnt["wat"] == {"trades"}
    assert not learnt["absld"]


def test_naming_methods_does_not_import_torch() -> None:
    code = "import sys, methods; [methods.resolve(name, 10) for name in methods.METHODS]; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=ROOT)
    assert done.stdout == "False\n"


def test_a_file_in_the_folder_is_a_method_or_policy(tmp_path: Path) -> None:
    """No list anywhere names what is there."""
    shutil.copytree(ROOT / "methods", tmp_path / "methods", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "methods" / "another.py").write_text(
        "from methods.registry import register\nfrom methods.trades import TRADES\n\n@register('another')\n"
        "class Another(TRADES):\n    weights = 'twice'\n"
    )
    (tmp_path / "methods" / "policies" / "twice.py").write_text(
        "from methods.base import WeightPolicy\nfrom methods.registry import register\n\n@register('twice')\n"
        "class Twice(WeightPolicy):\n    pass\n"
    )
    code = "import methods; print(methods.resolve('another', 10)['weights']['name'], len(methods.METHODS))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout == f"twice {len(ALL) + 1}\n"


@pytest.mark.slow
def test_a_typo_in_the_name_of_a_setting_is_found_by_the_type_checker(tmp_path: Path) -> None:
    mine = tmp_path / "mine.py"
    mine.write_text(
        "from methods.policies.labels import Tempered\nfrom methods.trades import TRADES\n\n"
        "class Mine(TRADES):\n    def right(self) -> float:\n        return 2 * self.settings.beta\n\n"
        "    def typo(self) -> float:\n        return self.settings.betta\n\n"
        "class Warm(Tempered):\n    def typo(self) -> float:\n        return self.settings.distil_temperature\n"
    )
    command = [sys.executable, "-m", "mypy", "--follow-imports=silent", str(mine)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=ROOT)
    assert re.findall(r'mine.py:(\d+): error: "(\w+)" has no attribute "(\w+)"', done.stdout) == [
        ("9", "TradesSettings", "betta"),
        ("13", "TemperedSettings", "distil_temperature"),
    ]


DOCUMENT = ROOT / "docs" / "methods.md"


def test_document_has_what_the_methods_say_of_themselves() -> None:
    written = runpy.run_path(str(DOCUMENT.with_name("write_methods.py")))["written"]
    page = DOCUMENT.read_text()
    assert page == written(page), "docs/methods.md is behind the docstrings: run python docs/write_methods.py"


@pytest.mark.parametrize("name", ALL)
def test_a_method_says_its_equation(name: str) -> None:
    module = methods.METHODS[name].__module__
    assert re.search(r"^    \S", sys.modules[module].__doc__ or "", re.M), (
        f"add it to the docstring of {module}, indented"
    )


def test_readers_meet_no_numbers_of_internal_notes() -> None:
    files = [path for folder in ("methods", "harness", "docs") for path in (ROOT / folder).rglob("*")]
    texts = {path: path.read_text() for path in files if path.suffix in (".py", ".md", ".yaml", ".html")}
    assert not [str(path) for path, text in texts.items() if re.search(r"\bsheets?\s+\d|\bquirks? \d", text)]


def test_every_example_of_the_document_resolves() -> None:
    examples = blocks("docs/methods.md", "yaml")
    assert len(examples) > 10
    for block in examples:
        content = yaml.safe_load(block)
        for entry in content.get("methods", [content]):
            methods.build(methods.resolve(entry, 100), 10)


# Losses without a golden entry


def test_mart_loss() -> None:
    method = made("mart")
    step = step_of(method)
    logits = logits_of(step)
    adv, rows = softmax(logits[ADVERSARIAL]), np.arange(len(LABELS))
    others = adv.copy()
    others[rows, LABELS] = 0
    boosted = ce(logits[ADVERSARIAL]) - np.log(1.0001 - others.max(1) + 1e-12)
    doubt = 1.0000001 - softmax(logits[CLEAN])[rows, LABELS]
    expected = boosted + 6 * doubt * kl(logits[CLEAN], logits[ADVERSARIAL])
    np.testing.assert_allclose(method.loss(step).detach(), expected)


@pytest.mark.parametrize("epoch", [0, 9])
def test_adaiad_loss(epoch: int) -> None:
    method = made("adaiad")
    step = step_of(method, epoch)
    logits = logits_of(step)
    teacher = logits["teacher", "adversarial"]
    trust = softmax(teacher)[np.arange(len(LABELS)), LABELS] ** 0.1 if epoch >= 3 else 1.0  # 0.3 of 10 epochs
    taught = 900 * kl(teacher / 30, logits[ADVERSARIAL] / 30)
    expected = 0.1 * (taught + (1 - trust) * kl(logits[CLEAN], logits[ADVERSARIAL]))
    np.testing.assert_allclose(method.loss(step).detach(), expected)


def test_released_fair_mtard_teaches_the_clean_term_with_the_robust_teacher() -> None:
    method = made({"method": "mtard", "crossed_teacher": True})
    step = step_of(method)
    logits = logits_of(step)
    _, clean = method.divergences(step)  # type: ignore[attr-defined]
    np.testing.assert_allclose(clean.detach(), 0.1 * kl(logits["teacher", "adversarial"], logits[CLEAN]))


def test_cfa_trades_without_ccr_is_trades_over_one_plus_beta() -> None:
    cfa, trades = made({"method": "cfa_trades", "weights": "none"}), made("trades")
    step = step_of(trades)
    torch.testing.assert_close(7 * cfa.loss(step), trades.loss(step))


# Policies


def test_kappa_weights() -> None:
    policy = made("fair_rslad").weight_policy
    policy.sums["kappa"].add(torch.tensor([10, 4, 0, 7, 3, 9]), LABELS)
    policy.end_epoch(end_of())
    kappa = np.array([7.0, 10 / 3, 9.0])
    inverse = (1 / (kappa + 1e-5)) ** 2
    expected = np.clip(inverse * 3 / inverse.sum(), 5 / 6, 5 / 2)
    np.testing.assert_allclose(policy.state["weight"], [expected[0], expected[1], 1.0, expected[2]])


def test_absld_temperatures() -> None:
    method = made({"method": "absld", "temperature_rate": 0.2})
    step = step_of(method)
    observe(method, step)
    end_epoch(method, end_of(lr_factor=0.5))
    for term in (ADVERSARIAL, CLEAN):
        losses = ce(logits_of(step)[term])
        means = np.array([losses[c == LABELS].mean() for c in (0, 1, 3)])
        gap = means - means.mean()
        expected = np.insert(1 - 0.2 * 0.5 * gap / abs(gap).max(), 2, 1.0)  # the absent class keeps its temperature
        np.testing.assert_allclose(method.label_policy.state[f"temperature_{term}"], expected)


def test_absld_statistic_is_that_of_the_unweighted_losses() -> None:
    plain, weighted = made("absld"), made("absld_reweight")
    weighted.weight_policy.state["weight"] = torch.tensor([2.5, 0.9, 1.0, 0.9])
    for method in (plain, weighted):
        step = step_of(plain)
        observe(method, step)
        method.loss(step)
        end_epoch(method, end_of())
    assert torch.equal(
        plain.label_policy.state["temperature_adversarial"], weighted.label_policy.state["temperature_adversarial"]
    )


def test_kappa_multiplies_both_terms() -> None:
    plain, weighted = made("absld"), made("absld_reweight")
    weight = torch.tensor([2.5, 0.9, 1.0, 0.8])
    weighted.weight_policy.state["weight"] = weight
    step = step_of(plain)
    torch.testing.assert_close(weighted.loss(step), weight[LABELS] * plain.loss(step))


def test_frl_multipliers_weights_and_margins() -> None:
    method = made("frl_remargin")
    end_epoch(method, end_of(-1))
    clean, robust = np.array([0.1, 0.4, 0.2]), np.array([0.3, 0.9, 0.3])
    count, boundary = np.array([30, 10, 20]), robust - clean
    gap_clean = np.insert(clean - clean @ count / 60, 2, 0) - 0.07
    gap_boundary = np.insert(boundary - boundary @ count / 60, 2, 0) - 0.07
    multipliers = [np.clip(0.05 * gap_clean, 0, None), np.clip(0.1 * gap_boundary, 0, None)]
    costs = [0.25 + multiplier - multiplier.mean() for multiplier in multipliers]
    adversarial, natural = method.weight_policy.weights(step_of(method), 1.5, 1.0)
    for found, cost in ((natural, costs[0][LABELS]), (adversarial, costs[1][LABELS])):
        np.testing.assert_allclose(found, cost * len(cost) / cost.sum())
    radius, step = method.margin_policy.radius(LABELS, 0.1, 0.02)
    factor = np.clip(np.exp(2 * 0.2 * gap_boundary), 0.98, 3)[LABELS]
    np.testing.assert_allclose(radius, 0.1 * factor)
    np.testing.assert_allclose(step, 0.02 * factor)


def test_frl_multipliers_are_limited_to_a_sum() -> None:
    np.testing.assert_allclose(limited(float64(-1, 0.6, 0.9), 0.5), [0, 0.2, 0.3])
    np.testing.assert_allclose(limited(float64(-1, 0.1, 0.2), 0.5), [0, 0.1, 0.2])


@pytest.mark.parametrize("average_expert", [True, False])
def test_wat_weights(average_expert: bool) -> None:
    method = made({"method": "wat", "average_expert": average_expert, "eta": 0.3})
    first, _ = method.weight_policy.weights(step_of(method), 6.0, 1.0)
    np.testing.assert_allclose(first, 2 * 4 / 5 if average_expert else 1.0)
    for epoch in range(2):
        end_epoch(method, end_of(epoch))
    cost = np.array([0.5 + 0.6, 1.5 + 2.4, 0.0, 0.7 + 1.2])
    average = cost @ [30, 10, 0, 20] / 60
    cost[2] = average
    experts = np.exp(0.3 * 2 * np.append(cost, average)[: 5 if average_expert else 4])
    weight = 4 * experts / experts.sum()
    expected = (weight[:4] + (weight[4] if average_expert else 0.0))[LABELS]
    for found in method.weight_policy.weights(step_of(method), 6.0, 1.0):
        np.testing.assert_allclose(found, expected)


def test_wat_does_not_overflow() -> None:
    method = made({"method": "wat", "eta": 1e4})
    end_epoch(method, end_of())
    assert method.loss(step_of(method)).isfinite().all()


@pytest.mark.parametrize("per_class", [True, False])
def test_faal_distribution_is_the_worst_within_the_ball(per_class: bool) -> None:
    method = made({"method": "faal", "per_class": per_class})
    step = step_of(method)
    probability = softmax(logits_of(step)[ADVERSARIAL])
    margin = np.empty(len(LABELS))
    for row, label in enumerate(LABELS):
        margin[row] = np.delete(probability[row], label).max() - probability[row, label]
    means = np.array([margin[c == LABELS].mean() if COUNTS[c] else -1.0 for c in range(CLASSES)])
    gain = means * (1 if per_class else COUNTS)
    weight, same = method.weight_policy.weights(step, 1.0, 0.0)
    assert torch.equal(weight, same)
    p = worst_distribution(torch.from_numpy(gain), 0.5).numpy()
    np.testing.assert_allclose(weight, 4 * p[LABELS])
    assert p.sum() == pytest.approx(1)
    assert -np.log(p * CLASSES).mean() == pytest.approx(0.5, abs=1e-9)
    candidates = np.random.default_rng(0).dirichlet(np.ones(CLASSES), 20000)
    feasible = candidates[-np.log(candidates * CLASSES).mean(1) <= 0.5]
    assert (feasible @ gain).max() <= p @ gain


@pytest.mark.parametrize("gain", [[0.3, 0.3, 0.3], [0.0, 0.0], [1e-9, 0, 0, 0], [5, 5, -1], [40.0] + [-3.0] * 99])
def test_faal_distribution_in_hard_cases(gain: list[float]) -> None:
    p = worst_distribution(float64(*gain), 0.5)
    assert p.isfinite().all()
    assert float(p.sum()) == pytest.approx(1)
    kl_from_uniform = float(-(p * len(p)).log().mean())
    assert kl_from_uniform == pytest.approx(0.5, abs=1e-9) or (
        max(gain) == min(gain) and kl_from_uniform == pytest.approx(0)
    )


def test_ccm_and_ccr_follow_the_robust_accuracy_of_the_last_epoch() -> None:
    method = made({"method": "cfa_trades", "margins": {"start_epoch": 0}, "weights": {"start_epoch": 0}})
    observe(method, step_of(method))
    right = logits_of(step_of(method))[ADVERSARIAL].argmax(1) == LABELS.numpy()
    end_epoch(method, end_of())
    accuracy = np.array([right[c == LABELS].mean() if COUNTS[c] else np.nan for c in range(CLASSES)])
    factor = np.where(np.isnan(accuracy), 1.0, 0.3 + accuracy)
    radius, step = method.margin_policy.radius(LABELS, 0.1, 0.02)
    np.testing.assert_allclose(radius, 0.1 * factor[LABELS])
    assert step == 0.02
    beta = 6 * np.where(np.isnan(accuracy), 1.0, 0.5 + accuracy)[LABELS]
    coefficients = method.coefficients(method.settings)
    adversarial, clean = method.weight_policy.weights(step_of(method), *coefficients)
    np.testing.assert_allclose(coefficients[0] * adversarial, beta / (1 + beta))
    np.testing.assert_allclose(coefficients[1] * clean, 1 / (1 + beta))


def test_policies_wait_for_their_start_epoch() -> None:
    method = made({"method": "cfa_at", "start_epoch": 3})
    for epoch in range(3):
        observe(method, step_of(method, epoch))
        before = method.margin_policy.state["eps_factor"]
        assert torch.equal(before, torch.ones(CLASSES))
        end_epoch(method, end_of(epoch))
    assert not torch.equal(method.margin_policy.state["eps_factor"], torch.ones(CLASSES))


def test_no_two_parts_log_one_name_for_different_numbers() -> None:
    """A logged quantity is drawn by its name; of a pair of policies neither may hide the other's."""
    names = {
        kind: {name: set(policy({}, CLASSES).quantities()) for name, policy in table.items()}
        for kind, table in methods.POLICIES.items()
    }
    same = {"train_robust_accuracy"}  # which the weights and the margins of CFA measure alike
    for (first, one), (second, other) in itertools.combinations(names.items(), 2):
        for pair in itertools.product(one, other):
            assert one[pair[0]] & other[pair[1]] <= same, (first, second, pair)


def test_dafa_weights() -> None:
    similarity = np.array([[0.5, 0.3, 0.1, 0.1], [0.1, 0.7, 0.1, 0.1], [np.nan] * 4, [0.2, 0.2, 0.1, 0.5]])
    expected = np.ones(4)
    for i in (0, 1, 3):
        for j in (0, 1, 3):
            if similarity[i, i] < similarity[j, j]:
                expected[i] += 1.5 * similarity[i, j] * similarity[j, j]
            elif similarity[i, i] > similarity[j, j]:  # 0 and 3 tie: nothing
                expected[i] -= 1.5 * similarity[j, i] * similarity[i, i]
    np.testing.assert_allclose(class_weights(torch.from_numpy(similarity), 1.5), expected)
    assert expected[2] == 1


def test_dafa_weighs_the_clean_term_only_and_at_its_cross_entropy() -> None:
    method = made("dafa")
    assert method.weight_policy.settings.start_epoch == 6  # 70 / 110 of 10
    for epoch in range(8):
        _epoch(method, epoch)
        assert torch.equal(method.weight_policy.state["dafa_weight"], method.margin_policy.state["dafa_weight"])
        assert (epoch < 5) == torch.equal(
            method.weight_policy.state["dafa_weight"], torch.ones(CLASSES, dtype=torch.float64)
        )
    weight = method.weight_policy.state["dafa_weight"].float()[LABELS]
    adversarial, clean = method.weight_policy.weights(step_of(method), 6.0, 1.0)
    assert torch.equal(adversarial, torch.ones(len(LABELS)))
    assert torch.equal(clean, weight)
    assert torch.equal(method.weight_policy.weights(step_of(method), 1.0, 0.0)[0], weight)


def test_fixed_class_temperatures() -> None:
    given = {"temperature": 2.0, "hard_temperature": 0.5, "hard_classes": "1, 3"}
    policy = made({"method": "rslad", "labels": {"name": "fixed_class_temperature", **given}}).label_policy
    logits = random(1, len(LABELS), CLASSES)
    expected = logits / torch.tensor([2.0, 0.5, 2.0, 0.5])[LABELS, None]
    for term in (ADVERSARIAL, CLEAN):
        assert torch.equal(policy.target(term, logits, LABELS), expected)


@pytest.mark.parametrize("named", ["4", "-1", "cat", "1,,x"])
def test_fixed_class_temperature_refuses_a_class_that_is_not_there(named: str) -> None:
    with pytest.raises(SettingsError, match="is not a class index"):
        made({"method": "rslad", "labels": {"name": "fixed_class_temperature", "hard_classes": named}})


def test_bat_stop_penalty() -> None:
    method = made("bat")
    step = step_of(method)
    expected = sum(
        (p * np.log(p)).sum(1) + np.log(CLASSES)
        for p in (softmax(logits_of(step)[name]) for name in (CLEAN, ADVERSARIAL))
    )
    np.testing.assert_allclose(method.margin_policy.penalty(step).detach(), expected)  # type: ignore[union-attr]


# In the training loop


def trained_once(entry: Any) -> TinyConv:
    """A tiny network after one step on hard-wired data; its log has every forward."""
    shapes = {"conv.weight": (4, 1, 3, 3), "conv.bias": (4,), "fc.weight": (CLASSES, 64), "fc.bias": (CLASSES,)}
    state = {name: random(90 + k, *shape).float() / 10 for k, (name, shape) in enumerate(shapes.items())}
    norm = {
        "weight": torch.ones(4),
        "bias": torch.zeros(4),
        "running_mean": torch.zeros(4),
        "running_var": torch.ones(4),
    }
    network = TinyConv(state | {f"bn.{name}": value for name, value in norm.items()})
    method = entry if isinstance(entry, Method) else made(entry)
    trainer = Trainer(network, method, {}, TrainingSpec(epochs=10, lr=1e-3), eps=0.3, engine="plain")
    trainer.begin_epoch()
    images = torch.rand(len(LABELS), 1, 4, 4, generator=torch.Generator().manual_seed(1))
    list(trainer.train_steps([(images, LABELS)], lambda start, x: random(7, *x.shape).float()))
    network.log.append({"images": images})
    return network


def test_bat_trains_on_the_points_on_either_side_of_the_boundary() -> None:
    """The update reads last clean, first adversarial, clean, in this order; the points follow from the attack's own
    log."""
    *log, tail = trained_once("bat").log
    update = [record for record in log if record["mode"] == "train"]
    iterates = [record for record in log if record["mode"] == "eval"][::2]  # the target is computed anew after each
    xs, right = [record["x"] for record in iterates], [record["logits"].argmax(1) == LABELS for record in iterates]
    assert len(xs) == 10
    assert torch.equal(update[2]["x"], tail["images"])
    for row in range(len(LABELS)):
        wrong = [k for k in range(10) if not right[k][row]]
        first = wrong[0] if wrong else 10
        if first < 9:
            assert torch.equal(update[0]["x"][row], xs[max(first - 1, 0)][row])
            assert torch.equal(update[1]["x"][row], xs[first + 1][row])
    assert any(not row.all() for row in right)


def test_released_dafa_step_doubles_the_move() -> None:
    once, twice = (
        trained_once({"method": "at", "margins": {"name": "dafa", "double_step": double}}).log
        for double in (False, True)
    )
    start, single, double = once[0]["x"], once[1]["x"], twice[1]["x"]
    inside = (single > 0.01) & (single < 0.99) & (double > 0.01) & (double < 0.99)
    inside &= (single - once[-1]["images"]).abs().lt(0.29) & (double - once[-1]["images"]).abs().lt(0.29)
    assert inside.sum() > 5
    torch.testing.assert_close((double - start)[inside], 2 * (single - start)[inside])


def test_an_attack_may_remember_its_earlier_steps() -> None:
    """Kappa counts the iterates of an attack that steps along the sum of all gradients so far."""
    seen: list[Tensor] = []

    class Momentum(methods.METHODS["at"]):  # type: ignore[misc, name-defined]
        def adversary(self, view: View) -> Adversary | None:
            def direction(gradient: Tensor, memory: Tensor | None) -> tuple[Tensor, Tensor]:
                seen.append(gradient.clone())
                memory = gradient if memory is None else memory + gradient
                return memory.sign(), memory

            return replace(super().adversary(view), direction=direction)

    plain = made({"method": "at", "weights": "kappa"})
    *log, tail = trained_once(Momentum(vars(plain.settings), *plain.parts[1:], CLASSES)).log
    points = [record["x"] for record in log if record["mode"] == "eval"]
    clean = tail["images"]
    low, high = (clean - 0.3).clamp(0, 1), (clean + 0.3).clamp(0, 1)
    for k, (before, after) in enumerate(itertools.pairwise(points)):
        expected = (before + 0.3 / 4 * sum(seen[: k + 1]).sign()).clamp(low, high)  # type: ignore[union-attr]
        torch.testing.assert_close(after, expected)
    right = sum((record["logits"].argmax(1) == LABELS).long() for record in log if record["mode"] == "eval")
    counted = plain.weight_policy.sums["kappa"]
    assert counted.total.tolist() == [int(right[c == LABELS].sum()) for c in range(CLASSES)]  # type: ignore[index]


def test_third_forward_of_trades_reads_the_clean_images() -> None:
    *log, tail = trained_once("trades").log
    clean, adversarial, again = (record["x"] for record in log if record["mode"] == "train")
    assert torch.equal(clean, tail["images"])
    assert torch.equal(again, tail["images"])
    assert not torch.equal(adversarial, tail["images"])
    assert made("trades").forwards == (CLEAN, ADVERSARIAL, CLEAN_AGAIN)
