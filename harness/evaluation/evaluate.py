"""A trial's evaluation in pieces that several processes can share: every attack, on every checkpoint, chunk by chunk.

The trial walks its pieces in order. Helpers, tasks that the driver starts where there is room, compute pieces of the
same trial into the same cache. A piece's outcomes depend on nothing but the piece (`harness.evaluation.chunk`), so it
does not matter who computed it, and a piece computed twice is the same piece. Claims only keep two from doing the same
work: whoever creates the claim file of a piece has it, with the pieces that begin alike. The trial needs nothing from
its helpers: after the pieces that it could claim it goes through all of them, claimed or not, and computes what the
cache does not hold.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import chain
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from harness.attacks.conditions import Conditions
from harness.attacks.pgd import NO_DECISION
from harness.attacks.registry import AUTOATTACK_STAGES, stage_names
from harness.data.splits import stratified_order
from harness.engine.forwards import FoldedTwin, evaluation_forward
from harness.engine.memory import Fitting
from harness.evaluation.chunk import ChunkResult, chunk_ranges, evaluate_chunk, gather
from harness.events import TaskEvent
from harness.files import file_sha256, from_checked_json, make_folder, to_checked_json, write_bytes
from harness.inputs import Data, network_of, trained_network
from harness.spec import AttackRequest, GivenSpec, TrialSpec
from harness.store.provenance import cpu_seconds, origin
from harness.store.work import WorkingFolder

GIVEN = "given"  # the checkpoint column of a network that was trained elsewhere
EVALUATION_SEED = 0  # evaluation is the same for every trial: intervals over seeds are about training


@dataclass(frozen=True)
class Piece:
    """One chunk of one attack on one checkpoint. request: the attack's position in the suite; chunk: from 0."""

    checkpoint: str
    request: int
    attack: AttackRequest
    chunk: int
    chunks: int

    @property
    def name(self) -> str:
        return f"{self.request:02d}-{self.attack.name}-{self.checkpoint}-{self.chunk:05d}"


class Claims:
    """Who works on what: a file per piece that somebody has begun, with a record (JSON) in it once it is finished."""

    def __init__(self, folder: Path, root: Path) -> None:
        """root: the store in which the folder is."""
        self.folder, self.root = folder, root

    def open(self) -> None:
        """Makes room for claims; those of processes that did not finish their piece are dropped."""
        make_folder(self.folder, inside=self.root)
        for name in self.taken() - self.records().keys():
            (self.folder / name).unlink(missing_ok=True)

    def take(self, name: str) -> bool:
        """Whether the piece was nobody's and now is the caller's; never once the folder is gone: the trial is over."""
        try:
            os.close(os.open(self.folder / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644))
        except (FileExistsError, FileNotFoundError):
            return False
        return True

    def finish(self, name: str, record: Mapping[str, Any]) -> None:
        """Notes how the piece was computed, unless somebody was quicker or the trial is over."""
        if name not in self.records(name):
            with suppress(FileNotFoundError):
                write_bytes(self.folder / name, to_checked_json(record))

    def taken(self) -> set[str]:
        with suppress(FileNotFoundError):
            return {name for name in os.listdir(self.folder) if not name.startswith(".")}
        return set()

    def records(self, *names: str) -> dict[str, dict[str, Any]]:
        """The records of the finished pieces, of all or of `names`."""
        found = {}
        for name in names or self.taken():
            with suppress(FileNotFoundError, ValueError):  # an empty claim is not finished, nor is a damaged one
                found[name] = from_checked_json((self.folder / name).read_bytes())
        return found


