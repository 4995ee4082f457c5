"""How well a record's own texts answer its query, by a teacher: an encoder's cosines, or the probabilities of
a cross-encoder."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mgh_ds.common import files
from mgh_ds.common.labels import label
from mgh_ds.common.protocols import ScorePairs
from mgh_ds.mining.arrays import Kind, read_arrays, require_given_scores, require_kept_scores
from mgh_ds.mining.embedding import Embedded
from mgh_ds.mining.inputs import Inputs
from mgh_ds.mining.search import Float64s, Int64s, dots
from mgh_ds.records.columns import hash64
from mgh_ds.records.schema import Record
from mgh_ds.records.store import Store

VERSION = 1  # raised when the same teacher gives other scores
PART_ROWS = 256

ScoreRecords = Callable[[Int64s, Sequence[Record]], Float64s]
"""Rows of a store and its records there to scores [texts]: of each record those of its positive and of its
negatives, one record after another."""


class TeacherScores:
    """part-00000.npy, …: float64 [texts], what `score` says of so many records each. Raises MghError if the
    folder is of other records or of another teacher (`made_of`)."""

    def __init__(self, folder: Path, store: Store, score: ScoreRecords, made_of: dict[str, Any]) -> None:
        self.folder, self._store, self._score = folder, store, score
        self.parts = -(-len(store) // PART_ROWS)
        label(folder / "manifest.json", {"version": VERSION, "records": store.manifest_hash, **made_of})

    def path(self, part: int) -> Path:
        return self.folder / f"part-{part:05d}.npy"

    def make(self, part: int) -> None:
        """Scores a part's records. Raises MghError for a score that is not finite."""
        rows = self._rows(part)
        records = self._store.rows(rows)
        scores = self._score(rows, records)
        owners = np.repeat(np.arange(len(records)), [1 + len(record.negatives) for record in records])
        require_given_scores(scores, "the teacher", lambda i: f"of record {records[owners[i]].id!r}")
        with files.new_file(self.path(part)) as file:
            np.save(file, scores, allow_pickle=False)

    def __iter__(self) -> Iterator[tuple[Record, Float64s]]:
        """Each record with the scores of its positive and negatives, [1 + negatives]. Raises MghError for a
        file that is damaged."""
        for part in range(self.parts):
            records = self._store.rows(self._rows(part))
            ends = np.cumsum([1 + len(record.negatives) for record in records])
            path = self.path(part)
            [scores] = read_arrays(path, scores=Kind((int(ends[-1]),), np.float64))
            require_kept_scores(path, scores)
            yield from zip(records, np.split(scores, ends[:-1]), strict=True)

    def _rows(self, part: int) -> Int64s:
        first = part * PART_ROWS
        return np.arange(first, min(first + PART_ROWS, len(self._store)))


def by_cosine(inputs: Inputs, embedded: Embedded) -> ScoreRecords:
    """Cosines of query and text; the documents of `inputs` are the records' negatives."""

    def score(rows: Int64s, records: Sequence[Record]) -> Float64s:
        counts = [len(record.negatives) for record in records]
        positives = inputs.positives.find([hash64(record.positive) for record in records])
        negatives = inputs.documents.find(
            [hash64(one.text) for record in records for one in record.negatives]
        )
        queries = embedded.queries.take(rows)
        own = dots(queries, embedded.positives.take(positives))
        others = dots(np.repeat(queries, counts, axis=0), embedded.documents.take(negatives))
        return np.insert(others, np.cumsum([0, *counts[:-1]]), own)

    return score


def by_judge(score_pairs: ScorePairs) -> ScoreRecords:
    """Probabilities of relevance by a model that reads query and text together."""

    def score(_: Int64s, records: Sequence[Record]) -> Float64s:
        pairs = [
            (record.query, text)
            for record in records
            for text in (record.positive, *(negative.text for negative in record.negatives))
        ]
        return np.asarray(score_pairs(pairs), np.float64)

    return score
