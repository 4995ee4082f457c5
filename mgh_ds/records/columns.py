"""How records lie in the columns of a store's parts: their own fields, then what the index needs of them."""

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy.typing as npt
import pyarrow as pa

from mgh_ds.records.levels import LEVELS
from mgh_ds.records.schema import Record

RECORD_FIELDS = [
    pa.field("id", pa.string(), nullable=False),
    pa.field("kind", pa.string(), nullable=False),
    pa.field("subtype", pa.string(), nullable=False),
    pa.field("instruction", pa.string(), nullable=False),
    pa.field("language", pa.string(), nullable=False),
    pa.field("query", pa.string(), nullable=False),
    pa.field("positive", pa.string(), nullable=False),
    pa.field("negative_texts", pa.list_(pa.string()), nullable=False),
    pa.field("negative_levels", pa.list_(pa.int8()), nullable=False),  # null = ungraded
    pa.field("source", pa.map_(pa.string(), pa.string()), nullable=False),
    pa.field("score", pa.float64()),  # of the positive; null = none
    pa.field("negative_scores", pa.list_(pa.float64())),  # null = none
]
INDEX_FIELDS = [
    pa.field("id_hash", pa.uint64(), nullable=False),
    pa.field("task_hash", pa.uint64(), nullable=False),
    pa.field("query_chars", pa.int32(), nullable=False),
    pa.field("positive_chars", pa.int32(), nullable=False),
    pa.field("level_chars", pa.list_(pa.int32(), 1 + len(LEVELS)), nullable=False),
    pa.field("level_counts", pa.list_(pa.uint8(), 1 + len(LEVELS)), nullable=False),
    pa.field("scored", pa.uint8(), nullable=False),  # see `scored`
]
SCORED_SCHEMA = pa.schema([*RECORD_FIELDS, *INDEX_FIELDS])
SCORE_COLUMNS = ("score", "negative_scores", "scored")
"""Columns that stand only in parts of which a record has a score: the others are the bytes that they were
before there were scores, and so are the hashes by which plans and checkpoints know them."""
SCHEMA = pa.schema([field for field in SCORED_SCHEMA if field.name not in SCORE_COLUMNS])
RECORD_COLUMNS = [field.name for field in RECORD_FIELDS]


def hash64(*texts: str) -> int:
    """64-bit hash: the 8-byte blake2b digest of the texts' UTF-8, joined by NUL, read as little-endian."""
    return int.from_bytes(hashlib.blake2b("\0".join(texts).encode("utf-8"), digest_size=8).digest(), "little")


def scored(scores: Sequence[float | None]) -> int:
    """Which texts of a record have a score, of its `scores`: 2 the positive and all negatives, 1 the positive
    and not all negatives, 0 not the positive."""
    return 0 if scores[0] is None else 1 if None in scores else 2


def to_columns(record: Record) -> dict[str, Any]:
    """One record as the store's columns."""
    scores = record.scores
    level_chars, level_counts = [0] * (1 + len(LEVELS)), [0] * (1 + len(LEVELS))
    for negative in record.negatives:
        column = negative.level or 0
        level_chars[column] = max(level_chars[column], len(negative.text))
        level_counts[column] += 1
    return {
        "id": record.id,
        "kind": record.task.kind,
        "subtype": record.task.subtype,
        "instruction": record.task.instruction,
        "language": record.language,
        "query": record.query,
        "positive": record.positive,
        "negative_texts": [negative.text for negative in record.negatives],
        "negative_levels": [negative.level for negative in record.negatives],
        "source": list(record.source.items()),
        "score": scores[0],
        "negative_scores": scores[1:],
        "id_hash": hash64(record.id),
        "task_hash": hash64(record.task.instruction, record.task.subtype),
        "query_chars": len(record.query),
        "positive_chars": len(record.positive),
        "level_chars": level_chars,
        "level_counts": level_counts,
        "scored": scored(scores),
    }


def from_columns(row: dict[str, Any]) -> Record:
    """The record of one row of columns; the inverse of `to_columns`."""
    pairs = zip(row["negative_texts"], row["negative_levels"], strict=True)
    negatives = [{"text": text, "level": level} for text, level in pairs]
    if row["negative_scores"]:  # few records have any, and a key that is left out costs nothing
        for negative, score in zip(negatives, row["negative_scores"], strict=True):
            negative["score"] = score
    return Record.model_validate(
        {
            "id": row["id"],
            "task": {name: row[name] for name in ("kind", "subtype", "instruction")},
            "language": row["language"],
            "query": row["query"],
            "positive": row["positive"],
            "score": row["score"],
            "negatives": negatives,
            "source": dict(row["source"]),
        }
    )


def with_score_columns(rows: pa.RecordBatch, columns: Sequence[str]) -> pa.RecordBatch:
    """These columns, of rows that may lack the scores: those are null then."""
    present = rows.schema.names
    arrays = [
        rows[name] if name in present else pa.nulls(len(rows), SCORED_SCHEMA.field(name).type)
        for name in columns
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=pa.schema([SCORED_SCHEMA.field(n) for n in columns]))


def to_numpy(array: pa.Array) -> npt.NDArray[Any]:
    """[n] or, for a fixed-size list column, [n, width]."""
    if pa.types.is_fixed_size_list(array.type):
        return array.flatten().to_numpy().reshape(-1, array.type.list_size)
    return array.to_numpy()
