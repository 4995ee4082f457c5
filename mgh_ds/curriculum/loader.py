"""Reads the records of a rank's local batch and picks the negatives that the stage asks for."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pyarrow as pa

from mgh_ds.curriculum.mixing import fold_key, mix64
from mgh_ds.curriculum.plan import EMPTY, TrainingPlan
from mgh_ds.curriculum.stages import Stage
from mgh_ds.records.schema import Negative, Record


class RecordStore(Protocol):
    """Random access to records by row number: a `Store`, or a `Mixture` of several."""

    @property
    def manifest_hash(self) -> str: ...

    def rows(self, indices: Sequence[int] | np.ndarray) -> list[Record]: ...

    def take(self, indices: Sequence[int] | np.ndarray, columns: Sequence[str]) -> pa.RecordBatch: ...


@dataclass(frozen=True)
class MicroBatch:
    """m records with 1 + K documents each (the positive first); places without a record or a negative hold ""
    and are not valid."""

    seed: int  # of this micro-batch's dropout; the same for every world size
    group: int  # its negative group; EMPTY (-1) if it only pads the local batch
    ids: list[str]  # record ids, [m]
    queries: list[str]  # [m]
    documents: list[str]  # [m · (1 + K)], record by record
    query_instructions: list[str | None]  # [m]
    document_instructions: list[str | None]  # [m · (1 + K)]
    valid: np.ndarray  # bool [m]
    document_valid: np.ndarray  # bool [m, 1 + K]
    levels: np.ndarray  # int64 [m, K], 0 = ungraded or missing
    query_hash: np.ndarray  # int64 [m], equal for equal texts
    document_hash: np.ndarray  # int64 [m, 1 + K]
    symmetric: np.ndarray  # bool [m]: query and positive may change places
    scores: np.ndarray  # float32 [m, 1 + K] of the documents, NaN = none or missing


class Loader:
    """Turns a plan's row numbers into texts."""

    def __init__(self, store: RecordStore, plan: TrainingPlan) -> None:
        self.store, self.plan = store, plan

    def micro_batches(self, step: int, world_size: int, rank: int) -> list[MicroBatch]:
        """This rank's micro-batches of a step, in the order in which they are to be worked on."""
        local = self.plan.local_batch(step, world_size, rank)
        return self.lay_out(step, world_size, rank, self.store.rows(local[local != EMPTY]))

    def lay_out(self, step: int, world_size: int, rank: int, records: Sequence[Record]) -> list[MicroBatch]:
        """As `micro_batches`, from the local batch's records, in its order, wherever they were read."""
        stage, epoch, unused = self.plan.stage(step), self.plan.epoch(step), iter(records)
        numbers = self.plan.micro_batches(step, world_size, rank).tolist()
        batches = []
        for number, rows in zip(numbers, self.plan.local_batch(step, world_size, rank), strict=True):
            placed = [None if row == EMPTY else next(unused) for row in rows]
            negatives = [
                self._negatives(record, int(row), stage, epoch) if record else []
                for record, row in zip(placed, rows, strict=True)
            ]
            group = EMPTY if number == EMPTY else self.plan.group_of(number)
            seed = fold_key(self.plan.seed, step, number)
            batches.append(make_micro_batch(placed, negatives, stage.negatives, seed=seed, group=group))
        return batches

    def _negatives(self, record: Record, row: int, stage: Stage, epoch: int) -> list[Negative]:
        key = fold_key(self.plan.seed, stage.index, epoch, int(self.plan.index.id_hash[row]))
        record, stage = self.plan.sources.as_seen(record, row, stage)
        return choose_negatives(record, stage, self.plan.config.missing_level, key)


def choose_negatives(record: Record, stage: Stage, missing_level: str, key: int) -> list[Negative]:
    """At most `stage.negatives` of the record's negatives: those at the stage's levels and ungraded ones,
    drawn by `key`.

    A record with neither brings the negatives of its nearest level if `missing_level` says so, else none.
    """
    fitting = [n for n in record.negatives if n.level is None or n.level in stage.levels]
    if not fitting and missing_level == "nearest" and record.negatives:
        distance = {
            n.level: min(abs(n.level - level) for level in stage.levels) for n in record.negatives if n.level
        }
        nearest = min(distance, key=lambda level: (distance[level], -level))  # on a tie the harder level
        fitting = [n for n in record.negatives if n.level == nearest]
    drawn = np.argsort(mix64(np.arange(len(fitting), dtype=np.uint64), key), kind="stable")[: stage.negatives]
    return [fitting[place] for place in sorted(drawn)]


def make_micro_batch(
    records: Sequence[Record | None],
    negatives: Sequence[Sequence[Negative]],
    width: int,
    *,
    seed: int,
    group: int,
) -> MicroBatch:
    """Lays out records (None: an empty place) and the negatives that they bring as the arrays of a
    `MicroBatch`, with `width` places for negatives each."""
    documents, levels, document_valid, scores = [], [], [], []
    for record, brought in zip(records, negatives, strict=True):
        missing = width - len(brought)
        documents += [record.positive if record else "", *(n.text for n in brought), *[""] * missing]
        document_valid.append([record is not None, *[True] * len(brought), *[False] * missing])
        levels.append([*(n.level or 0 for n in brought), *[0] * missing])
        scores.append([record.score if record else None, *(n.score for n in brought), *[None] * missing])
    symmetric = [record is not None and record.task.kind == "symmetric" for record in records]
    instructions = [record.task.instruction if record else None for record in records]
    queries = [record.query if record else "" for record in records]
    shape = (len(records), 1 + width)
    return MicroBatch(
        seed=seed,
        group=group,
        ids=[record.id if record else "" for record in records],
        queries=queries,
        documents=documents,
        query_instructions=instructions,
        document_instructions=[
            instruction if both else None
            for instruction, both in zip(instructions, symmetric, strict=True)
            for _ in range(shape[1])
        ],
        valid=np.array([record is not None for record in records]),
        document_valid=np.array(document_valid, dtype=bool).reshape(shape),
        levels=np.array(levels, dtype=np.int64).reshape(len(records), width),
        query_hash=text_hashes(queries),
        document_hash=text_hashes(documents).reshape(shape),
        symmetric=np.array(symmetric),
        scores=np.array(scores, dtype=np.float32).reshape(shape),
    )


def text_hashes(texts: Sequence[str]) -> np.ndarray:
    """64-bit hashes of texts, int64 [n]: how identical texts are recognised across ranks."""
    digests = (hashlib.blake2b(text.encode(), digest_size=8).digest() for text in texts)
    return np.frombuffer(b"".join(digests), dtype=np.int64)
