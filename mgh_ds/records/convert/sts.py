"""Graded semantic textual similarity: rows of `sentence1`, `sentence2`, `score`, grouped by sentence1.

Scores are read on the scale 0 to 5; if none in the data exceeds 1, on the scale 0 to 1, multiplied by 5. A
pair of score 4 or more (the STS guidelines call 4 "mostly equivalent") makes a record with sentence2 as the
positive; the sentences with lower scores are its negatives. [0, 4) is cut into as many bands of one width as
there are levels: with four, [3, 4) is level 4 and [0, 1) level 1.

A sentence1 whose best pair stays below 4 has no positive: its rows are refused. So are rows that give the
same two sentences different scores, in whichever order they name them.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Annotated

from pydantic import Field

from mgh_ds.records.convert.groups import Pair, PairGroups, settle
from mgh_ds.records.convert.settings import ForeignRow, Settings, make_record, parse_as
from mgh_ds.records.instructions import INSTRUCTIONS
from mgh_ds.records.levels import LEVELS
from mgh_ds.records.rows import ErrorReport, Row, RowRefused
from mgh_ds.records.schema import Record, Text

HIGHEST = 5.0
POSITIVE_FROM = 4.0


class StsRow(ForeignRow):
    sentence1: Text
    sentence2: Text
    score: Annotated[float, Field(ge=0, le=HIGHEST, allow_inf_nan=False)]


reads = StsRow.reads


def records(rows: Iterable[Row], settings: Settings, report: ErrorReport) -> Iterator[Record]:
    with scored_pairs(rows, report) as (groups, scale):
        for group in groups:
            yield from settle(group, partial(_make_records, group, scale, settings), report)


@contextmanager
def scored_pairs(rows: Iterable[Row], report: ErrorReport) -> Iterator[tuple[PairGroups, float]]:
    """All pairs, and by what their scores are to be multiplied so that they run from 0 to 5."""

    def parse(row: Row) -> Pair:
        given = parse_as(StsRow, row, report)
        return Pair(row, given.sentence1, given.sentence2, given.score)

    with PairGroups(symmetric=True) as groups:
        groups.read(rows, parse, report)
        yield groups, HIGHEST if groups.highest_verdict() <= 1 else 1.0


def _make_records(group: list[Pair], scale: float, settings: Settings) -> list[Record]:
    scored = [(pair, float(pair.verdict) * scale) for pair in group]
    positives = [pair for pair, score in scored if score >= POSITIVE_FROM]
    if not positives:
        raise RowRefused(
            "score", "no_positive", "No pair of this sentence1 scores 4 of 5 or more, so it has no positive"
        )
    negatives = [
        (pair.second, LEVELS[int(score / POSITIVE_FROM * len(LEVELS))])
        for pair, score in scored
        if score < POSITIVE_FROM
    ]
    return [
        make_record(
            pair.row,
            settings,
            query=pair.first,
            positive=pair.second,
            negatives=negatives,
            subtype="sts",
            fallback_instruction=INSTRUCTIONS["STSBenchmark"].text,
        )
        for pair in positives
    ]
