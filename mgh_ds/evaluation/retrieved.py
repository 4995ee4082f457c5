"""What a few held-out queries find, kept for the report to show: the documents by rank, and what each of them
is to its query. Needs no mteb."""

import itertools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mgh_ds.evaluation.encoding import Embeddings, Input
from mgh_ds.evaluation.questions import Question, answers
from mgh_ds.evaluation.results import Found, Query, Retrieved
from mgh_ds.records.schema import Record

QUERIES = 24
"""Of how many queries at most is kept what they find."""
FOUND = 5
"""How many documents are kept of each, beside its best positives."""
POSITIVES = 3
"""How many positives are kept of each, unless more are among the first documents."""
LONGEST = 2_000
"""Characters that are kept of a text."""
DOCUMENTS_AT_ONCE = 4_096


def retrieved(
    embed: Embeddings, records: Sequence[Record], *, instructions: bool = False
) -> Retrieved | None:
    """What up to `QUERIES` queries of asymmetric records, spread evenly over all, find among the documents of
    HeldOutRetrieval; None without such records. Queries and documents are a function of the records alone.

    With `instructions` queries are read under their record's, as in the task, so that `embed` knows all
    vectors if it remembers those.
    """
    asymmetric = [record for record in records if record.task.kind == "asymmetric"]
    if not asymmetric:
        return None
    texts = [text for record in asymmetric for text in (record.positive, *(n.text for n in record.negatives))]
    documents = list(dict.fromkeys(texts))
    asked = list(dict.fromkeys(map(Question.of, asymmetric)))
    number = min(QUERIES, len(asked))
    asked = [asked[place * len(asked) // number] for place in range(number)]
    read = [Input(q.instruction or None if instructions else None, q.text) for q in asked]
    right, levels = answers(asymmetric), _levels(asymmetric)
    scores = _scores(embed, read, documents)
    return Retrieved(
        documents=len(documents),
        queries=[
            Query(
                query=_cut(question.text),
                instruction=item.instruction,
                found=_found(own, documents, right[question], levels.get(question, {})),
            )
            for question, item, own in zip(asked, read, scores, strict=True)
        ],
    )


def _scores(embed: Embeddings, queries: list[Input], documents: list[str]) -> NDArray[np.float32]:
    """Cosines, float32 [queries, documents]."""
    asked = embed(queries)
    blocks = [
        documents[start : start + DOCUMENTS_AT_ONCE] for start in range(0, len(documents), DOCUMENTS_AT_ONCE)
    ]
    return np.hstack([asked @ embed([Input(None, text) for text in block]).T for block in blocks])


def _found(
    scores: NDArray[np.float32], documents: list[str], right: set[str], levels: dict[str, int | None]
) -> list[Found]:
    """The documents of one query that are kept; of equals the one that stands first is found first."""
    order = np.argsort(-scores, kind="stable").tolist()
    ranked = [(rank, float(scores[place]), documents[place]) for rank, place in enumerate(order, start=1)]
    best = set(itertools.islice((text for _, _, text in ranked if text in right), POSITIVES))
    return [
        Found(
            rank=rank,
            cosine=round(cosine, 4),
            text=_cut(text),
            kind="positive" if text in right else "negative" if text in levels else "other",
            level=None if text in right else levels.get(text),
        )
        for rank, cosine, text in ranked
        if rank <= FOUND or text in best
    ]


def _levels(records: Sequence[Record]) -> dict[Question, dict[str, int | None]]:
    """Each question's negatives with their levels, the highest where records differ."""
    found: dict[Question, dict[str, int | None]] = {}
    for record in records:
        own = found.setdefault(Question.of(record), {})
        for negative in record.negatives:
            own[negative.text] = max(negative.level or 0, own.get(negative.text) or 0) or None
    return found


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else text[:LONGEST] + "…"
