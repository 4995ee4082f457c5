"""Tevatron's training JSONL: rows of `query`, `positive_passages` and `negative_passages`, and `query_id`.

A passage has a `text` and may have a `title`, which Tevatron joins by a space, and a `score`, a teacher's.
Each positive makes one record with all the negatives that are kept. A negative's `level`, and a row's
`instruction`, are keys that `mgh-ds data export` writes.
Described in README.md of the repository texttron/tevatron.
"""

from collections.abc import Iterable, Iterator
from typing import Annotated

from pydantic import Field

from mgh_ds.records.convert.settings import (
    ForeignRow,
    Settings,
    checked_text,
    first_negatives,
    make_record,
    parse_as,
)
from mgh_ds.records.convert.verdicts import parse_consistent_rows
from mgh_ds.records.rows import ErrorReport, Row
from mgh_ds.records.schema import Id, Level, Record, Score, Text


class Passage(ForeignRow):
    text: str
    title: str | None = None
    level: Level | None = None
    score: Score | None = None


class TevatronRow(ForeignRow):
    query: Text
    positive_passages: Annotated[list[Passage], Field(min_length=1)]
    negative_passages: Annotated[list[Passage], Field(default_factory=list)]
    query_id: Id | None = None
    instruction: Text | None = None


reads = TevatronRow.reads


def records(rows: Iterable[Row], settings: Settings, report: ErrorReport) -> Iterator[Record]:
    def parse(row: Row) -> list[Record]:
        given = parse_as(TevatronRow, row, report)
        positives = _texts(given.positive_passages, "positive_passages")
        passages = first_negatives(given.negative_passages, settings, report)
        negatives = _texts(passages, "negative_passages")
        levels = [passage.level for passage in passages]
        scores = [passage.score for passage in passages]
        return [
            make_record(
                row,
                settings,
                query=given.query,
                positive=positive,
                negatives=list(zip(negatives, levels, strict=True)),
                scores=[given.positive_passages[number].score, *scores],
                subtype="short-long",
                instruction=given.instruction,
                id=given.query_id
                if given.query_id is None or len(positives) == 1
                else f"{given.query_id}-{number}",
            )
            for number, positive in enumerate(positives)
        ]

    return parse_consistent_rows(rows, parse, report)


def _texts(passages: Iterable[Passage], field: str) -> list[str]:
    """Title and text of each. Raises RowRefused."""
    return [
        checked_text(f"{passage.title or ''} {passage.text}", f"{field}.{number}.text")
        for number, passage in enumerate(passages)
    ]
