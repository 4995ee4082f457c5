"""mteb tasks made from held-out graded records in memory: retrieval, reranking and similarity."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

from datasets import Dataset
from mteb import TaskMetadata
from mteb.abstasks import AbsTaskRetrieval
from mteb.abstasks.sts import AbsTaskSTS

from mgh_ds.evaluation.levels import document_instruction
from mgh_ds.evaluation.mteb_model import INSTRUCTION_COLUMN
from mgh_ds.evaluation.questions import Question
from mgh_ds.records.levels import LEVELS
from mgh_ds.records.schema import Record

GOLD_POSITIVE = 5.0
"""Similarity of a positive to its query, the highest on the scale of STS, which begins at 0."""
GOLD = {level: (level - 1) * GOLD_POSITIVE / (len(LEVELS) + 1) for level in LEVELS}
"""Similarity of a negative to its query by level: even steps from 0, the positive two above the hardest."""


def heldout_tasks(records: Sequence[Record]) -> list[Any]:
    """The held-out tasks that `records` can fill: without records of its kind a task is left out, and so is
    similarity where all pairs have the same gold."""
    asymmetric = [record for record in records if record.task.kind == "asymmetric"]
    symmetric = [record for record in records if record.task.kind == "symmetric"]
    if len(set(_graded(symmetric).values())) == 1:
        symmetric = []
    with_negatives = {Question.of(record) for record in records if record.negatives}
    return [
        kind(chosen)
        for kind, chosen in (
            (HeldOutRetrieval, asymmetric),
            (HeldOutReranking, [r for r in records if Question.of(r) in with_negatives]),
            (HeldOutSTS, symmetric),
        )
        if chosen
    ]


def _metadata(name: str, kind: str, main_score: str, description: str) -> TaskMetadata:
    return TaskMetadata(
        name=name,
        type=kind,
        category="t2t",
        description=description,
        main_score=main_score,
        eval_langs=["und-Zyyy"],  # undetermined: records of every language are scored together
        eval_splits=["test"],
        dataset={"path": "held-out records", "revision": "from memory"},
    )


class _FromRecords:
    """Loads a task's data from its records instead of the hub."""

    def __init__(self, records: Sequence[Record]) -> None:
        super().__init__()
        self.records = records

    def load_data(self, *_: Any, **__: Any) -> None:
        self.dataset = {"default": {"test": self.data()}}
        self.data_loaded = True

    @abstractmethod
    def data(self) -> Any:
        """The task's data in the shape that mteb's task class expects."""


class HeldOutRetrieval(_FromRecords, AbsTaskRetrieval):
    """Every query against the positives and negatives of all records; its own positives are to be found."""

    metadata = _metadata(
        "HeldOutRetrieval",
        "Retrieval",
        "ndcg_at_10",
        "Queries against all documents of held-out asymmetric records.",
    )

    def data(self) -> dict[str, Any]:
        return _retrieval_data(self.records, rerank=False)


class HeldOutReranking(_FromRecords, AbsTaskRetrieval):
    """Every query against the documents of its own records: the positives among the negatives."""

    metadata = _metadata(
        "HeldOutReranking",
        "Reranking",
        "map_at_1000",
        "A held-out query's positives against its own negatives.",
    )

    def data(self) -> dict[str, Any]:
        return _retrieval_data(self.records, rerank=True)


class HeldOutSTS(_FromRecords, AbsTaskSTS):
    """Pairs (query, document) of symmetric records with the gold similarity of the document's level."""

    metadata = _metadata(
        "HeldOutSTS", "STS", "cosine_spearman", "Held-out symmetric records, similarity graded by level."
    )
    column_names = (
        {"sentence1": "text", "instruction1": INSTRUCTION_COLUMN},
        {"sentence2": "text", "instruction2": INSTRUCTION_COLUMN},
    )

    def data(self) -> Dataset:
        return Dataset.from_list(
            [
                {
                    "sentence1": question.text,
                    "instruction1": question.instruction,
                    "sentence2": text,
                    "instruction2": question.instruction,  # symmetric: both sides are told
                    "score": score,
                }
                for (question, text), score in _graded(self.records).items()
            ]
        )


def _graded(records: Sequence[Record]) -> dict[tuple[Question, str], float]:
    """The gold similarity of each pair of query and document, the highest where records grade it differently.
    Negatives without a level have none and are left out."""
    gold: dict[tuple[Question, str], float] = {}
    for record in records:
        levels = [(negative.text, negative.level) for negative in record.negatives if negative.level]
        graded = [(record.positive, GOLD_POSITIVE), *((text, GOLD[level]) for text, level in levels)]
        for text, score in graded:
            pair = Question.of(record), text
            gold[pair] = max(score, gold.get(pair, score))
    return gold


def _retrieval_data(records: Sequence[Record], *, rerank: bool) -> dict[str, Any]:
    """mteb's retrieval data. A text that records share is one document, lest it compete with itself, and
    records of one query are one query with several positives, lest these compete with each other."""
    documents: dict[tuple[str, str], str] = {}  # (instruction, text) → document id
    queries: dict[Question, str] = {}  # → the id of its first record
    relevant: dict[str, dict[str, int]] = {}
    candidates: dict[str, dict[str, None]] = {}  # in the order of the records
    for record in records:
        instruction = document_instruction(record) or ""
        texts = [record.positive, *(negative.text for negative in record.negatives)]
        ids = [documents.setdefault((instruction, text), f"document {len(documents)}") for text in texts]
        query = queries.setdefault(Question.of(record), record.id)
        relevant.setdefault(query, {})[ids[0]] = 1
        candidates.setdefault(query, {}).update(dict.fromkeys(ids))
    asked = [
        {"id": name, "text": question.text, INSTRUCTION_COLUMN: question.instruction}
        for question, name in queries.items()
    ]
    corpus = [
        {"id": name, "title": "", "text": text, INSTRUCTION_COLUMN: instruction}
        for (instruction, text), name in documents.items()
    ]
    return {
        "corpus": Dataset.from_list(corpus),
        "queries": Dataset.from_list(asked),
        "relevant_docs": relevant,
        "top_ranked": {query: list(ids) for query, ids in candidates.items()} if rerank else None,
    }
