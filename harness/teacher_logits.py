"""Teachers' logits on clean training batches, computed once for all distillation trials that see the same batches.

Order and augmentation of the batches depend on data, split, seed and student, not on the method (`harness.seeds`), so
the trials of one seed ask a teacher the same questions. Whoever comes first writes the answer down. The driver of a
run makes the folder where at least two of its trials can share, and removes it at the end; a trial that finds no folder
asks its teachers itself. Imports torch only where logits are read.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.data import DATASETS
from harness.files import make_folder
from harness.spec import TrialSpec

if TYPE_CHECKING:
    from torch import Tensor

_CHECKSUM_BYTES = 4
_MANY_IMAGES, _MANY_CLASSES = 50_000, 100  # where the data set does not say


def shared_folder(store_root: Path) -> Path:
    """Where a store's trials share their teachers' logits, while a run lasts."""
    return store_root / "work" / "teacher_logits"


@contextmanager
def sharing(store_root: Path, specs: Sequence[TrialSpec]) -> Iterator[None]:
    """Inside, those of the trials share that can."""
    folder = shared_folder(store_root)
    if shared_bytes(specs):
        make_folder(folder)
    try:
        yield
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def shared_bytes(specs: Sequence[TrialSpec]) -> int:
    """How much disk the logits take that at least two of the trials need, at most."""
    asking = [spec for spec in specs if spec.training is not None and spec.teachers]
    users = Counter(_text(_facts(spec)) for spec in asking)
    sizes = {_text(_facts(spec)): _bytes(spec) for spec in asking}
    return sum(sizes[facts] for facts, count in users.items() if count > 1)


def epoch_facts(spec: TrialSpec, epoch: int, device: str) -> dict[str, Any]:
    """Everything that decides the logits of one epoch, as plain values."""
    import torch

    return {**_facts(spec), "epoch": epoch, "where": [device, torch.__version__]}


def _facts(spec: TrialSpec) -> dict[str, Any]:
    """What trials with the same questions have in common."""
    assert spec.training is not None
    return {
        "batches": [spec.split_seed, spec.seed, spec.student.label, spec.training.batch_size],
        "dataset": spec.dataset.model_dump(mode="json"),
        "teachers": {name: source.training or source.sha256 for name, source in spec.teachers.items()},
        "arithmetic": [spec.engine, spec.precision, spec.threads],
    }


def _text(facts: dict[str, Any]) -> str:
    return json.dumps(facts, sort_keys=True)


def _bytes(spec: TrialSpec) -> int:
    assert spec.training is not None
    images = spec.dataset.train_images or _MANY_IMAGES
    classes = DATASETS[spec.dataset.name].num_classes or _MANY_CLASSES
    records = images * classes * 4 + _CHECKSUM_BYTES * -(-images // spec.training.batch_size)
    return spec.training.epochs * len(spec.teachers) * records


class SharedLogits:
    """The answers on the batches of one epoch, one file per teacher: a record of fixed size for each batch, with a
    checksum, so that a record that was never written, or not to its end, reads as missing.

    folder: `shared_folder`; where it is missing, everything is computed. facts: `epoch_facts`.
    """

    def __init__(self, folder: Path, facts: dict[str, Any], batch_size: int, num_classes: int) -> None:
        self._folder, self._facts = folder, facts
        self._num_classes = num_classes
        self._record_bytes = batch_size * num_classes * 4 + _CHECKSUM_BYTES
        self._files: dict[str, int | None] = {}

    def answer(self, teacher: str, batch: int, labels: Tensor, compute: Callable[[], Tensor]) -> Tensor:
        """float32 logits (B, K) of a teacher on batch number `batch`, on the device of its labels (B,): bit for bit
        what `compute()` gives, read or computed and written."""
        import numpy as np
        import torch

        file, length = self._file(teacher), len(labels) * self._num_classes * 4
        if file is None:
            return compute()
        record = os.pread(file, length + _CHECKSUM_BYTES, batch * self._record_bytes)
        if len(record) == length + _CHECKSUM_BYTES and _checksum(record[:length]) == record[length:]:
            values = np.frombuffer(bytearray(record[:length]), np.float32).reshape(-1, self._num_classes)
            return torch.from_numpy(values).to(labels.device, non_blocking=True)
        logits = compute()
        content = logits.float().cpu().contiguous().numpy().tobytes()
        os.pwrite(file, content + _checksum(content), batch * self._record_bytes)
        return logits

    def close(self) -> None:
        """At the end of the epoch."""
        for file in self._files.values():
            if file is not None:
                os.close(file)
        self._files.clear()

    def _file(self, teacher: str) -> int | None:
        if teacher not in self._files:
            facts = _text({**self._facts, "teacher": teacher})
            name = hashlib.blake2b(facts.encode(), digest_size=12).hexdigest()
            try:
                self._files[teacher] = os.open(self._folder / name, os.O_RDWR | os.O_CREAT, 0o644)
            except FileNotFoundError:
                self._files[teacher] = None
        return self._files[teacher]


def _checksum(content: bytes) -> bytes:
    return zlib.crc32(content).to_bytes(_CHECKSUM_BYTES, "little")
