"""Shards: the records that a rank trains on in a stage, in step order, in one file on a node-local disk.

A shard is a cache of the store. It is read from front to back, where the store would be read at random. What
is lost or damaged is found by its checksum and written anew.

    stage-1-rank-3-of-8.arrow   an Arrow IPC stream with one record batch a step: the rank's records of it
    stage-1-rank-3-of-8.json    whose shard it is, and where each step's batch lies, with its sha256

The folder belongs to one run. Plain reads serve here, not a memory map, whose pages would count as resident.
"""

import contextlib
import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Protocol

import numpy as np
import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mgh_ds.common import files
from mgh_ds.curriculum.loader import RecordStore
from mgh_ds.curriculum.plan import EMPTY, TrainingPlan
from mgh_ds.curriculum.stages import Stage
from mgh_ds.records.columns import RECORD_FIELDS
from mgh_ds.records.schema import SCHEMA_VERSION

SCHEMA = pa.schema([*RECORD_FIELDS, pa.field("id_hash", pa.uint64(), nullable=False)])
END_OF_STREAM = bytes.fromhex("ffffffff00000000")
# With what a name looks like while its file is being written.
FILE_NAME = re.compile(r"\.?stage-(\d+)-rank-\d+-of-(\d+)\.(?:arrow|json)(?:\.[a-z0-9_]{8})?")

# So much is copied from the store at a time: many steps at once, so that each part of it is visited once.
COPY_ROWS = 4096
COPY_CHARS = 16 * 2**20


class ShardError(Exception):
    """Why a shard cannot be used."""


@dataclass(frozen=True)
class LocalStage:
    """What one rank trains on in a stage, from `first_step` to the stage's end."""

    plan: TrainingPlan
    stage: Stage
    first_step: int
    world_size: int
    rank: int

    @property
    def steps(self) -> range:
        return range(self.first_step, self.stage.first_step + self.stage.steps)

    @property
    def name(self) -> str:
        """Of the shard's files, without the ending."""
        return f"stage-{self.stage.index}-rank-{self.rank}-of-{self.world_size}"

    def rows(self, step: int) -> np.ndarray:
        """Rows of the store, int64 [n], in their order; empty places are left out."""
        local = self.plan.local_batch(step, self.world_size, self.rank)
        return local[local != EMPTY]


class StageRecords(Protocol):
    """Where a rank's records of a stage are read."""

    def read(self, step: int) -> pa.RecordBatch: ...

    def batches(self) -> Iterator[tuple[int, pa.RecordBatch]]: ...


class StoreRecords:
    """Read from the store itself."""

    def __init__(self, store: RecordStore, local: LocalStage) -> None:
        self.store, self.local = store, local

    def read(self, step: int) -> pa.RecordBatch:
        """The records of one step; columns as in `SCHEMA`."""
        return self.store.take(self.local.rows(step), SCHEMA.names)

    def batches(self) -> Iterator[tuple[int, pa.RecordBatch]]:
        """Every step and its records, in order; many steps are copied at once."""
        for stretch in self._stretches():
            copied = self.store.take(np.concatenate([rows for _, rows in stretch]), SCHEMA.names)
            start = 0
            for step, rows in stretch:
                yield step, copied.slice(start, len(rows))
                start += len(rows)

    def _stretches(self) -> Iterator[list[tuple[int, np.ndarray]]]:
        """Steps and their rows, cut where the next ones would be too much to copy at once."""
        index = self.local.plan.index
        stretch: list[tuple[int, np.ndarray]] = []
        records = characters = 0
        for step in self.local.steps:
            rows = self.local.rows(step)
            chars = index.query_chars[rows] + index.positive_chars[rows] + index.level_chars[rows].sum(axis=1)
            added = int(chars.sum(dtype=np.int64))
            if stretch and (records + len(rows) > COPY_ROWS or characters + added > COPY_CHARS):
                yield stretch
                stretch, records, characters = [], 0, 0
            stretch.append((step, rows))
            records, characters = records + len(rows), characters + added
        yield stretch


class Block(BaseModel):
    """Where a step's record batch lies in the file."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    offset: Annotated[int, Field(ge=0)]
    bytes: Annotated[int, Field(ge=0)]
    sha256: str


class Description(BaseModel):
    """Whose shard it is. `blocks` are those of the steps from `first_step` to the stage's end."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    schema_version: int
    plan: str
    manifest: str
    stage: int
    first_step: int
    world_size: int
    rank: int
    blocks: Annotated[list[Block], Field(min_length=1)]


