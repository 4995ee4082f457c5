"""Prepares a stage's records on every rank, and verifies at its boundary that together they are what the plan
says.

They are prepared in the background, on each rank alone. What is verified is one message of constant size from
each rank: which plan and store it has, and what it counted in the records as it will read them. Every rank
sees all messages and comes to the same verdict, so all go on or all stop.
"""

import struct
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import CancelledError
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import NamedTuple, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from mgh_ds.common.errors import MghError
from mgh_ds.curriculum.loader import RecordStore
from mgh_ds.curriculum.mixing import fold_key, mix64
from mgh_ds.curriculum.plan import EMPTY
from mgh_ds.curriculum.shards import (
    LocalStage,
    ShardError,
    StageRecords,
    StoreRecords,
    open_shard,
    write_shard,
)
from mgh_ds.distributed.group import all_gather, device

Item = TypeVar("Item")
LAYOUT = struct.Struct("<32s32s15Q")  # of a message, see there


class Totals(NamedTuple):
    """What records amount to; each record's id is mixed under its step, so that order of the steps counts."""

    records: int
    id_sum: int  # of the mixed 64-bit hashes of the ids, modulo 2^64
    id_xor: int
    characters: int  # of queries and positives


NOTHING = Totals(0, 0, 0, 0)


@dataclass(frozen=True)
class Prepared:
    """A rank's part of a stage whose records can be read."""

    local: LocalStage
    rows: StageRecords
    counted: Totals  # in the rows, as they are read
    planned: Totals  # for this rank
    planned_by_all: Totals  # for all ranks together


def prepare(store: RecordStore, local: LocalStage, folder: Path, stop: Event) -> Prepared:
    """Finds or writes the shard and counts what it holds.

    A shard that cannot be used is written anew. Where none can be written, for want of space for one, the
    store itself is read: that is slower, but training need not end for a cache. Both are said in a line.
    Raises CancelledError soon after `stop` is set, and MghError for a damaged store.
    """
    rows, counted = _rows(store, local, folder, stop)
    return Prepared(local, rows, counted, planned(local), planned_by_all(local))


def _rows(store: RecordStore, local: LocalStage, folder: Path, stop: Event) -> tuple[StageRecords, Totals]:
    manifest_hash, in_store = store.manifest_hash, StoreRecords(store, local)
    try:
        shard = open_shard(folder, local, manifest_hash)
        if shard is not None:
            return shard, count(_until(stop, shard.batches()))
    except (OSError, ShardError) as error:
        log_line(local, f"{error}: it is written anew")
    try:
        shard = write_shard(folder, local, manifest_hash, _until(stop, in_store.batches()))
        return shard, count(_until(stop, shard.batches()))
    except (OSError, ShardError) as error:
        log_line(local, f"{error}: no shard, the store itself is read instead, which may be slower")
    return in_store, count(_until(stop, in_store.batches()))


def log_line(local: LocalStage, text: str) -> None:
    """Prints a line about a rank's part of a stage."""
    print(f"stage `{local.stage.name}`, rank {local.rank}: {text}", flush=True)


def _until(stop: Event, items: Iterable[Item]) -> Iterator[Item]:
    for item in items:
        if stop.is_set():
            raise CancelledError
        yield item


def count(batches: Iterable[tuple[int, pa.RecordBatch]]) -> Totals:
    """Totals of records as they were read, step by step."""
    return _totals((step, rows["id_hash"].to_numpy(), _characters(rows)) for step, rows in batches)


def planned(local: LocalStage) -> Totals:
    """What the plan gives this rank."""
    return _planned(local, ((step, local.rows(step)) for step in local.steps))


def planned_by_all(local: LocalStage) -> Totals:
    """What the plan gives all ranks together in the same steps."""
    batches = ((step, local.plan.batch(step)) for step in local.steps)
    return _planned(local, ((step, batch[batch != EMPTY]) for step, batch in batches))


def _planned(local: LocalStage, pieces: Iterable[tuple[int, np.ndarray]]) -> Totals:
    index = local.plan.index
    return _totals(
        (
            step,
            index.id_hash[rows],
            int(index.query_chars[rows].sum(dtype=np.int64) + index.positive_chars[rows].sum(dtype=np.int64)),
        )
        for step, rows in pieces
    )


def _characters(rows: pa.RecordBatch) -> int:
    return sum(pc.sum(pc.utf8_length(rows[name])).as_py() or 0 for name in ("query", "positive"))


