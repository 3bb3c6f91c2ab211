"""Teachers' logits on clean training batches, computed once for all distillation trials that see the same batches.

Order and augmentation of the batches depend on data, split, seed and student (`harness.seeds`), so trials of one seed
that train on the same images ask a teacher the same questions. Whoever comes first writes the answer down, under a
digest of all that decides it. The driver of a run makes the folder where at least two of its trials seem to share, and
removes it at the end; a trial that finds no folder asks its teachers itself. Imports torch only in trials.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import zlib
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.data.registry import DATASETS
from harness.data.splits import wants_second_split
from harness.files import make_folder
from harness.spec import NetworkSpec, TrainedSpec, TrialSpec
from harness.store.fingerprint import code_fingerprint
from harness.store.provenance import device_name
from harness.store.work import shared_logits

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from harness.training.trainer import EpochBatches

_CHECKSUM_BYTES = 4
_MANY_IMAGES, _MANY_CLASSES = 50_000, 100  # where the data set does not say


@contextmanager
def sharing(store_root: Path, specs: Sequence[TrialSpec]) -> Iterator[None]:
    """Inside, those of the trials share that can."""
    folder = shared_logits(store_root)
    shutil.rmtree(folder, ignore_errors=True)  # of a run that was killed
    if shared_bytes(specs):
        make_folder(folder, inside=store_root)
    try:
        yield
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def shared_bytes(specs: Sequence[TrialSpec]) -> int:
    """How much disk the logits take at most; 0 where no two of the trials ask the same.

    Estimated from the specifications, for the driver. What is shared is decided in the trials, by `shared_names`.
    """
    asking = [spec for spec in specs if isinstance(spec, TrainedSpec) and spec.teachers]
    users = Counter(_estimated_questions(spec) for spec in asking)
    if all(count == 1 for count in users.values()):
        return 0
    return sum({_estimated_questions(spec): _bytes(spec) for spec in asking}.values())


def _estimated_questions(spec: TrainedSpec) -> str:
    """What trials that ask the same have in common."""
    batches = [spec.split_seed, spec.seed, spec.student.label, spec.training.batch_size, wants_second_split(spec)]
    teachers = {name: source.training or source.sha256 for name, source in spec.teachers.items()}
    arithmetic = [spec.engine, spec.precision, spec.threads]
    return json.dumps([spec.dataset.model_dump(mode="json"), batches, teachers, arithmetic], sort_keys=True)


def _bytes(spec: TrainedSpec) -> int:
    images = spec.dataset.train_images or _MANY_IMAGES
    classes = DATASETS[spec.dataset.name].num_classes or _MANY_CLASSES
    records = images * classes * 4 + _CHECKSUM_BYTES * -(-images // spec.training.batch_size)
    return spec.training.epochs * len(spec.teachers) * records


def digest(values: Mapping[str, Any]) -> str:
    """32 hexadecimal digits of tensors (their types, shapes and bytes) and plain values, by name."""
    import torch

    found = hashlib.sha256()
    for name, value in values.items():
        if isinstance(value, torch.Tensor):
            found.update(json.dumps([name, str(value.dtype), list(value.shape)]).encode())
            found.update(value.detach().cpu().reshape(-1).view(torch.uint8).numpy().data)
        else:
            found.update(json.dumps([name, value], sort_keys=True).encode())
    return found.hexdigest()[:32]


def network_digest(network: nn.Module, built: NetworkSpec) -> str:
    """`digest` of a network: what it was built from, and its tensors."""
    facts = {"built": built.model_dump(mode="json")}
    return digest(facts | dict(network.named_parameters()) | dict(network.named_buffers()))


def shared_names(
    images: str,
    teachers: Mapping[str, str],
    batches: EpochBatches,
    *,
    engine: str,
    precision: str,
    device: torch.device,
) -> dict[str, str]:
    """For each teacher, the name under which its logits on an epoch's batches are shared: a digest of everything that
    decides them, taken from what they are computed with and not from a specification, so that an option of the
    training cannot be forgotten here.

    images: `digest` of the training images and labels. teachers: `network_digest` by name.
    """
    import torch

    machine = [torch.get_num_threads(), device_name(device), torch.__version__, code_fingerprint()]
    common = batches.recipe | {"images": images, "arithmetic": [engine, precision, *machine]}
    return {name: digest(common | {"teacher": teacher}) for name, teacher in teachers.items()}


class SharedLogits:
    """The answers on the batches of one epoch, one file per teacher: a record of fixed size for each batch, with a
    checksum, so that a record that was never written, or not to its end, reads as missing.

    folder: `shared_logits` of the store. names: `shared_names`; a teacher without one, or without the folder, is asked
    each time.
    """

    def __init__(self, folder: Path, names: Mapping[str, str], batch_size: int, num_classes: int) -> None:
        self._folder, self._names = folder, names
        self._num_classes = num_classes
        self._record_bytes = batch_size * num_classes * 4 + _CHECKSUM_BYTES
        self._files: dict[str, int | None] = {}
        self._leaving: deque[_Leaving] = deque()

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
        self._leaving.append(_Leaving(file, batch * self._record_bytes, logits.float()))
        while self._leaving and self._leaving[0].is_here():
            self._leaving.popleft().write()
        return logits

    def close(self) -> None:
        """At the end of the epoch."""
        while self._leaving:
            self._leaving.popleft().write()
        for file in self._files.values():
            if file is not None:
                os.close(file)
        self._files.clear()

    def _file(self, teacher: str) -> int | None:
        if teacher not in self._names:
            return None
        if teacher not in self._files:
            try:
                self._files[teacher] = os.open(self._folder / self._names[teacher], os.O_RDWR | os.O_CREAT, 0o644)
            except FileNotFoundError:
                self._files[teacher] = None
        return self._files[teacher]


class _Leaving:
    """A record on its way to the disk. Nobody waits for its copy from a GPU: it is written once it is here, or at the
    end of the epoch."""

    def __init__(self, file: int, place: int, logits: Tensor) -> None:
        import torch

        self._file, self._place, self._logits = file, place, logits
        self._copied: torch.cuda.Event | None = None
        if logits.is_cuda:
            self._logits = torch.empty(logits.shape, pin_memory=True).copy_(logits, non_blocking=True)
            self._copied = torch.cuda.Event()
            self._copied.record()

    def is_here(self) -> bool:
        return self._copied is None or self._copied.query()

    def write(self) -> None:
        if self._copied is not None:
            self._copied.synchronize()
        content = self._logits.contiguous().numpy().tobytes()
        os.pwrite(self._file, content + _checksum(content), self._place)


def _checksum(content: bytes) -> bytes:
    return zlib.crc32(content).to_bytes(_CHECKSUM_BYTES, "little")
