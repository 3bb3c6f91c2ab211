"""The student learns the labels on adversarial images alone. The attack maximises the same loss.

    CE(s(x'), y),   x' = argmax CE(s(x'), y) from a uniform start

Released code: attack in training mode.

```yaml
{method: at, attack_mode: train}
```
```bibtex
@inproceedings{madry2018towards,
  title     = {Towards Deep Learning Models Resistant to Adversarial Attacks},
  author    = {Madry, Aleksander and Makelov, Aleksandar and Schmidt, Ludwig and Tsipras, Dimitris and Vladu, Adrian},
  booktitle = {International Conference on Learning Representations},
  year      = {2018},
  note      = {arXiv:1706.06083}
}
```
"""

from __future__ import annotations

from methods.base import ADVERSARIAL, Method
from methods.registry import register


@register("at")
class AT(Method):
    """Adversarial training (PGD-AT)."""

    reference = "Madry et al., ICLR 2018"
    forwards: tuple[str, ...] = (ADVERSARIAL,)
