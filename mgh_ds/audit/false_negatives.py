"""False negatives: negatives that a judge finds about as relevant to the query as the positive."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from mgh_ds.audit.inputs import Bools, Int64s, excerpt, graded_negatives
from mgh_ds.audit.similarity import Relevance
from mgh_ds.audit.statistics import too_few, wilson
from mgh_ds.records.levels import LEVELS
from mgh_ds.records.schema import Record

EXAMPLES = 6


def suspects(found: Relevance, alpha: float) -> Bools:
    """score(query, negative) ≥ alpha · score(query, positive), bool [n, levels].

    Where the positive's score is below zero, as a cosine can be, alpha would raise the bar above the positive
    itself; there the bar is the positive's score.
    """
    return found.negative >= _bar(found, alpha)


def false_negatives(suspected: Bools) -> dict[str, Any]:
    """The share of suspects by level, with Wilson's interval."""
    reason = too_few(len(suspected))
    if reason:
        return {"too_few": reason}
    hits = suspected.sum(axis=0).tolist()
    by_level = {str(level): wilson(hit, len(suspected)) for level, hit in zip(LEVELS, hits, strict=True)}
    return {"too_few": None, "by_level": by_level}


def examples(records: Sequence[Record], rows: Int64s, found: Relevance, alpha: float) -> list[dict[str, Any]]:
    """The suspects that clear the bar by most, for people to read."""
    excess = np.where(suspects(found, alpha), found.negative - _bar(found, alpha), -np.inf)
    chosen = np.argsort(-excess, axis=None, kind="stable")[:EXAMPLES]
    places = np.column_stack(np.unravel_index(chosen, excess.shape)).tolist()
    return [
        _example(records[int(rows[at])], level, float(found.positive[at]), float(found.negative[at, level]))
        for at, level in places
        if excess[at, level] > -np.inf
    ]


def _example(record: Record, level: int, positive: float, negative: float) -> dict[str, Any]:
    return {
        "id": record.id,
        "level": LEVELS[level],
        "query": excerpt(record.query),
        "positive": excerpt(record.positive),
        "negative": excerpt(graded_negatives(record)[level]),
        "score_positive": round(positive, 4),
        "score_negative": round(negative, 4),
    }


def _bar(found: Relevance, alpha: float) -> np.ndarray:
    return np.minimum(alpha * found.positive, found.positive)[:, None]
