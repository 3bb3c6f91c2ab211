"""Golden checks of losses from given logits."""

from __future__ import annotations

import torch

from methods.base import (
    ADVERSARIAL,
    CLEAN,
    CLEAN_AGAIN,
    Step,
    View,
)
from tests.golden.file import Entry, check
from tests.golden.run import close_gradients, close_terms, leaf, method_of, outer_loss, teach


@check("trades_outer_loss")
def trades_outer_loss(entry: Entry) -> None:
    nat, adv = leaf(entry.inputs["nat_logits"]), leaf(entry.inputs["adv_logits"])
    method = method_of(entry, "trades", nat.shape[1], beta=entry.inputs["beta"])
    loss = outer_loss(entry, method, {CLEAN: nat, ADVERSARIAL: adv, CLEAN_AGAIN: nat})
    entry.close("loss", loss)
    close_gradients(entry, loss, grad_nat_logits=nat, grad_adv_logits=adv)


@check("(fair_)?ard(_weighted)?_loss")
def ard_loss(entry: Entry) -> None:
    given = entry.inputs
    adv, nat = leaf(given["adv_logits"]), leaf(given["nat_logits"])
    name = "fair_ard" if entry.check.startswith("fair") else "ard"
    method = method_of(entry, name, adv.shape[1], alpha=given["alpha"], distill_temperature=given["temperature"])
    if "class_weights" in given:
        method.weight_policy.state["weight"] = given["class_weights"]
        method.weight_policy.observe = lambda step: None  # type: ignore[method-assign]
    teacher = teach(teacher_clean=given["teacher_clean_logits"])
    loss = outer_loss(entry, method, {ADVERSARIAL: adv, CLEAN: nat}, teacher=teacher)
    entry.close("loss", loss)
    close_gradients(entry, loss, grad_adv_logits=adv, grad_nat_logits=nat)


@check("rslad_outer_loss|fair_rslad_weighted_loss")
def rslad_loss(entry: Entry) -> None:
    given = entry.inputs
    adv, nat = leaf(given["adv_logits"]), leaf(given["nat_logits"])
    method = method_of(entry, "fair_rslad" if entry.check.startswith("fair") else "rslad", adv.shape[1])
    if "class_weights" in given:
        method.weight_policy.state["weight"] = given["class_weights"]
        method.weight_policy.observe = lambda step: None  # type: ignore[method-assign]
    leaves, teacher = {ADVERSARIAL: adv, CLEAN: nat}, teach(teacher_clean=given["teacher_clean_logits"])
    loss = outer_loss(entry, method, leaves, teacher=teacher)
    entry.close("loss", loss)
    close_terms(entry, method, leaves, teacher)
    close_gradients(entry, loss, grad_adv_logits=adv, grad_nat_logits=nat)


@check("absld_outer_(official|intended)")
def absld_outer(entry: Entry) -> None:
    given = entry.inputs
    adv, nat, labels = leaf(given["adv_logits"]), leaf(given["nat_logits"]), given["labels"]
    method = method_of(entry, "absld", adv.shape[1], class_statistic="sum")
    policy = method.label_policy
    for term, short in ((ADVERSARIAL, "adv"), (CLEAN, "nat")):
        policy.state[f"temperature_{term}"] = given[f"temp_{short}"]
        policy.sums[term].total = given[f"class_total_{short}_before"].double()
    teacher = given["teacher_clean_logits"]
    adversary = method.adversary(View(labels, 0, {"teacher": teacher}, lambda: nat))
    assert adversary is not None
    assert adversary.target is not None
    torch.testing.assert_close(adversary.target().cpu(), entry.outputs["attack_target_logits"].softmax(1))
    entry.close("attack_target_logits", policy.target(ADVERSARIAL, teacher, labels))
    entry.close("scaled_teacher_adv", policy.target(ADVERSARIAL, teacher, labels))
    entry.close("scaled_teacher_nat", policy.target(CLEAN, teacher, labels))
    entry.close("teacher_tensors_share_storage", policy.settings.alias_teacher)
    leaves, answers = {ADVERSARIAL: adv, CLEAN: nat}, teach(teacher_clean=teacher)
    loss = outer_loss(entry, method, leaves, teacher=answers)
    entry.close("loss", loss)
    close_terms(entry, method, leaves, answers)
    for term, short in ((ADVERSARIAL, "adv"), (CLEAN, "nat")):
        entry.close(f"class_total_{short}_after", policy.sums[term].total)
    close_gradients(entry, loss, grad_adv_logits=adv, grad_nat_logits=nat)


@check("iad_i_loss(_epoch[0-9]+)?")
def iad_one_loss(entry: Entry) -> None:
    given = entry.inputs
    adv, nat = leaf(given["student_adv_logits"]), leaf(given["student_nat_logits"])
    labels = (
        "teacher" if given["temperature"] == 1 else {"name": "tempered", "distill_temperature": given["temperature"]}
    )
    chosen = {"alpha": given["alpha"], "trust_exponent": given["beta"], "start_epoch": given["begin"], "labels": labels}
    method = method_of(entry, "iad", adv.shape[1], **chosen)
    teacher = teach(teacher_clean=given["teacher_clean_logits"], teacher_adversarial=given["teacher_adv_logits"])
    loss = outer_loss(entry, method, {ADVERSARIAL: adv, CLEAN: nat}, teacher=teacher, epoch=given["epoch"])
    entry.close("loss", loss)
    close_gradients(entry, loss, grad_adv_logits=adv, grad_nat_logits=nat)


