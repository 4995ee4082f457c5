"""The columns of sentence-transformers: `anchor`, `positive`, and `negative` or `negative_1` … `negative_n`,
and one with scores.

Negatives stay ungraded, in the order of their numbers. The names are those of the library's own data sets and
of its `mine_hard_negatives` (output formats triplet and n-tuple).

Its loss is given the first of `label`, `labels`, `score` and `scores` that there is. Here it is scores: a number
for the positive of a row without negatives, else a list of one for the positive and one for each negative, as
DistillKLDivLoss, MarginMSELoss and `mine_hard_negatives` with its `output_scores` have it. Margins, which
MarginMSELoss takes as well, do not say what the scores are, and are refused.
"""

import re
from collections.abc import Iterable, Iterator, Sequence

from mgh_ds.records.convert.settings import (
    ForeignRow,
    Settings,
    checked_score,
    checked_scores,
    checked_text,
    make_record,
)
from mgh_ds.records.convert.verdicts import parse_consistent_rows
from mgh_ds.records.rows import ErrorReport, Row, RowRefused
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
        label = next((name for name in LABELS if row.values.get(name) is not None), None)
        report.ignore(others - numbers.keys() - {label})
        record = make_record(
            row,
            settings,
            query=given.anchor,
            positive=given.positive,
            negatives=[
                (checked_text(row.values[key], key), None) for key in sorted(numbers, key=numbers.__getitem__)
            ],
            scores=_scores(row, label, len(numbers)) if label else (),
            subtype="short-long",
            id=given.id,
        )
        return [record]

    return parse_consistent_rows(rows, parse, report)


def _scores(row: Row, label: str, negatives: int) -> Sequence[float]:
    """Of the positive and of each negative, from the column `label`. Raises RowRefused."""
    given = row.values[label]
    if isinstance(given, list):
        return checked_scores(given, label, 1 + negatives, "the positive and each negative")
    score = checked_score(given, label, typed=row.typed)
    if negatives:
        reason = "One number for a row with negatives is a margin: give a list, the positive's score first"
        raise RowRefused(label, "margin", reason)
    return [score]
