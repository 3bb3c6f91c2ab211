"""An entry as a method, as a step, and as a run of the project's own training loop."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

import methods
from harness.spec import TrainingSpec
from harness.training.trainer import Trainer
from methods.base import ADVERSARIAL, EpochEnd, Method, Step
from methods.trades import TRADES
from tests.golden.file import Entry, gradients, tiny_network

EPS = 8 / 255  # what the released scripts hard-wire where an entry does not say
LR = 1e-30  # a step that moves nothing: the state is that of the forwards


def method_of(entry: Entry, name: Any, num_classes: int, epochs: int = 300, **given: Any) -> Method:
    """A registered method with the entry's settings; one that the method does not have must be what it does anyway."""
    resolved = methods.resolve({"method": name, **given}, epochs)
    known = {key for part in resolved.values() if isinstance(part, dict) for key in part}
    neutral = {"kd_reduction": "class_sum", "target_log_eps": 0.0, "alias_teacher": False, "attack_mode": "eval"}
    for key in entry.settings.keys() & neutral.keys():
        if key in known:
            given[key] = entry.settings[key]
        else:
            assert entry.settings[key] == neutral[key], f"{name} has no {key}"
    method = methods.build(methods.resolve({"method": name, **given}, epochs), num_classes)
    for part in method.parts:
        part.to(entry.device)
    return method


def observe(method: Method, step: Step) -> None:
    """What the loop does with a batch before the loss."""
    for part in method.parts:
        part.observe(step)


def end_epoch(method: Method, end: EpochEnd) -> None:
    """What the loop does after the last batch."""
    for part in method.parts:
        part.end_epoch(end)


def leaf(logits: Tensor) -> Tensor:
    return logits.clone().requires_grad_()


def labels_of(entry: Entry, batch: int) -> Tensor:
    return entry.inputs.get("labels", torch.zeros(batch, dtype=torch.int64, device=entry.device))


def teach(**logits: Tensor) -> dict[tuple[str, str], Tensor]:
    """teacher_clean=... as `Step.teacher` has it."""
    return {(name.rpartition("_")[0], name.rpartition("_")[2]): value for name, value in logits.items()}


class Run:
    """One or more steps of the project's training loop on an entry's network, with the entry's noise; what it saw."""

    def __init__(
        self, entry: Entry, method: Method, student: Any, teachers: Mapping[str, nn.Module], **training: Any
    ) -> None:
        eps = training.pop("eps")
        spec = {"epochs": 1, "momentum": 0.0, "weight_decay": 0.0, "lr": LR} | training
        self.entry, self.method, self.student = entry, method, student
        self.trainer = Trainer(
            student, method, teachers, TrainingSpec(**spec), eps=eps, engine="plain", device=entry.device
        )
        self.steps: list[Step] = []
        self.rates: list[float] = []
        observe = method.observe

        def watched(step: Step) -> None:
            self.steps.append(step)
            observe(step)

        method.observe = watched  # type: ignore[method-assign]

    def epoch(self, batches: Iterable[tuple[Tensor, Tensor]], noise: Iterator[Tensor]) -> None:
        def watched() -> Iterator[tuple[Tensor, Tensor]]:
            for batch in batches:
                self.rates.append(self.trainer.optimizer.param_groups[0]["lr"])
                yield batch

        self.trainer.train_epoch(watched(), lambda start, x: next(noise))

    def count_confusion(self, batches: Iterable[tuple[Tensor, Tensor]], noise: Iterable[Tensor]) -> None:
        """What the loop does before an epoch for a method that learns from it."""
        drawn = iter(noise)
        for _ in self.trainer.count_confusion(batches, lambda start, x: next(drawn)):
            pass

    @property
    def attacked(self) -> dict[str, Any]:
        """The record of the forward on x', the first after the attack."""
        index = list(self.method.forwards).index(ADVERSARIAL)
        return self.student.log[len(self.student.log) - len(self.method.forwards) + index]


def run_of(entry: Entry, method: Method, teachers: Mapping[str, nn.Module] | None = None) -> Run:
    """The entry's network in the loop, before its first step."""
    given = entry.inputs
    student = tiny_network(given["arch"], given["model"], given)
    attack = {"eps": given.get("epsilon", EPS), "step_size": given["step_size"], "attack_steps": given["steps"]}
    return Run(entry, method, student, teachers or {}, **attack)


