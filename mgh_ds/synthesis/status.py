"""How far a synthesis is, read from its files alone: it may be asked at any time and disturbs no worker.

What is finished but not yet in a part counts like the rest: the answers in the journals are judged here, as
the worker did when they came.
"""

import datetime
import itertools
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from mgh_ds.common import files
from mgh_ds.common.errors import MghError
from mgh_ds.synthesis.counts import Counts, goal_of, progress_of
from mgh_ds.synthesis.engines.port import Completion
from mgh_ds.synthesis.journal import read_journal
from mgh_ds.synthesis.parts import read_summary
from mgh_ds.synthesis.plan import SynthesisPlan
from mgh_ds.synthesis.prepare import reason_for
from mgh_ds.synthesis.tasks import open_tasks, tasks_path
from mgh_ds.synthesis.units import STAGES, SynthesisStage, Task, Unit, units_of_shard

SILENT_S = 60  # a worker writes its file every few seconds
FORGOTTEN_S = 86_400  # it was killed: a worker that ends in order removes its file


@dataclass
class StageStatus:
    """One stage over all shards. `counts` are of all finished units, of which `journalled` are not yet in a
    part. Those of an earlier version's plan cannot be told apart, and are in `journalled` alone."""

    goal: int
    shards: int
    done: int = 0
    journalled: int = 0
    damaged: list[Path] = field(default_factory=list)
    counts: Counts = field(default_factory=Counts)


def read_status(plan: SynthesisPlan) -> dict[SynthesisStage, StageStatus]:
    """Both stages' status. Damaged parts are named, not counted."""
    found: dict[SynthesisStage, StageStatus] = {}
    for stage in STAGES:
        status = found[stage] = StageStatus(goal_of(plan, stage), plan.config.shards)
        journals = _JournalReader(plan, stage)
        for shard in range(plan.config.shards):
            folder = plan.shard_folder(stage, shard)
            status.done += (folder / "done.json").exists()
            # A journal goes when its part is there, so journals are read first: nothing is missed between.
            journalled = journals.read(shard)
            for path in sorted(folder.glob("part-*.parquet")):
                try:
                    summary = read_summary(path)
                except MghError:
                    status.damaged.append(path)
                    continue
                status.counts.add_counts(summary.counts)
                journalled.pop(summary.chunk, None)
            for chunk in journalled.values():
                status.journalled += len(chunk.unit_ids)
                status.counts.add_counts(chunk.counts)
    return found


def worker_lines(plan: SynthesisPlan) -> list[str]:
    """What the workers of the last day last reported."""
    found = []
    for path in sorted((plan.folder / "work" / "workers").glob("*.json")):
        try:
            worker = json.loads(path.read_text(encoding="utf-8"))
            age = datetime.datetime.now(datetime.UTC) - datetime.datetime.fromisoformat(worker["time"])
            if age.total_seconds() < FORGOTTEN_S:
                found.append(_worker_line(worker, age.total_seconds()))
        except FileNotFoundError:  # it ended while we looked
            continue
        except (ValueError, TypeError, KeyError):  # broken; nothing depends on it
            continue
    return found


def status_table(plan: SynthesisPlan) -> RenderableType:
    """The status for people."""
    stages = read_status(plan)
    table = Table("", *stages, title=Text(str(plan.folder)), title_justify="left")
    rows = {stage: _rows(plan, stage, status) for stage, status in stages.items()}
    for name in rows["samples"]:
        table.add_row(name, *(rows[stage][name] for stage in stages))
    lines: list[RenderableType] = [table]
    if tasks_path(plan).exists():
        lines.append(Text(f"{len(open_tasks(plan)[1]):,} tasks are frozen in {tasks_path(plan)}"))
    lines += [Text(line) for line in worker_lines(plan)]
    for status in stages.values():
        lines += [Text(f"damaged, made anew by the next run: {path}", "red") for path in status.damaged]
    return Group(*lines)


