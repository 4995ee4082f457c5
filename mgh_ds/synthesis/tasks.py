"""The barrier between the stages: stage 1's tasks without repetitions, in the order in which stage 2 takes
them, frozen in `tasks.json`.

Every worker that finds stage 1 complete computes the same content from the parts, and whoever is first links
it into place.
"""

import hashlib
import itertools
import json
import math
from collections import Counter
from pathlib import Path

from mgh_ds.common import files
from mgh_ds.common.errors import MghError
from mgh_ds.records.schema import Subtype
from mgh_ds.synthesis.answers import read_tasks
from mgh_ds.synthesis.draws import in_turn
from mgh_ds.synthesis.parts import read_part, write_new_json
from mgh_ds.synthesis.plan import SynthesisPlan
from mgh_ds.synthesis.units import Task
from mgh_ds.synthesis.wording import normalise


def tasks_path(plan: SynthesisPlan) -> Path:
    return plan.folder / "tasks.json"


def freeze_tasks(plan: SynthesisPlan) -> None:
    """Writes `tasks.json` from the parts of stage 1, which must be complete, unless it is there.

    Raises MghError if there is no usable task.
    """
    candidates = _candidates(plan)
    tasks = in_turn(plan.plan_hash, distinct_tasks(candidates, plan.config.tasks.near_duplicate))
    if not tasks:
        raise MghError(f"stage 1 of {plan.folder} gave no usable task: see its parts in work/tasks")
    rows = [[task.task_id, task.subtype, task.instruction, task.domain] for task in tasks]
    content = {"plan_hash": plan.plan_hash, "tasks_hash": _hash(rows), "brainstormed": len(candidates)}
    write_new_json(tasks_path(plan), content | {"tasks": rows})


def open_tasks(plan: SynthesisPlan) -> tuple[str, dict[str, Task]]:
    """The scope of stage 2 (the plan's hash and the tasks') and the frozen tasks by id, in their order.

    Raises MghError if they are not there yet or were changed.
    """
    path = tasks_path(plan)
    content = files.read_json(path)
    try:
        rows, found = content["tasks"], (content["plan_hash"], content["tasks_hash"])
        tasks = {row[0]: Task(*row) for row in rows}
    except (KeyError, TypeError, ValueError):
        raise MghError(f"{path} is damaged: make a new plan") from None
    if found != (plan.plan_hash, _hash(rows)):
        raise MghError(f"{path} was changed after it was frozen: put it back, or make a new plan")
    return f"{plan.plan_hash}\0{found[1]}", tasks


def distinct_tasks(candidates: list[tuple[Subtype, str, str]], threshold: float) -> list[Task]:
    """The candidates (subtype, instruction, domain) sorted by id, without those that repeat an earlier one of
    their subtype: the same words, or word 2-grams whose Jaccard similarity is `threshold` or more."""
    by_id: dict[str, Task] = {}
    for subtype, instruction, domain in candidates:
        name = f"{subtype}\0{normalise(instruction)}"
        task_id = hashlib.blake2b(name.encode("utf-8"), digest_size=8).hexdigest()
        known = by_id.get(task_id)
        # The same words in other letters: keep one spelling, whatever the order they came in.
        if known is None or (instruction, domain) < (known.instruction, known.domain):
            by_id[task_id] = Task(task_id, subtype, instruction, domain)
    return _without_near_duplicates([by_id[task_id] for task_id in sorted(by_id)], threshold)


def _without_near_duplicates(tasks: list[Task], threshold: float) -> list[Task]:
    """Compares only tasks that share a gram among the rarest of each: sets of similarity t must share one of
    the first len − ⌈t·len⌉ + 1 of their elements, in any order that is the same for all."""
    grams_of = {task.task_id: _two_grams(task.instruction) for task in tasks}
    often = Counter(gram for grams in grams_of.values() for gram in grams)
    kept: list[Task] = []
    having: dict[tuple[str, str], list[set[str]]] = {}
    for task in tasks:
        grams = grams_of[task.task_id]
        rarest = sorted(grams, key=lambda gram: (often[gram], gram))
        prefix = rarest[: len(grams) - math.ceil(threshold * len(grams) - 1e-9) + 1]
        near = (other for gram in prefix for other in having.get((task.subtype, gram), []))
        if any(_jaccard(grams, other) >= threshold for other in near):
            continue
        for gram in prefix:
            having.setdefault((task.subtype, gram), []).append(grams)
        kept.append(task)
    return kept


def _candidates(plan: SynthesisPlan) -> list[tuple[Subtype, str, str]]:
    found: list[tuple[Subtype, str, str]] = []
    for shard in range(plan.config.shards):
        for path in sorted(plan.shard_folder("tasks", shard).glob("part-*.parquet")):
            rows = read_part(path, ["subtype", "slots", "finish_reason", "reason", "text"]).to_pylist()
            for row in rows:
                if not row["reason"]:
                    texts = read_tasks(row["text"], row["finish_reason"])
                    domain = json.loads(row["slots"]).get("domain", "")
                    found += [(row["subtype"], text, domain) for text in texts]
    return found


def _two_grams(text: str) -> set[str]:
    words = normalise(text).split()
    return {f"{first} {second}" for first, second in itertools.pairwise(words)} or set(words)


def _jaccard(first: set[str], second: set[str]) -> float:
    return len(first & second) / len(first | second)


def _hash(rows: list[list[str]]) -> str:
    return hashlib.sha256(json.dumps(rows, separators=(",", ":")).encode()).hexdigest()
