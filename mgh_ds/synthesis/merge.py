"""All shards' parts become one data set, the same bytes whoever made the parts and in whatever order.

    merged/
      manifest.json, part-*.arrow   the accepted samples, a store that training reads
      units.parquet                 every unit: its answer, its decision, where it came from; sorted by id
      README.md                     the data card

Every decision is made again from the answers' texts. Units are sorted by way of buckets on disk, so memory
does not grow with their number.
"""

import json
import math
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mgh_ds.common import files
from mgh_ds.common.errors import MghError
from mgh_ds.records.columns import hash64
from mgh_ds.records.schema import Record
from mgh_ds.records.store import StoreWriter
from mgh_ds.synthesis.answers import Refused, read_sample, record_of
from mgh_ds.synthesis.card import DataCard
from mgh_ds.synthesis.counts import Counts
from mgh_ds.synthesis.engines.port import Completion
from mgh_ds.synthesis.parts import read_part, read_summary
from mgh_ds.synthesis.plan import SynthesisPlan
from mgh_ds.synthesis.tasks import open_tasks
from mgh_ds.synthesis.unit_row import COLUMNS
from mgh_ds.synthesis.units import Task
from mgh_ds.synthesis.wording import fold

Progress = Callable[[int], object]

UNITS = "units.parquet"
BUCKET_UNITS = 20_000
MOST_BUCKETS = 512  # each is an open file
ROW_GROUP = 10_000
# Columns of a unit that its record names as its source.
PROVENANCE = (
    *("plan_hash", "task_id", "prompt_hash", "slots", "seed", "model", "revision", "engine", "attempts"),
    *("finish_reason", "tokens_in", "tokens_out"),
)
REASON = COLUMNS.get_field_index("reason")


@dataclass
class MergeResult:
    """What a merge made."""

    path: Path
    counts: Counts = field(default_factory=Counts)


def merge(
    plan: SynthesisPlan,
    *,
    partial: bool = False,
    drop: dict[str, str] | None = None,
    progress: Progress | None = None,
) -> MergeResult:
    """Merges stage 2 into `merged/`, replacing an earlier one in one step.

    `drop` gives ids of accepted samples to leave out, with the reason. `progress` is called with numbers of
    units. Raises MghError if a shard is not done (unless `partial`), if parts are damaged or missing, if two
    units have the same id, if there are no parts, or if nothing was accepted.
    """
    scope, tasks = open_tasks(plan)
    paths, total, short = find_parts(plan, scope, partial)
    if not paths:
        raise MghError(
            f"no part of {plan.folder} is finished yet: what is finished is in journals, and becomes a part "
            "when its chunk is complete; go on with mgh-ds synth run"
        )
    result = MergeResult(plan.folder / "merged")
    card = DataCard(plan, partial, short, Counter((drop or {}).values()))
    with tempfile.TemporaryDirectory(dir=plan.folder, prefix=".merge.") as buckets:
        count = min(MOST_BUCKETS, math.ceil(total / BUCKET_UNITS))
        sorted_tables = _sorted_tables(paths, count, Path(buckets))
        with StoreWriter(result.path, replace=True) as writer:
            units = _UnitsWriter(writer.folder / UNITS)
            decide = _Decider(plan, tasks, drop or {})
            for table in sorted_tables:
                reasons = []
                for row in table.to_pylist():
                    record, reason = decide(row)
                    reasons.append(reason)
                    result.counts.add(_cost(row), reason)
                    if record is not None:
                        writer.add(record)
                    card.add(row, record)
                units.add(table.set_column(REASON, COLUMNS.field(REASON), pa.array(reasons, pa.string())))
                if progress:
                    progress(len(table))
            units.close()
            if not result.counts.accepted:
                raise MghError(f"no unit of {plan.folder} was accepted: see why with mgh-ds synth status")
            writer.notes |= card.notes(result.counts) | {
                f"sha256_of_{UNITS}": files.sha256(writer.folder / UNITS)
            }
            (writer.folder / "README.md").write_text(card.render(result.counts), encoding="utf-8")
    return result


