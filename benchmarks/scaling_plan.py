"""How long the curriculum's plan takes: made for 2.4 million records, dealt to 1,024 ranks."""

import statistics
import time

import numpy as np

from mgh_ds.curriculum.balance import measure_cost
from mgh_ds.curriculum.config import CurriculumConfig
from mgh_ds.curriculum.plan import TrainingPlan
from mgh_ds.records.store import StoreIndex

GLOBAL_BATCH, MICRO_BATCH, RANKS = 8192, 8, 1024
STEPS, TASKS, GRADED = 1600, 60, 0.4  # share of the records with a negative of every level
ROUNDS, SHARES = 3, 50


def measure_plan(records: int) -> dict[str, float]:
    """Seconds until the first batch is known (median of a few plans), of a new step's first share, and the
    median of further shares of it. The order of a whole epoch is made with its first batch."""
    index = make_index(records)

    def make_plan() -> TrainingPlan:
        return TrainingPlan(
            index, CurriculumConfig(), steps=STEPS, global_batch=GLOBAL_BATCH, micro_batch=MICRO_BATCH, seed=0
        )

    made = [measure_cost(make_plan) for _ in range(ROUNDS)]
    plan, _ = made[-1]
    first, *others = [_time_share(plan, rank) for rank in range(SHARES)]
    return {
        "records": records,
        "global_batch": GLOBAL_BATCH,
        "ranks": RANKS,
        "plan_and_first_batch_s": statistics.median(cost.seconds for _, cost in made),
        "first_share_of_a_step_s": first,
        "share_s": statistics.median(others),
    }


def make_index(records: int, seed: int = 0) -> StoreIndex:
    """Columns of a store that does not exist: tasks, lengths and grades drawn at random."""
    draw = np.random.default_rng(seed)
    graded = draw.random(records) < GRADED
    level_counts = np.zeros((records, 5), dtype=np.uint8)
    level_counts[~graded, 0] = 1
    level_counts[graded, 1:] = 1
    lengths = draw.lognormal(5.5, 0.7, (3, records)).clip(20, 2000).astype(np.int32)
    return StoreIndex(
        id_hash=draw.permutation(records).astype(np.uint64),
        task_hash=draw.integers(0, TASKS, records).astype(np.uint64),
        query_chars=lengths[0],
        positive_chars=lengths[1],
        level_chars=level_counts * lengths[2][:, None],
        level_counts=level_counts,
    )


def _time_share(plan: TrainingPlan, rank: int) -> float:
    started = time.perf_counter()
    plan.share(1, RANKS, rank)
    return time.perf_counter() - started
