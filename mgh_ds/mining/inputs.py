"""What is mined: records and a corpus, read once by whichever worker comes first, then at hand for all."""

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from mgh_ds.common import files
from mgh_ds.common.claims import once
from mgh_ds.common.errors import MghError
from mgh_ds.common.labels import label
from mgh_ds.encoding.corpus import Corpus
from mgh_ds.encoding.texts import Survey, Text
from mgh_ds.mining.documents import Documents, Int64s, write_documents
from mgh_ds.mining.provenance import of_negatives
from mgh_ds.mining.result import RECORDS, REPORT
from mgh_ds.records.schema import Record
from mgh_ds.records.store import Store, open_or_convert

VERSION = 1  # raised when the same data are read otherwise
INPUTS, POSITIVES, DOCUMENTS = "inputs.json", "positives.arrow", "documents.arrow"
OWN_NEGATIVES = "the records' negatives"  # in place of a corpus
VECTORS = "vectors"  # the folder of what is encoded


@dataclass(frozen=True)
class Inputs:
    """The records, their distinct positives, and the documents that are searched, which may be these."""

    store: Store
    positives: Documents
    documents: Documents
    instructions: bool  # whether queries are read under those of their records
    replace: bool  # whether the records' own negatives are forgotten

    def records(self, rows: Int64s) -> list[Record]:
        """The records at these rows of the store; without their own negatives, and what their sources say of
        those, if they are replaced."""
        found = self.store.rows(rows)
        return [_without_negatives(record) for record in found] if self.replace else found

    @property
    def queries(self) -> "Queries":
        return Queries(self.store, self.instructions)


def open_inputs(
    folder: Path,
    store: Store,
    corpus: Corpus | None,
    instructions: bool = False,
    document_instruction: str | None = None,
    replace: bool = False,
) -> Inputs:
    """The records of `store` and a corpus; without one the records' own positives are searched. `folder`,
    which is labelled as theirs, gets what is made of them.

    Raises MghError for a bad row of the corpus, with its place.
    """
    if corpus is not None:
        _write(folder / DOCUMENTS, corpus)
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


def open_store(folder: Path, records: Path, corpus: Sequence[Path] = ()) -> Store:
    """Records (a store, MGH JSONL, or the name of a bundled set) as a store, which `folder` keeps unless they
    are one.

    Raises MghError for a bad record, with its place, and if the result would take the place of the records
    or of a file of the corpus.
    """
    for data in (*corpus, records):
        _keep(data, folder)
    folder.mkdir(parents=True, exist_ok=True)
    with _alone(folder):
        return open_or_convert(records, folder / "cache")


def label_inputs(folder: Path, store: Store, corpus: list[str] | str | None) -> None:
    """Says that `folder` is of these records, and of the corpus that `corpus` identifies. Raises MghError if
    it is of others, or holds what is not known to be of these."""
    with _alone(folder):
        if not (folder / INPUTS).exists():
            for name in (RECORDS, POSITIVES, DOCUMENTS):
                if (folder / name).exists():
                    raise MghError(
                        f"{folder / name} lies there without {INPUTS}, so it may be of something else: "
                        "choose another folder, or remove it"
                    )
        label(folder / INPUTS, {"version": VERSION, "records": store.manifest_hash, "corpus": corpus})


@contextlib.contextmanager
def forgotten_if_refused(folder: Path) -> Iterator[None]:
    """Takes the label of `folder` away, and what was read under it, if the block raises MghError before
    anything was encoded: what is mended may come to the same folder."""
    try:
        yield
    except MghError:
        with _alone(folder):
            if not any((folder / name).exists() for name in (VECTORS, REPORT)):
                for name in (INPUTS, POSITIVES, DOCUMENTS):
                    (folder / name).unlink(missing_ok=True)
        raise


def _alone(folder: Path) -> contextlib.AbstractContextManager[object]:
    """Holds the inputs of `folder` against other workers."""
    return files.hold(folder / ".records.lock", wait=True) or contextlib.nullcontext()


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


def _without_negatives(record: Record) -> Record:
    source = {key: value for key, value in record.source.items() if not of_negatives(key)}
    return record.model_copy(update={"negatives": [], "source": source})


def _place(record: Record) -> str:
    return f"record {record.id!r}"
