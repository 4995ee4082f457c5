"""Realised hardness: does similarity rise with the level that was asked for?

The control permutes the levels within each record and measures again: it shows what levels without meaning
look like.
"""

import itertools
import math
from typing import Any

import numpy as np
import numpy.typing as npt

from mgh_ds.audit.inputs import Bools, Float32s, Floats
from mgh_ds.audit.similarity import Similarities
from mgh_ds.audit.statistics import bootstrap_means, too_few
from mgh_ds.records.levels import LEVELS

PAIRS = np.array(list(itertools.combinations(range(len(LEVELS)), 2)))  # (lower level, higher level)
CHANCE = {"pair_accuracy": 0.5, "tau": 0.0, "ordered": 1 / math.factorial(len(LEVELS))}


def hardness(found: Similarities, rng: np.random.Generator) -> dict[str, Any]:
    """Means by level, order within records and the confusion of asked and realised level, as JSON values."""
    reason = too_few(len(found.rows))
    if reason:
        return {"too_few": reason}
    similarity = {"positive": found.to_positive, "query": found.to_query}
    tables = {
        (target, levels): order_statistics(values if levels == "asked" else rng.permuted(values, axis=1))
        for target, values in similarity.items()
        for levels in ("asked", "permuted")
    }
    columns = np.hstack([found.query_positive[:, None], *tables.values()]).astype(np.float64)
    query_positive, *estimates = bootstrap_means(columns, rng)
    figures: dict[str, Any] = {"too_few": None, "chance": CHANCE, "query_positive": query_positive}
    for (target, levels), start in zip(tables, itertools.count(0, len(LEVELS) + len(CHANCE)), strict=False):
        *means, accuracy, tau, ordered = estimates[start : start + len(LEVELS) + len(CHANCE)]
        figures.setdefault(target, {})[levels] = {
            "mean": {str(level): mean for level, mean in zip(LEVELS, means, strict=True)},
            "pair_accuracy": accuracy,
            "tau": tau,
            "ordered": ordered,
        }
    figures["confusion"] = confusion(found.to_positive, rng).round(6).tolist()
    return figures


def order_statistics(similarity: Float32s) -> Floats:
    """For each record of `similarity` [n, levels]: the similarities, the share of its pairs of levels in the
    right order (a tie is half right), Kendall's tau-a, and whether all are in order: float64 [n, levels + 3].

    Tau-a is (right − wrong) / pairs, so here it is 2 · share − 1.
    """
    gaps = similarity[:, PAIRS[:, 1]] - similarity[:, PAIRS[:, 0]]
    share = ((gaps > 0) + 0.5 * (gaps == 0)).mean(axis=1)
    return np.column_stack([similarity, share, 2 * share - 1, in_order(similarity)])


def in_order(similarity: Float32s) -> Bools:
    """Whether similarity [n, levels] rises strictly from the easiest to the hardest level: bool [n]."""
    rises: Bools = np.diff(similarity, axis=1) > 0
    return np.asarray(rises.all(axis=1))


def confusion(similarity: Float32s, rng: np.random.Generator) -> Floats:
    """Row: the level asked for; column: the rank of its similarity within the record; rows sum to 100 %.

    Equal similarities are ranked at random, or ties would count as success.
    """
    realised = ranks(similarity, rng)
    counts = [np.bincount(realised[:, asked], minlength=len(LEVELS)) for asked in range(len(LEVELS))]
    return 100 * np.array(counts) / len(similarity)


def ranks(similarity: Float32s, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """Each value's rank within its row, 0 for the least."""
    order = np.lexsort((rng.random(similarity.shape), similarity), axis=1)
    realised = np.empty_like(order)
    np.put_along_axis(realised, order, np.arange(similarity.shape[1])[None, :], axis=1)
    return realised