class StageShard:
    """A shard on disk. Nothing is believed that its checksum does not confirm."""

    def __init__(self, path: Path, description: Description, local: LocalStage) -> None:
        """Use `open_shard` or `write_shard`."""
        self.path, self.description, self.local = path, description, local

    def read(self, step: int) -> pa.RecordBatch:
        """The records of one step; columns as in `SCHEMA`. Raises ShardError or OSError."""
        block = self.description.blocks[step - self.description.first_step]
        with self.path.open("rb") as file:
            file.seek(block.offset)
            content = file.read(block.bytes)
        if len(content) < block.bytes:
            raise ShardError(f"{self.path} is cut short")
        if hashlib.sha256(content).hexdigest() != block.sha256:
            raise ShardError(f"{self.path} is damaged in step {step}")
        try:
            return pa.ipc.read_record_batch(pa.py_buffer(content), SCHEMA)
        except pa.ArrowException as error:
            raise ShardError(f"{self.path} cannot be read: {error}") from None

    def batches(self) -> Iterator[tuple[int, pa.RecordBatch]]:
        """Every step and its records, in order. Raises as `read`."""
        for step in self.local.steps:
            yield step, self.read(step)


def open_shard(folder: Path, local: LocalStage, manifest_hash: str) -> StageShard | None:
    """The shard that an earlier start left, if it left one; its records are not read yet.

    Raises ShardError if it is another one's, or lacks steps of it, and OSError.
    """
    path = folder / f"{local.name}.json"
    try:
        found = Description.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValidationError:
        raise ShardError(f"{path} is damaged") from None
    wanted = describe(local, manifest_hash, found.first_step, found.blocks)
    differing = [key for key in Description.model_fields if getattr(found, key) != getattr(wanted, key)]
    if differing:
        raise ShardError(f"{path} has another {', '.join(differing)}")
    if found.first_step > local.first_step or found.first_step + len(found.blocks) != local.steps.stop:
        raise ShardError(f"{path} lacks steps")
    path = path.with_suffix(".arrow")
    if path.stat().st_size < max(block.offset + block.bytes for block in found.blocks):
        raise ShardError(f"{path} is cut short")
    return StageShard(path, found, local)


def write_shard(
    folder: Path,
    local: LocalStage,
    manifest_hash: str,
    batches: Iterable[tuple[int, pa.RecordBatch]],
) -> StageShard:
    """Writes a rank's batches of a stage, one a step, and makes them visible when all are on disk.

    Raises OSError, of a full disk for one; nothing half-written is left then.
    """
    path, blocks = folder / f"{local.name}.arrow", []
    for leftover in folder.glob(f".{local.name}.*"):  # of a start that was killed
        _remove(leftover)
    with files.new_file(path) as file:
        file.write(SCHEMA.serialize())
        for _, batch in batches:
            content = batch.serialize()
            digest = hashlib.sha256(content).hexdigest()
            blocks.append(Block(offset=file.tell(), bytes=content.size, sha256=digest))
            file.write(content)
        file.write(END_OF_STREAM)
    description = describe(local, manifest_hash, local.first_step, blocks)
    files.write_text(path.with_suffix(".json"), description.model_dump_json())
    return StageShard(path, description, local)


def describe(local: LocalStage, manifest_hash: str, first_step: int, blocks: list[Block]) -> Description:
    """What a shard says of itself."""
    return Description(
        schema_version=SCHEMA_VERSION,
        plan=local.plan.fingerprint(manifest_hash),
        manifest=manifest_hash,
        stage=local.stage.index,
        first_step=first_step,
        world_size=local.world_size,
        rank=local.rank,
        blocks=blocks,
    )


def remove_shard(folder: Path, local: LocalStage) -> None:
    """Deletes the shard of one stage, if there is one."""
    for suffix in (".json", ".arrow"):
        _remove((folder / local.name).with_suffix(suffix))


def remove_old_shards(folder: Path, local: LocalStage) -> None:
    """Deletes what no rank needs once it is at `local`: shards of earlier stages and of another number of
    ranks, also half-written ones. Other files are left alone."""
    for path in folder.glob("*stage-*"):
        found = FILE_NAME.fullmatch(path.name)
        if found:
            stage, world_size = map(int, found.groups())
            if stage < local.stage.index or world_size != local.world_size:
                _remove(path)


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):  # what cannot be deleted costs space, which is no reason to stop
        path.unlink()
