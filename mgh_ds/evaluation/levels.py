"""How well an encoder tells graded negatives from the positive, level by level. Needs no mteb."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from mgh_ds.evaluation.encoding import Embeddings, Input, TextEncoder
from mgh_ds.evaluation.questions import Question, answers
from mgh_ds.evaluation.results import LevelScore
from mgh_ds.records.levels import HARDEST, LEVELS
from mgh_ds.records.schema import Record


class GradedMargin(NamedTuple):
    """A graded negative's margin cos(query, positive) − cos(query, negative)."""

    record: int  # its place among the records
    level: int
    margin: float


def graded_margins(
    encoder: TextEncoder | Embeddings, records: Sequence[Record], *, instructions: bool = False
) -> list[GradedMargin]:
    """Of all graded negatives, but for those that another record has as a positive of the same query.

    With `instructions`, queries are read under their record's instruction, and so are the documents of
    symmetric records.
    """
    embed = encoder if isinstance(encoder, Embeddings) else Embeddings(encoder)
    right = answers(records)
    graded = [
        (place, record, negative)
        for place, record in enumerate(records)
        for negative in record.negatives
        if negative.level and negative.text not in right[Question.of(record)]
    ]
    if not graded:
        return []

    def document(record: Record, text: str) -> Input:
        return Input(document_instruction(record) if instructions else None, text)

    queries = embed([Input(r.task.instruction if instructions else None, r.query) for _, r, _ in graded])
    positives = embed([document(record, record.positive) for _, record, _ in graded])
    negatives = embed([document(record, negative.text) for _, record, negative in graded])
    margins = (queries * positives).sum(axis=1) - (queries * negatives).sum(axis=1)
    return [
        GradedMargin(place, negative.level or 0, margin)
        for (place, _, negative), margin in zip(graded, margins.tolist(), strict=True)
    ]


def level_accuracy(
    encoder: TextEncoder | Embeddings, records: Sequence[Record], *, instructions: bool = False
) -> dict[str, LevelScore]:
    """`by_level` of `graded_margins`."""
    return by_level(graded_margins(encoder, records, instructions=instructions))


def by_level(margins: Iterable[GradedMargin]) -> dict[str, LevelScore]:
    """By level, "1" (easiest) and up: the share of negatives that score strictly below the positive, the mean
    margin, and their number. Left out is a level that no record has."""
    found: defaultdict[str, list[float]] = defaultdict(list)
    for _, level, margin in margins:
        found[str(level)].append(margin)
    return {level: _score(np.array(found[level])) for level in map(str, LEVELS) if level in found}


def order(margins: Iterable[GradedMargin]) -> float:
    """How far a query's documents lie in the order of their levels, the positive before all: Kendall's τ over
    the pairs of a record's documents whose levels differ, 1 where all are in order and −1 where none is; the
    mean over the records. There must be margins."""
    lists: defaultdict[int, list[tuple[int, float]]] = defaultdict(lambda: [(HARDEST + 1, 0.0)])
    for record, level, margin in margins:
        lists[record].append((level, margin))
    taus = []
    for documents in lists.values():
        levels, distances = np.array(documents).T
        above = levels[:, None] > levels
        taus.append(np.sign(distances - distances[:, None])[above].mean())
    return float(np.mean(taus))


def document_instruction(record: Record) -> str | None:
    """Symmetric tasks read both sides under their instruction; asymmetric ones leave documents bare."""
    return record.task.instruction if record.task.kind == "symmetric" else None


def _score(margins: np.ndarray) -> LevelScore:
    return LevelScore(
        accuracy=float((margins > 0).mean()), margin=float(margins.mean()), count=int(margins.size)
    )
