"""Where records are kept: a folder of memory-mapped Arrow parts and a manifest with their checksums.

The parts are uncompressed Arrow IPC files rather than Parquet because training reads single rows in random
order: a memory map finds row i by its offsets and touches only that row's pages, where Parquet would decode a
whole data page for it. The operating system shares the mapped pages between all ranks of a machine, and
keeps them in its cache; the process itself lets go of them after each read, so that its resident memory does
not grow with the store.

    store/
      manifest.json       schema version, rows, parts with their sizes and sha256, notes of whoever wrote it
      part-00000.arrow    one record batch: the records' own columns, then the columns of the index; those of
                          scores only where there are some
      rejected.jsonl      the rows that a conversion refused, if it was a conversion
"""

import hashlib
import itertools
import json
import mmap
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mgh_ds.common import files
from mgh_ds.common.errors import MghError
from mgh_ds.records import bundled
from mgh_ds.records.columns import (
    INDEX_FIELDS,
    RECORD_COLUMNS,
    SCHEMA,
    SCORED_SCHEMA,
    from_columns,
    to_columns,
    to_numpy,
    with_score_columns,
)
from mgh_ds.records.reader import read_records
from mgh_ds.records.rows import ErrorReport
from mgh_ds.records.schema import SCHEMA_VERSION, Record

MANIFEST = "manifest.json"
VERSIONS = (1, SCHEMA_VERSION)  # that are read; the first is that of stores without scores
PART_ROWS = 16_384
PART_CHARS = 64 * 2**20

Int64s = npt.NDArray[np.int64]
Int32s = npt.NDArray[np.int32]
UInt64s = npt.NDArray[np.uint64]
UInt8s = npt.NDArray[np.uint8]


class Part(BaseModel):
    """One file of the store, as the manifest describes it."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    file: Annotated[str, Field(pattern=r"^part-\d{5,}\.arrow$")]
    rows: Annotated[int, Field(ge=1)]
    bytes: Annotated[int, Field(ge=1)]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Manifest(BaseModel):
    """What a store holds. `notes` is free: a conversion keeps its counts there."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    schema_version: int
    rows: Annotated[int, Field(ge=1)]
    parts: Annotated[list[Part], Field(min_length=1)]
    notes: dict[str, Any]


@dataclass(frozen=True)
class StoreIndex:
    """What the curriculum must know of every record to plan with it, without reading a text.

    n = number of records; column l of the level arrays is level l, column 0 the ungraded negatives.
    """

    id_hash: UInt64s  # [n] hash64(id), distinct
    task_hash: UInt64s  # [n] hash64(instruction, subtype)
    query_chars: Int32s  # [n]
    positive_chars: Int32s  # [n]
    level_chars: Int32s  # [n, 5] characters of the longest negative of that level, 0 = none
    level_counts: UInt8s  # [n, 5] number of negatives of that level
    scored: UInt8s  # [n] 2 = the positive and all negatives have a score, 1 = the positive, 0 = not even it

    def __len__(self) -> int:
        return len(self.id_hash)

    @classmethod
    def concatenate(cls, parts: Sequence["StoreIndex"]) -> "StoreIndex":
        """The index of several stores' records, one store after another."""
        columns = [field.name for field in fields(cls)]
        return cls(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in columns})


class StoreWriter:
    """Writes a store; nothing is visible under `path` before the `with` block has ended without an error.

        with StoreWriter(path) as writer:
            writer.add(record)
            writer.notes["made_by"] = "…"

    Memory holds one part at a time, and 8 bytes a record. Raises MghError if `path` exists and `replace` is
    false, if no record was added, if two ids are equal, or if the disk is full; nothing is left behind then.
    """

    def __init__(self, path: Path, *, replace: bool = False):
        self.path = path
        self._replace = replace
        self.notes: dict[str, Any] = {}
        self.folder = Path()  # the temporary folder, while the block lasts
        self._columns: dict[str, list[Any]] = {}
        self._chars = 0
        self._parts: list[Part] = []
        self._id_hashes: list[UInt64s] = []
        self._version = VERSIONS[0]
        self._block = self._writing()

    def __enter__(self) -> Self:
        self._block.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._block.__exit__(kind, error, trace)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            with files.new_folder(self.path, replace=self._replace) as self.folder:
                self._clear()
                yield
                self._finish()
        except OSError as error:
            if files.disk_is_full(error):
                raise MghError(
                    f"The disk is full: {self.path} could not be written, and nothing of it was left behind. "
                    "Free some space or choose another folder."
                ) from error
            raise

    def add(self, record: Record) -> None:
        """Appends one record."""
        columns = self._columns
        for name, value in to_columns(record).items():
            columns[name].append(value)
        self._chars += len(record.query) + len(record.positive) + sum(len(n.text) for n in record.negatives)
        if len(columns["id"]) >= PART_ROWS or self._chars >= PART_CHARS:
            self._write_part()

    def _clear(self) -> None:
        self._columns = {field.name: [] for field in SCORED_SCHEMA}
        self._chars = 0

    def _write_part(self) -> None:
        schema = SCORED_SCHEMA if self._part_has_scores() else SCHEMA
        batch = pa.record_batch([pa.array(self._columns[f.name], f.type) for f in schema], schema=schema)
        path = self.folder / f"part-{len(self._parts):05d}.arrow"
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
            writer.write_batch(batch)
        part = Part(file=path.name, rows=len(batch), bytes=path.stat().st_size, sha256=files.sha256(path))
        self._parts.append(part)
        self._id_hashes.append(batch["id_hash"].to_numpy())
        if schema is SCORED_SCHEMA:
            self._version = SCHEMA_VERSION
        self._clear()

    def _part_has_scores(self) -> bool:
        of_negatives = itertools.chain.from_iterable(self._columns["negative_scores"])
        return any(score is not None for score in itertools.chain(self._columns["score"], of_negatives))

    def _finish(self) -> None:
        if self._columns["id"]:
            self._write_part()
        if not self._parts:
            raise MghError(f"No record was given for {self.path}: an empty store cannot be trained on")
        rows = sum(part.rows for part in self._parts)
        manifest = Manifest(schema_version=self._version, rows=rows, parts=self._parts, notes=self.notes)
        files.write_json(self.folder / MANIFEST, manifest.model_dump())
        self._refuse_equal_ids()

    def _refuse_equal_ids(self) -> None:
        hashes = np.concatenate(self._id_hashes)
        order = np.argsort(hashes, kind="stable")
        twice = np.flatnonzero(hashes[order][1:] == hashes[order][:-1])
        if len(twice):
            pair = order[twice[0] : twice[0] + 2]
            first, second = Store.open(self.folder).ids(pair)
            raise MghError(
                f"Records {pair[0]} ('{first}') and {pair[1]} ('{second}') of {self.path} have the same id, "
                "or ids with the same 64-bit hash: rename one of them"
            )


