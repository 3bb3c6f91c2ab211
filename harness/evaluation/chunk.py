"""A network and a threat model in, one outcome per image out: in fixed chunks that can be spread and resumed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import torch
from torch import Tensor

from harness.attacks.ascent import Forward
from harness.attacks.autoattack import attack_stage, few_classes, one_of_each, square_warnings
from harness.attacks.conditions import Conditions
from harness.attacks.function import attack_by_function
from harness.attacks.pgd import attack_chunk, predict, seeded_noise
from harness.attacks.registry import AUTOATTACK_STAGES, ascent_settings, attack_info
from harness.data.augment import to_float
from harness.files import make_folder, replacing
from harness.seeds import derive_seed
from harness.store import parquet
from harness.store.tables import content_hash

METADATA = b"evaluation"


@dataclass(frozen=True)
class ChunkResult:
    """What one chunk's attack found.

    outcomes: a row per image, columns sample_index, label, prediction (int64) and robust (bool).
    survivors: how many images were still classified right unattacked (`clean`) and after each stage.
    warnings: AutoAttack's, a text each.
    """

    outcomes: pd.DataFrame
    survivors: dict[str, int]
    warnings: list[str]


def chunk_ranges(count: int, chunk_size: int) -> list[range]:
    """The positions 0 .. count-1 in consecutive ranges of `chunk_size`, the last one shorter."""
    return [range(first, min(first + chunk_size, count)) for first in range(0, count, chunk_size)]


def evaluate_chunk(
    forward: Forward,
    images: Tensor,
    labels: Tensor,
    indices: Tensor,
    conditions: Conditions,
    chunk: int,
    cache_dir: Path | None = None,
    *,
    batch_size: int | None = None,
    gradients: Forward | None = None,
) -> ChunkResult:
    """The outcomes of chunk number `chunk`, from its own images, labels and sample indices: nothing outside it matters.

    Each stage is stored as it finishes; work goes on after the last one that `cache_dir` has under the same conditions.
    What counts are the stages so far, not the attack that asks for them: aa_short is the beginning of aa_standard.
    batch_size: of what is still to compute, where memory is too small for that of the conditions. gradients: the form
    of the network that PGD and its kin take theirs from, where the conditions name another precision for them;
    `forward` judges, and AutoAttack and plugins have nothing else.
    """
    stages = conditions.stages
    keys = _keys(conditions, chunk, indices, labels, images)
    files = [
        _StageFile(cache_dir / f"{stage}-{chunk:05d}-{key[:12]}.parquet" if cache_dir else None, key)
        for stage, key in zip(stages, keys, strict=True)
    ]
    done, result = _latest(files)
    if result is None or done < len(stages):
        conditions = replace(conditions, batch_size=batch_size or conditions.batch_size)
        x, labels = to_float(images), labels.to(images.device)
        if result is None:
            result = _unattacked(forward, x, labels, indices, conditions)
        for stage, file in zip(stages[done:], files[done:], strict=True):
            result = _attacked(stage, result, forward, gradients, x, labels, conditions, chunk)
            file.write(result)
    remarks = few_classes(stages, conditions.num_classes) if stages[0] in AUTOATTACK_STAGES else []
    return replace(result, warnings=remarks + result.warnings)


def gather(results: Sequence[ChunkResult], note: Callable[..., None] | None = None) -> pd.DataFrame:
    """The outcomes of all chunks of one attack in the order given; their warnings, told apart by kind, go to `note`."""
    outcomes = pd.concat([result.outcomes for result in results], ignore_index=True)
    if note:
        robust = {
            stage: sum(result.survivors[stage] for result in results) / len(outcomes) for stage in results[0].survivors
        }
        texts = one_of_each([text for result in results for text in result.warnings], "chunks")
        for text in texts + square_warnings(robust):
            note(source="autoattack", text=text)
    return outcomes


def _unattacked(forward: Forward, x: Tensor, labels: Tensor, indices: Tensor, conditions: Conditions) -> ChunkResult:
    prediction = predict(forward, x, conditions.batch_size)
    columns = {"sample_index": indices, "label": labels, "prediction": prediction, "robust": prediction == labels}
    outcomes = pd.DataFrame({name: values.cpu().numpy() for name, values in columns.items()})
    return ChunkResult(outcomes, {"clean": int(outcomes["robust"].sum())}, [])


def _attacked(
    stage: str,
    before: ChunkResult,
    forward: Forward,
    gradients: Forward | None,
    x: Tensor,
    labels: Tensor,
    conditions: Conditions,
    chunk: int,
) -> ChunkResult:
    """The chunk's result after one more stage. What is random in it follows from the stage or the kind of start."""
    prediction = torch.tensor(before.outcomes["prediction"].to_numpy(), device=labels.device)
    warnings: list[str] = []
    if stage in AUTOATTACK_STAGES:
        seeded = replace(conditions, seed=derive_seed(conditions.seed, stage, chunk))
        prediction, warnings = attack_stage(stage, forward, x, labels, prediction, seeded)
    elif attack_info(stage).ascent:
        settings = ascent_settings(conditions.attack)
        noise = seeded_noise(x, settings, conditions.seed, chunk)
        prediction = attack_chunk(
            forward, x, labels, prediction, settings,
            eps=conditions.eps, noise=noise, batch_size=conditions.batch_size, gradients=gradients,
        )  # fmt: skip
    elif attack_info(stage).function:
        prediction = attack_by_function(
            conditions.attack, forward, x, labels, prediction,
            eps=conditions.eps, batch_size=conditions.batch_size, seed=(conditions.seed, chunk),
        )  # fmt: skip
    robust = (prediction == labels).cpu().numpy()
    outcomes = before.outcomes.assign(prediction=prediction.cpu().numpy(), robust=robust)
    survivors = {**before.survivors, stage: int(robust.sum())}
    return ChunkResult(outcomes, survivors, before.warnings + warnings)


