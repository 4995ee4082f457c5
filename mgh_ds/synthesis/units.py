"""Units: one LLM call each, named by a hash, so that any unit can be rebuilt alone, anywhere, in any
order."""

import hashlib
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from mgh_ds.records.schema import Subtype

SynthesisStage = Literal["tasks", "samples"]
STAGES: tuple[SynthesisStage, ...] = ("tasks", "samples")

# Raise it when a unit's id, slots or prompt would come out differently: plans of another version are refused.
UNITS_VERSION = 2
# Plans of these may be looked at, merged and audited, but not run: 1 drew each unit's slots by themselves.
EARLIER_UNITS = (1,)
ID_BYTES = 16


@dataclass(frozen=True, slots=True)
class Task:
    """A retrieval task, as brainstormed: its shape, its instruction in a sentence, and the domain that was
    asked for, if the tables have one."""

    task_id: str
    subtype: Subtype
    instruction: str
    domain: str = ""


@dataclass(frozen=True, slots=True)
class Unit:
    """One call. In stage 1 `task_id` is empty."""

    unit_id: str
    stage: SynthesisStage
    task_id: str
    index: int


def make_unit(scope: str, stage: SynthesisStage, task_id: str, index: int) -> Unit:
    """The unit of a task and index. `scope` is what fixes the stage: the plan's hash, in stage 2 with the
    tasks'."""
    name = "\0".join((scope, stage, task_id, str(index)))
    return Unit(hashlib.blake2b(name.encode(), digest_size=ID_BYTES).hexdigest(), stage, task_id, index)


def units_of_shard(
    scope: str, stage: SynthesisStage, task_ids: Sequence[str], shard: int, shards: int, start: int = 0
) -> Iterator[Unit]:
    """The endless stream of a shard's units, from its `start`-th on.

    The places of the stage are index 0 of every task, then index 1, …. Of each `shards` places in a row every
    shard has one, so that all together work through the places from the first on; which one is drawn, so that
    no shard has a kind of units to itself.
    """
    for turn in itertools.count(start):
        first = int(uniform(f"{scope}\0{turn}", "shard") * shards)
        index, task = divmod(turn * shards + (first + shard) % shards, len(task_ids))
        yield make_unit(scope, stage, task_ids[task], index)


def uniform(unit_id: str, name: str) -> float:
    """A number in [0, 1) that depends on the unit and `name` alone."""
    digest = hashlib.blake2b(f"{unit_id}\0{name}".encode(), digest_size=8).digest()
    return (int.from_bytes(digest, "little") >> 11) * 2.0**-53


def seed_of(unit_id: str) -> int:
    """The seed that an engine is given for this unit: 31 bits."""
    return int(unit_id[:8], 16) >> 1
