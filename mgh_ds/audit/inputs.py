"""What the audit reads: records with one negative of each level, from a list or straight from a store; of
records of any kind, those that can be read so."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from mgh_ds.common.errors import MghError
from mgh_ds.records.levels import LEVELS
from mgh_ds.records.schema import Negative, Record
from mgh_ds.records.store import Store

EXCERPT_CHARS = 300
EXAMPLES = 6  # that a check shows

Floats = npt.NDArray[np.float64]
Float32s = npt.NDArray[np.float32]
Int64s = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

# Called with the name of the check, the records done and the records in all.
Progress = Callable[[str, int, int], object]


class StoredRecords(Sequence[Record]):
    """A store as a sequence: records are read when asked for, so memory does not grow with their number."""

    def __init__(self, store: Store):
        self._store = store

    def __len__(self) -> int:
        return len(self._store)

    def __iter__(self) -> Iterator[Record]:
        return iter(self._store)

    @overload
    def __getitem__(self, index: int) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> list[Record]: ...
    def __getitem__(self, index: int | slice) -> Record | list[Record]:
        positions = range(len(self))[index]
        return self._store.rows([positions])[0] if isinstance(positions, int) else self._store.rows(positions)


class GradedRecords(Sequence[Record]):
    """Of any store, the records that have a negative of every level, each with the first of every level and
    no other negative. `left_out` counts the rest."""

    def __init__(self, store: Store):
        self._store = store
        self._whole: Bools = np.all(store.index().level_counts[:, 1:] > 0, axis=1)
        self._rows = np.flatnonzero(self._whole)
        self.left_out = len(store) - len(self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[Record]:
        return map(_one_of_each_level, itertools.compress(self._store, self._whole))

    @overload
    def __getitem__(self, index: int) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> list[Record]: ...
    def __getitem__(self, index: int | slice) -> Record | list[Record]:
        if isinstance(index, int):
            return _one_of_each_level(self._store.rows(self._rows[[index]])[0])
        return list(map(_one_of_each_level, self._store.rows(self._rows[index])))


def _one_of_each_level(record: Record) -> Record:
    first: dict[int | None, Negative] = {}
    for negative in record.negatives:
        first.setdefault(negative.level, negative)
    return record.model_copy(update={"negatives": [first[level] for level in LEVELS]})


def graded_negatives(record: Record) -> list[str]:
    """The record's negatives, the easiest first. Raises MghError unless it has one of each level."""
    texts = {negative.level: negative.text for negative in record.negatives}
    if len(record.negatives) != len(LEVELS) or texts.keys() != set(LEVELS):
        found = [negative.level for negative in record.negatives]
        raise MghError(
            f"record '{record.id}' has negatives of levels {found}: the audit needs exactly one of each "
            f"level 1 to {len(LEVELS)}; leave other records out"
        )
    return [texts[level] for level in LEVELS]


def texts_of(record: Record) -> list[str]:
    """Query, positive and the negatives, the easiest first."""
    return [record.query, record.positive, *graded_negatives(record)]


def excerpt(text: str) -> str:
    """The text's beginning, for an example on the page."""
    return text if len(text) <= EXCERPT_CHARS else text[: EXCERPT_CHARS - 1] + "…"


def example_of(record: Record, level: int) -> dict[str, Any]:
    """A record with one of its negatives, for people to read; `level` is its place among the levels."""
    return {
        "id": record.id,
        "level": LEVELS[level],
        "query": excerpt(record.query),
        "positive": excerpt(record.positive),
        "negative": excerpt(graded_negatives(record)[level]),
    }


def sample_rows(count: int, most: int | None, seed: int) -> Int64s:
    """The rows to look at: all, or `most` of them drawn without replacement, in their own order. The same
    arguments give the same rows.

    Raises MghError for a sample of no record.
    """
    if most is None or most >= count:
        return np.arange(count)
    if most < 1:
        raise MghError(f"the sample should hold at least one record (found {most})")
    return np.sort(np.random.default_rng([seed, 0]).choice(count, most, replace=False))


def with_progress(records: Sequence[Record], check: str, progress: Progress) -> Iterator[Record]:
    """The records one by one, calling `progress` now and then and at the end."""
    for done, record in enumerate(records):
        if done % 1024 == 0:
            progress(check, done, len(records))
        yield record
    progress(check, len(records), len(records))
