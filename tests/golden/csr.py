"""Golden checks of CSR."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from methods.base import ADVERSARIAL, ADVERSARIAL_AGAIN, CLEAN, CLEAN_AGAIN
from methods.statistics import ClassSums
from tests.golden.file import Entry, check
from tests.golden.run import close_gradients, close_parts, close_step, leaf, method_of, one_step, outer_loss, run_of
from tests.golden.traces import close_trace


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