def _rows(plan: SynthesisPlan, stage: SynthesisStage, status: StageStatus) -> dict[str, str]:
    counts = status.counts
    reached = progress_of(plan, stage, counts)
    reasons = ", ".join(f"{reason} {count:,}" for reason, count in counts.reasons.most_common(6))
    return {
        "shards done": f"{status.done:,} of {status.shards:,}",
        "reached": f"{reached:,} of {status.goal:,} ({100 * reached / status.goal:.1f} %)",
        "accepted": f"{counts.accepted:,} of {counts.units:,} units",
        "of these in journals": f"{status.journalled:,} units",
        "refused": reasons or "none",
        "tokens in": counts.said_in,
        "tokens out": counts.said_out,
        "tokens out an accepted": ""
        if counts.out_per_accepted is None
        else f"{counts.out_per_accepted:,.0f}",
    }


@dataclass
class _JournalledChunk:
    """Finished units of a chunk that is no part yet."""

    unit_ids: set[str] = field(default_factory=set)
    counts: Counts = field(default_factory=Counts)


class _JournalReader:
    """Reads the journals of a stage, shard by shard, and judges the answers in them."""

    def __init__(self, plan: SynthesisPlan, stage: SynthesisStage):
        self.plan, self.stage = plan, stage
        self.scope, self.tasks = plan.plan_hash, dict[str, Task]()
        if stage == "samples" and tasks_path(plan).exists():
            self.scope, self.tasks = open_tasks(plan)

    def read(self, shard: int) -> dict[int, _JournalledChunk]:
        """What a shard's journals hold, by the number of the chunk; of two answers to a unit the first."""
        folder = self.plan.shard_folder(self.stage, shard)
        found: dict[int, _JournalledChunk] = {}
        for path in sorted(folder.glob("chunk-*.journal")):
            number = int(path.name[6:].split(".")[0])
            chunk = found.setdefault(number, _JournalledChunk())
            try:
                entries = [entry for entry in read_journal(path) if "unit_id" in entry]
            except FileNotFoundError:  # its chunk became a part while we looked
                continue
            units = self._units(shard, number) if entries else {}
            for entry in entries:
                if entry["unit_id"] not in chunk.unit_ids:
                    chunk.unit_ids.add(entry["unit_id"])
                    if unit := units.get(entry["unit_id"]):
                        self._count(chunk.counts, unit, entry)
        return found

    def _units(self, shard: int, number: int) -> dict[str, Unit]:
        """The units of a chunk by id, by the sizes of the rounds."""
        folder, size = self.plan.shard_folder(self.stage, shard), self.plan.config.chunk
        rounds = [files.read_json(path)["units"] for path in sorted(folder.glob("round-*.json"))]
        sizes = [min(size, left) for units in rounds for left in range(units, 0, -size)]
        shards, task_ids = self.plan.config.shards, list(self.tasks) or [""]
        stream = units_of_shard(self.scope, self.stage, task_ids, shard, shards, start=sum(sizes[:number]))
        return {unit.unit_id: unit for unit in itertools.islice(stream, sum(sizes[number : number + 1]))}

    def _count(self, counts: Counts, unit: Unit, entry: dict[str, Any]) -> None:
        completion = Completion(**{name: value for name, value in entry.items() if name != "engine"})
        subtype = None if self.stage == "tasks" else self.tasks[unit.task_id].subtype
        counts.add(completion, reason_for(completion, subtype, self.plan))


def _worker_line(worker: dict[str, Any], age_s: float) -> str:
    state = "at work" if age_s < SILENT_S else f"silent for {age_s:,.0f} s"
    rate = worker["tokens_out_per_s"]  # null: not all were counted
    return (
        f"worker {worker['worker']}: {state}, stage {worker['stage']}, {worker['accepted']:,} accepted, "
        f"{'unknown' if rate is None else format(rate, ',.0f')} tokens/s"
    )
