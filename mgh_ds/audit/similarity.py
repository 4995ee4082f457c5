"""Cosines of every record's texts by an embedder that the data did not train."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mgh_ds.audit.inputs import Float32s, Int64s, Progress, texts_of
from mgh_ds.common.errors import MghError
from mgh_ds.common.protocols import Embed
from mgh_ds.records.levels import LEVELS
from mgh_ds.records.schema import Record

CHUNK = 256  # records embedded in one call
UNIT_LENGTH_TOLERANCE = 1e-2  # wide enough for an embedder that computes in bfloat16


@dataclass(frozen=True)
class Similarities:
    """Cosines of the records at `rows` [n]: between query and positive [n], and of each level's negative with
    the positive and with the query [n, levels]."""

    rows: Int64s
    query_positive: Float32s
    to_positive: Float32s
    to_query: Float32s


def measure(records: Sequence[Record], rows: Int64s, embed: Embed, progress: Progress) -> Similarities:
    """Embeds all texts of each record at `rows`, a chunk at a time. Raises MghError if the vectors are
    not finite or not of unit length."""
    query_positive = np.empty(len(rows), np.float32)
    to_positive, to_query = (np.empty((len(rows), len(LEVELS)), np.float32) for _ in range(2))
    for start in range(0, len(rows), CHUNK):
        progress("embed", start, len(rows))
        part = slice(start, start + CHUNK)
        texts = [text for row in rows[part].tolist() for text in texts_of(records[row])]
        vectors = _checked(embed(texts), len(texts))
        by_record = vectors.reshape(-1, 2 + len(LEVELS), vectors.shape[1])
        query, positive, negatives = by_record[:, 0], by_record[:, 1], by_record[:, 2:]
        query_positive[part] = (query * positive).sum(axis=1)
        to_positive[part] = (negatives * positive[:, None]).sum(axis=2)
        to_query[part] = (negatives * query[:, None]).sum(axis=2)
    progress("embed", len(rows), len(rows))
    return Similarities(rows, query_positive, to_positive, to_query)


def _checked(vectors: Float32s, count: int) -> Float32s:
    vectors = np.asarray(vectors, dtype=np.float32)
    if vectors.ndim != 2 or len(vectors) != count:
        raise MghError(f"the embedder gave an array of shape {vectors.shape} for {count} texts")
    lengths = np.linalg.norm(vectors, axis=1)
    if not (np.abs(lengths - 1) < UNIT_LENGTH_TOLERANCE).all():
        raise MghError("the embedder's vectors should be finite and of unit length: normalise them first")
    return vectors
