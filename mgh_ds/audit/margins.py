"""The margin by an embedder: how much nearer to the query the positive is than a negative.

A margin of zero or less is no verdict. Hard negatives are asked to use the query's words, which is what such
a model scores, so a good one often lies above the positive. Whether it is a right answer takes a judge:
`false_negatives.py`.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from mgh_ds.audit.inputs import EXAMPLES, Bools, example_of
from mgh_ds.audit.similarity import Similarities
from mgh_ds.audit.statistics import clearest, shares_by_level
from mgh_ds.records.schema import Record


def above_positive(found: Similarities) -> Bools:
    """cosine(query, negative) ≥ cosine(query, positive), bool [n, levels]."""
    return found.to_query >= found.query_positive[:, None]


def margins(records: Sequence[Record], found: Similarities) -> dict[str, Any]:
    """The share of negatives above the positive by level, and those that are farthest above, to read."""
    above = above_positive(found)
    return {**shares_by_level(above, np.ones_like(above)), "examples": _examples(records, found, above)}


def _examples(records: Sequence[Record], found: Similarities, above: Bools) -> list[dict[str, Any]]:
    excess = found.to_query - found.query_positive[:, None]
    return [
        example_of(records[int(found.rows[at])], level)
        | {
            "score_positive": round(float(found.query_positive[at]), 4),
            "score_negative": round(float(found.to_query[at, level]), 4),
        }
        for at, level in clearest(excess, above, EXAMPLES)
    ]
