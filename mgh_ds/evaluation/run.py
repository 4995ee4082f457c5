"""Runs mteb tasks on an encoder and writes what came out as JSON."""

import contextlib
import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from mgh_ds.common.errors import MghError
from mgh_ds.evaluation.containment import contained_mteb
from mgh_ds.evaluation.encoding import Embeddings, TextEncoder
from mgh_ds.evaluation.fingerprint import (
    Fingerprint,
    data_of_records,
    data_of_task,
    fingerprint,
    versions,
)
from mgh_ds.evaluation.levels import level_accuracy
from mgh_ds.evaluation.prompts import NO_PROMPTS, OF_RECORDS, Prompts, prompts_of
from mgh_ds.evaluation.results import EvaluationResult, LevelScore, TaskScore
from mgh_ds.evaluation.retrieved import retrieved
from mgh_ds.records.schema import Record

# mteb is imported inside `contained_mteb` only: its import seeds the global random generators.

NOTHING_TO_SCORE = "the held-out records fill no task: symmetric records need negatives to be told from"


def evaluate(
    encoder: TextEncoder,
    tasks: Sequence[Any] = (),
    *,
    records: Sequence[Record] = (),
    label: str,
    output: Path | None = None,
    batch_size: int = 64,
    instructions: bool = False,
    parallel: int = 1,
    progress: bool = True,
) -> EvaluationResult:
    """Scores `encoder` on the held-out tasks that `records` fill, by negative level, and on mteb tasks, and
    keeps what a few of the records' queries find; writes the result to `output`. All is done
    afresh: mteb's cache of results is off.

    With `instructions`, a record's texts are read under its own instruction, and those of mteb tasks under
    what `prompts_of` says of them. `parallel` is how many batches the encoder works on at the same time.
    Random states are left as they were. Raises MghError when there is nothing to score, the encoder leaves
    out the instructions that are asked for, a task's data cannot be loaded or its score is not a number.
    """
    if not records and not tasks:
        raise MghError("there are no tasks to evaluate on")
    if instructions:
        require_instructions(encoder.name, encoder.use_instructions)
    scores: dict[str, TaskScore] = {}
    levels: dict[str, LevelScore] = {}
    details: dict[str, Any] = {}
    data: dict[str, Any] = {}
    prompts: dict[str, Prompts] = {}
    with contained_mteb(), _bar(progress) as bar:
        from mgh_ds.evaluation.heldout import heldout_tasks

        held_out = heldout_tasks(records)
        if not held_out and not tasks:
            raise MghError(NOTHING_TO_SCORE)
        of_records = data_of_records(records)
        # held-out tasks share their texts; a corpus of millions is not to be kept
        remembered = Embeddings(encoder, batch_size=batch_size, parallel=parallel, remember=True, bar=bar)
        passing = Embeddings(encoder, batch_size=batch_size, parallel=parallel, bar=bar)
        if records:
            bar.set_description(f"{label}: levels")
            levels = level_accuracy(remembered, records, instructions=instructions)
        for number, task in enumerate([*held_out, *tasks], start=1):
            name, in_memory = task.metadata.name, number <= len(held_out)
            prompts[name] = (OF_RECORDS if in_memory else prompts_of(task)) if instructions else NO_PROMPTS
            data[name] = of_records if in_memory else data_of_task(task)
            bar.set_description(f"{label}: {name} ({number} of {len(held_out) + len(tasks)})")
            scored = _run(task, remembered if in_memory else passing, prompts[name])
            scores[name] = _main_score(task, scored, prompts[name], data[name])
            details[name] = _plain(scored.to_dict())
        found = retrieved(remembered, records, instructions=instructions)
    result = EvaluationResult(
        label=label,
        model=encoder.name,
        pooling=encoder.pooling,
        tasks=scores,
        levels=levels,
        settings={
            "max_length": encoder.max_length,
            "instructions": instructions,
            "versions": versions(),
            **({"prompt": encoder.prompt} if encoder.prompt else {}),
        },
        details=details,
        fingerprint=fingerprint(encoder.origin, instructions=instructions, data=data, prompts=prompts),
        retrieved=found,
    )
    if output is not None:
        result.write(output)
    return result


def evaluate_heldout(encoder: TextEncoder, records: Sequence[Record], **options: Any) -> EvaluationResult:
    """Scores `encoder` on held-out records, with options as for `evaluate`. Raises MghError for none."""
    if not records:
        raise MghError("there are no held-out records to evaluate on")
    return evaluate(encoder, records=records, **options)


def expected(tasks: Sequence[Any], origin: Mapping[str, Any], instructions: bool) -> Fingerprint:
    """The fingerprint of what `evaluate` would find on mteb tasks with an encoder of this origin."""
    return fingerprint(
        origin,
        instructions=instructions,
        data={task.metadata.name: data_of_task(task) for task in tasks},
        prompts={task.metadata.name: prompts_of(task) if instructions else NO_PROMPTS for task in tasks},
    )


def require_instructions(name: str, used: bool) -> None:
    """Raises MghError for a model that was saved with `use_instructions: false`: nothing would be read under
    an instruction, and the result would say otherwise."""
    if not used:
        raise MghError(
            f"{name} was saved with use_instructions: false, so that no text of it is read under an "
            "instruction: leave --instructions out"
        )


def _run(task: Any, embeddings: Embeddings, prompts: Prompts) -> Any:
    """mteb's result of one task, the same whenever it is scored again."""
    import mteb
    from mteb.abstasks import AbsTaskRetrieval
    from mteb.abstasks.sts import AbsTaskSTS

    from mgh_ds.evaluation.hub_tasks import data_of, load_data
    from mgh_ds.evaluation.mteb_model import BlockSearch, EncoderModel

    model: Any = EncoderModel(embeddings, prompts)
    if isinstance(task, AbsTaskRetrieval):
        model = BlockSearch(model)
    again = copy.copy(task)  # some tasks draw samples, from generators of their own
    again.rng_state, again.np_rng = copy.deepcopy((task.rng_state, task.np_rng))
    if isinstance(again, AbsTaskSTS):
        load_data(again)  # which looks at the scores, before anything is encoded
    with data_of(task):
        (scored,) = mteb.evaluate(
            model,
            again,
            encode_kwargs={"batch_size": embeddings.batch_size, "show_progress_bar": False},
            cache=None,
            overwrite_strategy="always",
            co2_tracker=False,
            show_progress_bar=False,
        ).task_results
    return scored


def _main_score(task: Any, scored: Any, prompts: Prompts, data: dict[str, Any]) -> TaskScore:
    metric, score = task.metadata.main_score, float(scored.get_score())
    if not math.isfinite(score):
        raise MghError(
            f"task {task.metadata.name}: {metric} is not a number; "
            "the embeddings or the gold scores are all alike, or a gold score is no number"
        )
    return TaskScore(
        metric=metric, score=score, subsets=sorted(scored.hf_subsets), prompts=prompts, data=data
    )


def _plain(value: Any) -> Any:
    """mteb's scores as strict JSON: undefined figures (nAUC of a perfect ranking) become null, dates text."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, str | int):
        return value
    return str(value)


@contextlib.contextmanager
def _bar(progress: bool) -> Iterator["tqdm[Any]"]:
    with tqdm(disable=not progress, unit="text", total=0, leave=False, dynamic_ncols=True) as bar:
        yield bar
