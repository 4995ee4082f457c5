"""Means, intervals and rank correlation over a handful of seeds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats  # type: ignore[import-untyped]

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Estimate:
    """A mean over `seeds`, of `values`; the 95 % interval is `mean ± half_width`, None for a single seed."""

    mean: float
    half_width: float | None
    seeds: int
    values: tuple[float, ...] = ()


@dataclass(frozen=True)
class Agreement:
    """Kendall's tau-b between two rankings of `items`, and how often chance alone gives as much (two-sided,
    exact: over all orders)."""

    tau: float
    p: float
    items: int


def estimate(values: Sequence[float]) -> Estimate:
    """The mean of at least one value, with Student's t interval: half width `t(n − 1) · s / √n`."""
    count = len(values)
    if count < 2:
        return Estimate(float(values[0]), None, count, tuple(values))
    spread = float(np.std(values, ddof=1)) / count**0.5
    half_width = float(stats.t.ppf((1 + CONFIDENCE) / 2, count - 1)) * spread
    return Estimate(float(np.mean(values)), half_width, count, tuple(values))


def paired_difference(first: Mapping[int, float], second: Mapping[int, float]) -> Estimate | None:
    """`first − second`, seed by seed over the seeds that both have; None where they have none in common."""
    common = sorted(first.keys() & second.keys())
    return estimate([first[seed] - second[seed] for seed in common]) if common else None


def agreement(scores: Sequence[float], places: Sequence[int]) -> Agreement | None:
    """How far scores (greater is better) follow places (1 is best); None for fewer than three items, or where
    all scores or all places are alike."""
    if len(scores) < 3 or len(set(scores)) < 2 or len(set(places)) < 2:
        return None
    better = _signs(-np.array(places))

    def concordance(order: np.ndarray) -> float:
        """Pairs in the same order less pairs in the opposite: tau but for a factor that no order changes."""
        return float((_signs(order) * better).sum())

    test = stats.permutation_test(
        (np.array(scores),), concordance, permutation_type="pairings", n_resamples=np.inf
    )
    tau = float(stats.kendalltau(scores, [-place for place in places]).statistic)
    return Agreement(tau, float(test.pvalue), len(scores))


def _signs(values: np.ndarray) -> np.ndarray:
    return np.sign(values[:, None] - values[None, :])
