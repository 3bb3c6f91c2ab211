"""Golden checks of FAIR-TAT."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from methods.base import ADVERSARIAL, EpochEnd, Method, Step
from methods.statistics import ClassSums
from tests.golden.draws import drawn_at, never_own_and_even
from tests.golden.file import Entry, check
from tests.golden.run import EPS, Run, close_step, end_epoch, inject_targets, method_of, observe, one_step
from tests.golden.traces import close_trace


@check("fairtat_class_statistics(_imbalanced)?")
def fairtat_class_statistics(entry: Entry) -> None:
    given = entry.inputs
    found: dict[str, list[Tensor]] = {}
    epochs = (given["adv_logits"].flatten(1, 2), given["labels"].flatten(1), given["targets"].flatten(1))
    for logits, labels, targets in zip(*epochs, strict=True):
        rows = statistics(entry, logits, labels, labels, "robust_accuracy", "")
        rows["class_eps"] = radii(entry, rows["robust_accuracy"], given["lambda_r"])
        rows["target_scores"] = learnt_in_an_epoch(entry, logits, labels).state["target_score"]
        rows["target_probabilities"] = rows["target_scores"].softmax(0)
        rows |= statistics(entry, logits, labels, targets, "target_accuracy", "target_")
        for key, row in rows.items():
            found.setdefault(key, []).append(row)
    for key, each in found.items():
        entry.close(key, torch.stack(each))


def statistics(
    entry: Entry, logits: Tensor, labels: Tensor, right: Tensor, accuracy: str, prefix: str
) -> dict[str, Tensor]:
    """The accuracy, and the shares of the wrong answers by what was said and by label; `right` are the right answers.

    Section 3: ours divides by class counts; times n_c C / N it is the released accuracy.
    """
    method = learnt_in_an_epoch(entry, logits, right)
    correct = ClassSums(method.num_classes)
    correct.add(logits.argmax(1) == right, labels)
    if right is labels:
        ours = method.margin_policy.state["train_robust_accuracy"].double()
        torch.testing.assert_close(ours, correct.mean(), rtol=1e-6, atol=0, equal_nan=True)
    wrong = correct.count - correct.total
    return {
        accuracy: correct.mean().nan_to_num() * correct.count * len(wrong) / len(labels),
        f"{prefix}cfps": method.state["target_score"] / method.settings.target_scale,
        f"{prefix}cfns": wrong / wrong.sum(),
    }


def learnt_in_an_epoch(entry: Entry, logits: Tensor, right: Tensor) -> Method:
    """FAIR-TAT after an epoch of these logits on x'."""
    method = method_of(entry, "fair_tat", logits.shape[1])
    observe(method, Step(right, 0, {ADVERSARIAL: logits}))
    end_epoch(method, EpochEnd(0, 300, 1.0))
    return method


def radii(entry: Entry, statistic: Tensor, base: float) -> Tensor:
    """The radius of each class where the last epoch had this statistic, by FAIR-TAT's margins."""
    classes = len(statistic)
    policy = method_of(entry, "fair_tat", classes, margin_base=base).margin_policy
    policy.sums["correct"].total = statistic.double()
    policy.sums["correct"].count = torch.ones_like(policy.sums["correct"].total)
    policy.end_epoch(EpochEnd(0, 300, 1.0))
    every = torch.arange(classes, device=entry.device)
    return torch.as_tensor(policy.radius(every, entry.inputs["eps"], 1.0)[0]).double()


@check("fairtat_class_eps")
def fairtat_class_eps(entry: Entry) -> None:
    """The radius is by accuracy (G-rob) here; that by another statistic is the same rule with it in its place."""
    given = entry.inputs
    statistics = {
        "G-rob": (given["robust_accuracy"], given["lambda_r"]),
        "T-rob": (given["target_accuracy"], given["lambda_r"]),
        "G-cfps": (2 * given["cfps"], given["lambda_c"]),
        "T-cfps": (given["target_cfps"], given["lambda_c"]),
        "G-cfns": (given["cfns"], given["lambda_c"]),
        "T-cfns": (given["target_cfns"], given["lambda_c"]),
    }
    by_name = {
        name: torch.stack([radii(entry, row, base) for row in rows]) for name, (rows, base) in statistics.items()
    }
    for key in entry.outputs["class_eps"]:
        names, _, least = key.partition(" ")
        assert least in ("", "min")
        if names == "none":
            policy = method_of(entry, "at", given["cfps"].shape[1]).margin_policy
            radius, _ = policy.radius(torch.arange(given["cfps"].shape[1]), given["eps"], 1.0)
            entry.close(f"class_eps.{key}", torch.full_like(given["cfps"], radius))
            continue
        several = torch.stack([by_name[name] for name in names.split("+")])
        entry.close(f"class_eps.{key}", several.amin(0) if least else several.mean(0))
    methods = [with_false_positives(entry, row) for row in given["cfps"]]
    entry.close("target_scores", torch.stack([method.state["target_score"] for method in methods]))
    entry.close("target_probabilities", torch.stack([method.state["target_score"].softmax(0) for method in methods]))


