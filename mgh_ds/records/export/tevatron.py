"""Tevatron's training JSONL, a row a record: `query_id`, `query`, `positive_passages` and
`negative_passages`, each a list of `docid`, `title` (empty) and `text`.

A passage's `score` is what its DistilTrainDataset reads; `level`, and a row's `instruction`, are keys of our
own, which it leaves alone, as its README allows. All passages of a file have the same keys, null where a
record has nothing. The same text has the same docid in all rows. As described in README.md of
texttron/tevatron and read by its src/tevatron/retriever/dataset.py.
"""

from collections.abc import Iterable, Iterator
from typing import Any

from mgh_ds.records.export.ids import text_id
from mgh_ds.records.export.ledger import Ledger
from mgh_ds.records.export.rows import JSONL, Options, Rows
from mgh_ds.records.export.survey import Survey
from mgh_ds.records.schema import Record
from mgh_ds.records.store import Store

ENDINGS = (JSONL,)
KEEPS = frozenset({"ids", "instructions", "negatives", "levels", "scores"})


def rows(records: Iterable[Record], store: Store, ledger: Ledger, options: Options) -> Rows:  # noqa: ARG001
    """A row a record."""
    return Rows(_rows(records, Survey.of(store).levels, store.has_scores, ledger))


def _rows(records: Iterable[Record], levels: bool, scored: bool, ledger: Ledger) -> Iterator[dict[str, Any]]:
    def passage(text: str, score: float | None, **level: int | None) -> dict[str, Any]:
        own = (level if levels else {}) | ({"score": score} if scored else {})
        return {"docid": text_id(text), "title": "", "text": text, **own}

    for record in records:
        ledger.add(record, KEEPS)
        if not record.negatives:
            ledger.notes["records have no negatives, which Tevatron trains on with --train_group_size 1"] += 1
        yield {
            "query_id": record.id,
            "query": record.query,
            "positive_passages": [passage(record.positive, record.score)],
            "negative_passages": [passage(n.text, n.score, level=n.level) for n in record.negatives],
            "instruction": record.task.instruction,
        }
