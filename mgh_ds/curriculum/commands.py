"""`mgh-ds plan`: what a run would train on, step by step and rank by rank, before it is started."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text
from tqdm import tqdm

from mgh_ds.common import files
from mgh_ds.common.errors import MghError
from mgh_ds.curriculum.balance import Balance, Cost, measure_balance, measure_cost
from mgh_ds.curriculum.config import CurriculumConfig
from mgh_ds.curriculum.plan import EMPTY, SourceUse, TrainingPlan
from mgh_ds.records.mixture import Mixture


def plan_command(
    records: Mixture,
    config: CurriculumConfig,
    arguments: Mapping[str, Any],
    world_size: int,
    export: Path | None,
    check: Callable[[TrainingPlan], object],
) -> None:
    """Prints stages, balance, cost and hashes of a plan, and writes its local batches to `export`.

    Args:
        records: what would be trained on.
        config: the curriculum.
        arguments: the other arguments of `TrainingPlan`.
        world_size: number of ranks.
        export: a file for one JSON line a step and rank, or None.
        check: raises MghError for a plan that is not to be trained on.

    Raises MghError if the plan cannot be made or the ranks are too many for it.
    """
    if world_size < 1:
        raise MghError(f"--world-size must be 1 or more, found {world_size}")
    index = records.index()
    plan, cost = measure_cost(lambda: TrainingPlan(index, config, **arguments))
    check(plan)
    unsorted = TrainingPlan(index, config.replace(length_window=1), **arguments)
    balance = measure_balance(plan, unsorted, world_size)
    console = Console()
    console.print(stage_table(plan))
    if uses := plan.source_uses():
        console.print(source_table(uses))
    console.print(summary_table(plan, world_size, balance, cost))
    # Not in the table, which folds them where a window is narrow.
    print(f"hash of the data: {records.manifest_hash}")
    print(f"hash of the plan: {plan.fingerprint(records.manifest_hash)}")
    if export:
        export_local_batches(plan, records, world_size, export)
        print(f"local batches: {export}")


def stage_table(plan: TrainingPlan) -> Table:
    """One row a stage and source."""
    table = Table("stage", "from step", "steps", "records", "epochs", "lacking its levels")
    for part in plan.coverage():
        table.add_row(
            Text(part.name),
            f"{part.stage.first_step:,}",
            f"{part.steps:,}",
            f"{part.eligible:,}",
            f"{part.epochs:.2f}",
            f"{part.lacking:,} ({plan.config.missing_level})" if part.lacking else "0",
        )
    return table


def source_table(uses: Sequence[SourceUse]) -> Table:
    """One row a source of a mixture: what the whole run takes from it."""
    table = Table("source", "weight", "steps", "share of steps", "records", "epochs", "at most")
    for use in uses:
        weight, most = use.config.weight, use.config.max_epochs
        table.add_row(
            Text(use.config.path),
            "as it occurs" if weight is None else f"{weight:g}",
            f"{use.steps:,}",
            f"{use.share:.1%}",
            f"{use.records:,}",
            f"{use.epochs:.2f}",
            "" if most is None else f"{most:g}",
        )
    return table


def summary_table(plan: TrainingPlan, world_size: int, balance: Balance, cost: Cost) -> Table:
    """Everything else, a row each."""
    each = len(plan.micro_batches(0, world_size, 0))
    table = Table(show_header=False)
    rows = {
        "batch": f"{plan.global_batch:,} records in {plan.count:,} micro-batches of {plan.micro_batch:,}, "
        f"negative groups: {plan.negative_groups:,}",
        "rank": f"{each:,} micro-batches a step on each of {world_size:,}",
        "heaviest rank / mean rank": f"{balance.assigned.mean:.4f} (worst step {balance.assigned.worst:.4f})",
        "if assigned in runs": f"{balance.contiguous.mean:.4f} (worst step {balance.contiguous.worst:.4f})",
        "padding, where texts are padded": f"{balance.padding:.1%} "
        f"({balance.padding_unsorted:.1%} without length_window)",
        "plan": f"{cost.seconds:.2f} s, {cost.bytes / 1e6:,.1f} MB at most",
        "local batch": f"{balance.local_batch_ms:.2f} ms",
    }
    for name, value in rows.items():
        table.add_row(name, value)
    return table


def export_local_batches(plan: TrainingPlan, records: Mixture, world_size: int, path: Path) -> None:
    """Writes `{"stage": index, "step": …, "rank": …, "ids": […]}` for every step and rank, one a line.

    Both count from 0. Ids stand in the order in which the rank works on them; empty places are left out. The
    file appears when it is complete, and memory holds one step at a time.
    """
    with files.new_file(path) as file:
        for step in tqdm(range(plan.steps), unit="step", leave=False, disable=None):
            batches = [plan.local_batch(step, world_size, rank) for rank in range(world_size)]
            rows = [batch[batch != EMPTY] for batch in batches]
            ids = records.take(np.concatenate(rows), ["id"])["id"].to_pylist()
            stage, begin = plan.stage(step).index, 0
            for rank, mine in enumerate(rows):
                line = {"stage": stage, "step": step, "rank": rank, "ids": ids[begin : begin + len(mine)]}
                file.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")
                begin += len(mine)
