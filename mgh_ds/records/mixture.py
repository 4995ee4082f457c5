"""Several stores, read as if they were one."""

import hashlib
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from mgh_ds.common.errors import MghError
from mgh_ds.records.schema import Record
from mgh_ds.records.store import Store, StoreIndex, take_in_order


class Mixture:
    """Row numbers run through the stores one after another."""

    def __init__(self, stores: Sequence[Store]) -> None:
        self.stores = list(stores)
        self._starts = np.cumsum([0, *(len(store) for store in stores)])

    def __len__(self) -> int:
        return int(self._starts[-1])

    @property
    def sizes(self) -> list[int]:
        """How many records each store has."""
        return [len(store) for store in self.stores]

    @property
    def manifest_hash(self) -> str:
        """Changes with any byte of any store, and with their order."""
        return hashlib.sha256(" ".join(store.manifest_hash for store in self.stores).encode()).hexdigest()

    def rows(self, indices: Sequence[int] | np.ndarray) -> list[Record]:
        """The records at these row numbers, in the order asked for."""
        wanted = np.asarray(indices, dtype=np.int64)
        owner = np.searchsorted(self._starts, wanted, side="right") - 1
        found: dict[int, Record] = {}
        for number, store in enumerate(self.stores):
            mine = wanted[owner == number]
            found.update(zip(mine.tolist(), store.rows(mine - self._starts[number]), strict=True))
        return [found[row] for row in wanted.tolist()]

    def take(self, indices: Sequence[int] | np.ndarray, columns: Sequence[str]) -> pa.RecordBatch:
        """As `Store.take`, of all stores."""
        wanted = np.asarray(indices, dtype=np.int64)
        return take_in_order(
            wanted, self._starts, lambda number, rows: self.stores[number].take(rows, columns)
        )

    def index(self) -> StoreIndex:
        """The stores' columns, one after another. Raises MghError when a record stands in two of them."""
        index = StoreIndex.concatenate([store.index() for store in self.stores])
        if len(np.unique(index.id_hash)) < len(self):
            raise MghError(
                "a record id occurs in more than one of the stores trained on: give their records other ids"
            )
        return index
