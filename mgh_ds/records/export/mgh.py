"""The project's own records, all of them whole: as MGH JSONL, or as a table of the same fields.

A table cannot have columns that differ from row to row, so there `source` is a list of key and value. Both
are read by `mgh-ds data convert --format mgh`.
"""

from collections.abc import Iterable
from typing import Any

import pyarrow as pa

from mgh_ds.records.export.ledger import ALL, Ledger
from mgh_ds.records.export.rows import JSONL, PARQUET, Options, Rows
from mgh_ds.records.schema import Record
from mgh_ds.records.store import Store

ENDINGS = (JSONL, PARQUET)
TABLE = pa.schema(
    [
        pa.field("id", pa.string()),
        pa.field("task", pa.struct([(name, pa.string()) for name in ("kind", "subtype", "instruction")])),
        pa.field("language", pa.string()),
        pa.field("query", pa.string()),
        pa.field("positive", pa.string()),
        pa.field("score", pa.float64()),
        pa.field(
            "negatives",
            pa.list_(pa.struct([("text", pa.string()), ("level", pa.int8()), ("score", pa.float64())])),
        ),
        pa.field("source", pa.list_(pa.struct([("key", pa.string()), ("value", pa.string())]))),
    ]
)


def rows(records: Iterable[Record], store: Store, ledger: Ledger, options: Options) -> Rows:  # noqa: ARG001
    """A row a record."""
    of_record = table_row if options.ending == PARQUET else Record.model_dump
    return Rows((of_record(record) for record in counted(records, ledger)), TABLE)


def counted(records: Iterable[Record], ledger: Ledger) -> Iterable[Record]:
    """The records, each of which loses nothing."""
    for record in records:
        ledger.add(record, ALL)
        yield record


def table_row(record: Record) -> dict[str, Any]:
    """The record as a row of TABLE."""
    source = [{"key": key, "value": value} for key, value in record.source.items()]
    return record.model_dump() | {"source": source}