def with_false_positives(entry: Entry, shares: Tensor) -> Method:
    """FAIR-TAT after an epoch whose wrong answers had these shares; those of the entries are made up and add up to 1
    only nearly."""
    method = method_of(entry, "fair_tat", len(shares))
    method.sums["false_positives"].total = shares.double()
    method.end_epoch(EpochEnd(0, 300, 1.0))
    method.state["target_score"] *= shares.sum()
    return method


@check("fairtat_target_draw")
def fairtat_target_draw(entry: Entry) -> None:
    """Section 3: ours never draws the label; the released code keeps it where exactly one sample of a batch did."""
    labels, first = entry.inputs["labels"], entry.inputs["first_draws"]
    scores = with_false_positives(entry, entry.inputs["cfps"]).state["target_score"]
    entry.close("probabilities", scores.softmax(0))
    redraws, used, released = entry.inputs["redraws"].tolist(), 0, first.clone()
    kept = int((first == labels).sum()) == 1
    for sample in [] if kept else (first == labels).nonzero().flatten():
        while released[sample] == labels[sample]:
            released[sample] = redraws[used]
            used += 1
    entry.close("redraws_used", used)
    different = released != labels
    targets = drawn_at(scores, labels, torch.where(different, released, (labels + 1) % len(scores)))
    entry.close("targets", targets, where=different)
    entry.close("targets_equal_to_label", (~different).sum())
    if kept:
        entry.stated("targets", not (targets == labels).any(), "3")
        entry.stated("targets_equal_to_label", not (targets == labels).any(), "3")
    never_own_and_even(scores)


@check("fairtat_attack_tinyconv")
def fairtat_attack(entry: Entry) -> None:
    given = entry.inputs
    method = method_of(entry, "fair_tat" if given["targeted"] else "cfa_at", len(given["class_eps"]))
    method.margin_policy.state["eps_factor"] = given["class_eps"] / EPS
    inject_targets(method, [given["targets"]] if given["targeted"] else [])
    run = one_step(entry, method)
    entry.close("robust_logits", run.attacked["logits"])
    close_step(entry, run)


@check("trace_fairtat")
def trace_fairtat(entry: Entry) -> None:
    given, settings = entry.inputs, entry.settings
    classes = len(given["student"]["fc.bias"])
    chosen = {"margin_base": given["lambda_r"], "unused_forward": settings["clean_pass_before_step"]}
    method = method_of(entry, "fair_tat", classes, **chosen)
    inject_targets(method, given["targets"])
    run = close_trace(entry, method)
    scores, accuracy = run["target_score"], run["train_robust_accuracy"]
    entry.close("cfps_per_epoch", scores / method.settings.target_scale)
    entry.close("robust_accuracy_per_epoch", accuracy)
    in_force = torch.cat([torch.zeros_like(scores[:1]), scores[:-1]])
    entry.close("target_probabilities_per_epoch", in_force.softmax(1))
    factors = torch.cat([torch.ones_like(run["eps_factor"][:1]), run["eps_factor"][:-1]])
    entry.close("class_eps_per_epoch", factors * settings["eps"])
    entry.close("clean_accuracy_per_epoch", clean_accuracy(given, run["run"], classes))


def clean_accuracy(given: dict[str, Any], run: Run, classes: int) -> Tensor:
    """That of the extra pass after each step, per epoch."""
    forwards = len(run.student.log) // len(run.steps)
    right = [record["logits"].argmax(1) for record in run.student.log[forwards - 1 :: forwards]]
    found = []
    for answers, labels in zip(
        torch.stack(right).view(given["epochs"], -1),
        given["batches_labels"].view(given["epochs"], -1),
        strict=True,
    ):
        sums = ClassSums(classes)
        sums.add(answers == labels, labels)
        found.append(sums.mean())
    return torch.stack(found)
