"""The columns of sentence-transformers: `anchor`, `positive`, and `negative` or `negative_1` … `negative_n`.

Negatives stay ungraded, in the order of their numbers. The names are those of the library's own data sets and
of its `mine_hard_negatives` (output formats triplet and n-tuple).
"""

import re
from collections.abc import Iterable, Iterator

from mgh_ds.records.convert.settings import ForeignRow, Settings, checked_text, make_record
from mgh_ds.records.convert.verdicts import parse_consistent_rows
from mgh_ds.records.rows import ErrorReport, Row
from mgh_ds.records.schema import Id, Record, Text

_NEGATIVE = re.compile(r"negative(?:_([1-9]\d{0,3}))?")


class SentenceTransformersRow(ForeignRow):
    anchor: Text
    positive: Text
    id: Id | None = None


def reads(column: str) -> bool:
    return SentenceTransformersRow.reads(column) or bool(_NEGATIVE.fullmatch(column))


def records(rows: Iterable[Row], settings: Settings, report: ErrorReport) -> Iterator[Record]:
    def parse(row: Row) -> list[Record]:
        given = SentenceTransformersRow.model_validate(row.values)
        others = row.values.keys() - SentenceTransformersRow.model_fields.keys()
        numbers = {key: int(match[1] or 0) for key in others if (match := _NEGATIVE.fullmatch(key))}
        report.ignore(others - numbers.keys())
        record = make_record(
            row,
            settings,
            query=given.anchor,
            positive=given.positive,
            negatives=[
                (checked_text(row.values[key], key), None) for key in sorted(numbers, key=numbers.__getitem__)
            ],
            subtype="short-long",
            id=given.id,
        )
        return [record]

    return parse_consistent_rows(rows, parse, report)
