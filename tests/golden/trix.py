"""Golden checks of TRIX."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from methods.base import ADVERSARIAL, CLEAN, Method, Step
from methods.policies.dafa import balance
from methods.statistics import ClassSums
from tests.golden.draws import drawn_at, never_own_and_even
from tests.golden.file import Entry, check
from tests.golden.run import (
    close_gradients,
    close_parts,
    close_step,
    inject_targets,
    leaf,
    method_of,
    one_step,
    outer_loss,
)
from tests.golden.traces import close_trace


@check("trix_target_weights")
def trix_target_weights(entry: Entry) -> None:
    close_split(entry, method_of(entry, "trix", entry.inputs["num_classes"]))


@check("trix_target_weights_tie")
def trix_target_weights_tie(entry: Entry) -> None:
    """Section 1: a tie changes nothing; the released code takes S[j, i] S[i, i] from both. That is put in here."""
    probs, labels, classes = entry.inputs["probs"], entry.inputs["labels"], entry.inputs["num_classes"]
    method: Any = method_of(entry, "trix", classes)
    method.strength = entry.inputs["lam"]
    similarity = class_means(probs, labels, classes)
    own = similarity.diagonal()
    tied = (own[:, None] == own) & ~torch.eye(classes, dtype=torch.bool, device=entry.device)
    assert tied.any()
    torch.testing.assert_close(method.balance(probs, labels), balance(similarity, entry.inputs["lam"]))
    ours = method.balance

    def released(clean: Tensor, labels: Tensor) -> Tensor:
        return ours(clean, labels) - entry.inputs["lam"] * (similarity.T * own[:, None] * tied).sum(1)

    method.balance = released
    close_split(entry, method)


def close_split(entry: Entry, method: Any) -> None:
    probs, labels = entry.inputs["probs"], entry.inputs["labels"]
    method.strength = entry.inputs["lam"]
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
        targets[own] = torch.tensor([next(redraws) for _ in range(int(own.sum()))], device=entry.device)
        rounds += 1
    entry.close("rounds", rounds)
    scores = torch.zeros(int(torch.cat([labels, first, targets]).max()) + 1, device=entry.device)
    entry.close("targets", drawn_at(scores, labels, targets))
    never_own_and_even(scores)


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


@check("trix_full_step_tinyconv")
def trix_full_step(entry: Entry) -> None:
    classes = len(entry.inputs["class_weights"])
    method: Any = with_weights(entry, method_of(entry, "trix", classes, beta=entry.inputs["beta"]))
    inject_targets(method, [entry.inputs["drawn_targets"]])
    seen = watched_split(method)
    run = one_step(entry, method)
    targeted = seen["targeted"][0]
    entry.close("target_weights", seen["balance"][0])
    entry.close("targeted", targeted)
    entry.close("attack_labels", torch.where(targeted, entry.inputs["drawn_targets"], entry.inputs["labels"]))
    close_parts(entry, method, run.steps[0])
    close_step(entry, run)


def watched_split(method: Any) -> dict[str, list[Tensor]]:
    """What TRIX finds of each batch: v, and who is targeted."""
    seen: dict[str, list[Tensor]] = {"targeted": [], "balance": []}

    def watch(name: str) -> None:
        find = getattr(method, name)

        def watched(clean: Tensor, labels: Tensor) -> Tensor:
            seen[name].append(find(clean, labels))
            return seen[name][-1]

        setattr(method, name, watched)

    for name in seen:
        watch(name)
    return seen


@check("trace_trix")
def trace_trix(entry: Entry) -> None:
    given = entry.inputs
    warm_up = {"name": "dafa", "similarity_strength": given["lam"], "start_epoch": given["warmup_epochs"]}
    classes = len(given["student"]["fc.bias"])
    method = method_of(entry, "trix", classes, beta=given["beta"], weights=warm_up, margins={**warm_up})
    inject_targets(method, given["drawn_targets"])
    seen = watched_split(method)
    run = close_trace(entry, method)
    entry.close("targeted", torch.stack(seen["targeted"]))
    in_force = torch.cat([torch.ones_like(run["dafa_weight"][:1]), run["dafa_weight"][:-1]])
    entry.close("class_weights_per_epoch", in_force)