class SharedEvaluation:
    """The evaluation of one trial, as the trial itself (`run`) or as a helper (`help`) sees it."""

    def __init__(self, spec: TrialSpec, data: Data, store_root: Path, device: torch.device) -> None:
        self.spec, self.data, self.store_root, self.device = spec, data, store_root, device
        self.folder = WorkingFolder(store_root, spec.training_id)
        self.claims = Claims(self.folder.claims(spec.trial_id), store_root)
        self.outcomes: list[pd.DataFrame] = []
        self.notes: list[dict[str, str]] = []
        self._loaded: tuple[str, Any] = ("", None)
        self._keys: dict[str, str] = {}
        self.batch = Fitting(spec, spec.evaluation.batch_size)

    def costs(self) -> dict[str, Any]:
        """Of the pieces by all who took part, in all attempts: `seconds` and `cpu_seconds`, what one process alone
        would have needed, and `origins`, where they were computed."""
        records = [record for _, record in sorted(self.claims.records().items())]
        origins: list[dict[str, Any]] = []
        for record in records:
            if record["origin"] not in origins:
                origins.append(record["origin"])
        totals = {name: sum(record[name] for record in records) for name in ("seconds", "cpu_seconds")}
        return {**totals, "origins": origins}

    def run(self, should_stop: Callable[[], bool]) -> Iterator[TaskEvent]:
        """Yields an `evaluation` event, then an `attack` event per piece. `left` says how many are nobody's yet."""
        self.claims.open()
        yield {"event": "evaluation", "trial_id": self.spec.trial_id, "left": self._left()}
        results: dict[Piece, ChunkResult] = {}
        for piece in chain(self._claimed(), (piece for piece in self.pieces if piece not in results)):
            results[piece] = self._compute(piece)
            yield {
                "event": "attack",
                "trial_id": self.spec.trial_id,
                "checkpoint": piece.checkpoint,
                "attack": piece.attack.name,
                "chunk": piece.chunk + 1,
                "chunks": piece.chunks,
                "left": self._left(),
            }
            if should_stop():
                yield {"event": "interrupted", "trial_id": self.spec.trial_id}
                return
        self._note_engine()
        self._gather(results)
        self._note_smaller_batches()

    def help(self, should_stop: Callable[[], bool]) -> Iterator[TaskEvent]:
        """Computes pieces while there are any that nobody has claimed; yields a `helped` event before the first
        and after each."""
        yield {"event": "helped", "trial_id": self.spec.trial_id, "left": self._left()}
        for piece in self._claimed():
            self._compute(piece)
            yield {"event": "helped", "trial_id": self.spec.trial_id, "left": self._left()}
            if should_stop():
                return

    @cached_property
    def pieces(self) -> list[Piece]:
        """All pieces, a network after the other."""
        own = (GIVEN,) if isinstance(self.spec, GivenSpec) else None
        requests = list(enumerate(self.spec.evaluation.attacks))
        wanted = [(name, *request) for request in requests for name in own or request[1].checkpoints]
        checkpoints = list(dict.fromkeys(checkpoint for checkpoint, _, _ in wanted))
        found = []
        for checkpoint, request, attack in sorted(wanted, key=lambda each: checkpoints.index(each[0])):
            chunks = len(self._ranges(attack))
            found += [Piece(checkpoint, request, attack, chunk, chunks) for chunk in range(chunks)]
        return found

    @cached_property
    def jobs(self) -> dict[str, list[Piece]]:
        """The pieces by the name of the first of those that begin with the same work: aa_short and aa_standard on the
        same images. One process does them one after the other, and finds that work in the cache."""
        groups: dict[tuple[Any, ...], list[Piece]] = {}
        for piece in self.pieces:
            stage = stage_names(piece.attack.name, self.data.num_classes)[0]
            shared = stage if stage in AUTOATTACK_STAGES else piece.request
            span = self._ranges(piece.attack)[piece.chunk]
            groups.setdefault((piece.checkpoint, span, shared), []).append(piece)
        return {pieces[0].name: pieces for pieces in groups.values()}

    def _claimed(self) -> Iterator[Piece]:
        return chain.from_iterable(pieces for name, pieces in self.jobs.items() if self.claims.take(name))

    def _left(self) -> int:
        return len(self.jobs.keys() - self.claims.taken())

    def _compute(self, piece: Piece) -> ChunkResult:
        """The piece's outcomes, from the cache if they are there."""
        started, started_cpu = time.perf_counter(), cpu_seconds()
        span = self._ranges(piece.attack)[piece.chunk]
        rows = self._chosen(piece.attack)[span.start : span.stop]
        key, evaluation, test = self._key(piece.checkpoint), self.spec.evaluation, self.data.test
        conditions = Conditions(
            piece.attack.overrides, self.spec.eps, EVALUATION_SEED, evaluation.batch_size, self.data.num_classes, key,
            evaluation.gradient_precision,
        )  # fmt: skip
        cheaper = evaluation.gradient_precision != "float32"
        work = partial(
            evaluate_chunk,
            lambda images: self._forwards(piece.checkpoint)[0](images),  # a cached piece needs no network
            test.images[rows],
            test.labels[rows],
            self.data.test_index[rows],
            conditions,
            piece.chunk,
            self.folder.chunks(key),
            gradients=(lambda images: self._forwards(piece.checkpoint)[1](images)) if cheaper else None,
        )
        result = self.batch.run(lambda size: work(batch_size=size))
        seconds = {"seconds": time.perf_counter() - started, "cpu_seconds": cpu_seconds() - started_cpu}
        self.claims.finish(piece.name, {**seconds, "batch_size": self.batch.size, "origin": origin(self.device)})
        return result

    def _note_smaller_batches(self) -> None:
        sizes = [record.get("batch_size", self.batch.asked) for record in self.claims.records().values()]
        if smaller := [size for size in sizes if size < self.batch.asked]:
            text = f"the GPU had no memory for batches of {self.batch.asked}: {len(smaller)} of "
            text += f"{len(sizes)} pieces were computed in batches of {min(smaller)} or more"
            self.notes.append({"source": "evaluation", "text": text})

    def _gather(self, results: dict[Piece, ChunkResult]) -> None:
        """The outcomes and notes of each attack on each checkpoint, chunks in their order."""
        groups: dict[tuple[str, int, str], list[ChunkResult]] = {}
        for piece in self.pieces:
            groups.setdefault((piece.checkpoint, piece.request, piece.attack.name), []).append(results[piece])
        for (checkpoint, _, attack), found in groups.items():
            rows = gather(found, lambda source, text: self.notes.append({"source": source, "text": text}))
            rows = rows.sort_values("sample_index", ignore_index=True)
            if undecided := int((rows["prediction"] == NO_DECISION).sum()):
                text = f"{attack} on {checkpoint}: logits are not finite on {undecided:,} of {len(rows):,} images"
                self.notes.append({"source": "evaluation", "text": f"{text}; its accuracies are undefined"})
            self.outcomes.append(rows.assign(checkpoint=checkpoint, attack=attack))

    @cached_property
    def _order(self) -> Tensor:
        return stratified_order(self.data.test.labels, 0)

    def _chosen(self, attack: AttackRequest) -> Tensor:
        """The positions of the test images that the attack is asked for: those of fewer images begin those of more, so
        that attacks on different numbers of images have their first chunks in common."""
        return self._order[: attack.images]

    def _ranges(self, attack: AttackRequest) -> list[range]:
        return chunk_ranges(len(self._chosen(attack)), self.spec.evaluation.chunk_size)

    def _forwards(self, checkpoint: str) -> Any:
        """The network of a checkpoint as functions of images, one that judges and, in the precision of the gradients,
        another; one network at a time is kept."""
        if self._loaded[0] != checkpoint:
            network = trained_network(network_of(self.spec, checkpoint), self.data, self.store_root)
            network = network.to(self.device).eval().requires_grad_(False)
            precisions = dict.fromkeys(("float32", self.spec.evaluation.gradient_precision))
            forwards = [evaluation_forward(network, self.spec.engine, precision) for precision in precisions]
            self._loaded = (checkpoint, forwards)
        return self._loaded[1]

    def _note_engine(self) -> None:
        """Of a network that was not trained here, whose training would have told it."""
        if not isinstance(self.spec, GivenSpec):
            return
        forward = self._forwards(GIVEN)[0]
        if isinstance(forward, FoldedTwin) and not forward.traceable:
            self.notes.append({"source": "engine", "text": f"fast, {forward.description}"})

    def _key(self, checkpoint: str) -> str:
        """The sha256 of the checkpoint's file, which names it in the cache."""
        if isinstance(self.spec, GivenSpec):
            return str(self.spec.init.sha256)
        if checkpoint not in self._keys:
            self._keys[checkpoint] = file_sha256(self.folder.weights(checkpoint), "weights")
        return self._keys[checkpoint]
