"""In every batch, the class distribution is the worst one near the uniform distribution. A robust network is fine-tuned
for two epochs.

    m_c       mean over the class in the batch of (largest other probability - p_y), on x' in training mode; absent: -1
    p = argmax sum_c p_c n_c m_c   with sum p = 1, KL(U || p) <= 0.5;   p_c ~ 1 / (nu - n_c m_c), nu by search
    (C / B) sum p_y CE(s(x'), y)

Released code: a cone solver (equal to 2e-4). Its objective counts a class once per sample, hence n_c: kept; without
it:

```yaml
{method: faal, per_class: true}
```
```bibtex
@inproceedings{zhang2024towards,
  title     = {Towards Fairness-Aware Adversarial Learning},
  author    = {Zhang, Yanghao and Zhang, Tianle and Mu, Ronghui and Huang, Xiaowei and Ruan, Wenjie},
  booktitle = {IEEE/CVF Conference on Computer Vision and Pattern Recognition},
  year      = {2024},
  note      = {arXiv:2402.17729}
}
```
"""

from __future__ import annotations

from methods.at import AT
from methods.registry import register


@register("faal")
class FAAL(AT):
    """AT weighed by the worst class distribution near the uniform one."""

    reference = "Zhang et al., CVPR 2024"
    weights = "faal"
    needs_init = True