@check("iad_ii_loss(_epoch[0-9]+)?")
def iad_two_loss(entry: Entry) -> None:
    given = entry.inputs
    assert given["temperature"] == 1, "IAD-II has no temperature here"
    adv, nat = leaf(given["student_adv_logits"]), leaf(given["student_nat_logits"])
    shares = {"share_robust": given["alpha1"], "share_natural": given["alpha2"]}
    method = method_of(
        entry, "iad_ii", adv.shape[1], trust_exponent=given["beta"], start_epoch=given["begin"], **shares
    )
    teacher = teach(
        teacher_adversarial=given["teacher_adv_logits"],
        natural_teacher_adversarial=given["standard_teacher_adv_logits"],
    )
    loss = outer_loss(entry, method, {ADVERSARIAL: adv, CLEAN: nat}, teacher=teacher, epoch=given["epoch"])
    entry.close("loss", loss)
    close_gradients(entry, loss, grad_adv_logits=adv, grad_nat_logits=nat)


@check("adaad_outer_loss(_[a-z]+[0-9]+)?")
def adaad_outer_loss(entry: Entry) -> None:
    given = entry.inputs
    leaves = {ADVERSARIAL: given["student_adv_logits"], CLEAN: given["student_nat_logits"]}
    method = method_of(entry, "adaad", leaves[CLEAN].shape[1], alpha=given["alpha"])
    teacher = teach(teacher_clean=given["teacher_nat_logits"], teacher_adversarial=given["teacher_adv_logits"])
    entry.close("loss", outer_loss(entry, method, leaves, teacher=teacher))
    close_terms(entry, method, leaves, teacher)


@check("mtard_kl_terms")
def mtard_kl_terms(entry: Entry) -> None:
    given = entry.inputs
    leaves = {ADVERSARIAL: given["student_adv_logits"], CLEAN: given["student_nat_logits"]}
    method = method_of(entry, "mtard", leaves[CLEAN].shape[1])
    teacher = teach(
        teacher_adversarial=given["teacher_adv_logits_on_x_adv"],
        natural_teacher_clean=given["natural_teacher_logits_on_x"],
    )
    close_terms(entry, method, leaves, teacher)  # at the start both weights are a half, and so are the coefficients


@check("mtard_weight_update")
def mtard_weight_update(entry: Entry) -> None:
    given = entry.inputs
    method = method_of(entry, "mtard", 2, balance_rate=given["rate"], balance_power=float(given["power"]))
    method.state["weight_natural"] = torch.tensor(given["start"][1], dtype=torch.float64)
    weights, losses = [], []
    for adversarial, clean in zip(given["kl_adv"], given["kl_nat"], strict=True):
        method.divergences = lambda step, pair=(adversarial[None], clean[None]): pair  # type: ignore[attr-defined]
        logits = torch.zeros(1, 2, device=entry.device)
        losses.append(outer_loss(entry, method, {ADVERSARIAL: logits, CLEAN: logits}))
        natural = float(method.state["weight_natural"])
        weights.append([1 - natural, natural])
    entry.close("weights_adv_nat", torch.tensor(weights, dtype=torch.float64))
    entry.close("total_loss", torch.stack(losses))


@check("frl_weighted_trades_loss")
def frl_loss(entry: Entry) -> None:
    given = entry.inputs
    nat, adv = leaf(given["nat_logits"]), leaf(given["adv_logits"])
    method = method_of(entry, "frl_reweight", nat.shape[1], beta=given["beta"])
    costs = {"multiplier_clean": given["cost_clean"], "multiplier_boundary": given["cost_boundary"]}
    method.weight_policy.costs = costs.__getitem__  # type: ignore[attr-defined]
    loss = outer_loss(entry, method, {CLEAN: nat, ADVERSARIAL: adv, CLEAN_AGAIN: nat})
    entry.close("loss", loss)
    close_gradients(entry, loss, grad_nat_logits=nat, grad_adv_logits=adv)


@check("wat_loss_(wat|none)")
def wat_loss(entry: Entry) -> None:
    given = entry.inputs
    nat, adv = leaf(given["nat_logits"]), leaf(given["adv_logits"])
    weights = {"name": "wat", "average_expert": entry.check.endswith("wat")}
    method = method_of(entry, "wat", nat.shape[1], beta=given["beta"], weights=weights)
    experts = len(method.weight_policy.state["expert_weight"])
    method.weight_policy.state["expert_weight"] = given["weights"][:experts]
    loss = outer_loss(entry, method, {CLEAN: nat, ADVERSARIAL: adv})
    entry.close("loss", loss)
    close_gradients(entry, loss, grad_nat_logits=nat, grad_adv_logits=adv)


@check("bat_loss")
def bat_loss(entry: Entry) -> None:
    given = entry.inputs
    first_adv, last_clean, clean = (leaf(given[f"{name}_logits"]) for name in ("firstadv", "lastclean", "clean"))
    method = method_of(entry, "bat", clean.shape[1], beta=given["beta"])
    leaves = {ADVERSARIAL: first_adv, CLEAN: last_clean, CLEAN_AGAIN: clean}
    step = Step(given["labels"], 0, leaves)
    robust, natural = method.terms(step)
    coef_adv, coef_clean = method.coefficients(method.settings)
    entry.close("natural", (coef_clean * natural).mean())
    entry.close("robust", (coef_adv * robust).mean())
    entry.close("uniform", torch.as_tensor(method.margin_policy.penalty(step)).mean())
    loss = outer_loss(entry, method, leaves)
    entry.close("loss", loss)
    close_gradients(entry, loss, grad_firstadv=first_adv, grad_lastclean=last_clean, grad_clean=clean)
