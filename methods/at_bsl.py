"""AT for classes with unequal numbers of training images: the balanced softmax raises each logit by the log of its
class's number while the network learns, so that what it learns does not owe its answers to how frequent a class is.

    CE(s(x') + log n, y),   n_c training images of class c;   x' = argmax CE(s(x'), y) from the normal start

The attack does not know of n, and neither does the network once it is trained. With equal classes
the loss is AT's; the paper's are long tails (`dataset: {name: cifar10, imbalance: 0.02}`). Its other half, augmentation
by AutoAugment or RandAugment, is not here. Released code: a drop of the learning rate before the 75th
and the 90th of 100 epochs (`milestones: [0.74, 0.89]`).

```yaml
{method: at_bsl}
# with CFA's margins: {method: at_bsl, margins: ccm}
```
```bibtex
@inproceedings{yue2024revisiting,
  title     = {Revisiting Adversarial Training under Long-Tailed Distributions},
  author    = {Yue, Xinli and Mou, Ningping and Wang, Qian and Zhao, Lingchen},
  booktitle = {IEEE/CVF Conference on Computer Vision and Pattern Recognition},
  year      = {2024},
  note      = {arXiv:2403.10073}
}
```
"""

from __future__ import annotations

from methods.at import AT
from methods.registry import register


@register("at_bsl")
class ATBSL(AT):
    """AT with the balanced softmax."""

    reference = "Yue et al., CVPR 2024"
    labels = "balanced"
