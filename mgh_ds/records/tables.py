"""Rows of tables: Parquet, Arrow, and text with a header (CSV, TSV). Only the columns that a format uses are
read, so the others may hold what they like; they are counted as ignored."""

import csv
import io
import json
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
ARROW_FILE = b"ARROW1"
SEPARATED_BY = {",": "commas", "\t": "tabs"}

csv.field_size_limit(MAX_LINE_BYTES)  # Python's own limit is little above that of a record's texts


def read_parquet(path: Path, report: ErrorReport, progress: Progress, reads: Reads) -> Iterator[Row]:
    """The rows of a Parquet file. A value that Python has no counterpart for refuses its row.

    Raises MghError if it is no Parquet file, is damaged, or has a column that is used twice.
    """
    _refuse_pointer(path)
    try:
        with pq.ParquetFile(path) as file:
            table = _Table(file_name(path), file.schema_arrow, reads, report)
            size, total = path.stat().st_size, file.metadata.num_rows
            for batch in file.iter_batches(batch_size=BATCH_ROWS, columns=table.columns):
                progress(size * len(batch) // total)
                yield from table.rows(batch)
    except pa.ArrowException as error:
        raise MghError(f"{path} is not a readable Parquet file: {error}") from None


def read_arrow(
    paths: Sequence[Path], report: ErrorReport, progress: Progress, reads: Reads, *, name: str | None = None
) -> Iterator[Row]:
    """The rows of files in Arrow's streaming format, as `datasets` saves them, or its file format (Feather);
    otherwise as `read_parquet`.

    With a `name`, the files are one table of that name, whose rows are numbered through.
    Raises MghError if one is no such file, is damaged, or has a column that is used twice.
    """
    table = None
    for path in paths:
        _refuse_pointer(path)
        try:
            with pa.memory_map(str(path)) as file:
                schema, batches, total = _arrow_batches(file)
                if table is None or name is None:
                    table = _Table(name or file_name(path), schema, reads, report)
                for batch in batches:
                    batch.validate()
                    yield from table.rows(batch.select(table.columns))
                progress(total)
        # OSError without a number and KeyError: Arrow's own, of a file that breaks off or lacks a column.
        except (pa.ArrowException, OSError, KeyError) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise
            raise MghError(f"{path} is not a readable Arrow file: {error}") from None


def read_batches(
    name: str, batches: Iterable[pa.RecordBatch], report: ErrorReport, reads: Reads
) -> Iterator[Row]:
    """The rows of one table, called `name`, that comes in batches. Raises MghError if it has a column twice
    that is used."""
    table = None
    for batch in batches:
        table = table or _Table(name, batch.schema, reads, report)
        yield from table.rows(batch.select(table.columns))


class _Table:
    """The columns of a table that are read, and its rows as their batches come."""

    def __init__(self, name: str, schema: pa.Schema, reads: Reads, report: ErrorReport) -> None:
        self.name = name
        self.columns = _used(name, schema.names, reads)
        self._ignored = set(schema.names) - set(self.columns)
        self._labels = class_labels(schema)
        self._report = report
        self._number = 0

    def rows(self, batch: pa.RecordBatch) -> Iterator[Row]:
        """The next rows, of a batch of the columns that are read."""
        self._report.ignore(self._ignored, rows=len(batch))
        for index in range(len(batch)):
            self._number += 1
            self._report.rows_read += 1
            try:
                values = _values(batch, index)
            except RowRefused as refused:
                self._report.refuse(Row(self.name, self._number, b""), refused)
                continue
            for column, names in self._labels.items():
                label = values.get(column)
                if isinstance(label, int) and 0 <= label < len(names):
                    values[column] = names[label]
            yield Row(self.name, self._number, reprlib.repr(values).encode("utf-8"), values)


def class_labels(schema: pa.Schema) -> dict[str, list[str]]:
    """Columns whose numbers stand for names, with the names: `datasets` notes them in the schema. The same
    number means one thing in one data set and another in the next, a name does not. Names that are numerals
    say nothing new."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return {
            column: [str(name) for name in feature["names"]]
            for column, feature in features.items()
            if isinstance(feature, dict) and feature.get("_type") == "ClassLabel"
            if not all(str(name).isdecimal() for name in feature["names"])
        }
    except (KeyError, ValueError, TypeError, AttributeError):
        return {}  # no note, or none that says so


def _arrow_batches(file: pa.NativeFile) -> tuple[pa.Schema, Iterator[pa.RecordBatch], int]:
    """The schema, the batches, and the bytes of a file in either of Arrow's formats."""
    total = file.size()
    if file.read(len(ARROW_FILE)) == ARROW_FILE:
        opened = pa.ipc.open_file(file)
        return opened.schema, map(opened.get_batch, range(opened.num_record_batches)), total
    file.seek(0)
    stream = pa.ipc.open_stream(file)
    return stream.schema, iter(stream), total


def _refuse_pointer(path: Path) -> None:
    with path.open("rb") as head:
        if head.read(HEAD).startswith(LFS_POINTER):
            raise MghError(f"{path} {FOREIGN[LFS_POINTER]}")


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
            used = set(_used(name, header, reads))
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


def _used(table: str, names: Iterable[str], reads: Reads) -> Sequence[str]:
    """The columns to read; all of them where a format uses none, so that its rows say what they lack."""
    names = list(names)
    used = [name for name in names if reads(name)]
    twice = [name for name, count in Counter(used).items() if count > 1]
    if twice:
        raise MghError(f"{table} has the column {twice[0]!r} twice: which one is meant? Rename or remove one")
    return used or list(dict.fromkeys(names))
