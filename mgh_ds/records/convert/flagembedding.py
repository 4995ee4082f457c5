"""FlagEmbedding's training JSONL: rows of `query`, `pos` [texts], `neg` [texts] and more that is optional.

Each positive makes one record with all the negatives that are kept, which stay ungraded. `prompt` is the
row's instruction, `pos_scores` and `neg_scores` are a teacher's, one a text. `type` serves in-context
examples: no use here.
Files of one data set by length, `msmarco_len-0-500.jsonl` and so on, have the name before `_len-`.
Described in examples/finetune/embedder/README.md of the repository FlagOpen/FlagEmbedding.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from mgh_ds.records.convert.settings import (
    ForeignRow,
    Settings,
    checked_scores,
    first_negatives,
    make_record,
    parse_as,
)
from mgh_ds.records.convert.verdicts import parse_consistent_rows
from mgh_ds.records.inputs import stem
from mgh_ds.records.rows import ErrorReport, Row
from mgh_ds.records.schema import Id, Record, Text


class FlagEmbeddingRow(ForeignRow):
    query: Text
    pos: Annotated[list[Text], Field(min_length=1)]
    neg: Annotated[list[Text], Field(default_factory=list)]
    prompt: Text | None = None
    id: Id | None = None
    pos_scores: Any = None
    neg_scores: Any = None
    type: Any = None


reads = FlagEmbeddingRow.reads


def records(rows: Iterable[Row], settings: Settings, report: ErrorReport) -> Iterator[Record]:
    def parse(row: Row) -> list[Record]:
        given = parse_as(FlagEmbeddingRow, row, report)
        dataset = settings.dataset or stem(Path(row.file)).partition("_len-")[0]
        positive_scores = _scores(given.pos_scores, "pos_scores", given.pos, "the texts of pos")
        negative_scores = _scores(given.neg_scores, "neg_scores", given.neg, "the texts of neg")
        negatives = first_negatives(given.neg, settings, report)
        return [
            make_record(
                row,
                replace(settings, dataset=dataset),
                query=given.query,
                positive=positive,
                negatives=[(text, None) for text in negatives],
                scores=[positive_scores[number], *negative_scores[: len(negatives)]],
                subtype="short-long",
                instruction=given.prompt,
                id=given.id if given.id is None or len(given.pos) == 1 else f"{given.id}-{number}",
            )
            for number, positive in enumerate(given.pos)
        ]

    return parse_consistent_rows(rows, parse, report)


def _scores(given: Any, field: str, texts: Sequence[str], what: str) -> Sequence[float | None]:
    return [None] * len(texts) if given is None else checked_scores(given, field, len(texts), what)