class Store:
    """A store opened for reading. Texts stay on disk until they are asked for."""

    def __init__(self, path: Path, manifest: Manifest):
        """Maps the parts; use `Store.open`."""
        self.path = path
        self.manifest = manifest
        self._parts = [MappedPart(path / part.file, part) for part in manifest.parts]
        self._starts = np.cumsum([0, *(part.rows for part in manifest.parts)], dtype=np.int64)

    @classmethod
    def open(cls, path: Path) -> "Store":
        """Opens the store in folder `path`. Raises MghError if it is none, of another version, or damaged.

        Sizes are checked here, checksums only by `verify`.
        """
        if not is_store(path):
            raise MghError(f"{path} is not a store: it has no {MANIFEST}. Make one with: mgh-ds data convert")
        content = files.read_json(path / MANIFEST)
        version = content.get("schema_version") if isinstance(content, dict) else None
        if version not in VERSIONS:
            known = " and ".join(map(str, VERSIONS))
            raise MghError(
                f"{path} has schema version {version}, this program reads versions {known}: "
                "convert the data again"
            )
        try:
            manifest = Manifest.model_validate(content)
        except ValidationError as error:
            raise MghError(f"{path / MANIFEST} is damaged: {error}. Convert the data again.") from None
        if manifest.rows != sum(part.rows for part in manifest.parts):
            raise MghError(f"{path / MANIFEST} is damaged: its parts do not add up. Convert the data again.")
        return cls(path, manifest)

    def __len__(self) -> int:
        return self.manifest.rows

    @property
    def manifest_hash(self) -> str:
        """SHA-256 over the manifest's content, hexadecimal. It changes with any byte of the data."""
        content = json.dumps(
            self.manifest.model_dump(), sort_keys=True, separators=(",", ":"), ensure_ascii=True
        )
        return hashlib.sha256(content.encode("ascii")).hexdigest()

    @property
    def has_scores(self) -> bool:
        """Whether a text of any record has a score."""
        return self.manifest.schema_version == SCHEMA_VERSION

    def verify(self) -> None:
        """Reads every part and compares its checksum. Raises MghError naming the first file that differs."""
        for part in self.manifest.parts:
            if files.sha256(self.path / part.file) != part.sha256:
                raise MghError(f"{self.path / part.file} is damaged: its sha256 differs from the manifest's")

    def rows(self, indices: Sequence[int] | Int64s) -> list[Record]:
        """The records at `indices`, in that order. Raises IndexError for an index outside 0 … len − 1.

        They are validated on the way out: measured, that takes less time than pydantic's unvalidated
        construction, and a damaged store is found where it hurts. Raises MghError then.
        """
        try:
            return to_records(self.take(indices, RECORD_COLUMNS))
        except (ValidationError, UnicodeDecodeError, pa.ArrowException) as error:
            raise MghError(
                f"{self.path} is damaged: {error}. See which file with: mgh-ds data validate {self.path}"
            ) from None

    def ids(self, indices: Sequence[int] | Int64s) -> list[str]:
        """The ids of the records at `indices`, in that order."""
        return self.take(indices, ["id"])["id"].to_pylist()

    def __iter__(self) -> Iterator[Record]:
        """All records in their order, a few at a time."""
        for start in range(0, len(self), 256):
            yield from self.rows(np.arange(start, min(start + 256, len(self))))

    def index(self) -> StoreIndex:
        """The index columns of all records, copied from the map into memory (50 bytes a record)."""
        index = StoreIndex.concatenate([part.index() for part in self._parts])
        for part in self._parts:
            part.release()
        return index

    def take(self, indices: Sequence[int] | Int64s, columns: Sequence[str]) -> pa.RecordBatch:
        """These columns of the records at `indices`, in that order, copied from the map into memory.

        Makes no Python object a record, and lets other threads run meanwhile. Raises IndexError for an index
        outside 0 … len − 1.
        """
        wanted = np.asarray(indices, dtype=np.int64)
        if len(wanted) and not (wanted.min() >= 0 and wanted.max() < len(self)):
            raise IndexError(
                f"rows {wanted.min()} … {wanted.max()} asked of {self.path}, which has {len(self)}"
            )
        return take_in_order(
            wanted, self._starts, lambda number, rows: self._parts[number].take(rows, columns)
        )


