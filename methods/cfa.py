"""CFA, class-wise calibrated fair adversarial training: Wei, Wang, Guo, Wang, CVPR 2023, arXiv 2303.14460; reference
sheet 4.1.

Three parts: class-wise margins (CCM) and class-wise regularisation (CCR) in `methods.policies.cfa`, and a
fairness-aware weight average (FAWA), an option of the training loop. Paper values here; the released defaults are
decay 0.88, threshold 0.24, and an average from the first epoch.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, ClassVar

from methods.at import AT
from methods.registry import register
from methods.trades import TRADES

FAWA: dict[str, Any] = {"kind": "fawa", "decay": 0.85, "threshold": 0.2, "start_epoch": 0.25}  # from epoch 50 of 200


@register("cfa_at")
class CFAAT(AT):
    """CE(s(x'), y), where x' may move by (0.5 + a_y) eps, a_y being the class's robust accuracy on the last epoch's
    training batches.

    The released code attacks in train mode (`attack_mode: train`) and passes the clean batch again after each step
    (`training.batch_norm_pass: true`).
    """

    reference = "Wei et al., CVPR 2023"
    margins = "ccm"
    training: ClassVar[dict[str, Any]] = {"weight_average": FAWA}


@register("cfa_trades")
class CFATRADES(TRADES):
    """[CE(s(x), y) + beta_y KL(s(x) || s(x'))] / (1 + beta_y), beta_y = (0.5 + a_y) beta, radius (0.3 + a_y) eps.

    Without CCR the loss is divided by 1 + beta too, as in CFA's code: seven times smaller than TRADES proper.
    """

    reference = "Wei et al., CVPR 2023"
    weights = "ccr"
    margins: ClassVar[dict[str, Any]] = {"name": "ccm", "margin_base": 0.3}
    training: ClassVar[dict[str, Any]] = {"weight_average": FAWA}

    @classmethod
    def coefficients(cls, settings: SimpleNamespace) -> tuple[float, float]:
        return settings.beta / (1 + settings.beta), 1 / (1 + settings.beta)
