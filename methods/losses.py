"""Pure functions of logits, shared by the methods. Every one returns a value per sample, (B,); nothing is averaged
here.

Logits are (B, C), labels (B,) int64. "KL(p || q)" has the target (teacher or clean) first.
"""

from __future__ import annotations

from methods.lazy import torch


def cross_entropy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """CE(logits, y) per sample."""
    return torch.nn.functional.cross_entropy(logits, labels, reduction="none")


def soft_cross_entropy(target: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    """-sum_k p_k log sm(logits)_k per sample, for target probabilities p (B, C): KL(p || sm(logits)) without the
    entropy of p."""
    return -(target * logits.log_softmax(1)).sum(1)


def kl(target_logits: torch.Tensor, logits: torch.Tensor, target_log_eps: float = 0.0) -> torch.Tensor:
    """KL(sm(target) || sm(logits)) per sample, summed over classes; gradients flow into both arguments unless one is
    detached.

    target_log_eps: the constant of the RSLAD family's released code, log(p + 1e-5) in the target's entropy. It
        shifts the value and leaves the gradient of `logits` as it is.
    """
    target = target_logits.softmax(1)
    log_target = (target + target_log_eps).clamp(min=torch.finfo(target.dtype).tiny).log()
    # The two products apart: the difference of the logarithms loses five digits where both are nearly uniform (ARD's
    # temperature of 30).
    return (target * log_target - target * logits.log_softmax(1)).sum(1)


def kl_to_uniform(logits: torch.Tensor) -> torch.Tensor:
    """KL(sm(logits) || uniform) per sample: log C minus the entropy."""
    log_probability = logits.log_softmax(1)
    return (log_probability.exp() * log_probability).sum(1) + torch.log(torch.tensor(float(logits.shape[1])))


def margin(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """z_y minus the largest other logit, per sample: negative where the sample is misclassified."""
    others = logits.scatter(1, labels[:, None], -torch.inf).amax(1)
    return logits.gather(1, labels[:, None])[:, 0] - others


KD_REDUCTIONS = ("tenth_sum", "class_mean", "class_sum")


def kd_scale(reduction: str, num_classes: int) -> float:
    """The factor on a class-summed KL. `tenth_sum` (0.1 for every C) equals both released RSLAD scripts, C = 10
    and C = 100."""
    return {"tenth_sum": 0.1, "class_mean": 1.0 / num_classes, "class_sum": 1.0}[reduction]
