"""From the formats that people have to a store of records. One module a format; `FORMATS` lists them."""

import difflib
import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from mgh_ds.common.errors import MghError
from mgh_ds.records.convert import flagembedding, llm2vec, mgh, nli, sentence_transformers, sts
from mgh_ds.records.convert.settings import Settings
from mgh_ds.records.reader import Progress, read_rows
from mgh_ds.records.rows import ErrorReport, OnError, Row
from mgh_ds.records.schema import Record, Subtype
from mgh_ds.records.store import StoreWriter

REJECTED = "rejected.jsonl"
_ENDINGS = (".jsonl", ".parquet")


@dataclass(frozen=True)
class Converter:
    """One format: what its rows look like, in a line, and how they become records.

    `records(rows, settings, report)` yields the records and settles each row in the report.
    """

    description: str
    records: Callable[[Iterable[Row], Settings, ErrorReport], Iterator[Record]]


FORMATS: dict[str, Converter] = {
    "mgh": Converter("the project's own JSONL: one record a line", mgh.records),
    "flagembedding": Converter("query, pos [], neg [], optional prompt", flagembedding.records),
    "sentence-transformers": Converter(
        "anchor, positive, negative_1 … negative_n", sentence_transformers.records
    ),
    "llm2vec": Converter(
        "query, positive, negative: LLM2Vec's and echo-embeddings' triples", llm2vec.records
    ),
    "nli": Converter("premise, hypothesis, label", nli.records),
    "sts": Converter("sentence1, sentence2, score of 0 to 5 or 0 to 1", sts.records),
}


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
    *,
    dataset: str | None = None,
    instruction: str | None = None,
    subtype: Subtype | None = None,
    language: str = "en",
    on_error: OnError = "skip",
    progress: Progress | None = None,
) -> ConversionSummary:
    """Converts a .jsonl or .parquet file, or a folder of them, into a store at `output`.

    Refused rows go to `rejected.jsonl` in the store, their counts into the manifest's notes. See `Settings`
    for dataset, instruction, subtype and language. Memory holds one part of the store, not the rows.

    Raises MghError if the input is missing or of no known format, if `output` exists, at the first bad row if
    `on_error` is "stop", and if no row is usable; nothing is left behind then.
    """
    settings = Settings(dataset, instruction, subtype, language)
    with StoreWriter(output) as writer:
        rejected = writer.folder / REJECTED
        with rejected.open("w", encoding="ascii") as rejects:
            report = ErrorReport(on_error, rejects)
            records = 0
            for record in records_of(input, format, settings, report, progress):
                writer.add(record)
                records += 1
        report.refuse_if_empty(input)
        if not report.rejected:
            rejected.unlink()
        writer.notes["conversion"] = {
            "format": format,
            "files": [path.name for path in input_files(input)],
            **report.as_dict(),
        }
    return ConversionSummary(output, records, report)


def records_of(
    input: Path, format: str, settings: Settings, report: ErrorReport, progress: Progress | None = None
) -> Iterator[Record]:
    """The records of a file or folder in one of the FORMATS; every row is settled in the report."""
    converter = FORMATS.get(format)
    if converter is None:
        near = difflib.get_close_matches(format, FORMATS, n=1)
        hint = f": did you mean '{near[0]}'?" if near else ""
        raise MghError(f"Format '{format}' is unknown{hint} Known are {', '.join(FORMATS)}.")
    rows = itertools.chain.from_iterable(read_rows(path, report, progress) for path in input_files(input))
    yield from converter.records(rows, settings, report)
    report.check_balance()


def input_files(path: Path) -> list[Path]:
    """The file itself, or a folder's .jsonl and .parquet files by name. Raises MghError if there is none."""
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise MghError(f"{path} does not exist: check the path")
    found = sorted(file for file in path.iterdir() if file.suffix in _ENDINGS)
    if not found:
        raise MghError(f"{path} has no file ending in {' or '.join(_ENDINGS)}")
    return found
