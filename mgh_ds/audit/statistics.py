"""Figures with intervals, and the refusal to give one that rests on too few records."""

from typing import Any, TypedDict

import numpy as np
import numpy.typing as npt

from mgh_ds.audit.inputs import Bools, Floats
from mgh_ds.common import intervals
from mgh_ds.records.levels import LEVELS

MIN_RECORDS = 30
RESAMPLES = 1000
CONFIDENCE = 0.95


class Estimate(TypedDict):
    """A figure and its 95 % interval."""

    value: float
    low: float
    high: float


def too_few(records: int) -> str | None:
    """Why a figure over so many records would mean nothing; None if there are enough."""
    if records >= MIN_RECORDS:
        return None
    return f"{records} records are too few for a figure: {MIN_RECORDS} are needed"


def bootstrap_means(values: Floats, rng: np.random.Generator) -> list[Estimate]:
    """The mean of each column of `values` [records, k] with its percentile interval over 1,000 resamples of
    records."""
    records = len(values)
    means = np.empty((RESAMPLES, values.shape[1]))
    for resample in range(RESAMPLES):
        drawn = rng.integers(records, size=records)
        means[resample] = np.bincount(drawn, minlength=records) @ values / records
    tail = 50 * (1 - CONFIDENCE)
    lows, highs = np.percentile(means, [tail, 100 - tail], axis=0)
    return [estimate(*figures) for figures in zip(values.mean(axis=0), lows, highs, strict=True)]


def wilson(hits: int, total: int) -> Estimate:
    """The share hits / total with its Wilson score interval; total > 0."""
    share = hits / total
    return estimate(share, *intervals.wilson(share, total))


def shares_by_level(hits: Bools, counted: Bools) -> dict[str, Any]:
    """The share of hits among what counts, both bool [n, levels], by level with its interval; of too few a
    level has none."""
    totals, found = counted.sum(axis=0).tolist(), (hits & counted).sum(axis=0).tolist()
    reasons = [too_few(total) for total in totals]
    by_level = {
        str(level): wilson(hit, total)
        for level, hit, total, reason in zip(LEVELS, found, totals, reasons, strict=True)
        if reason is None
    }
    return {"too_few": None if by_level else too_few(max(totals)), "by_level": by_level}


def clearest(excess: npt.NDArray[np.floating[Any]], found: Bools, most: int) -> list[tuple[int, int]]:
    """The places (row, level) of what was found, those with the largest excess first, both [n, levels]; at
    most so many."""
    order = np.argsort(-np.where(found, excess, -np.inf), axis=None, kind="stable")[:most]
    places = np.column_stack(np.unravel_index(order, excess.shape)).tolist()
    return [(row, level) for row, level in places if found[row, level]]


def estimate(value: float, low: float, high: float) -> Estimate:
    """Rounded to six decimals, so that files do not change with the last bit of a sum."""
    return {"value": round(float(value), 6), "low": round(float(low), 6), "high": round(float(high), 6)}
