"""A cross-encoder as the judge of false negatives: it reads query and document together."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mgh_ds.audit.agreement import agreement, labelled_set
from mgh_ds.audit.false_negatives import Judge, Verdicts, no_verdicts
from mgh_ds.audit.inputs import EXAMPLES, Bools, Float32s, Int64s, Progress, graded_negatives
from mgh_ds.audit.statistics import clearest
from mgh_ds.common.errors import MghError
from mgh_ds.common.protocols import ScorePairs
from mgh_ds.records.levels import LEVELS
from mgh_ds.records.schema import Record

CHUNK = 256  # records scored in one call


@dataclass(frozen=True)
class Relevance:
    """Probabilities of relevance of (query, positive) [n] and of (query, negative) by level [n, levels]."""

    positive: Float32s
    negative: Float32s


def cross_encoder_judge(score_pairs: ScorePairs, name: str, alpha: float = 0.95) -> Judge:
    """A judge for which a negative is false if it scores at least `alpha` times what the positive scores.

    Raises MghError if `alpha` is not in (0, 1]; the judge does if a score is no probability.
    """
    if not 0 < alpha <= 1:
        raise MghError(f"alpha should be above 0 and at most 1 (found {alpha})")

    def judge(records: Sequence[Record], rows: Int64s, progress: Progress) -> Verdicts:
        labelled = labelled_set()
        pairs = [(one.query, text) for one in labelled for text in (one.positive, one.negative)]
        scores = _scores(score_pairs, pairs).reshape(-1, 2)
        labels = suspects(Relevance(scores[:, 0], scores[:, 1:]), alpha)[:, 0].tolist()
        relevance = score(records, rows, score_pairs, progress)
        suspected = suspects(relevance, alpha)
        found, judged = no_verdicts(len(records)), no_verdicts(len(records))
        found[rows], judged[rows] = suspected, True
        return Verdicts(
            judge=f"{name}, a cross-encoder, from {alpha:g} times the positive's score",
            found=found,
            judged=judged,
            agreement=agreement(labels, [one.false_negative for one in labelled]),
            reasons=_clearest(rows, relevance, suspected),
        )

    return judge


def suspects(found: Relevance, alpha: float) -> Bools:
    """score(query, negative) ≥ alpha · score(query, positive), bool [n, levels]."""
    return found.negative >= alpha * found.positive[:, None]


def score(records: Sequence[Record], rows: Int64s, score_pairs: ScorePairs, progress: Progress) -> Relevance:
    """Scores the query of each record at `rows` with its positive and with each negative."""
    scores = np.empty((len(rows), 1 + len(LEVELS)), np.float32)
    for start in range(0, len(rows), CHUNK):
        progress("score pairs", start, len(rows))
        part = slice(start, start + CHUNK)
        chosen = [records[row] for row in rows[part].tolist()]
        pairs = [(r.query, text) for r in chosen for text in (r.positive, *graded_negatives(r))]
        scores[part] = _scores(score_pairs, pairs).reshape(-1, 1 + len(LEVELS))
    progress("score pairs", len(rows), len(rows))
    return Relevance(scores[:, 0], scores[:, 1:])


def _scores(score_pairs: ScorePairs, pairs: list[tuple[str, str]]) -> Float32s:
    found = np.asarray(score_pairs(pairs), dtype=np.float32)
    if found.shape != (len(pairs),) or not ((found >= 0) & (found <= 1)).all():
        raise MghError(
            f"the scorer should give {len(pairs)} probabilities between 0 and 1: let it end in a sigmoid"
        )
    return found


def _clearest(rows: Int64s, found: Relevance, suspected: Bools) -> dict[tuple[int, int], str]:
    """The suspects that clear the positive's score by most, with both scores."""
    places = clearest(found.negative - found.positive[:, None], suspected, EXAMPLES)
    return {
        (
            int(rows[at]),
            level,
        ): f"scores {found.negative[at, level]:.2f}, the positive {found.positive[at]:.2f}"
        for at, level in places
    }
