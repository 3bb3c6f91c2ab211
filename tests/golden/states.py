"""Golden checks of class states, weights averages and class-wise accuracies."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

import methods
from harness.spec import TrainingSpec, WeightAverageSpec
from harness.statistics import metrics
from harness.training.trainer import Trainer
from harness.training.weight_average import WeightAverage
from methods.base import (
    ADVERSARIAL,
    CLEAN,
    EpochEnd,
    HeldOut,
    Step,
)
from methods.policies.dafa import class_weights
from methods.policies.frl import limited
from tests.golden.file import Entry, check, tiny_network
from tests.golden.run import ccm_accuracy, end_epoch, method_of, observe, outer_loss


@check("absld_temperature_[a-z_]+")
def absld_temperatures(entry: Entry) -> None:
    """Twice: with the released rate of each epoch, which gives the released temperatures; and with ours, which is cut
    once a milestone."""
    given, released = entry.inputs, entry.outputs
    trainer = _scheduled(given["lr_start"])
    rates = [
        given["temp_rate_start"] * trainer.lr_factor(epoch) / trainer.lr_factor(given["epochs"][0] - 1)
        for epoch in given["epochs"]
    ]
    followed = _temperatures(entry, released["temp_rate_after"])
    once = [given["lr_start"] * rate / given["temp_rate_start"] for rate in rates]
    entry.close("lr_after", once)
    if given["optimizer_param_groups"] == 1:
        entry.close("temp_rate_after", rates)
    else:
        cut = [
            math.isclose(
                theirs / given["temp_rate_start"], (ours / given["temp_rate_start"]) ** given["optimizer_param_groups"]
            )
            for theirs, ours in zip(released["temp_rate_after"], rates, strict=True)
        ]
        entry.stated("temp_rate_after", all(cut), "2.5, quirk 6")
    for key, term in (("temp_adv", ADVERSARIAL), ("temp_nat", CLEAN)):
        ours, equal = followed[term], ~released[key].isnan()
        entry.close(key, ours, where=equal)
        if not equal.all():
            _assert_equal_gaps_change_nothing(entry, key, ours)


def _scheduled(lr: float) -> Trainer:
    """The released ABSLD schedule, in the project's loop."""
    model = nn.Linear(1, 1)
    spec = TrainingSpec(epochs=300, lr=lr, milestones=(215, 260, 285))
    return Trainer(model, methods.build(methods.resolve("at", 1), 2), {}, spec, eps=0.0, engine="plain")


def _temperatures(entry: Entry, rates: list[float]) -> dict[str, Tensor]:
    """Both temperatures after each epoch, from class sums as the released script keeps them."""
    given = entry.inputs
    limits = [given["temp_min"], given["temp_max"]]
    chosen = {"temperature_rate": given["temp_rate_start"], "temperature_range": limits, "class_statistic": "sum"}
    policy = method_of(entry, "absld", len(given["temp_adv_start"]), **chosen).label_policy
    totals = {ADVERSARIAL: given["class_totals_adv"], CLEAN: given["class_totals_nat"]}
    policy.state |= {
        f"temperature_{ADVERSARIAL}": given["temp_adv_start"],
        f"temperature_{CLEAN}": given["temp_nat_start"],
    }
    seen: dict[str, list[Tensor]] = {ADVERSARIAL: [], CLEAN: []}
    for row, (epoch, rate) in enumerate(zip(given["epochs"], rates, strict=True)):
        for term, values in totals.items():
            policy.sums[term].total = values[row].double()
        policy.end_epoch(EpochEnd(epoch - 1, 300, rate / given["temp_rate_start"]))
        for term, rows in seen.items():
            rows.append(policy.state[f"temperature_{term}"])
    return {term: torch.stack(rows) for term, rows in seen.items()}