class MappedPart:
    """One file of a store, mapped into memory. Raises MghError if it is missing, cut short, or not what the
    manifest says."""

    def __init__(self, path: Path, part: Part):
        try:
            with path.open("rb") as file:
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            if len(self._map) != part.bytes:
                raise MghError(f"{path} has {len(self._map)} bytes where the manifest says {part.bytes}")
            self.rows = pa.ipc.open_file(pa.py_buffer(self._map)).get_batch(0)
        except FileNotFoundError:
            raise MghError(f"{path} is missing: copy the whole store, or convert the data again") from None
        except (pa.ArrowException, ValueError) as error:  # an empty file cannot be mapped
            raise MghError(f"{path} is damaged: {error}. Convert the data again.") from None
        if self.rows.schema not in (SCHEMA, SCORED_SCHEMA) or len(self.rows) != part.rows:
            raise MghError(
                f"{path} is damaged: its columns or rows are not the manifest's. Convert the data again."
            )

    def take(self, rows: Int64s, columns: Sequence[str]) -> pa.RecordBatch:
        """Copies of these rows. Nothing of the map stays resident."""
        present = [name for name in columns if name in self.rows.schema.names]
        taken = self.rows.select(present).take(pa.array(rows))
        self.release()
        return with_score_columns(taken, columns)

    def index(self) -> StoreIndex:
        """Views of the map."""
        present = [field.name for field in INDEX_FIELDS if field.name in self.rows.schema.names]
        columns = {name: to_numpy(self.rows[name]) for name in present}
        return StoreIndex(**{"scored": np.zeros(len(self.rows), np.uint8), **columns})

    def release(self) -> None:
        """Drops the pages read so far from the process; the next read maps them anew, as a rule from the
        operating system's cache."""
        self._map.madvise(mmap.MADV_DONTNEED)


def take_in_order(
    wanted: Int64s, starts: Int64s, take: Callable[[int, Int64s], pa.RecordBatch]
) -> pa.RecordBatch:
    """Rows `wanted` of several parts that lie one after another, in the order asked for.

    Part i begins at row `starts[i]`, and `take(i, rows)` copies rows of it, counted from its own first one.
    """
    owner = np.searchsorted(starts, wanted, side="right") - 1
    parts = np.unique(owner)
    if len(parts) < 2:  # none is asked for, or all lie in one part
        number = int(parts[0]) if len(parts) else 0
        return take(number, wanted - starts[number])
    order = np.argsort(owner, kind="stable")  # by part, as they are copied
    taken = [take(int(number), wanted[owner == number] - starts[number]) for number in parts]
    back = np.empty_like(order)
    back[order] = np.arange(len(order))
    return pa.concat_batches(taken).take(pa.array(back))


def to_records(rows: pa.RecordBatch) -> list[Record]:
    """The records of rows that have the columns `RECORD_COLUMNS`, validated."""
    return [from_columns(row) for row in rows.select(RECORD_COLUMNS).to_pylist()]


def is_store(path: Path) -> bool:
    """Whether a folder holds a store's manifest."""
    return (path / MANIFEST).is_file()


def open_or_convert(path: str | Path, cache_folder: Path) -> Store:
    """The store at `path`; an MGH JSONL file is converted first, into a folder of `cache_folder`.
    `sample:train` and `mgh:held_out`, say, name files that ship in the package.

    That folder is named by the file's content: a changed file gets a new store, an unchanged one is converted
    once. Let one process convert before others ask.
    Raises MghError if nothing is there, if a row is bad, or if there is no row.
    """
    path = bundled.resolve(path)
    if path.is_dir():
        return Store.open(path)
    if not path.is_file():
        raise MghError(f"Data {path} does not exist: give a store's folder or a JSONL file")
    digest = files.sha256(path)
    target = cache_folder / f"{path.stem}-{digest[:16]}"
    if not target.exists():
        report = ErrorReport("stop")
        with StoreWriter(target) as writer:
            writer.notes["sha256_of_source"] = digest
            for record in read_records(path, report):
                writer.add(record)
            report.refuse_if_empty(path)
    return Store.open(target)
