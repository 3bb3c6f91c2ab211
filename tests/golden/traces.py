"""Golden checks of whole training runs of the released scripts, through the project's loop."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from methods.base import (
    ADVERSARIAL,
    CLEAN,
    Method,
)
from tests.golden.file import Entry, check, tiny_network
from tests.golden.run import Run, ccm_accuracy, cfa_method, method_of, start_noise


@check("trace_rslad")
def trace_rslad(entry: Entry) -> None:
    close_trace(entry, {"method": "rslad", "coef_adv": entry.settings["coef_adv"]})


@check("trace_absld_(official|intended)")
def trace_absld(entry: Entry) -> None:
    chosen = {
        key: entry.settings[key] for key in ("coef_adv", "temperature_rate", "temperature_range", "temperature_init")
    }
    run = close_trace(entry, {"method": "absld", "class_statistic": "sum", **chosen})
    for short, term in (("adv", ADVERSARIAL), ("nat", CLEAN)):
        entry.close(f"per_epoch.class_labels_temp_{short}", run[f"temperature_{term}"])
        entry.close(f"per_epoch.class_labels_total_loss_{short}", run[f"class_loss_{term}"])


@check("trace_fair_(rslad|ard)")
def trace_fair(entry: Entry) -> None:
    """Section 3.1: ours divides a class's kappas by its own count. The released N / C, wrong for these unequal
    classes, is put in from outside."""
    kappa = {"name": "kappa", "beta": entry.inputs["beta"], "weight_range": entry.settings["weight_clamp"]}
    kappa["kappa_eps"] = entry.settings["weight_eps"]
    chosen = {"weights": kappa} | _ard_settings(entry)
    method = method_of(entry, entry.check.removeprefix("trace_"), len(entry.inputs["student"]["fc.bias"]), **chosen)
    sums = method.weight_policy.sums["kappa"]
    mean = sums.mean

    def as_released() -> Tensor:
        balanced = sums.total * len(sums.count) / sums.count.sum()
        torch.testing.assert_close(mean() * sums.count, sums.total)
        return balanced

    sums.mean = as_released  # type: ignore[method-assign]
    run = close_trace(entry, method)
    entry.close("per_epoch.Kappa_total", run["kappa"])
    entry.close("per_epoch.reweight", run["weight"])


@check("trace_ard")
def trace_ard(entry: Entry) -> None:
    """The released decay starts again from the base rate: `decay_rule: restart` (section 2.3)."""
    close_trace(entry, {"method": "ard"} | _ard_settings(entry))


def _ard_settings(entry: Entry) -> dict[str, Any]:
    given = entry.inputs
    if "temperature" not in given:
        return {}
    return {"alpha": given["alpha"], "distill_temperature": given["temperature"], "clamp_start": False}


@check("trace_trades")
def trace_trades(entry: Entry) -> None:
    close_trace(entry, {"method": "trades", "beta": entry.inputs["beta"]})


@check("trace_cfa_(at|trades)(_[a-z0-9_]+)?")
def trace_cfa(entry: Entry) -> None:
    """Clean accuracy is that of the extra pass after each step. Ours divides by class counts; times n_c C / N it is
    the released one (4.1)."""
    name = "cfa_at" if "cfa_at" in entry.check else "cfa_trades"
    method = cfa_method(entry, {"method": name}, entry.settings["eps"])
    run = close_trace(entry, method)
    trained = run["run"]
    forwards = len(trained.student.log) // len(trained.steps)
    labels = entry.inputs["batches_labels"].flatten()
    passes = {"clean": [trained.student.log[(step + 1) * forwards - 1]["logits"] for step in range(len(trained.steps))]}
    passes["robust"] = [step.student[ADVERSARIAL] for step in trained.steps]
    for kind, logits in passes.items():
        accuracy, share = ccm_accuracy(entry, torch.cat(logits).detach(), labels)
        entry.close(f"train_{kind}_acc", accuracy.nan_to_num() @ share)
        entry.close(f"class_{kind}", accuracy.nan_to_num() * share * len(share))


def close_trace(entry: Entry, method: Any) -> dict[str, Any]:
    """Train as the released script did; compare losses, rates and states. Class quantities by name, one row per
    epoch, and the run itself."""
    given, settings = entry.inputs, entry.settings
    student = tiny_network(given["student_arch"], given["student"], settings)
    if not isinstance(method, Method):
        method = method_of(entry, method.pop("method"), len(given["student"]["fc.bias"]), **method)
    teachers = {"teacher": tiny_network(given["teacher_arch"], given["teacher"])} if "teacher" in given else {}
    epochs = given.get("epochs", 1)
    run = Run(
        entry,
        method,
        student,
        teachers,
        eps=settings["eps"],
        step_size=settings["step_size"],
        attack_steps=settings["steps"],
        lr=settings["lr"],
        momentum=settings["momentum"],
        weight_decay=settings["weight_decay"],
        nesterov=settings["nesterov"],
        milestones=tuple(settings["lr_milestones"]),
        decay_rule="restart" if "ard" in entry.check else "cumulative",
        batch_norm_pass=settings.get("clean_pass_after_step", False),
        epochs=epochs,
    )
    found = _train(run, epochs)
    entry.close("loss_per_step", torch.stack(found["losses"]))
    entry.close("final_state", student.state_dict())
    if "lr_per_step" in entry.outputs:
        entry.close("lr_per_step", run.rates)
    if "state_after_first_step" in entry.outputs:
        entry.close("state_after_first_step", found["first_state"])
    return {key: torch.stack(rows) for key, rows in found["classes"].items()} | {"run": run}


def _train(run: Run, epochs: int) -> dict[str, Any]:
    """All epochs of an entry's batches: losses per step, the state after the first one, class quantities per epoch."""
    given = run.entry.inputs
    batches = list(zip(given["batches_x"], given["batches_labels"], strict=True))
    noise = iter(start_noise(given, run.entry.settings["eps"]))
    per_epoch = len(batches) // epochs
    found: dict[str, Any] = {"losses": [], "classes": {}}

    def first_state(chunk: list[tuple[Tensor, Tensor]]) -> Iterator[tuple[Tensor, Tensor]]:
        for index, batch in enumerate(chunk):
            if index == 1:
                found.setdefault("first_state", {key: value.clone() for key, value in run.student.state_dict().items()})
            yield batch

    for epoch in range(epochs):
        chosen = slice(epoch * per_epoch, (epoch + 1) * per_epoch)
        if "confusion_start_noise_uniform" in given:
            run.count_confusion(batches[chosen], given["confusion_start_noise_uniform"][chosen] / run.trainer.eps)
        run.epoch(first_state(batches[chosen]), noise)
        found["losses"] += run.trainer.losses
        for key, value in run.method.class_state().items():
            found["classes"].setdefault(key, []).append(value)
    found.setdefault("first_state", run.student.state_dict())
    return found
