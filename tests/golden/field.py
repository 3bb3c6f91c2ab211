"""Golden checks of TRIX, CSR and FAIR-TAT."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from methods.base import ADVERSARIAL, ADVERSARIAL_AGAIN, CLEAN, CLEAN_AGAIN, EpochEnd, Method, Step
from methods.policies.dafa import balance
from methods.statistics import ClassSums
from methods.targets import other_class
from methods.trades import TRADES
from tests.golden.file import Entry, check
from tests.golden.run import (
    EPS,
    Run,
    close_gradients,
    end_epoch,
    leaf,
    method_of,
    observe,
    one_step,
    outer_loss,
    run_of,
)
from tests.golden.traces import close_trace

# TRIX


@check("trix_target_weights")
def trix_target_weights(entry: Entry) -> None:
    close_split(entry, method_of(entry, "trix", entry.inputs["num_classes"]))


@check("trix_target_weights_tie")
def trix_target_weights_tie(entry: Entry) -> None:
    """Section 1: a tie changes nothing; the released code takes S[j, i] S[i, i] from both. That is put in here."""
    probs, labels, classes = entry.inputs["probs"], entry.inputs["labels"], entry.inputs["num_classes"]
    method: Any = method_of(entry, "trix", classes)
    similarity = class_means(probs, labels, classes)
    own = similarity.diagonal()
    tied = (own[:, None] == own) & ~torch.eye(classes, dtype=torch.bool)
    assert tied.any()
    torch.testing.assert_close(method.balance(probs, labels), balance(similarity, 1.0))
    ours = method.balance

    def released(clean: Tensor, labels: Tensor) -> Tensor:
        return ours(clean, labels) - (similarity.T * own[:, None] * tied).sum(1)

    method.balance = released
    close_split(entry, method)


def close_split(entry: Entry, method: Any) -> None:
    probs, labels = entry.inputs["probs"], entry.inputs["labels"]
    assert entry.inputs["lam"] == 1
    weights = method.balance(probs, labels)
    entry.close("class_weights", weights)
    entry.close("sample_weights", weights[labels])
    entry.close("threshold", weights[labels].mean())
    entry.close("targeted", method.targeted(probs, labels))


def class_means(values: Tensor, labels: Tensor, classes: int) -> Tensor:
    sums = ClassSums(classes, width=classes)
    sums.add(values, labels)
    return sums.mean()


@check("trix_target_draw")
def trix_target_draw(entry: Entry) -> None:
    """Section 1: the released code draws until no class is the label; ours inverts the distribution that this has."""
    labels, first = entry.inputs["labels"], entry.inputs["first_draws"]
    redraws, targets, rounds = iter(entry.inputs["redraws"].tolist()), first.clone(), 0
    while (own := targets == labels).any():
        targets[own] = torch.tensor([next(redraws) for _ in range(int(own.sum()))])
        rounds += 1
    entry.close("rounds", rounds)
    scores = torch.zeros(int(torch.cat([labels, first, targets]).max()) + 1)
    entry.close("targets", drawn_at(scores, labels, targets))
    never_own_and_even(scores)


def drawn_at(scores: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
    """What our draw gives at the middle of the place that each target has in the distribution without the label."""
    shares = scores.double().softmax(0).expand(len(labels), -1).masked_fill(one_hot(labels, len(scores)).bool(), 0.0)
    shares = shares / shares.sum(1, keepdim=True)
    above = shares.cumsum(1) - shares / 2
    return other_class(scores, labels, above.gather(1, targets[:, None])[:, 0])


def never_own_and_even(scores: Tensor, draws: int = 20_000) -> None:
    """Over an even grid of draws each other class has its share, and the label none."""
    grid, classes = (torch.arange(draws) + 0.5) / draws, len(scores)
    for label in range(classes):
        found = other_class(scores, torch.full((draws,), label), grid).bincount(minlength=classes) / draws
        wanted = scores.double().softmax(0)
        wanted[label] = 0.0
        torch.testing.assert_close(found.double(), wanted / wanted.sum(), rtol=0, atol=2 / draws)
        assert found[label] == 0


@check("trix_outer_loss")
def trix_outer_loss(entry: Entry) -> None:
    nat, adv = leaf(entry.inputs["nat_logits"]), leaf(entry.inputs["adv_logits"])
    method: Any = with_weights(entry, method_of(entry, "trix", nat.shape[1], beta=entry.inputs["beta"]))
    targeted = method.targeted(entry.inputs["clean_eval_logits"].softmax(1), entry.inputs["labels"])
    entry.close("targeted", targeted)
    entry.close("num_targeted", targeted.sum())
    entry.close("num_untargeted", (~targeted).sum())
    logits = {ADVERSARIAL: adv, CLEAN: nat}
    loss = outer_loss(entry, method, logits)
    entry.close("loss", loss)
    close_parts(entry, method, Step(entry.inputs["labels"], 0, logits))
    close_gradients(entry, loss, grad_nat_logits=nat, grad_adv_logits=adv)


def with_weights(entry: Entry, method: Method) -> Method:
    """With an entry's weights as DAFA's class state."""
    for part in (method.weight_policy, method.margin_policy):
        part.state["dafa_weight"] = entry.inputs["class_weights"].double()
    return method


def close_parts(entry: Entry, method: Method, step: Step) -> None:
    robust, natural = TRADES.terms(method, step)  # type: ignore[arg-type]
    _, weight = method.weight_policy.weights(step, *method.coefficients(method.settings))
    entry.close("parts.natural", (weight * natural).mean())
    entry.close("parts.robust", robust.mean())


@check("trix_full_step_tinyconv")
def trix_full_step(entry: Entry) -> None:
    classes = len(entry.inputs["class_weights"])
    method: Any = with_weights(entry, method_of(entry, "trix", classes, beta=entry.inputs["beta"]))
    seen = inject(method, iter([entry.inputs["drawn_targets"]]))
    run = one_step(entry, method)
    targeted = seen["targeted"][0]
    entry.close("target_weights", seen["balance"][0])
    entry.close("targeted", targeted)
    entry.close("attack_labels", torch.where(targeted, entry.inputs["drawn_targets"], entry.inputs["labels"]))
    close_parts(entry, method, run.steps[0])
    close_step(entry, run)


def inject(method: Any, targets: Iterator[Tensor]) -> dict[str, list[Tensor]]:
    """Let the targets be given; what TRIX finds of each batch."""
    seen: dict[str, list[Tensor]] = {"targeted": [], "balance": []}
    method.target_class = lambda view: next(targets)

    def watch(name: str) -> None:
        find = getattr(method, name)

        def watched(clean: Tensor, labels: Tensor) -> Tensor:
            seen[name].append(find(clean, labels))
            return seen[name][-1]

        setattr(method, name, watched)

    for name in seen if hasattr(method, "targeted") else ():
        watch(name)
    return seen


def close_step(entry: Entry, run: Run) -> None:
    entry.close("x_adv", run.attacked["x"])
    entry.close("loss", run.trainer.losses[0])
    entry.close("grad_fc_weight", run.student.fc.weight.grad)
    entry.close("grad_conv_weight", run.student.conv.weight.grad)
    entry.close("state_after", run.student.state_dict())
    entry.close("forward_modes", run.student.modes)


@check("trace_trix")
def trace_trix(entry: Entry) -> None:
    given = entry.inputs
    warm_up = {"name": "dafa", "similarity_strength": given["lam"], "start_epoch": given["warmup_epochs"]}
    classes = len(given["student"]["fc.bias"])
    method = method_of(entry, "trix", classes, beta=given["beta"], weights=warm_up, margins={**warm_up})
    seen = inject(method, iter(given["drawn_targets"]))
    run = close_trace(entry, method)
    entry.close("targeted", torch.stack(seen["targeted"]))
    in_force = torch.cat([torch.ones(1, classes, dtype=torch.float64), run["dafa_weight"][:-1]])
    entry.close("class_weights_per_epoch", in_force)


# CSR


@check("csr_confusion_weights")
def csr_confusion_weights(entry: Entry) -> None:
    given = entry.inputs
    logits, labels = given["adv_logits"].flatten(1, 2), given["labels"].flatten(1)
    method = method_of(entry, "csr", logits.shape[-1], gamma=given["gamma"])
    learnt = watched_confusion(method)
    for epoch, classes in zip(logits, labels, strict=True):
        counts = ClassSums(method.num_classes, width=method.num_classes)
        counts.add(one_hot(method.taken_for(epoch, classes), method.num_classes), classes)
        method.learn_confusion(counts.total)
    entry.close("confusion", torch.stack(learnt["confusion"]))
    entry.close("weights", torch.stack(learnt["weights"]))


def watched_confusion(method: Any) -> dict[str, list[Tensor]]:
    """What CSR is told and makes of it, in the released form: M[prediction, label] without the right answers.

    Section 2: ours divides a class's counts by its size; the released code, wrong for unequal classes, does not. Its
    counts are put in from outside, as those of classes of one size. (Without a right answer to spare the size is that
    of the largest.)
    """
    learnt: dict[str, list[Tensor]] = {"confusion": [], "weights": []}
    learn = method.learn_confusion

    def watched(counts: Tensor) -> None:
        wrong = counts.clone().fill_diagonal_(0.0)
        learnt["confusion"].append(wrong.T)
        learn(wrong + torch.diag(wrong.sum(1).max() - wrong.sum(1)))
        learnt["weights"].append(method.state["csr_weight"])

    method.learn_confusion = watched
    return learnt


@check("csr_outer_loss")
def csr_outer_loss(entry: Entry) -> None:
    nat, adv = leaf(entry.inputs["nat_logits"]), leaf(entry.inputs["adv_logits"])
    method = csr_with_weights(entry)
    loss = outer_loss(entry, method, {CLEAN: nat, ADVERSARIAL: adv, CLEAN_AGAIN: nat, ADVERSARIAL_AGAIN: adv})
    entry.close("loss", loss)
    close_constant(entry, method, adv)
    close_gradients(entry, loss, grad_nat_logits=nat, grad_adv_logits=adv)


def csr_with_weights(entry: Entry) -> Any:
    method = method_of(entry, "csr", len(entry.inputs["weights"]), beta=entry.inputs["beta"])
    method.state["csr_weight"] = entry.inputs["weights"].double()
    return method


def close_constant(entry: Entry, method: Any, adv: Tensor) -> None:
    """The part of the loss that has no gradient; the weight of each sample."""
    weight = method.confusion_weight(adv, entry.inputs["labels"])
    assert not weight.requires_grad
    entry.close("constant", method.settings.csr_weight * (weight * weight.log()).mean())


@check("csr_full_step_tinyconv")
def csr_full_step(entry: Entry) -> None:
    method = csr_with_weights(entry)
    run = one_step(entry, method)
    adversarial = run.steps[0].student[ADVERSARIAL_AGAIN]
    entry.close("predictions", adversarial.argmax(1))
    entry.close("sample_weights", method.confusion_weight(adversarial, entry.inputs["labels"]))
    close_constant(entry, method, adversarial)
    close_parts(entry, method, run.steps[0])
    close_step(entry, run)


@check("csr_confusion_pass_tinyconv")
def csr_confusion_pass(entry: Entry) -> None:
    given = entry.inputs
    method = method_of(entry, "csr", len(given["model"]["fc.bias"]), gamma=given["gamma"], clamp_start=False)
    learnt = watched_confusion(method)
    batches = list(zip(given["batches_x"], given["batches_labels"], strict=True))
    run = run_of(entry, method)
    run.count_confusion(batches, given["start_noise_uniform"] / given["epsilon"])
    passes = run.student.log[given["steps"] :: given["steps"] + 1]
    entry.close("x_adv", torch.stack([each["x"] for each in passes]))
    entry.close("adv_logits", torch.stack([each["logits"] for each in passes]))
    entry.close("confusion", learnt["confusion"][0])
    entry.close("weights", learnt["weights"][0])
    assert set(run.student.modes) == {"eval"}


@check("trace_csr")
def trace_csr(entry: Entry) -> None:
    given, settings = entry.inputs, entry.settings
    assert (given["confusion_epsilon"], given["confusion_step_size"]) == (settings["eps"], settings["step_size"])
    assert given["confusion_steps"] == settings["steps"]
    chosen = {"beta": given["beta"], "gamma": given["gamma"], "clamp_start": False}
    method = method_of(entry, "csr", len(given["student"]["fc.bias"]), **chosen)
    learnt = watched_confusion(method)
    close_trace(entry, method)
    entry.close("confusion_per_epoch", torch.stack(learnt["confusion"]))
    entry.close("weights_per_epoch", torch.stack(learnt["weights"]))


# FAIR-TAT


@check("fairtat_class_statistics(_imbalanced)?")
def fairtat_class_statistics(entry: Entry) -> None:
    """Section 3: ours divides by class counts; times n_c C / N it is the released accuracy, which makes the radius."""
    given = entry.inputs
    classes = given["adv_logits"].shape[-1]
    found: dict[str, list[Tensor]] = {}
    for logits, labels, targets in zip(*(given[key].flatten(1, 2) if key == "adv_logits" else given[key].flatten(1)
                                         for key in ("adv_logits", "labels", "targets")), strict=True):  # fmt: skip
        for prefix, right in (("robust", labels), ("target", targets)):
            method = learnt_in_an_epoch(entry, logits, right)
            score = method.state["target_score"]
            correct = ClassSums(classes)
            correct.add(logits.argmax(1) == right, labels)
            accuracy = correct.total * classes / len(labels)
            wrong = correct.count - correct.total
            start = "target_" if prefix == "target" else ""
            rows = {f"{prefix}_accuracy": accuracy, f"{start}cfps": score / 2, f"{start}cfns": wrong / wrong.sum()}
            if prefix == "robust":
                own = method.margin_policy.state["train_robust_accuracy"].double()
                torch.testing.assert_close(own.nan_to_num(), correct.mean().nan_to_num(), rtol=1e-6, atol=0)
                rows["class_eps"] = radii(entry, accuracy, given["lambda_r"])
                rows |= {"target_scores": score, "target_probabilities": score.softmax(0)}
            for key, row in rows.items():
                found.setdefault(key, []).append(row)
    for key, row in found.items():
        entry.close(key, torch.stack(row))


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
    policy.sums["correct"].total, policy.sums["correct"].count = statistic.double(), torch.ones(classes).double()
    policy.end_epoch(EpochEnd(0, 300, 1.0))
    return torch.as_tensor(policy.radius(torch.arange(classes), entry.inputs["eps"], 1.0)[0]).double()


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
    inject(method, iter([given["targets"]] if given["targeted"] else []))
    run = one_step(entry, method)
    entry.close("robust_logits", run.attacked["logits"])
    close_step(entry, run)


@check("trace_fairtat")
def trace_fairtat(entry: Entry) -> None:
    given, settings = entry.inputs, entry.settings
    classes = len(given["student"]["fc.bias"])
    chosen = {"margin_base": given["lambda_r"], "unused_forward": settings["clean_pass_before_step"]}
    method = method_of(entry, "fair_tat", classes, **chosen)
    inject(method, iter(given["targets"]))
    run = close_trace(entry, method)
    scores, accuracy = run["target_score"], run["train_robust_accuracy"]
    entry.close("cfps_per_epoch", scores / 2)
    entry.close("robust_accuracy_per_epoch", accuracy)
    in_force = torch.cat([torch.zeros(1, classes, dtype=torch.float64), scores[:-1]])
    entry.close("target_probabilities_per_epoch", in_force.softmax(1))
    factors = torch.cat([torch.ones(1, classes), run["eps_factor"][:-1]])
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