def _assert_equal_gaps_change_nothing(entry: Entry, key: str, ours: Tensor) -> None:
    """Section 2.5, quirk 5: where all class losses are equal T stays, and later epochs go on from there."""
    given = entry.inputs
    totals, previous = given[key.replace("temp", "class_totals")].double(), given[f"{key}_start"].double()
    for row, rate in enumerate(entry.outputs["temp_rate_after"]):
        gap = totals[row] - totals[row].mean()
        move = rate * gap / gap.abs().max() if gap.abs().max() > 0 else torch.zeros_like(gap)
        previous = (previous - move).clamp(given["temp_min"], given["temp_max"])
        torch.testing.assert_close(ours[row].double(), previous, rtol=entry.rtol, atol=entry.atol)


@check("fair_(ard|rslad)_weights")
def fair_weights(entry: Entry) -> None:
    given = entry.inputs
    for case, kappa in given["kappa"].items():
        released = entry.outputs["weights"][case]
        chosen = {"beta": given["beta"], "weight_range": [given["clamp_min"], given["clamp_max"]]}
        chosen["kappa_eps"] = 1e-5 if entry.check.startswith("fair_ard") else 0.0
        policy = method_of(entry, "fair_ard", len(kappa), weights={"name": "kappa", **chosen}).weight_policy
        policy.sums["kappa"].total = kappa.double()
        policy.sums["kappa"].count = torch.ones_like(kappa, dtype=torch.float64)
        policy.end_epoch(EpochEnd(0, 1, 1.0))
        ours = policy.state["weight"]
        entry.close(f"weights.{case}", ours, where=~released.isnan())
        if (
            released.isnan().any()
        ):  # section 3.1: kappa 0 is NaN in the released Fair-RSLAD; here the class is the hardest of all
            entry.stated(f"weights.{case}", bool((ours[released.isnan()] == given["clamp_max"]).all()), "3.1")


@check("cfa_class_eps_beta_ccm[01]_ccr[01]")
def cfa_schedules(entry: Entry) -> None:
    given, num_classes = entry.inputs, entry.inputs["train_robust_acc_last_epoch"].shape[1]
    margins = {"name": "ccm", "margin_base": given["lambda_1"], "start_epoch": given["begin"]}
    weights = {"name": "ccr", "beta_base": given["lambda_2"], "start_epoch": given["begin"]}
    method = method_of(
        entry,
        "cfa_trades",
        num_classes,
        beta=given["beta"],
        margins=margins,
        weights=weights if given["ccr"] else "none",
    )
    ccm, every = method.margin_policy, torch.arange(num_classes, device=entry.device)
    radii, shares = [], []
    for epoch, accuracy in zip(given["epochs"], given["train_robust_acc_last_epoch"], strict=True):
        for part in (ccm, method.weight_policy):
            for sums in part.sums.values():
                sums.total, sums.count = accuracy.double(), torch.ones_like(accuracy, dtype=torch.float64)
            part.end_epoch(EpochEnd(epoch - 1, 200, 1.0))
        radii.append(torch.as_tensor(ccm.radius(every, given["eps"], 1.0)[0]).expand(num_classes))
        coef_adv, coef_clean = method.coefficients(method.settings)
        weight, _ = method.weight_policy.weights(Step(every, epoch, {}), coef_adv, coef_clean)
        shares.append(coef_adv * weight)
    entry.close("class_eps_computed", torch.stack(radii))
    entry.close("class_beta", torch.stack(shares))
    attack = method_of(entry, "cfa_trades", num_classes, margins="ccm" if given["ccm"] else "none").margin_policy
    entry.close("class_eps_used_by_the_attack", isinstance(attack.radius(every, given["eps"], 1.0)[0], Tensor))


@check("cfa_classwise_log_imbalanced")
def cfa_class_log(entry: Entry) -> None:
    """Section 4.1: ours divides by the class count; times n_c C / N it is what the released code logs."""
    labels = entry.inputs["labels"]
    for kind, logits in (("clean", entry.inputs["clean_logits"]), ("robust", entry.inputs["adv_logits"])):
        accuracy, share = ccm_accuracy(entry, logits, labels)
        entry.close(f"{kind}_acc", accuracy.nan_to_num() @ share)
        entry.close(f"class_{kind}", accuracy.nan_to_num() * share * len(share))


