"""Golden checks of AT-BSL."""

from __future__ import annotations

from methods.base import ADVERSARIAL, Method
from tests.golden.file import Entry, check
from tests.golden.run import close_gradients, close_step, leaf, method_of, one_step, outer_loss
from tests.golden.traces import close_trace


def at_bsl(entry: Entry) -> Method:
    """AT-BSL where the classes have the entry's numbers of images."""
    counts = entry.inputs["samples_per_class"]
    method = method_of(entry, "at_bsl", len(counts))
    method.label_policy.learn_class_counts(counts)
    return method


@check("at_bsl_loss")
def at_bsl_loss(entry: Entry) -> None:
    logits = leaf(entry.inputs["adv_logits"])
    loss = outer_loss(entry, at_bsl(entry), {ADVERSARIAL: logits})
    entry.close("loss", loss)
    close_gradients(entry, loss, grad_adv_logits=logits)


@check("at_bsl_full_step_tinyconv")
def at_bsl_step(entry: Entry) -> None:
    close_step(entry, one_step(entry, at_bsl(entry)))


@check("trace_at_bsl")
def trace_at_bsl(entry: Entry) -> None:
    close_trace(entry, at_bsl(entry))
