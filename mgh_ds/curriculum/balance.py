"""How evenly a plan's steps fall on ranks, how much padding they need, and what the plan itself costs."""

import time
import tracemalloc
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from mgh_ds.curriculum.plan import EMPTY, TrainingPlan


class Spread(NamedTuple):
    """The heaviest rank of a step divided by the mean rank, over several steps."""

    mean: float
    median: float
    worst: float


@dataclass(frozen=True)
class Balance:
    """What `measure_balance` found.

    Attributes:
        assigned: as the plan assigns.
        contiguous: had every rank a run of the batch as it comes, sorted by length.
        padding: share of padding where the texts of a micro-batch are padded to the longest.
        padding_unsorted: the same if batches were cut without looking at lengths (`length_window: 1`).
        local_batch_ms: median time of a step's first local batch, its epoch being laid out.
    """

    assigned: Spread
    contiguous: Spread
    padding: float
    padding_unsorted: float
    local_batch_ms: float


@dataclass(frozen=True)
class Cost:
    """Seconds by the clock and of the processor, and peak bytes beyond the index, that it took to make a plan
    and its first batch."""

    seconds: float
    cpu_seconds: float
    bytes: int


def measure_cost(make_plan: Callable[[], TrainingPlan]) -> tuple[TrainingPlan, Cost]:
    """Makes a plan and says what that cost."""
    tracemalloc.start()
    begin, cpu_begin = time.perf_counter(), time.thread_time()
    plan = make_plan()
    plan.batch(0)
    seconds, cpu_seconds = time.perf_counter() - begin, time.thread_time() - cpu_begin
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return plan, Cost(seconds, cpu_seconds, peak)


def measure_balance(
    plan: TrainingPlan, unsorted: TrainingPlan, world_size: int, samples: int = 32
) -> Balance:
    """Looks at `samples` steps spread over the plan, and over the same with `length_window: 1`.

    Raises MghError if the ranks are too many for it.
    """
    steps = np.unique(np.linspace(0, plan.steps - 1, samples).astype(int)).tolist()
    numbers = [plan.micro_batches(0, world_size, rank) for rank in range(world_size)]
    assigned, contiguous, times = [], [], []
    for step in steps:
        batch = plan.batch(step)
        begin = time.perf_counter()
        plan.local_batch(step, world_size, 0)
        times.append(time.perf_counter() - begin)
        assigned.append(_micro_batch_lengths(plan, step).sum(axis=1)[np.stack(numbers)].sum(axis=1))
        runs = np.array_split(plan.lengths(step, batch[batch != EMPTY]), world_size)
        contiguous.append(np.array([run.sum() for run in runs]))
    return Balance(
        assigned=_spread(assigned),
        contiguous=_spread(contiguous),
        padding=_padding(plan, steps),
        padding_unsorted=_padding(unsorted, steps),
        local_batch_ms=1000 * float(np.median(times)),
    )


def _micro_batch_lengths(plan: TrainingPlan, step: int) -> np.ndarray:
    """By number of the micro-batch, int64 [micro-batches + 1, micro_batch]; the last row, `EMPTY`, is 0."""
    lengths = np.zeros((plan.count + 1, plan.micro_batch), dtype=np.int64)
    lengths[plan.micro_batches(step, 1, 0)] = plan.lengths(step, plan.local_batch(step, 1, 0))
    assert not lengths[EMPTY].any()
    return lengths


def _spread(weights: Iterable[np.ndarray]) -> Spread:
    ratios = [float(ranks.max() / ranks.mean()) for ranks in weights]
    return Spread(float(np.mean(ratios)), float(np.median(ratios)), max(ratios))


def _padding(plan: TrainingPlan, steps: Iterable[int]) -> float:
    lengths = np.concatenate([_micro_batch_lengths(plan, step) for step in steps])
    return 1 - float(lengths.sum() / (lengths.max(axis=1).sum() * plan.micro_batch))
