"""Which documents are no negatives of a record, whatever a model says: those that are its own texts, and the
positives of every record that asks the same."""

from collections.abc import Iterator, Sequence

import numpy as np

from mgh_ds.mining.documents import Documents, UInt64s
from mgh_ds.mining.search import Excluded, pairs
from mgh_ds.records.columns import hash64
from mgh_ds.records.schema import Record
from mgh_ds.records.store import Store

BLOCK_ROWS = 4096


class Known:
    """Hashes of all queries and positives of a store; memory holds 32 bytes of each record."""

    def __init__(self, store: Store) -> None:
        queries, self.positives = np.empty(len(store), np.uint64), np.empty(len(store), np.uint64)
        for start in range(0, len(store), BLOCK_ROWS):
            rows = slice(start, min(start + BLOCK_ROWS, len(store)))
            found = store.take(np.arange(rows.start, rows.stop), ["query", "positive"])
            queries[rows] = [hash64(text) for text in found["query"].to_pylist()]
            self.positives[rows] = [hash64(text) for text in found["positive"].to_pylist()]
        self._order = np.argsort(queries, kind="stable")
        self._queries = queries[self._order]

    def positives_of(self, query: int) -> UInt64s:
        """The hashes of the positives of the query with this hash."""
        first, end = (
            np.searchsorted(self._queries, np.uint64(query), "left"),
            np.searchsorted(self._queries, np.uint64(query), "right"),
        )
        return self.positives[self._order[first:end]]

    def excluded(self, records: Sequence[Record], documents: Documents) -> Excluded:
        """Pairs of a record's place among `records` and a row of `documents`."""

        def found() -> Iterator[tuple[int, int]]:
            for place, record in enumerate(records):
                query = hash64(record.query)
                own = [query, *(hash64(negative.text) for negative in record.negatives)]
                hashes = np.unique(np.concatenate([np.array(own, np.uint64), self.positives_of(query)]))
                yield from ((place, row) for row in documents.find(hashes).tolist())

        return pairs(found())
