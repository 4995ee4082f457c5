"""From the formats that people have to a store of records: one module each, listed in `records.formats`."""

import importlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from mgh_ds.common.errors import MghError
from mgh_ds.common.problems import nearest
from mgh_ds.records.convert.renaming import Renaming
from mgh_ds.records.convert.settings import Settings
from mgh_ds.records.formats import FORMATS, LISTING_NEGATIVES
from mgh_ds.records.reader import read_all
from mgh_ds.records.rows import ErrorReport, OnError, Row
from mgh_ds.records.schema import Record
from mgh_ds.records.sources import Origin, Source, open_source
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


def open_input(origin: Origin, format: str) -> Source:
    """The rows at `origin`, for `convert` and `records_of`; a folder is read as the format has it. Raises
    MghError as `sources.open_source` does, and for a format that is none of the FORMATS."""
    return open_source(origin, getattr(_module(format), "listing", None))


def convert(
    input: Path | Source,
    output: Path,
    format: str,
    settings: Settings | None = None,
    *,
    on_error: OnError = "skip",
    progress: Progress | None = None,
) -> ConversionSummary:
    """Converts a file, a folder of files, or what `open_input` opened, into a store at `output`;
    `records.inputs` says which files are read.

    Refused rows go to `rejected.jsonl` in the store, their counts into the manifest's notes. Memory holds one
    part of the store, not the rows.

    Raises MghError if the input is missing or of no known format, if `output` exists, at the first bad row if
    `on_error` is "stop", and if no row is usable; nothing is left behind then.
    """
    source = _opened(input, format)
    with StoreWriter(output) as writer:
        rejected = writer.folder / REJECTED
        with rejected.open("w", encoding="ascii") as rejects:
            report = ErrorReport(on_error, rejects)
            records = 0
            for record in records_of(source, format, settings or Settings(), report, progress):
                writer.add(record)
                records += 1
        report.refuse_if_empty(source.name)
        if not records:  # texts that nothing judges are sound rows, and no records
            first = next(iter(report.examples.values()), "no row makes one")
            raise MghError(f"{source.name} gives no record: {first}")
        if not report.rejected:
            rejected.unlink()
        writer.notes["conversion"] = {
            "format": format,
            **source.notes,
            **report.as_dict(),
        }
    return ConversionSummary(output, records, report)


def records_of(
    input: Path | Source,
    format: str,
    settings: Settings,
    report: ErrorReport,
    progress: Progress | None = None,
) -> Iterator[Record]:
    """The records of rows in one of the FORMATS; every row is settled in the report, which also learns which
    files of a folder are not read. Raises MghError where the settings keep so many negatives of a format that
    does not list them."""
    module = _module(format)
    if settings.negatives is not None and format not in LISTING_NEGATIVES:
        raise MghError(
            f"--negatives is for {', '.join(LISTING_NEGATIVES)}, whose rows list any number: leave it out"
        )
    converter: Converter = module.records
    reads: Reads = getattr(module, "reads", read_all)
    source = _opened(input, format)
    report.not_read = source.not_read
    renaming = Renaming(settings.columns, format, reads)
    rows = source.read(report, progress or (lambda _: None), renaming.reads)
    yield from converter(renaming.renamed(rows, report), settings, report)
    report.check_balance()


def _opened(input: Path | Source, format: str) -> Source:
    return input if isinstance(input, Source) else open_input(Origin(input), format)


def _module(format: str) -> ModuleType:
    if format not in FORMATS:
        near = nearest(format, FORMATS)
        raise MghError(f"Format '{format}' is unknown{near or '.'} Known: {', '.join(FORMATS)}")
    return importlib.import_module(FORMATS[format])
