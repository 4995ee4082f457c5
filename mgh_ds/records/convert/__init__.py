"""From the formats that people have to a store of records: one module each, listed in `records.formats`."""

import importlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from mgh_ds.common.errors import MghError
from mgh_ds.common.problems import nearest
from mgh_ds.records.convert.settings import Settings
from mgh_ds.records.formats import FORMATS
from mgh_ds.records.inputs import input_files
from mgh_ds.records.reader import read_all, read_rows
from mgh_ds.records.rows import ErrorReport, OnError, Row
from mgh_ds.records.schema import Record
from mgh_ds.records.store import StoreWriter
from mgh_ds.records.streams import Progress
from mgh_ds.records.tables import Reads

REJECTED = "rejected.jsonl"


# Yields the records of the rows and settles each row in the report.
Converter = Callable[[Iterable[Row], Settings, ErrorReport], Iterator[Record]]


@dataclass(frozen=True)
class ConversionSummary:
    """What a conversion made: the store's folder, its number of records, and the ledger of the rows."""

    path: Path
    records: int
    report: ErrorReport


def convert(
    input: Path,
    output: Path,
    format: str,
    settings: Settings | None = None,
    *,
    on_error: OnError = "skip",
    progress: Progress | None = None,
) -> ConversionSummary:
    """Converts a file, or a folder of files, into a store at `output`; `records.inputs` says which are read.

    Refused rows go to `rejected.jsonl` in the store, their counts into the manifest's notes. Memory holds one
    part of the store, not the rows.

    Raises MghError if the input is missing or of no known format, if `output` exists, at the first bad row if
    `on_error` is "stop", and if no row is usable; nothing is left behind then.
    """
    with StoreWriter(output) as writer:
        rejected = writer.folder / REJECTED
        with rejected.open("w", encoding="ascii") as rejects:
            report = ErrorReport(on_error, rejects)
            records = 0
            for record in records_of(input, format, settings or Settings(), report, progress):
                writer.add(record)
                records += 1
        report.refuse_if_empty(input)
        if not report.rejected:
            rejected.unlink()
        writer.notes["conversion"] = {
            "format": format,
            "files": [path.name for path in input_files(input).files],
            **report.as_dict(),
        }
    return ConversionSummary(output, records, report)


def records_of(
    input: Path, format: str, settings: Settings, report: ErrorReport, progress: Progress | None = None
) -> Iterator[Record]:
    """The records of a file or folder in one of the FORMATS; every row is settled in the report, which
    also learns which files of a folder are not read."""
    if format not in FORMATS:
        near = nearest(format, FORMATS)
        raise MghError(f"Format '{format}' is unknown{near or '.'} Known: {', '.join(FORMATS)}")
    module = importlib.import_module(FORMATS[format])
    converter: Converter = module.records
    reads: Reads = getattr(module, "reads", read_all)
    inputs = input_files(input)
    report.not_read = inputs.not_read
    rows = (row for path in inputs.files for row in read_rows(path, report, progress, reads))
    yield from converter(rows, settings, report)
    report.check_balance()
