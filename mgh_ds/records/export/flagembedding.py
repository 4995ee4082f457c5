"""FlagEmbedding's training JSONL, a row a record: `query`, `pos` [text], `neg` [texts], `prompt`, and `id`,
which it does not read.

Where a record has scores, all rows have `pos_scores` and `neg_scores`, lists as long as `pos` and `neg`, and
null where a score is missing: it distils from files whose rows all have both. As described in
examples/finetune/embedder/README.md of FlagOpen/FlagEmbedding and read by its
abc/finetune/embedder/AbsDataset.py.
"""

from collections.abc import Iterable, Iterator
from typing import Any

from mgh_ds.records.export.ledger import Ledger
from mgh_ds.records.export.rows import JSONL, Options, Rows
from mgh_ds.records.schema import Record
from mgh_ds.records.store import Store

ENDINGS = (JSONL,)
KEEPS = frozenset({"ids", "instructions", "negatives", "scores"})


def rows(records: Iterable[Record], store: Store, ledger: Ledger, options: Options) -> Rows:  # noqa: ARG001
    """A row a record."""
    return Rows(_rows(records, store.has_scores, ledger))


def _rows(records: Iterable[Record], scored: bool, ledger: Ledger) -> Iterator[dict[str, Any]]:
    for record in records:
        positive, *negatives = record.scores
        whole = None not in negatives
        lost = 0 if whole else sum(score is not None for score in negatives)
        ledger.add(record, KEEPS, scores=lost)
        if not record.negatives:
            ledger.notes["records have no negatives, and FlagEmbedding cannot train on such rows"] += 1
        scores = {
            "pos_scores": None if positive is None else [positive],
            "neg_scores": negatives if whole else None,
        }
        yield {
            "query": record.query,
            "pos": [record.positive],
            "neg": [negative.text for negative in record.negatives],
            **(scores if scored else {}),
            "prompt": record.task.instruction,
            "id": record.id,
        }
