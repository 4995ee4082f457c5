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
from mgh_ds.records.levels import LEVELS
from mgh_ds.records.schema import Record

GOLD_POSITIVE = 5.0
"""Similarity of a positive to its query, the highest on the scale of STS, which begins at 0."""
GOLD = {level: (level - 1) * GOLD_POSITIVE / (len(LEVELS) + 1) for level in LEVELS}
"""Similarity of a negative to its query by level: even steps from 0, the positive two above the hardest."""


def heldout_tasks(records: Sequence[Record]) -> list[Any]:
    """The held-out tasks that `records` can fill: without records of its kind a task is left out."""
    asymmetric = [record for record in records if record.task.kind == "asymmetric"]
    symmetric = [record for record in records if record.task.kind == "symmetric"]
    with_negatives = [record for record in records if record.negatives]
    return [
        kind(chosen)
        for kind, chosen in (
            (HeldOutRetrieval, asymmetric),
            (HeldOutReranking, with_negatives),
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
    """Every query against the positives and negatives of all records; its own positive is the one to find."""

    metadata = _metadata(
        "HeldOutRetrieval",
        "Retrieval",
        "ndcg_at_10",
        "Queries against all documents of held-out asymmetric records.",
    )

    def data(self) -> dict[str, Any]:
        return _retrieval_data(self.records, rerank=False)


class HeldOutReranking(_FromRecords, AbsTaskRetrieval):
    """Every query against its own record's documents: the positive among its negatives."""

    metadata = _metadata(
        "HeldOutReranking",
        "Reranking",
        "map_at_1000",
        "A held-out record's positive against its own negatives.",
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
                    "sentence1": record.query,
                    "instruction1": record.task.instruction,
                    "sentence2": text,
                    "instruction2": document_instruction(record) or "",
                    "score": score,
                }
                for record in self.records
                for text, score in _graded(record)
            ]
        )


def _graded(record: Record) -> list[tuple[str, float]]:
    """Documents with gold similarity; negatives without a level have none and are left out."""
    graded = [
        (negative.text, GOLD[negative.level]) for negative in record.negatives if negative.level is not None
    ]
    return [(record.positive, GOLD_POSITIVE), *graded]


def _retrieval_data(records: Sequence[Record], *, rerank: bool) -> dict[str, Any]:
    """mteb's retrieval data. A text that records share is one document, lest it compete with itself."""
    documents: dict[tuple[str, str], str] = {}  # (instruction, text) → document id
    relevant, candidates = {}, {}
    for record in records:
        instruction = document_instruction(record) or ""
        texts = [record.positive, *(negative.text for negative in record.negatives)]
        ids = [documents.setdefault((instruction, text), f"document {len(documents)}") for text in texts]
        relevant[record.id] = {ids[0]: 1}
        candidates[record.id] = list(dict.fromkeys(ids))
    queries = [
        {"id": record.id, "text": record.query, INSTRUCTION_COLUMN: record.task.instruction}
        for record in records
    ]
    corpus = [
        {"id": name, "title": "", "text": text, INSTRUCTION_COLUMN: instruction}
        for (instruction, text), name in documents.items()
    ]
    return {
        "corpus": Dataset.from_list(corpus),
        "queries": Dataset.from_list(queries),
        "relevant_docs": relevant,
        "top_ranked": candidates if rerank else None,
    }