def _keys(conditions: Conditions, chunk: int, *data: Tensor) -> list[str]:
    """For each stage a digest of all that decides the chunk's outcomes after it, the images included."""
    digest = hashlib.blake2b(json.dumps([conditions.canonical(), chunk], sort_keys=True).encode(), digest_size=16)
    for tensor in data:
        digest.update(tensor.cpu().contiguous().numpy().tobytes())
    keys = []
    for stage in conditions.stages:
        digest.update((stage if stage in AUTOATTACK_STAGES else "").encode() + b"\0")
        keys.append(digest.hexdigest())
    return keys


@dataclass(frozen=True)
class _StageFile:
    """Where a chunk's result after a stage is kept, if anywhere, and the key that makes it this one's."""

    path: Path | None
    key: str

    def read(self) -> ChunkResult | None:
        """The stored result; None if there is none, or it is damaged, or it belongs to other conditions."""
        if self.path is None:
            return None
        try:
            table = parquet.read(self.path)
            facts, seal = json.loads(table.schema.metadata[METADATA])
            if facts["key"] != self.key or seal != _seal(table, facts):
                return None
            outcomes = table.to_pandas()[["sample_index", "label", "prediction", "robust"]]
            return ChunkResult(outcomes, facts["survivors"], facts["warnings"])
        except parquet.UNREADABLE:
            return None

    def write(self, result: ChunkResult) -> None:
        """Store atomically: whoever reads the name finds a whole file or none."""
        if self.path is None:
            return
        make_folder(self.path.parent, inside=self.path.parent.parent)
        facts = {"key": self.key, "survivors": result.survivors, "warnings": result.warnings}
        table = pa.Table.from_pandas(result.outcomes, preserve_index=False)
        table = table.replace_schema_metadata({METADATA: json.dumps([facts, _seal(table, facts)])})
        with replacing(self.path) as temporary:
            parquet.write(table, temporary)


def _seal(table: pa.Table, facts: Mapping[str, Any]) -> str:
    """A hash of a stage file's rows and facts: whether they still are what was written."""
    return hashlib.sha256((content_hash(table) + json.dumps(facts, sort_keys=True)).encode()).hexdigest()[:32]


def _latest(files: Sequence[_StageFile]) -> tuple[int, ChunkResult | None]:
    """How many stages are done and the result after them, from the last stage file that is whole and has its key."""
    for position in reversed(range(len(files))):
        result = files[position].read()
        if result is not None:
            return position + 1, result
    return 0, None
