"""Rows of tables: Parquet, and text with a header (CSV, TSV). Only the columns that a format uses are read,
so the others may hold what they like; they are counted as ignored."""

import csv
import io
import reprlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mgh_ds.common.errors import MghError
from mgh_ds.records.json_rows import MAX_LINE_BYTES, not_utf8
from mgh_ds.records.rows import ErrorReport, Row, RowRefused, file_name
from mgh_ds.records.streams import FOREIGN, HEAD, LFS_POINTER, WITHOUT_MARK, Progress, open_utf8

Reads = Callable[[str], bool]
"""Whether a format uses a column of this name."""

BATCH_ROWS = 1024
SEPARATED_BY = {",": "commas", "\t": "tabs"}

csv.field_size_limit(MAX_LINE_BYTES)  # Python's own limit is little above that of a record's texts


def read_parquet(path: Path, report: ErrorReport, progress: Progress, reads: Reads) -> Iterator[Row]:
    """The rows of a Parquet file. A value that Python has no counterpart for refuses its row.

    Raises MghError if it is no Parquet file, is damaged, or has a column that is used twice.
    """
    with path.open("rb") as head:
        if head.read(HEAD).startswith(LFS_POINTER):
            raise MghError(f"{path} {FOREIGN[LFS_POINTER]}")
    try:
        with pq.ParquetFile(path) as file:
            columns = _used(path, file.schema_arrow.names, reads)
            ignored = set(file.schema_arrow.names) - set(columns)
            size, total = path.stat().st_size, file.metadata.num_rows
            number = 0
            for batch in file.iter_batches(batch_size=BATCH_ROWS, columns=columns):
                progress(size * len(batch) // total)
                report.ignore(ignored, rows=len(batch))
                yield from _rows(path, batch, number, report)
                number += len(batch)
    except pa.ArrowException as error:
        raise MghError(f"{path} is not a readable Parquet file: {error}") from None


def read_arrow(path: Path, report: ErrorReport, reads: Reads) -> Iterator[Row]:
    """The rows of a file in Arrow's streaming format, as `datasets` saves them; otherwise as `read_parquet`.

    Raises MghError if it is no such file, is damaged, or has a column that is used twice.
    """
    try:
        with pa.OSFile(str(path)) as file, pa.ipc.open_stream(file) as stream:
            columns = _used(path, stream.schema.names, reads)
            ignored = set(stream.schema.names) - set(columns)
            number = 0
            for batch in stream:
                report.ignore(ignored, rows=len(batch))
                yield from _rows(path, batch.select(columns), number, report)
                number += len(batch)
    except (pa.ArrowException, OSError) as error:
        raise MghError(f"{path} is not a readable Arrow file: {error}") from None


def _rows(path: Path, batch: pa.RecordBatch, before: int, report: ErrorReport) -> Iterator[Row]:
    """The rows of a batch that has so many `before` it in its file."""
    name = file_name(path)
    for index in range(len(batch)):
        number = before + index + 1
        report.rows_read += 1
        try:
            values = _values(batch, index)
        except RowRefused as refused:
            report.refuse(Row(name, number, b""), refused)
        else:
            yield Row(name, number, reprlib.repr(values).encode("utf-8"), values)


def _values(batch: pa.RecordBatch, index: int) -> dict[str, Any]:
    """One row by column. Raises RowRefused, naming the column."""
    values = {}
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        try:
            values[name] = column[index].as_py()
        except UnicodeDecodeError as error:
            raise not_utf8(error) from None
        # A date that Python has not, a time zone that the machine does not know.
        except (ValueError, OverflowError, KeyError, pa.ArrowException) as error:
            reason = f"Value of type {column.type} cannot be read: {error}"
            raise RowRefused(name, "not_readable", reason) from None
    return values


def read_text_table(
    path: Path, report: ErrorReport, progress: Progress, reads: Reads, *, delimiter: str
) -> Iterator[Row]:
    """The rows of a table in text, under its header. Cells are texts, an empty one is null, and the place of
    a row is the line where it begins.

    Raises MghError for a quote that is not closed, since nobody knows where the next row begins; for a header
    of a single column, which means another delimiter; and for a column that is used twice.
    """
    name, number = file_name(path), 1
    with open_utf8(path, progress) as file:
        text = io.TextIOWrapper(file, "utf-8", errors="surrogateescape", newline="")
        table = csv.reader(_lines(text), delimiter=delimiter, strict=True)
        try:
            header = next(table, [])
            if any("\0" in column for column in header):
                raise MghError(f"{path} {WITHOUT_MARK}")
            if len(header) == 1:
                raise MghError(
                    f"{path} has a single column, {header[0][:80]!r}: its cells must be "
                    f"separated by {SEPARATED_BY[delimiter]}"
                )
            used = set(_used(path, header, reads))
            ignored = set(header) - used
            number = table.line_num + 1
            for cells in table:
                row, number = Row(name, number, reprlib.repr(cells).encode("utf-8")), table.line_num + 1
                if not cells:
                    report.blank_lines += 1
                    continue
                report.rows_read += 1
                report.ignore(ignored)
                if len(cells) != len(header):
                    problem = f"Row has {len(cells)} cells, and the header {len(header)}"
                    report.refuse(row, RowRefused("row", "wrong_number_of_cells", problem))
                    continue
                values = {
                    column: cell or None for column, cell in zip(header, cells, strict=True) if column in used
                }
                yield Row(row.file, row.line, row.raw, values, typed=False)
        except csv.Error as error:
            raise MghError(
                f"{path}, line {number}: not a row of cells: {error}. A cell with quotation marks, line "
                'breaks or delimiters must stand between " and have each " within it twice'
            ) from None


def _lines(text: io.TextIOWrapper) -> Iterator[str]:
    while line := text.readline(MAX_LINE_BYTES + 1):
        if len(line) > MAX_LINE_BYTES:
            raise csv.Error(f"line is longer than {MAX_LINE_BYTES:,} characters")
        yield line


def _used(path: Path, names: Iterable[str], reads: Reads) -> Sequence[str]:
    """The columns to read; all of them where a format uses none, so that its rows say what they lack."""
    names = list(names)
    used = [name for name in names if reads(name)]
    twice = [name for name, count in Counter(used).items() if count > 1]
    if twice:
        raise MghError(f"{path} has the column {twice[0]!r} twice: which one is meant? Rename or remove one")
    return used or list(dict.fromkeys(names))
