"""Classes that resist the attack are attacked harder and regularised more, weak ones less. An average of the weights
takes a network only if its worst held-out class is good enough.

    a_c       robust accuracy of class c over the last epoch's training batches
    CCM       radius (l + a_c) eps,   l 0.5 for cfa_at, 0.3 for cfa_trades
    CCR       [CE(s(x), y) + b_y KL(p_s(x) || p_s(x'))] / (1 + b_y),   b_c = (0.5 + a_c) beta,   beta 6
    FAWA      average <- 0.85 average + 0.15 weights, after epoch 50 of 200, if the worst held-out class reaches 0.2

Paper values; the margins and weights act from epoch 10 of 200, as in the code (`start_epoch: 0.05`). Released code:
training-mode attack for AT and one more clean forward after each step; decay 0.88, threshold 0.24, averaging from the
first epoch, with a random network as the average until one is accepted (never here); a_c = correct_c C / N (never
here). TRADES without CCR is divided by 1 + beta too, as there. Training option `weight_average: {kind: ema}` is the
plain average beside it.

```yaml
{method: cfa_at, attack_mode: train}
# with training: {batch_norm_pass: true, weight_average: {kind: fawa, decay: 0.88, threshold: 0.24}}
```
```bibtex
@inproceedings{wei2023cfa,
  title     = {{CFA}: Class-wise Calibrated Fair Adversarial Training},
  author    = {Wei, Zeming and Wang, Yifei and Guo, Yiwen and Wang, Yisen},
  booktitle = {IEEE/CVF Conference on Computer Vision and Pattern Recognition},
  year      = {2023},
  note      = {arXiv:2303.14460}
}
```
"""

from __future__ import annotations

from typing import Any, ClassVar

from methods.at import AT
from methods.registry import register
from methods.trades import TRADES, TradesSettings

FAWA: dict[str, Any] = {"kind": "fawa", "decay": 0.85, "threshold": 0.2, "start_epoch": 0.25}  # from epoch 50 of 200


@register("cfa_at")
class CFAAT(AT):
    """AT with class-wise margins and a fairness-aware weight average."""

    reference = "Wei et al., CVPR 2023"
    margins = "ccm"
    training: ClassVar[dict[str, Any]] = {"weight_average": FAWA}


@register("cfa_trades")
class CFATRADES(TRADES):
    """TRADES with class-wise margins, class-wise regularisation and a fairness-aware weight average."""

    reference = "Wei et al., CVPR 2023"
    weights = "ccr"
    margins: ClassVar[dict[str, Any]] = {"name": "ccm", "margin_base": 0.3}
    training: ClassVar[dict[str, Any]] = {"weight_average": FAWA}

    @classmethod
    def coefficients(cls, settings: TradesSettings) -> tuple[float, float]:
        return settings.beta / (1 + settings.beta), 1 / (1 + settings.beta)
