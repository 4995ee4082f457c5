"""A subtype and a format are a row of their table: what reads them needs nothing else."""

import json
import sys
from pathlib import Path

import pytest

from mgh_ds.common.errors import MghError
from mgh_ds.records.convert import convert
from mgh_ds.records.convert.settings import Settings
from mgh_ds.records.formats import FORMATS
from mgh_ds.records.schema import Task
from mgh_ds.records.store import Store
from mgh_ds.records.subtypes import SUBTYPES, SubtypeTraits, default_probabilities
from tests.records.examples import write_jsonl

QUESTIONS_AND_ANSWERS = '''
"""Rows of `question` and `answer`."""

from collections.abc import Iterable, Iterator

from mgh_ds.records.convert.settings import ForeignRow, Settings, make_record, parse_as
from mgh_ds.records.reader import parse_rows
from mgh_ds.records.rows import ErrorReport, Row
from mgh_ds.records.schema import Record, Text


class AnswerRow(ForeignRow):
    question: Text
    answer: Text


def records(rows: Iterable[Row], settings: Settings, report: ErrorReport) -> Iterator[Record]:
    def parse(row: Row) -> list[Record]:
        given = parse_as(AnswerRow, row, report)
        return [
            make_record(
                row, settings, query=given.question, positive=given.answer, negatives=[], subtype="short-long"
            )
        ]

    return parse_rows(rows, parse, report)
'''


@pytest.fixture
def headline(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setitem(SUBTYPES, "headline", SubtypeTraits("asymmetric", "long", "short", 2))
    return "headline"


def test_default_probabilities_sum_to_one_and_leave_out_what_has_no_weight(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert default_probabilities() == {
        "long-long": 0.2,
        "long-short": 0.2,
        "short-long": 0.2,
        "short-short": 0.2,
        "paraphrase": 0.1,
        "sts": 0.1,
    }
    monkeypatch.setitem(SUBTYPES, "headline", SubtypeTraits("asymmetric", "long", "short", 0))
    assert sum(default_probabilities().values()) == pytest.approx(1)
    assert "headline" not in default_probabilities()


def test_a_new_subtype_is_taken_by_records_and_conversions(headline: str, tmp_path: Path) -> None:
    assert Task(kind="asymmetric", subtype=headline, instruction="Find it").subtype == headline
    rows = [{"query": "A report", "positive": "Its headline", "negative": "Another"}]
    path = write_jsonl(tmp_path / "rows.jsonl", rows)
    convert(path, tmp_path / "store", "llm2vec", Settings(instruction="Find it", subtype=headline))
    assert next(iter(Store.open(tmp_path / "store"))).task.subtype == headline


def test_an_unknown_subtype_is_refused_with_those_there_are() -> None:
    with pytest.raises(MghError, match="Subtype 'headlin' is unknown: there are long-long, long-short"):
        Settings(subtype="headlin")


def test_a_new_format_is_a_module_and_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "answers_format.py").write_text(QUESTIONS_AND_ANSWERS)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(FORMATS, "answers", "answers_format")
    (tmp_path / "rows.jsonl").write_text(json.dumps({"question": "Where?", "answer": "Here."}) + "\n")
    summary = convert(tmp_path / "rows.jsonl", tmp_path / "store", "answers", Settings(instruction="Answer"))
    sys.modules.pop("answers_format")
    assert summary.records == 1
    assert next(iter(Store.open(tmp_path / "store"))).positive == "Here."
