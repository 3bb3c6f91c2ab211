"""A network and a threat model in, one outcome per image out: in fixed chunks that can be spread and resumed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from harness.attacks import ATTACKS, AUTOATTACK_STAGES, ascent_settings, check_request, stage_names
from harness.attacks.auto import attack_stage, few_classes, one_of_each, square_warnings
from harness.attacks.evaluation import attack_chunk, predict
from harness.attacks.linf import Forward
from harness.data.augment import to_float
from harness.errors import InputError
from harness.files import make_folder, replacing
from harness.seeds import derive_seed

METADATA = b"evaluation"


@dataclass(frozen=True)
class Conditions:
    """Everything besides the network and the images that decides a chunk's outcomes.

    attack: a request such as {"name": "pgd20", "steps": 50}; its `images` and `checkpoints` are the caller's affair.
    eps: in pixels of [0, 1]. model_key: names the network (its sha256, its engine); only the cache looks at it.
    """

    attack: Mapping[str, Any]
    eps: float
    seed: int
    batch_size: int
    num_classes: int
    model_key: str = ""

    @property
    def stages(self) -> tuple[str, ...]:
        return stage_names(check_request(self.attack).name, self.num_classes)

    def canonical(self) -> dict[str, Any]:
        """The conditions with the attack's overrides resolved, as JSON values."""
        name = self.attack["name"]
        settings = asdict(ascent_settings(self.attack)) if ATTACKS[name].ascent else {}
        return {**asdict(self), "attack": {"name": name, **settings}}


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


def evaluate_attack(
    forward: Forward,
    images: Tensor,
    labels: Tensor,
    attack: Mapping[str, Any],
    *,
    eps: float,
    seed: int,
    chunk_size: int,
    batch_size: int,
    num_classes: int,
    indices: Tensor | Sequence[int] | None = None,
    cache_dir: Path | None = None,
    model_key: str = "",
    note: Callable[..., None] | None = None,
    on_chunk: Callable[[int, int], None] | None = None,
) -> pd.DataFrame:
    """Outcomes of one attack, a row per image: sample_index, label, prediction (int64), robust (bool).

    forward: images (B, C, H, W) in [0, 1] to float32 logits (B, K); evaluation mode, parameters frozen.
    images, labels: uint8 (N, C, H, W) and int64 (N,). indices: the positions to attack, in this order; None for all.
    attack, eps, model_key: see Conditions. The prediction is the one on the point that broke the image, else on the
        last point; robust is prediction == label.
    cache_dir: finished chunks are stored there, and found again under the same conditions.
    note(source=, text=) receives AutoAttack's warnings, on_chunk(done, total) the progress.
    InputError: an unknown attack or override; apgd-t alone with fewer than four classes; no images.
    """
    conditions = Conditions(attack, eps, seed, batch_size, num_classes, model_key)
    chosen = torch.arange(len(labels)) if indices is None else torch.as_tensor(indices)
    if not len(chosen):
        raise InputError(f"attack {attack['name']}: no images to evaluate on")
    ranges = chunk_ranges(len(chosen), chunk_size)
    results = []
    for chunk, span in enumerate(ranges):
        rows = chosen[span.start : span.stop]
        results.append(evaluate_chunk(forward, images[rows], labels[rows], rows, conditions, chunk, cache_dir))
        if on_chunk:
            on_chunk(chunk + 1, len(ranges))
    return gather(results, note)