def _totals(pieces: Iterable[tuple[int, np.ndarray, int]]) -> Totals:
    """Of (step, id hashes, characters)."""
    records = id_sum = id_xor = characters = 0
    for step, ids, chars in pieces:
        mixed = mix64(ids, fold_key(step))
        records += len(ids)
        id_sum = (id_sum + int(mixed.sum(dtype=np.uint64))) % 2**64
        id_xor ^= int(np.bitwise_xor.reduce(mixed))
        characters += chars
    return Totals(records, id_sum, id_xor, characters)


@dataclass(frozen=True)
class Message:
    """What a rank says of itself at a boundary: 184 bytes, whatever it has read."""

    plan: bytes  # fingerprint
    manifest: bytes  # hash
    stage: int
    first_step: int
    failed: int  # 1 if the rank could not prepare its records
    counted: Totals = NOTHING
    planned: Totals = NOTHING
    planned_by_all: Totals = NOTHING

    def pack(self) -> np.ndarray:
        """int64 [23]."""
        head = (self.plan, self.manifest, self.stage, self.first_step, self.failed)
        content = LAYOUT.pack(*head, *self.counted, *self.planned, *self.planned_by_all)
        return np.frombuffer(content, dtype=np.int64).copy()  # torch wants what it may write to

    @classmethod
    def unpack(cls, numbers: np.ndarray) -> "Message":
        plan, manifest, stage, step, failed, *found = LAYOUT.unpack(numbers.tobytes())
        totals = [Totals(*found[first : first + 4]) for first in (0, 4, 8)]
        return cls(plan, manifest, stage, step, failed, *totals)


def verify(local: LocalStage, manifest_hash: str, found: Prepared | Exception) -> Prepared:
    """What this rank prepared, if all ranks together have what the plan says; every rank must call it.

    `found` is the error of a rank that could prepare nothing; it is raised there. Raises MghError on every
    other rank then, and on all ranks when something differs, naming rank, stage and difference.
    """
    plan, manifest = bytes.fromhex(local.plan.fingerprint(manifest_hash)), bytes.fromhex(manifest_hash)
    if isinstance(found, Exception):
        own = Message(plan, manifest, local.stage.index, local.first_step, failed=1)
    else:
        totals = found.counted, found.planned, found.planned_by_all
        own = Message(plan, manifest, local.stage.index, local.first_step, 0, *totals)
    numbers = torch.from_numpy(own.pack())
    everyone = all_gather(numbers[None].to(device())).cpu().numpy()
    difference = find_difference([Message.unpack(numbers) for numbers in everyone])
    if isinstance(found, Exception):
        raise found
    if difference:
        raise MghError(f"stage `{local.stage.name}` cannot begin at step {local.first_step}: {difference}")
    return found


def find_difference(messages: Sequence[Message]) -> str | None:
    """What is wrong between the ranks or between a rank and the plan; the same on every rank."""
    first = messages[0]
    for rank, message in enumerate(messages):
        if message.failed:
            return f"rank {rank} could not read its records; its own message says why"
        for name, words in (("stage", "stage"), ("first_step", "step"), ("manifest", "store")):
            if getattr(message, name) != getattr(first, name):
                return f"rank {rank} is at another {words} than rank 0"
        if (message.plan, message.planned_by_all) != (first.plan, first.planned_by_all):
            return f"rank {rank} has another plan than rank 0: start all ranks with one recipe and version"
        if message.counted != message.planned:
            what = _differing(message.counted, message.planned)
            return (
                f"rank {rank} has other records than the plan gives it ({what}). Remove the folder of shards "
                "and start again"
            )
    whole = Totals(
        sum(message.counted.records for message in messages),
        sum(message.counted.id_sum for message in messages) % 2**64,
        int(np.bitwise_xor.reduce(np.array([m.counted.id_xor for m in messages], dtype=np.uint64))),
        sum(message.counted.characters for message in messages),
    )
    if whole != first.planned_by_all:
        return f"the ranks' records do not add up to the plan ({_differing(whole, first.planned_by_all)})"
    return None


def _differing(found: Totals, planned: Totals) -> str:
    pairs = zip(Totals._fields, found, planned, strict=True)
    return ", ".join(f"{name} {one}, planned {other}" for name, one, other in pairs if one != other)
