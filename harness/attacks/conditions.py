"""What decides an evaluation besides the network and the images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from harness.attacks.registry import ascent_settings, attack_info, check_request, own_settings, stage_names
from methods.plugins import code_of


@dataclass(frozen=True)
class Conditions:
    """Everything besides the network and the images that decides a chunk's outcomes.

    attack: a request such as {"name": "pgd20", "steps": 50}; its `images` and `checkpoints` are the caller's affair.
    eps: in pixels of [0, 1]. model_key: names the network (its sha256, its engine); only the cache looks at it.
    gradient_precision: of the gradients of PGD and its kin; what is robust is judged in float32.
    """

    attack: Mapping[str, Any]
    eps: float
    seed: int
    batch_size: int
    num_classes: int
    model_key: str = ""
    gradient_precision: str = "float32"

    @property
    def stages(self) -> tuple[str, ...]:
        return stage_names(check_request(self.attack).name, self.num_classes)

    def canonical(self) -> dict[str, Any]:
        """What decides the outcomes after every stage, as JSON values: what the attack does, not what it is called."""
        info, does = attack_info(self.attack["name"]), {}
        if info.ascent:
            does = asdict(ascent_settings(self.attack))
        elif info.function:
            does = {"name": info.name, "code": code_of(info.function), **own_settings(self.attack)}
        known = asdict(self)
        if self.gradient_precision == "float32" or not info.ascent:  # as it was before there was another
            del known["gradient_precision"]
        return {**known, "attack": does}
