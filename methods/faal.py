"""FAAL, fairness-aware adversarial learning: Zhang, Zhang, Mu, Huang, Ruan, CVPR 2024, arXiv 2402.17729; reference
sheet 4.5."""

from __future__ import annotations

from methods.at import AT
from methods.registry import register


@register("faal")
class FAAL(AT):
    """(C/B) sum p_y CE(s(x'), y): in every batch the worst class distribution p within a KL ball around the uniform one
    (`methods.policies.faal`). The paper fine-tunes a robust network for two epochs."""

    reference = "Zhang et al., CVPR 2024"
    weights = "faal"
    needs_init = True
