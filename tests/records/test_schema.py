"""The schema accepts what a record is, refuses everything else, and says what was wrong."""

import copy
import json
from typing import Any

import pytest
from hypothesis import given
from pydantic import ValidationError

from mgh_ds.records.schema import MAX_ID_CHARS, MAX_NEGATIVES, MAX_TEXT_CHARS, Record
from tests.records.examples import record_values, records


@given(records())
def test_a_record_survives_json(record: Record):
    assert Record.model_validate(json.loads(record.model_dump_json())) == record


def test_limits_are_inclusive():
    values = record_values(
        id="i" * MAX_ID_CHARS,
        positive="p" * MAX_TEXT_CHARS,
        negatives=[{"text": f"n{number}", "level": None} for number in range(MAX_NEGATIVES)],
    )
    assert len(Record.model_validate(values).negatives) == MAX_NEGATIVES
    assert Record.model_validate(record_values(negatives=[])).negatives == []


def test_white_space_around_a_text_goes_and_nothing_else_changes():
    record = Record.model_validate(record_values(query="\n  two  words\t\n"))
    assert record.query == "two  words"


def test_a_score_is_written_only_where_there_is_one():
    values = record_values(negatives=[{"text": "n", "level": 4}, {"text": "m", "level": None}])
    without = Record.model_validate(values)
    assert without.model_dump_json() == json.dumps(values, separators=(",", ":"))
    assert without.scores == [None, None, None]
    values["score"], values["negatives"][1]["score"] = 3, -0.25
    record = Record.model_validate(values)
    assert [type(score) for score in record.scores] == [float, type(None), float]
    assert record.scores == [3.0, None, -0.25]
    written = json.loads(record.model_dump_json())
    assert written == values
    assert list(written)[4:7] == ["positive", "score", "negatives"]


NEGATIVE = {"text": "a text", "level": 1}
BAD = [
    ("id", None, "string_type"),
    ("id", 7, "string_type"),
    ("id", " ", "string_too_short"),
    ("id", "i" * (MAX_ID_CHARS + 1), "string_too_long"),
    ("task.kind", "symmetric", "kind_mismatch"),
    ("task.subtype", "sts", "kind_mismatch"),
    ("task.subtype", "medium-long", "literal_error"),
    ("task.instruction", "", "string_too_short"),
    ("task.extra", 1, "extra_forbidden"),
    ("task", "asymmetric", "model_type"),
    ("language", "English, please", "string_pattern_mismatch"),
    ("query", None, "string_type"),
    ("query", ["text"], "string_type"),
    ("query", b"text", "string_type"),
    ("query", "a\0b", "nul_character"),
    ("query", "a\ud800b", "string_unicode"),
    ("positive", "p" * (MAX_TEXT_CHARS + 1), "string_too_long"),
    ("negatives", None, "list_type"),
    ("negatives", {"text": "a", "level": 1}, "list_type"),
    ("negatives", [NEGATIVE] * (MAX_NEGATIVES + 1), "too_long"),
    ("negatives", [{"text": "a"}], "missing"),
    ("negatives", [{**NEGATIVE, "level": 0}], "greater_than_equal"),
    ("negatives", [{**NEGATIVE, "level": 5}], "less_than_equal"),
    ("negatives", [{**NEGATIVE, "level": True}], "int_type"),
    ("negatives", [{**NEGATIVE, "level": 2.0}], "int_type"),
    ("negatives", [{**NEGATIVE, "level": "2"}], "int_type"),
    ("negatives", [{**NEGATIVE, "grade": 2}], "extra_forbidden"),
    ("negatives", [{**NEGATIVE, "text": "Fact 0 is this one, told at some length."}], "negative_is_positive"),
    ("score", True, "float_type"),
    ("score", "0.5", "float_type"),
    ("score", [0.5], "float_type"),
    ("score", float("nan"), "finite_number"),
    ("score", float("inf"), "finite_number"),
    ("score", 1.1e9, "less_than_equal"),
    ("score", 10**400, "float_type"),
    ("negatives", [{**NEGATIVE, "score": "0.5"}], "float_type"),
    ("negatives", [{**NEGATIVE, "score": float("nan")}], "finite_number"),
    ("negatives", [{**NEGATIVE, "score": -1.1e9}], "greater_than_equal"),
    ("source", {}, "missing_dataset"),
    ("source", {"dataset": None}, "string_type"),
    ("source", {"dataset": "d", "line": 3}, "string_type"),
    ("source", {"dataset": "d", "": "empty key"}, "string_too_short"),
    ("colour", "red", "extra_forbidden"),
]


@pytest.mark.parametrize(("path", "value", "kind"), BAD)
def test_what_is_refused(path: str, value: Any, kind: str):
    values = copy.deepcopy(record_values())
    *parents, last = path.split(".")
    place = values
    for parent in parents:
        place = place[parent]
    place[last] = value
    with pytest.raises(ValidationError) as caught:
        Record.model_validate(values)
    assert kind in {problem["type"] for problem in caught.value.errors()}


@pytest.mark.parametrize("key", list(record_values()))
def test_no_key_may_be_missing(key: str):
    values = record_values()
    del values[key]
    with pytest.raises(ValidationError, match="Field required"):
        Record.model_validate(values)
