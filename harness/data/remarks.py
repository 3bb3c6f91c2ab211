"""What is odd about a data set, and read all the same: told once, and beside every table."""

from __future__ import annotations

from collections.abc import Sequence

from harness.data.sources import ImageSet

_MOST_NAMED = 5


def remarks(train: ImageSet, test: ImageSet) -> list[str]:
    """A sentence for each oddity of the two parts of a data set; none for a public one."""
    found = []
    trained, tested = (set(part.labels.unique().tolist()) for part in (train, test))
    classes = set(range(train.num_classes))
    first = min(trained | tested)
    if first > 0:
        found.append(f"labels start at {first}: class {train.class_names[0]} has no image and counts as a class")
    if between := {label for label in classes - trained - tested if label > first}:
        found.append(
            f"no image of {_named(train, between)}: the network has outputs for {len(classes)} classes all the same"
        )
    if max(int(part.images.max()) for part in (train, test)) <= 1:
        found.append("the uint8 images hold only 0 and 1, of 255: they are all but black; multiply them by 255")
    if unknown := tested - trained:
        found.append(f"the test images show {_named(train, unknown)}, of which there is no training image")
    if missing := (classes & trained) - tested:
        found.append(f"no test image of {_named(train, missing)}: not in any average, worst class or NSD")
    return found


def short_last_batch(images: int, batch_size: int) -> str | None:
    """A warning where each epoch ends on a batch of a quarter of the others or less: the running statistics of batch
    norms, with which a network is validated and tested, take their last share from its few images (a tenth of them by
    PyTorch's default). It is trained on all the same, as in papers' code.
    """
    left = images % batch_size
    if images <= batch_size or not 1 < left <= batch_size / 4:  # a single image is left out
        return None
    return (
        f"the last batch of an epoch has {left} of {batch_size} images, and the running statistics of batch norms take "
        f"their last share from it: {images - left} training images, or another batch size, leave none"
    )


def _named(part: ImageSet, classes: set[int]) -> str:
    names: Sequence[str] = [part.class_names[label] for label in sorted(classes)]
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return f"class{'es' * (len(names) > 1)} {', '.join(names[:_MOST_NAMED])}{more}"
