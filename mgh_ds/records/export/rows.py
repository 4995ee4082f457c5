"""Rows as a file: JSONL or Parquet, with the same bytes whenever the rows are the same."""

import itertools
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

JSONL, PARQUET = ".jsonl", ".parquet"
BATCH_ROWS = 256  # rows that are Python objects at one time
GROUP_ROWS = 16_384  # of Parquet: a row group ends with so many rows
GROUP_BYTES = 64 * 2**20  # or so many bytes


@dataclass(frozen=True)
class Options:
    """What the user says about the output: its ending, and how many negatives its columns hold."""

    ending: str = JSONL
    negatives: int | None = None


@dataclass(frozen=True)
class Rows:
    """Rows as JSON values by column, and the columns' types; None where the format knows no tables."""

    rows: Iterable[dict[str, Any]]
    schema: pa.Schema | None = None


def write_rows(file: BinaryIO, rows: Rows, ending: str) -> None:
    """Writes all rows, as the ending says."""
    if ending == PARQUET:
        _write_parquet(file, rows)
    else:
        for row in rows.rows:
            file.write(json_line(row))


def json_line(row: dict[str, Any]) -> bytes:
    """One line of JSONL."""
    return json.dumps(row, ensure_ascii=False, allow_nan=False).encode("utf-8") + b"\n"


def batches(rows: Iterable[dict[str, Any]], schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """The rows as columns, a few at a time."""
    left = iter(rows)
    while some := list(itertools.islice(left, BATCH_ROWS)):
        yield pa.RecordBatch.from_pylist(some, schema=schema)


def _write_parquet(file: BinaryIO, rows: Rows) -> None:
    with pq.ParquetWriter(file, rows.schema) as writer:
        group: list[pa.RecordBatch] = []
        for batch in batches(rows.rows, rows.schema):
            group.append(batch)
            if sum(map(len, group)) >= GROUP_ROWS or sum(one.nbytes for one in group) >= GROUP_BYTES:
                writer.write_table(pa.Table.from_batches(group))
                group = []
        if group:
            writer.write_table(pa.Table.from_batches(group))
