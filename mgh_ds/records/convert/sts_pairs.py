"""Graded semantic textual similarity as what it is: every pair a record without negatives, whose `score` is
the gold similarity on the scale 0 to 1.

The rows and their scale are those of `sts`, and so is what is refused among them, but that no sentence needs
a pair of a high score. For losses that order pairs by their scores: of an unlike pair the second sentence
stands where others have a positive, and is none.
"""

from collections.abc import Iterable, Iterator
from functools import partial

from mgh_ds.records.convert.groups import Pair, settle
from mgh_ds.records.convert.settings import Settings, make_record
from mgh_ds.records.convert.sts import HIGHEST, StsRow, scored_pairs
from mgh_ds.records.instructions import INSTRUCTIONS
from mgh_ds.records.rows import ErrorReport, Row
from mgh_ds.records.schema import Record

reads = StsRow.reads


def records(rows: Iterable[Row], settings: Settings, report: ErrorReport) -> Iterator[Record]:
    with scored_pairs(rows, report) as (groups, scale):
        for group in groups:
            for pair in group:
                yield from settle([pair], partial(_make_records, pair, scale, settings), report)


def _make_records(pair: Pair, scale: float, settings: Settings) -> list[Record]:
    record = make_record(
        pair.row,
        settings,
        query=pair.first,
        positive=pair.second,
        negatives=[],
        scores=[float(pair.verdict) * scale / HIGHEST],
        subtype="sts",
        fallback_instruction=INSTRUCTIONS["STSBenchmark"].text,
    )
    return [record]
