"""The triplets of sentence-transformers: `anchor`, `positive`, `negative`, a row a negative, so that records
may have any number of them.

`scores` holds the positive's and the negative's, as MarginMSELoss takes them, if all texts have one. Records
without negatives are left out.
"""

from collections.abc import Iterable, Iterator
from typing import Any

from mgh_ds.common.errors import MghError
from mgh_ds.records.export.ledger import Ledger
from mgh_ds.records.export.rows import JSONL, PARQUET, Options, Rows
from mgh_ds.records.export.sentence_transformers import columns, row
from mgh_ds.records.export.survey import Survey
from mgh_ds.records.schema import Record
from mgh_ds.records.store import Store

ENDINGS = (JSONL, PARQUET)


def rows(records: Iterable[Record], store: Store, ledger: Ledger, options: Options) -> Rows:  # noqa: ARG001
    """A row a negative. Raises MghError if there is none."""
    survey = Survey.of(store)
    if not survey.records(1):
        raise MghError(
            "No record has a negative: take the format sentence-transformers, whose rows are pairs"
        )
    scored = survey.scored(1)
    return Rows(_rows(records, scored, ledger), columns(1, scored))


def _rows(records: Iterable[Record], scored: bool, ledger: Ledger) -> Iterator[dict[str, Any]]:
    keeps = {"negatives", "scores"} if scored else {"negatives"}
    for record in records:
        if not record.negatives:
            ledger.left_out["without negatives"] += 1
            continue
        ledger.add(record, keeps, rows=len(record.negatives))
        for negative in record.negatives:
            yield row(record, [negative], scored)