@check("frl_lambda_update_[a-z_]+")
def frl_multipliers(entry: Entry) -> None:
    given, num_classes = entry.inputs, entry.inputs["class_clean_error"].shape[1]
    remargin = "remargin" in entry.check
    weights = {
        "name": "frl",
        "tolerance_clean": given["bound_clean"],
        "tolerance_boundary": given["bound_boundary"],
        "multiplier_rate": given["rate1"],
        "multiplier_limit": given["limit"],
    }
    margins = {
        "name": "frl",
        "tolerance_boundary": given["bound_boundary"],
        "margin_rate": given["rate2"] if remargin else 0.0,
    }
    method = method_of(
        entry,
        "frl_remargin",
        num_classes,
        weights=weights,
        margins=margins | {"margin_range": [0.98, 3.0 if remargin else 2.5]},
    )
    weight, margin = method.weight_policy, method.margin_policy
    start = given["lambda_start"].double().split(num_classes)
    weight.state |= dict(zip(("multiplier_clean", "multiplier_boundary"), start, strict=False))
    margin.state["multiplier_margin"] = start[2]
    rows: dict[str, list[Tensor]] = {key: [] for key in ("lambda_after", "cost_clean", "cost_boundary", "eps_factor")}
    for clean, boundary in zip(
        given["class_clean_error"].cpu().double(), given["class_boundary_error"].cpu().double(), strict=True
    ):
        held_out = HeldOut(clean, clean + boundary, clean, clean, torch.full_like(clean, 300.0))
        end_epoch(method, EpochEnd(0, 1, 1.0, held_out))
        multipliers = (
            weight.state["multiplier_clean"],
            weight.state["multiplier_boundary"],
            margin.state["multiplier_margin"],
        )
        logged = weight.quantities() | margin.quantities()
        rows["lambda_after"].append(torch.cat(multipliers))
        rows["cost_clean"].append(logged["weight_clean"])
        rows["cost_boundary"].append(logged["weight_adversarial"])
        rows["eps_factor"].append(logged["eps_factor"])
    for key, values in rows.items():
        entry.close(key, torch.stack(values))


@check("frl_normalize_lambda")
def frl_limit(entry: Entry) -> None:
    for case, multiplier in entry.inputs["lam"].items():
        entry.close(case, limited(multiplier, entry.inputs["limit"]))


@check("dafa_weights")
def dafa_weights(entry: Entry) -> None:
    entry.close("class_weights", class_weights(entry.inputs["similarity"], entry.inputs["lam"]))


@check("dafa_weights_tie")
def dafa_tie(entry: Entry) -> None:
    """Section 4.3: a tie changes nothing; the released code takes S[j, i] S[i, i] from both."""
    similarity, strength = entry.inputs["similarity"], entry.inputs["lam"]
    own = similarity.diagonal()
    tied = (own[:, None] == own) & ~torch.eye(len(own), dtype=torch.bool, device=entry.device)
    taken = strength * (similarity.T * own[:, None] * tied).sum(1)
    entry.close("class_weights", class_weights(similarity, strength) - taken)
    entry.stated("class_weights", bool(tied.any()), "4.3")


@check("dafa_weights_from_predictions")
def dafa_weights_from_predictions(entry: Entry) -> None:
    given = entry.inputs
    weights = {"name": "dafa", "similarity_strength": given["lam"], "start_epoch": 1}
    method = method_of(entry, "dafa", given["probs"].shape[1], weights=weights, margins={**weights})
    observe(method, Step(given["labels"], 0, {ADVERSARIAL: given["probs"].log()}))
    end_epoch(method, EpochEnd(0, 2, 1.0))
    entry.close("class_weights", method.weight_policy.state["dafa_weight"])
    assert torch.equal(method.weight_policy.state["dafa_weight"], method.margin_policy.state["dafa_weight"])