def one_step(entry: Entry, method: Method, teachers: Mapping[str, nn.Module] | None = None) -> Run:
    """Attack and update once on the entry's batch."""
    given, run = entry.inputs, run_of(entry, method, teachers)
    run.trainer.begin_epoch()
    batch = (given["x"], labels_of(entry, len(given["x"])))
    list(run.trainer.train_steps([batch], lambda start, x: start_noise(given, run.trainer.eps)))
    return run


def start_noise(given: Mapping[str, Any], eps: float) -> Tensor:
    """The entry's start noise as the loop takes it: standard normal, or in [-1, 1]."""
    if "start_noise_standard_normal" in given:
        return given["start_noise_standard_normal"]
    return 2 * given["start_uniform01"] - 1 if "start_uniform01" in given else given["start_noise_uniform"] / eps


def outer_loss(entry: Entry, method: Method, leaves: Mapping[str, Tensor], **step: Any) -> Tensor:
    """The batch mean of a method's loss on given logits, named by forward."""
    batch = len(next(iter(leaves.values())))
    record = Step(labels_of(entry, batch), step.pop("epoch", 0), leaves, **step)
    observe(method, record)
    return method.loss(record).mean()


def close_terms(
    entry: Entry, method: Method, leaves: Mapping[str, Tensor], teacher: Mapping[tuple[str, str], Tensor]
) -> None:
    """kl_adv and kl_nat: the weighted batch means of the two terms, without coefficients."""
    step = Step(labels_of(entry, len(leaves[ADVERSARIAL])), 0, leaves, teacher)
    weights = method.weight_policy.weights(step, *method.coefficients(method.settings))
    for key, term, weight in zip(("kl_adv", "kl_nat"), method.terms(step), weights, strict=True):
        entry.close(key, (weight * term).mean())


def close_gradients(entry: Entry, loss: Tensor, **leaves: Tensor) -> None:
    """Gradients by output key, as far as the entry has them."""
    for key, value in gradients(loss, **leaves).items():
        if key in entry.outputs:
            entry.close(key, value)


def cfa_method(entry: Entry, given: dict[str, Any], eps: float) -> Method:
    """CFA with the class radii and betas of an entry as its class state."""
    classes = len(entry.inputs.get("model", entry.inputs.get("student"))["fc.bias"])
    margins = "ccm" if "class_eps" in entry.inputs else "none"
    method = method_of(entry, given.pop("method"), classes, margins=margins, **given)
    if margins == "ccm":
        method.margin_policy.state["eps_factor"] = entry.inputs["class_eps"] / eps
    if "class_beta_weight" in entry.inputs:
        share = entry.inputs["class_beta_weight"]
        method.weight_policy.state["beta_factor"] = share / (1 - share) / method.settings.beta
    return method


def ccm_accuracy(entry: Entry, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """What CCM takes for the class accuracies, and the share of each class among the samples."""
    num_classes = logits.shape[1]
    policy = method_of(entry, "cfa_at", num_classes).margin_policy
    policy.observe(Step(labels, 0, {ADVERSARIAL: logits}))
    policy.end_epoch(EpochEnd(0, 1, 1.0))
    return policy.state["train_robust_accuracy"], torch.bincount(labels, minlength=num_classes) / len(labels)


def close_step(entry: Entry, run: Run) -> None:
    """Attack point, loss, gradients, state and forwards of one step."""
    entry.close("x_adv", run.attacked["x"])
    entry.close("loss", run.trainer.losses[0])
    entry.close("grad_fc_weight", run.student.fc.weight.grad)
    entry.close("grad_conv_weight", run.student.conv.weight.grad)
    entry.close("state_after", run.student.state_dict())
    entry.close("forward_modes", run.student.modes)


def close_parts(entry: Entry, method: Method, step: Step) -> None:
    """The two terms of TRADES of a method that is made of it: the weighted CE and the KL, without coefficients."""
    robust, natural = TRADES.terms(method, step)  # type: ignore[arg-type]
    _, weight = method.weight_policy.weights(step, *method.coefficients(method.settings))
    entry.close("parts.natural", (weight * natural).mean())
    entry.close("parts.robust", robust.mean())


def inject_targets(method: Any, targets: Iterable[Tensor]) -> None:
    """Let the classes that the attacks lead to be the entry's, batch by batch."""
    given = iter(targets)
    method.target_class = lambda view: next(given)
