"""Reads rows from files that nobody vouches for: each is accepted, or refused with a reason, and counted.

A row is refused for what is wrong with its bytes (UTF-8, JSON, length), its keys (twice the same), or its
content (whatever the format's parser says). Memory holds one row at a time, of Parquet a batch, and, to find
ids that occur twice, a 16-byte digest of each.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from mgh_ds.common.errors import MghError
from mgh_ds.records.inputs import ARROW, PARQUET, TEXT_TABLES, ending
from mgh_ds.records.json_rows import read_json, read_lines
from mgh_ds.records.rows import ErrorReport, Row, RowRefused
from mgh_ds.records.schema import Record
from mgh_ds.records.streams import Progress
from mgh_ds.records.tables import Reads, read_arrow, read_parquet, read_text_table

Parse = Callable[[Row], Sequence[Record]]


def read_records(
    path: Path, report: ErrorReport | None = None, progress: Progress | None = None
) -> Iterator[Record]:
    """The records of an MGH JSONL file. Without a report of its own, the first bad row raises MghError."""
    return read_jsonl(path, parse_record, report or ErrorReport("stop"), progress)


def read_jsonl(
    path: Path, parse: Parse, report: ErrorReport, progress: Progress | None = None
) -> Iterator[Record]:
    """The records that `parse` makes of each row of a file; bad rows go to the report.

    `parse` takes a Row and returns its records; it refuses the row by raising RowRefused or pydantic's
    ValidationError. Raises MghError if the file cannot be read, or at a bad row if the report says stop.
    """
    return parse_rows(read_rows(path, report, progress), parse, report)


def parse_record(row: Row) -> list[Record]:
    """The row as it stands, for MGH JSONL. In a table, whose rows have no keys of their own, `source` is a
    list of `key` and `value`. Raises RowRefused or pydantic's ValidationError."""
    source = row.values.get("source")
    values = row.values | {"source": _joined(source)} if isinstance(source, list) else row.values
    return [Record.model_validate(values)]


def parse_rows(rows: Iterable[Row], parse: Parse, report: ErrorReport) -> Iterator[Record]:
    """Parses rows one by one and settles each in the report. An id that occurred before is refused."""
    for _, records in parsed_rows(rows, parse, report):
        report.accepted += 1
        yield from records


def parsed_rows(
    rows: Iterable[Row],
    parse: Parse,
    report: ErrorReport,
    repeated: Callable[[Row, Sequence[Record]], None] = lambda *_: None,
) -> Iterator[tuple[Row, Sequence[Record]]]:
    """The rows that `parse_rows` would accept, with their records. The caller settles them in the report;
    what was refused for an id that had occurred is shown to `repeated`."""
    seen: set[bytes] = set()
    for row in rows:
        try:
            records = parse(row)
        except ValidationError as error:
            report.refuse(row, RowRefused.because(error))
            continue
        except RowRefused as refused:
            report.refuse(row, refused)
            continue
        try:
            digests = _new_digests(records, seen)
        except RowRefused as refused:
            report.refuse(row, refused)
            repeated(row, records)
        else:
            seen |= digests
            yield row, records


def read_all(_: str) -> bool:
    """For formats that use every column, or refuse it."""
    return True


def read_rows(
    path: Path, report: ErrorReport, progress: Progress | None = None, reads: Reads = read_all
) -> Iterator[Row]:
    """The rows of a file, as its ending says (`records.inputs`): a table's, an array's, or else an object a
    line. What cannot be decoded is refused; of a table only the columns that `reads` names are read.

    Raises MghError if the file is missing, unreadable or damaged.
    """
    kind, progress = ending(path), progress or (lambda _: None)
    try:
        if kind == PARQUET:
            yield from read_parquet(path, report, progress, reads)
        elif kind in ARROW:
            yield from read_arrow([path], report, progress, reads)
        elif kind in TEXT_TABLES:
            yield from read_text_table(path, report, progress, reads, delimiter=TEXT_TABLES[kind])
        else:
            yield from (read_json if kind == ".json" else read_lines)(path, report, progress)
    except FileNotFoundError:
        raise MghError(f"{path} does not exist: check the path") from None
    except IsADirectoryError:
        raise MghError(f"{path} is a folder where a file was expected") from None
    except PermissionError:
        raise MghError(f"{path} may not be read: check its permissions") from None


def _joined(pairs: list[Any]) -> dict[str, Any]:
    """Raises RowRefused for what is no list of keys that differ and their values."""
    if not all(isinstance(pair, dict) and pair.keys() == {"key", "value"} for pair in pairs):
        raise RowRefused("source", "dict_type", "Source should be an object, or a list of key and value")
    joined = {pair["key"]: pair["value"] for pair in pairs if isinstance(pair["key"], str)}
    if len(joined) < len(pairs):
        raise RowRefused("source", "duplicate_key", "Keys of source should be texts, and differ")
    return joined


def _new_digests(records: Sequence[Record], seen: set[bytes]) -> set[bytes]:
    digests: set[bytes] = set()
    for record in records:
        digest = hashlib.blake2b(record.id.encode("utf-8"), digest_size=16).digest()
        if digest in seen or digest in digests:
            raise RowRefused("id", "duplicate_id", f"Id '{record.id}' occurs earlier in this data")
        digests.add(digest)
    return digests
