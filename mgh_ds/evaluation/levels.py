"""How well an encoder tells graded negatives from the positive, level by level. Needs no mteb."""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from mgh_ds.evaluation.encoding import Embeddings, Input, TextEncoder
from mgh_ds.evaluation.questions import Question, answers
from mgh_ds.evaluation.results import LevelScore
from mgh_ds.records.levels import LEVELS
from mgh_ds.records.schema import Record


def level_accuracy(
    encoder: TextEncoder | Embeddings, records: Sequence[Record], *, instructions: bool = False
) -> dict[str, LevelScore]:
    """By level, "1" (easiest) and up: the share of negatives that score strictly below the positive
    by cosine with the query, the mean margin cos(query, positive) − cos(query, negative), and their number.

    With `instructions`, queries are read under their record's instruction, and so are the documents of
    symmetric records. Left out are negatives without a level, those that another record has as a positive
    of the same query, and a level that no record has.
    """
    embed = encoder if isinstance(encoder, Embeddings) else Embeddings(encoder)
    right = answers(records)
    graded = [
        (record, negative)
        for record in records
        for negative in record.negatives
        if negative.level and negative.text not in right[Question.of(record)]
    ]
    if not graded:
        return {}

    def document(record: Record, text: str) -> Input:
        return Input(document_instruction(record) if instructions else None, text)

    queries = embed([Input(r.task.instruction if instructions else None, r.query) for r, _ in graded])
    positives = embed([document(record, record.positive) for record, _ in graded])
    negatives = embed([document(record, negative.text) for record, negative in graded])
    margins = (queries * positives).sum(axis=1) - (queries * negatives).sum(axis=1)
    by_level: defaultdict[str, list[float]] = defaultdict(list)
    for (_, negative), margin in zip(graded, margins.tolist(), strict=True):
        by_level[str(negative.level)].append(margin)
    return {level: _score(np.array(by_level[level])) for level in map(str, LEVELS) if level in by_level}


def document_instruction(record: Record) -> str | None:
    """Symmetric tasks read both sides under their instruction; asymmetric ones leave documents bare."""
    return record.task.instruction if record.task.kind == "symmetric" else None


def _score(margins: np.ndarray) -> LevelScore:
    return LevelScore(
        accuracy=float((margins > 0).mean()), margin=float(margins.mean()), count=int(margins.size)
    )
