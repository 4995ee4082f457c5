"""A benchmark in the layout of BEIR: `corpus.jsonl`, `queries.jsonl` and `qrels/test.tsv`, as its
GenericDataLoader (beir/datasets/data_loader.py of beir-cellar/beir) and `mgh-ds eval` read it.

The corpus is every positive and negative, each text once, its title empty. Records with the same query under
the same instruction are one query, whose `metadata` says the instruction; its id and the documents' are made
of their texts.

A positive has relevance 1. Negatives are judged and not relevant: 0 if ungraded, else their level less 5, so
from -1 for level 4, the closest, to -4 for level 1. What asks whether a score is above 0 (recall, MAP, MRR,
nDCG of pytrec_eval) finds the same as if all were 0; bpref, which counts documents judged not relevant, takes
scores below 0 for unjudged. Of a text that records judge differently for one query the highest score stays.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path

from mgh_ds.records.convert.scratch import ScratchDatabase
from mgh_ds.records.export.ids import text_id
from mgh_ds.records.export.ledger import Ledger
from mgh_ds.records.export.rows import json_line
from mgh_ds.records.levels import HARDEST
from mgh_ds.records.schema import Record
from mgh_ds.records.store import Store

ENDINGS = ()
MARK = "corpus.jsonl"
KEEPS = frozenset({"instructions", "negatives", "levels"})
RELEVANT = 1
DISPUTED = "texts are right in one record and wrong in another of the same query: they count as right"
REGRADED = "texts have different levels in records of the same query: the highest stays"


def write_folder(records: Iterable[Record], store: Store, ledger: Ledger, folder: Path) -> None:  # noqa: ARG001
    """Writes corpus and queries as the records come, then the judgements, which wait in a database."""
    qrels = folder / "qrels" / "test.tsv"
    qrels.parent.mkdir()
    with (
        _Judgements() as judgements,
        (folder / MARK).open("wb") as corpus,
        (folder / "queries.jsonl").open("wb") as queries,
    ):
        for record in records:
            ledger.add(record, KEEPS, rows=0)
            query = text_id(record.task.instruction, record.query)
            if judgements.is_new("queries", query):
                metadata = {"instruction": record.task.instruction}
                queries.write(json_line({"_id": query, "text": record.query, "metadata": metadata}))
            for text, score in _judged(record):
                document = text_id(text)
                if judgements.is_new("documents", document):
                    corpus.write(json_line({"_id": document, "title": "", "text": text}))
                judgements.add(query, document, score)
        with qrels.open("w", encoding="ascii", newline="") as table:
            table.write("query-id\tcorpus-id\tscore\n")
            for query, document, lowest, highest in judgements:
                table.write(f"{query}\t{document}\t{highest}\n")
                ledger.rows += 1
                if lowest < highest:
                    ledger.notes[DISPUTED if highest == RELEVANT else REGRADED] += 1


def _judged(record: Record) -> Iterator[tuple[str, int]]:
    """The record's documents with their scores."""
    yield record.positive, RELEVANT
    for negative in record.negatives:
        yield negative.text, negative.level - HARDEST - 1 if negative.level else 0


class _Judgements(ScratchDatabase):
    """Which ids have been written, and the lowest and highest score of every document that a query judges."""

    def __init__(self) -> None:
        super().__init__(
            """
            CREATE TABLE queries (id TEXT PRIMARY KEY) WITHOUT ROWID;
            CREATE TABLE documents (id TEXT PRIMARY KEY) WITHOUT ROWID;
            CREATE TABLE judgements (
                number INTEGER PRIMARY KEY, query TEXT, document TEXT, lowest INT, highest INT,
                UNIQUE (query, document)
            );
            """
        )

    def is_new(self, table: str, id: str) -> bool:
        """Whether the table did not have the id, which it has then."""
        return self._database.execute(f"INSERT OR IGNORE INTO {table} VALUES (?)", [id]).rowcount == 1

    def add(self, query: str, document: str, score: int) -> None:
        self._database.execute(
            """
            INSERT INTO judgements (query, document, lowest, highest) VALUES (?1, ?2, ?3, ?3)
            ON CONFLICT DO UPDATE SET lowest = min(lowest, ?3), highest = max(highest, ?3)
            """,
            [query, document, score],
        )

    def __iter__(self) -> Iterator[tuple[str, str, int, int]]:
        """Query, document, lowest and highest score, in the order in which they were first judged."""
        return self._database.execute(
            "SELECT query, document, lowest, highest FROM judgements ORDER BY number"
        )
