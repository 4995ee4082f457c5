"""The columns of sentence-transformers: `anchor`, `positive`, then `negative`, or `negative_1` …
`negative_n`.

Its collator (sentence_transformers/base/data_collator.py) takes every column for texts, in their order, but
the first of `label`, `labels`, `score` and `scores`, which goes to the loss: so there is no place for an id,
a level or an instruction. No cell may be empty, so every row has as many negatives: as many as the records,
or as `Options.negatives` says; then the hardest stay, ungraded ones last, in the record's order, and records
with fewer are left out.

`scores` is a list, the positive's first, as MarginMSELoss and DistillKLDivLoss take it; without negatives
`score` is a number, as CoSENTLoss does. It is there if all texts of all rows have a score.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import pyarrow as pa

from mgh_ds.common.errors import MghError
from mgh_ds.records.export.ledger import Ledger
from mgh_ds.records.export.rows import JSONL, PARQUET, Options, Rows
from mgh_ds.records.export.survey import Survey
from mgh_ds.records.schema import Negative, Record
from mgh_ds.records.store import Store

ENDINGS = (JSONL, PARQUET)
TAKES_NEGATIVES = True


def rows(records: Iterable[Record], store: Store, ledger: Ledger, options: Options) -> Rows:
    """A row a record. Raises MghError if the records do not have one number of negatives and none is given,
    and if none has as many."""
    survey = Survey.of(store)
    width = _the_width(survey) if options.negatives is None else options.negatives
    if not survey.records(width):
        most = max(negatives for negatives, _ in survey.shapes)
        raise MghError(f"No record has {width} negatives: give --negatives {most} or fewer")
    scored = survey.scored(width, at_least=2 if width else 1)
    return Rows(_rows(records, width, scored, ledger), columns(width, scored))


def columns(width: int, scored: bool) -> pa.Schema:
    """The columns of rows with so many negatives."""
    names = ["anchor", "positive", *negative_names(width)]
    label = ("scores", pa.list_(pa.float64())) if width else ("score", pa.float64())
    return pa.schema([*((name, pa.string()) for name in names), *([label] if scored else [])])


def row(record: Record, negatives: Sequence[Negative], scored: bool) -> dict[str, Any]:
    """The record with these of its negatives."""
    texts = zip(negative_names(len(negatives)), (negative.text for negative in negatives), strict=True)
    scores = [record.score, *(negative.score for negative in negatives)]
    label = {"scores": scores} if negatives else {"score": record.score}
    return {"anchor": record.query, "positive": record.positive, **dict(texts), **(label if scored else {})}


def negative_names(width: int) -> list[str]:
    """`negative` if there is one, else numbered from 1, as `mine_hard_negatives` names them."""
    return ["negative"] if width == 1 else [f"negative_{number + 1}" for number in range(width)]


def _the_width(survey: Survey) -> int:
    widths = sorted({negatives for negatives, _ in survey.shapes})
    if len(widths) > 1:
        fewest, most, kept = widths[0], widths[-1], survey.records(widths[-1])
        raise MghError(
            f"Records have {fewest} to {most} negatives, and every row must have as many: give --negatives N "
            f"({fewest} keeps all records, {most} keeps {kept:,} of {survey.records():,}), or take the "
            "format sentence-transformers-triplets"
        )
    return widths[0]


def _rows(records: Iterable[Record], width: int, scored: bool, ledger: Ledger) -> Iterator[dict[str, Any]]:
    keeps = {"negatives", "scores"} if scored else {"negatives"}
    for record in records:
        if len(record.negatives) < width:
            ledger.left_out[f"with fewer than {width} negatives"] += 1
            continue
        hardest = _hardest(record.negatives, width)
        gone = len(record.negatives) - width
        scores = sum(score is not None for score in record.scores) - (1 + width) if scored else 0
        ledger.add(record, keeps, negatives=gone, scores=scores)
        yield row(record, hardest, scored)


def _hardest(negatives: Sequence[Negative], width: int) -> list[Negative]:
    """So many of the highest levels, the earlier of equal ones first chosen, in their order."""
    ranked = sorted(range(len(negatives)), key=lambda index: -(negatives[index].level or 0))
    return [negatives[index] for index in sorted(ranked[:width])]
