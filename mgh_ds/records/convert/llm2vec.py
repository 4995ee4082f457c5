"""The public retrieval triples that LLM2Vec and echo-embeddings train on.

One JSONL file a data set (`msmarco_passage.jsonl`, `nq.jsonl`, …), rows of `query`, `positive`, `negative`.
The rows hold no instruction: LLM2Vec's loader puts `<instruction>; <separator>` before the query, and the
separator before the documents (llm2vec/dataset/E5Data.py). Rows saved after that step are taken apart again;
the others get the instruction of the settings, or of the registry for their data set: the file's name.
"""

from collections.abc import Iterable, Iterator

from mgh_ds.records.convert.settings import ForeignRow, Settings, make_record, parse_as
from mgh_ds.records.convert.verdicts import parse_consistent_rows
from mgh_ds.records.rows import ErrorReport, Row
from mgh_ds.records.schema import Id, Record, Text

SEPARATOR = "!@#$%^&*()"


class TripleRow(ForeignRow):
    query: Text
    positive: Text
    negative: Text
    id: Id | None = None


reads = TripleRow.reads


def records(rows: Iterable[Row], settings: Settings, report: ErrorReport) -> Iterator[Record]:
    def parse(row: Row) -> list[Record]:
        given = parse_as(TripleRow, row, report)
        instruction, query = _take_apart(given.query)
        record = make_record(
            row,
            settings,
            query=query,
            positive=_take_apart(given.positive)[1],
            negatives=[(_take_apart(given.negative)[1], None)],
            subtype="short-long",
            instruction=instruction,
            id=given.id,
        )
        return [record]

    return parse_consistent_rows(rows, parse, report)


def _take_apart(text: str) -> tuple[str | None, str]:
    """(instruction or None, text) of a text that may have LLM2Vec's separator in it."""
    before, separator, after = text.partition(SEPARATOR)
    if not separator:
        return None, text
    return before.strip().removesuffix(";").strip() or None, after