def find_parts(plan: SynthesisPlan, scope: str, partial: bool) -> tuple[list[Path], int, int]:
    """The parts of stage 2, the number of their units, and of the shards that ended short of their goal.

    Raises MghError naming the shards that are not done or have lost a part.
    """
    found: list[Path] = []
    undone: list[int] = []
    total = short = 0
    for shard in range(plan.config.shards):
        folder = plan.shard_folder("samples", shard)
        done = files.read_json(folder / "done.json") if (folder / "done.json").exists() else None
        parts = sorted(folder.glob("part-*.parquet"))
        summaries = [read_summary(path) for path in parts]
        units = sum(summary.counts.units for summary in summaries)
        found += parts
        total += units
        for path, summary in zip(parts, summaries, strict=True):
            if summary.scope != scope:
                raise MghError(f"{path} belongs to another plan: move it away")
        if done is None:
            undone.append(shard)
        elif done != done | {"parts": len(parts), "units": units}:
            raise MghError(
                f"shard {shard} has lost a part: {len(parts)} of {done['parts']} are there. Make it anew "
                f"with: mgh-ds synth run {plan.folder} --shard {shard}"
            )
        elif done["short"]:
            short += 1
    if undone and not partial:
        shown = ", ".join(map(str, undone[:10])) + (", …" if len(undone) > 10 else "")
        raise MghError(
            f"{len(undone)} of {plan.config.shards} shards are not done: {shown}. Finish them with: "
            f"mgh-ds synth run {plan.folder} --all, or merge what is there with --partial"
        )
    return found, total, short


def _sorted_tables(paths: list[Path], count: int, folder: Path) -> Iterator[pa.Table]:
    """All rows sorted by id, a bucket at a time: a bucket holds one stretch of the ids, which are hashes."""
    writers = [pa.ipc.new_stream(str(folder / f"{index}"), COLUMNS) for index in range(count)]
    for path in paths:
        table = read_part(path)
        buckets = pa.array([int(unit_id[:8], 16) * count >> 32 for unit_id in table["unit_id"].to_pylist()])
        for index in pc.unique(buckets).to_pylist():
            writers[index].write_table(table.filter(pc.equal(buckets, index)))
    for index, writer in enumerate(writers):
        writer.close()
        with pa.ipc.open_stream(str(folder / f"{index}")) as reader:
            yield reader.read_all().sort_by("unit_id")


class _Decider:
    """Accepts or refuses each row, in the order of ids; remembers which samples there were."""

    def __init__(self, plan: SynthesisPlan, tasks: dict[str, Task], drop: dict[str, str]):
        self.plan, self.tasks, self.drop = plan, tasks, drop
        self._last = ""
        self._seen: set[int] = set()

    def __call__(self, row: dict[str, Any]) -> tuple[Record | None, str]:
        if row["unit_id"] == self._last:
            raise MghError(f"unit {row['unit_id']} occurs twice in {self.plan.folder}: this is a defect")
        self._last = row["unit_id"]
        try:
            sample = read_sample(row["text"], row["finish_reason"], row["subtype"], self.plan.config.filters)
            key = hash64(fold(sample.texts["query"]), fold(sample.texts["positive"]))
            if key in self._seen:
                raise Refused("duplicate")
            self._seen.add(key)  # of a dropped sample too: its twin was not audited
            if row["unit_id"] in self.drop:
                raise Refused(self.drop[row["unit_id"]])
            slots = json.loads(row["slots"])
            record = record_of(
                sample,
                row["unit_id"],
                row["subtype"],
                row["instruction"],
                slots["language"],
                source_of(self.plan.config.name, row, self.tasks[row["task_id"]].domain),
            )
        except Refused as refused:
            return None, str(refused)
        return record, ""


def source_of(dataset: str, row: dict[str, Any], domain: str) -> dict[str, str]:
    """Where a record came from, as its `source`; empty values are left out."""
    values = {"dataset": dataset, "domain": domain} | {name: str(row[name]) for name in PROVENANCE}
    return {name: value for name, value in values.items() if value}


class _UnitsWriter:
    """Writes rows to Parquet in row groups of one size, whatever the pieces that they come in."""

    def __init__(self, path: Path):
        self._writer = pq.ParquetWriter(path, COLUMNS, compression="zstd", write_page_checksum=True)
        self._waiting = COLUMNS.empty_table()

    def add(self, table: pa.Table) -> None:
        self._waiting = pa.concat_tables([self._waiting, table])
        while len(self._waiting) >= ROW_GROUP:
            self._write(self._waiting.slice(0, ROW_GROUP))
            self._waiting = self._waiting.slice(ROW_GROUP)

    def close(self) -> None:
        if len(self._waiting):
            self._write(self._waiting)
        self._writer.close()

    def _write(self, table: pa.Table) -> None:
        self._writer.write_table(table.combine_chunks(), row_group_size=ROW_GROUP)


def _cost(row: dict[str, Any]) -> Completion:
    return Completion(row["unit_id"], row["text"], row["finish_reason"], row["tokens_in"], row["tokens_out"])