def evaluate_chunk(
    forward: Forward,
    images: Tensor,
    labels: Tensor,
    indices: Tensor,
    conditions: Conditions,
    chunk: int,
    cache_dir: Path | None = None,
) -> ChunkResult:
    """The outcomes of chunk number `chunk`, from its own images, labels and sample indices: nothing outside it matters.

    Each stage is stored as it finishes; work goes on after the last one that `cache_dir` has under the same conditions.
    """
    stages = conditions.stages
    key = _key(conditions, chunk, indices, labels, images)
    prefix = f"{conditions.attack['name']}-{chunk:05d}"
    paths = [cache_dir / f"{prefix}-{stage}-{key[:12]}.parquet" if cache_dir else None for stage in stages]
    done, result = _latest(paths, key)
    if result is not None and done == len(stages):
        return result
    x, labels = to_float(images), labels.to(images.device)
    if result is None:
        result = _unattacked(forward, x, labels, indices, conditions)
    for stage, path in zip(stages[done:], paths[done:], strict=True):
        result = _attacked(stage, result, forward, x, labels, conditions, chunk)
        if path:
            _write(path, key, result)
    return result


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
    autoattack = bool(ATTACKS[conditions.attack["name"]].stages)
    warnings = few_classes(conditions.stages, conditions.num_classes) if autoattack else []
    columns = {"sample_index": indices, "label": labels, "prediction": prediction, "robust": prediction == labels}
    outcomes = pd.DataFrame({name: values.cpu().numpy() for name, values in columns.items()})
    return ChunkResult(outcomes, {"clean": int(outcomes["robust"].sum())}, warnings)


def _attacked(
    stage: str, before: ChunkResult, forward: Forward, x: Tensor, labels: Tensor, conditions: Conditions, chunk: int
) -> ChunkResult:
    """The chunk's result after one more stage."""
    name, eps, batch_size = conditions.attack["name"], conditions.eps, conditions.batch_size
    seed = derive_seed(conditions.seed, name, chunk)
    prediction = torch.tensor(before.outcomes["prediction"].to_numpy(), device=labels.device)
    warnings: list[str] = []
    if stage in AUTOATTACK_STAGES:
        prediction, warnings = attack_stage(
            stage, forward, x, labels, prediction, eps=eps, seed=seed, batch_size=batch_size,
            num_classes=conditions.num_classes,
        )  # fmt: skip
    elif ATTACKS[name].ascent:
        settings, generator = ascent_settings(conditions.attack), torch.Generator().manual_seed(seed)
        prediction = attack_chunk(
            forward, x, labels, prediction, settings, eps=eps, generator=generator, batch_size=batch_size
        )
    robust = (prediction == labels).cpu().numpy()
    outcomes = before.outcomes.assign(prediction=prediction.cpu().numpy(), robust=robust)
    survivors = {**before.survivors, stage: int(robust.sum())}
    return ChunkResult(outcomes, survivors, before.warnings + warnings)


def _key(conditions: Conditions, chunk: int, *data: Tensor) -> str:
    """A digest of all that decides the chunk's outcomes, the images included."""
    digest = hashlib.blake2b(json.dumps([conditions.canonical(), chunk], sort_keys=True).encode(), digest_size=16)
    for tensor in data:
        digest.update(tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _latest(paths: Sequence[Path | None], key: str) -> tuple[int, ChunkResult | None]:
    """How many stages are done and the result after them, from the last stage file that is whole and has the key."""
    for position in reversed(range(len(paths))):
        path = paths[position]
        result = _read(path, key) if path else None
        if result is not None:
            return position + 1, result
    return 0, None


def _read(path: Path, key: str) -> ChunkResult | None:
    """A stored result; None if there is none, or it is damaged, or it belongs to other conditions."""
    try:
        table = pq.read_table(path)
        facts = json.loads(table.schema.metadata[METADATA])
        if facts["key"] != key:
            return None
        outcomes = table.to_pandas()[["sample_index", "label", "prediction", "robust"]]
        return ChunkResult(outcomes, facts["survivors"], facts["warnings"])
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException):
        return None


def _write(path: Path, key: str, result: ChunkResult) -> None:
    """Store atomically: whoever reads the name finds a whole file or none."""
    make_folder(path.parent)
    facts = {"key": key, "survivors": result.survivors, "warnings": result.warnings}
    table = pa.Table.from_pandas(result.outcomes, preserve_index=False)
    table = table.replace_schema_metadata({METADATA: json.dumps(facts)})
    with replacing(path) as temporary:
        pq.write_table(table, temporary)
