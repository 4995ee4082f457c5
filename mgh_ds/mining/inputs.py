"""What is mined: records and a corpus, read once by whichever worker comes first, then at hand for all."""

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from mgh_ds.common import files
from mgh_ds.common.checksums import checksum
from mgh_ds.common.claims import once
from mgh_ds.common.errors import MghError
from mgh_ds.common.labels import label
from mgh_ds.encoding.corpus import Corpus
from mgh_ds.encoding.texts import Survey, Text
from mgh_ds.mining.documents import Documents, Int64s, write_documents
from mgh_ds.mining.result import RECORDS
from mgh_ds.records.schema import Record
from mgh_ds.records.store import Store, open_or_convert

VERSION = 1  # raised when the same data are read otherwise
INPUTS, POSITIVES, DOCUMENTS = "inputs.json", "positives.arrow", "documents.arrow"
OWN_NEGATIVES = "the records' negatives"  # in place of a corpus


@dataclass(frozen=True)
class Inputs:
    """The records, their distinct positives, and the documents that are searched, which may be these."""

    store: Store
    positives: Documents
    documents: Documents
    instructions: bool  # whether queries are read under those of their records
    replace: bool  # whether the records' own negatives are forgotten

    def records(self, rows: Int64s) -> list[Record]:
        """The records at these rows of the store, without their own negatives if they are replaced."""
        found = self.store.rows(rows)
        return [record.model_copy(update={"negatives": []}) for record in found] if self.replace else found

    @property
    def queries(self) -> "Queries":
        return Queries(self.store, self.instructions)


def open_inputs(
    folder: Path,
    records: Path,
    corpus: Corpus | None,
    instructions: bool = False,
    document_instruction: str | None = None,
    replace: bool = False,
) -> Inputs:
    """Records (a store, MGH JSONL, or the name of a bundled set) and corpus; without one the records' own
    positives are searched. `folder` gets what is made of them.

    Raises MghError for a bad record or row, with its place, if `folder` was made of other data, and if the
    result would take the place of records or corpus.
    """
    for file in () if corpus is None else corpus.files:
        _keep(file, folder)
    store = open_records(
        folder, records, None if corpus is None else [checksum(file) for file in corpus.files]
    )
    if corpus is not None:
        try:
            _write(folder / DOCUMENTS, corpus)
        except MghError:
            if not (folder / POSITIVES).exists():  # nothing was made yet: what is mended may come again
                (folder / INPUTS).unlink(missing_ok=True)
            raise
    _write(folder / POSITIVES, _Positives(store))
    positives = Documents(folder / POSITIVES, document_instruction)
    documents = positives if corpus is None else Documents(folder / DOCUMENTS, document_instruction)
    return Inputs(store, positives, documents, instructions, replace)


def open_own(folder: Path, store: Store, instructions: bool, document_instruction: str | None) -> Inputs:
    """As `open_inputs`, with the records' own negatives, of which there is one at least, as documents."""
    _write(folder / POSITIVES, _Positives(store))
    _write(folder / DOCUMENTS, _Negatives(store))
    positives, negatives = (Documents(folder / name, document_instruction) for name in (POSITIVES, DOCUMENTS))
    return Inputs(store, positives, negatives, instructions, replace=False)


def open_records(folder: Path, records: Path, corpus: list[str] | str | None) -> Store:
    """The records as a store, and `folder`, which is for them and for the corpus that `corpus` identifies.

    Raises MghError for a bad record, with its place, if `folder` was made of other data, and if the result
    would take the records' place.
    """
    _keep(records, folder)
    folder.mkdir(parents=True, exist_ok=True)
    with files.hold(folder / ".records.lock", wait=True) or contextlib.nullcontext():
        store = open_or_convert(records, folder / "cache")
    label(folder / INPUTS, {"version": VERSION, "records": store.manifest_hash, "corpus": corpus})
    return store


def _keep(data: Path, folder: Path) -> None:
    """Raises MghError if `data` lies where the result goes."""
    if data.resolve() == (folder / RECORDS).resolve():
        raise MghError(f"{data} would be written over by the result: choose another folder for the output")


def _write(path: Path, texts: Iterable[Text]) -> None:
    once(path.parent, path.name, path.exists, partial(write_documents, path, texts))


class Queries:
    """The queries of a store, each read under its record's instruction or under none."""

    def __init__(self, store: Store, instructions: bool) -> None:
        self._store, self._instructions = store, instructions
        self.survey = Survey(len(store), store.manifest_hash)

    def __iter__(self) -> Iterator[Text]:
        for record in self._store:
            instruction = record.task.instruction if self._instructions else None
            yield Text(record.id, record.query, instruction, _place(record))


class _Positives:
    def __init__(self, store: Store) -> None:
        self._store = store

    def __iter__(self) -> Iterator[Text]:
        for record in self._store:
            yield Text(record.id, record.positive, None, _place(record))


class _Negatives:
    def __init__(self, store: Store) -> None:
        self._store = store

    def __iter__(self) -> Iterator[Text]:
        number = 0
        for record in self._store:
            for negative in record.negatives:
                yield Text(str(number), negative.text, None, _place(record))
                number += 1


def _place(record: Record) -> str:
    return f"record {record.id!r}"