@check("wat_weight_update")
def wat_weights(entry: Entry) -> None:
    given, num_classes = entry.inputs, entry.inputs["valid_nat_cost"].shape[1] - 1
    weights = {"name": "wat", "eta": given["eta"], "cost_beta": given["beta"]}
    policy = method_of(entry, "wat", num_classes, weights=weights).weight_policy
    rows = []
    costs = (given[key].cpu().double() for key in ("valid_nat_cost", "valid_boundary_cost"))
    for natural, boundary in zip(*costs, strict=True):
        classes = (natural[:-1], boundary[:-1])
        policy.end_epoch(
            EpochEnd(
                0, 1, 1.0, HeldOut(natural, natural, *classes, torch.full((num_classes,), 300.0, dtype=torch.float64))
            )
        )
        rows.append(policy.state["expert_weight"])
    entry.close("weights", torch.stack(rows))


@check("faal_weights(_case[0-9]+)?")
def faal_weights(entry: Entry) -> None:
    given = entry.inputs
    logits, labels = given["adv_logits"], given["labels"]
    method = method_of(entry, "faal", logits.shape[1], kl_radius=given["radius"])
    policy: Any = method.weight_policy
    margins = policy.class_margins(logits, labels)
    entry.close("class_margin", margins)
    entry.close("weights", policy.distribution(margins, labels))
    entry.close("loss", outer_loss(entry, method, {ADVERSARIAL: logits}))


@check("absld_checkpoint_index")
def absld_checkpoint_index(entry: Entry) -> None:
    """Batches of 100 sorted by class. Ours is half the released index, which ranks the same."""
    percent = (
        torch.tensor(entry.inputs["correct_per_batch"], dtype=torch.float64)
        .view(len(entry.outputs["class_accuracy_percent"]), -1)
        .mean(1)
    )
    accuracy = (percent / 100).numpy()
    entry.close("class_accuracy_percent", 100 * accuracy)
    entry.close("average", metrics.average(accuracy))
    entry.close("selection_index", 2 * metrics.selection_score(accuracy))


@check("frl_in_class_accuracy")
def in_class_accuracy(entry: Entry) -> None:
    labels, predictions = (entry.inputs[key].cpu().numpy() for key in ("labels", "predictions"))
    entry.close(
        "class_accuracy", metrics.class_accuracy(labels, predictions == labels, len(entry.outputs["class_accuracy"]))
    )


@check("metrics_from_class_accuracy")
def class_accuracy_metrics(entry: Entry) -> None:
    accuracy = entry.inputs["class_accuracy"].cpu().numpy()
    average, worst = metrics.average(accuracy), metrics.worst(accuracy)
    entry.close("average", average)
    entry.close("worst", worst)
    entry.close("worst_class", metrics.worst_class(accuracy))
    entry.close("nsd_population", metrics.nsd(accuracy))
    entry.close("nsd_sample", metrics.nsd(accuracy, sample=True))
    entry.close("std_population", metrics.nsd(accuracy) * average)
    entry.close("std_sample", metrics.nsd(accuracy, sample=True) * average)
    entry.close("worst_10_percent_mean", metrics.worst_10_percent(accuracy))
    entry.close("mean_of_average_and_worst", (average + worst) / 2)
    entry.close("sum_of_average_and_worst", average + worst)
    lowest = metrics.worst_10_percent(accuracy) if len(accuracy) >= metrics.MANY_CLASSES else worst  # section 6
    assert math.isclose(metrics.selection_score(accuracy), (average + lowest) / 2, rel_tol=1e-12)


@check("cfa_weight_average")
def cfa_weight_average(entry: Entry) -> None:
    """Averaged, copied at first, and left alone when the worst class is below the threshold (the released code: decay
    1)."""
    averaged, current = (tiny_network("linear", entry.inputs[key]) for key in ("averaged", "current"))
    options = WeightAverageSpec(kind="fawa", decay=entry.inputs["decay"], threshold=0.2)
    first = WeightAverage(options)
    assert first.averaged is None
    first.update(current, 0, torch.tensor([0.3], dtype=torch.float64))
    entry.close("init", first.averaged)
    average = WeightAverage(options)
    average.update(averaged, 0, torch.tensor([0.3], dtype=torch.float64))
    assert average.update(current, 1, torch.tensor([0.1], dtype=torch.float64)) is False
    entry.close("decay_one", average.averaged)
    assert average.update(current, 2, torch.tensor([0.2], dtype=torch.float64)) is True
    entry.close("updated", average.averaged)
