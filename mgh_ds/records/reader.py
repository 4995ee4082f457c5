"""Reads rows from files that nobody vouches for: each is accepted, or refused with a reason, and counted.

A row is refused for what is wrong with its bytes (UTF-8, JSON, length), its keys (twice the same), or its
content (whatever the format's parser says). Memory holds one line at a time and, to find ids that occur
twice, a 16-byte digest of each.
"""

import hashlib
import itertools
import json
import reprlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from mgh_ds.common.errors import MghError
from mgh_ds.records.rows import RAW_CHARS, ErrorReport, Row, RowRefused, describe
from mgh_ds.records.schema import Record

Progress = Callable[[int], object]  # called with the number of bytes read since the last call
Parse = Callable[[Row], Sequence[Record]]

MAX_LINE_BYTES = 16 * 2**20


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
    """The row as it stands, for MGH JSONL. Raises pydantic's ValidationError."""
    return [Record.model_validate(row.values)]


def parse_rows(rows: Iterable[Row], parse: Parse, report: ErrorReport) -> Iterator[Record]:
    """Parses rows one by one and settles each in the report. An id that occurred before is refused."""
    seen: set[bytes] = set()
    for row in rows:
        try:
            records = parse(row)
            digests = _new_digests(records, seen)
        except ValidationError as error:
            report.refuse(row, RowRefused.because(error))
        except RowRefused as refused:
            report.refuse(row, refused)
        else:
            seen |= digests
            report.accepted += 1
            yield from records


def read_rows(path: Path, report: ErrorReport, progress: Progress | None = None) -> Iterator[Row]:
    """The objects of a JSONL file, or the rows of a file named *.parquet; what cannot be decoded is refused.

    Raises MghError if the file is missing or unreadable.
    """
    read = _read_parquet if path.suffix == ".parquet" else _read_jsonl
    try:
        yield from read(path, report, progress or (lambda _: None))
    except FileNotFoundError:
        raise MghError(f"{path} does not exist: check the path") from None
    except IsADirectoryError:
        raise MghError(f"{path} is a folder where a file was expected") from None
    except PermissionError:
        raise MghError(f"{path} may not be read: check its permissions") from None


def _read_jsonl(path: Path, report: ErrorReport, progress: Progress) -> Iterator[Row]:
    name = _file_name(path)
    with path.open("rb") as file:
        for number in itertools.count(1):
            line = file.readline(MAX_LINE_BYTES + 1)
            if not line:
                return
            too_long = len(line) > MAX_LINE_BYTES and not line.endswith(b"\n")
            progress(len(line) + (_skip_line(file) if too_long else 0))
            if not too_long and line.isspace():
                report.blank_lines += 1
                continue
            report.rows_read += 1
            try:
                if too_long:
                    raise RowRefused("row", "line_too_long", f"Line is longer than {MAX_LINE_BYTES:,} bytes")
                values = _decode(line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line)
            except RowRefused as refused:
                report.refuse(Row(name, number, line[:RAW_CHARS]), refused)
            else:
                yield Row(name, number, line[:RAW_CHARS], values)


def _file_name(path: Path) -> str:
    """The path as text; bytes in it that are not UTF-8 become question marks."""
    return str(path).encode("utf-8", "replace").decode("utf-8")


def _skip_line(file: BinaryIO) -> int:
    """Reads to the end of a line in pieces; returns the number of bytes passed over."""
    skipped = 0
    while piece := file.readline(2**16):
        skipped += len(piece)
        if piece.endswith(b"\n"):
            break
    return skipped


def _decode(line: bytes) -> dict[str, Any]:
    """One JSON object from bytes. Raises RowRefused for anything else."""
    try:
        value = json.loads(
            line.decode("utf-8"),
            object_pairs_hook=_object_without_duplicates,
            parse_constant=_refuse_constant,
        )
    except UnicodeDecodeError as error:
        raise _not_utf8(error) from None
    except RecursionError:
        raise RowRefused("row", "nested_too_deep", "JSON is nested too deep") from None
    except ValueError as error:  # JSONDecodeError, and integers too long for Python
        raise RowRefused("row", "not_json", f"Row is not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise RowRefused("row", "not_an_object", f"Row should be a JSON object (found {describe(value)})")
    return value


def _object_without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        twice = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise RowRefused(twice, "duplicate_key", "Key occurs twice in one object")
    return value


def _not_utf8(error: UnicodeDecodeError) -> RowRefused:
    return RowRefused("row", "not_utf8", f"Row is not valid UTF-8: {error.reason} at byte {error.start}")


def _refuse_constant(name: str) -> NoReturn:
    raise RowRefused("row", "not_finite", f"{name} is not valid JSON")


def _read_parquet(path: Path, report: ErrorReport, progress: Progress) -> Iterator[Row]:
    try:
        with pq.ParquetFile(path) as file:
            name, number = _file_name(path), 0
            size, total = path.stat().st_size, file.metadata.num_rows
            for batch in file.iter_batches(batch_size=1024):
                progress(size * len(batch) // total)
                for index in range(len(batch)):
                    number += 1
                    report.rows_read += 1
                    try:
                        values = batch.slice(index, 1).to_pylist()[0]
                    except UnicodeDecodeError as error:
                        report.refuse(Row(name, number, b""), _not_utf8(error))
                    else:
                        yield Row(name, number, reprlib.repr(values).encode("utf-8"), values)
    except pa.ArrowException as error:
        raise MghError(f"{path} is not a readable Parquet file: {error}") from None


def _new_digests(records: Sequence[Record], seen: set[bytes]) -> set[bytes]:
    digests: set[bytes] = set()
    for record in records:
        digest = hashlib.blake2b(record.id.encode("utf-8"), digest_size=16).digest()
        if digest in seen or digest in digests:
            raise RowRefused("id", "duplicate_id", f"Id '{record.id}' occurs earlier in this data")
        digests.add(digest)
    return digests
