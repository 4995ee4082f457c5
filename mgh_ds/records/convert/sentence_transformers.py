"""The columns of sentence-transformers: `anchor`, `positive`, and `negative` or `negative_1` … `negative_n`,
and one with scores.

Negatives stay ungraded, in the order of their numbers. The names are those of the library's own data sets and
of its `mine_hard_negatives` (output formats triplet and n-tuple).

Scores stand in `label`, `labels`, `score` or `scores`, the columns that the library hands to a loss, and the
first that has any counts: a list of the positive's and each negative's, as DistillKLDivLoss, MarginMSELoss
and `mine_hard_negatives` with its `output_scores` have it, or, in a row without negatives, a number. Margins,
which MarginMSELoss takes too, do not say what the scores are: a list of them has the wrong length and is
refused, a number beside negatives is not read.
"""

import re
from collections.abc import Iterable, Iterator

from mgh_ds.records.convert.settings import (
    ForeignRow,
    Settings,
    checked_score,
    checked_scores,
    checked_text,
    first_negatives,
    make_record,
)
from mgh_ds.records.convert.verdicts import parse_consistent_rows
from mgh_ds.records.rows import ErrorReport, Row
from mgh_ds.records.schema import Id, Record, Text

LABELS = ("label", "labels", "score", "scores")
_NEGATIVE = re.compile(r"negative(?:_([1-9]\d{0,3}))?")


class SentenceTransformersRow(ForeignRow):
    anchor: Text
    positive: Text
    id: Id | None = None


def reads(column: str) -> bool:
    return SentenceTransformersRow.reads(column) or column in LABELS or bool(_NEGATIVE.fullmatch(column))


def records(rows: Iterable[Row], settings: Settings, report: ErrorReport) -> Iterator[Record]:
    def parse(row: Row) -> list[Record]:
        given = SentenceTransformersRow.model_validate(row.values)
        others = row.values.keys() - SentenceTransformersRow.model_fields.keys()
        numbers = {key: int(match[1] or 0) for key in others if (match := _NEGATIVE.fullmatch(key))}
        label = _label_of(row, has_negatives=bool(numbers))
        report.ignore(others - numbers.keys() - {label})
        scores = _scores(row, label, len(numbers)) if label else []
        columns = first_negatives(sorted(numbers, key=numbers.__getitem__), settings, report)
        record = make_record(
            row,
            settings,
            query=given.anchor,
            positive=given.positive,
            negatives=[(checked_text(row.values[key], key), None) for key in columns],
            scores=scores[: 1 + len(columns)],
            subtype="short-long",
            id=given.id,
        )
        return [record]

    return parse_consistent_rows(rows, parse, report)


def _label_of(row: Row, *, has_negatives: bool) -> str | None:
    """The column that scores are in."""
    for name in LABELS:
        value = row.values.get(name)
        if isinstance(value, list) or (value is not None and not has_negatives):
            return name
    return None


def _scores(row: Row, label: str, negatives: int) -> list[float]:
    """Of the positive and of each negative. Raises RowRefused."""
    given = row.values[label]
    if isinstance(given, list):
        return checked_scores(given, label, 1 + negatives, "the positive and each negative")
    return [checked_score(given, label, typed=row.typed)]
