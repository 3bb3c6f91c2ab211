"""Classes whose samples give in to the attack sooner count more. The weights multiply every term of the base method.

    kappa_i   iterates of the attack that are still classified right (the start counts, the last does not): 0 to 10
    K_c       mean kappa of class c over the epoch
    w_c       (1 / (K_c + 1e-5))^2, scaled to sum C, then clamped to [5/6, 5/2]

Weights are 1 in the first epoch. They do not average 1 after the clamp, so that the step size changes with
unfairness: kept, and the mean weight is logged; `renormalize: true` scales again. Released code: Nesterov momentum;
Fair-ARD and Fair-IAD as ARD and IAD; Fair-RSLAD without the 1e-5, where a class that never resists turns the loss
into NaN (`kappa_eps: 0` here gives it the largest weight); K_c divided by N/C (never here). Fair-MTARD is `{method:
mtard, weights: kappa}`.

```yaml
{method: fair_ard, kd_reduction: class_mean, attack_mode: train, clamp_start: false}
# with training: {nesterov: true, decay_rule: restart}
```
```yaml
# released Fair-MTARD: the clean term is taught by the robust teacher on x'
{method: mtard, weights: kappa, crossed_teacher: true}
```
```bibtex
@inproceedings{yue2023revisiting,
  title     = {Revisiting Adversarial Robustness Distillation from the Perspective of Robust Fairness},
  author    = {Yue, Xinli and Mou, Ningping and Wang, Qian and Zhao, Lingchen},
  booktitle = {Advances in Neural Information Processing Systems},
  year      = {2023}
}
```
"""

from __future__ import annotations

from methods.ard import ARD
from methods.iad import IAD
from methods.registry import register
from methods.rslad import RSLAD


@register("fair_ard")
class FairARD(ARD):
    """ARD with kappa weights."""

    reference = "Yue et al., NeurIPS 2023"
    weights = "kappa"


@register("fair_rslad")
class FairRSLAD(RSLAD):
    """RSLAD with kappa weights."""

    reference = "Yue et al., NeurIPS 2023"
    weights = "kappa"


@register("fair_iad")
class FairIAD(IAD):
    """IAD-I with kappa weights."""

    reference = "Yue et al., NeurIPS 2023"
    weights = "kappa"
