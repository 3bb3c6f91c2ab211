"""Fair-ARD, Fair-RSLAD, Fair-IAD: Yue, Mou, Wang, Zhao, "Revisiting Adversarial Robustness Distillation from the
Perspective of Robust Fairness", NeurIPS 2023; reference sheet 3.1. Each is its base method with the kappa weights of
`methods.policies.kappa` on every term: classes whose samples resist the attack for fewer steps count more. Fair-MTARD
is `{method: mtard, weights: kappa}`."""

from __future__ import annotations

from methods.ard import ARD
from methods.iad import IAD
from methods.registry import register
from methods.rslad import RSLAD


@register("fair_ard")
class FairARD(ARD):
    """w_y [alpha T^2 KL(sm(t(x)/T) || sm(s(x')/T)) + (1 - alpha) CE(s(x), y)]. The released code attacks, and counts,
    in train mode (`attack_mode: train`), averages over classes (`kd_reduction: class_mean`) and uses Nesterov
    momentum (`training.nesterov`)."""

    reference = "Yue et al., NeurIPS 2023"
    weights = "kappa"


@register("fair_rslad")
class FairRSLAD(RSLAD):
    """w_y [5/6 KL(t(x) || s(x')) + 1/6 KL(t(x) || s(x))], kappa counted in evaluation mode. The released code adds
    nothing to kappa (`kappa_eps: 0`), so that a class that never resists makes the loss NaN; here it gets the largest
    weight."""

    reference = "Yue et al., NeurIPS 2023"
    weights = "kappa"


@register("fair_iad")
class FairIAD(IAD):
    """w_y times IAD-I's loss."""

    reference = "Yue et al., NeurIPS 2023"
    weights = "kappa"
