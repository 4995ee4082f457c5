"""Texts to learn language from, as a store: one record, one text.

A text stands in its record as query and as positive, as SimCSE pairs a text with itself (Gao et al., 2021),
so stores, plans, shards and the ledger serve for it as they are. They come from

    plain text      every line a text, or as many lines as make a text of the length that is wanted
    rows            `text`, in any of the files of `records.inputs`, or records of MGH JSONL
    a store         the texts of its records

A text that occurs again in the same source is left out.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from pydantic import ValidationError

from mgh_ds.common import files
from mgh_ds.common.errors import MghError
from mgh_ds.common.surrogates import has_lone_surrogate
from mgh_ds.records import bundled
from mgh_ds.records.inputs import ending, stem
from mgh_ds.records.json_rows import not_utf8
from mgh_ds.records.reader import read_rows
from mgh_ds.records.rows import RAW_CHARS, ErrorReport, Row, RowRefused, file_name
from mgh_ds.records.schema import MAX_TEXT_CHARS, Record
from mgh_ds.records.store import Store, StoreWriter
from mgh_ds.records.streams import open_utf8

PARTS = ("query", "positive", "negatives")
"""Of a record, those that its texts may be taken from."""
TASK = {"kind": "symmetric", "subtype": "paraphrase", "instruction": "Retrieve the same text"}
COLUMNS = {"text", *Record.model_fields}  # of a table, those that are read
VERSION = 1  # raised when the same source gives other texts


def open_texts(
    path: str | Path, cache_folder: Path, *, parts: Sequence[str] = PARTS, chars: int | None = None
) -> Store:
    """The texts of a store or of a file, as a store in a folder of `cache_folder`, which is named by what the
    texts depend on: from an unchanged source they are taken once. `sample:train` and `sample:held_out` name
    the files that ship in the package. Let one process do it before others ask.

    Args:
        parts: of records, which texts are taken.
        chars: lines of plain text are put together to texts of at most so many characters, and longer texts
            are cut into as many; None: a line is a text, and texts are cut at what a record holds.

    Raises MghError if nothing is there, if a row is bad, or if there is no text.
    """
    source = bundled.resolve(path)
    store = Store.open(source) if source.is_dir() else None
    if store is None and not source.is_file():
        raise MghError(f"Data {source} does not exist: give a text file, a JSONL file or a store's folder")
    digest = store.manifest_hash if store else files.sha256(source)
    said = json.dumps([VERSION, digest, list(parts), chars])
    name = f"{stem(source)}-texts-{hashlib.sha256(said.encode()).hexdigest()[:16]}"
    target = cache_folder / name
    if not target.exists():
        found = _cut(_of_records(store, parts) if store else _of_file(source, parts, chars), chars)
        _write(target, _once(found), digest, source)
    return Store.open(target)


def _write(target: Path, texts: Iterable[str], digest: str, source: Path) -> None:
    count = 0
    with StoreWriter(target) as writer:
        writer.notes["sha256_of_source"] = digest
        for count, text in enumerate(texts, start=1):
            writer.add(_record(text, f"{target.name}-{count}"))
        if not count:
            raise MghError(f"{source} holds no text to learn from: give a file or store with texts in it")


def _record(text: str, name: str) -> Record:
    return Record.model_validate(
        {
            "id": name,
            "task": TASK,
            "language": "und",
            "query": text,
            "positive": text,
            "negatives": [],
            "source": {"dataset": "texts"},
        }
    )


def _of_records(records: Iterable[Record], parts: Sequence[str]) -> Iterator[str]:
    for record in records:
        if "query" in parts:
            yield record.query
        if "positive" in parts:
            yield record.positive
        if "negatives" in parts:
            yield from (negative.text for negative in record.negatives)


def _of_file(path: Path, parts: Sequence[str], chars: int | None) -> Iterator[str]:
    if ending(path) is None:
        return _joined(_lines(path), chars) if chars else _lines(path)
    return _of_rows(path, parts)


def _of_rows(path: Path, parts: Sequence[str]) -> Iterator[str]:
    report = ErrorReport("stop")
    for row in read_rows(path, report, reads=COLUMNS.__contains__):
        try:
            yield from _of_row(row, parts)
        except ValidationError as error:
            report.refuse(row, RowRefused.because(error))
        except RowRefused as refused:
            report.refuse(row, refused)


def _of_row(row: Row, parts: Sequence[str]) -> Iterator[str]:
    """Raises RowRefused or pydantic's ValidationError."""
    values = row.values
    if "text" not in values:
        if "query" not in values:
            raise RowRefused("text", "missing", "Row should have a text, or be a record")
        yield from _of_records([Record.model_validate(values)], parts)
        return
    text = values["text"]
    if text is None and not row.typed:
        return  # an empty cell, as good as an empty line
    if not isinstance(text, str):
        raise RowRefused("text", "no_text", f"Text should be a string, found {type(text).__name__}")
    if has_lone_surrogate(text):
        raise RowRefused("text", "not_utf8", "Text should be Unicode, found half a character")
    yield text.strip()


def _lines(path: Path) -> Iterator[str]:
    """Of plain text, without white space at their ends. Raises MghError for bytes that are no UTF-8."""
    with open_utf8(path) as file:
        for number, line in enumerate(file, start=1):
            try:
                yield line.decode("utf-8").strip()
            except UnicodeDecodeError as error:
                ErrorReport("stop").refuse(Row(file_name(path), number, line[:RAW_CHARS]), not_utf8(error))


def _joined(lines: Iterable[str], chars: int) -> Iterator[str]:
    """Lines that follow one another, as many as make no more than `chars` characters."""
    text = ""
    for line in filter(None, lines):
        if text and len(text) + 1 + len(line) > chars:
            yield text
            text = ""
        text = f"{text}\n{line}" if text else line
    yield text


def _cut(texts: Iterable[str], chars: int | None) -> Iterator[str]:
    """Pieces of at most so many characters, where possible cut between words; empty ones are left out."""
    most = min(chars or MAX_TEXT_CHARS, MAX_TEXT_CHARS)
    for text in texts:
        text, start = text.replace("\0", ""), 0  # which no record may hold
        while len(text) - start > most:
            blank = max(text.rfind(each, start + 1, start + most + 1) for each in " \n\t")
            end = blank if blank > start else start + most
            yield text[start:end].strip()
            start = end
        yield text[start:].strip()


def _once(texts: Iterable[str]) -> Iterator[str]:
    """Without empty ones, and without what was there before; memory holds 16 bytes of each."""
    seen: set[bytes] = set()
    for text in filter(None, texts):
        digest = hashlib.blake2b(text.encode("utf-8"), digest_size=16).digest()
        if digest not in seen:
            seen.add(digest)
            yield text
