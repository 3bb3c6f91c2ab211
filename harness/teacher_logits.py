"""Teachers' logits on clean training batches, computed once for all distillation trials that see the same batches.

Order and augmentation of the batches depend on data, split, seed and student, not on the method (`harness.seeds`), so
the trials of one seed ask a teacher the same questions. Whoever comes first writes the answer down.
"""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from harness.files import make_folder

FOLDER = "teacher_logits"
_CHECKSUM_BYTES = 4


class SharedLogits:
    """The answers on the batches of one epoch, one file per teacher: a record of fixed size for each batch, with a
    checksum, so that a record that was never written, or not to its end, reads as missing.

    folder: of the store's working folder. facts: everything that decides the logits, as plain values.
    """

    def __init__(self, folder: Path, facts: dict[str, Any], batch_size: int, num_classes: int) -> None:
        self._folder, self._facts = folder, facts
        self._num_classes = num_classes
        self._record_bytes = batch_size * num_classes * 4 + _CHECKSUM_BYTES
        self._files: dict[str, int] = {}

    def answer(self, teacher: str, batch: int, labels: Tensor, compute: Callable[[], Tensor]) -> Tensor:
        """float32 logits (B, K) of a teacher on batch number `batch`, on the device of its labels (B,): bit for bit
        what `compute()` gives, read or computed and written."""
        file, length = self._file(teacher), len(labels) * self._num_classes * 4
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
            os.close(file)
        self._files.clear()

    def _file(self, teacher: str) -> int:
        if teacher not in self._files:
            facts = json.dumps([self._facts, teacher], sort_keys=True)
            name = hashlib.blake2b(facts.encode(), digest_size=12).hexdigest()
            self._files[teacher] = os.open(make_folder(self._folder) / name, os.O_RDWR | os.O_CREAT, 0o644)
        return self._files[teacher]


def _checksum(content: bytes) -> bytes:
    return zlib.crc32(content).to_bytes(_CHECKSUM_BYTES, "little")
