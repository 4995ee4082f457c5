"""Parts: the finished units of a chunk as one immutable Parquet file. A part that is there is complete."""

import errno
import json
import os
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mgh_ds.common import files
from mgh_ds.common.errors import MghError
from mgh_ds.synthesis.counts import Counts
from mgh_ds.synthesis.unit_row import COLUMNS, UnitRow

SUMMARY = b"mgh_ds.part"


@dataclass(frozen=True)
class PartSummary:
    """What a part's footer says: whose it is, and its counts. `scope` fixes plan and stage-1 result."""

    scope: str
    shard: int
    round: int
    chunk: int
    counts: Counts

    def encode(self) -> bytes:
        names = {"scope": self.scope, "shard": self.shard, "round": self.round, "chunk": self.chunk}
        return json.dumps(names | self.counts.as_json(), sort_keys=True).encode()

    @classmethod
    def decode(cls, data: bytes) -> "PartSummary":
        """Raises ValueError, KeyError or TypeError for anything but what `encode` wrote."""
        found = json.loads(data)
        return cls(found["scope"], found["shard"], found["round"], found["chunk"], Counts.from_json(found))


def part_path(folder: Path, chunk: int) -> Path:
    return folder / f"part-{chunk:05d}.parquet"


def write_part(path: Path, rows: Sequence[UnitRow], summary: PartSummary) -> None:
    """Writes the rows, sorted by id, and links the file into place. A part that is there already stays as it
    is: whoever wrote it was first.

    Raises OSError; nothing is left behind then.
    """
    ordered = sorted(rows, key=lambda row: row.unit_id)
    schema = COLUMNS.with_metadata({SUMMARY: summary.encode()})
    table = pa.table({name: [getattr(row, name) for row in ordered] for name in COLUMNS.names}, schema=schema)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}")
    try:
        pq.write_table(table, temporary, compression="zstd", write_page_checksum=True)
        files.sync_folder(temporary)
        link_new(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def link_new(temporary: Path, path: Path) -> None:
    """Gives a finished file its name unless that name is taken."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        return
    except OSError as error:
        if error.errno in (errno.EPERM, *files.UNSUPPORTED):
            raise MghError(
                f"{path.parent} is on a file system without hard links, which finished parts need: "
                "put the plan's folder on another one"
            ) from error
        raise
    files.sync_folder(path.parent)


def write_new_json(path: Path, value: Any) -> None:
    """Writes a small JSON file unless it is there: then it stays as it is."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}")
    try:
        files.write_json(temporary, value)
        link_new(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def read_summary(path: Path) -> PartSummary:
    """A part's counts, from its footer alone. Raises MghError for a damaged one."""
    try:
        metadata = pq.read_schema(path).metadata or {}
        return PartSummary.decode(metadata[SUMMARY])
    except (pa.ArrowException, OSError, KeyError, TypeError, ValueError) as error:
        raise _damaged(path, error) from None


def read_part(path: Path, columns: list[str] | None = None) -> pa.Table:
    """A part's rows with every page's checksum compared. Raises MghError for a damaged one."""
    try:
        table = pq.ParquetFile(path, page_checksum_verification=True, pre_buffer=False).read(columns)
    except (pa.ArrowException, OSError) as error:
        raise _damaged(path, error) from None
    if columns is None and table.schema != COLUMNS:
        raise _damaged(path, "its columns are not those of this version")
    return table


def _damaged(path: Path, error: object) -> MghError:
    return MghError(
        f"{path} is damaged ({str(error).splitlines()[0]}): `mgh-ds synth run` on its shard makes it anew"
    )
