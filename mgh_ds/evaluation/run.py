"""Runs mteb tasks on an encoder and writes what came out as JSON."""

import contextlib
import importlib.metadata
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from mgh_ds.common.errors import MghError
from mgh_ds.evaluation.containment import contained_mteb
from mgh_ds.evaluation.encoding import Embeddings
from mgh_ds.evaluation.levels import level_accuracy
from mgh_ds.evaluation.results import EvaluationResult, LevelScore, TaskScore
from mgh_ds.model.encoder import Encoder
from mgh_ds.records.instructions import instruction_for
from mgh_ds.records.schema import Record

# mteb is imported inside `contained_mteb` only: its import seeds the global random generators.


def evaluate(
    encoder: Encoder,
    tasks: Sequence[Any],
    *,
    label: str,
    output: Path | None = None,
    batch_size: int = 64,
    instructions: bool = False,
    progress: bool = True,
) -> EvaluationResult:
    """Scores `encoder` on mteb tasks, afresh (mteb's cache of results is off); writes the result to `output`.

    With `instructions`, texts are read under their task's instruction from `mgh_ds.records.instructions`.
    Raises MghError when a task's data cannot be loaded or its score is not a number.
    """
    with contained_mteb(), _bar(progress) as bar:
        embeddings = Embeddings(encoder, batch_size=batch_size, bar=bar)
        return _evaluate(embeddings, tasks, {}, label=label, output=output, instructions=instructions)


def evaluate_heldout(
    encoder: Encoder,
    records: Sequence[Record],
    *,
    label: str,
    output: Path | None = None,
    batch_size: int = 64,
    instructions: bool = False,
    progress: bool = True,
) -> EvaluationResult:
    """Scores `encoder` on the held-out tasks that `records` fill, and by negative level.

    With `instructions`, texts are read under their own record's. Random states are left as they were.
    Raises MghError for no records at all.
    """
    if not records:
        raise MghError("there are no held-out records to evaluate on")
    with contained_mteb(), _bar(progress) as bar:
        from mgh_ds.evaluation.heldout import heldout_tasks

        bar.set_description(f"{label}: levels")
        embeddings = Embeddings(encoder, batch_size=batch_size, remember=True, bar=bar)
        levels = level_accuracy(embeddings, records, instructions=instructions)
        return _evaluate(
            embeddings, heldout_tasks(records), levels, label=label, output=output, instructions=instructions
        )


def _evaluate(
    embeddings: Embeddings,
    tasks: Sequence[Any],
    levels: dict[str, LevelScore],
    *,
    label: str,
    output: Path | None,
    instructions: bool,
) -> EvaluationResult:
    from mgh_ds.evaluation.mteb_model import EncoderModel

    if not tasks:
        raise MghError("there are no tasks to evaluate on")
    model = EncoderModel(embeddings, instruction_for=_registry if instructions else None)
    scores, details = {}, {}
    for number, task in enumerate(tasks, start=1):
        name = task.metadata.name
        embeddings.bar.set_description(f"{label}: {name} ({number} of {len(tasks)})")
        scored = _run(task, model, embeddings.batch_size)
        scores[name] = _main_score(task, scored)
        details[name] = _plain(scored.to_dict())
    encoder = embeddings.encoder
    result = EvaluationResult(
        label=label,
        model=encoder.name,
        pooling=encoder.pooling,
        tasks=scores,
        levels=levels,
        settings={
            "max_length": encoder.max_length,
            "instructions": instructions,
            "versions": {
                name: importlib.metadata.version(name) for name in ("mgh-ds", "mteb", "torch", "transformers")
            },
        },
        details=details,
    )
    if output is not None:
        result.write(output)
    return result


def _run(task: Any, model: Any, batch_size: int) -> Any:
    """mteb's result of one task."""
    import mteb
    from datasets.exceptions import DatasetNotFoundError
    from huggingface_hub.errors import HfHubHTTPError

    from mgh_ds.evaluation.hub_tasks import unreachable

    try:
        (scored,) = mteb.evaluate(
            model,
            task,
            encode_kwargs={"batch_size": batch_size, "show_progress_bar": False},
            cache=None,
            overwrite_strategy="always",
            co2_tracker=False,
            show_progress_bar=False,
        ).task_results
    except (ConnectionError, DatasetNotFoundError, HfHubHTTPError) as error:
        raise unreachable([task.metadata.name], error) from error
    return scored


def _main_score(task: Any, scored: Any) -> TaskScore:
    metric, score = task.metadata.main_score, float(scored.get_score())
    if not math.isfinite(score):
        raise MghError(
            f"task {task.metadata.name}: {metric} is not a number; "
            "the embeddings or the gold scores are all alike"
        )
    return TaskScore(metric=metric, score=score, subsets=sorted(scored.hf_subsets))


def _registry(task: str, side: str | None) -> str | None:
    """The registry's instruction; where mteb tells no side (STS, classification) a text counts as a query."""
    return instruction_for(task, "document" if side == "document" else "query")


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
