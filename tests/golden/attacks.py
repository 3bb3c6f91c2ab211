"""Golden checks of attacks: the training loop's, the evaluation's, and attack and loss in one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from harness.attacks.pgd import attack_from, start_point
from harness.attacks.registry import ascent_settings
from methods.at import AT
from methods.base import (
    Adversary,
    Method,
    View,
    cross_entropy_adversary,
)
from tests.golden.file import Constant, Entry, check, tiny_network
from tests.golden.run import EPS, Run, cfa_method, method_of, one_step, start_noise


@check("trades_full_step_tinyconv")
def trades_full_step(entry: Entry) -> None:
    method = method_of(entry, "trades", len(entry.inputs["model"]["fc.bias"]), beta=entry.inputs["beta"])
    run = one_step(entry, method)
    entry.close("x_adv", run.attacked["x"])
    entry.close("loss", run.trainer.losses[0])
    entry.close("state_after", run.student.state_dict())
    entry.close("grad_fc_weight", run.student.fc.weight.grad)
    entry.close("grad_conv_weight", run.student.conv.weight.grad)
    entry.close("forward_modes", run.student.modes)


@check("ard_attack_train_mode_(tinyconv|tinylinear)")
def ard_attack(entry: Entry) -> None:
    run = one_step(
        entry, method_of(entry, "at", len(entry.inputs["model"]["fc.bias"]), attack_mode="train", clamp_start=False)
    )
    entry.close("x_adv", run.attacked["x"])
    entry.close("adv_logits", run.attacked["logits"])
    entry.close("state_after", run.attacked["state"])
    entry.close("forward_modes", run.student.modes)


@check("rslad_inner_kl_attack_(tinyconv|tinylinear)")
def rslad_attack(entry: Entry) -> None:
    teacher = entry.inputs["teacher_clean_logits"]
    run = one_step(entry, method_of(entry, "rslad", teacher.shape[1]), {"teacher": Constant(teacher)})
    entry.close("x_adv", run.attacked["x"])
    entry.close("adv_logits_train_mode", run.attacked["logits"])
    entry.close("state_after", run.attacked["state"])
    assert run.student.modes[-1] == "train"  # the clean forward of the loss, which is not part of the entry
    entry.close("forward_modes", run.student.modes[:-1])


@check("adaad_inner_attack_(tinyconv|tinylinear)")
def adaad_attack(entry: Entry) -> None:
    teacher = tiny_network(entry.inputs["arch"], entry.inputs["teacher"])
    run = one_step(entry, method_of(entry, "adaad", len(entry.inputs["model"]["fc.bias"])), {"teacher": teacher})
    entry.close("x_adv", run.attacked["x"])
    entry.close("forward_modes", run.student.modes[: entry.inputs["steps"]])
    assert run.student.modes[entry.inputs["steps"] :] == ["train", "train"]


@check("fair_(ard|rslad)_kappa_count_(tinyconv|tinylinear)")
def kappa_count(entry: Entry) -> None:
    num_classes = len(entry.inputs["model"]["fc.bias"])
    zeros = torch.zeros(len(entry.inputs["x"]), num_classes, device=entry.device)
    teacher = Constant(entry.inputs.get("teacher_clean_logits", zeros))
    if entry.check.startswith("fair_ard"):
        method = method_of(entry, "fair_ard", num_classes, attack_mode="train", clamp_start=False)
    else:
        method = method_of(entry, "fair_rslad", num_classes)
    run = one_step(entry, method, {"teacher": teacher})
    entry.close("x_adv", run.attacked["x"])
    entry.close("kappa", run.steps[0].correct_iterates)
    if "adv_logits" in entry.outputs:
        entry.close("adv_logits", run.attacked["logits"])


def evaluated(entry: Entry, request: dict[str, Any], eps: float) -> tuple[Any, Tensor]:
    """The evaluation's own attack on an entry, judged on its last iterate: the network with its log, and the
    predictions."""
    given = entry.inputs
    settings = replace(ascent_settings(request), every_iterate=False)
    student = tiny_network(given["arch"], given["model"]).eval()
    start = start_point(given["x"], start_noise(given, eps), settings, eps)
    return student, attack_from(student, given["x"], given["labels"], start, settings, eps)


@check("pgd[0-9]+_(ce|eval)_attack_(tinyconv|tinylinear)")
def pgd_attack(entry: Entry) -> None:
    given = entry.inputs
    request = {"name": "pgd20_last", "steps": given["steps"], "step_size": given["step_size"]}
    student, predictions = evaluated(entry, request, given["epsilon"])
    entry.close("x_adv", student.log[-1]["x"])
    entry.close("adv_logits", student.log[-1]["logits"])
    if "predictions" in entry.outputs:
        entry.close("predictions", predictions)


@check("fair_eval_attack_(fgsm|pgd|cw)_(tinyconv|tinylinear)")
def fair_evaluation_attack(entry: Entry) -> None:
    requests: dict[str, dict[str, Any]] = {
        "fgsm": {"name": "fgsm", "start": "normal"},
        "pgd": {"name": "pgd20", "clamp_start": False},
        "cw": {"name": "cw20", "clamp_start": False},
    }
    request = requests[entry.check.split("_")[3]]
    request |= {key: entry.inputs[key] for key in ("steps", "step_size") if key in entry.inputs}
    student, predictions = evaluated(entry, request, entry.inputs.get("epsilon", EPS))
    wrong, labels = predictions != entry.inputs["labels"], entry.inputs["labels"]
    entry.close("x_adv", student.log[-1]["x"])
    entry.close("errors", wrong.sum())
    entry.close("errors_per_class", torch.bincount(labels[wrong], minlength=len(entry.inputs["model"]["fc.bias"])))


@check("frl_trades_attack_(reweight|remargin)_(tinyconv|tinylinear)")
def frl_attack(entry: Entry) -> None:
    factor = entry.inputs["eps_factor"]
    step = "fixed" if "reweight" in entry.check else "batch"
    margins = {"name": "frl", "margin_step": step, "margin_range": [0.0, 1e3]}
    method = method_of(entry, "frl_remargin", len(factor), margins=margins)
    method.margin_policy.state["multiplier_margin"] = factor.double().log() / 2
    run = one_step(entry, method)
    entry.close("x_adv", run.attacked["x"])
    entry.close("mode_left_in", run.student.modes[-len(method.forwards) - 1])


@check("cfa_(cw_)?pgd_loss_tinyconv")
def cfa_at_loss(entry: Entry) -> None:
    close_cfa(entry, {"method": "cfa_at", "attack_mode": "train"})


@check("cfa_(cw_)?trades_loss_tinyconv")
def cfa_trades_loss(entry: Entry) -> None:
    close_cfa(entry, {"method": "cfa_trades"})


def close_cfa(entry: Entry, given: dict[str, Any]) -> None:
    run = one_step(entry, cfa_method(entry, given, entry.inputs.get("epsilon", EPS)))
    entry.close("loss", run.trainer.losses[0])
    entry.close("robust_logits", run.attacked["logits"])
    entry.close("grad_fc_weight", run.student.fc.weight.grad)
    entry.close("forward_modes", run.student.modes)
    entry.close("state_after", run.student.state_dict())
    entry.close("normalised_x_adv", run.student.normalised(run.attacked["x"]))


@check("dafa_trades_loss_tinyconv")
def dafa_trades_loss(entry: Entry) -> None:
    method = method_of(entry, "dafa", len(entry.inputs["class_weights"]), beta=entry.inputs["beta"])
    step = close_dafa(entry, method).steps[0]
    _, weight = method.weight_policy.weights(step, *method.coefficients(method.settings))
    robust, natural = method.terms(step)
    entry.close("parts.natural", (weight * natural).mean())
    entry.close("parts.robust", robust.mean())


class FromNormalStart(AT):
    """AT whose attack starts at x + 0.001 N(0, 1), as DAFA's released PGD form does."""

    def adversary(self, view: View) -> Adversary:
        return cross_entropy_adversary(view, start="normal")


@check("dafa_madry_loss_tinyconv")
def dafa_madry_loss(entry: Entry) -> None:
    margins = {"name": "dafa", "double_step": True}
    built = method_of(entry, "at", len(entry.inputs["class_weights"]), weights="dafa", margins=margins)
    method = FromNormalStart(vars(built.settings), *built.parts[1:], built.num_classes)  # type: ignore[arg-type]
    loss = close_dafa(entry, method).trainer.losses[0]
    entry.close("parts.robust", loss)
    entry.close("parts.total", loss)


def close_dafa(entry: Entry, method: Method) -> Run:
    for part in (method.weight_policy, method.margin_policy):
        part.state["dafa_weight"] = entry.inputs["class_weights"].double()
    run = one_step(entry, method)
    entry.close("x_adv", run.attacked["x"])
    entry.close("loss", run.trainer.losses[0])
    entry.close("grad_fc_weight", run.student.fc.weight.grad)
    entry.close("forward_modes", run.student.modes)
    return run
