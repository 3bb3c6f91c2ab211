"""One expert per class, and one for the average, bid with their losses on held-out data so far. Exponential weights
follow the bids.

    cost_c    mean CE + 6 mean KL of class c, held out, under the TRADES attack; average expert: over all samples
    w = C softmax(0.1 sum over epochs of cost), C + 1 experts;   at first C / (C + 1) each
    (w_y + w_average) [CE(s(x), y) + 6 KL(p_s(x) || p_s(x'))]

Released code: all weights 1 in the first epoch, which doubles its loss; costs divided by batches times 128 instead of
samples; an exponential that overflows. None is an option. `average_expert: false` leaves the average expert out.

```bibtex
@inproceedings{li2023wat,
  title     = {{WAT}: Improve the Worst-Class Robustness in Adversarial Training},
  author    = {Li, Boqi and Liu, Weiwei},
  booktitle = {AAAI Conference on Artificial Intelligence},
  year      = {2023},
  note      = {arXiv:2302.04025}
}
```
"""

from __future__ import annotations

from methods.base import ADVERSARIAL, CLEAN
from methods.registry import register
from methods.trades import TRADES


@register("wat")
class WAT(TRADES):
    """TRADES with no-regret class weights."""

    reference = "Li and Liu, AAAI 2023"
    weights = "wat"
    forwards = (CLEAN, ADVERSARIAL)
