"""From a unit to the request that an engine is given, and to the row that is kept of it."""

import hashlib
import itertools
import json
from dataclasses import dataclass, replace
from functools import cached_property, partial

from mgh_ds.records.schema import Subtype
from mgh_ds.records.subtypes import SUBTYPES
from mgh_ds.synthesis.answers import Refused, read_sample, read_tasks
from mgh_ds.synthesis.draws import Draws
from mgh_ds.synthesis.engines.port import PROBE, Completion, Request
from mgh_ds.synthesis.plan import SynthesisPlan, stage_schema
from mgh_ds.synthesis.unit_row import UnitRow
from mgh_ds.synthesis.units import SynthesisStage, Task, Unit, seed_of, units_of_shard

PROBES = 3  # of which one may well be refused for what it says


@dataclass(frozen=True, slots=True)
class Prepared:
    """A unit with all that follows from it alone. `task.instruction` is empty in stage 1."""

    unit: Unit
    task: Task
    slots: dict[str, str]
    request: Request
    prompt_hash: str


class Preparer:
    """Prepares the units of one stage."""

    def __init__(self, plan: SynthesisPlan, stage: SynthesisStage, tasks: dict[str, Task]):
        """`tasks` is stage 1's result by id, in its order; empty in stage 1."""
        self.plan, self.stage, self.tasks = plan, stage, tasks
        self.schema = stage_schema(plan.config, stage)
        self.sampling = plan.config.tasks.sampling if stage == "tasks" else plan.config.samples.sampling
        self.draws = Draws(plan.plan_hash, stage, list(tasks.values()))
        self._constant = json.dumps([self.schema, self.sampling.model_dump()], sort_keys=True)

    def prepare(self, unit: Unit) -> Prepared:
        """The unit's slots, prompt and request. The same unit gives the same everywhere."""
        slots = self.plan.slots.draw(self.stage, partial(self.draws.position, unit))
        if self.stage == "tasks":
            task = Task("", self._subtype(unit), "")
            messages = self.plan.prompts.for_tasks(task.subtype, self.plan.config.tasks.per_call, slots)
        else:
            task = self.tasks[unit.task_id]
            messages = self.plan.prompts.for_sample(task, slots)
        request = Request(unit.unit_id, messages, self.schema, self.sampling, seed_of(unit.unit_id))
        parts = (part for message in messages for part in (message["role"], message["content"]))
        text = "\0".join((self._constant, *parts))
        digest = hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
        return Prepared(unit, task, slots, request, digest)

    @cached_property
    def probes(self) -> list[Request]:
        """Prompts like those of the stage's units, and none of them: an engine that answers one of them
        works, and takes schema, sampling and roles."""
        stream = units_of_shard("probe", self.stage, list(self.tasks) or [""], 0, 1)
        requests = [self.prepare(unit).request for unit in itertools.islice(stream, PROBES)]
        return [
            replace(request, unit_id=f"{PROBE}-{self.stage}-{number}")
            for number, request in enumerate(requests)
        ]

    def _subtype(self, unit: Unit) -> Subtype:
        probabilities = self.plan.config.tasks.subtypes
        left = self.draws.position(unit, "subtype") * sum(probabilities.values())
        for subtype in [subtype for subtype in SUBTYPES if probabilities.get(subtype)]:
            left -= probabilities[subtype]
            if left < 0:
                break
        return subtype


def reason_of(completion: Completion, prepared: Prepared, plan: SynthesisPlan) -> str:
    """Why an answer is refused, or "" if it is accepted."""
    return reason_for(completion, None if prepared.unit.stage == "tasks" else prepared.task.subtype, plan)


def reason_for(completion: Completion, subtype: Subtype | None, plan: SynthesisPlan) -> str:
    """The same from the subtype of stage 2's task alone; None in stage 1."""
    try:
        if subtype is None:
            read_tasks(completion.text, completion.finish_reason)
        else:
            read_sample(completion.text, completion.finish_reason, subtype, plan.config.filters)
    except Refused as refused:
        return str(refused)
    return ""


def row_of(
    completion: Completion,
    prepared: Prepared,
    reason: str,
    plan: SynthesisPlan,
    *,
    shard: int,
    round: int,
    engine: str,
) -> UnitRow:
    """The unit's row in a part."""
    unit, task = prepared.unit, prepared.task
    return UnitRow(
        unit_id=unit.unit_id,
        task_id=unit.task_id,
        subtype=task.subtype,
        instruction=task.instruction,
        index=unit.index,
        shard=shard,
        round=round,
        slots=json.dumps(prepared.slots, ensure_ascii=False, separators=(",", ":")),
        plan_hash=plan.plan_hash,
        prompt_hash=prepared.prompt_hash,
        seed=prepared.request.seed,
        model=plan.config.engine.model,
        revision=plan.config.engine.revision or "",
        engine=engine,
        attempts=completion.attempts,
        finish_reason=completion.finish_reason,
        tokens_in=completion.tokens_in,
        tokens_out=completion.tokens_out,
        error=completion.error,
        reason=reason,
        text=completion.text,
    )
