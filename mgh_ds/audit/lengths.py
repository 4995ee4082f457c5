"""Lengths of query, positive and each level's negative: a level that is longer than the others gives itself
away."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from mgh_ds.audit.inputs import Progress, texts_of, with_progress
from mgh_ds.audit.statistics import too_few
from mgh_ds.audit.words import words
from mgh_ds.records.levels import LEVELS
from mgh_ds.records.schema import Record

TEXTS = ("query", "positive", *(f"level {level}" for level in LEVELS))
PERCENTILES = {"p5": 5, "median": 50, "p95": 95}


def lengths(records: Sequence[Record], progress: Progress) -> dict[str, Any]:
    """Percentiles of characters and words by kind of text."""
    reason = too_few(len(records))
    if reason:
        return {"too_few": reason}
    chars, counts = (np.empty((len(records), len(TEXTS)), np.int32) for _ in range(2))
    for row, record in enumerate(with_progress(records, "lengths", progress)):
        texts = texts_of(record)
        chars[row] = [len(text) for text in texts]
        counts[row] = [len(words(text)) for text in texts]
    by_text = {
        name: {"chars": _percentiles(chars[:, at]), "words": _percentiles(counts[:, at])}
        for at, name in enumerate(TEXTS)
    }
    return {"too_few": None, "by_text": by_text}


def _percentiles(values: npt.NDArray[np.int32]) -> dict[str, int]:
    found = np.percentile(values, list(PERCENTILES.values()), method="nearest")
    return {name: int(value) for name, value in zip(PERCENTILES, found, strict=True)}
