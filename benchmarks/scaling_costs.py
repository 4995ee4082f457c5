"""What a collective costs: messages of latency α and inverse bandwidth β, and the algorithms made of them.

A message of n bytes takes α + β·n seconds (Hockney, "The communication challenge for MPP: Intel Paragon and
Meiko CS-2", Parallel Computing 20, 1994). Steps and bytes of the algorithms follow Thakur, Rabenseifner and
Gropp, "Optimization of collective communication operations in MPICH", IJHPCA 19, 2005. Their third term, γ
for adding two numbers, is not told apart here: where a collective adds, the fitted β contains it.
"""

import math
import statistics
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from scipy.optimize import nnls  # type: ignore[import-untyped]


class Traffic(NamedTuple):
    """What a rank does in a collective: messages that wait for one another, and the bytes that it sends."""

    steps: int
    bytes: float


Algorithm = Callable[[int, int], Traffic]  # (ranks, size in bytes) → Traffic


def ring_all_gather(ranks: int, size: int) -> Traffic:
    """`size`: of what every rank holds in the end. (p − 1)·α + (p − 1)/p·n·β."""
    return Traffic(ranks - 1, size * (ranks - 1) / ranks)


def ring_reduce_scatter(ranks: int, size: int) -> Traffic:
    """`size`: of what every rank brings. The all-gather backwards: (p − 1)·α + (p − 1)/p·n·β."""
    return ring_all_gather(ranks, size)


def ring_all_reduce(ranks: int, size: int) -> Traffic:
    """A reduce-scatter and an all-gather: 2·(p − 1)·α + 2·(p − 1)/p·n·β."""
    lap = ring_all_gather(ranks, size)
    return Traffic(2 * lap.steps, 2 * lap.bytes)


def doubling_all_reduce(ranks: int, size: int) -> Traffic:
    """Recursive doubling, for short vectors: ⌈log₂ p⌉·(α + n·β)."""
    steps = math.ceil(math.log2(ranks))
    return Traffic(steps, steps * size)


def tree_broadcast(ranks: int, size: int) -> Traffic:
    """Binomial tree: ⌈log₂ p⌉·(α + n·β); the bytes are those on the way to the last rank."""
    return doubling_all_reduce(ranks, size)


# What gloo runs. torch makes its reduce-scatter of an all-reduce, of which each rank keeps its part.
GLOO: dict[str, Algorithm] = {
    "all_gather": ring_all_gather,
    "reduce_scatter": ring_all_reduce,
    "all_reduce": ring_all_reduce,
    "broadcast": tree_broadcast,
}


class Sample(NamedTuple):
    """One collective measured: the median over `repetitions` of the slowest rank's seconds."""

    collective: str
    ranks: int
    bytes: int
    seconds: float
    repetitions: int


class Link(NamedTuple):
    """α in seconds a message and β in seconds a byte."""

    alpha: float
    beta: float

    def seconds(self, traffic: Traffic) -> float:
        return traffic.steps * self.alpha + traffic.bytes * self.beta


class Check(NamedTuple):
    """How far a fit is off on samples: |predicted / measured − 1|."""

    collective: str
    samples_of: str
    samples: int
    median_error: float
    worst_error: float


def fit(algorithm: Algorithm, samples: Sequence[Sample]) -> Link:
    """The α and β, neither below 0, with the least squares of the *relative* errors: so a message of 1 KB
    counts as much as one of 16 MB."""
    traffic = [algorithm(sample.ranks, sample.bytes) for sample in samples]
    seconds = np.array([sample.seconds for sample in samples])
    # Both columns end up near 1: bytes are 10⁶ times as many as steps.
    matrix = np.array([[each.steps, each.bytes / 2**20] for each in traffic]) / seconds[:, None]
    alpha, beta = nnls(matrix, np.ones(len(samples)))[0]
    return Link(float(alpha), float(beta) / 2**20)


def check(link: Link, algorithm: Algorithm, samples: Sequence[Sample], samples_of: str) -> Check:
    """The errors of `link` on samples of one collective."""
    errors = [
        abs(link.seconds(algorithm(sample.ranks, sample.bytes)) / sample.seconds - 1) for sample in samples
    ]
    return Check(samples[0].collective, samples_of, len(samples), statistics.median(errors), max(errors))
