"""What the records of a store have in common, from the columns of its index: no text is read."""

from collections import Counter
from dataclasses import dataclass

import numpy as np

from mgh_ds.records.store import Store

BLOCK = 65_536  # records at a time


@dataclass(frozen=True)
class Survey:
    """The shapes of a store's records.

    shapes  (number of negatives, `columns.scored`) → number of records
    levels  whether any negative is graded
    """

    shapes: Counter[tuple[int, int]]
    levels: bool

    @classmethod
    def of(cls, store: Store) -> "Survey":
        """Reads 6 bytes a record."""
        shapes: Counter[tuple[int, int]] = Counter()
        levels = False
        for start in range(0, len(store), BLOCK):
            rows = store.take(np.arange(start, min(start + BLOCK, len(store))), ["level_counts", "scored"])
            width = rows.schema.field("level_counts").type.list_size
            counts = rows["level_counts"].flatten().to_numpy().reshape(-1, width)
            scored = rows["scored"].fill_null(0).to_numpy()
            shapes.update(zip(counts.sum(axis=1).tolist(), scored.tolist(), strict=True))
            levels = levels or bool(counts[:, 1:].any())
        return cls(shapes, levels)

    def records(self, fewest: int = 0) -> int:
        """How many have at least so many negatives."""
        return sum(count for (negatives, _), count in self.shapes.items() if negatives >= fewest)

    def scored(self, fewest: int = 0, at_least: int = 2) -> bool:
        """Whether all records with at least so many negatives are so far scored (`columns.scored`)."""
        return all(scored >= at_least for (negatives, scored) in self.shapes if negatives >= fewest)
