"""From records to the formats that other trainers and benchmarks read: one module each, listed in
`records.formats`. What a format has no place for is counted, never dropped unsaid."""

import importlib
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from mgh_ds.common import files
from mgh_ds.common.errors import MghError
from mgh_ds.common.problems import nearest
from mgh_ds.records import bundled
from mgh_ds.records.export.ledger import Ledger
from mgh_ds.records.export.rows import Options, write_rows
from mgh_ds.records.formats import EXPORT_FORMATS
from mgh_ds.records.schema import MAX_NEGATIVES, Record
from mgh_ds.records.store import Store, open_or_convert
from mgh_ds.records.streams import Progress


@dataclass(frozen=True)
class ExportSummary:
    """What an export made: the file or folder, and what became of the records."""

    path: Path
    ledger: Ledger


def export(
    input: str | Path,
    output: Path,
    format: str,
    *,
    negatives: int | None = None,
    replace: bool = False,
    progress: Progress | None = None,
) -> ExportSummary:
    """Writes the records of a store, an MGH JSONL file or a bundled set as one of the EXPORT_FORMATS.

    The same records give the same bytes. Memory holds a few hundred records, not the store.

    Args:
        output: a file whose ending says what it is, or a folder, as the format has it.
        negatives: for columns, how many each row gets (`export.sentence_transformers`).
        replace: whether an `output` that is there gives way, once the new one is whole.
        progress: called with the number of records read since the last call.

    Raises MghError if the input is missing, damaged or holds a bad row, if `output` exists or does not fit
    the format, and if the format has no room for any record; nothing is left behind then.
    """
    module = _module(format)
    source = bundled.resolve(input)
    options = _options(module, format, output, negatives)
    _check_output(module, format, source, output, replace)
    ledger = Ledger()
    with _opened(source) as store:
        records = _told(store, progress)
        if module.ENDINGS:
            with files.new_file(output) as file:
                write_rows(file, module.rows(records, store, ledger, options), options.ending)
        else:
            with files.new_folder(output, replace=replace) as folder:
                module.write_folder(records, store, ledger, folder)
    return ExportSummary(output, ledger)


def _module(format: str) -> ModuleType:
    if format not in EXPORT_FORMATS:
        near = nearest(format, EXPORT_FORMATS)
        raise MghError(f"Format '{format}' is unknown{near or '.'} Known: {', '.join(EXPORT_FORMATS)}")
    return importlib.import_module(EXPORT_FORMATS[format])


def _options(module: ModuleType, format: str, output: Path, negatives: int | None) -> Options:
    ending = output.suffix.lower()
    if module.ENDINGS and ending not in module.ENDINGS:
        raise MghError(f"Format '{format}' is a file ending in {' or '.join(module.ENDINGS)}, found {output}")
    if negatives is not None:
        if not getattr(module, "TAKES_NEGATIVES", False):
            raise MghError(f"Format '{format}' keeps all negatives: leave --negatives out")
        if not 0 <= negatives <= MAX_NEGATIVES:
            raise MghError(f"--negatives must be 0 to {MAX_NEGATIVES}, found {negatives}")
    return Options(ending, negatives)


def _check_output(module: ModuleType, format: str, source: Path, output: Path, replace: bool) -> None:
    if not output.exists():
        return
    if not replace:
        raise MghError(f"{output} exists already: choose another name, or give --replace")
    there, data = output.resolve(), source.resolve()
    if there == data or there in data.parents:
        raise MghError(f"{output} holds the records that are read: choose another name for the output")
    if module.ENDINGS:
        if output.is_dir():
            raise MghError(f"{output} is a folder, and format '{format}' a file: choose another name")
    elif not (output / module.MARK).is_file():
        raise MghError(f"{output} holds no {module.MARK}, so it is no earlier output: choose another name")


@contextmanager
def _opened(source: Path) -> Iterator[Store]:
    """The store, whose bytes are those of its manifest; a JSONL file becomes one, in TMPDIR."""
    with tempfile.TemporaryDirectory(prefix="mgh-export-") as scratch:
        store = open_or_convert(source, Path(scratch))
        store.verify()
        yield store


def _told(store: Store, progress: Progress | None) -> Iterator[Record]:
    for record in store:
        yield record
        if progress:
            progress(1)
