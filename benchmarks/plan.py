"""What the curriculum's plan costs at 2.4 M records, how evenly it loads ranks, and what padding it saves.

    python -m benchmarks.plan [--records 2400000] [--rounds 5]

The records are drawn: 2,000 tasks of very unequal sizes, texts with log-normal lengths cut at 512 tokens,
three in eight records graded and the others with one ungraded negative.
"""

import argparse
import dataclasses
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import environment
from benchmarks.cases import MEDIAN, SHORTEST, SPREAD
from mgh_ds.common import files
from mgh_ds.curriculum import CurriculumConfig, TrainingPlan
from mgh_ds.curriculum.balance import measure_balance, measure_cost
from mgh_ds.records.store import StoreIndex
from mgh_ds.training.config import CHARS_PER_TOKEN

RESULTS = Path("benchmarks/results")
TASKS, MAX_TOKENS, GRADED = 2000, 512, 3 / 8
STEPS, GLOBAL_BATCH = 800, 8192
WORLD_SIZES, MICRO_BATCHES = (512, 1024), (1, 2, 4, 8)


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    index = draw_index(options.records)
    found = {
        "environment": environment.describe(torch.device("cpu")) | {"numpy": np.__version__},
        "records": options.records,
        "tasks": TASKS,
        "global_batch": GLOBAL_BATCH,
        "plan": measure_plan(index, options.rounds),
        "plan with ungraded_share 0.5": measure_plan(index, options.rounds, ungraded_share=0.5),
        "ranks": measure_ranks(index),
    }
    files.write_json(options.output / "plan-cpu.json", found)
    print((options.output / "plan-cpu.json").read_text(encoding="utf-8"))
    return 0


def draw_index(records: int, seed: int = 0) -> StoreIndex:
    """Columns of a store that does not exist."""
    random = np.random.default_rng(seed)
    task_hashes = random.integers(0, 2**63, TASKS).astype(np.uint64)
    sizes = 1 / np.arange(1, TASKS + 1)
    graded = random.random(records) < GRADED
    counts = np.zeros((records, 5), dtype=np.uint8)
    counts[:, 0], counts[:, 1:] = ~graded, graded[:, None]

    def chars() -> np.ndarray:
        tokens = random.lognormal(np.log(MEDIAN), SPREAD, records).clip(SHORTEST)
        return (CHARS_PER_TOKEN * tokens).astype(np.int32)

    return StoreIndex(
        id_hash=random.integers(0, 2**63, records).astype(np.uint64),
        task_hash=task_hashes[random.choice(TASKS, records, p=sizes / sizes.sum())],
        query_chars=chars(),
        positive_chars=chars(),
        level_chars=np.stack([chars() for _ in range(5)], axis=1) * counts.astype(np.int32),
        level_counts=counts,
        scored=np.zeros(records, np.uint8),
    )


def make_plan(index: StoreIndex, micro_batch: int = 8, **curriculum: Any) -> TrainingPlan:
    return TrainingPlan(
        index,
        CurriculumConfig(**curriculum),
        steps=STEPS,
        global_batch=GLOBAL_BATCH,
        micro_batch=micro_batch,
        seed=0,
        max_chars=CHARS_PER_TOKEN * MAX_TOKENS,
    )


def measure_plan(index: StoreIndex, rounds: int, **curriculum: Any) -> dict[str, float]:
    """Time and memory of making the plan and its first batch, the index being there."""
    costs = [measure_cost(lambda: make_plan(index, **curriculum))[1] for _ in range(rounds)]
    seconds = [cost.seconds for cost in costs]
    return {
        "seconds_best": min(seconds),
        "seconds_median": statistics.median(seconds),
        "cpu_seconds_median": statistics.median(cost.cpu_seconds for cost in costs),
        "peak_mb": max(cost.bytes for cost in costs) / 1e6,
        "index_mb": sum(column.nbytes for column in vars(index).values()) / 1e6,
    }


def measure_ranks(index: StoreIndex) -> list[dict[str, Any]]:
    """Balance, padding and time of a local batch, by micro-batch and number of ranks."""
    rows = []
    for micro_batch in MICRO_BATCHES:
        plan, unsorted = make_plan(index, micro_batch), make_plan(index, micro_batch, length_window=1)
        for world_size in WORLD_SIZES:
            balance = measure_balance(plan, unsorted, world_size)
            sizes = {"micro_batch": micro_batch, "world_size": world_size}
            rows.append(sizes | dataclasses.asdict(balance))
            rows[-1] |= {
                "assigned": balance.assigned._asdict(),
                "contiguous": balance.contiguous._asdict(),
            }
    return rows


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.plan", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--records", type=int, default=2_400_000)
    parser.add_argument("--rounds", type=int, default=5, help="in which a plan is made anew")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the results")
    return parser


if __name__ == "__main__":
    sys.exit(main())
