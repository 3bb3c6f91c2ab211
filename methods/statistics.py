"""Sums over the samples of each class, the only memory that a fair method has of an epoch."""

from __future__ import annotations

from methods.lazy import torch


class ClassSums:
    """Running sum and count per class, in float64, of a value per sample: (C,), or (C, K) for vectors such as a
    softmax.

    Kept on the device of what is added; one all-reduce of `total` and `count` per epoch would serve data parallelism.
    """

    def __init__(self, num_classes: int, width: int | None = None, device: torch.device | None = None) -> None:
        self.shape = (num_classes,) if width is None else (num_classes, width)
        self.reset(device)

    def reset(self, device: torch.device | None = None) -> None:
        """Forget everything: the start of an epoch. device: where the next samples will be."""
        self.total = torch.zeros(self.shape, dtype=torch.float64, device=device)
        self.count = torch.zeros(self.shape[0], dtype=torch.float64, device=device)

    def add(self, values: torch.Tensor, labels: torch.Tensor) -> None:
        """Add values (B,) or (B, K) of samples with labels (B,). A matrix product, so that the sum has one order on
        every device."""
        self.to(labels.device)
        member = torch.nn.functional.one_hot(labels, self.shape[0]).to(torch.float64)
        self.total += member.T @ values.detach().to(torch.float64)
        self.count += member.sum(0)

    def mean(self) -> torch.Tensor:
        """The mean per class, float64; NaN for a class that was not seen."""
        count = self.count if self.total.dim() == 1 else self.count[:, None]
        return self.total / torch.where(count > 0, count, torch.nan)

    def to(self, device: torch.device) -> None:
        """Move to a device; free when already there."""
        self.total, self.count = self.total.to(device), self.count.to(device)

    def state_dict(self) -> dict[str, torch.Tensor]:
        return {"total": self.total, "count": self.count}

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        self.total, self.count = state["total"].clone(), state["count"].clone()
